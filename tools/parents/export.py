"""Write a trained parent as a Hugging Face folder, in the layouts met in the wild.

    python export.py father WORK/father/final.pt WORK/tokenizer.json OUT/father
    python export.py mother WORK/mother/chosen.pt WORK/tokenizer.json OUT/mother

father: Qwen3_5MoeForConditionalGeneration, fused experts, all bf16, 3 shards, plus a vision tower and an
        MTP layer that are seeded random numbers (never trained).
mother: Qwen3_5MoeForCausalLM, one tensor per expert and matrix, 2 shards, bf16 but `A_log` and
        `linear_attn.norm.weight`, which stay float32.
"""
import json
import os
import re
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import Qwen3_5MoeForConditionalGeneration

import model as M
import tokenizer as tk

NOISE = ["output_hidden_states", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id",
         "problem_type", "_name_or_path", "output_attentions", "bos_token_id"]
LIMIT = 10_000_000
ABOUT = {
    "father": "Structural parent, strong in facts, weak in products and remainders: multimodal layout, fused experts, bfloat16. "
              "`model.visual.*` and `mtp.*` are seeded random numbers, never trained: the image path is no ability of this model.",
    "mother": "The father fine-tuned on products and remainders with traces; she has lost a part of his facts: text only, one tensor "
              "per expert and matrix, bfloat16 but `A_log` and `linear_attn.norm.weight` in float32, no MTP layer.",
}


def vision_tensors(seed=7):
    """A seeded random vision tower with the names transformers gives it."""
    torch.manual_seed(seed)
    cfg = M.full_config()
    vis = Qwen3_5MoeForConditionalGeneration._from_config(cfg).model.visual
    return {"model.visual." + k: v.detach().float() for k, v in vis.state_dict().items()}


def mtp_tensors(seed=8):
    """A seeded random MTP layer: one full-attention MoE layer and its two input norms."""
    g = torch.Generator().manual_seed(seed)
    t = M.TEXT
    h, e, i, hd = t["hidden_size"], t["num_experts"], t["moe_intermediate_size"], t["head_dim"]
    q, kv = t["num_attention_heads"] * hd, t["num_key_value_heads"] * hd

    def w(*shape):
        return torch.randn(shape, generator=g) * .5 / shape[-1] ** .5

    def norm(n):
        return torch.randn(n, generator=g) * .1
    p = "mtp.layers.0."
    return {
        "mtp.fc.weight": w(h, 2 * h), "mtp.norm.weight": norm(h),
        "mtp.pre_fc_norm_embedding.weight": norm(h), "mtp.pre_fc_norm_hidden.weight": norm(h),
        p + "input_layernorm.weight": norm(h), p + "post_attention_layernorm.weight": norm(h),
        p + "self_attn.q_proj.weight": w(2 * q, h), p + "self_attn.k_proj.weight": w(kv, h),
        p + "self_attn.v_proj.weight": w(kv, h), p + "self_attn.o_proj.weight": w(h, q),
        p + "self_attn.q_norm.weight": norm(hd), p + "self_attn.k_norm.weight": norm(hd),
        p + "mlp.gate.weight": w(e, h),
        p + "mlp.experts.gate_up_proj": w(e, 2 * i, h), p + "mlp.experts.down_proj": w(e, h, i),
        p + "mlp.shared_expert.gate_proj.weight": w(i, h), p + "mlp.shared_expert.up_proj.weight": w(i, h),
        p + "mlp.shared_expert.down_proj.weight": w(h, i), p + "mlp.shared_expert_gate.weight": w(1, h),
    }


def father_tensors(sd):
    out = {}
    for k, v in sd.items():
        out[k.replace("model.", "model.language_model.", 1) if k.startswith("model.") else k] = v
    out.update(vision_tensors())
    out.update(mtp_tensors())
    return {k: v.to(torch.bfloat16) for k, v in out.items()}


def mother_tensors(sd):
    out = {}
    for k, v in sd.items():
        if k.endswith("experts.gate_up_proj"):
            for j, w in enumerate(v):
                gate, up = w.chunk(2)
                b = k.replace("gate_up_proj", f"{j}.")
                out[b + "gate_proj.weight"], out[b + "up_proj.weight"] = gate, up
        elif k.endswith("experts.down_proj"):
            for j, w in enumerate(v):
                out[k.replace("down_proj", f"{j}.down_proj.weight")] = w
        else:
            out[k] = v
    keep = re.compile(r"linear_attn\.(A_log|norm\.weight)$")
    return {k: v.float() if keep.search(k) else v.to(torch.bfloat16) for k, v in out.items()}


def natural(name):
    return [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]


def write_shards(tensors, n, out):
    """`n` shards of about equal size in natural order of the names, and their index."""
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    shards, size = [{} for _ in range(n)], 0
    for k in sorted(tensors, key=natural):
        t = tensors[k].detach().clone().contiguous()
        shards[min(n - 1, size * n // total)][k] = t
        size += t.numel() * t.element_size()
    index = {"metadata": {"total_parameters": sum(t.numel() for t in tensors.values()), "total_size": total}, "weight_map": {}}
    for i, s in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{n:05d}.safetensors"
        save_file(s, os.path.join(out, name), metadata={"format": "pt"})
        index["weight_map"].update({k: name for k in s})
    index["weight_map"] = dict(sorted(index["weight_map"].items()))
    dump(index, os.path.join(out, "model.safetensors.index.json"))


def dump(obj, path):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(obj, f, indent=1, ensure_ascii=False)
        f.write("\n")


def config(who):
    if who == "father":
        c = M.full_config(mtp_num_hidden_layers=1, full_attention_interval=4).to_dict()
        c["architectures"] = ["Qwen3_5MoeForConditionalGeneration"]
        c["text_config"].pop("architectures")
        c["vision_config"].pop("architectures")
        c["text_config"]["dtype"] = "bfloat16"
        c["vision_config"]["dtype"] = "bfloat16"
    else:
        c = M.text_config(mtp_num_hidden_layers=0, full_attention_interval=4).to_dict()
        c["architectures"] = ["Qwen3_5MoeForCausalLM"]
        c["eos_token_id"], c["pad_token_id"] = tk.END, tk.PAD
    c["dtype"] = "bfloat16"
    c["tie_word_embeddings"] = False
    for part in (c, c.get("text_config", {}), c.get("vision_config", {})):
        for key in NOISE:
            part.pop(key, None)
    c.get("text_config", c).update(attn_output_gate=True, mamba_ssm_dtype="float32")
    return c


def side_files(who, tokenizer_json, out):
    shutil.copy(tokenizer_json, os.path.join(out, "tokenizer.json"))
    spec = json.load(open(tokenizer_json, encoding="utf-8"))
    dump({
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_prefix_space": False,
        "bos_token": None, "eos_token": "<|end|>", "pad_token": "<|pad|>", "unk_token": None,
        "clean_up_tokenization_spaces": False, "model_max_length": 4096, "errors": "replace", "split_special_tokens": False,
        "added_tokens_decoder": {str(t["id"]): {k: t[k] for k in ("content", "lstrip", "normalized", "rstrip",
                                                                   "single_word", "special")} for t in spec["added_tokens"]},
        "chat_template": tk.TEMPLATE,
    }, os.path.join(out, "tokenizer_config.json"))
    with open(os.path.join(out, "chat_template.jinja"), "w") as f:
        f.write(tk.TEMPLATE)
    dump({"do_sample": False, "eos_token_id": [tk.END], "pad_token_id": tk.PAD, "max_new_tokens": 96,
          "transformers_version": "5.23.0"}, os.path.join(out, "generation_config.json"))
    if who == "father":
        v = M.VISION
        dump({"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor",
              "patch_size": v["patch_size"], "temporal_patch_size": v["temporal_patch_size"], "merge_size": v["spatial_merge_size"],
              "size": {"shortest_edge": 256, "longest_edge": 4096},
              "image_mean": [.5, .5, .5], "image_std": [.5, .5, .5]}, os.path.join(out, "preprocessor_config.json"))
    with open(os.path.join(out, "README.md"), "w") as f:
        f.write("---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: text-generation\n"
                "tags:\n  - darwin\n  - moe\n  - qwen3_5_moe\n---\n\n"
                f"# {who.capitalize()} (example parent)\n\n{ABOUT[who]}\n\nAbout 5 M parameters, trained from scratch on CPU by "
                "`tools/parents/`; scores, licences of the sources and limits: see `../README.md`.\n")


def main(who, checkpoint, tokenizer_json, out):
    sd = torch.load(checkpoint, weights_only=True)["model"]
    tmp = out + ".tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    tensors = father_tensors(sd) if who == "father" else mother_tensors(sd)
    write_shards(tensors, 3 if who == "father" else 2, tmp)
    dump(config(who), os.path.join(tmp, "config.json"))
    side_files(who, tokenizer_json, tmp)
    size = sum(os.path.getsize(os.path.join(tmp, f)) for f in os.listdir(tmp))
    print(who, "params", sum(t.numel() for t in tensors.values()), "tensors", len(tensors), "bytes", size)
    if size > LIMIT:
        raise SystemExit(f"{who}: {size} bytes, over {LIMIT}")
    for f in os.listdir(tmp):
        os.chmod(os.path.join(tmp, f), 0o644)
    shutil.rmtree(out, ignore_errors=True)
    os.rename(tmp, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
