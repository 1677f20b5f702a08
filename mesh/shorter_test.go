package mesh

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A log without grants on which nothing rests any more: whoever was away sees that they were left out, not forgotten; and an author whose
// disk is put back, from before that or after, is told what it has really forgotten.
func TestShorterLog(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(4)
		a, b, c, d := bs[0], bs[1], bs[2], bs[3]
		w.within(10*time.Second, "four hosts", func() bool { return oneMesh(bs...) })
		gone := func(payload []byte) bool { return strings.HasPrefix(string(payload), "old") }
		launch := func() { b.launch(func(o *Options) { o.Obsolete = func() func([]byte) bool { return gone } }) }
		b.kill()
		launch()
		w.within(10*time.Second, "four hosts again", func() bool { return oneMesh(bs...) })

		grants := func(x *box) (out []string) {
			for _, e := range x.mesh.State().Logs[b.id.ID()] {
				if e.Kind == KindGrant {
					out = append(out, string(e.Payload))
				}
			}
			return out
		}
		up := bs
		same := func(what string, want ...string) {
			t.Helper()
			w.within(20*time.Second, what, func() bool {
				for _, x := range up { // what was told back comes behind
					if got := grants(x); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
						return false
					}
				}
				return oneMesh(bs...) || len(up) < len(bs)
			})
		}
		write := func(payloads ...string) {
			t.Helper()
			for _, p := range payloads {
				if _, err := b.mesh.Append(Draft{KindGrant, []byte(p)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		write("old 1", "kept", "old 2")
		same("written", "old 1", "kept", "old 2")
		c.kill()
		up = []*box{a, b, d} // c holds the epoch that will be taken
		before := b.disk.copy()
		b.mesh.Reopen()
		same("shorter", "kept")
		if n := len(b.mesh.logs.log(b.id.ID())); n > 4 {
			t.Errorf("a log of %d entries", n)
		}
		d.kill()
		up = []*box{a, b} // d holds the first short one
		for i := range 3 {
			write(fmt.Sprint("new ", i), fmt.Sprint("old ", 10+i))
			b.mesh.Reopen()
			same("shorter again", append([]string{"kept"}, strings.Split("new 0,new 1,new 2", ",")[:i+1]...)...)
		}
		want := []string{"kept", "new 0", "new 1", "new 2"}
		c.launch()
		d.launch()
		up = bs
		same("two come back", want...)
		if rs := a.mesh.Rejections(); len(rs) > 0 {
			t.Errorf("rejections: %v", rs)
		}

		after := b.disk.copy()
		write("new 3")
		want = append(want, "new 3")
		same("one more", want...)
		for name, disk := range map[string]*disk{"before": before, "after": after} {
			b.crash()
			b.host.Up()
			b.disk = disk
			launch()
			same("a disk from "+name+" it became shorter", want...)
		}
	})
}

// A host whose disk is put back to an earlier moment of the very epoch that is open, after its log has become shorter once: that epoch is
// taken as far as it knew it, and no further.
func TestPutBackWithinAnEpoch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(3)
		b := bs[1]
		gone := func(payload []byte) bool { return strings.HasPrefix(string(payload), "old") }
		launch := func() { b.launch(func(o *Options) { o.Obsolete = func() func([]byte) bool { return gone } }) }
		b.kill()
		launch()
		w.within(10*time.Second, "three hosts", func() bool { return oneMesh(bs...) })
		if _, err := b.mesh.Append(Draft{KindGrant, []byte("old")}, Draft{KindGrant, []byte("kept")}); err != nil {
			t.Fatal(err)
		}
		w.within(10*time.Second, "written", func() bool { return oneMesh(bs...) })
		b.mesh.Reopen()
		w.within(10*time.Second, "shorter", func() bool {
			return oneMesh(bs...) && slices.ContainsFunc(bs[0].mesh.State().Logs[b.id.ID()], func(e Entry) bool { return e.Kind == KindTaken })
		})
		disk := b.disk.copy()
		if _, err := b.mesh.Append(Draft{KindGrant, []byte("given since")}); err != nil {
			t.Fatal(err)
		}
		w.within(10*time.Second, "written, too", func() bool { return oneMesh(bs...) })
		b.crash()
		b.host.Up()
		b.disk = disk
		launch()
		w.within(20*time.Second, "all of it everywhere", func() bool {
			for _, x := range bs {
				if !slices.ContainsFunc(x.mesh.State().Logs[b.id.ID()], func(e Entry) bool { return string(e.Payload) == "given since" }) {
					return false
				}
			}
			return oneMesh(bs...)
		})
	})
}

// An epoch that somebody still holds is named, however many there were since. What is said behind a snapshot takes nothing.
func TestOldEpochsAreNamed(t *testing.T) {
	m := quietMesh(t, NewSecret())
	if _, err := m.Append(Draft{KindTaken, make([]byte, takenLen)}); err == nil {
		t.Error("an epoch takes another while it is open")
	}
	if _, err := m.Append(Draft{KindGrant, []byte("a grant")}); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	cur := m.logs.authors[m.id].current
	for i := range maxTaken + 100 {
		payload := slices.Concat(binary.BigEndian.AppendUint64(nil, uint64(10+i)), make([]byte, 16))
		cur.entries = append(cur.entries, Entry{Kind: KindTaken, Payload: payload})
	}
	if n := len(cur.taken()); n != 0 {
		t.Errorf("%d are taken behind the snapshot", n)
	}
	cur.snapshot = uint32(len(cur.entries))
	m.past.begin(7, nil).entries = make([]Entry, 1)
	marks := m.takingLocked()
	if n := len(marks); n != maxTaken+2 || marks[0].number != 7 || marks[n-1].number != cur.number || marks[1].number != 110 {
		t.Errorf("%d marks from %d, %d to %d", n, marks[0].number, marks[1].number, marks[n-1].number)
	}
}
