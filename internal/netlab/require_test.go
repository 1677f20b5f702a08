package netlab

import (
	"fmt"
	"strings"
	"testing"
)

type fakeTB struct{ said string }

func (f *fakeTB) Helper()                          {}
func (f *fakeTB) Skipf(format string, args ...any) { f.said = "skip: " + fmt.Sprintf(format, args...) }
func (f *fakeTB) Fatalf(format string, args ...any) {
	f.said = "fatal: " + fmt.Sprintf(format, args...)
}

func TestRequire(t *testing.T) {
	for ci, want := range map[string]string{"": "skip: ", "true": "fatal: "} {
		t.Setenv("CI", ci)
		var f fakeTB
		Require(&f, "sh")
		if f.said != "" {
			t.Errorf("CI=%q: sh is there, yet: %s", ci, f.said)
		}
		Require(&f, "sh", "no-such-program")
		if !strings.HasPrefix(f.said, want) || !strings.HasSuffix(f.said, "needs the program no-such-program") {
			t.Errorf("CI=%q: %s", ci, f.said)
		}
	}
	var _ TB = t
}
