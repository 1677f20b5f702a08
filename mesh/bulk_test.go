package mesh

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// watchedDisk notes how much is in memory that is not on it.
type watchedDisk struct {
	*disk
	mesh    *Mesh
	written int
	unsaved int // at most
}

func (d *watchedDisk) Apply(bucket string, put map[string][]byte, del []string) error {
	if bucket == bucketLog && d.mesh != nil {
		d.mesh.mu.Lock()
		d.unsaved = max(d.unsaved, d.mesh.logs.held-d.written)
		d.mesh.mu.Unlock()
		for _, b := range put {
			d.written += len(b)
		}
	}
	return d.disk.Apply(bucket, put, del)
}

// 100,000 records of 100 bytes are joined with, and what is taken waits for the disk:
// at no time is there much more in memory than what a restart would find again.
func TestHundredThousandRecords(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 signatures and as many proofs")
	}
	bubble(t, func(t *testing.T, w *world) {
		const records, each = 100_000, 4000
		w.log = slog.New(slog.DiscardHandler)
		a, b := w.box("host1"), w.box("host2")
		a.found()
		time.Sleep(time.Second)
		a.mesh.mu.Lock()
		for i := range records / each {
			s := newScribe(t, w.secret)
			for _, p := range s.epochOf(t, 1<<32, each+1, 0, func(j int) []byte { return fmt.Appendf(nil, "%050d%050d", i, j) }) {
				if err := a.mesh.logs.merge(p, false, &change{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		held := a.mesh.logs.held
		a.mesh.mu.Unlock()
		d := &watchedDisk{disk: b.disk}
		b.launch(func(o *Options) { o.Store, o.Targets = d, []string{a.target()} })
		d.mesh = b.mesh
		took := w.within(2*time.Minute, "the same logs", func() bool { return oneMesh(a, b) })
		t.Logf("%.1f MB after %v, of which at most %.1f MB waited for the disk", float64(held)/1e6, took, float64(d.unsaved)/1e6)
		if d.unsaved == 0 || d.unsaved > 2<<20 {
			t.Errorf("%d bytes of %d waited for the disk", d.unsaved, held)
		}
		st, n := b.mesh.State(), 0
		for _, es := range st.Logs {
			n += len(es)
		}
		if n < records {
			t.Errorf("%d records", n)
		}
	})
}
