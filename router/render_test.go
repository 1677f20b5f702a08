package router

import (
	"flag"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/ipam"
)

var update = flag.Bool("update", false, "rewrite the tables in testdata")

// sample is a mesh of three hosts of which one has failed.
func sample() Report {
	const a, b, c = "k3v7q2m5x4n6p8r9", "7qk2aaaaaaaaaaaa", "9w1caaaaaaaaaaaa"
	retry := time.Date(2026, 11, 22, 11, 0, 0, 123, time.FixedZone("CET", 3600))
	id := "eebd81120ee4" + strings.Repeat("0", 52)
	return Report{
		Version: "0.1.0",
		Router: RouterReport{
			ID: a, Nickname: "host1", Mesh: "mmmmmmmmmmmmmmmm", Datapath: "kernel", MTU: 1420, Discovery: true,
			Targets: []TargetReport{{Address: "192.168.48.12"}, {Address: "host3.example:6783", Error: "refused", Retry: retry}},
			Connections: []ConnectionReport{
				{Outbound: true, Endpoint: "192.168.48.12:6783", State: "established", Peer: b, Nickname: "host2", Path: "direct", MTU: 1420, RTT: 400 * time.Microsecond, RxBytes: 7, TxBytes: 9},
				{Endpoint: "192.168.48.14:41000", State: "established", Peer: "4444aaaaaaaaaaaa", Path: "direct"},
				{Outbound: true, Endpoint: "192.168.48.13:6783", State: "failed", Error: "handshake: wrong secret", Retry: retry},
				{Outbound: true, Endpoint: "192.168.48.15:6783", State: "connecting"},
				{Outbound: true, Endpoint: "192.168.48.16:6783", State: "retrying", Peer: c, Nickname: "host3", Retry: retry},
			},
			Peers: []PeerReport{
				{ID: a, Nickname: "host1", Self: true, State: "alive"},
				{ID: b, Nickname: "host2", State: "alive", Endpoints: []string{"192.168.48.12:6783", "[fd00::12]:6783"}, AllowedIPs: []string{"10.40.0.0/14", "fd00::2/128"}, Established: true},
				{ID: c, Nickname: "host3", State: "failed", Endpoints: []string{"192.168.48.16:6783"}},
				{ID: "4444aaaaaaaaaaaa", State: "alive", Established: true},
			},
			Waiting: []string{"for 192.168.48.13:6783 to answer"},
			Notices: []string{"two hosts\nclaim 172.16.0.1"},
		},
		IPAM: &IPAMReport{
			Status: "ready", Range: "10.32.0.0/12", DefaultSubnet: "10.32.0.0/12",
			Owners: []OwnerReport{
				{ID: a, Nickname: "host1", IPs: 393216, Percent: 37.5, Active: 2, Reachable: true},
				{ID: b, Nickname: "host2", IPs: 327680, Percent: 31.25, Active: -1, Reachable: true},
				{ID: c, Nickname: "host3", IPs: 327680, Percent: 31.25, Active: -1},
				{ID: "4444aaaaaaaaaaaa", IPs: 0, Active: -1, Reachable: true},
			},
		},
		DNS: &DNSReport{
			Domain: "weft.local.", Upstream: []string{"8.8.8.8"}, TTL: 1,
			Entries: []DNSEntry{
				{Name: "db", Address: netip.MustParseAddr("10.40.0.1"), Container: "netns:/run/netns/db", Peer: c, Hidden: true},
				{Name: "static", Address: netip.MustParseAddr("172.16.254.254"), Peer: a},
				{Name: "web", Address: netip.MustParseAddr("10.32.0.1"), Container: id, Peer: a},
			},
		},
		Attachments: []AttachmentReport{
			{Container: id, Name: "web", MAC: "1e:fd:61:ba:a4:8b", Running: true,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12"), netip.MustParsePrefix("10.50.0.1/24")}},
			{Container: "netns:/run/netns/db", Running: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.2/12")}},
			{Container: strings.Repeat("ab", 32), Name: "stopped", Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.3/12")}},
		},
	}
}

func TestRender(t *testing.T) {
	tables := map[string]func(Report) string{
		"status": RenderStatus, "targets": RenderTargets, "connections": RenderConnections,
		"peers": RenderPeers, "ipam": RenderIPAM, "dns": RenderDNS, "ps": RenderPS,
	}
	reports := map[string]Report{
		"full":  sample(),
		"empty": {Version: "0.1.0", Router: RouterReport{ID: "k3v7q2m5x4n6p8r9", Peers: []PeerReport{{ID: "k3v7q2m5x4n6p8r9", Self: true}}}},
		"waiting": {Version: "0.1.0", Router: RouterReport{ID: "k3v7q2m5x4n6p8r9", Targets: []TargetReport{{Address: "host2"}},
			Connections: []ConnectionReport{
				{Outbound: true, Endpoint: "192.168.48.12:6783", State: "failed", Error: "connection refused"},
				{Outbound: true, Endpoint: "192.168.48.13:6783", State: "failed", Error: "stopped", Peer: "7qk2aaaaaaaaaaaa", Nickname: "host2"},
			}},
			IPAM: &IPAMReport{Status: "awaiting the founder of the mesh"}},
		"off": {Version: "0.1.0", Router: RouterReport{ID: "k3v7q2m5x4n6p8r9"},
			IPAM: &IPAMReport{Status: "off (launched with an empty --ipalloc-range)", Range: "10.32.0.0/12",
				Owners: []OwnerReport{{ID: "7qk2aaaaaaaaaaaa", IPs: 1 << 20, Percent: 100, Active: -1}}}},
	}
	for kind, r := range reports {
		for name, render := range tables {
			t.Run(kind+"/"+name, func(t *testing.T) {
				got := render(r)
				path := filepath.Join("testdata", "render", kind, name+".txt")
				if *update {
					if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Errorf("table has changed (-want +got); go test -run TestRender -update rewrites it:\n%s", diff)
				}
			})
		}
	}
}

// TestRenderHarmless: what other hosts sent must not reach the operator's
// terminal as control characters, nor break the lines of a table.
func TestRenderHarmless(t *testing.T) {
	r := sample()
	r.Router.Nickname = "a\x1b[2Jb\nc"
	r.Router.Connections[0].Nickname = r.Router.Nickname
	r.Router.Connections[2].Error = r.Router.Nickname
	r.Router.Peers[1].Nickname = r.Router.Nickname
	r.IPAM.Owners[0].Nickname = r.Router.Nickname
	r.DNS.Entries[0].Name = r.Router.Nickname
	clean := sample()
	for _, render := range []func(Report) string{RenderStatus, RenderTargets, RenderConnections, RenderPeers, RenderIPAM, RenderDNS, RenderPS} {
		got := render(r)
		if strings.ContainsRune(got, '\x1b') {
			t.Errorf("an escape reached the table:\n%q", got)
		}
		if g, w := strings.Count(got, "\n"), strings.Count(render(clean), "\n"); g != w {
			t.Errorf("%d lines instead of %d:\n%s", g, w, got)
		}
	}
}

// TestMetrics: samples of one name must agree in their label names, or the
// scrape drops them.
func TestMetrics(t *testing.T) {
	labels := map[string][]string{}
	seen := map[string]bool{}
	for _, s := range Metrics(sample()) {
		var names []string
		id := s.Name
		for n := range s.Labels {
			names = append(names, n)
			id += " " + n + "=" + s.Labels[n]
		}
		if before, ok := labels[s.Name]; ok && len(before) != len(names) {
			t.Errorf("%s: labels %v and %v", s.Name, before, names)
		}
		labels[s.Name] = names
		if len(names) < 2 && seen[id] {
			t.Errorf("%s twice", id)
		}
		seen[id] = true
		if s.Help == "" {
			t.Errorf("%s has no help", s.Name)
		}
	}
}

// What the mesh counts is what its metrics say.
func TestMetricsOfTheMesh(t *testing.T) {
	r := sample()
	r.Router.Log = LogReport{Hosts: 2, Strangers: 3, Entries: 4, Bytes: 5, DiskQueue: 6, Inbox: 7, Outbox: 8, Relay: 9, Guests: 10, Locals: 11, Exchanges: 12, Turns: 13, PastBytes: 16}
	r.Router.Counters = []CounterReport{{"repairs", 14}}
	r.Router.Rejected = []RejectReport{{Peer: "7qk2aaaaaaaaaaaa", Reason: "invalid", Count: 15}}
	got := map[string]float64{}
	for _, s := range Metrics(r) {
		id := s.Name
		for _, n := range slices.Sorted(maps.Keys(s.Labels)) {
			id += " " + s.Labels[n]
		}
		got[id] = s.Value
	}
	for id, want := range map[string]float64{
		"weft_mesh_log_hosts": 2, "weft_mesh_log_strangers": 3, "weft_mesh_log_entries": 4, "weft_mesh_log_bytes": 5, "weft_mesh_past_bytes": 16,
		"weft_mesh_queue_depth disk": 6, "weft_mesh_queue_depth inbox": 7, "weft_mesh_queue_depth outbox": 8, "weft_mesh_queue_depth relay": 9,
		"weft_mesh_sessions underlay": 10, "weft_mesh_sessions tunnel": 11, "weft_mesh_exchanges under way": 12, "weft_mesh_exchanges waiting": 13,
		"weft_mesh_events_total repairs": 14, "weft_mesh_rejected_total 7qk2aaaaaaaaaaaa invalid": 15,
	} {
		if v, ok := got[id]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", id, v, ok, want)
		}
	}
}

// Two hosts that believe to own the same are both named, and what to do.
func TestConflictText(t *testing.T) {
	a, b, giver := ipam.Owner{1}, ipam.Owner{2}, ipam.Owner{3}
	show := func(o ipam.Owner) string { return map[ipam.Owner]string{a: "host1", b: "host2", giver: "host3"}[o] }
	p := netip.MustParsePrefix("10.32.0.0/16")
	for _, c := range []struct {
		of   ipam.Conflict
		want []string
	}{
		{ipam.Conflict{Prefix: p, A: a, B: b}, []string{"10.32.0.0/16", "host1", "host2", "weft reset --force"}},
		{ipam.Conflict{Prefix: p, From: giver, A: a, B: b}, []string{"10.32.0.0/16", "host3 has granted", "host1, whose it is", "host2, which has to attach"}},
	} {
		got := conflictText(c.of, show)
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%q lacks %q", got, w)
			}
		}
	}
}
