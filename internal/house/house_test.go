package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ours says what each package may import of ours, its tests included ("" in
// front of the slash: without "weft/"). A package that is not here fails.
var ours = map[string][]string{
	"cmd/weft":          {"*"},
	"router":            {"api", "dns", "docker", "host", "ipam", "mesh", "peer", "internal/fdkeep", "internal/statedb"},
	"mesh":              {"peer"},
	"peer":              {},
	"ipam":              {},
	"dns":               {},
	"docker":            {},
	"host":              {},
	"api":               {},
	"integration":       {"internal/netlab"},
	"internal/benchdns": {"dns"},
	"internal/fdkeep":   {},
	"internal/netlab":   {},
	"internal/simnet":   {},
	"internal/statedb":  {},
	"internal/house":    {},
}

// inTests adds what test files alone may import.
var inTests = map[string][]string{
	"mesh":             {"internal/simnet"},
	"router":           {"internal/simnet"},
	"internal/statedb": {"internal/netlab"}, // what a test needs
}

// doors says who alone may import a dependency (a prefix of the import path),
// test files excepted: they look at the world from outside.
var doors = map[string][]string{
	"github.com/hashicorp/memberlist":     {"mesh"},
	"github.com/flynn/noise":              {"mesh"},
	"golang.zx2c4.com/wireguard":          {"peer"}, // and wgctrl below it
	"filippo.io/edwards25519":             {"peer"},
	"github.com/miekg/dns":                {"dns"},
	"github.com/moby/moby":                {"docker"},
	"github.com/vishvananda":              {"host", "internal/netlab"}, // see docs/decisions.md: test hosts are not the host
	"github.com/google/nftables":          {"host", "internal/netlab"},
	"github.com/prometheus/client_golang": {"api"},
	"go.etcd.io/bbolt":                    {"internal/statedb"},
	"github.com/spf13/cobra":              {"cmd/weft"},
	"os/signal":                           {"cmd/weft"},
	"os/exec":                             {"peer", "cmd/weft", "internal/netlab", "internal/benchdns"}, // the device process, the background router, test hosts, servers to compare with
}

type pkg struct {
	ImportPath, Dir, Name              string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json", "weft/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var ps []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

func TestImportRule(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, "weft/")
		allowed, known := ours[name]
		if !known {
			t.Errorf("package %s has no line in the import rule", name)
			continue
		}
		check := func(imports []string, allowed []string, where string) {
			for _, i := range imports {
				mine, ok := strings.CutPrefix(i, "weft/")
				if ok && mine != name && !slices.Contains(allowed, "*") && !slices.Contains(allowed, mine) {
					t.Errorf("%s%s imports %s, which the import rule forbids", name, where, i)
				}
			}
		}
		check(p.Imports, allowed, "")
		check(append(p.TestImports, p.XTestImports...), append(slices.Clone(allowed), inTests[name]...), " (tests)")
	}
}

func TestOneDoorPerDependency(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, "weft/")
		for _, i := range p.Imports {
			for dep, who := range doors {
				if i != dep && !strings.HasPrefix(i, dep+"/") {
					continue
				}
				used[dep] = true
				if !slices.Contains(who, name) {
					t.Errorf("%s imports %s, whose door is %v", name, i, who)
				}
			}
		}
	}
	for dep := range doors {
		if !used[dep] {
			t.Errorf("nobody imports %s: take its line out", dep)
		}
	}
}

// What issue 2 asks for is there, and says what it should.
func TestTheHouseIsComplete(t *testing.T) {
	root := filepath.Join("..", "..")
	for name, part := range map[string]string{
		".ci/run":           "make test",
		"ARCHITECTURE.md":   "router",
		"CHANGELOG.md":      "weft",
		"Dockerfile":        "FROM scratch",
		"LICENSE":           "Apache License",
		"Makefile":          "demo:",
		"README.md":         "make demo",
		"SECURITY.md":       "secret",
		"docs/decisions.md": "WireGuard",
		"go.mod":            "module weft\n\ngo 1.26",
	} {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || !strings.Contains(string(b), part) {
			t.Errorf("%s lacks %q, or cannot be read: %v", name, part, err)
		}
	}
	if s, err := os.Stat(filepath.Join(root, ".ci/run")); err != nil || s.Mode().Perm()&0o111 != 0o111 {
		t.Errorf(".ci/run cannot be run: %v", err)
	}
	var have []string
	for _, p := range packages(t) {
		have = append(have, strings.TrimPrefix(p.ImportPath, "weft/"))
	}
	for name := range ours {
		if !slices.Contains(have, name) {
			t.Errorf("package %s of the design does not exist", name)
		}
	}
}

// HTTP servers are the API's alone; clients are not.
func TestServersAreTheAPIs(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, "weft/")
		if slices.Contains(p.Imports, "net/http") && !slices.Contains([]string{"api", "cmd/weft", "docker"}, name) {
			t.Errorf("%s imports net/http, whose door is api (docker has a client, cmd/weft the tiny responder of the demo)", name)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		doc := ""
		for _, f := range p.GoFiles {
			src, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if src.Doc != nil {
				doc += src.Doc.Text()
			}
		}
		if len(p.GoFiles) > 0 && len(doc) < 60 {
			t.Errorf("%s has no package comment that says what it is", p.ImportPath)
		}
	}
}
