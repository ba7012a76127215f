#!/bin/sh
# Counts the instructions of a worker's fixed work and compares them with instructions.txt, within 3 % (15 % with
# another compiler than the record's).
# Wall time swings by half on a shared machine; these counts repeat to a fraction of a percent.
#
#   instructions.sh            compare; fails when a scenario needs more than the record says
#   instructions.sh --record   write a new record, after a change that is meant to cost or to save
#
# Needs valgrind. The record holds for the compiler and processor that it names.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
record=$here/instructions.txt
tolerance_percent=3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$here/../.."
cargo build --quiet --release -p starling-engine --example instructions
binary=${CARGO_TARGET_DIR:-target}/release/examples/instructions

# Instructions of a scenario and so many rounds, startup included.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : *//p'
}

"$binary" >"$work/scenarios"
{
    echo "# instructions per operation; $(rustc --version), $(uname -m)"
    while read -r name operations; do
        # The first rounds fill caches and buffers; what two lengths differ by is the steady work.
        short=$(count "$name" 4)
        long=$(count "$name" 12)
        echo "$name $(((long - short) / (8 * operations)))"
    done <"$work/scenarios"
} >"$work/counts"

if [ "${1:-}" = --record ]; then
    cp "$work/counts" "$record"
    cat "$record"
    exit 0
fi

awk -v tolerance="$tolerance_percent" '
    /^#/ {
        if (FNR == NR) recorded = $0
        else if ($0 != recorded) { print "note: recorded with " recorded ", now " $0; tolerance *= 5 }
        next
    }
    FNR == NR { before[$1] = $2; next }
    !($1 in before) { printf "%-28s %8d  not in the record\n", $1, $2; failed = 1; next }
    {
        change = before[$1] ? ($2 - before[$1]) * 100 / before[$1] : 0
        verdict = "ok"
        if (change > tolerance) { verdict = "MORE"; failed = 1 }
        if (change < -tolerance) { verdict = "less: record it with --record" }
        printf "%-28s %8d -> %8d  %+6.1f %%  %s\n", $1, before[$1], $2, change, verdict
        seen[$1] = 1
    }
    END {
        for (name in before) if (!(name in seen)) { print name ": no such scenario any more"; failed = 1 }
        exit failed
    }' "$record" "$work/counts"
