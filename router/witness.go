package router

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What a container has, its interface says, whatever state file is put back. What a program
// holds under an ID has none: a file in the run directory says it, one per ID, which like
// interfaces does not survive a reboot. It says never less than was answered.
//
// Content: JSON, as below. Name: witnessPrefix and 64 bits of the key's SHA-256 in hex.
const witnessPrefix = "held-"

type witness struct {
	Key   string
	Addrs []netip.Prefix
}

func (a *attachment) held() bool { return strings.HasPrefix(a.Key, heldPrefix) }

func (r *Router) witnessFile(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(r.o.RunDir, witnessPrefix+hex.EncodeToString(sum[:8]))
}

// bearWitness makes the file of an ID say what it holds; nothing: it goes.
func (r *Router) bearWitness(key string, addrs []netip.Prefix) error {
	path := r.witnessFile(key)
	if len(addrs) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget what is held: %w", err)
		}
		return nil
	}
	b, err := json.Marshal(witness{key, addrs})
	if err != nil {
		return err
	}
	if err = os.WriteFile(path+".new", b, 0o600); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return unwritten(fmt.Errorf("write down what is held: %w", err))
	}
	return nil
}

// bearBoth is called before attachments are stored: until it is known whether they were, the
// files say what they hold in either case.
func (r *Router) bearBoth(as []*attachment) error {
	for _, a := range as {
		if !a.held() {
			continue
		}
		both := slices.Clone(a.Addrs)
		if was := r.attached[a.Key]; was != nil {
			for _, p := range was.Addrs {
				if !hasAddr(both, p.Addr()) {
					both = append(both, p)
				}
			}
		}
		if err := r.bearWitness(a.Key, both); err != nil {
			return err
		}
	}
	return nil
}

// bearStored is called when it is known. A file that can not be made to say less is made to
// by the next change of what its ID holds, or the next start.
func (r *Router) bearStored(as []*attachment) {
	for _, a := range as {
		if !a.held() {
			continue
		}
		var addrs []netip.Prefix
		if have := r.attached[a.Key]; have != nil {
			addrs = have.Addrs
		}
		if err := r.bearWitness(a.Key, addrs); err != nil {
			r.log.Warn("write down that no more is held", "container", shortKey(a.Key), "err", err)
		}
	}
}

// witnessed is what all the files say.
func (r *Router) witnessed() (map[string][]netip.Prefix, error) {
	paths, err := filepath.Glob(filepath.Join(r.o.RunDir, witnessPrefix+"*"))
	if err != nil {
		return nil, err
	}
	all := map[string][]netip.Prefix{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, fmt.Errorf("read what is held: %w", err)
		}
		var w witness
		if err := json.Unmarshal(b, &w); err != nil || r.witnessFile(w.Key) != p {
			continue // cut off before it was answered
		}
		all[w.Key] = w.Addrs
	}
	return all, nil
}

// witnessAll makes the files say what is stored, where they say otherwise: after a reboot there are none,
// and a router that was killed may have left one of what it did not come to store.
func (r *Router) witnessAll(said map[string][]netip.Prefix) error {
	var errs []error
	for k, a := range r.attached {
		if a.held() && !slices.Equal(said[k], a.Addrs) {
			errs = append(errs, r.bearWitness(k, a.Addrs))
		}
	}
	for k := range said {
		if r.attached[k] == nil {
			errs = append(errs, r.bearWitness(k, nil))
		}
	}
	return errors.Join(errs...)
}
