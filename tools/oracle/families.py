"""What transformers calls the tensors of each family: the names in its state dict (experts fused) and
those that `save_pretrained` writes, on models of a few thousand random numbers.

    python tools/oracle/families.py crates/darwin-checkpoint/tests/golden/families.json
"""

import glob
import json
import sys
import tempfile

from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

BASE = dict(vocab_size=24, hidden_size=8, intermediate_size=12, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16)
HEAD = dict(head_dim=4)
EXPERTS = dict(num_experts=2, num_experts_per_tok=1, moe_intermediate_size=6)
LINEAR = dict(linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=4,
              linear_value_head_dim=4)
SHARED = dict(shared_expert_intermediate_size=6)
ROUTED = dict(n_routed_experts=2, num_experts_per_tok=1, moe_intermediate_size=6, n_shared_experts=1,
              first_k_dense_replace=1)
LATENT = dict(num_key_value_heads=2, q_lora_rank=4, kv_lora_rank=4, qk_nope_head_dim=4,
              qk_rope_head_dim=2, v_head_dim=4)
GROUPS = dict(n_group=1, topk_group=1)
VISION = dict(depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=2, out_hidden_size=8,
              num_position_embeddings=4, spatial_merge_size=1, deepstack_visual_indexes=[])
TOWER = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
             patch_size=2, image_size=4)

TEXT = {
    "llama": {}, "mistral": {}, "ministral3": HEAD, "smollm3": dict(pad_token_id=0), "qwen2": {},
    "qwen3": HEAD, "gemma": HEAD, "gemma2": HEAD, "gemma3_text": HEAD,
    "qwen3_moe": HEAD | EXPERTS, "qwen2_moe": EXPERTS | SHARED,
    "olmoe": dict(num_experts=2, num_experts_per_tok=1),
    "mixtral": dict(num_local_experts=2, num_experts_per_tok=1),
    "gpt_oss": HEAD | dict(num_local_experts=2, num_experts_per_tok=1),
    "qwen3_next": HEAD | EXPERTS | LINEAR | SHARED,
    "qwen3_5_text": HEAD | LINEAR,
    "qwen3_5_moe_text": HEAD | EXPERTS | LINEAR | SHARED,
    "deepseek_v2": ROUTED | LATENT, "deepseek_v3": ROUTED | LATENT | GROUPS,
    "glm4_moe": HEAD | ROUTED | GROUPS | dict(use_qk_norm=True),
    "glm4_moe_lite": ROUTED | LATENT | GROUPS,
}
WHOLE = {
    "qwen3_5_moe": dict(vision_config=VISION), "qwen3_5": dict(vision_config=VISION),
    "gemma3": dict(vision_config=TOWER | dict(model_type="siglip_vision_model"), mm_tokens_per_image=4),
    "mistral3": dict(vision_config=TOWER | dict(model_type="pixtral", head_dim=4)),
}
TEXT_OF = {"qwen3_5_moe": "qwen3_5_moe_text", "qwen3_5": "qwen3_5_text", "gemma3": "gemma3_text",
           "mistral3": "mistral"}


def described(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = {}
        for path in glob.glob(f"{folder}/*.safetensors"):
            with safe_open(path, "pt") as file:
                saved |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
        config = json.load(open(f"{folder}/config.json"))
    fused = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    names = {"config": config, "saved": dict(sorted(saved.items()))}
    # A tied head is in the state dict and in no file.
    more = {name: shape for name, shape in sorted(fused.items()) if name not in saved}
    return names | ({"fused": {n: s for n, s in sorted(fused.items()) if n != "lm_head.weight" or n in saved}}
                    if any(".experts." in name for name in more) else {})


def main():
    families = {}
    for name, extra in TEXT.items():
        config = AutoConfig.for_model(name, **(BASE | extra))
        families[name] = described(AutoModelForCausalLM.from_config(config))
    for name, extra in WHOLE.items():
        text = BASE | TEXT[TEXT_OF[name]] | dict(model_type=TEXT_OF[name])
        config = AutoConfig.for_model(name, text_config=text, **extra)
        families[name] = described(AutoModelForImageTextToText.from_config(config))
    with open(sys.argv[1], "w") as file:
        lines = [f'"{name}": {json.dumps(family, separators=(",", ":"))}' for name, family in families.items()]
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
