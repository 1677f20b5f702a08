package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// dnsperf is what dnsperf(1) tells at its end.
type dnsperf struct {
	sent, completed, lost float64 // questions
	seconds, perSecond    float64 // perSecond are completed ones
}

// readDnsperf reads what dnsperf has printed. It is an error if nothing was answered, or anything with an error: a server that
// refuses is the fastest.
func readDnsperf(out string) (p dnsperf, err error) {
	figure := func(to *float64, pattern string) {
		m := regexp.MustCompile(pattern).FindStringSubmatch(out)
		if m == nil {
			err = errors.Join(err, fmt.Errorf("no %q in what dnsperf says", pattern))
			return
		}
		var bad error
		*to, bad = strconv.ParseFloat(m[1], 64)
		err = errors.Join(err, bad)
	}
	figure(&p.sent, `Queries sent:\s+(\d+)`)
	figure(&p.completed, `Queries completed:\s+(\d+)`)
	figure(&p.lost, `Queries lost:\s+(\d+)`)
	figure(&p.seconds, `Run time \(s\):\s+([\d.]+)`)
	figure(&p.perSecond, `Queries per second:\s+([\d.]+)`)
	codes := regexp.MustCompile(`Response codes:[ \t]+([^\n]*)`).FindStringSubmatch(out)
	switch {
	case err != nil:
	case p.completed == 0:
		err = errors.New("no question was answered")
	case codes == nil || !strings.HasPrefix(codes[1], "NOERROR ") || strings.Contains(codes[1], ","):
		err = errors.New("not all answers are NOERROR")
	}
	if err != nil {
		if at := strings.Index(out, "Statistics:"); at > 0 { // before it may be a line for each question
			out = out[at:]
		}
		return p, fmt.Errorf("%w\n%s", err, out)
	}
	return p, nil
}
