package router

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// aFile stands for a network namespace: what counts is which file a path leads to.
func aFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "web")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// renew makes the path lead to another one, as after a restart.
func renew(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// What an attach waits for is of no use to a container that has ended, and not for
// the one that has its process ID or its path since.
func TestAttachEndsWithItsContainer(t *testing.T) {
	for how, change := range map[string]func(*testing.T, string){
		"ended":    func(t *testing.T, path string) { os.Remove(path) },
		"replaced": renew,
	} {
		for _, addrs := range [][]string{nil, {"ip:10.32.0.9/12"}} {
			synctest.Test(t, func(t *testing.T) {
				r, path := newcomer(t), aFile(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				ended := make(chan error, 1)
				go func() {
					_, err := r.attach(ctx, attachRequest{Container: "netns:" + path, Addrs: addrs})
					ended <- err
				}()
				synctest.Wait()
				if n := r.waiting(); n != 1 {
					t.Fatalf("%d wait", n)
				}
				change(t, path)
				if err := <-ended; err == nil || !strings.Contains(err.Error(), "has ended, or was started anew") || r.waiting() != 0 {
					t.Errorf("%s: %v, and %d wait", how, err, r.waiting())
				}
			})
		}
	}
}

// The container is another one by the time that its turn comes.
func TestAttachLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, path := joined(t), aFile(t)
		key := "netns:" + path
		unlock, err := r.ops.lock(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		done := call(func() error {
			_, err := r.attach(t.Context(), attachRequest{Container: key})
			return err
		})
		if ended, err := done(); ended || len(r.holds(key)) != 1 {
			t.Fatalf("ended %v with %v, holding %v", ended, err, r.holds(key))
		}
		renew(t, path)
		unlock()
		if ended, err := done(); !ended || err == nil || !strings.Contains(err.Error(), "was started anew") {
			t.Errorf("ended %v with %v", ended, err)
		}
		if got := r.holds(key); len(got) != 0 || r.attached[key] != nil {
			t.Errorf("it holds %v, attached as %+v", got, r.attached[key])
		}
	})
}

func TestSameTarget(t *testing.T) {
	web := target{Key: "1", Name: "web", NSID: "4:7"}
	if err := web.same(target{Key: "1", Name: "shop", NSID: "4:7"}); err != nil {
		t.Errorf("a new name: %v", err)
	}
	for _, other := range []target{{Key: "2", Name: "web", NSID: "4:7"}, {Key: "1", Name: "web", NSID: "4:8"}, {Key: "1", Name: "web"}} {
		if e, ok := errors.AsType[*Error](web.same(other)); !ok || e.Code != 409 || !strings.HasPrefix(e.Msg, "web ") {
			t.Errorf("%+v: %v", other, e)
		}
	}
}
