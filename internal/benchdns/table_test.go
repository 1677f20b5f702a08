package main

import (
	"strings"
	"testing"
)

func TestComparison(t *testing.T) {
	rounds := func(qps ...float64) (rs []result) {
		for _, q := range qps {
			rs = append(rs, result{qps: q, cpu: 4.25, p50: 40, p99: 100, mib: 9})
		}
		return rs
	}
	c := comparison{
		{"weft", 10, rounds(1000, 900, 1100)}, {"dnsmasq", 10, rounds(500, 550, 400)},
		{"weft", 100000, rounds(800)}, {"dnsmasq", 100000, rounds(500)},
	}
	const want = `   server   names        queries/s       CPU µs/q      p50 µs         p99 µs      MiB     lost
     weft      10  1000 (900-1100)  4.2 (4.2-4.2)  40 (40-40)  100 (100-100)  9 (9-9)  0 (0-0)
  dnsmasq      10    500 (400-550)  4.2 (4.2-4.2)  40 (40-40)  100 (100-100)  9 (9-9)  0 (0-0)
     weft  100000    800 (800-800)  4.2 (4.2-4.2)  40 (40-40)  100 (100-100)  9 (9-9)  0 (0-0)
  dnsmasq  100000    500 (500-500)  4.2 (4.2-4.2)  40 (40-40)  100 (100-100)  9 (9-9)  0 (0-0)
10 names: weft answers 2.00 (1.64-2.75) times as many as dnsmasq
100000 names: weft answers 1.60 (1.60-1.60) times as many as dnsmasq
weft: 0.80 (0.73-0.89) times as many with 100000 names as with 10
dnsmasq: 1.00 (0.91-1.25) times as many with 100000 names as with 10
`
	var b strings.Builder
	if err := c.print(&b); err != nil || b.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, b.String(), want)
	}
}
