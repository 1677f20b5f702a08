package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/internal/netlab"
	"weft/router"
)

// What the demonstration makes sure of before it says so.

// demoPatience is how long a piece of news may take to reach every host.
const demoPatience = 10 * time.Second

// await looks again and again until nothing is missing.
func (d *demo) await(ctx context.Context, missing func(context.Context) string) error {
	wait, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for last := ""; ; {
		m := missing(wait)
		if m == "" {
			return nil
		}
		if wait.Err() == nil || last == "" { // what a look says that was cut short is not to be told
			last = m
		}
		select {
		case <-look.C:
		case <-wait.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("waited %v, and %s", demoPatience, last)
		}
	}
}

// awaitNames waits until the server of every host knows every name. A name is
// known where it was given at once, and elsewhere a moment later.
func (d *demo) awaitNames(ctx context.Context) error {
	return d.await(ctx, func(ctx context.Context) string {
		for _, h := range d.hosts {
			for _, w := range d.workloads {
				out, _, err := h.RunContext(ctx, d.self, "dns-lookup", w.name)
				if err != nil || strings.TrimSpace(out) != w.addr {
					return fmt.Sprintf("%s does not know %s as %s", h.Name(), w.name, w.addr)
				}
			}
		}
		return ""
	})
}

// awaitTunnels waits until every host has a tunnel to each other one.
func (d *demo) awaitTunnels(ctx context.Context) error {
	return d.await(ctx, func(ctx context.Context) string {
		for _, h := range d.hosts {
			out, _, err := h.RunContext(ctx, d.self, "report")
			if err != nil {
				return fmt.Sprintf("%s does not report: %v", h.Name(), err)
			}
			var r router.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				return fmt.Sprintf("%s does not report: %v", h.Name(), err)
			}
			for _, other := range d.hosts {
				if other != h && !slices.ContainsFunc(r.Router.Connections, func(c router.ConnectionReport) bool {
					return c.Nickname == other.Name() && c.State == "established"
				}) {
					return fmt.Sprintf("%s has no tunnel to %s", h.Name(), other.Name())
				}
			}
		}
		return ""
	})
}

// showWire says what went over the cables, and proves what did not.
func (d *demo) showWire(context.Context) error {
	total := map[netlab.Class]int{}
	var others []string
	var bytes int64
	for i, c := range d.captures {
		name := d.hosts[i].Name()
		s := c.Stop()
		if s.Err != nil {
			return fmt.Errorf("watch the cable of %s: %w", name, s.Err)
		}
		if s.Lost > 0 {
			return fmt.Errorf("watch the cable of %s: %d frames came too fast to be read, so nothing is proven", name, s.Lost)
		}
		found, err := c.Contains([]byte(demoMarker))
		if err != nil {
			return err
		}
		if found {
			return fmt.Errorf("a page was seen in clear on the cable of %s", name)
		}
		for class, n := range s.Frames {
			total[class] += n
		}
		others = append(others, s.Other...)
		bytes += s.Bytes
	}
	if len(others) > 0 {
		return fmt.Errorf("unexpected frames on the wire: %s", strings.Join(others, "; "))
	}
	var parts []string
	for _, class := range slices.Sorted(maps.Keys(total)) {
		if total[class] > 0 {
			parts = append(parts, fmt.Sprintf("%d %v", total[class], class))
		}
	}
	d.step("the wire carried %d bytes in frames of: %s; nothing else, and no page in clear", bytes, strings.Join(parts, ", "))
	return nil
}

// watchedWriter interrupts the demonstration when nobody can read it any more.
type watchedWriter struct {
	io.Writer
	interrupt context.CancelFunc
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err != nil {
		w.interrupt()
	}
	return n, err
}

// keptMeshes says which IDs --end takes.
func keptMeshes() string {
	ids, err := netlab.Kept()
	if err != nil || len(ids) == 0 {
		return "none was kept"
	}
	return "kept are: " + strings.Join(ids, ", ")
}
