#!/bin/bash
# The test suites of the public NATS clients, as their registries have them, against a server program.
#
#   run.sh SUITE BINARY             the tests of SUITE.txt; fails if one of them fails three times
#   run.sh SUITE BINARY --record F  all tests that need no JetStream, leaf node or WebSocket; names of those that pass to F
#
# SUITE: async-nats (Rust), nats.go (Go), nats.py (Python), or all.
# The lists hold what nats-server passes here; a line `! TEST REASON` is a test that this server does not pass.
# WORK (default ~/.cache/starling-foreign) keeps sources and builds; JOBS (2) is how many tests run at a time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
suite=${1:?run.sh SUITE BINARY [--record FILE]}
binary=$(realpath "${2:?run.sh SUITE BINARY [--record FILE]}")
record=; [ "${3:-}" = --record ] && record=$(realpath -m "${4:?--record FILE}")
export WORK=${WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/starling-foreign} JOBS=${JOBS:-2} FOREIGN_SERVER=$binary
if [ "$suite" = all ]; then
  # side by side: they mostly wait, and the ports of one are not those of another's network
  logs=$(mktemp -d)
  trap 'rm -rf "$logs"' EXIT
  suites=(async-nats nats.go nats.py) pids=() failed=0
  for each in "${suites[@]}"; do "$0" "$each" "$binary" >"$logs/$each" 2>&1 & pids+=($!); done
  for place in "${!suites[@]}"; do
    wait "${pids[place]}" || failed=1
    cat "$logs/${suites[place]}"
  done
  exit $failed
fi
mkdir -p "$WORK/$suite"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Each suite has two functions: prepare lays out and builds the tests; try FILE writes the names of those of FILE (of
# all for an empty FILE) that pass to $scratch/now.
case $suite in async-nats | nats.go | nats.py) . "$here/$suite/suite.sh" ;; *)
  echo "run.sh: no suite $suite; suites are async-nats, nats.go, nats.py, all" >&2
  exit 2
  ;;
esac

prepare
: >"$scratch/passed"
if [ -n "$record" ]; then
  : >"$scratch/none"
  try "$scratch/none"
  sort -u "$scratch/now" >"$record"
  echo "$suite: $(wc -l <"$record") tests pass"
  exit
fi
grep -v '^[#!]' "$here/$suite.txt" | awk 'NF { print $1 }' | sort -u >"$scratch/listed"
for _ in $(seq "${TRIES:-3}"); do
  comm -23 "$scratch/listed" "$scratch/passed" >"$scratch/due"
  [ -s "$scratch/due" ] || break
  try "$scratch/due"
  sort -u "$scratch/now" "$scratch/passed" -o "$scratch/passed"
done
comm -23 "$scratch/listed" "$scratch/passed" >"$scratch/lost"
known=$(grep -c '^!' "$here/$suite.txt" || true)
echo "$suite: $(wc -l <"$scratch/listed") tests must pass, $(wc -l <"$scratch/lost") of them fail; $known known to fail"
if [ -s "$scratch/lost" ]; then sed 's/^/  FAILED /' "$scratch/lost"; exit 1; fi
