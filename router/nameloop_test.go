package router

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"weft/dns"
	"weft/mesh"
)

// fullDisk takes nothing while it is full.
type fullDisk struct {
	mesh.Store
	full bool
}

func (d *fullDisk) Apply(bucket string, put map[string][]byte, del []string) error {
	if d.full {
		return unix.ENOSPC
	}
	return d.Store.Apply(bucket, put, del)
}

// A container that has stopped is not answered here any more, whatever the disk says.
func TestNamesGoWithoutADisk(t *testing.T) {
	f := newFounder(t)
	disk := &fullDisk{}
	f.store = func(s mesh.Store) mesh.Store { disk.Store = s; return disk }
	r := f.start()
	r.zone = newZone("weft.local.", true)
	web, db := nameKey{Name: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1"), Container: "web"}, nameKey{Name: "db.weft.local.", Addr: netip.MustParseAddr("10.32.0.2"), Container: "db"}
	r.attached = map[string]*attachment{}
	for _, k := range []nameKey{web, db} {
		r.attached[k.Container] = &attachment{Key: k.Container, running: true, Names: []attachedName{{FQDN: k.Name, Addr: k.Addr}}}
	}
	answers := func() string {
		var s []string
		for _, n := range []string{"db.weft.local.", "web.weft.local."} {
			for _, rec := range r.zone.table.Load().At(n) {
				s = append(s, rec.Name)
			}
		}
		return strings.Join(s, " ")
	}
	look := func(what, want string, fails bool) {
		t.Helper()
		if err := errors.Join(r.announceChanges()...); (err != nil) != fails {
			t.Errorf("%s: %v", what, err)
		}
		if got := answers(); got != want {
			t.Errorf("%s: %q is answered, want %q", what, got, want)
		}
	}
	look("both run", "db.weft.local. web.weft.local.", false)
	disk.full = true
	r.attached["web"].running = false
	look("one has stopped", "db.weft.local.", true)
	tables := 0
	r.zone.publish = func(*dns.Table) { tables++ }
	look("nothing has changed", "db.weft.local.", true)
	if tables > 0 {
		t.Errorf("%d tables for nothing", tables)
	}
	r.zone.setRanges([]netip.Prefix{pfx("10.32.0.0/12")}, r.mesh.State, r.hidden)
	look("with other reverse zones", "db.weft.local.", true)
	r.attached["web"].running = true
	look("it runs again", "db.weft.local. web.weft.local.", false)
	r.attached["web"].running = false
	look("it has stopped again", "db.weft.local.", true)
	disk.full = false
	look("there is room", "db.weft.local.", false)
	if gone, come := r.zone.differs(f.id.ID(), r.announce().Names); len(gone)+len(come) > 0 || len(r.zone.denied) > 0 {
		t.Errorf("its log still differs: %v %v, denied %v", gone, come, r.zone.denied)
	}
	r.attached["web"].running = true
	look("and it runs", "db.weft.local. web.weft.local.", false)
}

// What is gone is taken back also when there is no room for what came with it.
func TestNamesGoFromAFullLog(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	r.zone = newZone("weft.local.", true)
	r.attached = map[string]*attachment{}
	const many, gone = 3000, 1000
	for i := range many + gone {
		a := netip.AddrFrom4([4]byte{10, 32, byte(i >> 8), byte(i)})
		key := fmt.Sprintf("c%d", i)
		r.attached[key] = &attachment{Key: key, running: i < many, Names: []attachedName{{FQDN: key + ".weft.local.", Addr: a}}}
	}
	if err := errors.Join(r.announceChanges()...); err != nil {
		t.Fatal(err)
	}
	for i := range gone {
		r.attached[fmt.Sprintf("c%d", i)].running = false
		r.attached[fmt.Sprintf("c%d", many+i)].running = true
	}
	if err := errors.Join(r.announceChanges()...); !errors.Is(err, mesh.ErrLogFull) {
		t.Errorf("more names than there is room for: %v", err)
	}
	tooMany, missing := r.zone.differs(r.id.ID(), r.announce().Names)
	if len(tooMany) > 0 || len(missing) != gone || len(r.zone.denied) > 0 {
		t.Errorf("%d names of what is gone are told, %d of what came are not", len(tooMany), len(missing))
	}
}

// BenchmarkAnnounceNothing is a look at the names of this host, which are announced as they are. A log has room for some 3,800.
func BenchmarkAnnounceNothing(b *testing.B) {
	for _, names := range []int{30, 3000} {
		b.Run(fmt.Sprintf("names=%d", names), func(b *testing.B) {
			r := newFounder(b).start()
			r.zone = newZone("weft.local.", true)
			r.attached = map[string]*attachment{}
			for i := range names {
				key := fmt.Sprintf("c%d", i)
				r.attached[key] = &attachment{Key: key, running: true, Names: []attachedName{{FQDN: key + ".weft.local.", Addr: netip.AddrFrom4([4]byte{10, 32, byte(i >> 8), byte(i)})}}}
			}
			if err := errors.Join(r.announceChanges()...); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				r.announceChanges()
			}
		})
	}
}
