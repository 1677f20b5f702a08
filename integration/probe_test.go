package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"weft/internal/netlab"
)

// probeVar makes this test binary a prober instead: "watch NAME TYPE", "stream NAME" or "flood NETWORK NAME".
const probeVar = "WEFT_TEST_PROBE"

const nameServer = "169.254.53.1:53"

// probe runs inside a host or workload.
func probe(what string) error {
	mode, name, _ := strings.Cut(what, " ")
	switch mode {
	case "watch":
		return probeWatch(name)
	case "stream":
		return probeStream(name)
	case "flood":
		return probeFlood(name)
	case "lookup": // by Go's own resolver; the name is the argument
		addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(context.Background(), os.Args[1])
		if err == nil {
			fmt.Println(strings.Join(addrs, "\n"))
			os.Exit(0)
		}
		return err
	}
	return fmt.Errorf("probe %q", what)
}

// sighting is an answer that differs from the one before.
type sighting struct {
	At    time.Time
	Addrs []string // sorted; or the targets of services; none: the name does not exist
}

// probeWatch asks for what a name has of a type (A or SRV) every two milliseconds and prints every change.
func probeWatch(question string) error {
	name, kind, _ := strings.Cut(question, " ")
	c := miekg.Client{Timeout: time.Second}
	conn, err := c.Dial(nameServer)
	if err != nil {
		return err
	}
	var last []string
	out := json.NewEncoder(os.Stdout)
	for first := true; ; {
		m, _, err := c.ExchangeWithConn(new(miekg.Msg).SetQuestion(name, miekg.StringToType[kind]), conn)
		if err != nil {
			continue
		}
		addrs := []string{}
		for _, rr := range m.Answer {
			switch rr := rr.(type) {
			case *miekg.A:
				addrs = append(addrs, rr.A.String())
			case *miekg.SRV:
				addrs = append(addrs, rr.Target)
			}
		}
		slices.Sort(addrs)
		if first || !slices.Equal(addrs, last) {
			if err := out.Encode(sighting{time.Now(), addrs}); err != nil {
				return err
			}
			first, last = false, addrs
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// streamed is what became of a stream of questions.
type streamed struct {
	Sent, Answered, Empty int
	MedianMS, LongestMS   float64
}

// probeStream asks a thousand times a second, each question once, until its input ends; then it waits
// for what is out still, and tells.
func probeStream(name string) error {
	conn, err := net.Dial("udp", nameServer)
	if err != nil {
		return err
	}
	// A second's answers come at once when the server is back.
	if raw, err := conn.(*net.UDPConn).SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
	}
	var mu sync.Mutex
	var s streamed
	var took []float64
	sent := map[uint16]time.Time{}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				continue // what ICMP brought
			}
			m := new(miekg.Msg)
			if m.Unpack(buf[:n]) != nil {
				continue
			}
			mu.Lock()
			if at, ok := sent[m.Id]; ok {
				delete(sent, m.Id)
				s.Answered++
				took = append(took, float64(time.Since(at).Microseconds())/1000)
				if len(m.Answer) == 0 {
					s.Empty++
				}
			}
			mu.Unlock()
		}
	}()
	end := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(end) }()
	tick := time.NewTicker(time.Millisecond)
	for id := uint16(0); ; id++ {
		q := new(miekg.Msg).SetQuestion(name, miekg.TypeA)
		q.Id = id
		p, err := q.Pack()
		if err != nil {
			return err
		}
		mu.Lock()
		sent[id] = time.Now()
		s.Sent++
		mu.Unlock()
		conn.Write(p)
		select {
		case <-tick.C:
			continue
		case <-end:
		}
		break
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		left := len(sent)
		mu.Unlock()
		if left == 0 {
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if slices.Sort(took); len(took) > 0 {
		s.MedianMS, s.LongestMS = took[len(took)/2], took[len(took)-1]
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// probeFlood asks as fast as it can from many sockets, over TCP from as many as the name server takes from one client, until its
// input ends, looks at no answer, and tells how often it has asked.
func probeFlood(question string) error {
	network, name, _ := strings.Cut(question, " ")
	p, err := new(miekg.Msg).SetQuestion(name, miekg.TypeA).Pack()
	if err != nil {
		return err
	}
	var sent atomic.Int64
	sockets, each := 8, int64(1)
	if network == "tcp" {
		sockets, each = 64, 500
		p = bytes.Repeat(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...), int(each))
	}
	for range sockets {
		conn, err := net.Dial(network, nameServer)
		if err != nil {
			return err
		}
		go func() {
			for {
				if _, err := conn.Write(p); err == nil {
					sent.Add(each)
				} else if network == "tcp" {
					return
				}
			}
		}()
		if network == "tcp" {
			go io.Copy(io.Discard, conn)
		}
	}
	io.Copy(io.Discard, os.Stdin)
	return json.NewEncoder(os.Stdout).Encode(streamed{Sent: int(sent.Load())})
}

// commander runs commands inside a host or workload.
type commander interface {
	Command(ctx context.Context, name string, args ...string) *netlab.Cmd
}

// startProbe starts a prober inside; it ends with the test.
func startProbe(t *testing.T, in commander, what string) (*netlab.Cmd, io.WriteCloser, *bufio.Scanner) {
	t.Helper()
	cmd := in.Command(t.Context(), os.Args[0])
	cmd.Env = append(cmd.Env, probeVar+"="+what)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Cancel(); cmd.Wait() })
	return cmd, stdin, bufio.NewScanner(stdout)
}

// watcher follows what a host's name server says to one name.
type nameWatcher struct {
	mu   sync.Mutex // guards seen
	seen []sighting
}

func watchName(t *testing.T, in commander, name string) *nameWatcher {
	t.Helper()
	return watchType(t, in, name, "A")
}

func watchType(t *testing.T, in commander, name, kind string) *nameWatcher {
	t.Helper()
	_, _, lines := startProbe(t, in, "watch "+name+" "+kind)
	w := new(nameWatcher)
	go func() {
		for lines.Scan() {
			var s sighting
			if json.Unmarshal(lines.Bytes(), &s) == nil {
				w.mu.Lock()
				w.seen = append(w.seen, s)
				w.mu.Unlock()
			}
		}
	}()
	return w
}

// until waits until the name says this, and gives the time since when it does.
func (w *nameWatcher) until(t *testing.T, who string, want ...string) time.Time {
	t.Helper()
	var at time.Time
	eventually(t, 30*time.Second, fmt.Sprintf("%s says %v", who, want), func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.seen); n == 0 || !slices.Equal(w.seen[n-1].Addrs, want) {
			return fmt.Errorf("seen %v", w.seen)
		} else {
			at = w.seen[n-1].At
		}
		return nil
	})
	return at
}

// all gives everything that was seen.
func (w *nameWatcher) all() []sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}
