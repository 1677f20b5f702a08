package peer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestIdentityFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	a, created, err := LoadIdentity(dir)
	if err != nil || !created {
		t.Fatalf("first: created %v, %v", created, err)
	}
	b, created, err := LoadIdentity(dir)
	if err != nil || created {
		t.Fatalf("second: created %v, %v", created, err)
	}
	if a.ID() != b.ID() || a.WireGuardPrivate() != b.WireGuardPrivate() || a.JoinPrivate() != b.JoinPrivate() {
		t.Error("the second load gives another identity")
	}
	if a.ID() != IDOf(a.Public()) || !ed25519.Verify(b.Public(), []byte("m"), a.Sign([]byte("m"))) {
		t.Error("ID or signature do not fit the public key")
	}
	if a.WireGuardPublic() != a.WireGuardPrivate().public() || a.JoinPublic() != a.JoinPrivate().public() || a.WireGuardPublic() == a.JoinPublic() {
		t.Error("the X25519 keys do not fit one another")
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "identity"): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v (%v)", path, st.Mode().Perm(), want, err)
		}
	}
	if names := list(t, dir); len(names) != 1 {
		t.Errorf("files left: %v", names)
	}
}

// TestIdentityCrash leaves what a crash before the rename would.
func TestIdentityCrash(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, identityTemp+"123"), []byte("weft-ident"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, created, err := LoadIdentity(dir); err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	if names := list(t, dir); len(names) != 1 || names[0] != "identity" {
		t.Errorf("files left: %v", names)
	}
}

func TestIdentityCreatedOnce(t *testing.T) {
	dir := t.TempDir()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		ids  = make(map[ID]int)
		made int
	)
	for range 8 {
		wg.Go(func() {
			id, created, err := LoadIdentity(dir)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			ids[id.ID()]++
			if created {
				made++
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 || made != 1 {
		t.Errorf("%d identities, created %d times", len(ids), made)
	}
}

func TestIdentityRefused(t *testing.T) {
	good := string(mustIdentity(t).encode())
	flip := func(s, field string) string { // one bit of a key
		i := strings.Index(s, field) + len(field) + 5
		return s[:i] + string(s[i]^1) + s[i+1:]
	}
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		err  string
		hint string
	}{
		"others may read": {good, 0o644, "its mode is 0644, others may read the host's private keys", "chmod 600 "},
		"empty":           {"", 0o600, "the file is empty", "backup"},
		"spaces":          {"\n \n", 0o600, "the file is empty", "backup"},
		"something else":  {"-----BEGIN OPENSSH PRIVATE KEY-----\n", 0o600, "this is not an identity file of weft", "backup"},
		"cut off":         {good[:100], 0o600, "it is cut off", "backup"},
		"cut in check":    {good[:len(good)-3], 0o600, "its checksum does not match", "backup"},
		"bit in ed25519":  {flip(good, "ed25519"), 0o600, "its checksum does not match", "weft rmpeer"},
		"bit in join":     {flip(good, "join"), 0o600, "its checksum does not match", "backup"},
		"newer":           {strings.Replace(good, "weft-identity 1", "weft-identity 2", 1), 0o600, "written by a newer version of weft", "run the version"},
		"no version":      {"weft-identity \n", 0o600, "first line is not readable", "backup"},
		"too long":        {"weft-identity 1\n" + strings.Repeat("x", 5000), 0o600, "it is too long", "backup"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "identity")
			if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			id, created, err := LoadIdentity(dir)
			if err == nil || id != nil || created {
				t.Fatalf("LoadIdentity = %v, %v, %v", id, created, err)
			}
			if !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q: want it to name the file and say %q", err, c.err)
			}
			if h := hintOf(err); !strings.Contains(h, c.hint) {
				t.Errorf("hint %q: want %q in it", h, c.hint)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != c.text {
				t.Errorf("the refused file was changed (%v)", err)
			}
		})
	}
}

func TestIdentityOddFiles(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(target, mustIdentity(t).encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "identity")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("symbolic link: %v", err)
	}
	os.Remove(path)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("directory: %v", err)
	}
}

// TestIdentityHidden prints an identity, and what holds one, in every way.
func TestIdentityHidden(t *testing.T) {
	id := mustIdentity(t)
	opts := Options{Interface: "weftwg", PrivateKey: id.WireGuardPrivate()}
	cfg := Config{PublicKey: id.WireGuardPublic(), PresharedKey: id.JoinPrivate()}
	type holder struct{ Identity *Identity }
	var out bytes.Buffer
	for _, v := range []any{id, *id, holder{id}, []*Identity{id}, opts, &opts, cfg, &cfg, []Config{cfg},
		step{verb: stepAdd, key: cfg.PublicKey, psk: &cfg.PresharedKey}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
	}
	b, err := json.Marshal(holder{id})
	if err != nil || string(b) != `{"Identity":"`+id.String()+`"}` {
		t.Errorf("JSON: %s, %v", b, err)
	}
	for name, secret := range map[string]Key{"seed": Key(id.sign.Seed()), "wireguard": id.wg, "join": id.join} {
		for _, text := range []string{
			base64.StdEncoding.EncodeToString(secret[:])[:20], hex.EncodeToString(secret[:])[:20],
			strings.ToUpper(hex.EncodeToString(secret[:])[:20]), strings.Trim(fmt.Sprint(secret[:6]), "[]"),
			strings.Trim(fmt.Sprintf("%#v", secret[:4])[6:], "{}"),
		} {
			if i := strings.Index(out.String(), text); i >= 0 {
				t.Errorf("the %s key was printed: …%.60s…", name, out.String()[max(0, i-40):])
			}
		}
	}
}

func FuzzIdentityFile(f *testing.F) {
	id, err := NewIdentity()
	if err != nil {
		f.Fatal(err)
	}
	good := id.encode()
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("weft-identity 1\ncheck "))
	f.Add([]byte("weft-identity 99999999999999999999\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseIdentity(b)
		if err == nil && !bytes.Equal(id.encode(), b) {
			t.Errorf("accepted, but written otherwise: %q", b)
		}
	})
}

func mustIdentity(t *testing.T) *Identity {
	t.Helper()
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

func hintOf(err error) string {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return h.Hint()
	}
	return ""
}
