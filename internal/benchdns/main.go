// Command benchdns compares name servers on one machine: weft's, CoreDNS with its hosts
// plugin, dnsmasq, unbound, and a bare UDP echo, which is as fast as any server
// here can be. dnsperf asks; see `make bench-dns`.
//
// It starts one server at a time on a loopback port, in a process of its own, with 10, 10,000 and 100,000
// names, round after round, so that what else the machine does meets all of them, and all sizes, alike. The first run of each asks as fast as
// it can, which gives queries per second; the second asks at a fixed rate, which gives latencies that do not measure dnsperf's
// own queue. Memory is the server's resident set after both; CPU is the server's time, in user and system mode, for one question
// of the first run: it says most where dnsperf and the server share few processors. Each figure is the median of
// the rounds, with the least and the greatest.
//
// It fails where weft misses what it is to reach (see [comparison.missed]), and if a server answers with anything but addresses.
//
// All servers' sockets are given the same buffers, which hold more questions than dnsperf has out: it waits two seconds for
// one that is lost, in which it would ask a server with small buffers less. That needs root.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const port = "5399"

func main() {
	if len(os.Args) > 2 && (os.Args[1] == "serve" || os.Args[1] == "echo") {
		if err := serve(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "benchdns:", err)
			os.Exit(1)
		}
		return
	}
	sizes := flag.String("sizes", "10,10000,100000", "how many names")
	only := flag.String("only", "echo,weft,unbound,dnsmasq,coredns", "which servers")
	seconds := flag.Int("seconds", 5, "of each run")
	rounds := flag.Int("rounds", 5, "of which the median counts")
	rate := flag.Int("rate", 20000, "queries per second of the run for latencies")
	coredns := flag.String("coredns", "", "path of the CoreDNS binary; empty: without it")
	flooded := flag.Bool("flood", false, "instead: how a client fares beside one that asks for all that the server can do")
	flag.Parse()
	if *flooded {
		if err := flood(*only, *seconds, *coredns); err != nil {
			fmt.Fprintln(os.Stderr, "benchdns:", err)
			os.Exit(1)
		}
		return
	}
	if err := compare(*sizes, *only, *seconds, *rounds, *rate, *coredns); err != nil {
		fmt.Fprintln(os.Stderr, "benchdns:", err)
		os.Exit(1)
	}
}

func compare(sizes, only string, seconds, rounds, rate int, coredns string) error {
	dir, err := os.MkdirTemp("", "benchdns")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var c comparison
	var works []work // of each row
	for s := range strings.SplitSeq(sizes, ",") {
		names, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		w := work{dir: filepath.Join(dir, s), names: names}
		if err := w.prepare(); err != nil {
			return err
		}
		for _, server := range chosen(only, coredns) {
			c, works = append(c, row{server: server, names: names}), append(works, w)
		}
	}
	for range rounds {
		for i := range c {
			r, err := works[i].measure(c[i].server, coredns, seconds, rate)
			if err != nil {
				return fmt.Errorf("%s with %d names: %w", c[i].server, c[i].names, err)
			}
			c[i].rounds = append(c[i].rounds, r)
		}
	}
	if err := c.print(os.Stdout); err != nil {
		return err
	}
	return c.missed()
}

// chosen are the servers to measure; CoreDNS only if it is there.
func chosen(only, coredns string) []string {
	return slices.DeleteFunc(strings.Split(only, ","), func(name string) bool { return name == "coredns" && coredns == "" })
}

// work is what all servers of one size are given.
type work struct {
	dir   string
	names int
}

func (w work) path(name string) string { return filepath.Join(w.dir, name) }

func (w work) prepare() error {
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return err
	}
	var hosts, queries, local strings.Builder
	for i := range w.names {
		a := address(i)
		fmt.Fprintf(&hosts, "%s n%d.weft.local\n", a, i)
		fmt.Fprintf(&local, "local-data: \"n%d.weft.local. 1 IN A %s\"\nlocal-data-ptr: \"%s 1 n%d.weft.local\"\n", i, a, a, i)
	}
	for i := range max(w.names, 10000) {
		// A stride that shares no factor with the sizes visits all names in a scattered order.
		fmt.Fprintf(&queries, "n%d.weft.local A\n", i*7919%w.names)
	}
	unbound := fmt.Sprintf(`server:
 directory: "%s"
 chroot: ""
 username: ""
 pidfile: ""
 use-syslog: no
 verbosity: 0
 interface: 127.0.0.1
 port: %s
 num-threads: 2
 so-reuseport: yes
 do-ip6: no
 minimal-responses: yes
 local-zone: "weft.local." static
%s
remote-control:
 control-enable: no
`, w.dir, port, local.String())
	corefile := fmt.Sprintf(".:%s {\n hosts %s {\n  ttl 1\n  no_reverse\n }\n}\n", port, w.path("hosts"))
	for name, text := range map[string]string{"hosts": hosts.String(), "queries": queries.String(), "unbound.conf": unbound, "Corefile": corefile} {
		if err := os.WriteFile(w.path(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func address(i int) string { return fmt.Sprintf("10.%d.%d.%d", 32+i>>16, i>>8&255, i&255) }

func (w work) server(name, coredns string) *exec.Cmd {
	self, _ := os.Executable()
	switch name {
	case "weft":
		return exec.Command(self, "serve", w.path("hosts"))
	case "echo":
		return exec.Command(self, "echo", "-")
	case "unbound":
		return exec.Command("unbound", "-d", "-c", w.path("unbound.conf"))
	case "dnsmasq":
		return exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port="+port, "--listen-address=127.0.0.1", "--bind-interfaces",
			"--no-resolv", "--no-hosts", "--addn-hosts="+w.path("hosts"), "--local-ttl=1", "--pid-file=", "--cache-size=0")
	default:
		return exec.Command(coredns, "-conf", w.path("Corefile"), "-quiet")
	}
}

type result struct {
	qps, cpu, p50, p99, mib float64
	lost                    float64
}

// start has a server run until stop is called; it answers, and its sockets have the buffers of all.
func (w work) start(name, coredns string) (pid int, stop func(), err error) {
	server := w.server(name, coredns)
	var log strings.Builder // read when the process has ended
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() {
		server.Process.Kill()
		server.Wait()
	}
	want := address(1)
	if name == "echo" {
		want = "" // a reply without an address
	}
	if err = ready(want); err == nil {
		err = setBuffers(server.Process.Pid)
	}
	if err != nil {
		stop()
		return 0, nil, fmt.Errorf("%w\n%s", err, log.String())
	}
	return server.Process.Pid, stop, nil
}

func (w work) measure(name, coredns string, seconds, rate int) (r result, err error) {
	pid, stop, err := w.start(name, coredns)
	if err != nil {
		return r, err
	}
	defer stop()
	perf := func(args ...string) (string, dnsperf, error) {
		args = append([]string{"-s", "127.0.0.1", "-p", port, "-d", w.path("queries"), "-l", strconv.Itoa(seconds), "-t", "2", "-c", "16"}, args...)
		out, err := exec.Command("dnsperf", args...).CombinedOutput()
		if err != nil {
			return "", dnsperf{}, fmt.Errorf("dnsperf: %w\n%s", err, out)
		}
		p, err := readDnsperf(string(out))
		return string(out), p, err
	}
	before, err := cpuTime(pid)
	if err != nil {
		return r, err
	}
	_, p, err := perf("-q", "400")
	if err != nil {
		return r, err
	}
	after, err := cpuTime(pid)
	if err != nil {
		return r, err
	}
	r.qps, r.lost, r.cpu = p.perSecond, p.lost, (after-before)/p.completed*1e6
	out, _, err := perf("-q", "400", "-Q", strconv.Itoa(rate), "-v")
	if err != nil {
		return r, err
	}
	var took []float64
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 5 && f[0] == ">" {
			if s, err := strconv.ParseFloat(f[4], 64); err == nil {
				took = append(took, s*1e6)
			}
		}
	}
	slices.Sort(took)
	if len(took) == 0 {
		return r, fmt.Errorf("dnsperf told no latencies")
	}
	r.p50, r.p99 = took[len(took)/2], took[len(took)*99/100]
	r.mib, err = resident(pid)
	return r, err
}

// ready waits until the server gives a name the address that it is to have.
func ready(want string) error {
	var err error
	for range 200 {
		out, digErr := exec.Command("dig", "@127.0.0.1", "-p", port, "+time=1", "+tries=1", "+short", "n1.weft.local", "A").CombinedOutput()
		got := strings.TrimSpace(string(out))
		if digErr == nil && got == want {
			return nil
		}
		err = fmt.Errorf("the server is to answer %q, and dig says %q, %v", want, got, digErr)
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// resident is a process's resident set (proc(5)).
func resident(pid int) (mib float64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if w := strings.Fields(sc.Text()); len(w) > 1 && w[0] == "VmRSS:" {
			kib, err := strconv.ParseFloat(w[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of process %d", pid)
}

// cpuTime is how many seconds a process has run, in user and system mode (proc(5), fields 14 and 15 of stat,
// in hundredths on all that Linux runs on).
func cpuTime(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, err1 := strconv.ParseFloat(f[11], 64)
	system, err2 := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100, errors.Join(err1, err2)
}
