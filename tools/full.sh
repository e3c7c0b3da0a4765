#!/usr/bin/env bash
# The comparisons that need Python: transformers (engine, does the child load), mergekit (merges),
# pycma (optimiser), and the benchmarks against them. Called by `.ci/run --full`; its last log is
# docs/full.log. Virtual environments live in target/, so that nothing is installed elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (minute %d)\n' "$1" $((SECONDS / 60)); }

venv() { # name, requirements
    local dir="target/venv/$1"
    if [[ ! -x "$dir/bin/python" ]]; then
        python3 -m venv "$dir"
        "$dir/bin/pip" install --quiet -r "$2"
    fi
    echo "$dir/bin/python"
}

step "build"
cargo build --release --locked

step "python environments"
transformers=$(venv transformers tools/oracle/requirements.txt)
mergekit=$(venv mergekit tools/parity/requirements.txt)

step "AddressSanitizer over teams, experts, kernels and the writer"
tools/sanitize.sh

step "the README's first command, in a fresh clone"
rm -rf target/clone
git clone --quiet . target/clone
(
    export CARGO_TARGET_DIR="$PWD/target/fresh" # shared with the checkout it would leave that stale
    cd target/clone
    cargo build --release --locked
    rc=0
    time cargo run --release --locked -- evolve examples/first-light.yaml || rc=$?
    # The exit code is the verdict's: 1 where the child fails its health check, else 0.
    verdict=$(python3 -c 'import json; print(json.load(open("runs/first-light/health.json"))["verdict"])')
    echo "exit $rc, health: $verdict"
    case $verdict in
        pass | warn) [[ $rc == 0 ]] ;;
        *)
            echo "the child of the README's first command is not healthy: $verdict" >&2
            exit 1
            ;;
    esac
)
run=target/clone/runs/first-light

step "the golden numbers are what transformers and pycma give"
golden=crates/darwin-testkit/fixtures/golden
rm -rf target/golden
"$transformers" tools/oracle/pycma.py target/golden/cma
"$transformers" tools/oracle/engine.py target/golden/engine
"$transformers" tools/oracle/engine_families.py target/golden/engine
"$transformers" tools/oracle/far.py target/golden/engine
"$transformers" tools/oracle/padded.py target/golden/engine
"$transformers" tools/oracle/sampling.py target/golden
"$transformers" tools/oracle/templates.py target/golden
"$transformers" tools/oracle/same.py "$golden" target/golden

step "the child loads in transformers, every parameter equal to its file"
"$transformers" tools/oracle/child_loads.py "$run/child" examples/parents/father

step "children of every family load in transformers, in every layout, and compute the same"
"$transformers" tools/oracle/layouts_load.py target/release/darwin

step "SmolLM2-135M against transformers: tokens, chats, likelihoods"
DARWIN_SMOLLM2=$(tools/fetch/smollm2.sh)
export DARWIN_SMOLLM2
cargo test --release --locked -p darwin-engine --test gguf -- smollm2

step "a profile of 22 GB within 6 GB, in the foretold time (24 GB of disk, about ten minutes)"
free=$(df --output=avail -B1G target | tail -n 1)
if ((free >= 26)); then
    DARWIN_SLOW=1 cargo test --release --locked -p darwin --test large -- slow --nocapture
else
    echo "skipped: $free GB of disk are free, it takes 26"
fi

step "merges against mergekit 0.1.5"
"$mergekit" tools/parity/full.py target/parity
"$mergekit" tools/parity/compare.py target/release/darwin target/parity
"$mergekit" tools/parity/grammar.py target/release/darwin
rm -rf target/parity

step "engine against transformers, same cores, float32"
"$transformers" tools/bench/engine_transformers.py examples/parents/father --threads 2 \
    | tail -n 1 >target/peer.json
cargo bench --locked -p darwin-engine --bench engine -- examples/parents/father --peer "$PWD/target/peer.json"

step "merges against reading and writing once, and mergekit: 0.25 GB a model, 3 rounds (docs: 1 and 4 GB)"
for shape in llama moe; do
    "$mergekit" tools/bench/merge.py target/release/darwin target/bench --shape "$shape" \
        --gigabytes 0.25 --rounds 3 --peer "$(dirname "$mergekit")/mergekit-yaml" --slow-peer
done
rm -rf target/bench

step "an evaluated candidate against a plain scoring pass"
cargo bench --locked -p darwin-evolve --bench candidate
