package router

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"weft/host"
)

// What `weft status` says of a firewall in the way, a port that is taken or a
// kernel without IPv6 comes with the command to type, however deep it is wrapped.
func TestDescribeNamesTheWayOut(t *testing.T) {
	blocked := &host.BlockedError{Obstacles: []host.Obstacle{{What: "chain x of table ip y (nftables)", Command: "nft 'insert rule ip y x accept'"}}}
	got := describe(errors.Join(nil, fmt.Errorf("first"), errors.Join(fmt.Errorf("set: %w", blocked), &Error{Msg: "second", Tip: "do that"})))
	for _, want := range []string{"first", "chain x of table ip y", "second", "; try: nft 'insert rule ip y x accept'; do that"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	if strings.Contains(got, "\n") {
		t.Errorf("not one line: %q", got)
	}
	if got := describe(errors.Join(nil, nil)); got != "" {
		t.Errorf("no error is described as %q", got)
	}
}
