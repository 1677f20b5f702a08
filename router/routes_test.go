package router

import (
	"errors"
	"net/netip"
	"testing"

	"weft/api"
)

// Names of an address are found by their container, and by "-" if they belong to none.
func TestNamesOverTheAPI(t *testing.T) {
	r := newFounder(t).start()
	r.o.Domain, r.static = "weft.local", map[nameKey]bool{}
	one, two := netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.2")
	r.attached = map[string]*attachment{"netns:/a": {Key: "netns:/a", Names: []attachedName{
		{FQDN: "web.weft.local.", Addr: one}, {FQDN: "www.weft.local.", Addr: one}, {FQDN: "web.weft.local.", Addr: two}}}}
	if err := r.changeStatic([]nameKey{{Name: "z.weft.local.", Addr: one}, {Name: "db.weft.local.", Addr: one},
		{Name: "alias.weft.local.", Type: typeCNAME, Data: "db.weft.local."}}, nil); err != nil {
		t.Fatal(err)
	}
	client := serve(t, r)
	for _, step := range []struct {
		path, want string
		code       int
	}{
		{"netns:%2Fa/10.32.0.1", "web.weft.local.\nwww.weft.local.\n", 0},
		{"netns:%2Fa/10.32.0.2", "web.weft.local.\n", 0},
		{"netns:%2Fa/10.32.0.2?fqdn=www.weft.local", "", 404},
		{"netns:%2Fa/10.32.0.3", "", 404},
		{"-/10.32.0.1", "db.weft.local.\nz.weft.local.\n", 0},
		{"-/10.32.0.1?fqdn=db.weft.local", "db.weft.local.\n", 0},
		{"-/10.32.0.1?fqdn=web.weft.local", "", 404},
		{"-/10.32.0.2", "", 404},
		{"-/garbage", "", 400},
	} {
		var got string
		err := client.Do(t.Context(), "GET", "/name/"+step.path, nil, &got)
		e, _ := errors.AsType[*api.Error](err)
		if step.code == 0 && (err != nil || got != step.want) || step.code != 0 && (e == nil || e.Code != step.code) {
			t.Errorf("%s: %q, %v", step.path, got, err)
		}
	}
}
