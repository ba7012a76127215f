#!/bin/bash
# nats-server's own tests against the broker, by the conformance runner beside this checkout, held to
# conformance-passing.txt: the tests that must pass.
#   conformance.sh BINARY               the tests of the list; fails if one of them does
#   conformance.sh BINARY --all         all tests of the runner's baseline; also names those that pass and are not listed
#   conformance.sh BINARY --update      the same, and writes the list anew; a test that was listed and fails stays an error
# CONFORMANCE names the runner's folder, JOBS the tests at a time. Needs Go. TRIES (3) is how often a listed test may be
# tried: these tests are timed, and machines are shared.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:?conformance.sh BINARY [--all | --update]}")
mode=${2:-}
runner=${CONFORMANCE:-../shared/conformance}
list=e2e/conformance-passing.txt
if [ ! -x "$runner/run.sh" ]; then
  echo "conformance.sh: no runner at $runner; name its folder with CONFORMANCE" >&2
  exit 2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export WORK=${WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/starling-conformance} GOFLAGS="${GOFLAGS:--p=2}"

# These keep what responders answered in one folder beside the tests: one at a time.
alone='^TestOCSP(Peer|Response|Staple|Monitoring)'
names() { sed 's/#.*//' "$@" | awk 'NF { print $2 }' | sort -u; }
run() { # arguments of run.sh; the names that passed go to $scratch/passed
  : >"$scratch/record"
  "$runner/run.sh" "$binary" -j "${JOBS:-2}" -limit 60s -record "$scratch/record" "$@" >"$scratch/log" 2>&1 || true
  tail -n 3 "$scratch/log"
  awk 'NF { print $NF ~ /^Test/ ? $NF : $2 }' "$scratch/record" | sort -u >>"$scratch/passed.all"
  sort -u "$scratch/passed.all" -o "$scratch/passed"
}

: >"$scratch/passed.all"
names "$list" >"$scratch/listed"
if [ -n "$mode" ]; then
  run
  JOBS=1 run -run "$alone"
fi
for try in $(seq "${TRIES:-3}"); do
  touch "$scratch/passed"
  comm -23 "$scratch/listed" "$scratch/passed" >"$scratch/due"
  [ -s "$scratch/due" ] || break
  together=$(grep -Ev "$alone" "$scratch/due" | paste -sd'|') || true
  apart=$(grep -E "$alone" "$scratch/due" | paste -sd'|') || true
  if [ -n "$together" ]; then run -run "^($together)\$"; fi
  if [ -n "$apart" ]; then JOBS=1 run -run "^($apart)\$"; fi
done
comm -23 "$scratch/listed" "$scratch/passed" >"$scratch/lost"
if [ -n "$mode" ]; then
  comm -13 "$scratch/listed" "$scratch/passed" >"$scratch/new"
  echo "passes and is not listed: $(wc -l <"$scratch/new")"; sed 's/^/  /' "$scratch/new"
fi
if [ "$mode" = --update ]; then
  {
    sed -n '/^#/p; /^[^#]/q' "$list"
    sort -u "$scratch/listed" "$scratch/passed" | awk '
      NR == FNR { wanted[$1]; next } ($2 in wanted) { print $1, $2 }' - <(sed 's/#.*//' "$runner/baseline.txt") | sort
  } >"$scratch/list"
  cp "$scratch/list" "$list"
fi
echo "conformance: $(wc -l <"$scratch/listed") tests must pass, $(wc -l <"$scratch/lost") of them fail"
if [ -s "$scratch/lost" ]; then sed 's/^/  FAILED /' "$scratch/lost"; exit 1; fi
