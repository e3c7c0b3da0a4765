"""Golden numbers of a real language model: SmolLM2-135M-Instruct (tools/fetch/smollm2.sh), dequantised by
gguf-py and run by transformers in float32.

    python tools/oracle/smollm2.py GGUF [OUT]

Writes OUT/golden.json: for ten prompts, as they are and through the chat template, 32 greedy tokens; for ten
texts the negative log-likelihood (nats) of every token after the first; tokenisations by the tokenizers library
with SmolLM2's own pieces, which llama.cpp must give as well where llama-cpp-python is installed.
"""

import json
import sys
from pathlib import Path

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

import gguf_files

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/smollm2"
NEW_TOKENS = 32
# a greedy choice as close as this may go either way between two float32 programs
MIN_MARGIN = 2e-4

PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in one sentence why the sky is blue.",
    "List three prime numbers greater than 20.",
    "Translate 'good morning' into Spanish.",
    "def fibonacci(n):",
    "Once upon a time, in a village by the river,",
    "The three laws of thermodynamics are",
    "Wie heißt die Hauptstadt von Österreich?",
    "Q: If I have 3 apples and eat one, how many are left?\nA:",
]

TEXTS = [
    "The lighthouse keeper climbed the stairs every evening, lit the lamp, and wrote one line in the book: the "
    "wind, the sea, and whether anybody had passed.",
    "Water boils at 100 °C at sea level; on a mountain of 3,000 m it boils at about 90 °C, because the air "
    "presses less.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n",
    "Merging two models means to take, for every tensor, some average of what both have learned.",
    "Der Hund schläft unter dem Tisch, während draußen der Regen an die Fenster klopft.",
    "La bibliothèque ouvre à neuf heures, mais le lundi elle reste fermée toute la journée.",
    "1 + 1 = 2, 2 + 2 = 4, 4 + 4 = 8, 8 + 8 = 16, 16 + 16 = 32, 32 + 32 = 64.",
    "| name | size |\n|------|-----:|\n| ant | 5 mm |\n| whale | 30 m |\n",
    "猫は窓のそばで眠っている。外では雪が降っている。",
    "<|im_start|>user\nWho wrote Hamlet?<|im_end|>\n<|im_start|>assistant\nWilliam Shakespeare wrote Hamlet.<|im_end|>\n",
]

STRINGS = [
    "", " ", "  ", "\n", "\n\n\n", "\t x", "Hello world", " Hello  world ", "trailing  ", "a\r\nb\rc", "   \n  \n x",
    "It's we're I'll they've I'd you'm CAN'T Don'T 'tis '90s", "don’t", "12345 3.14159 1,000,000 007 x2y", "१२३ ¾ ²",
    "é", "é", "naïve café Größe", "Привет, мир!", "你好，世界", "한국어 텍스트", "مرحبا", "🙂👩‍👩‍👧‍👦🇫🇷", "a​b\xa0c　d",
    "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|><|im_end|>", "<|im_start|", "x<|im_end|>y <|im_end|> z",
    "<repo_name>a/b<file_sep>", "snake_case camelCase SCREAMING_CASE", "if (x != 0) { return -1; } // ok", "https://example.org/a?b=c&d=%20",
    "....!!!???---___", "\x00\x01\x7f", "ﬁ ﬂ Å Å", "ÀÉÎÕÜ àéîõü",
]


def main():
    path = Path(sys.argv[1])
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_OUT
    out.mkdir(parents=True, exist_ok=True)
    fields = {key: field for key, field in gguf.GGUFReader(path).fields.items()}
    config, tokenizer = read_config(fields), read_tokenizer(fields)
    model = gguf_files.load(path, config)
    ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    record = dict(
        strings=[dict(text=text, ids=ids(text)) for text in STRINGS],
        prompts=[prompt(model, tokenizer, ids, text) for text in PROMPTS],
        texts=[nll(model, ids(text), text) for text in TEXTS],
    )
    check_llama_cpp(path, record)
    (out / "golden.json").write_text(json.dumps(record, ensure_ascii=False, indent=None, separators=(",", ":")) + "\n")


def read_config(fields):
    value = lambda key: fields[f"llama.{key}"].contents()  # noqa: E731
    return LlamaConfig(
        vocab_size=value("vocab_size"), hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"), num_hidden_layers=value("block_count"),
        num_attention_heads=value("attention.head_count"), num_key_value_heads=value("attention.head_count_kv"),
        max_position_embeddings=value("context_length"), rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=value("rope.freq_base")),
    )


def read_tokenizer(fields):
    """Vocabulary and merges of the file in the pieces of SmolLM2's tokenizer.json: digits one by one, then
    GPT-2's byte level."""
    value = lambda key: fields[f"tokenizer.{key}"].contents()  # noqa: E731
    tokens, kinds = value("ggml.tokens"), value("ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, kinds) if kind == 3])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, chat_template=value("chat_template"), bos_token=tokens[value("ggml.bos_token_id")],
        eos_token=tokens[value("ggml.eos_token_id")])


def prompt(model, tokenizer, ids, text):
    chat = tokenizer.apply_chat_template([dict(role="user", content=text)], tokenize=False, add_generation_prompt=True)
    plain, templated = greedy(model, ids(text)), greedy(model, ids(chat))
    print(repr(text), "->", repr(tokenizer.decode(templated)), flush=True)
    return dict(text=text, chat=chat, plain=plain, templated=templated)


def greedy(model, ids):
    """NEW_TOKENS tokens without a stop; no choice may be a near tie."""
    found, cache, step = [], None, torch.tensor([ids])
    with torch.no_grad():
        while len(found) < NEW_TOKENS:
            result = model(step, past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            top = result.logits[0, -1].topk(2)
            margin = (top.values[0] - top.values[1]).item()
            assert margin > MIN_MARGIN, f"token {len(found)} of {ids} is a tie: {margin}"
            found.append(top.indices[0].item())
            step = torch.tensor([[found[-1]]])
    return found


def nll(model, ids, text):
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return dict(text=text, nll=[round(-logprobs[i, token].item(), 7) for i, token in enumerate(ids[1:])])


def check_llama_cpp(path, record):
    try:
        from llama_cpp import Llama
    except ImportError:
        print("llama-cpp-python is not installed: tokenisations were not compared with it")
        return
    peer = Llama(str(path), vocab_only=True, verbose=False)
    for case in record["strings"]:
        found = peer.tokenize(case["text"].encode(), add_bos=False, special=True)
        assert found == case["ids"], (case, found)
    print(f"{len(record['strings'])} tokenisations are llama.cpp's")


if __name__ == "__main__":
    main()
