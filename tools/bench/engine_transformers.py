"""Speed of transformers on a model folder: the peer of `cargo bench -p darwin-engine`.

    python tools/bench/engine_transformers.py MODEL [--threads 2] [--repeats 5] [--new 64]
        [--dtypes float32,bfloat16] [--experts eager,batched_mm,grouped_mm] [--only WORD] >PEER.json

Jobs: a prefill of 8 sequences of 128 tokens and of 1 sequence of 512, all logits; the decoding of so many new tokens
for 1 sequence and for 64 with a cache, after prompts of 16, the prompts' time left out. One warm-up, then the median
of the repeats. Every dtype and every `experts_implementation` that runs here is tried (dense models have none); the
best of each job is named. One JSON line, with the speed of a large float32 product beside it.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
PROMPT = 16


def seconds_of(run, repeats):
    """Median of what `run` returns, or of its own time where it returns nothing."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        own = run()
        seconds.append(time.perf_counter() - start if own is None else own)
    return statistics.median(seconds)


def random_ids(model, sequences, length):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.get_text_config().vocab_size, (sequences, length), generator=generator)


def prefill(model, sequences, length, args):
    ids = random_ids(model, sequences, length)

    def run():
        model(input_ids=ids, use_cache=False)

    return sequences * length / seconds_of(run, args.repeats)


def decode(model, sequences, args):
    ids = random_ids(model, sequences, PROMPT)

    def run():
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        start = time.perf_counter()
        for _ in range(args.new):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - start

    return sequences * args.new / seconds_of(run, args.repeats)


JOBS = {
    "prefill_8x128": lambda model, args: prefill(model, 8, 128, args),
    "prefill_1x512": lambda model, args: prefill(model, 1, 512, args),
    "decode_1": lambda model, args: decode(model, 1, args),
    "decode_64": lambda model, args: decode(model, 64, args),
}


def gemm_gflops(n=2048):
    a, b = torch.randn(n, n), torch.randn(n, n)

    def run():
        torch.mm(a, b)

    return 2 * n**3 / seconds_of(run, 9) / 1e9


def runs_of(args):
    config = AutoConfig.from_pretrained(args.model).get_text_config()
    sparse = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    for dtype in args.dtypes.split(","):
        for name in args.experts.split(",") if sparse else (None,):
            options = dict(experts_implementation=name) if name else {}
            run = dict(dtype=dtype, experts_implementation=name)
            try:
                model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, dtype), **options).eval()
                with torch.inference_mode():
                    for job, measure in JOBS.items():
                        if args.only in job:
                            run[job] = round(measure(model, args), 2)
                            print(dtype, name, job, run[job], file=sys.stderr, flush=True)
            except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
                run["failed"] = str(error).splitlines()[0][:200]
            yield run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--experts", default=",".join(IMPLEMENTATIONS))
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    gemm = gemm_gflops()
    runs = list(runs_of(args))
    best = {}
    for job in JOBS:
        done = [run for run in runs if job in run]
        if done:
            run = max(done, key=lambda run: run[job])
            best[job] = dict(tokens_per_s=run[job], dtype=run["dtype"],
                             experts_implementation=run["experts_implementation"])
    print(json.dumps(dict(
        engine=f"transformers {transformers.__version__}",
        torch=torch.__version__,
        model=args.model,
        threads=args.threads,
        gemm_gflops=round(gemm, 1),
        best=best,
        runs=runs,
    )))


if __name__ == "__main__":
    main()
