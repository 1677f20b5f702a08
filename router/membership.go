package router

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weft/mesh"
)

// membership is the mesh that this host belongs to, or wants to join.
type membership struct {
	Secret   mesh.Secret
	Founding mesh.Founding // zero: not known yet, the host is a newcomer
	Founded  bool          // this launch founded the mesh
	Targets  []string
	Init     string // as Options.Init, or what a launch before said
}

const (
	keyFounding = "founding"
	keyTargets  = "targets"
	keyInit     = "init"

	keyGeneration = "generation"
	keyBridge     = "bridge"
	tokenFile     = "token"
)

// store is the part of the state file that membership needs.
type store interface {
	Load(bucket string) (map[string][]byte, error)
	Apply(bucket string, put map[string][]byte, del []string) error
}

// resolveMembership decides what a launch is: the first host of a new mesh, a
// newcomer to one, or a member that comes back. crashed says that the last
// router of this boot did not end by itself. It writes nothing.
func resolveMembership(o Options, db store, crashed bool) (membership, error) {
	var m membership
	kept, err := db.Load(bucketRouter)
	if err != nil {
		return m, err
	}
	if b := kept[keyFounding]; len(b) > 0 {
		if m.Founding, err = mesh.ParseFounding(b); err != nil {
			return m, fmt.Errorf("read founding from the state file: %w", err)
		}
	}
	stored, err := readToken(o.StateDir)
	if err != nil {
		return m, err
	}
	// Without its secret a founding means nothing: the launch that wrote it
	// died before it had made the mesh.
	if stored.IsZero() {
		m.Founding = mesh.Founding{}
	}
	known, err := loadTargets(kept)
	if err != nil {
		return m, err
	}

	m.Init = cmp.Or(o.Init, string(kept[keyInit]))
	m.Targets = slices.Clone(o.Targets)
	given, err := givenSecret(o, &m)
	if err != nil {
		return m, err
	}
	if o.Resume || crashed {
		m.Targets = append(m.Targets, known...)
	}
	m.Targets = uniqueTargets(m.Targets)

	// A newcomer that has not joined yet goes on waiting, unless it is told
	// something else.
	if m.Founding.IsZero() && !stored.IsZero() && given.IsZero() && len(m.Targets) == 0 {
		m.Targets = uniqueTargets(known)
	}
	switch member := !m.Founding.IsZero(); {
	case member && !given.IsZero() && given.MeshID() != stored.MeshID():
		return m, &Error{Msg: fmt.Sprintf("this host belongs to mesh %v, and the secret given is that of mesh %v", stored.MeshID(), given.MeshID()),
			Tip: "launch without the secret to stay, or `weft reset` first to move to the other mesh", Code: 409}
	case member:
		m.Secret = stored
		if o.RangeSet && o.Range.IsValid() && o.Range != m.Founding.Range {
			return m, &Error{Msg: fmt.Sprintf("--ipalloc-range %v differs from the range of this mesh, %v", o.Range, m.Founding.Range),
				Tip: "launch without --ipalloc-range; a mesh keeps the range that it was founded with", Code: 409}
		}
		return m, nil
	case len(m.Targets) > 0:
		m.Secret = given
		if given.IsZero() {
			m.Secret = stored
		}
		if m.Secret.IsZero() {
			return m, &Error{Msg: "joining a mesh needs its secret", Code: 400,
				Tip: "run `weft token` on a host of the mesh, then here `weft launch TOKEN`; or launch with the --password that the mesh was founded with"}
		}
		return m, nil
	case o.Token != "":
		return m, &Error{Msg: "the token names no host to join", Tip: "name one: weft launch --token-file FILE HOST", Code: 400}
	case !stored.IsZero():
		return m, &Error{Msg: fmt.Sprintf("this host belongs to mesh %v, and the state file that says what it has there is gone", stored.MeshID()), Code: 409,
			Tip: "launch it with another host of the mesh, which knows what this one has forgotten: weft launch HOST; if there is none any more, remove " + filepath.Join(o.StateDir, tokenFile) + " and launch: a new mesh begins"}
	case o.Resume:
		return m, &Error{Msg: "there is no mesh to resume: this host has not founded or joined one", Code: 409,
			Tip: "launch once without --resume: `weft launch` founds a mesh, `weft launch TOKEN` joins one"}
	}

	// Nobody to join: found a mesh.
	m.Founded = true
	if m.Secret = given; m.Secret.IsZero() {
		m.Secret = mesh.NewSecret()
	}
	var nonce [8]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return m, fmt.Errorf("draw founding nonce: %w", err)
	}
	m.Founding = mesh.Founding{Nonce: binary.BigEndian.Uint64(nonce[:]), Range: o.Range, Subnet: o.DefaultSubnet}
	if !m.Founding.Range.IsValid() {
		m.Founding.Range = DefaultRange
		if err := checkForwards(o, DefaultRange); err != nil {
			return m, &Error{Err: err, Tip: "weft help launch", Code: 400}
		}
	}
	if !m.Founding.Subnet.IsValid() {
		m.Founding.Subnet = m.Founding.Range
	}
	return m, nil
}

// loadTargets reads the targets of the last run.
func loadTargets(kept map[string][]byte) (known []string, err error) {
	if b := kept[keyTargets]; len(b) > 0 {
		if err := json.Unmarshal(b, &known); err != nil {
			return nil, fmt.Errorf("read targets from the state file: %w", err)
		}
	}
	return known, nil
}

// givenSecret is the secret of the command line, if there is one; a token adds
// the hosts that it names to the targets.
func givenSecret(o Options, m *membership) (mesh.Secret, error) {
	switch {
	case o.Token != "":
		t, err := mesh.ParseToken(strings.TrimSpace(o.Token))
		if err != nil {
			return mesh.Secret{}, &Error{Err: err, Tip: "copy the whole output of `weft token`", Code: 400}
		}
		m.Targets = append(m.Targets, t.Endpoints...)
		return t.Secret, nil
	case o.Password != "":
		s, err := mesh.SecretFromPassword(o.Password, o.WeakPassword)
		if err != nil {
			return mesh.Secret{}, err
		}
		return s, nil
	}
	return mesh.Secret{}, nil
}

func uniqueTargets(ts []string) []string {
	var out []string
	for _, t := range ts {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// commit makes a membership durable. The founding goes first: a founding
// without a secret is ignored, a secret without its founding would make the
// founder a newcomer to its own mesh.
func (m membership) commit(o Options, db store) error {
	put := map[string][]byte{}
	if !m.Founding.IsZero() {
		b, err := m.Founding.MarshalBinary()
		if err != nil {
			return err
		}
		put[keyFounding] = b
	}
	t, err := json.Marshal(m.Targets)
	if err != nil {
		return err
	}
	put[keyTargets], put[keyInit] = t, []byte(m.Init)
	var del []string
	if m.Founding.IsZero() {
		del = []string{keyFounding}
	}
	if err := db.Apply(bucketRouter, put, del); err != nil {
		return err
	}
	return writeToken(o.StateDir, m.Secret)
}

// forgetMembership removes what a newcomer has kept of a mesh that will not have
// it, so that another secret or no peer at all can be tried.
func (r *Router) forgetMembership() error {
	if len(r.o.Targets) == 0 && r.o.Token == "" {
		return nil // an earlier launch, which was a success, chose this mesh
	}
	if err := r.db.Apply(bucketRouter, nil, []string{keyTargets, keyFounding, keyInit}); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(r.o.StateDir, tokenFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove token: %w", err)
	}
	return nil
}

func readToken(dir string) (mesh.Secret, error) {
	path := filepath.Join(dir, tokenFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return mesh.Secret{}, nil
	}
	if err != nil {
		return mesh.Secret{}, fmt.Errorf("read token: %w", err)
	}
	t, err := mesh.ParseToken(strings.TrimSpace(string(b)))
	if err != nil {
		return mesh.Secret{}, &Error{Msg: "the token file " + path + " is damaged", Err: err,
			Tip: "write the output of `weft token` on another host of the mesh into it"}
	}
	return t.Secret, nil
}

func writeToken(dir string, s mesh.Secret) error {
	old, err := readToken(dir)
	if err == nil && !old.IsZero() && string(old.Bytes()) == string(s.Bytes()) {
		return nil
	}
	text := mesh.Token{Secret: s}.Encode() + "\n"
	return writeFileDurable(filepath.Join(dir, tokenFile), []byte(text))
}

// writeFileDurable replaces path so that after a crash it is either the old
// file or the new, 0600.
func writeFileDurable(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", filepath.Base(path), err), os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("sync %s: %w", filepath.Dir(path), err)
	}
	defer d.Close()
	return d.Sync()
}

// tokenFor is what `weft token` prints: the secret and where to find this host.
func tokenFor(s mesh.Secret, endpoints []netip.AddrPort) string {
	t := mesh.Token{Secret: s}
	for _, e := range endpoints {
		t.Endpoints = append(t.Endpoints, e.String())
	}
	return t.Encode()
}
