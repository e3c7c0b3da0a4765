"""Does a child load in transformers, with every parameter equal to its file?

    python tools/oracle/child_loads.py CHILD FATHER

Loads CHILD as AutoModelForCausalLM and, where its config is the multimodal one, as
Qwen3_5MoeForConditionalGeneration. Fails (exit 1) on a missing, unexpected, mismatched or unclaimed tensor, on
a parameter that is not the file's bit for bit, on non-finite logits, and where `model.visual.*` or `mtp.*`
are not byte for byte those of FATHER. Loading is in float32, which holds every bf16 and f16 value exactly: in
bfloat16 transformers would round A_log and linear_attn.norm, kept in float32 on disk.
"""

import json
import re
import sys
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, Qwen3_5MoeForConditionalGeneration

EXPERT = re.compile(r"^(?P<stem>.*\.mlp\.experts)\.(?P<j>\d+)\.(?P<part>gate_proj|up_proj|down_proj)\.weight$")
PARTS = ("gate_proj", "up_proj", "down_proj")
KEPT = ("model.visual.", "mtp.")
INFO = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors")


def read_folder(folder):
    """Every tensor of a checkpoint by name; the index, where there is one, must name each file's tensors."""
    tensors, homes = {}, {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            for name in shard.keys():
                if name in tensors:
                    raise ValueError(f"{name} is in {homes[name]} and in {file.name}")
                tensors[name], homes[name] = shard.get_tensor(name), file.name
    if not tensors:
        raise ValueError(f"no *.safetensors in {folder}")
    index = folder / "model.safetensors.index.json"
    if index.exists() and json.loads(index.read_text())["weight_map"] != homes:
        raise ValueError("model.safetensors.index.json and the shards disagree")
    return tensors


def canonical(tensors):
    """File tensors under the names of the multimodal class, experts fused. MTP is left out."""
    out, experts = {}, {}
    for name, value in tensors.items():
        if name.startswith("mtp."):
            continue
        if name.startswith("model.") and not name.startswith(("model.language_model.", "model.visual.")):
            name = "model.language_model." + name.removeprefix("model.")
        match = EXPERT.match(name)
        if match:
            experts.setdefault(match["stem"], {})[int(match["j"]), match["part"]] = value
        else:
            out[name] = value
    for stem, parts in experts.items():
        count = 1 + max(j for j, _ in parts)
        absent = [f"{stem}.{j}.{p}.weight" for j in range(count) for p in PARTS if (j, p) not in parts]
        if absent:
            raise ValueError(f"no tensor {absent[0]} (expert {count - 1} is there)")
        pick = lambda part: [parts[j, part] for j in range(count)]  # noqa: E731
        gate_up = [torch.cat(pair) for pair in zip(pick("gate_proj"), pick("up_proj"))]
        out[f"{stem}.gate_up_proj"] = torch.stack(gate_up)
        out[f"{stem}.down_proj"] = torch.stack(pick("down_proj"))
    return out


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def check_class(cls, folder, want):
    """(problems, logits): loads the folder as `cls` and compares its parameters with the file's."""
    model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    problems = [f"{what}: {sorted(map(str, info[what]))[:5]}" for what in INFO if info.get(what)]
    multimodal = isinstance(model, Qwen3_5MoeForConditionalGeneration)
    params = {}
    for name, value in model.named_parameters():
        if not multimodal and name.startswith("model."):
            name = "model.language_model." + name.removeprefix("model.")
        params[name] = value.detach()
    expected = {k: v for k, v in want.items() if multimodal or not k.startswith("model.visual.")}
    problems += [f"no parameter for the file's {k}" for k in sorted(expected.keys() - params.keys())]
    problems += [f"no tensor in the file for {k}" for k in sorted(params.keys() - expected.keys())]
    for name in sorted(expected.keys() & params.keys()):
        file, param = expected[name].float(), params[name]
        if file.shape != param.shape:
            problems.append(f"{name}: shape {tuple(param.shape)}, in the file {tuple(file.shape)}")
        elif not torch.equal(bits(file), bits(param)):
            count = (file != param).sum().item()
            problems.append(f"{name}: {count} of {file.numel()} values differ from the file")
    model.eval()
    with torch.no_grad():
        vocab = model.get_input_embeddings().weight.shape[0]
        logits = model(input_ids=torch.arange(3, 3 + 16)[None] % vocab).logits
    if not torch.isfinite(logits).all():
        problems.append("logits are not finite")
    print(f"  {type(model).__name__}: {len(params)} parameters, {len(problems)} problems")
    return problems, logits


def check_kept(child, father):
    """Vision and MTP tensors must be the father's, byte for byte, no more and no fewer."""
    problems = []
    for prefix in KEPT:
        ours = {k: v for k, v in child.items() if k.startswith(prefix)}
        theirs = {k: v for k, v in father.items() if k.startswith(prefix)}
        problems += [f"{k} of the father is missing" for k in sorted(theirs.keys() - ours.keys())]
        problems += [f"{k} is not in the father" for k in sorted(ours.keys() - theirs.keys())]
        for name in sorted(ours.keys() & theirs.keys()):
            a, b = ours[name], theirs[name]
            if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(bits(a), bits(b)):
                problems.append(f"{name} differs from the father's")
        print(f"  {prefix}*: {len(ours)} tensors, the father has {len(theirs)}")
    return problems


def main(child_folder, father_folder):
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, {child_folder}")
    child, father = read_folder(child_folder), read_folder(father_folder)
    config = json.loads((child_folder / "config.json").read_text())
    want = canonical(child)
    if config.get("tie_word_embeddings"):
        want.pop("lm_head.weight", None)
    problems, text_logits = check_class(AutoModelForCausalLM, child_folder, want)
    if config["model_type"] == "qwen3_5_moe":
        more, logits = check_class(Qwen3_5MoeForConditionalGeneration, child_folder, want)
        problems += more
        if not torch.equal(logits, text_logits):
            problems.append("the two classes give different logits")
    else:
        print(f"  model_type {config['model_type']}: text only, not tried as Qwen3_5MoeForConditionalGeneration")
    has_mtp = any(k.startswith("mtp.") for k in child)
    layers = config.get("text_config", config).get("mtp_num_hidden_layers", 0)
    if has_mtp != bool(layers):
        problems.append(f"mtp_num_hidden_layers is {layers}, and mtp.* tensors are {'there' if has_mtp else 'absent'}")
    if has_mtp:
        print("  mtp.*: transformers ignores these tensors (vLLM and SGLang use them)")
    problems += check_kept(child, father)
    for problem in problems[:20]:
        print(f"  FAIL {problem}")
    print("ok" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"  FAIL {type(error).__name__}: {error}")
        sys.exit(1)
