#!/bin/sh
# Fuzzes every target for an equal part of SECONDS (120 unless told). Fails at the first finding, which is left in
# artifacts/TARGET; repeat it with:
#   server/fuzz/run.sh repeat TARGET artifacts/TARGET/FILE
# What was found worth keeping in long runs is in saved/, a pack for each target, and seeds/ has what was written by hand.
# After a long run, this puts the smallest part of the corpus that reaches as much into saved/:
#   server/fuzz/run.sh save
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
targets=$(cd fuzz_targets && ls | sed 's/\.rs$//')
if [ "${1:-}" = save ]; then
    mkdir -p saved
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    for target in $targets; do
        mkdir "$scratch/$target"
        "$programs/$target" -set_cover_merge=1 -max_len=1024 -verbosity=0 "$scratch/$target" "corpus/$target" "seeds/$target"
        ls "$scratch/$target" | tar --create --owner=0 --group=0 --numeric-owner --mode=644 --mtime=@0 \
            -C "$scratch/$target" --files-from - | gzip -9n >"saved/$target.tar.gz"
        echo "$target: $(ls "$scratch/$target" | wc -l) inputs, $(wc -c <"saved/$target.tar.gz") bytes"
    done
    exit
fi
seconds=${1:-120}
each=$((seconds / $(echo "$targets" | wc -l)))
for target in $targets; do
    mkdir -p "corpus/$target" "artifacts/$target"
    tar --extract --gzip --skip-old-files --file "saved/$target.tar.gz" -C "corpus/$target"
    echo "=== $target, $each s"
    "$programs/$target" "corpus/$target" "seeds/$target" \
        -max_total_time="$each" -max_len=1024 -timeout=10 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="artifacts/$target/"
done
