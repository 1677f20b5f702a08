package router

import (
	"errors"
	"net/netip"
	"testing"

	"weft/api"
)

// A stopped container that is renamed is known by its new name; the old one means who has it by then.
func TestRenamedWhileStopped(t *testing.T) {
	h := newRealHost(t)
	old, web := dockerID("c1"), dockerID("we") // their names are c1 and we
	h.engine.pids[old], h.engine.pids[web] = 0, h.process()
	h.stored(&attachment{Key: old, Name: "we", Default: "we.weft.local.", Addrs: []netip.Prefix{pfx("10.32.0.1/12")}, Names: []attachedName{{FQDN: "we.weft.local.", Addr: pfx("10.32.0.1/12").Addr()}}})
	h.start(h.f.restart(h.Router, func() {}))
	if _, err := h.attach(t.Context(), attachRequest{Container: web}); err != nil {
		t.Fatal(err)
	}
	for range 20 { // before the event: the engine knows
		if key, err := h.keyOf(t.Context(), "we"); err != nil || key != web {
			t.Fatalf("it means %s, %v", key, err)
		}
	}
	h.engine.away = true
	if key, err := h.keyOf(t.Context(), "we"); !isCode(err, 409) || len(api.Hints(err)) == 0 {
		t.Errorf("without an engine it means %q, %v", key, err)
	}
	h.engine.away = false
	h.lookAt(t.Context(), old)
	stored, err := loadAttachments(h.db.Load)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*attachment{h.attached[old], stored[old]} {
		if a.Name != "c1" || a.running || len(a.Names) != 1 || a.Names[0].FQDN != "c1.weft.local." {
			t.Errorf("afterwards: %+v", a)
		}
	}
	h.engine.away = true
	for name, want := range map[string]string{"we": web, "c1": old, old: old, old[:12]: old} {
		if key, err := h.keyOf(t.Context(), name); err != nil || key != want {
			t.Errorf("%s means %s, %v", name, key, err)
		}
	}
}

func isCode(err error, code int) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}
