package netlab

import (
	"path/filepath"
	"strings"
	"testing"
)

// Whatever stands in a record, Sweep removes nothing but a lab's own directory.
func FuzzParseRecord(f *testing.F) {
	id := strings.Repeat("a", idLen)
	f.Add([]byte(`{"ID":"` + id + `","Dir":"/tmp/` + dirPrefix + id + `"}`))
	f.Add([]byte(`{"ID":"` + id + `","Dir":"/"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r record
		if parseRecord(b, id, &r) == nil && filepath.Base(r.Dir) != dirPrefix+id {
			t.Errorf("%q would remove %q", b, r.Dir)
		}
	})
}
