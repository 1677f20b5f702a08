package netlab

import (
	"net"
	"slices"
	"testing"
	"time"
)

func TestDice(t *testing.T) {
	i := Impairment{Loss: 0.3, Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Seed: 7}
	type fate struct {
		lost  bool
		delay time.Duration
	}
	throw := func(d *dice) (fates []fate, losses int) {
		for range 10_000 {
			lost, delay := d.next()
			fates = append(fates, fate{lost, delay})
			if lost {
				losses++
			}
			if delay < 5*time.Millisecond || delay > 15*time.Millisecond {
				t.Fatalf("delay %v", delay)
			}
		}
		return fates, losses
	}
	first, losses := throw(newDice(i, "a", "b"))
	if losses < 2800 || losses > 3200 {
		t.Errorf("%d of 10000 frames lost, want about 3000", losses)
	}
	if again, _ := throw(newDice(i, "a", "b")); !slices.Equal(first, again) {
		t.Error("the same seed gives another sequence")
	}
	if back, _ := throw(newDice(i, "b", "a")); slices.Equal(first, back) {
		t.Error("both directions have one fate")
	}
	i.Seed = 8
	if other, _ := throw(newDice(i, "a", "b")); slices.Equal(first, other) {
		t.Error("the seed changes nothing")
	}
	for _, bad := range []Impairment{{Loss: 1.5}, {Loss: -1}, {Delay: -1}, {Jitter: -1}} {
		if bad.check() == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// udpPair makes a socket on each host, that of b known to that of a.
func udpPair(t *testing.T, a, b *Host) (from *net.UDPConn, to *net.UDPConn) {
	t.Helper()
	err := b.Do(func() (err error) {
		to, err = net.ListenUDP("udp", &net.UDPAddr{IP: b.Addr().AsSlice(), Port: 9000})
		return err
	})
	if err == nil {
		err = a.Do(func() (err error) {
			from, err = net.DialUDP("udp", nil, to.LocalAddr().(*net.UDPAddr))
			return err
		})
	}
	if err == nil {
		err = to.SetReadBuffer(4 << 20) // all packets of a test
	}
	if err != nil {
		t.Fatal(err)
	}
	return from, to
}

// arrivals sends n numbered packets from a to b and lists what arrives. It
// ends them with other packets until one of those arrives.
func arrivals(t *testing.T, a, b *Host, n int) (got []int) {
	t.Helper()
	from, to := udpPair(t, a, b)
	defer from.Close()
	defer to.Close()
	if err := to.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for buf := make([]byte, 100); ; {
			k, err := to.Read(buf)
			if err != nil || k != 2 {
				done <- err
				return
			}
			got = append(got, int(buf[0])<<8|int(buf[1]))
		}
	}()
	for i := range n {
		if _, err := from.Write([]byte{byte(i >> 8), byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := from.Write([]byte("end")); err != nil {
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
	}
}

func TestImpairLoss(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a, b, c := newHost(t, l, "a"), newHost(t, l, "b"), newHost(t, l, "c")
	// Neighbours stay known, so that only numbered packets meet the dice.
	for _, x := range []struct{ on, of *Host }{{a, b}, {b, a}} {
		run(t, x.on, "ip", "neigh", "replace", x.of.Addr().String(), "lladdr", x.of.cable.mac().String(), "dev", hostLink)
	}
	const n = 1000
	lossy := Impairment{Loss: 0.3, Seed: 42}
	if err := l.Impair(a, b, lossy); err != nil {
		t.Fatal(err)
	}
	first := arrivals(t, a, b, n)
	if len(first) < n*60/100 || len(first) > n*80/100 {
		t.Errorf("%d of %d packets arrived, want about 700", len(first), n)
	}
	if !pings(b, c, 5) || !pings(c, a, 5) {
		t.Error("another way was impaired too")
	}
	if err := l.Impair(a, b, lossy); err != nil {
		t.Fatal(err)
	}
	if again := arrivals(t, a, b, n); !slices.Equal(first, again) {
		t.Errorf("with the same seed, %d packets arrived after %d, or others", len(again), len(first))
	}
	// A cut holds through the forwarder, and so does healing.
	if err := l.Cut(a, b); err != nil {
		t.Fatal(err)
	}
	if pings(a, b, 1) {
		t.Error("a ping crossed a cut")
	}
	if err := l.Heal(a, b); err != nil {
		t.Fatal(err)
	}
	if got := arrivals(t, a, b, n); len(got) != n {
		t.Errorf("%d of %d packets arrived after healing", len(got), n)
	}
}

func TestImpairDelay(t *testing.T) {
	l := newLab(t)
	a, b := newHost(t, l, "a"), newHost(t, l, "b")
	if !pings(a, b, 5) {
		t.Fatal("no way")
	}
	if err := l.Impair(a, b, Impairment{Delay: 30 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if !pings(a, b, 5) {
		t.Error("no way")
	}
	if took := time.Since(start); took < 60*time.Millisecond {
		t.Errorf("a round trip took %v, want at least 60ms", took)
	}
	// Big segments and unfinished checksums of a real TCP connection pass.
	if err := l.Impair(a, b, Impairment{Delay: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	transfer(t, a, b, 3<<20, nil)
	if err := l.Impair(a, b, Impairment{}); err != nil {
		t.Fatal(err)
	}
	if !pings(a, b, 5) {
		t.Error("no way after the impairment")
	}
}
