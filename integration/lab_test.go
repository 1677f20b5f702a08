package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// weft is the binary under test.
var weft string

func TestMain(m *testing.M) {
	if what := os.Getenv(probeVar); what != "" {
		fmt.Fprintln(os.Stderr, probe(what))
		os.Exit(1)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if os.Geteuid() == 0 {
		if err := netlab.Sweep(); err != nil {
			return 0, err
		}
	}
	if weft = os.Getenv("WEFT_BINARY"); weft == "" {
		dir, err := os.MkdirTemp("", "weft-integration-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		weft = filepath.Join(dir, "weft")
		build := exec.Command("go", "build", "-o", weft, "weft/cmd/weft")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build weft: %w\n%s", err, out)
		}
	}
	return m.Run(), nil
}

// newLab makes a lab that is closed, with all logs printed if the test failed.
func newLab(t *testing.T) *netlab.Lab {
	t.Helper()
	netlab.Require(t, "root")
	t.Parallel() // labs know nothing of each other
	lab, err := netlab.New(netlab.Options{Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			printLogs(t, lab)
		}
		if err := lab.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return lab
}

func printLogs(t *testing.T, lab *netlab.Lab) {
	logs := lab.Logs()
	for name := range logs {
		if strings.HasSuffix(name, ".commands") {
			continue
		}
		t.Logf("---- %s\n%s", name, tail(logs[name], 8000))
	}
	for _, h := range lab.Hosts() {
		for _, f := range []string{"/run/weft/router.log", "/run/weft/device.log"} {
			if b, err := h.ReadFile(f); err == nil {
				t.Logf("---- %s %s\n%s", h.Name(), f, tail(string(b), 8000))
			}
		}
		for _, c := range [][]string{{weft, "status"}, {weft, "status", "connections"}, {weft, "status", "dns"}, {weft, "ps"}, {"ip", "-d", "addr"}, {"ip", "route"}} {
			out, errs, _ := h.Run(c...)
			t.Logf("---- %s: %s\n%s%s", h.Name(), strings.Join(c[1:], " "), out, errs)
		}
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// lastLine is what a verb that may have had to wait says in the end.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndex(s, "\n")+1:]
}

func newHosts(t *testing.T, lab *netlab.Lab, o netlab.HostOptions, names ...string) []*netlab.Host {
	t.Helper()
	var hs []*netlab.Host
	for _, n := range names {
		h, err := lab.Host(n, o)
		if err != nil {
			t.Fatal(err)
		}
		hs = append(hs, h)
	}
	return hs
}

// do runs weft on a host and returns its standard output, trimmed.
func do(t *testing.T, h *netlab.Host, args ...string) string {
	t.Helper()
	out, stderr, err := h.Run(append([]string{weft}, args...)...)
	if err != nil {
		t.Fatalf("%s: weft %s: %v\n%s", h.Name(), strings.Join(args, " "), err, stderr)
	}
	return strings.TrimSpace(out)
}

// apiOf calls the router of a host through its socket, over one connection.
func apiOf(h *netlab.Host) (call func(method, path string, in any) error) {
	dial := func(context.Context, string, string) (c net.Conn, err error) {
		err = h.Do(func() (err error) { c, err = net.Dial("unix", "/run/weft/weft.sock"); return err })
		return c, err
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, IdleConnTimeout: time.Minute}}
	return func(method, path string, in any) error {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		req, err := http.NewRequest(method, "http://weft"+path, bytes.NewReader(b))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode/100 != 2 {
			err = fmt.Errorf("%s: %s", resp.Status, text)
		}
		return err
	}
}

// refused runs weft on a host, which must fail with the exit code 1, an error
// that contains each of the texts, and a hint.
func refused(t *testing.T, h *netlab.Host, args []string, texts ...string) string {
	t.Helper()
	return refusedCommand(t, h, append([]string{weft}, args...), texts...)
}

// refusedCommand is refused for a whole command line.
func refusedCommand(t *testing.T, h *netlab.Host, args []string, texts ...string) string {
	t.Helper()
	_, stderr, err := h.Run(args...)
	if exitCode(err) != 1 {
		t.Fatalf("%s: %s: %v, want exit code 1\n%s", h.Name(), strings.Join(args, " "), err, stderr)
	}
	for _, text := range texts {
		if !strings.Contains(stderr, text) {
			t.Errorf("%s: %s: %q is missing in:\n%s", h.Name(), strings.Join(args, " "), text, stderr)
		}
	}
	if !strings.Contains(stderr, "weft: error: ") || !strings.Contains(stderr, "weft: hint: ") {
		t.Errorf("%s: %s: no error line or no hint line in:\n%s", h.Name(), strings.Join(args, " "), stderr)
	}
	return stderr
}

// exitCode is that of a command that ran and failed; -1 for anything else.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return -1
}

// launchMesh founds a mesh on the first host and joins the others by token.
func launchMesh(t *testing.T, hs []*netlab.Host, flags ...string) {
	t.Helper()
	do(t, hs[0], append([]string{"launch"}, flags...)...)
	token := do(t, hs[0], "token")
	for _, h := range hs[1:] {
		join(t, h, token, hs[0].Addr().String())
	}
}

func join(t *testing.T, h *netlab.Host, token string, peers ...string) {
	t.Helper()
	if err := h.WriteFile("/run/token", []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, h, append([]string{"launch", "--token-file", "/run/token"}, peers...)...)
	do(t, h, "prime")
}

// eventually waits for a condition, and fails with its last error.
func eventually(t *testing.T, within time.Duration, what string, f func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return time.Since(begin)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
	}
}

// report is the part of `weft report` that the tests look at.
type report struct {
	Router struct {
		ID, Mesh, Datapath string
		Peers              []struct {
			ID, Nickname, State string
			Self, Established   bool
		}
		Targets []struct{ Address, State, Error string }
		Notices []string
		Waiting []string

		Counters []struct {
			Event string
			Count uint64
		}
	}
	IPAM struct {
		Status string
		Owners []struct {
			Nickname string
			Percent  float64
		}
	}
	DNS struct {
		Entries []struct {
			Name, Address string
			Hidden        bool
		}
	}
	Attachments []struct {
		Container, Name string
		Addresses       []string
		Running         bool
	}
}

// count is how often something has happened since the router's start.
func (r report) count(event string) uint64 {
	for _, c := range r.Router.Counters {
		if c.Event == event {
			return c.Count
		}
	}
	return 0
}

func reportOf(h *netlab.Host) (report, error) {
	var r report
	out, stderr, err := h.Run(weft, "report")
	if err != nil {
		return r, fmt.Errorf("%w: %s", err, stderr)
	}
	return r, json.Unmarshal([]byte(out), &r)
}

// waitPeers waits until every host sees all the others alive, with tunnels: what
// is sent while two hosts first shake hands may be lost (router/meeting.go).
func waitPeers(t *testing.T, hs ...*netlab.Host) {
	t.Helper()
	for _, h := range hs {
		eventually(t, 30*time.Second, h.Name()+" sees all hosts", func() error {
			r, err := reportOf(h)
			if err != nil {
				return err
			}
			alive := 0
			for _, p := range r.Router.Peers {
				if p.Self || p.State == "alive" && p.Established {
					alive++
				}
			}
			if alive < len(hs) {
				return fmt.Errorf("%+v", r.Router.Peers)
			}
			return nil
		})
	}
}

// resolves waits until a host's server answers a name with these addresses.
func resolves(t *testing.T, h *netlab.Host, within time.Duration, name string, want ...string) time.Duration {
	t.Helper()
	slices.Sort(want)
	return eventually(t, within, fmt.Sprintf("%s resolves %s to %v", h.Name(), name, want), func() error {
		got, err := dig(h, name)
		if err != nil {
			return err
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("got %v", got)
		}
		return nil
	})
}

// dig asks a host's name server over the wire.
func dig(h *netlab.Host, name string, args ...string) ([]string, error) {
	out, stderr, err := h.Run(append([]string{"dig", "+short", "+time=1", "+tries=1", "@169.254.53.1", name}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("dig %s: %w: %s%s", name, err, out, stderr)
	}
	got := strings.Fields(out)
	slices.Sort(got)
	return got, nil
}

// workload is a bare namespace on the mesh.
type workload struct {
	*netlab.Workload
	host      *netlab.Host
	container string // for weft
	addr      string
}

// attachWorkload makes a namespace on a host and puts it on the mesh.
func attachWorkload(t *testing.T, h *netlab.Host, name string) *workload {
	t.Helper()
	w, err := h.Workload(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SetResolvConf("nameserver 169.254.53.1\nsearch weft.local\n"); err != nil {
		t.Fatal(err)
	}
	x := &workload{Workload: w, host: h, container: "netns:" + w.NetNSPath()}
	x.addr = do(t, h, "attach", x.container)
	do(t, h, "dns-add", x.addr, x.container, "-h", name+".weft.local")
	return x
}

// pings sends n pings and fails unless all are answered.
func (w *workload) pings(t *testing.T, to string, n int) {
	t.Helper()
	out, stderr, err := w.Run("busybox", "ping", "-c", fmt.Sprint(n), "-W", "2", to)
	if err != nil || lossOf(out) != "0" {
		t.Fatalf("%s pings %s: %v\n%s%s", w.Name(), to, err, out, stderr)
	}
}

var lossLine = regexp.MustCompile(`(\d+)% packet loss`)

func lossOf(pingOutput string) string {
	m := lossLine.FindStringSubmatch(pingOutput)
	if m == nil {
		return "unknown"
	}
	return m[1]
}

// routerPID is the process ID of a host's router.
func routerPID(t *testing.T, h *netlab.Host) int {
	t.Helper()
	b, err := h.ReadFile("/run/weft/weft.lock")
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}
