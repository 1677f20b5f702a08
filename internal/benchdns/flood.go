package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"
)

// flood has one client ask with as many questions out as find no room in a server's queue, and tells how a second client fares
// that asks 200 times a second, each question once. The echo is left out: it answers nothing.
func flood(only string, seconds int, coredns string) error {
	dir, err := os.MkdirTemp("", "benchdns")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w := work{dir: dir, names: 10000}
	if err := w.prepare(); err != nil {
		return err
	}
	servers := slices.DeleteFunc(chosen(only, coredns), func(name string) bool { return name == "echo" })
	fmt.Printf("%-8s %13s %14s %14s %12s %12s\n", "server", "flood asks/s", "flood answered", "other answered", "other p50 ms", "other p99 ms")
	for _, name := range servers {
		if err := w.flooded(name, seconds, coredns); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (w work) flooded(name string, seconds int, coredns string) error {
	_, stop, err := w.start(name, coredns)
	if err != nil {
		return err
	}
	defer stop()
	// Any more questions out, and dnsperf is busy with itself: with 65,000 it asks a tenth as often.
	greedy, err := startGreedy(exec.Command("dnsperf", "-s", "127.0.0.1", "-p", port, "-a", "127.0.0.2", "-d", w.path("queries"),
		"-c", "1", "-q", "20000", "-t", "1", "-l", strconv.Itoa(seconds+60)))
	if err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // until the server's queue is full; that it was, greedy.stop sees
	share, took, err := modest(time.Duration(seconds) * time.Second)
	p, floodErr := greedy.stop()
	if err := errors.Join(err, floodErr); err != nil {
		return err
	}
	at := func(percent int) string {
		if len(took) == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f", float64(took[len(took)*percent/100].Microseconds())/1000)
	}
	fmt.Printf("%-8s %13.0f %13.1f%% %13.1f%% %12s %12s\n", name, p.sent/p.seconds, 100*p.completed/p.sent, 100*share, at(50), at(99))
	return nil
}

// greedy is dnsperf as the client that floods.
type greedy struct {
	cmd   *exec.Cmd
	out   bytes.Buffer
	ended chan struct{} // closed when it is; then out and err may be read
	err   error
}

func startGreedy(cmd *exec.Cmd) (*greedy, error) {
	g := &greedy{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &g.out, &g.out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		g.err = cmd.Wait()
		close(g.ended)
	}()
	return g, nil
}

// stop ends the flood, and says how much of one it was.
func (g *greedy) stop() (dnsperf, error) {
	select {
	case <-g.ended:
		return dnsperf{}, fmt.Errorf("the flood ended early: %v\n%s", g.err, g.out.String())
	default:
	}
	g.cmd.Process.Signal(os.Interrupt)
	select {
	case <-g.ended:
	case <-time.After(10 * time.Second):
		g.cmd.Process.Kill()
		<-g.ended
	}
	p, err := readDnsperf(g.out.String())
	if err != nil {
		return p, fmt.Errorf("the flood: %w", err)
	}
	return p, p.floods()
}

// floods: a server that has answered everything was not asked for more than it can do.
func (p dnsperf) floods() error {
	if p.lost == 0 {
		return fmt.Errorf("no flood: of %.0f questions a second all were answered", p.sent/p.seconds)
	}
	return nil
}

// isAnswer says whether a packet is a reply without an error and with at least one record.
func isAnswer(p []byte) bool {
	return len(p) > 12 && p[2]&0x80 != 0 && p[3]&0x0f == 0 && binary.BigEndian.Uint16(p[6:]) > 0
}

// modest is the second client. Its address is one whose questions weft reads from the same socket as the first one's: eight away.
func modest(d time.Duration) (share float64, took []time.Duration, err error) {
	dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IP{127, 0, 0, 10}}}
	var conns []net.Conn // the kernel gives each to one of a server's sockets
	for range 8 {
		c, err := dialer.Dial("udp", "127.0.0.1:"+port)
		if err != nil {
			return 0, nil, err
		}
		defer c.Close()
		conns = append(conns, c)
	}
	query := []byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02n1\x04weft\x05local\x00\x00\x01\x00\x01")
	answers := make(chan time.Duration, 100000)
	sent := 0
	begin := time.Now()
	for _, c := range conns {
		go func() {
			buf := make([]byte, 512)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if isAnswer(buf[:n]) { // the ID is the time of the question, in units of 100 µs
					now := uint16(time.Since(begin) / (100 * time.Microsecond))
					answers <- time.Duration(now-binary.BigEndian.Uint16(buf)) * 100 * time.Microsecond
				}
			}
		}()
	}
	for time.Since(begin) < d {
		binary.BigEndian.PutUint16(query, uint16(time.Since(begin)/(100*time.Microsecond)))
		conns[sent%len(conns)].Write(query)
		sent++
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(time.Second)
	for len(answers) > 0 {
		took = append(took, <-answers)
	}
	slices.Sort(took)
	return float64(len(took)) / float64(sent), took, nil
}
