package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"weft/api"
	"weft/router"
)

// fake is a router without a mesh. FAKE says how its launch goes: "" well,
// "refused" New fails, "fails" Run fails, "alien" no mesh takes it, "crashes",
// "hangs" it never serves, "settling" it never meets its mesh.
type fake struct {
	o           router.Options
	mode        string
	lock        *os.File
	ready, done chan struct{}
	once        sync.Once
}

func newFake(o router.Options) (daemon, error) {
	f := &fake{o: o, mode: os.Getenv("FAKE"), ready: make(chan struct{}), done: make(chan struct{})}
	if f.mode == "refused" {
		return nil, &router.Error{Msg: "the default range overlaps the route to 10.0.0.0/8 on eth0", Tip: "choose another"}
	}
	lock, err := os.OpenFile(filepath.Join(o.RunDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, &router.Error{Msg: "a router is already running here", Tip: "weft status shows it"}
	}
	f.lock = lock
	return f, nil
}

func (f *fake) note(name, text string) error {
	return os.WriteFile(filepath.Join(f.o.RunDir, name), []byte(text), 0o600)
}

func (f *fake) Run(ctx context.Context) error {
	defer f.Close()
	if err := f.note("pid", strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	switch f.mode {
	case "fails":
		return &router.Error{Msg: "make the tunnel device: no such device", Tip: "modprobe wireguard"}
	case "crashes":
		panic("boom")
	case "hangs":
		<-ctx.Done()
		return nil
	}
	close(f.ready)
	<-ctx.Done()
	return nil
}

func (f *fake) Close() error           { return f.lock.Close() }
func (f *fake) Ready() <-chan struct{} { return f.ready }
func (f *fake) Done() <-chan struct{}  { return f.done }
func (f *fake) Report() router.Report {
	r := router.Report{Version: f.o.Version, Router: router.RouterReport{
		ID: "k3v7q2m5x4n6p8r9", Nickname: "host1", Mesh: os.Getenv("MESH"), Datapath: "kernel",
		Peers: []router.PeerReport{{ID: "k3v7q2m5x4n6p8r9", Nickname: "host1", Self: true, State: "alive"}},
	}}
	for _, t := range f.o.Targets {
		r.Router.Targets = append(r.Router.Targets, router.TargetReport{Address: t})
	}
	r.Attachments = []router.AttachmentReport{{Container: strings.Repeat("eebd81120ee4", 6)[:64], MAC: "1e:fd:61:ba:a4:8b", Running: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")}}}
	return r
}

func (f *fake) Settle(ctx context.Context) error {
	switch f.mode {
	case "alien":
		return &router.Error{Msg: "cannot join: 192.168.48.13:6783: wrong secret", Tip: "ask for the token there: weft token"}
	case "settling":
		<-ctx.Done()
	}
	return nil
}

func (f *fake) Greeting() []string {
	return []string{"host1 has founded a mesh", "to add a host, run `weft token`"}
}

// Routes answer what they were asked, so that the scripts see what was sent.
func (f *fake) Routes() []api.Route {
	echo := func(_ context.Context, r *api.Request) (any, error) {
		var in json.RawMessage
		if err := r.JSON(&in); err != nil {
			return nil, err
		}
		return map[string]any{"addresses": []string{"10.32.0.1", "10.32.1.1"}, "name": string(in)}, f.note("asked", string(in))
	}
	whole := func(r router.Report) any { return r }
	text := func(render func(router.Report) string, part func(router.Report) any) api.Handler {
		return func(_ context.Context, r *api.Request) (any, error) {
			if r.WantsJSON() {
				return part(f.Report()), nil
			}
			return render(f.Report()), nil
		}
	}
	end := func(_ context.Context, r *api.Request) (any, error) {
		f.once.Do(func() { close(f.done) })
		return nil, nil
	}
	none := func(context.Context, *api.Request) (any, error) { return nil, nil }
	return []api.Route{
		{Method: "GET", Path: "/status", Read: true, Handle: text(router.RenderStatus, whole)},
		{Method: "GET", Path: "/status/targets", Read: true, Handle: text(router.RenderTargets, func(r router.Report) any { return r.Router.Targets })},
		{Method: "GET", Path: "/report", Read: true, Handle: text(router.RenderStatus, whole)},
		{Method: "GET", Path: "/ps", Read: true, Handle: func(_ context.Context, r *api.Request) (any, error) {
			return fmt.Sprintf("%s%v", router.RenderPS(f.Report()), r.QueryAll("container")), nil
		}},
		{Method: "GET", Path: "/token", Handle: func(context.Context, *api.Request) (any, error) {
			return map[string]string{"token": cmp.Or(os.Getenv("PRINTED"), "weft1-abc")}, nil
		}},
		{Method: "GET", Path: "/dns-args", Read: true, Handle: func(context.Context, *api.Request) (any, error) {
			if f.o.NoDNS {
				return "", nil
			}
			return "--dns=169.254.53.1 --dns-search=weft.local", nil
		}},
		{Method: "GET", Path: "/lookup", Read: true, Handle: func(_ context.Context, r *api.Request) (any, error) {
			as := []string{}
			if r.Query("name") == "web" {
				as = []string{"10.32.0.1", "10.40.0.1"}
			}
			return map[string][]string{"addresses": as}, nil
		}},
		{Method: "GET", Path: "/options", Handle: func(context.Context, *api.Request) (any, error) { // what launch was told
			o := f.o
			o.Log = nil
			return o, nil
		}},
		{Method: "GET", Path: "/ring", Handle: none},
		{Method: "POST", Path: "/attach", Handle: echo},
		{Method: "POST", Path: "/detach", Handle: echo},
		{Method: "POST", Path: "/connect", Handle: echo},
		{Method: "POST", Path: "/forget", Handle: echo},
		{Method: "POST", Path: "/dns/add", Handle: echo},
		{Method: "POST", Path: "/dns/remove", Handle: echo},
		{Method: "POST", Path: "/stop", Handle: end},
		{Method: "POST", Path: "/reset", Handle: end},
	}
}

func fakeStopOffline(o router.Options) error {
	if err := os.MkdirAll(o.RunDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.RunDir, "stopped-offline"), nil, 0o600)
}

func fakeResetOffline(_ router.Options, force bool) error {
	if !force {
		return &router.Error{Msg: "no router is running, so this host's address space cannot be handed over", Tip: "weft reset --force"}
	}
	return nil
}
