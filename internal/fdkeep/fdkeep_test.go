package fdkeep

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a holder until the returned function is called.
func serve(t *testing.T, path string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, path) }()
	for c := (Client{path}); ; {
		if _, err := c.Names(); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// What comes to a held socket while nobody else has it is there for the next who takes it.
func TestAPacketWaits(t *testing.T) {
	c := Client{filepath.Join(t.TempDir(), "sock")}
	if _, err := c.Take(); err == nil {
		t.Error("without a holder something was taken")
	}
	stop := serve(t, c.Path)
	first, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{127, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	addr := first.LocalAddr().String()
	raw, err := first.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second replaces the first
		if err := c.Keep("udp one", raw); err != nil {
			t.Fatal(err)
		}
	}
	first.Close()
	peer, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := peer.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	held, err := c.Take()
	if err != nil || len(held) != 1 {
		t.Fatalf("%v, %v", held, err)
	}
	second, err := net.FilePacketConn(held["udp one"])
	held["udp one"].Close()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	second.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 10)
	if n, _, err := second.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if names, err := c.Names(); err != nil || !slices.Equal(names, []string{"udp one"}) {
		t.Errorf("%v, %v", names, err)
	}
	second.Close()
	if err := c.Drop("udp one"); err != nil {
		t.Error(err)
	}
	if err := c.Drop("udp two"); err != nil {
		t.Error(err)
	}
	again, err := net.ListenPacket("udp4", addr)
	if err != nil {
		t.Fatalf("dropped, and still there: %v", err)
	}
	again.Close()
	stop()
	if _, err := c.Names(); err == nil {
		t.Error("the holder has ended, and answers")
	}
}

func TestNonsense(t *testing.T) {
	c := Client{filepath.Join(t.TempDir(), "sock")}
	serve(t, c.Path)
	for _, text := range []string{"X", "K", "Kname without a descriptor", "Tx"} {
		if err := c.do(text, nil, onlyDone); err != errUnknown {
			t.Errorf("%q: %v", text, err)
		}
	}
}
