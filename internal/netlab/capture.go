package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"
)

// CaptureOptions says what a capture looks for and keeps.
type CaptureOptions struct {
	Markers [][]byte // byte strings to look for in every frame; see Contains
	File    string   // pcap file to write every frame to. "": none
}

// Capture listens to a host's cable at the switch: to all that the host sends,
// before impairments and cuts, and all that reaches it, after them.
type Capture struct {
	socket  *packetSocket
	markers [][]byte
	done    chan struct{} // closed when the last frame is counted
	stop    sync.Once

	mu    sync.Mutex // guards the fields below
	sum   Summary
	other map[string]bool
	found []bool // by marker
	pcap  *pcapWriter
}

// Summary counts the frames of a capture.
type Summary struct {
	Frames map[Class]int // by class, both directions; without classes that had none
	Bytes  int64
	Other  []string // what frames of class Other were: a line for each kind, at most 100
	Lost   uint64   // frames that came too fast to be read. Unless it is 0, nothing is proven absent
	Err    error    // of writing the pcap file, once stopped
}

const maxOther = 100

// Capture starts listening. The capture must be stopped; Lab.Close does so too.
func (h *Host) Capture(o CaptureOptions) (*Capture, error) {
	c := &Capture{done: make(chan struct{}), other: make(map[string]bool), found: make([]bool, len(o.Markers))}
	c.sum.Frames = make(map[Class]int)
	for _, m := range o.Markers {
		if len(m) == 0 {
			return nil, errors.New("capture: a marker is empty, so every frame would hold it")
		}
		c.markers = append(c.markers, bytes.Clone(m))
	}
	links := h.lab.cabling
	link, err := links.links.LinkByName(h.cable.port)
	if err != nil {
		return nil, fmt.Errorf("capture cable of %s: %w", h.name, err)
	}
	if o.File != "" {
		if c.pcap, err = createPcap(o.File); err != nil {
			return nil, fmt.Errorf("capture cable of %s: %w", h.name, err)
		}
	}
	err = links.space.do(func() (err error) {
		c.socket, err = openPacketSocket(link.Attrs().Index, bothDirections)
		return err
	})
	if err == nil {
		err = h.lab.own(func() error { h.lab.captures = append(h.lab.captures, c); return nil })
	}
	if err != nil {
		if c.socket != nil {
			c.socket.close()
		}
		if c.pcap != nil {
			c.pcap.close()
		}
		return nil, fmt.Errorf("capture cable of %s: %w", h.name, err)
	}
	go func() {
		defer close(c.done)
		c.socket.each(c.count)
	}()
	return c, nil
}

// count takes in a frame.
func (c *Capture) count(frame []byte) {
	class, line := classify(frame)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Frames[class]++
	c.sum.Bytes += int64(len(frame))
	if class == Other && !c.other[line] && len(c.other) < maxOther {
		c.other[line] = true
		c.sum.Other = append(c.sum.Other, line)
	}
	for i, m := range c.markers {
		if !c.found[i] && bytes.Contains(frame, m) {
			c.found[i] = true
		}
	}
	if c.pcap != nil {
		c.pcap.write(frame, time.Now())
	}
}

// Summary counts what was read so far.
func (c *Capture) Summary() Summary {
	lost := c.socket.losses()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sum
	s.Lost = lost
	s.Frames = make(map[Class]int)
	for class, n := range c.sum.Frames {
		s.Frames[class] = n
	}
	s.Other = append([]string(nil), s.Other...)
	return s
}

// Contains reports whether a frame so far held the marker, which must be one
// of CaptureOptions.Markers. A marker across the border of two frames is not
// seen, so it should be sent many times. That a marker was absent cannot be
// known, and is an error, when frames were lost.
func (c *Capture) Contains(marker []byte) (bool, error) {
	lost := c.socket.losses()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, m := range c.markers {
		if bytes.Equal(m, marker) {
			if lost > 0 && !c.found[i] {
				return false, fmt.Errorf("look for marker: %d frames were lost, so it may have been in one", lost)
			}
			return c.found[i], nil
		}
	}
	return false, fmt.Errorf("look for marker %.40q: it was not among the capture's markers", marker)
}

// Stop ends the capture after the frames that are on the machine already, and
// counts them all. It may be repeated.
func (c *Capture) Stop() Summary {
	c.stop.Do(func() {
		c.socket.interrupt()
		<-c.done
		c.socket.drain(c.count)
		c.socket.losses()
		c.socket.close()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.pcap != nil {
			c.sum.Err = c.pcap.close()
		}
	})
	return c.Summary()
}
