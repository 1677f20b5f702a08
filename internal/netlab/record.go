package netlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// registry holds a record per lab of this machine. It is in /run since a
// machine's restart ends all labs.
const registry = "/run/weft-netlab"

// record is what the next run must know to end a lab whose owner has crashed.
type record struct {
	ID    string `json:"id"` // random; all marks hold it
	Name  string `json:"name"`
	Dir   string `json:"dir"`   // the lab's files
	Owner int    `json:"owner"` // process ID, with
	Start uint64 `json:"start"` // its start time
	Kept  bool   `json:"kept"`  // left running on purpose
}

func (r record) path() string   { return filepath.Join(registry, r.ID+".json") }
func (r record) cgroup() string { return "/weft-netlab-" + r.ID }

// mark tells the processes of the lab, or of one host.
func (r record) mark(host string) mark {
	m := mark{env: r.ID + "/", dir: "/run/.weft-netlab." + r.ID, cgroup: r.cgroup()}
	if host != "" {
		m.env += host + "/"
		m.dir += "/" + host
		m.cgroup += "/" + host
	}
	return m
}

// save writes the record, whole or not at all.
func (r record) save() error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(registry, 0o700); err != nil {
		return err
	}
	temp := r.path() + ".new" // readers look at .json only
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, r.path())
}

// orphaned reports whether nobody will close the lab.
func (r record) orphaned() (bool, error) {
	if (process{pid: r.Owner, start: r.Start}).runs() {
		return false, nil
	}
	if !r.Kept {
		return true, nil
	}
	left, err := running(r.mark(""))
	return len(left) == 0, err
}

// end ends the lab's processes and removes what it has outside its namespaces,
// the record last, so that a failed end is tried again by the next Sweep.
func (r record) end(grace time.Duration) error {
	thaw(r.cgroup())
	if err := endMarked(r.mark(""), grace); err != nil {
		return fmt.Errorf("end lab %s: %w", r.ID, err)
	}
	err := errors.Join(removeCgroup(r.cgroup()), os.RemoveAll(r.Dir))
	if err == nil {
		err = os.Remove(r.path())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end lab %s: %w", r.ID, err)
	}
	_ = os.Remove(registry) // when it is empty
	return nil
}

// Sweep ends what crashed labs of this machine left: processes, cgroups and
// files. Labs whose process lives, and those left up by Keep, are not touched.
// It needs root.
func Sweep() error {
	records, errs := readRecords()
	for _, r := range records {
		orphaned, err := r.orphaned()
		if err == nil && orphaned {
			err = r.end(0)
		}
		errs = errors.Join(errs, err)
	}
	return errs
}

// End ends a lab that Keep left up, known by the ID that Keep printed.
func End(id string) error {
	records, errs := readRecords()
	for _, r := range records {
		if r.ID == id && r.Kept {
			return r.end(closeGrace)
		}
	}
	return errors.Join(fmt.Errorf("end lab %s: no lab of this ID was kept", id), errs)
}

// Kept lists the IDs of the labs that Keep left up.
func Kept() ([]string, error) {
	records, err := readRecords()
	var ids []string
	for _, r := range records {
		if r.Kept {
			ids = append(ids, r.ID)
		}
	}
	return ids, err
}

func readRecords() ([]record, error) {
	entries, err := os.ReadDir(registry)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var rs []record
	var errs []error
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		b, err := os.ReadFile(filepath.Join(registry, e.Name()))
		if errors.Is(err, fs.ErrNotExist) { // closed meanwhile
			continue
		}
		var r record
		if err == nil {
			err = parseRecord(b, id, &r)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read record of lab %s: %w", id, err))
			continue
		}
		rs = append(rs, r)
	}
	return rs, errors.Join(errs...)
}

// parseRecord refuses a record that could make Sweep remove a stranger's files.
func parseRecord(b []byte, id string, r *record) error {
	if err := json.Unmarshal(b, r); err != nil {
		return err
	}
	if r.ID != id || len(id) != idLen || filepath.Base(r.Dir) != dirPrefix+id || !filepath.IsAbs(r.Dir) {
		return fmt.Errorf("not a lab's record")
	}
	return nil
}
