package router

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/mesh"
	"weft/peer"
)

// memory is a state file that is not on disk.
type memory map[string]map[string][]byte

func (m memory) Load(bucket string) (map[string][]byte, error) { return m[bucket], nil }

func (m memory) Apply(bucket string, put map[string][]byte, del []string) error {
	if m[bucket] == nil {
		m[bucket] = map[string][]byte{}
	}
	for k, v := range put {
		m[bucket][k] = v
	}
	for _, k := range del {
		delete(m[bucket], k)
	}
	return nil
}

const testPassword = "four random words together"

// launch resolves and commits a membership in dir.
func launch(t *testing.T, dir string, db store, crashed bool, o Options) (membership, error) {
	t.Helper()
	o.StateDir, o.RunDir, o.Nickname = dir, dir, "host"
	o, err := o.withDefaults()
	if err != nil {
		return membership{}, err
	}
	m, err := resolveMembership(o, db, crashed)
	if err != nil {
		return m, err
	}
	if m.Founded {
		m.Founding.Founder = peer.ID{1}
	}
	return m, m.commit(o, db)
}

// Servers for reverse zones that the mesh to be founded has are refused, and others not.
func TestForwardsOfTheMeshsRange(t *testing.T) {
	for domain, want := range map[string]string{
		"32.10.in-addr.arpa": "10.32.0.0/12", "1.47.10.in-addr.arpa": "10.32.0.0/12", "10.in-addr.arpa": "", "48.10.in-addr.arpa": "", "132.10.in-addr.arpa": "", "corp.example": "",
	} {
		o := Options{DNSForward: map[string][]netip.AddrPort{domain: {netip.MustParseAddrPort("10.1.1.1:53")}}}
		if _, err := launch(t, t.TempDir(), memory{}, false, o); (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s, with the default range: %v", domain, err)
		}
		o.Range, o.RangeSet = pfx("10.96.0.0/12"), true
		if _, err := launch(t, t.TempDir(), memory{}, false, o); err != nil {
			t.Errorf("%s, with another range: %v", domain, err)
		}
	}
}

func TestALaunchWithoutPeersFoundsOnce(t *testing.T) {
	dir, db := t.TempDir(), memory{}
	first, err := launch(t, dir, db, false, Options{Range: pfx("10.96.0.0/16"), RangeSet: true})
	if err != nil || !first.Founded || first.Founding.Founder != (peer.ID{1}) || first.Founding.Range != pfx("10.96.0.0/16") {
		t.Fatalf("%+v %v", first, err)
	}
	again, err := launch(t, dir, db, false, Options{})
	if err != nil || again.Founded || !again.Founding.Equal(first.Founding) || !again.Secret.Equal(first.Secret) {
		t.Errorf("the second launch: %+v %v", again, err)
	}
	if fi, err := os.Stat(filepath.Join(dir, tokenFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("token file %v %v", fi.Mode(), err)
	}
	if _, err := launch(t, dir, db, false, Options{Range: pfx("10.97.0.0/16"), RangeSet: true}); err == nil || !strings.Contains(err.Error(), "10.96.0.0/16") {
		t.Errorf("another range: %v", err)
	}
	if _, err := launch(t, dir, db, false, Options{Token: mesh.Token{Secret: mesh.NewSecret(), Endpoints: []string{"h"}}.Encode()}); err == nil || !strings.Contains(err.Error(), "belongs to mesh") {
		t.Errorf("another mesh's token: %v", err)
	}
}

// A token without the state that goes with it is what is left of a member: its mesh
// is not founded again, nor another one over the token.
func TestALostStateFoundsNothing(t *testing.T) {
	for _, o := range []Options{{}, {Password: testPassword}} {
		dir := t.TempDir()
		first, err := launch(t, dir, memory{}, false, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, again := range []Options{{}, {Resume: true}, {Password: testPassword}} {
			for _, crashed := range []bool{false, true} {
				if _, err := launch(t, dir, memory{}, crashed, again); err == nil || !strings.Contains(err.Error(), "this host belongs to mesh "+first.Secret.MeshID().String()) {
					t.Errorf("with %+v, crashed %v: %v", again, crashed, err)
				}
			}
		}
		if kept, err := readToken(dir); err != nil || !kept.Equal(first.Secret) {
			t.Errorf("the token is another one: %v", err)
		}
		o.Targets = []string{"h"}
		if m, err := launch(t, dir, memory{}, false, o); err != nil || m.Founded || !m.Secret.Equal(first.Secret) {
			t.Errorf("with a host to learn from: founded %v, %v", m.Founded, err)
		}
	}
}

func TestALaunchWithPeersNeverFounds(t *testing.T) {
	dir, db := t.TempDir(), memory{}
	if _, err := launch(t, dir, db, false, Options{Targets: []string{"h"}}); err == nil || !strings.Contains(err.Error(), "needs its secret") {
		t.Errorf("without a secret: %v", err)
	}
	right := mesh.NewSecret()
	for _, s := range []mesh.Secret{mesh.NewSecret(), right} { // a wrong secret can be put right
		m, err := launch(t, dir, db, false, Options{Token: mesh.Token{Secret: s, Endpoints: []string{"192.0.2.1:6783"}}.Encode(), Targets: []string{"h"}})
		if err != nil || m.Founded || !m.Founding.IsZero() || !m.Secret.Equal(s) || !slices.Equal(m.Targets, []string{"h", "192.0.2.1:6783"}) {
			t.Fatalf("%+v %v", m, err)
		}
	}
	if m, err := launch(t, dir, db, true, Options{}); err != nil || m.Founded || !m.Secret.Equal(right) || len(m.Targets) != 2 {
		t.Errorf("after a crash: %+v %v", m, err)
	}
	if m, err := launch(t, dir, db, false, Options{Resume: true}); err != nil || m.Founded || len(m.Targets) != 2 {
		t.Errorf("--resume: %+v %v", m, err)
	}
	if _, err := launch(t, dir, db, false, Options{Token: mesh.Token{Secret: right}.Encode()}); err == nil || !strings.Contains(err.Error(), "names no host") {
		t.Errorf("a token without hosts must not found a second mesh: %v", err)
	}
}

// How the ring begins is said once.
func TestALaunchWithoutInitKeepsIt(t *testing.T) {
	dir, db := t.TempDir(), memory{}
	for _, c := range []struct{ said, is string }{{"seed=a,b", "seed=a,b"}, {"", "seed=a,b"}, {"consensus", "consensus"}, {"", "consensus"}} {
		if m, err := launch(t, dir, db, false, Options{Init: c.said}); err != nil || m.Init != c.is {
			t.Errorf("%q: %+v %v", c.said, m, err)
		}
	}
}

func TestAPasswordFoundsAndJoinsTheSameMesh(t *testing.T) {
	a, err := launch(t, t.TempDir(), memory{}, false, Options{Password: testPassword})
	if err != nil || !a.Founded {
		t.Fatal(err)
	}
	b, err := launch(t, t.TempDir(), memory{}, false, Options{Password: testPassword, Targets: []string{"h"}})
	if err != nil || b.Founded || b.Secret.MeshID() != a.Secret.MeshID() {
		t.Errorf("%+v %v", b, err)
	}
	_, err = launch(t, t.TempDir(), memory{}, false, Options{Password: "123456"})
	var e interface{ Hint() string }
	if !errors.As(err, &e) || e.Hint() == "" {
		t.Errorf("a weak password: %v", err)
	}
}

func TestADamagedTokenFileIsNotReplaced(t *testing.T) {
	dir, db := t.TempDir(), memory{}
	if _, err := launch(t, dir, db, false, Options{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, tokenFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := launch(t, dir, db, false, Options{}); err == nil || strings.Contains(err.Error(), string(b[10:20])) {
		t.Errorf("a damaged token: %v", err)
	}
	if now, _ := os.ReadFile(path); string(now) != string(b) {
		t.Error("the damaged file was replaced")
	}
}

func TestOptionsReportEverything(t *testing.T) {
	_, err := Options{Nickname: "h", Port: 70000, MTU: 100, Range: netip.MustParsePrefix("10.32.1.1/12"), RangeSet: true, Host: "nonsense"}.withDefaults()
	for _, want := range []string{"--port", "--mtu", "--ipalloc-range", "10.32.0.0/12", "--host"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}
