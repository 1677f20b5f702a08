package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/api"
	"weft/router"
)

// Several dead hosts are asked for at once, what was refused once more, and what came of each
// is said in the order of their names. By force each is asked for once.
func TestRmpeer(t *testing.T) {
	for _, c := range []struct {
		args, asked, out, stderr string
		code                     int
	}{
		{"a late b", "a:1 late:2 b:1", "4 IPs taken over from a\n4 IPs taken over from late\n4 IPs taken over from b\n", "", 0},
		{"a bad late", "a:1 bad:2 late:2", "4 IPs taken over from a\n4 IPs taken over from late\n", "weft: error: bad is alive\nweft: hint: run `weft reset` on it\n", 1},
		{"bad", "bad:1", "", "weft: error: bad is alive\nweft: hint: run `weft reset` on it\n", 1},
		{"--json late", "late:1", "", "weft: error: late is alive\nweft: hint: run `weft reset` on it\n", 1},
		{"--json bad a", "bad:2 a:1", `[{"peer":"a","ips":4}]`, "weft: error: bad is alive\n", 1},
		{"--force a late", "a:1 late:1", "4 IPs taken over from a\n", "weft: error: late is alive\n", 1},
	} {
		dir := t.TempDir()
		var mu sync.Mutex
		asked := map[string]int{}
		stop := serveRoutes(t, dir, []api.Route{
			{Method: "DELETE", Path: "/peer/{id}", Handle: func(_ context.Context, q *api.Request) (any, error) {
				id := q.Path("id")
				mu.Lock()
				asked[id]++
				n := asked[id]
				mu.Unlock()
				if id == "bad" || id == "late" && n == 1 {
					return nil, &router.Error{Msg: id + " is alive", Tip: "run `weft reset` on it", Code: 409}
				}
				return removedPeer{Peer: id, IPs: 4}, nil
			}},
		})
		var out, stderr bytes.Buffer
		a := newApp()
		a.stdout, a.stderr = &out, &stderr
		code := a.run(t.Context(), append([]string{"rmpeer", "--run-dir", dir}, strings.Fields(c.args)...))
		stop()
		_, rest, slow := strings.Cut(stderr.String(), "half a minute or so\n")
		if slow { // on a machine that has other things to do
			stderr = *bytes.NewBufferString(rest)
		}
		said := strings.Join(strings.Fields(out.String()), "")
		if code != c.code || said != strings.Join(strings.Fields(c.out), "") || !strings.Contains(stderr.String(), c.stderr) || c.stderr == "" && stderr.Len() > 0 {
			t.Errorf("%s: status %d\n%s---\n%s", c.args, code, &out, &stderr)
		}
		var got []string
		for _, name := range strings.Fields(c.args) {
			if n := asked[name]; n > 0 {
				got = append(got, fmt.Sprintf("%s:%d", name, n))
			}
		}
		if strings.Join(got, " ") != c.asked {
			t.Errorf("%s: asked %v, want %s", c.args, got, c.asked)
		}
	}
}

func TestAfterWhile(t *testing.T) {
	for wait, want := range map[time.Duration]string{time.Second: "", 3 * time.Second: "still waiting"} {
		synctest.Test(t, func(t *testing.T) {
			var stderr bytes.Buffer
			a := newApp()
			a.stderr = &stderr
			stop := a.afterWhile("still waiting")
			time.Sleep(wait) // of the bubble
			stop()
			time.Sleep(time.Minute)
			if stderr.String() != want {
				t.Errorf("after %v it said %q, want %q", wait, &stderr, want)
			}
		})
	}
}
