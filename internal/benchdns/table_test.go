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

// What is to be reached is judged by medians, each size by itself.
func TestMissed(t *testing.T) {
	at := func(server string, names int, qps ...float64) row {
		r := row{server: server, names: names}
		for _, q := range qps {
			r.rounds = append(r.rounds, result{qps: q})
		}
		return r
	}
	few, many := []row{at("weft", 10, 1000, 100, 1200)}, at("weft", 100000, 800)
	for _, x := range []struct {
		what string
		c    comparison
		want []string
	}{
		{"all is reached", append(few, at("echo", 10, 9000), at("unbound", 10, 1250), at("dnsmasq", 10, 999), at("coredns", 10, 1, 999, 5000), many, at("dnsmasq", 100000, 799)), nil},
		{"nothing else was measured", comparison{at("weft", 10, 1)}, nil},
		{"weft was not measured", comparison{at("unbound", 10, 1000), at("dnsmasq", 10, 900)}, nil},
		{"unbound", append(few, at("unbound", 10, 1251)), []string{"10 names weft is to answer 0.8 times as many as unbound"}},
		{"as many as the others", append(few, at("dnsmasq", 10, 1000), at("coredns", 10, 1001)), []string{"10 names weft is to be ahead of dnsmasq", "10 names weft is to be ahead of coredns"}},
		{"at one size", append(few, at("dnsmasq", 10, 900), many, at("dnsmasq", 100000, 900)), []string{"100000 names weft is to be ahead of dnsmasq, and answers 0.89"}},
		{"not flat", append(few, at("weft", 10000, 799), at("weft", 100000, 700)), []string{"10000 names weft is to answer 0.8 times as many as with 10 ", "100000 names weft is to answer 0.8 times as many as with 10 at least, and answers 0.70"}},
	} {
		var lines []string
		if err := x.c.missed(); err != nil {
			lines = strings.Split(err.Error(), "\n")
		}
		if len(lines) != len(x.want) {
			t.Errorf("%s: %q", x.what, lines)
			continue
		}
		for i, want := range x.want {
			if !strings.Contains(lines[i], want) {
				t.Errorf("%s: %q, want %q", x.what, lines[i], want)
			}
		}
	}
}
