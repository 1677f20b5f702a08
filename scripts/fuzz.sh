#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each. A finding is
# written by Go into the package's testdata/fuzz, and fails the run.
set -euo pipefail
time=${1:-3s}
export CI= # a fuzz worker needs no root
for pkg in $(go list ./...); do
	dir=${pkg#weft}; dir=.${dir:-/}
	for f in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go 2>/dev/null | sed 's/^func //' | sort -u); do
		echo "fuzz $pkg $f $time"
		go test "$pkg" -run '^$' -fuzz "^$f\$" -fuzztime "$time" >/tmp/fuzz.$$ 2>&1 || { cat /tmp/fuzz.$$; rm -f /tmp/fuzz.$$; exit 1; }
	done
done
rm -f /tmp/fuzz.$$
