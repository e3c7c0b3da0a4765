"""The parents' own byte-level BPE of 2,048 tokens, digits one by one, as Hugging Face files."""
import json
import os
import random
import sys

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import data

VOCAB = 2048
SPECIALS = ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>",
            "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
NOT_SPECIAL = {"<think>", "</think>"}      # kept by skip_special_tokens, as in Qwen's files
PAD, USER, ASSISTANT, END, THINK, END_THINK, VSTART, VEND, IMAGE, VIDEO = range(10)
# Qwen's pre-tokenizer: contractions, words with at most one sign before, single digits, signs.
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
TEMPLATE = """{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- '<|assistant|>' + message.content + '<|end|>' -}}
{%- else -%}
{{- '<|user|>' + message.content -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- if enable_thinking is defined and enable_thinking -%}
{{- '<think>' -}}
{%- endif -%}
{%- endif -%}
"""


def build(path, rows=60000, seed=5):
    """Train on `rows` training items (fewer of the numeric domains) and write tokenizer.json."""
    rng = random.Random(seed)
    mix = ["knowledge"] * 8 + ["language"] * 10 + ["reasoning", "math", "logic", "code", "tools", "composed", "composed"]
    texts = []
    for _ in range(rows):
        item = data.train_item(rng, rng.choice(mix))
        texts.append(item[2] + "\n" + (item[4] or "") + "\n" + item[3])
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    spec = json.loads(tok.to_str())
    for t in spec["added_tokens"]:
        t["special"] = t["content"] not in NOT_SPECIAL
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(spec, f, ensure_ascii=False, separators=(",", ":"))
    return Tokenizer.from_file(path)


if __name__ == "__main__":
    t = build(sys.argv[1])
    print(t.get_vocab_size(), os.path.getsize(sys.argv[1]))
    rng = random.Random(0)
    for dom in data.DOMAINS:
        n, m, k = 0, 0, 300
        for i in range(k):
            it = data.train_item(rng, dom)
            text = data.prompt(it[2], it[4] is not None) + data.answer(it, it[4] is not None)
            ids = t.encode(text).ids
            assert t.decode(ids, skip_special_tokens=False) == text, text
            n, m = n + len(ids), max(m, len(ids))
            if i < 6:
                print(len(ids), repr(text))
        print("==", dom, n / k, m)
