#!/bin/sh
# Fuzzes every target for an equal part of SECONDS (120 unless told). Fails at the first finding and leaves the
# input in artifacts/TARGET; repeat it with:
#   cargo +nightly fuzz run --fuzz-dir . --sanitizer none TARGET artifacts/TARGET/FILE
#
# Needs: rustup toolchain install nightly; cargo install cargo-fuzz
set -eu
cd "$(dirname "$0")"
seconds=${1:-120}
targets=$(cargo +nightly fuzz list --fuzz-dir .)
each=$((seconds / $(echo "$targets" | wc -l)))
# No sanitizer: our code has no unsafe block, and without one the search is several times as fast.
for target in $targets; do
    mkdir -p "corpus/$target"
    cargo +nightly fuzz run --fuzz-dir . --sanitizer none "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$each" -max_len=1024 -timeout=10 -print_final_stats=1
done
