package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// comparison is what was measured, in the order in which it is printed.
type comparison []row

// row is one server with one number of names.
type row struct {
	server string
	names  int
	rounds []result
}

// spread is a figure of all rounds.
type spread struct{ least, median, greatest float64 }

func (r row) of(figure func(result) float64) spread {
	var all []float64
	for _, x := range r.rounds {
		all = append(all, figure(x))
	}
	slices.Sort(all)
	return spread{all[0], all[len(all)/2], all[len(all)-1]}
}

func qps(r result) float64 { return r.qps }

// print writes the table, and how weft fares beside the others.
func (c comparison) print(to io.Writer) error {
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "server\tnames\tqueries/s\tCPU µs/q\tp50 µs\tp99 µs\tMiB\tlost\t")
	for _, r := range c {
		fmt.Fprintf(t, "%s\t%d\t", r.server, r.names)
		for _, f := range []struct {
			figure func(result) float64
			digits int
		}{
			{qps, 0}, {func(x result) float64 { return x.cpu }, 1}, {func(x result) float64 { return x.p50 }, 0}, {func(x result) float64 { return x.p99 }, 0},
			{func(x result) float64 { return x.mib }, 0}, {func(x result) float64 { return x.lost }, 0},
		} {
			s := r.of(f.figure)
			fmt.Fprintf(t, "%.*f (%.*f-%.*f)\t", f.digits, s.median, f.digits, s.least, f.digits, s.greatest)
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, line := range c.judge() {
		fmt.Fprintln(to, line)
	}
	return nil
}

// judge compares queries per second: weft with every other server of the same size, and each server with itself at the first
// size. A ratio of medians has the widest range beside it that the rounds allow.
func (c comparison) judge() (lines []string) {
	ratio := func(a, b spread) string {
		return fmt.Sprintf("%.2f (%.2f-%.2f)", a.median/b.median, a.least/b.greatest, a.greatest/b.least)
	}
	for _, r := range c {
		for _, o := range c {
			if r.server == "weft" && o.server != r.server && o.names == r.names {
				lines = append(lines, fmt.Sprintf("%d names: weft answers %s times as many as %s", r.names, ratio(r.of(qps), o.of(qps)), o.server))
			}
		}
	}
	for _, r := range c {
		if first := c[slices.IndexFunc(c, func(o row) bool { return o.server == r.server })]; first.names != r.names {
			lines = append(lines, fmt.Sprintf("%s: %s times as many with %d names as with %d", r.server, ratio(r.of(qps), first.of(qps)), r.names, first.names))
		}
	}
	return lines
}

// missed is an error that names what weft is to reach and does not, by the medians of queries per second: to be ahead of CoreDNS and
// dnsmasq at every size, to have 0.8 of unbound's, and, however many names there are, 0.8 of its own at the first size. What was not
// measured is not missed.
func (c comparison) missed() error {
	const share = 0.8
	var errs []error
	var first *row // of weft
	for i, r := range c {
		if r.server != "weft" {
			continue
		}
		if first == nil {
			first = &c[i]
		}
		times := func(o row) float64 { return r.of(qps).median / o.of(qps).median }
		for _, o := range c {
			if o.names != r.names {
				continue
			}
			switch {
			case (o.server == "coredns" || o.server == "dnsmasq") && times(o) <= 1:
				errs = append(errs, fmt.Errorf("missed: with %d names weft is to be ahead of %s, and answers %.2f times as many", r.names, o.server, times(o)))
			case o.server == "unbound" && times(o) < share:
				errs = append(errs, fmt.Errorf("missed: with %d names weft is to answer %.1f times as many as unbound at least, and answers %.2f times", r.names, share, times(o)))
			}
		}
		if times(*first) < share {
			errs = append(errs, fmt.Errorf("missed: with %d names weft is to answer %.1f times as many as with %d at least, and answers %.2f times", r.names, share, first.names, times(*first)))
		}
	}
	return errors.Join(errs...)
}
