package router

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// The tables of `weft status` and `weft ps`, as text for an operator. Scripts
// that were written for Weave Net read them by column, so that the columns stay
// where they are; what is new goes to the end of a line or onto a line of its own.

// shortContainer cuts a Docker ID to the 12 characters that `docker ps` shows.
// Other containers (netns:/path, pid:N) are shown whole.
func shortContainer(id string) string {
	if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" {
		return id[:12]
	}
	return id
}

// at is a point in time as the tables show it.
func at(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 -0700 MST") }

// column pads s to width characters, not bytes.
func column(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// widest returns the width that all cells fit in, and at least least.
func widest[T any](least int, rows []T, cell func(T) string) int {
	for _, r := range rows {
		least = max(least, utf8.RuneCountInString(cell(r)))
	}
	return least
}

// oneLine keeps what others sent, such as an error, from breaking a table or the
// operator's terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return -1
		}
		return r
	}, s)
}

// form writes "key: value" lines with the keys set flush right.
type form struct{ strings.Builder }

func (f *form) line(key, format string, args ...any) {
	fmt.Fprintf(f, "%15s: %s\n", key, oneLine(fmt.Sprintf(format, args...)))
}

// known writes a line for a value that is known, and none for an empty one.
func (f *form) known(key, value string) {
	if value != "" {
		f.line(key, "%s", value)
	}
}

// count writes "3 (2 established, 1 failed)": the total, and how many of each
// state in the order given, leaving out the empty ones.
func count[T any](rows []T, state func(T) string, order []string) string {
	if len(rows) == 0 {
		return "0"
	}
	n := map[string]int{}
	for _, r := range rows {
		n[state(r)]++
	}
	var parts []string
	for _, s := range order {
		if n[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[s], s))
		}
	}
	if len(parts) == 0 {
		return fmt.Sprint(len(rows))
	}
	return fmt.Sprintf("%d (%s)", len(rows), strings.Join(parts, ", "))
}
