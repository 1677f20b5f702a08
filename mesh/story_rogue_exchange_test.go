package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A member that has used up what it may send is not served where strangers are, either.
func TestRogueGoesRoundTheTunnel(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(2)
		a := bs[0]
		r := newRogue(t, w, a)
		w.within(20*time.Second, "three hosts", func() bool { return oneMesh(append(bs, r.box)...) })
		try := func(p purpose, at netip.Addr) RefusalCode {
			l, err := r.mesh.open(t.Context(), p, a.id.ID(), netip.AddrPortFrom(at, DefaultPort))
			if err == nil {
				l.close()
				return Accepted
			}
			if v, ok := errors.AsType[*Refusal](err); ok {
				return v.Code
			}
			return RefusedBusy // closed before a word was said
		}
		for _, c := range []struct {
			p    purpose
			at   netip.Addr
			want RefusalCode
		}{
			{purposeSync, a.control(), Accepted}, {purposeCall, a.control(), Accepted}, {purposeJoin, a.addr, Accepted},
			{purposeSync, a.addr, RefusedPurpose}, {purposeCall, a.addr, RefusedPurpose},
		} {
			if got := try(c.p, c.at); got != c.want {
				t.Errorf("%v at %v: %d, want %d", c.p, c.at, got, c.want)
			}
		}
		for range senderBurst / penalty * 2 {
			a.mesh.rejectSent(r.id.ID(), reasonInvalid, errShort)
		}
		for _, at := range []netip.Addr{a.control(), a.addr} {
			if got := try(purposeJoin, at); got != RefusedBusy {
				t.Errorf("a join at %v: %d", at, got)
			}
		}
		time.Sleep(2 * senderBurst / senderRate * time.Second)
		if got := try(purposeJoin, a.addr); got != Accepted {
			t.Errorf("a join later: %d", got)
		}
	})
}

// dawdle exchanges logs with a host again and again, as slowly as it is let.
func (r *rogue) dawdle(ctx context.Context, to *box) {
	const pause = linkPatience - time.Second
	for ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		l, err := r.mesh.open(ctx, purposeSync, to.id.ID(), netip.AddrPortFrom(to.control(), DefaultPort))
		if err != nil {
			continue
		}
		_ = l.write(msgRoot, make([]byte, 32))
		_, _, err = l.read(33, msgRoot)
		time.Sleep(pause)
		_ = l.write(msgDigest, nil)
		for t := msgDigest; err == nil && t != msgDone; {
			t, _, err = l.read(1+maxChunk, msgDigest, msgEntries, msgDone)
		}
		for err == nil && ctx.Err() == nil {
			time.Sleep(pause)
			err = l.write(msgEntries, nil)
		}
		l.close()
	}
}

// A member that makes each exchange of logs last holds up nobody's repair but its own.
func TestRogueDawdles(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(3)
		r := newRogue(t, w, bs[0])
		w.within(20*time.Second, "four hosts", func() bool { return oneMesh(append(bs, r.box)...) })
		r.mesh.talks.mu.Lock()
		r.mesh.talks.inside.most = 0 // it is of no help itself
		r.mesh.talks.mu.Unlock()
		lost := 0
		for _, each := range []int{served + 2, 1} { // beside each other, they cut each other short
			if each == 1 {
				r.quit() // as what its own router begins would do
			}
			ctx, cancel := context.WithCancel(t.Context())
			for _, x := range bs {
				for range each {
					go r.dawdle(ctx, x)
				}
			}
			time.Sleep(time.Second)
			for range 4 {
				lost++ // its datagrams never leave
				if _, err := bs[1].mesh.appendLocking([]Draft{{KindName, fmt.Append(nil, lost)}}, nil, true); err != nil {
					t.Fatal(err)
				}
				took := w.within(5*time.Second, "repaired", func() bool { return len(bs[2].names(bs[1])) == lost })
				t.Logf("%d at a time: repaired after %v", each, took)
				time.Sleep(7 * time.Second)
			}
			if each == 1 {
				w.within(time.Minute, "the slow one named by all", func() bool {
					return !slices.ContainsFunc(bs, func(x *box) bool { return x.rejected(r)[reasonSlow] == 0 })
				})
			}
			cancel()
		}
		for _, x := range bs {
			for _, y := range bs {
				if slices.ContainsFunc(x.mesh.Rejections(), func(o Rejection) bool { return o.Peer == y.id.ID() }) {
					t.Errorf("%s names %v", x.name, x.mesh.Rejections())
				}
			}
		}
	})
}

// Identities cost nothing to whoever has the secret: they do not count in its tunnel, and
// what it does there is held against the member whose tunnel it is.
func TestRogueHasManyNames(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(2)
		a := bs[0]
		r := newRogue(t, w, a)
		w.within(20*time.Second, "three hosts", func() bool { return oneMesh(append(bs, r.box)...) })
		known := a.mesh.Stats().Authors
		for _, p := range []purpose{purposeJoin, purposeSync, purposeCall} {
			m, err := New(Options{
				Identity: newIdentity(t), Secret: w.secret, Store: newDisk(), Tunnel: r.box, Network: r.host,
				Endpoints: func() []netip.AddrPort { return nil }, Log: w.log,
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.openEpoch(); err != nil {
				t.Fatal(err)
			}
			if l, err := m.open(t.Context(), p, a.id.ID(), netip.AddrPortFrom(a.control(), DefaultPort)); err == nil {
				t.Errorf("a %v in another's tunnel is served", p)
				l.close()
			}
		}
		if n := a.rejected(r)[reasonInvalid]; n != 3 || len(a.mesh.Rejections()) != 1 || a.mesh.Stats().Authors != known {
			t.Errorf("%d held against it, all: %v, hosts: %+v", n, a.mesh.Rejections(), a.mesh.State().Hosts)
		}
	})
}
