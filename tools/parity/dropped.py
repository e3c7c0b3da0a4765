"""What mergekit 0.1.5 loses of a Qwen3.5-MoE with MTP in each layout of experts.

    python tools/parity/dropped.py

`linear` over base and a, whose experts are fused in both, one by one in both, or one by one in the base alone. Writes
the names that the output lacks, and those that were copied from one model instead of being merged, into
crates/darwin-testkit/fixtures/golden/merge/dropped.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import methods

golden = methods.golden
OUT = golden.DEFAULT_OUT / "dropped.json"
LAYOUTS = {
    "fused": dict(base=False, a=False),
    "per_expert": dict(base=True, a=True),
    "mixed": dict(base=True, a=False),
}
MTP = {"mtp.fc.weight": (16, 32), "mtp.layers.0.mlp.gate.weight": (4, 16)}
MTP |= {"mtp.layers.0.mlp.experts.gate_up_proj": (4, 8, 16), "mtp.layers.0.mlp.experts.down_proj": (4, 16, 4)}


def lost(folder, layout):
    os.chdir(folder)
    golden.write_inputs(Path("."), golden.qwen35_moe(), "float32", 2)
    gen = golden.torch.Generator().manual_seed(3)
    fused, stored = {}, {}
    for model, per_expert in layout.items():
        path = f"{model}/model.safetensors"
        tensors = golden.load_file(path)
        tensors |= {name: golden.torch.randn(shape, generator=gen) for name, shape in MTP.items()}
        fused[model] = tensors
        stored[model] = golden.one_by_one(tensors) if per_expert else tensors
        golden.save_file(stored[model], path, metadata={"format": "pt"})
    config = dict(
        merge_method="linear",
        base_model="base",
        models=golden.models(base=dict(weight=0.2), a=dict(weight=0.5)),
    )
    written, _, _ = golden.run_case("recipe.yml", config, trimmed=False)
    names = fused["base"].keys()
    copied = [
        name
        for name in sorted(names & written.keys())
        if any(golden.torch.equal(written[name], fused[model][name]) for model in layout)
    ]
    return dict(lost=sorted(names - written.keys()), copied=copied)


def main():
    golden.torch.set_num_threads(1)
    golden.transformers.logging.set_verbosity_error()
    if sys.argv[1:2] == ["--one"]:
        with tempfile.TemporaryDirectory() as folder:
            print("JSON" + json.dumps(lost(folder, LAYOUTS[sys.argv[2]])))
        return
    rows = {}
    for name in LAYOUTS:
        # a process each, as in mergekit.py
        command = [sys.executable, str(Path(__file__).resolve()), "--one", name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows[name] = json.loads(said.split("JSON")[-1])
        print(name, len(rows[name]["lost"]), "lost,", len(rows[name]["copied"]), "copied")
    OUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
