package router

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/mesh"
	"weft/peer"
)

// named is a host whose record names a key, with a proof or without.
func named(id, key byte, proven bool) mesh.Host {
	h := mesh.Host{ID: peer.ID{id}, Record: mesh.Record{WireGuard: peer.Key{key}}}
	if proven {
		h.Record.Ext = []mesh.TLV{{Type: 4, Value: make([]byte, 64)}}
	}
	return h
}

func TestKeyOwners(t *testing.T) {
	for _, tt := range []struct {
		name     string
		hosts    []mesh.Host
		holder   byte // of key 7
		owner    byte // of key 7; 0: nobody
		disputes string
	}{
		{"one each", []mesh.Host{named(2, 7, true), named(3, 8, false)}, 0, 2, ""},
		{"a made-up host with a lower ID", []mesh.Host{named(2, 7, false), named(3, 7, true)}, 0, 3, "2 not 3 proven"},
		{"and it is there first", []mesh.Host{named(2, 7, false), named(3, 7, true)}, 2, 3, "2 not 3 proven"},
		{"of two earlier builds the one that is there", []mesh.Host{named(2, 7, false), named(3, 7, false)}, 3, 3, "2 not 3"},
		{"the lower one, if it is there", []mesh.Host{named(2, 7, false), named(3, 7, false)}, 2, 2, "3 not 2"},
		{"the lower one, if neither is", []mesh.Host{named(3, 7, false), named(2, 7, false)}, 0, 2, "3 not 2"},
		{"neither, though another was", []mesh.Host{named(3, 7, false), named(2, 7, false)}, 5, 2, "3 not 2"},
		{"a key that runs twice", []mesh.Host{named(2, 7, true), named(3, 7, true)}, 3, 3, "2 not 3 proven"},
		{"many", []mesh.Host{named(5, 7, false), named(4, 7, false), named(3, 7, true), named(2, 7, false)}, 4, 3, "2 not 3 proven, 4 not 3 proven, 5 not 3 proven"},
		{"this host's own key", []mesh.Host{named(2, 9, true), named(3, 7, true)}, 0, 3, "2 not 1 proven"},
	} {
		for range 2 {
			owners, ds := keyOwners(tt.hosts, peer.ID{1}, peer.Key{9}, func(k peer.Key, id peer.ID) bool {
				return k == peer.Key{7} && id == peer.ID{tt.holder}
			})
			var got []string
			for _, d := range ds {
				s := fmt.Sprintf("%d not %d", d.Host[0], d.Owner[0])
				if d.Proven {
					s += " proven"
				}
				got = append(got, s)
			}
			if owners[peer.Key{7}] != (peer.ID{tt.owner}) || owners[peer.Key{9}] != (peer.ID{1}) || strings.Join(got, ", ") != tt.disputes {
				t.Errorf("%s: key 7 is %v's, disputes %q, want %v, %q", tt.name, owners[peer.Key{7}], got, tt.owner, tt.disputes)
			}
			slices.Reverse(tt.hosts)
		}
	}
}

// Whatever records say, the device is given each key once, and not this host's own; and
// the next plan is the same.
func TestPlanHasEachKeyOnce(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var hosts []mesh.Host
		for i := range byte(20) {
			h := named(i+2, byte(rng.IntN(8)), rng.IntN(3) == 0)
			h.Record.Ext = append(h.Record.Ext, mesh.TLV{Type: 3, Value: []byte{0, 0, 0, 0, 0, 0, 0, i + 1}}) // its device
			hosts = append(hosts, h)
		}
		var tn tunnels
		look := func() plan {
			rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
			return planOf(1, func(in *inputs) {
				in.Hosts = append(in.Hosts, hosts...)
				in.Holds = func(k peer.Key, id peer.ID) bool { return tn.holds(k, id, netip.Addr{}) }
			})
		}
		first := look()
		keys := map[peer.Key]bool{{1}: true}
		for _, p := range first.Peers {
			if keys[p.Config.PublicKey] {
				t.Errorf("seed %d: %v has a key that another has: %v", seed, p.ID, p.Config)
			}
			keys[p.Config.PublicKey] = true
		}
		zero := slices.IndexFunc(hosts, func(h mesh.Host) bool { return h.Record.WireGuard.IsZero() })
		if n := len(first.Peers) + len(first.KeyDisputes); zero < 0 && n != len(hosts) {
			t.Errorf("seed %d: %d of %d hosts have a tunnel or are named", seed, n, len(hosts))
		}
		tn.assign(first.Peers)
		if second := look(); !reflect.DeepEqual(first, second) {
			t.Errorf("seed %d: the plan changes by itself:\n%+v\n%+v", seed, first, second)
		}
	}
}

// The key of a host of an earlier build stays its own, also when its peer is taken off
// the device for a moment, and when the router has just started and knows the device only.
func TestKeyStaysWithWhoHasIt(t *testing.T) {
	victim, made := named(3, 7, false), named(2, 7, false)
	control := func(id peer.ID) netip.Addr { return peer.ControlAddr(mesh.MeshID{9}.Control(), id) }
	owner := func(tn *tunnels, hosts ...mesh.Host) peer.ID {
		p := planOf(1, func(in *inputs) {
			in.Hosts = append(in.Hosts, hosts...)
			in.Holds = func(k peer.Key, id peer.ID) bool { return tn.holds(k, id, control(id)) }
		})
		tn.assign(p.Peers)
		return p.Peers[0].ID
	}
	var tn tunnels
	owner(&tn, victim)
	tn.observe(time.Now(), []peer.Status{{PublicKey: peer.Key{7}, AllowedIPs: []netip.Prefix{host128(control(victim.ID))}}})
	tn.forget(peer.Key{7})
	if o := owner(&tn, made, victim); o != victim.ID {
		t.Errorf("the key of %v is %v's", victim.ID, o)
	}
	var next tunnels
	next.observe(time.Now(), []peer.Status{{PublicKey: peer.Key{7}, AllowedIPs: []netip.Prefix{pfx("10.32.0.0/13"), host128(control(victim.ID))}}})
	if o := owner(&next, made, victim); o != victim.ID {
		t.Errorf("after a restart the key of %v is %v's", victim.ID, o)
	}
	if o := owner(&next, made); o != made.ID {
		t.Errorf("a key that nobody else names is %v's", o)
	}
}

// Made-up hosts do not fill the status.
func TestDisputeNoticesAreFew(t *testing.T) {
	var ds []keyDispute
	for i := range byte(100) {
		ds = append(ds, keyDispute{Host: peer.ID{i}, Owner: peer.ID{200}})
	}
	got := disputeNotices(ds)
	if len(got) != maxDisputes+1 || got[maxDisputes] != "96 more hosts name WireGuard keys of others: they get no tunnel" || !strings.Contains(got[0], "neither proves") {
		t.Errorf("%q", got)
	}
	if got := disputeNotices(nil); got != nil {
		t.Errorf("%q", got)
	}
}
