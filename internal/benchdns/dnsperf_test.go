package main

import (
	"os/exec"
	"strings"
	"testing"
)

// said is what dnsperf 2.10 prints at its end.
const said = `[Status] Testing complete (interruption)

Statistics:

  Queries sent:         45402
  Queries completed:    45000 (99.11%)
  Queries lost:         401 (0.88%)
  Queries interrupted:  1 (0.00%)

  Response codes:       NOERROR 45000 (100.00%)
  Average packet size:  request 31, response 47
  Run time (s):         2.000000
  Queries per second:   22500.089617

  Average Latency (s):  0.000061 (min 0.000005, max 0.006198)
`

// A server that answers with errors, or not at all, gets no figures.
func TestReadDnsperf(t *testing.T) {
	if p, err := readDnsperf(said); err != nil || p != (dnsperf{45402, 45000, 401, 2, 22500.089617}) {
		t.Errorf("%+v, %v", p, err)
	}
	for _, x := range []struct{ old, new, want string }{
		{"NOERROR 45000 (100.00%)", "REFUSED 45000 (100.00%)", "NOERROR"},
		{"NOERROR 45000 (100.00%)", "NOERROR 44999 (99.99%), SERVFAIL 1 (0.01%)", "NOERROR"},
		{"NOERROR 45000 (100.00%)", "SERVFAIL 1 (0.01%), NOERROR 44999 (99.99%)", "NOERROR"},
		{"NOERROR 45000 (100.00%)", "", "NOERROR"},
		{"45000 (99.11%)", "0 (0.00%)", "no question was answered"},
		{"Queries lost", "Lost", "Queries lost"},
	} {
		if _, err := readDnsperf(strings.Replace(said, x.old, x.new, 1)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%q: %v", x.new, err)
		}
	}
}

// A client that has ended, or that got all it asked for, was no flood.
func TestGreedy(t *testing.T) {
	g, err := startGreedy(exec.Command("sh", "-c", "echo no server; exit 1"))
	if err != nil {
		t.Fatal(err)
	}
	<-g.ended
	if _, err := g.stop(); err == nil || !strings.Contains(err.Error(), "ended early") || !strings.Contains(err.Error(), "no server") {
		t.Error(err)
	}
	if g, err = startGreedy(exec.Command("cat")); err != nil { // which says nothing when it is interrupted
		t.Fatal(err)
	}
	if _, err := g.stop(); err == nil {
		t.Error("a client that says nothing has flooded")
	}
	p, err := readDnsperf(said)
	if err != nil || p.floods() != nil {
		t.Error(err, p.floods())
	}
	p.lost = 0
	if err := p.floods(); err == nil || !strings.Contains(err.Error(), "22701 questions a second") {
		t.Error(err)
	}
}

func TestIsAnswer(t *testing.T) {
	const tail = "\x00\x00\x00\x00\x02n1\x04weft\x05local\x00\x00\x01\x00\x01"
	for what, x := range map[string]struct {
		packet string
		want   bool
	}{
		"an address":       {"\x12\x34\x85\x80\x00\x01\x00\x01" + tail, true},
		"refused":          {"\x12\x34\x81\x05\x00\x01\x00\x00" + tail, false},
		"failed with data": {"\x12\x34\x81\x82\x00\x01\x00\x01" + tail, false},
		"no address":       {"\x12\x34\x85\x80\x00\x01\x00\x00" + tail, false},
		"the question":     {"\x12\x34\x01\x00\x00\x01\x00\x01" + tail, false},
		"nothing":          {"", false},
	} {
		if got := isAnswer([]byte(x.packet)); got != x.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
