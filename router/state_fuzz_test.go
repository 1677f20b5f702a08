package router

import (
	"maps"
	"slices"
	"testing"

	"weft/ipam"
	"weft/peer"
)

// Whatever the state file holds, reading it gives an error or something that can be
// worked with.
func FuzzStateFile(f *testing.F) {
	f.Add([]byte(`{"Key":"c","Name":"web","NetNS":"/proc/1/ns/net","NSID":"4:4026531840","Addrs":["10.32.0.1/12"],"Claimed":["10.32.0.1"],"Names":[{"FQDN":"web.weft.local.","Addr":"10.32.0.1"}],"Default":"web.weft.local."}`))
	f.Add([]byte(`["host1:6783","192.0.2.1:6783"]`))
	f.Add([]byte(`{"FQDN":"printer.weft.local.","Addr":"192.0.2.7"}`))
	f.Add([]byte("172.17.0.1"))
	f.Add([]byte(`{"Key":"c","Addrs":["","fe80::1%eth0/64"],"Names":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		db := memory{bucketAttach: {"c": b}, bucketStatic: {"x": b}, bucketRouter: {keyBridge: b, keyTargets: b}}
		if as, err := loadAttachments(db.Load); err == nil {
			a := as["c"].clone()
			a.rename("new.weft.local.")
			whole, self := pfx("10.32.0.0/12"), ipam.Owner(peer.ID{1})
			ipam.NewAllocator(self, whole, whole).Restore(a.allocations())
			a.running = true
			makePlan(inputs{Self: peer.ID{1}, Range: whole, Local: []*attachment{a}})
		}
		if names, err := loadStatic(db.Load); err == nil {
			_, _ = nameDrafts(nil, slices.Collect(maps.Keys(names))) // what cannot be announced is reported
		}
		if a, err := loadBridge(db.Load); err == nil && !a.IsValid() && len(b) > 0 {
			t.Errorf("%q is read as the address %v", b, a)
		}
		_, _ = loadTargets(db[bucketRouter])
	})
}
