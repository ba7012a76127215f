#!/bin/sh
# Fuzzes every target for an equal part of SECONDS (120 unless told). Fails at the first finding, which is left in
# artifacts/TARGET; repeat it with:
#   server/fuzz/run.sh repeat TARGET artifacts/TARGET/FILE
#
# Needs a C++ compiler and the stable toolchain, nothing else: the coverage that steers the search comes from flags
# that every rustc takes. No sanitizer: our code has no unsafe block, and without one the search is several times as
# fast. `cargo fuzz` works here too, on nightly.
set -eu
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares"
# not --locked: the lock file follows the rooms, which change without it
# with a target named, the flags reach our code and not the build scripts
RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 $(echo $coverage)" \
    cargo build --quiet --release --target "$host"
programs=${CARGO_TARGET_DIR:-target}/$host/release
if [ "${1:-}" = repeat ]; then
    exec "$programs/$2" "$3"
fi
seconds=${1:-120}
targets=$(cd fuzz_targets && ls | sed 's/\.rs$//')
each=$((seconds / $(echo "$targets" | wc -l)))
for target in $targets; do
    mkdir -p "corpus/$target" "artifacts/$target"
    echo "=== $target, $each s"
    "$programs/$target" "corpus/$target" "seeds/$target" \
        -max_total_time="$each" -max_len=1024 -timeout=10 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="artifacts/$target/"
done
