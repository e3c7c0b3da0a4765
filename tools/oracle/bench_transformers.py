"""Speed of the transformers engine on a model folder: the peer of `darwin`'s engine.

    python tools/oracle/bench_transformers.py MODEL [--threads 2] [--repeats 5]

Float32 on CPU. Prefill: 8 sequences of 128 tokens in one batch; decode: 64 tokens of one sequence with cache,
after a prompt of 16. One warm-up, then the median of the repeats. Every `experts_implementation` that runs here
is tried, the best is reported with its name, in one JSON line.
"""

import argparse
import json
import statistics
import time

import torch
import transformers
from transformers import AutoModelForCausalLM

IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
BATCH, LENGTH = 8, 128
PROMPT, NEW = 16, 64


def median_seconds(run, repeats):
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(model, repeats):
    vocab = model.config.vocab_size
    gen = torch.Generator().manual_seed(0)
    batch = torch.randint(vocab, (BATCH, LENGTH), generator=gen)
    prompt = torch.randint(vocab, (1, PROMPT), generator=gen)

    def prefill():
        model(input_ids=batch, use_cache=False)

    def start():
        return model(input_ids=prompt, use_cache=True, logits_to_keep=1)

    def decode():
        out = start()
        begun = time.perf_counter()
        for _ in range(NEW):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        decode.seconds.append(time.perf_counter() - begun)

    decode.seconds = []
    prefill_seconds = median_seconds(prefill, repeats)
    median_seconds(decode, repeats)
    return dict(
        prefill_tokens_per_s=round(BATCH * LENGTH / prefill_seconds, 1),
        decode_tokens_per_s=round(NEW / statistics.median(decode.seconds[1:]), 1),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found, failed = {}, {}
    for name in IMPLEMENTATIONS:
        try:
            model = AutoModelForCausalLM.from_pretrained(
                args.model, dtype=torch.float32, experts_implementation=name
            ).eval()
            with torch.inference_mode():
                found[name] = measure(model, args.repeats)
        except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
            failed[name] = str(error).splitlines()[0][:200]

    def best(what):
        name = max(found, key=lambda n: found[n][what])
        return dict(experts_implementation=name, tokens_per_s=found[name][what])

    line = dict(
        engine=f"transformers {transformers.__version__}",
        torch=torch.__version__,
        model=args.model,
        dtype="float32",
        threads=args.threads,
        prefill=dict(batch=BATCH, length=LENGTH, **best("prefill_tokens_per_s")),
        decode=dict(prompt=PROMPT, new_tokens=NEW, **best("decode_tokens_per_s")),
        all=found,
    )
    if failed:
        line["failed"] = failed
    print(json.dumps(line))


if __name__ == "__main__":
    main()
