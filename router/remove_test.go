package router

import (
	"net/netip"
	"slices"
	"testing"

	"weft/api"
)

// dns-remove says which addresses' names it has removed, each once.
func TestNameRemoveSaysWhatIsGone(t *testing.T) {
	h := newRealHost(t)
	h.static, h.linger = map[nameKey]bool{}, map[nameKey]leaving{}
	h.zone = newZone("weft.local.", true)
	has, lacks := pfx("10.32.0.1/12").Addr(), "10.32.0.2"
	for _, name := range []string{"x.weft.local.", "y.weft.local."} {
		if err := h.changeStatic(addrKeys([]netip.Addr{has}, name), nil); err != nil {
			t.Fatal(err)
		}
	}
	c := dockerID("c1")
	h.stored(&attachment{Key: c, Name: "c1", Addrs: []netip.Prefix{pfx("10.32.0.1/12")}, Names: []attachedName{{FQDN: "a.weft.local.", Addr: has}, {FQDN: "b.weft.local.", Addr: has}}})
	for what, q := range map[string]nameRequest{
		"static":         {IPs: []string{has.String(), lacks}},
		"of a container": {Container: "c1"},
	} {
		if got, err := h.nameRemove(t.Context(), q); err != nil || !slices.Equal(got.Addresses, []netip.Addr{has}) {
			t.Errorf("%s: %v, %v", what, got.Addresses, err)
		}
	}
}

// What weft has attached can be looked up as an ID's, and is not freed as one's: the error says how.
func TestFreeOfWhatIsAttached(t *testing.T) {
	h := newRealHost(t)
	c := dockerID("c1")
	h.engine.pids[c] = h.process()
	if _, err := h.attach(t.Context(), attachRequest{Container: c}); err != nil {
		t.Fatal(err)
	}
	_, err := h.freeHeld(t.Context(), c, netip.Addr{})
	if hints := api.Hints(err); !isCode(err, 409) || !slices.Contains(hints, "weft detach "+c) {
		t.Errorf("%v, %v", err, hints)
	}
	if _, err := h.freeHeld(t.Context(), "x", netip.Addr{}); !isCode(err, 404) {
		t.Errorf("of nobody: %v", err)
	}
	h.says("c1[10.32.0.1/12]")
}
