package mesh

import (
	"maps"
	"net/netip"
	"slices"

	"weft/peer"
)

// madeUp is the name of hosts that liars have made up.
const madeUp = "nobody"

// lie has a member tell another one what is not so: in datagrams, or in an exchange of
// logs. It may lie about others, repeat what was true once, and make up hosts.
func (s *sim) lie() {
	at := s.some(isUp)
	liar := s.some(func(a *actor) bool { return a != at })
	if at == nil || liar == nil {
		return
	}
	var es []Entry
	switch s.rng.IntN(3) {
	case 0:
		es = s.forged(at, liar)
	case 1:
		es = s.repeated()
		s.tell("%s repeats %d entries to %s", liar.name, len(es), at.name)
	default:
		es = s.madeUp(at)
		s.tell("%s makes up a host for %s", liar.name, at.name)
	}
	if liar.up && s.rng.IntN(2) == 0 {
		err := (&rogue{box: liar.box, t: s.t}).exchange(at.box, nil, es)
		s.tell("%s exchanges logs with %s: %v", liar.name, at.name, err)
		return
	}
	for _, e := range es {
		how := []byte{gossipMagic, gossipRelay}
		if s.rng.IntN(2) == 0 {
			how[1] = gossipDirect
		}
		at.mesh.receive(liar.control(), AppendEntries(how, e))
	}
}

// forged are entries in another's name, and another's entry with other content.
func (s *sim) forged(at, liar *actor) (es []Entry) {
	victim := s.some(func(a *actor) bool { return a != liar && a != at })
	if victim == nil {
		return nil
	}
	s.tell("%s lies to %s about %s", liar.name, at.name, victim.name)
	log := at.mesh.State().Logs[victim.id.ID()]
	if len(log) == 0 {
		return nil
	}
	last := log[len(log)-1]
	for _, e := range []Entry{
		{Epoch: last.Epoch, Seq: last.Seq + 1, Kind: KindName, Payload: []byte("+forged")},
		{Epoch: last.Epoch, Seq: last.Seq + 1, Kind: KindDepart},
		{Epoch: last.Epoch + 1<<32, Seq: 1, Kind: KindBegin, Payload: log[0].Payload},
	} {
		signed := s.sign(liar.id, e)
		raw := slices.Clone(signed.raw)
		copy(raw[1:], last.Author[:])
		es = append(es, s.parse(raw))
	}
	raw := slices.Clone(last.raw)
	raw[entryHeader] ^= 1
	return append(es, s.parse(raw))
}

// repeated are entries that somebody has held once: of epochs, too, that have long been
// withdrawn, and of hosts that are gone for ever.
func (s *sim) repeated() (es []Entry) {
	keys := slices.Sorted(maps.Keys(s.seen))
	if len(keys) == 0 {
		return nil
	}
	first := s.rng.IntN(len(keys))
	for _, k := range keys[first:min(len(keys), first+1+s.rng.IntN(30))] {
		es = append(es, s.parse([]byte(s.seen[k])))
	}
	return es
}

// madeUp has a host hear of one that does not exist, at an address where another one is,
// and returns its log.
func (s *sim) madeUp(at *actor) (es []Entry) {
	id := newIdentity(s.t)
	s.made = append(s.made, id)
	where := s.hosts[s.rng.IntN(len(s.hosts))]
	at.hearsOf(id, 1, netip.AddrPortFrom(where.addr, DefaultPort))
	payload, err := NewBegin(id, s.secret, 0, 1, 2).MarshalBinary()
	if err != nil {
		s.fail("begin: %v", err)
	}
	name := "+" + madeUp + "/" + id.ID().String()
	s.wrote[name] = true
	return []Entry{
		s.sign(id, Entry{Epoch: 1 << 32, Seq: 1, Kind: KindBegin, Payload: payload}),
		s.sign(id, Entry{Epoch: 1 << 32, Seq: 2, Kind: KindName, Payload: []byte(name)}),
	}
}

func (s *sim) sign(id *peer.Identity, e Entry) Entry {
	s.t.Helper()
	signed, err := SignEntry(id, s.secret.MeshID(), e)
	if err != nil {
		s.fail("sign: %v", err)
	}
	return signed
}

func (s *sim) parse(raw []byte) Entry {
	s.t.Helper()
	e, err := ParseEntry(raw)
	if err != nil {
		s.fail("an entry of the story's own: %v", err)
	}
	return e
}
