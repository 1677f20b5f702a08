package peer

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestPaths plays scripts. A line is one Choose: the second, the candidates as
// letters, then what the device says: at=LETTER its endpoint, hs=SECOND its last
// handshake, rx=, tx=; behind "->" the answer, "-" for "leave alone".
func TestPaths(t *testing.T) {
	for name, script := range map[string]string{
		"a new peer: candidates take turns": `
			0  abc             -> a
			1  abc at=a tx=148 -> -
			4  abc at=a tx=148 -> -
			5  abc at=a tx=148 -> b
			9  abc at=b tx=296 -> -
			10 abc at=b tx=296 -> c
			15 abc at=c tx=444 -> a
			20 abc at=a tx=592 -> b`,
		"not applied: said again": `
			0  ab  -> a
			1  ab  -> a
			6  ab  -> b
			7  ab  -> b`,
		"nothing was sent to it yet: a second longer": `
			0  ab              -> a
			1  ab at=a tx=148  -> -
			5  ab at=a tx=148  -> b
			10 ab at=b tx=148  -> -
			11 ab at=b tx=148  -> a`,
		"an answer: left alone, for ever": `
			0   ab                          -> a
			5   ab at=a tx=148              -> b
			6   ab at=b tx=296 hs=6 rx=92   -> -
			30  ab at=b tx=400 hs=6 rx=124  -> -
			59  ab at=b tx=500 hs=6 rx=124  -> -
			60  ab at=b tx=500 hs=6 rx=156  -> -
			126 ab at=b tx=900 hs=126 rx=400 -> -`,
		"silent for 30 s: its own endpoint first, then the others": `
			0   ab                          -> a
			1   ab at=a tx=148 hs=1 rx=92   -> -
			30  ab at=a tx=200 hs=1 rx=92   -> -
			31  ab at=a tx=200 hs=1 rx=92   -> -
			36  ab at=a tx=348 hs=1 rx=92   -> b
			41  ab at=b tx=496 hs=1 rx=92   -> a
			42  ab at=a tx=644 hs=42 rx=184 -> -`,
		"session of 180 s is dead, though something was received": `
			0   ab at=b hs=-170 rx=1        -> -
			9   ab at=b hs=-170 rx=2        -> -
			10  ab at=b hs=-170 rx=3        -> -
			15  ab at=b hs=-170 rx=4 tx=1   -> a`,
		"a restarted router finds a live session": `
			0   ab at=x hs=-60 rx=5000      -> -
			20  ab at=x hs=-60 rx=5032      -> -
			49  ab at=x hs=-60 rx=5032      -> -
			50  ab at=x hs=-60 rx=5032      -> -
			55  ab at=x hs=-60 rx=5032 tx=1 -> a
			60  ab at=a hs=-60 rx=5032 tx=2 -> b
			65  ab at=b hs=-60 rx=5032 tx=3 -> x
			70  ab at=x hs=-60 rx=5032 tx=4 -> a`,
		"candidates change: at once": `
			0  ab              -> a
			1  ab at=a tx=148  -> -
			2  cd at=a tx=148  -> c
			3  cd at=c tx=148  -> -
			4  dc at=c tx=148  -> -
			8  dc at=c tx=296  -> d`,
		"no candidates": `
			0            -> -
			1  at=a      -> -
			20 at=a tx=1 -> a`,
		"roamed: the peer wrote from elsewhere": `
			0  ab              -> a
			3  ab at=x tx=148  -> -
			7  ab at=x tx=148  -> -
			9  ab at=x tx=296 hs=9 rx=92 -> -`,
		"one candidate": `
			0  a              -> a
			5  a at=a tx=148  -> a
			10 a at=a tx=296  -> a`,
		"peer renewed: counters start again": `
			0  ab at=a hs=-5 rx=100 tx=900  -> -
			1  ab at=a                      -> -
			5  ab at=a tx=148               -> -
			6  ab at=a tx=148               -> b`,
		"clock steps back": `
			100 ab              -> a
			50  ab at=a tx=148  -> b
			51  ab at=b tx=296  -> -`,
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPaths()
			for line := range strings.Lines(strings.TrimSpace(script)) {
				line = strings.TrimSpace(line)
				now, candidates, st, want := pathLine(t, line)
				got := letterOf(p.Choose(now, Key{1}, candidates, st))
				if got != want {
					t.Fatalf("%s: got %s", line, got)
				}
			}
		})
	}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func second(s string) time.Time {
	n, _ := strconv.Atoi(s)
	return epoch.Add(time.Duration(n) * time.Second)
}

func pathLine(t *testing.T, line string) (now time.Time, cs []netip.AddrPort, st Status, want string) {
	in, want, ok := strings.Cut(line, "->")
	if !ok {
		t.Fatal("bad line: " + line)
	}
	f := strings.Fields(in)
	now = second(f[0])
	for _, w := range f[1:] {
		n, v, ok := strings.Cut(w, "=")
		num, _ := strconv.ParseInt(v, 10, 64)
		switch {
		case !ok:
			for _, c := range w {
				cs = append(cs, endpointOf(string(c)))
			}
		case n == "at":
			st.Endpoint = endpointOf(v)
		case n == "hs":
			st.LastHandshake = second(v)
		case n == "rx":
			st.RxBytes = num
		case n == "tx":
			st.TxBytes = num
		}
	}
	return now, cs, st, strings.TrimSpace(want)
}

func endpointOf(letter string) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, letter[0]}), 6783)
}

func letterOf(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return string(rune(a.Addr().As4()[3]))
}

func TestPathsForgetAndBound(t *testing.T) {
	p := NewPaths()
	one := []netip.AddrPort{endpointOf("a"), endpointOf("b")}
	p.Choose(epoch, Key{1}, one, Status{})
	p.Forget(Key{1})
	if len(p.peers) != 0 {
		t.Error("not forgotten")
	}
	for i := range maxPaths + 3 {
		k := Key{2, byte(i), byte(i >> 8), byte(i >> 16)}
		p.Choose(epoch.Add(time.Duration(i)), k, one, Status{})
	}
	if len(p.peers) != maxPaths {
		t.Errorf("%d records", len(p.peers))
	}
	for i := range 3 {
		if p.peers[Key{2, byte(i)}] != nil {
			t.Errorf("record %d, one of the oldest, is kept", i)
		}
	}
}

// FuzzPaths: whatever the device says, the answer is nothing or one of the
// endpoints that the peer is known to have.
func FuzzPaths(f *testing.F) {
	f.Add([]byte{0, 1, 1, 0, 0, 5, 2, 1, 1, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, now := NewPaths(), epoch
		known := make(map[netip.AddrPort]bool)
		for ; len(b) >= 5; b = b[5:] {
			now = now.Add(time.Duration(int8(b[0])) * time.Second)
			var cs []netip.AddrPort
			for i := range b[1] % 4 {
				cs = append(cs, endpointOf(fmt.Sprintf("%c", 'a'+i)))
			}
			st := Status{RxBytes: int64(b[3]), TxBytes: int64(b[4])}
			if b[2]&1 != 0 {
				st.Endpoint = endpointOf(fmt.Sprintf("%c", 'a'+b[2]>>4))
			}
			if b[2]&2 != 0 {
				st.LastHandshake = now.Add(-time.Duration(b[3]) * time.Second)
			}
			known[st.Endpoint] = true
			for _, c := range cs {
				known[c] = true
			}
			if got := p.Choose(now, Key{1}, cs, st); got.IsValid() && !known[got] {
				t.Fatalf("chose %s, which nobody named", got)
			}
		}
	})
}
