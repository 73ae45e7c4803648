#!/bin/sh
# Runs every fuzz target for a while: fuzz.sh TIME [GUIDED]. Test binaries are
# built as the tests' are, so that nothing is compiled twice; with a second
# argument the targets are built with coverage guidance, which compiles all of
# their libraries anew and finds more. SHIM_TAGS are the build tags of the shim.
set -eu
time=$1 guided=${2:-} bad=0
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for dir in $(git ls-files '*_test.go' | xargs grep -l '^func Fuzz' | grep -v ^test/conformance | xargs -n1 dirname | sort -u); do
	targets=$(cat "$dir"/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p')
	if [ -z "$guided" ]; then
		rm -f "$out/fuzz.test"
		go test -c -o "$out/fuzz.test" "./$dir"
		# The shim's room has nothing without cgo; then it is built as the shim is.
		[ -e "$out/fuzz.test" ] || CGO_ENABLED=1 go test -c -tags "$SHIM_TAGS" -o "$out/fuzz.test" "./$dir"
	fi
	for f in $targets; do
		echo "$dir $f"
		if [ -n "$guided" ]; then
			go test "./$dir" -run '^$' -fuzz "^$f\$" -fuzztime "$time" >"$out/log" 2>&1 || { bad=1; cat "$out/log"; }
		else
			(cd "$dir" && "$out/fuzz.test" -test.run '^$' -test.fuzz "^$f\$" -test.fuzztime "$time" -test.fuzzcachedir "$out/cache" -test.timeout 5m) >"$out/log" 2>&1 || { bad=1; cat "$out/log"; }
		fi
	done
done
exit $bad
