package router

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft/mesh"
	"weft/peer"
)

// memoryDevice is a tunnel device without tunnels, which can fail for single peers.
type memoryDevice struct {
	own    peer.Key
	peers  map[peer.Key]peer.Config
	broken map[peer.Key]bool // what is wanted for these fails
	added  map[peer.Key]int  // how often each was
}

func (d *memoryDevice) Set(want []peer.Config) error {
	var errs []error
	stays := map[peer.Key]bool{}
	for _, c := range want {
		k := c.PublicKey
		twice := stays[k]
		stays[k] = true
		switch {
		case k == d.own, twice, d.broken[k]:
			errs = append(errs, fmt.Errorf("set peer %v: own %v, twice %v, broken %v", k, k == d.own, twice, d.broken[k]))
		default:
			if _, there := d.peers[k]; !there {
				d.added[k]++
			}
			d.peers[k] = c
		}
	}
	for k := range d.peers {
		if stays[k] {
			continue
		}
		if d.broken[k] {
			errs = append(errs, fmt.Errorf("remove peer %v: it is broken", k))
			continue
		}
		delete(d.peers, k)
	}
	return errors.Join(errs...)
}

func (d *memoryDevice) Status() ([]peer.Status, error) {
	var out []peer.Status
	for k, c := range d.peers {
		out = append(out, peer.Status{PublicKey: k, AllowedIPs: c.AllowedIPs, LastHandshake: time.Now()})
	}
	slices.SortFunc(out, func(a, b peer.Status) int { return slices.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return out, nil
}

func (d *memoryDevice) Renew(peer.Key) error         { return nil }
func (d *memoryDevice) Kind() peer.Datapath          { return peer.Userspace }
func (d *memoryDevice) Close() error                 { return nil }
func (d *memoryDevice) Remove(context.Context) error { clear(d.peers); return nil }

// joinPort is a router that hosts come to, whatever their records say.
type joinPort struct {
	*Router
	t   *testing.T
	dev *memoryDevice
}

func newJoinPort(t *testing.T) *joinPort {
	t.Helper()
	r := newFounder(t).start()
	dev := &memoryDevice{own: r.id.WireGuardPublic(), peers: map[peer.Key]peer.Config{}, broken: map[peer.Key]bool{}, added: map[peer.Key]int{}}
	r.zone, r.dev = newZone("weft.local.", true), dev
	r.met, r.devices, r.paths = map[peer.Key]meeting{}, map[peer.Key]uint64{}, peer.NewPaths()
	r.tunnels.connect = r.connect
	return &joinPort{r, t, dev}
}

// comes has a host join, after its record was changed, and the counters were read as
// every second.
func (j *joinPort) comes(id *peer.Identity, change ...func(*mesh.Record)) error {
	rec := mesh.Record{Identity: id.Public(), WireGuard: id.WireGuardPublic()}
	for _, f := range change {
		f(&rec)
	}
	now, _ := j.dev.Status()
	j.tunnels.observe(time.Now(), now)
	return j.tunnels.Connect(j.t.Context(), rec, netip.AddrPort{}, false)
}

// owner is whose control address a key has on the device.
func (j *joinPort) owner(k peer.Key, ids ...*peer.Identity) peer.ID {
	for _, id := range ids {
		if slices.Contains(j.dev.peers[k].AllowedIPs, host128(peer.ControlAddr(j.member.Secret.MeshID().Control(), id.ID()))) {
			return id.ID()
		}
	}
	return peer.ID{}
}

func names(k peer.Key) func(*mesh.Record) { return func(rec *mesh.Record) { rec.WireGuard = k } }

func proves(rec *mesh.Record) { rec.Ext = append(rec.Ext, mesh.TLV{Type: 4, Value: make([]byte, 64)}) }

func ofDevice(n uint64) func(*mesh.Record) {
	return func(rec *mesh.Record) {
		rec.Serial = uint32(n)
		rec.Ext = append(rec.Ext, mesh.TLV{Type: 3, Value: binary.BigEndian.AppendUint64(nil, n)})
	}
}

// newIdentities are sorted by ID.
func newIdentities(t *testing.T, n int) []*peer.Identity {
	t.Helper()
	var out []*peer.Identity
	for range n {
		id, err := peer.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b *peer.Identity) int { return a.ID().Compare(b.ID()) })
	return out
}

// Joins go on whatever key somebody names: only the join of that one fails, with the reason.
// It is counted once, and status says why it has no tunnel.
func TestConnectOfAnothersKey(t *testing.T) {
	j := newJoinPort(t)
	ids := newIdentities(t, 4)
	early, victim, made := ids[3], ids[2], ids[1] // made could win by its ID
	key := victim.WireGuardPublic()
	if err := cmp.Or(j.comes(victim, proves, ofDevice(7)), j.comes(early)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		key peer.Key
		of  peer.ID
		why string
	}{
		{key, victim.ID(), "which has proven that it has it"},
		{early.WireGuardPublic(), early.ID(), "and neither proves that it has it"},
		{j.id.WireGuardPublic(), j.id.ID(), "which has proven that it has it"},
	} {
		want := fmt.Sprintf("host %v names the WireGuard key of %v, %s: %[1]v gets no tunnel", made.ID(), tt.of, tt.why)
		if err := j.comes(made, names(tt.key), ofDevice(9)); err == nil || err.Error() != want {
			t.Errorf("a host with the key of %v: %v, want %s", tt.of, err, want)
		}
		if got := disputeNotices(j.look().Plan.KeyDisputes); !slices.Equal(got, []string{want}) {
			t.Errorf("status says %q", got)
		}
		if err := j.comes(newIdentities(t, 1)[0]); err != nil {
			t.Errorf("another newcomer: %v", err)
		}
		if o := j.owner(key, made, victim); o != victim.ID() || j.dev.added[key] != 1 {
			t.Errorf("the key of %v is %v's, and was added %d times", victim.ID(), o, j.dev.added[key])
		}
		shown := mesh.Record{WireGuard: key}
		if !j.hidden(mesh.Host{ID: made.ID(), Record: shown}) || j.hidden(mesh.Host{ID: victim.ID(), Record: shown}) {
			t.Error("by a session of another the made-up host is there, or its victim is not")
		}
	}
	if got := j.mesh.Rejections(); len(got) != 1 || got[0] != (mesh.Rejection{Reason: "key", Count: 3}) {
		t.Errorf("counted: %+v", got)
	}
	if err := j.comes(made, ofDevice(10)); err != nil {
		t.Errorf("with its own key: %v", err)
	}
}

// An upgrade: a host that proves its key takes it from one that does not.
func TestConnectOfWhoProvesItsKey(t *testing.T) {
	j := newJoinPort(t)
	ids := newIdentities(t, 2)
	made, victim := ids[0], ids[1]
	if err := j.comes(made, names(victim.WireGuardPublic())); err != nil {
		t.Fatalf("nobody else has named the key: %v", err)
	}
	if err := j.comes(victim); err == nil {
		t.Error("two hosts have one key")
	}
	if err := j.comes(victim, proves, ofDevice(1)); err != nil {
		t.Errorf("with a proof: %v", err)
	}
	if o := j.owner(victim.WireGuardPublic(), made, victim); o != victim.ID() {
		t.Errorf("the key is %v's", o)
	}
}

// What fails for one peer is no other's matter: neither a join, nor that a session is
// dropped which has died.
func TestConnectBesideABrokenPeer(t *testing.T) {
	j := newJoinPort(t)
	ids := newIdentities(t, 3)
	broken, anew, fresh := ids[0], ids[1], ids[2]
	if err := j.comes(anew, ofDevice(1)); err != nil {
		t.Fatal(err)
	}
	j.dev.broken[broken.WireGuardPublic()] = true
	if err := j.comes(broken); err == nil {
		t.Error("a host without a peer has joined")
	}
	if err := j.comes(fresh); err != nil {
		t.Errorf("another: %v", err)
	}
	key := anew.WireGuardPublic()
	if err := j.comes(anew, ofDevice(2)); err != nil || j.dev.added[key] != 2 {
		t.Errorf("one whose device was made anew: added %d times, %v", j.dev.added[key], err)
	}
	if err := j.comes(fresh); err != nil || j.dev.added[key] != 2 {
		t.Errorf("in the next pass: added %d times, %v", j.dev.added[key], err)
	}
	j.dev.broken[key] = true // its peer cannot be removed now
	_ = j.comes(anew, ofDevice(3))
	j.dev.broken[key] = false
	if err := j.comes(fresh); err != nil || j.dev.added[key] != 3 {
		t.Errorf("in the next pass: added %d times, %v", j.dev.added[key], err)
	}
	if err := j.comes(fresh); err != nil || j.dev.added[key] != 3 {
		t.Errorf("in the one after: added %d times, %v", j.dev.added[key], err)
	}
}
