package router

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"testing"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// onDisk is entries as the mesh keeps them.
func onDisk(es ...mesh.Entry) map[string][]byte {
	out := map[string][]byte{}
	for _, e := range es {
		k := binary.BigEndian.AppendUint64(append([]byte(nil), e.Author[:]...), e.Epoch)
		out[string(binary.BigEndian.AppendUint64(k, e.Seq))] = e.Raw()
	}
	return out
}

// A host that owns address space is known to the mesh as one whose log is to be kept, although
// nobody has met it since the start; one that owns nothing is a stranger.
func TestOwnersAreReliedOn(t *testing.T) {
	f := newFounder(t)
	begin := func(s *signer, snapshot uint32) mesh.Entry {
		b := mesh.NewBegin(s.id, f.member.Secret, 0, 1, snapshot)
		payload, err := b.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return s.entryAt(t, 1, 1, mesh.KindBegin, payload)
	}
	self := &signer{id: f.id, mesh: f.member.Secret.MeshID(), seq: 1}
	dead, made := newSigner(t, f.member.Secret), newSigner(t, f.member.Secret)
	owner := func(s *signer) ipam.Owner { return ipam.Owner(s.id.ID()) }
	disk := onDisk(begin(self, 3),
		self.grant(t, ipam.Seed(f.member.Founding.Range, owner(self))),
		self.grant(t, ipam.Grant{Prefix: netip.MustParsePrefix("10.40.0.0/13"), From: owner(self), To: owner(dead), Version: 2}))
	maps.Copy(disk, onDisk(begin(dead, 1)))
	maps.Copy(disk, onDisk(begin(made, 1)))
	db, _, err := openState(f.state)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Apply("log", disk, nil); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	r := f.start()
	r.lastAlive, r.wasAlive = map[peer.ID]time.Time{}, map[peer.ID]bool{}
	before := r.mesh.Stats()
	r.deliberate()
	if after := r.mesh.Stats(); before.Authors != 3 || before.Strangers != 2 || after.Strangers != 1 {
		t.Errorf("of %d hosts %d are strangers, then %d", before.Authors, before.Strangers, after.Strangers)
	}
}

// A record may name another host's key: what that one's tunnel brings shows of one host at most that it is there.
func TestKeyOfAnotherHost(t *testing.T) {
	var tn tunnels
	host := func(n byte, key byte) mesh.Host {
		return mesh.Host{ID: peer.ID{n}, Record: mesh.Record{WireGuard: peer.Key{key}}}
	}
	tn.assign(planOf(1, func(in *inputs) { in.Hosts = append(in.Hosts, host(2, 7), host(3, 7), host(4, 7), host(5, 8)) }).Peers)
	now := time.Now()
	tn.observe(now, []peer.Status{{PublicKey: peer.Key{7}}, {PublicKey: peer.Key{8}}})
	tn.observe(now, []peer.Status{{PublicKey: peer.Key{7}, RxBytes: 9, LastHandshake: now}, {PublicKey: peer.Key{8}}})
	for n := range byte(6) {
		if _, ok := tn.LastReceive(peer.ID{n}); ok != (n == 2) || ok != tn.sessionWith(peer.ID{n}) {
			t.Errorf("host %d is heard: %v, has a session: %v; host 2 is there", n, ok, tn.sessionWith(peer.ID{n}))
		}
	}
}
