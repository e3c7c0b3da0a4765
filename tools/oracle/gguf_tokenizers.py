"""Golden tokenisations for every `tokenizer.ggml.pre` that is read: a vocabulary of a few hundred tokens, cut in
each way by the libraries that define it.

    python tools/oracle/gguf_tokenizers.py [OUT]

smollm: the tokenizers library with SmolLM2's pieces; qwen2 and gpt-2: transformers' tokenizers; llama-bpe:
transformers' converter of tiktoken files; default: llama.cpp (PyPI llama-cpp-python), which alone defines it, and
with which all others are compared (but for texts that Qwen2's normaliser changes, as llama.cpp has none).
"""

import json
import sys
import tempfile
import unicodedata
from pathlib import Path

import gguf
from llama_cpp import Llama
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2Tokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

import gguf_files
from smollm2 import STRINGS, TEXTS

OUT = gguf_files.DEFAULT_OUT / "tokenizers.json"
VOCAB = 420
USER_DEFINED = "<tool>"
NORMAL, CONTROL, USER = 1, 3, 4


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    state = json.loads(gguf_files.train_tokenizer(VOCAB, TEXTS).to_str())["model"]
    tokens = [token for token, _ in sorted(state["vocab"].items(), key=lambda item: item[1])] + [USER_DEFINED]
    merges = [tuple(pair) for pair in state["merges"]]
    # a token that no merge makes: taken whole by those that ignore merges
    tokens.append("zqxj")
    kinds = [CONTROL if t in gguf_files.SPECIALS else USER if t == USER_DEFINED else NORMAL for t in tokens]
    texts = STRINGS + gguf_files.TRAINING + ["zqxj azqxj zqxj", "a<tool>b <tool> <tool", "1234567890 +-= ^~|`$ a.b,c"]
    record = dict(tokens=tokens, merges=[" ".join(pair) for pair in merges], kinds=kinds, cases={})
    for pre, oracle in oracles(tokens, merges, kinds).items():
        peer = llama_cpp(pre, record)
        cases = []
        for text in texts:
            found = peer.tokenize(text.encode(), add_bos=False, special=True)
            ids = oracle(text) if oracle else found
            normalised = pre == "qwen2" and unicodedata.normalize("NFC", text) != text
            assert ids == found or normalised, (pre, text, ids, found)
            cases.append(ids)
        record["cases"][pre] = cases
        print(f"{pre}: {len(cases)} texts")
    record["texts"] = texts
    out.write_text(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def oracles(tokens, merges, kinds):
    vocab = {token: i for i, token in enumerate(tokens)}

    def added(inner):
        for token, kind in zip(tokens, kinds):
            if kind == CONTROL:
                inner.add_special_tokens([AddedToken(token, special=True, normalized=False)])
            elif kind == USER:
                inner.add_tokens([AddedToken(token, normalized=False)])
        return lambda text: inner.encode(text, add_special_tokens=False).ids

    smollm = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    smollm.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    llama3 = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    pattern = TikTokenConverter(vocab_file="none").pattern
    llama3.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    qwen2 = Qwen2Tokenizer(vocab=vocab, merges=merges)._tokenizer
    gpt2 = GPT2Tokenizer(vocab=vocab, merges=merges)._tokenizer
    return {"smollm": added(smollm), "llama-bpe": added(llama3), "qwen2": added(qwen2), "gpt-2": added(gpt2),
            "default": None}


def llama_cpp(pre, record):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for add, n in [(writer.add_context_length, 64), (writer.add_embedding_length, 32), (writer.add_block_count, 1),
                       (writer.add_feed_forward_length, 64), (writer.add_head_count, 2),
                       (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_bos_token_id, 0),
                       (writer.add_eos_token_id, 0), (writer.add_vocab_size, len(record["tokens"]))]:
            add(n)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(record["tokens"])
        writer.add_token_types(record["kinds"])
        writer.add_token_merges(record["merges"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Llama(str(path), vocab_only=True, verbose=False)


if __name__ == "__main__":
    main()
