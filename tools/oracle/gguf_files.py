"""Golden numbers for GGUF files: two tiny Llama models with every supported type, written by gguf-py.

    python tools/oracle/gguf_files.py [OUT]

Writes OUT/{tiny,tied}.gguf and OUT/<model>.json: the config, the SHA-256 of every tensor's float32 values under
its Hugging Face name, token ids and the logits after the last of them. Values are gguf-py's `dequantize`, rows of
q and k are put back by transformers' own GGUF loader, logits are transformers'.

- tiny: GQA with heads wider than hidden / heads, all six types, a head of its own, Llama 3's rotary scaling
  (rope_freqs.weight), a byte-level tokenizer and a chat template.
- tied: tied head, biases, YaRN, float16, version 2 of the format, no tokenizer.
"""

import hashlib
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/gguf"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
    " + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRAINING = [
    "The quick brown fox jumps over the lazy dog, and then the dog sleeps. It's the dog's day, isn't it?",
    "In 2024 there were 1234567 of them; they'll cost $3.50 each -- don't ask who's paying.\n\n  def f(x):\n\treturn x",
    "Größe, naïve, ñandú, 你好世界, привет мир, 한국어, 🙂🙂",
]

PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}

TINY = dict(
    config=dict(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, rms_norm_eps=1e-5,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=2,
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=16.0, original_max_position_embeddings=256),
    ),
    types={
        "token_embd": Q.Q8_0, "output": Q.Q4_1,
        "0.attn_q": Q.F16, "0.attn_k": Q.Q8_0, "0.attn_v": Q.BF16, "0.attn_output": Q.Q4_0,
        "0.ffn_gate": Q.Q4_1, "0.ffn_up": Q.Q4_0, "0.ffn_down": Q.F32,
        "1.attn_q": Q.Q4_0, "1.attn_k": Q.Q4_1, "1.attn_v": Q.F32, "1.attn_output": Q.Q8_0,
        "1.ffn_gate": Q.BF16, "1.ffn_up": Q.F16, "1.ffn_down": Q.Q4_1,
    },
    lengths={12: 12, 90: 2}, tokenizer=True, version=3, seed=1,
)
TIED = dict(
    config=dict(
        vocab_size=40, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=128, rms_norm_eps=1e-3,
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True, bos_token_id=1, eos_token_id=[3, 4],
        rope_parameters=dict(rope_type="yarn", rope_theta=500.0, factor=4.0, beta_fast=8.0, beta_slow=2.0,
                             original_max_position_embeddings=32),
    ),
    types={}, lengths={7: 7, 70: 2}, tokenizer=False, version=2, seed=2,
)


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_OUT)
    out.mkdir(parents=True, exist_ok=True)
    for name, case in (("tiny", TINY), ("tied", TIED)):
        write(out / f"{name}.gguf", case)
        golden(out, name, case)


def gguf_name(name):
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, rest = name.split(".", 3)
    part, end = rest.rsplit(".", 1)
    return f"blk.{layer}.{PARTS[part]}.{end}"


def weights(case):
    """A model under Hugging Face names; every tensor away from its initial value."""
    config = LlamaConfig(**case["config"])
    gen = torch.Generator().manual_seed(case["seed"])
    drawn = {}
    for name, old in LlamaForCausalLM(config).state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        noise = torch.randn(old.shape, generator=gen)
        if "norm" in name:
            drawn[name] = 1 + 0.2 * noise
        elif old.dim() == 1:
            drawn[name] = 0.3 * noise
        else:
            drawn[name] = noise * (1.0 if "embed" in name else 1.5 / old.shape[1] ** 0.5)
    return config, drawn


def permute(rows, heads):
    """llama.cpp's order: the two numbers that are rotated together lie side by side."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write(path, case):
    config, drawn = weights(case)
    writer = gguf.GGUFWriter(path, "llama")
    metadata(writer, config, case)
    if case["tokenizer"]:
        vocabulary(writer, config.vocab_size)
    for name, values in drawn.items():
        stored, values = gguf_name(name), values.numpy()
        if ".attn_q." in stored:
            values = permute(values, config.num_attention_heads)
        elif ".attn_k." in stored:
            values = permute(values, config.num_key_value_heads)
        kind = Q.F32
        if values.ndim == 2:
            key = stored.removeprefix("blk.").removesuffix(".weight")
            kind = case["types"].get(key, Q.F16)
        writer.add_tensor(stored, gguf.quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if case["version"] != 3:
        data = bytearray(path.read_bytes())
        data[4:8] = case["version"].to_bytes(4, "little")
        path.write_bytes(data)


def metadata(writer, config, case):
    rope = config.rope_parameters
    writer.add_name("tiny model of random weights")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    writer.add_bos_token_id(config.bos_token_id)
    for add, token in zip((writer.add_eos_token_id, writer.add_eot_token_id), ends):
        add(token)
    if case["tokenizer"]:
        writer.add_chat_template(TEMPLATE)


def train_tokenizer(size, texts=()):
    """Byte-level BPE: SPECIALS, 256 bytes, merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator([*TRAINING, *texts], trainer)
    assert tokenizer.get_vocab_size() == size
    return tokenizer


def vocabulary(writer, size):
    state = json.loads(train_tokenizer(size).to_str())["model"]
    tokens = [token for token, _ in sorted(state["vocab"].items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIALS else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_add_bos_token(False)


def llama3_factors(config):
    """Unscaled over scaled frequencies, as transformers computes both."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    return (1.0 / config.rope_parameters["rope_theta"] ** exponents / scaled).numpy()


def read_back(path, config):
    """float32 values under Hugging Face names: gguf-py dequantises, transformers puts rows back."""
    names = {gguf_name(name): name for name in LlamaForCausalLM(config).state_dict()}
    rows = LlamaTensorProcessor(config=dict(num_attention_heads=config.num_attention_heads,
                                            num_key_value_heads=config.num_key_value_heads))
    found, kinds = {}, {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name in names:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            values = rows.process(values, tensor.name).weights
            found[names[tensor.name]] = np.ascontiguousarray(values, dtype=np.float32)
            kinds[names[tensor.name]] = tensor.tensor_type.name
    return found, kinds


def load(path, config):
    """transformers' model with the values of a file."""
    found, _ = read_back(path, config)
    model = LlamaForCausalLM(config).eval()
    state = {name: torch.from_numpy(values.copy()) for name, values in found.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    assert not missing or config.tie_word_embeddings
    model.tie_weights()
    return model


def golden(out, name, case):
    path = out / f"{name}.gguf"
    config = LlamaConfig(**case["config"])
    model = load(path, config)
    found, kinds = read_back(path, config)
    tensors = {
        key: dict(shape=list(values.shape), type=kinds[key],
                  sha256=hashlib.sha256(values.astype("<f4").tobytes()).hexdigest())
        for key, values in found.items()
    }
    gen = torch.Generator().manual_seed(case["seed"] + 100)
    sequences = []
    for length, kept in case["lengths"].items():
        ids = torch.randint(0, config.vocab_size, (1, length), generator=gen)
        with torch.no_grad():
            logits = model(ids).logits[0]
        rows = [float(f"{x:.8g}") for x in logits[length - kept:].flatten().tolist()]
        sequences.append(dict(ids=ids[0].tolist(), rows=kept, logits=rows))
    record = dict(config=case["config"], tensors=tensors, sequences=sequences)
    (out / f"{name}.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
