#!/usr/bin/env bash
# AddressSanitizer over the code that hands raw memory to several threads: teams and what they write
# (team, moe, kernels, gdn), and the segments of a file that is written (shard). Needs a nightly
# toolchain; prints `skipped` where there is none. Called by tools/full.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
if [[ "$host" != x86_64-unknown-linux-gnu ]] || ! rustc +nightly -vV >/dev/null 2>&1; then
    echo "skipped: AddressSanitizer needs a nightly toolchain on x86_64-unknown-linux-gnu"
    exit 0
fi
# The threads of the global pool live as long as the process: no leaks.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"
RUSTFLAGS="-Zsanitizer=address" cargo +nightly test --locked --target "$host" \
    --target-dir target/sanitize -p darwin-engine -p darwin-checkpoint --lib \
    -- team moe router kernels gdn shard outlet
