package docker

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeEngine is a small working model of a Docker engine's API on a UNIX socket: versions, lookup, events with their memory and filters.
// Its odd behaviour is the real one's: the answer to a subscription is sent before the subscription takes effect.
type fakeEngine struct {
	socket string

	mu          sync.Mutex // guards the fields below
	min, max    string     // API versions
	containers  []*fakeContainer
	bridge      map[string]any // the network "bridge", nil: none
	memory      []fakeEvent    // newest last
	subscribers map[chan fakeEvent]bool
	srv         *httptest.Server
	gap         func()           // runs between the answer to a subscription and its effect
	intercept   http.HandlerFunc // answers instead, for engines in trouble
	asked       map[string]int   // requests by path
}

type fakeContainer struct {
	ID, Name, Hostname, Domainname, NetworkMode string
	PID                                         int
	Running, Restarting                         bool
	Health                                      string   // empty: no health check
	Exposed                                     []string // as in "80/tcp"
}

type fakeEvent struct {
	Type, Action string
	Actor        struct{ ID string }
	TimeNano     int64 `json:"timeNano"`
}

func newFakeEngine(t *testing.T) *fakeEngine {
	e := &fakeEngine{
		socket: filepath.Join(t.TempDir(), "docker.sock"), min: "1.12", max: "1.41",
		subscribers: map[chan fakeEvent]bool{}, asked: map[string]int{},
		bridge: map[string]any{"Name": "bridge", "Driver": "bridge", "Options": map[string]string{"com.docker.network.bridge.name": "nosuchlink"}, "IPAM": map[string]any{"Config": []any{
			map[string]any{"Subnet": "fd00:9::/64", "Gateway": "fd00:9::1"}, map[string]any{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"},
		}}},
	}
	t.Cleanup(e.stop)
	e.start(t)
	return e
}

func (e *fakeEngine) start(t *testing.T) {
	l, err := net.Listen("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(e)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.srv = srv
}

// stop ends the engine with all its connections, as a crash does. Its containers live on.
func (e *fakeEngine) stop() {
	e.mu.Lock()
	srv := e.srv
	e.srv = nil
	e.memory = nil
	for ch := range e.subscribers {
		close(ch)
		delete(e.subscribers, ch)
	}
	e.mu.Unlock()
	if srv != nil {
		srv.CloseClientConnections()
		srv.Close()
	}
}

// cut ends the event streams and nothing else.
func (e *fakeEngine) cut() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ch := range e.subscribers {
		close(ch)
		delete(e.subscribers, ch)
	}
}

func (e *fakeEngine) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// run starts a container, new or known, of which the name is given and the rest made up where it is zero.
func (e *fakeEngine) run(c fakeContainer) *fakeContainer {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.containers, func(o *fakeContainer) bool { return o.Name == c.Name })
	if i < 0 {
		c.ID = cmp.Or(c.ID, fmt.Sprintf("%064x", 0xe0000+len(e.containers)))
		c.Hostname = cmp.Or(c.Hostname, c.ID[:12])
		c.NetworkMode = cmp.Or(c.NetworkMode, "default")
		i = len(e.containers)
		e.containers = append(e.containers, &c)
	}
	e.containers[i].Running, e.containers[i].PID = true, 1000+i
	e.logLocked("container", "start", e.containers[i].ID)
	return e.containers[i]
}

func (e *fakeEngine) change(c *fakeContainer, action string, f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	e.logLocked("container", action, c.ID)
}

func (e *fakeEngine) die(c *fakeContainer) {
	e.change(c, "die", func() { c.Running, c.PID = false, 0 })
}

func (e *fakeEngine) remove(c *fakeContainer) {
	e.change(c, "destroy", func() {
		e.containers = slices.DeleteFunc(e.containers, func(o *fakeContainer) bool { return o == c })
	})
}

func (e *fakeEngine) log(kind, action, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.logLocked(kind, action, id)
}

func (e *fakeEngine) logLocked(kind, action, id string) {
	ev := fakeEvent{Type: kind, Action: action, TimeNano: time.Now().UnixNano()}
	ev.Actor.ID = id
	e.memory = append(e.memory, ev)
	e.memory = e.memory[max(0, len(e.memory)-256):]
	for ch := range e.subscribers {
		ch <- ev
	}
}

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	var version string
	if v, rest, ok := strings.Cut(strings.TrimPrefix(path, "/v"), "/"); ok && strings.HasPrefix(path, "/v") {
		version, path = v, "/"+rest
	}
	e.mu.Lock()
	e.asked[path]++
	intercept, low, high := e.intercept, e.min, e.max
	e.mu.Unlock()
	w.Header().Set("Api-Version", high)
	switch {
	case intercept != nil:
		intercept(w, r)
	case path == "/_ping":
	case version != "" && minor(version) > minor(high):
		fail(w, 400, fmt.Sprintf("client version %s is too new. Maximum supported API version is %s", version, high))
	case version != "" && minor(version) < minor(low):
		fail(w, 400, fmt.Sprintf("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", version, low))
	case path == "/events":
		e.serveEvents(w, r)
	case path == "/containers/json":
		e.serveList(w)
	case path == "/networks/bridge":
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.bridge == nil {
			fail(w, 404, "network bridge not found")
			return
		}
		answer(w, e.bridge)
	case strings.HasPrefix(path, "/containers/") && strings.HasSuffix(path, "/json"):
		e.serveInspect(w, strings.TrimSuffix(strings.TrimPrefix(path, "/containers/"), "/json"))
	default:
		fail(w, 404, "page not found")
	}
}

func minor(version string) int {
	_, s, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(s)
	return n
}

func fail(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]string{"message": message})
}

func answer(w io.Writer, v any) {
	json.NewEncoder(w).Encode(v)
}

func (e *fakeEngine) serveList(w http.ResponseWriter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []any{}
	for _, c := range e.containers {
		if c.Running || c.Restarting {
			list = append(list, map[string]any{"Id": c.ID, "Names": []string{"/" + c.Name}})
		}
	}
	answer(w, list)
}

func (e *fakeEngine) serveInspect(w http.ResponseWriter, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []*fakeContainer
	for _, c := range e.containers {
		if c.ID == name || c.Name == name {
			found = []*fakeContainer{c}
			break
		}
		if strings.HasPrefix(c.ID, name) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		fail(w, 404, "No such container: "+name)
	case 1:
		c := found[0]
		state := map[string]any{"Running": c.Running || c.Restarting, "Restarting": c.Restarting, "Pid": c.PID}
		if c.Health != "" {
			state["Health"] = map[string]any{"Status": c.Health}
		}
		exposed := map[string]any{}
		for _, p := range c.Exposed {
			exposed[p] = map[string]any{}
		}
		answer(w, map[string]any{
			"Id": c.ID, "Name": "/" + c.Name, "HostsPath": "/var/lib/docker/containers/" + c.ID + "/hosts",
			"State":           state,
			"HostConfig":      map[string]any{"NetworkMode": c.NetworkMode},
			"Config":          map[string]any{"Hostname": c.Hostname, "Domainname": c.Domainname, "Labels": map[string]string{"role": "test"}, "ExposedPorts": exposed},
			"NetworkSettings": map[string]any{"Networks": map[string]any{"bridge": map[string]any{"IPAddress": "", "Gateway": "", "MacAddress": ""}}},
		})
	default:
		code, message := 500, "Multiple IDs found with provided prefix: "+name
		if minor(e.max) > 41 {
			code, message = 400, "multiple IDs found with provided prefix: "+name
		}
		fail(w, code, message)
	}
}

func (e *fakeEngine) serveEvents(w http.ResponseWriter, r *http.Request) {
	var filters map[string]map[string]bool
	if err := json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters); err != nil {
		fail(w, 400, err.Error())
		return
	}
	sec, nano, _ := strings.Cut(r.URL.Query().Get("since"), ".")
	s, _ := strconv.ParseInt(sec, 10, 64)
	n, _ := strconv.ParseInt(nano, 10, 64)
	since := time.Unix(s, n).UnixNano()
	wanted := func(ev fakeEvent) bool {
		action, _, _ := strings.Cut(ev.Action, ":")
		return filters["type"][ev.Type] && (filters["event"][ev.Action] || filters["event"][action])
	}

	w.Header().Set("Content-Type", "application/json")
	w.(http.Flusher).Flush()
	e.mu.Lock()
	gap := e.gap
	e.mu.Unlock()
	if gap != nil {
		gap()
	}
	ch := make(chan fakeEvent, 1024)
	e.mu.Lock()
	for _, ev := range e.memory {
		if s > 0 && ev.TimeNano >= since {
			ch <- ev
		}
	}
	e.subscribers[ch] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subscribers, ch)
	}()
	for {
		select {
		case ev, ok := <-ch:
			if !ok {
				return
			}
			if wanted(ev) {
				answer(w, ev)
				w.(http.Flusher).Flush()
			}
		case <-r.Context().Done():
			return
		}
	}
}

// newClient makes a client of an engine, closed at the end of the test.
func newClient(t *testing.T, socket string) *Client {
	t.Helper()
	c, err := New(Options{Host: "unix://" + socket, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
