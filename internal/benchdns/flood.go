package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"
)

// flood has one client ask with as many questions out as there are IDs, which is more than any server's queue
// holds, and tells how a second client fares that asks 200 times a second, each question once.
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
	fmt.Printf("%-8s %14s %12s %12s\n", "server", "other answered", "other p50 ms", "other p99 ms")
	for _, name := range chosen(only, coredns) {
		stop, err := start(w.server(name, coredns))
		if err == nil {
			greedy := exec.Command("dnsperf", "-s", "127.0.0.1", "-p", port, "-a", "127.0.0.2", "-d", w.path("queries"),
				"-c", "1", "-q", "65000", "-t", "1", "-l", strconv.Itoa(seconds+1))
			if err = greedy.Start(); err == nil {
				time.Sleep(500 * time.Millisecond)
				var share float64
				var took []time.Duration
				share, took, err = modest(time.Duration(seconds) * time.Second)
				greedy.Process.Kill()
				greedy.Wait()
				if err == nil && len(took) > 0 {
					ms := func(p int) float64 { return float64(took[len(took)*p/100].Microseconds()) / 1000 }
					fmt.Printf("%-8s %13.1f%% %12.1f %12.1f\n", name, 100*share, ms(50), ms(99))
				}
			}
			stop()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
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
				if n > 12 { // the ID is the time of the question, in units of 100 µs
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
