#!/usr/bin/env bash
# Runs every fuzz target of the module: for a number of inputs (2000x), or for a
# time (10m). A finding is written into the package's testdata/fuzz and fails the
# run. Each package is compiled once, two targets run at a time.
#
# Inputs are counted in `make test`: at the end of a time, Go may report the
# worker that it has just stopped as a failure ("context deadline exceeded").
set -euo pipefail
amount=${1:-2000x}
export CI= # a fuzz worker needs no root
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for dir in $(find . -name '*_test.go' -exec grep -lE '^func Fuzz' {} + | sed 's|^\./||' | xargs -n1 dirname | sort -u); do
	bin=$work/$(echo "$dir" | tr / _).test
	go test -c -fuzz=Fuzz -o "$bin" "./$dir"
	for f in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //' | sort -u); do
		echo "$dir $f $bin"
	done
done >"$work/targets"

one() {
	read -r dir f bin <<<"$1"
	cd "$root/$dir"
	if ! "$bin" -test.run '^$' -test.fuzz "^$f\$" -test.fuzztime "$amount" -test.fuzzminimizetime 50x -test.parallel 1 \
		-test.fuzzcachedir "$work/cache" >"$work/$f.log" 2>&1; then
		echo "FAIL $dir $f"
		cat "$work/$f.log"
		exit 255
	fi
	echo "fuzz $dir $f: $(grep -oE 'execs: [0-9]+' "$work/$f.log" | tail -n 1)"
}
export -f one
export root work amount
xargs -P 2 -d '\n' -n 1 bash -c 'one "$1"' _ <"$work/targets"
