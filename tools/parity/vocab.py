"""Golden vocabularies: mergekit 0.1.5 on three small models whose tokenizers differ.

    python tools/parity/vocab.py [OUT]

Writes into crates/darwin-testkit/fixtures/golden/vocabulary/ (OUT):

- `base/ a/ b/`: Llama-shaped models in float32 with byte-level BPE tokenizers of their own, trained here. `base` and
  `a` have more rows than tokens (padding), `b` as many; each has added tokens of its own, and `<s>` in `b` has other
  settings than elsewhere.
- `cases/<name>.yml`: the recipe, model paths relative to the folder.
- `cases/<name>.json`: mergekit's tokens in the order of their ids, and its `vocab_size`; or `error`, where it stops.
- `cases/<name>.safetensors`: embedding and head that it wrote.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

if os.environ.get("PYTHONHASHSEED") != "0":
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.argv])
HERE = Path(__file__).resolve().parent
# mergekit.py of this folder is not the package
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]

import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402
from mergekit.config import MergeConfiguration  # noqa: E402
from mergekit.merge import run_merge  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers  # noqa: E402
from tokenizers.models import BPE  # noqa: E402

OUT = HERE.parents[1] / "crates/darwin-testkit/fixtures/golden/vocabulary"
ENGLISH = ["the lower river is lower than the newest bridge", "newer and wider boats follow the river"]
GERMAN = ["der Fluss unter der Bruecke fliesst weiter", "weitere Boote folgen dem Fluss", "the river"]
CODE = ["def follow(river): return river.lower()", "for boat in newer: follow(boat)"]


def special(text, **settings):
    return AddedToken(text, special=True, normalized=False, **settings)


MODELS = {
    "base": dict(text=ENGLISH, size=64, padding=8, added=[special("<s>"), special("</s>"), special("<pad>")]),
    "a": dict(
        text=GERMAN,
        size=70,
        padding=3,
        added=[special("</s>"), special("<s>"), special("<|im_start|>"), special("<|im_end|>")],
    ),
    "b": dict(text=CODE, size=60, padding=0, added=[special("<s>", lstrip=True), AddedToken("<tool>"), special("</s>")]),
}


def tokenizer(text, size, added):
    built = Tokenizer(BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.train_from_iterator(text, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    built.add_tokens(added)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>")


def build(folder, seed, text, size, padding, added):
    torch.manual_seed(seed)
    tokens = tokenizer(text, size, added)
    vocabulary = tokens.get_vocab()
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary) + padding,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=vocabulary["<s>"],
        eos_token_id=vocabulary["</s>"],
        pad_token_id=vocabulary.get("<pad>"),
    )
    model = transformers.LlamaForCausalLM(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)


def models(**weights):
    return [dict(model=name, parameters=dict(weight=weight)) for name, weight in weights.items()]


def linear(block, base="base"):
    recipe = dict(merge_method="linear", models=models(base=0.2, a=0.5, b=0.3))
    if base:
        recipe["base_model"] = base
    return recipe | block


def of(model, **token):
    return dict(source=dict(kind="model_token", model=model, **token))


PAIR = [dict(model="base"), dict(model="a")]
CASES = {
    "union": linear(dict(tokenizer_source="union")),
    "base": linear(dict(tokenizer_source="base")),
    "model": linear(dict(tokenizer_source="a")),
    "union-mean": linear(dict(tokenizer_source="union"), base=None),
    "union-pad": linear(dict(tokenizer=dict(source="union", pad_to_multiple_of=32))),
    "base-pad": linear(dict(tokenizer=dict(source="base", pad_to_multiple_of=50))),
    "rules": linear(
        dict(
            tokenizer=dict(
                source="union",
                tokens={
                    "<pad>": dict(source="base"),
                    "<tool>": dict(source=dict(kind="zero")),
                    "<|im_start|>": of("base", token="<s>"),
                    "<|im_end|>": of("b", token_id=3),
                    "<new>": of("a", token="<|im_end|>"),
                    "<nobody's>": dict(source=dict(kind="zero")),
                },
            )
        )
    ),
    "force": linear(
        dict(
            tokenizer=dict(
                source="base",
                tokens={
                    "<s>": dict(source="b", force=True),
                    "</s>": dict(source=dict(kind="zero"), force=True),
                    "<pad>": of("a", token="<|im_end|>") | dict(force=True),
                    "<new>": dict(source="a") | of("a", token_id=0) | dict(force=True),
                },
            )
        )
    ),
    "union-bfloat16": linear(
        dict(tokenizer=dict(source="union", pad_to_multiple_of=32), dtype="bfloat16"), base=None
    ),
    "null-forced": linear(dict(tokenizer=dict(source="base", tokens={"<s>": dict(force=True)}))),
    "slerp-union": dict(
        merge_method="slerp", base_model="base", models=PAIR, parameters=dict(t=0.4), tokenizer_source="union"
    ),
    "task_arithmetic-union": dict(
        merge_method="task_arithmetic",
        base_model="base",
        models=models(a=0.6, b=0.3),
        tokenizer_source="union",
    ),
    "slices-union": dict(
        merge_method="linear",
        base_model="base",
        slices=[
            dict(sources=[dict(model=m, layer_range=span, parameters=dict(weight=w)) for m, w in (("base", 0.6), ("a", 0.4))])
            for span in ([1, 2], [0, 2])
        ],
        tokenizer_source="union",
    ),
}


def run(out, name, recipe):
    case = out / "cases" / name
    case.with_suffix(".yml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_merge(MergeConfiguration.model_validate(recipe), folder, MergeOptions(quiet=True, write_model_card=False))
        except Exception as error:  # noqa: BLE001
            found = dict(error=type(error).__name__)
        else:
            vocabulary = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
            config = json.loads(Path(folder, "config.json").read_text())
            found = dict(tokens=sorted(vocabulary, key=vocabulary.get), vocab_size=config["vocab_size"])
            assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
            tensors = load_file(Path(folder, "model.safetensors"))
            names = ("model.embed_tokens.weight", "lm_head.weight")
            save_file({name: tensors[name] for name in names}, case.with_suffix(".safetensors"))
    case.with_suffix(".json").write_text(json.dumps(found, ensure_ascii=False) + "\n")
    print(name, {key: value for key, value in found.items() if key != "tokens"}, len(found.get("tokens", [])))


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    out = Path(sys.argv[1] if sys.argv[1:] else OUT).resolve()
    shutil.rmtree(out, ignore_errors=True)
    (out / "cases").mkdir(parents=True)
    for seed, (name, about) in enumerate(MODELS.items()):
        build(out / name, seed, **about)
    os.chdir(out)
    for name, recipe in CASES.items():
        run(out, name, recipe)
    print(f"{sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
