package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	identityName    = "identity"
	identityTemp    = "identity.tmp-" // and random digits
	identityHeader  = "weft-identity "
	identityVersion = "1"
	identityMax     = 4096 // bytes; the file has about 250
)

// LoadIdentity reads DIR/identity, and makes the directory (0700) and the file
// (0600) if they are missing; created says that it did. A file that others may
// read, that is damaged, or that a newer weft wrote is refused, never replaced:
// with it the host would lose its name, its addresses and its place in the mesh.
// Errors for which there is a cure have a method Hint() string.
func LoadIdentity(dir string) (id *Identity, created bool, err error) {
	path := filepath.Join(dir, identityName)
	id, err = readIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, false, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("make state directory: %w", err)
	}
	return createIdentity(dir, path)
}

func readIdentity(path string) (*Identity, error) {
	// Not through a symbolic link: the mode that is checked below is then the
	// mode of the file that the operator sees here. Not blocking on a FIFO.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, withHint(fmt.Errorf("read identity %s: it is a symbolic link", path),
			"put the file itself there, or point --state-dir at the directory that holds it")
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read identity %s: it is not a regular file", path)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, withHint(fmt.Errorf("read identity %s: its mode is %04o, others may read the host's private keys", path, st.Mode().Perm()),
			"if nobody else has read it: chmod 600 "+path)
	}
	b, err := io.ReadAll(io.LimitReader(f, identityMax+1))
	if err != nil {
		return nil, fmt.Errorf("read identity %s: %w", path, err)
	}
	id, err := parseIdentity(b)
	switch {
	case errors.Is(err, errNewerIdentity):
		return nil, withHint(fmt.Errorf("read identity %s: %w", path, err), "run the version of weft that wrote it, or a later one")
	case err != nil:
		return nil, withHint(fmt.Errorf("read identity %s: %w", path, err),
			"restore the file from a backup; or, to make this a new host, remove it and launch again, and give the old host's addresses back with 'weft rmpeer' on a peer")
	}
	return id, nil
}

// createIdentity writes a new identity so that a crash at any moment leaves
// either no file or a whole one on the disk. The lock on the directory makes a
// second creator take what the first one made.
func createIdentity(dir, path string) (*Identity, bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, false, fmt.Errorf("create identity: %w", err)
	}
	defer d.Close() // releases the lock
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, false, fmt.Errorf("create identity: lock %s: %w", dir, err)
	}
	if id, err := readIdentity(path); !errors.Is(err, fs.ErrNotExist) {
		return id, false, err
	}
	// What a crash left half-made was never used: the rename had not happened.
	if old, err := filepath.Glob(filepath.Join(dir, identityTemp+"*")); err == nil {
		for _, p := range old {
			os.Remove(p)
		}
	}
	id, err := NewIdentity()
	if err != nil {
		return nil, false, err
	}
	if err := writeNew(dir, path, id.encode()); err != nil {
		return nil, false, fmt.Errorf("create identity: %w", err)
	}
	if err := d.Sync(); err != nil {
		return nil, false, fmt.Errorf("create identity: sync %s: %w", dir, err)
	}
	return id, true, nil
}

func writeNew(dir, path string, b []byte) (err error) {
	f, err := os.CreateTemp(dir, identityTemp+"*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// encode gives the file's text (see the package comment).
func (i *Identity) encode() []byte {
	var b bytes.Buffer
	b64 := base64.StdEncoding.EncodeToString
	fmt.Fprintf(&b, "%s%s\n", identityHeader, identityVersion)
	fmt.Fprintf(&b, "ed25519 %s\n", b64(i.sign.Seed()))
	fmt.Fprintf(&b, "wireguard %s\n", b64(i.wg[:]))
	fmt.Fprintf(&b, "join %s\n", b64(i.join[:]))
	fmt.Fprintf(&b, "check %s\n", identityCheck(b.Bytes()))
	return b.Bytes()
}

func identityCheck(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

var errNewerIdentity = errors.New("it was written by a newer version of weft")

// parseIdentity reads what encode wrote. Its errors never quote the text.
func parseIdentity(b []byte) (*Identity, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, errors.New("the file is empty")
	}
	version, ok := strings.CutPrefix(firstLine(b), identityHeader)
	if !ok {
		return nil, errors.New("this is not an identity file of weft")
	}
	if version != identityVersion {
		if version == "" || strings.Trim(version, "0123456789") != "" {
			return nil, errors.New("the file is damaged: its first line is not readable")
		}
		return nil, errNewerIdentity
	}
	if len(b) > identityMax {
		return nil, errors.New("the file is damaged: it is too long")
	}
	at := bytes.LastIndex(b, []byte("\ncheck "))
	if at < 0 {
		return nil, errors.New("the file is damaged: it is cut off")
	}
	body, check := b[:at+1], string(b[at+1:])
	if check != "check "+identityCheck(body)+"\n" {
		return nil, errors.New("the file is damaged: its checksum does not match")
	}
	lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")[1:]
	names := []string{"ed25519", "wireguard", "join"}
	if len(lines) != len(names) {
		return nil, fmt.Errorf("the file is damaged: it has %d keys instead of %d", len(lines), len(names))
	}
	var keys [3][32]byte
	for n, name := range names {
		text, ok := strings.CutPrefix(lines[n], name+" ")
		raw, err := base64.StdEncoding.Strict().DecodeString(text)
		if !ok || err != nil || len(raw) != 32 {
			return nil, fmt.Errorf("the file is damaged: its %s key is not readable", name)
		}
		keys[n] = [32]byte(raw)
	}
	if Key(keys[1]) != Key(keys[1]).clamped() || Key(keys[2]) != Key(keys[2]).clamped() {
		return nil, errors.New("the file is damaged: a private key is not one of X25519")
	}
	return newIdentity([ed25519.SeedSize]byte(keys[0]), keys[1], keys[2]), nil
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(line)
}
