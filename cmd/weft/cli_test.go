package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"weft/api"
	"weft/router"
)

// verbs calls f for every verb that weft itself defines.
func verbs(t *testing.T, f func(*app, *cobra.Command)) {
	t.Helper()
	for _, c := range newRootCmd(newApp()).Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		// A tree of its own for each, since flags are variables of it.
		a := newApp()
		cmd, _, err := newRootCmd(a).Find([]string{c.Name()})
		if err != nil {
			t.Fatal(err)
		}
		f(a, cmd)
	}
}

// TestEveryFlagHasAnEnvironmentDefault sets the variable of every flag of every
// verb and looks whether the flag takes it, and yields to what is typed.
func TestEveryFlagHasAnEnvironmentDefault(t *testing.T) {
	values := map[string]string{"string": "x", "bool": "true", "int": "77", "uint32": "77", "duration": "77s", "stringSlice": "x"}
	verbs(t, func(_ *app, probe *cobra.Command) {
		probe.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" {
				return
			}
			t.Run(probe.Name()+"/"+f.Name, func(t *testing.T) {
				value, ok := values[f.Value.Type()]
				if !ok {
					t.Fatalf("a flag of type %s", f.Value.Type())
				}
				t.Setenv("WEFT_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")), value)
				a := newApp()
				cmd, _, err := newRootCmd(a).Find([]string{probe.Name()})
				if err != nil {
					t.Fatal(err)
				}
				if err := a.applyEnv(cmd); err != nil {
					t.Fatal(err)
				}
				if got := strings.Trim(cmd.Flag(f.Name).Value.String(), "[]"); got != value && got != "1m17s" {
					t.Errorf("%s is %q", f.Name, got)
				}
				if !a.fromEnv[f.Name] || !cmd.Flags().Changed(f.Name) {
					t.Error("the flag does not know where its value is from")
				}
				a = newApp()
				cmd, _, _ = newRootCmd(a).Find([]string{probe.Name()})
				if err := cmd.Flags().Set(f.Name, f.DefValue); err == nil { // typed
					if err := a.applyEnv(cmd); err != nil || a.fromEnv[f.Name] {
						t.Errorf("the environment overrides what was typed: %v", err)
					}
				}
			})
		})
	})
}

// TestEveryVerbHasHelp: a sentence, an example, a group, and --json where it prints.
func TestEveryVerbHasHelp(t *testing.T) {
	silent := "launch-json stop reset connect forget prime device demo"
	verbs(t, func(_ *app, cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" || !strings.Contains(cmd.Example, "weft "+cmd.Name()) {
			t.Errorf("%s: no sentence, or no example", cmd.Name())
		}
		if cmd.Flag("json") == nil && !strings.Contains(" "+silent+" ", " "+cmd.Name()+" ") {
			t.Errorf("%s prints and has no --json", cmd.Name())
		}
		if !strings.HasPrefix(cmd.Use, cmd.Name()) || cmd.Args == nil && cmd.Name() != "launch" && cmd.Name() != "ps" {
			t.Errorf("%s takes any arguments", cmd.Name())
		}
	})
}

// TestConfigTravels: every option must survive the way to the background router.
func TestConfigTravels(t *testing.T) {
	var c launchConfig
	fill(reflect.ValueOf(&c).Elem())
	c.Options.Log = nil // made anew on the other side
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var got launchConfig
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, got) {
		t.Errorf("sent %s", b)
	}
}

// fill puts something that is not zero into every field.
func fill(v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *netip.Prefix:
		*x = netip.MustParsePrefix("10.32.0.0/12")
		return
	case *netip.AddrPort:
		*x = netip.MustParseAddrPort("[fd00::1]:53")
		return
	case **slog.Logger:
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(4)
	case reflect.Uint32:
		v.SetUint(4)
	case reflect.Map:
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k)
		fill(e)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(k, e)
	default:
		panic("an option of kind " + v.Kind().String())
	}
}

// TestLaunchFlagsReachTheOptions: each flag of launch, by its effect.
func TestLaunchFlagsReachTheOptions(t *testing.T) {
	a := newApp()
	var got router.Options
	a.euid = func() int { return 0 }
	a.newDaemon = func(o router.Options) (daemon, error) {
		got = o
		return nil, io.EOF
	}
	a.stdout, a.stderr = io.Discard, io.Discard
	dir := t.TempDir()
	launch := func(args ...string) router.Options {
		got = router.Options{}
		a.run(t.Context(), append([]string{"launch", "--foreground", "--run-dir", dir}, args...))
		got.Log, got.DeviceCommand = nil, nil
		return got
	}
	base := launch()
	if base.RangeSet || base.Range.IsValid() || base.NoIPAM || base.Version != version || base.RunDir != dir {
		t.Errorf("without flags: %+v", base)
	}
	for _, test := range []struct {
		args string
		set  func(*router.Options)
	}{
		{"--name n", func(o *router.Options) { o.PeerName = "n" }},
		{"--nickname n", func(o *router.Options) { o.Nickname = "n" }},
		{"--host 192.0.2.1", func(o *router.Options) { o.Host = "192.0.2.1" }},
		{"--port 7000", func(o *router.Options) { o.Port = 7000 }},
		{"--advertise-address 192.0.2.1,192.0.2.2:7", func(o *router.Options) { o.Advertise = []string{"192.0.2.1", "192.0.2.2:7"} }},
		{"--ipalloc-range 10.0.0.0/16", func(o *router.Options) { o.Range, o.RangeSet = netip.MustParsePrefix("10.0.0.0/16"), true }},
		{"--ipalloc-range=", func(o *router.Options) { o.NoIPAM = true }},
		{"--ipalloc-default-subnet 10.32.1.0/24", func(o *router.Options) { o.DefaultSubnet = netip.MustParsePrefix("10.32.1.0/24") }},
		{"--no-discovery", func(o *router.Options) { o.NoDiscovery = true }},
		{"--resume", func(o *router.Options) { o.Resume = true }},
		{"--no-dns", func(o *router.Options) { o.NoDNS = true }},
		{"--dns-domain d.", func(o *router.Options) { o.Domain = "d." }},
		{"--dns-listen-address 127.0.0.1", func(o *router.Options) { o.DNSListen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")} }},
		{"--dns-upstream [fd00::1]:54 --dns-upstream 8.8.8.8", func(o *router.Options) {
			o.Upstream = []netip.AddrPort{netip.MustParseAddrPort("[fd00::1]:54"), netip.MustParseAddrPort("8.8.8.8:53")}
		}},
		{"--dns-ttl 9", func(o *router.Options) { o.DNSTTL = 9 }},
		{"--dns-fallback-timeout 1s", func(o *router.Options) { o.FallbackTimeout = time.Second }},
		{"--no-rewrite-hosts", func(o *router.Options) { o.NoRewriteHosts = true }},
		{"--no-multicast-route", func(o *router.Options) { o.NoMulticastRoute = true }},
		{"--mtu 1300", func(o *router.Options) { o.MTU = 1300 }},
		{"--datapath userspace", func(o *router.Options) { o.Datapath = "userspace" }},
		{"--http-addr=", func(o *router.Options) { o.HTTPAddr = "" }},
		{"--metrics-addr 1.2.3.4:5", func(o *router.Options) { o.MetricsAddr = "1.2.3.4:5" }},
		{"--state-dir /s/../t", func(o *router.Options) { o.StateDir = "/t" }},
		{"--docker-api unix:///d", func(o *router.Options) { o.DockerAPI = "unix:///d" }},
		{"--conn-limit 3", func(o *router.Options) { o.ConnLimit = 3 }},
		{"--password p --weak-password", func(o *router.Options) { o.Password, o.WeakPassword = "p", true }},
		{"host2 host3:1 host2", func(o *router.Options) { o.Targets = []string{"host2", "host3:1"} }},
	} {
		want := base
		test.set(&want)
		if got := launch(strings.Fields(test.args)...); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", test.args, got, want)
		}
	}
}

// TestPrimeTellsWhatItWaitsFor runs prime against an API that has no address
// space to give, and hangs up.
func TestPrimeTellsWhatItWaitsFor(t *testing.T) {
	defer goleak.VerifyNone(t)
	cancelled := make(chan struct{})
	dir := t.TempDir()
	stop := serveRoutes(t, dir, []api.Route{
		{Method: "GET", Path: "/ring", Handle: func(ctx context.Context, _ *api.Request) (any, error) {
			<-ctx.Done()
			close(cancelled)
			return nil, ctx.Err()
		}},
		{Method: "GET", Path: "/report", Handle: func(context.Context, *api.Request) (any, error) {
			return router.Report{
				Router: router.RouterReport{Waiting: []string{"for 192.168.48.12:6783 to answer"}},
				IPAM:   &router.IPAMReport{Status: "awaiting the founder of the mesh"},
			}, nil
		}},
	})
	ended := make(chan int, 1)
	verb, interrupt := context.WithCancel(t.Context())
	a := newApp()
	var out bytes.Buffer
	r, w := io.Pipe()
	a.stdout, a.stderr = &out, w
	go func() {
		ended <- a.run(verb, []string{"prime", "--run-dir", dir})
		w.Close()
	}()
	said := bufio.NewScanner(r)
	for _, want := range []string{
		"weft: waiting for address space: awaiting the founder of the mesh",
		"weft: waiting: for 192.168.48.12:6783 to answer",
	} {
		if !said.Scan() || said.Text() != want {
			t.Fatalf("said %q, want %q", said.Text(), want)
		}
	}
	interrupt()
	<-cancelled
	if !said.Scan() || said.Text() != "weft: error: interrupted" {
		t.Errorf("said %q", said.Text())
	}
	if code := <-ended; code != 1 || out.Len() > 0 {
		t.Errorf("exit code %d, stdout %q", code, &out)
	}
	stop()
}

// TestAttachTellsItsAddressLast runs attach against a router that has an address
// while it is being asked what attach waits for.
func TestAttachTellsItsAddressLast(t *testing.T) {
	asked, said := make(chan struct{}), make(chan string, 9)
	dir := t.TempDir()
	stop := serveRoutes(t, dir, []api.Route{
		{Method: "POST", Path: "/attach", Handle: func(context.Context, *api.Request) (any, error) {
			<-asked
			return map[string]any{"addresses": []string{"10.32.0.9"}}, nil
		}},
		{Method: "GET", Path: "/report", Handle: func(context.Context, *api.Request) (any, error) {
			close(asked)
			select {
			case first := <-said: // it did not wait for the answer
				said <- first
			case <-time.After(200 * time.Millisecond):
			}
			return router.Report{IPAM: &router.IPAMReport{Status: "ready"}}, nil
		}},
	})
	a := newApp()
	a.stdout, a.stderr = words(said), words(said)
	if code := a.run(t.Context(), []string{"attach", "--run-dir", dir, "web"}); code != 0 {
		t.Errorf("exit code %d", code)
	}
	close(said)
	last := ""
	for last = range said {
	}
	if last != "10.32.0.9\n" {
		t.Errorf("it ends with %q", last)
	}
	stop()
}

// serveRoutes is a router that answers these, until stop is called.
func serveRoutes(t *testing.T, dir string, routes []api.Route) (stop func()) {
	t.Helper()
	srv, err := api.New(api.Options{Socket: filepath.Join(dir, "weft.sock"), Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Run(ctx) }()
	<-srv.Ready()
	return func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// words takes what is written to it, one by one.
type words chan string

func (w words) Write(b []byte) (int, error) {
	w <- string(b)
	return len(b), nil
}

// FuzzParsePeers: whatever is typed as a peer gets an answer, and what passes
// as host[:port] has no character that a terminal or a log would trip over.
func FuzzParsePeers(f *testing.F) {
	for _, s := range []string{"host1", "host1:6783", "192.0.2.1", "[fd00::1]:1", "fd00::1", "weft1-", "weft1-aeaq", "http://x", ":1", "a:b:c", "[::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePeers([]string{s})
		if err != nil {
			return
		}
		if len(p.Tokens) == 0 && len(p.Targets) != 1 {
			t.Fatalf("%q: %+v", s, p)
		}
		for _, x := range p.Targets {
			if strings.ContainsFunc(x, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
				t.Errorf("%q passes", x)
			}
		}
	})
}

// TestNullIsAnEmptyList: withoutNulls holds only as long as a report leaves out
// what else may be absent.
func TestNullIsAnEmptyList(t *testing.T) {
	var look func(reflect.Type)
	look = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			of := f.Type
			if k := of.Kind(); k == reflect.Map || k == reflect.Interface || k == reflect.Pointer && !strings.Contains(f.Tag.Get("json"), "omitempty") {
				t.Errorf("%v.%s may be null and is no list", typ, f.Name)
			}
			for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
				of = of.Elem()
			}
			if of.Kind() == reflect.Struct && of.PkgPath() == typ.PkgPath() {
				look(of)
			}
		}
	}
	look(reflect.TypeFor[router.Report]())
	for in, want := range map[string]string{
		`null`:                       `null`,
		`{"A":null,"B":[null,null]}`: `{"A":[],"B":[[],[]]}`,
		`{"null":"null \"null\\"}`:   `{"null":"null \"null\\"}`,
		`[{"a\\":null}]`:             `[{"a\\":[]}]`,
	} {
		if got := string(withoutNulls([]byte(in))); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}
