"""Two builds of Darwin beside each other: merges and, with `--engine`, the engine's benchmark.

    python tools/bench/before_after.py BEFORE/darwin AFTER/darwin FOLDER [--shape llama|moe ...] [--gigabytes 0.5]
        [--rounds 10] [--engine BEFORE/engine-bench AFTER/engine-bench] [--model examples/parents/father]

The builds take turns, so that a machine that slows down slows both; the order changes every round.
Prints after/before as a geometric mean over the pairs of runs with its 95 % interval: seconds on the
clock, and seconds of processor time, which other processes disturb less. Speeds of the engine are
turned into times. FOLDER keeps the generated models.
"""

import argparse
import math
import re
import resource
import statistics
import subprocess
import time

import merge


def timed(command):
    """Seconds on the clock and of processor time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_ratio(what, before, after):
    cells = []
    for kind, name in enumerate(("clock", "processor")):
        logs = [math.log(a[kind] / b[kind]) for b, a in zip(before, after)]
        mean, error = statistics.mean(logs), statistics.stdev(logs) / len(logs) ** 0.5
        least = min(a[kind] for a in after) / min(b[kind] for b in before)
        cells.append(f"{name} {math.exp(mean):.3f} ({math.exp(mean - 1.96 * error):.3f}-"
                     f"{math.exp(mean + 1.96 * error):.3f}), of the least {least:.3f}")
    print(f"{what:<46} n={len(before):<3} {'   '.join(cells)}", flush=True)


def turns(rounds, builds, run):
    """What `run` gives for both builds, in turns."""
    found = [[], []]
    for n in range(rounds):
        for which in (0, 1) if n % 2 else (1, 0):
            found[which].append(run(builds[which]))
    return found


def merges(options, weights):
    for shape in options.shape:
        folder, size = merge.pair(options.folder, shape, options.gigabytes, weights)
        merge.write_recipes(folder)
        for name in merge.RECIPES:
            def run(build):
                out = merge.fresh(f"{options.folder}/out")
                return timed([build, "merge", f"{folder}/{name}.yml", out, "-q", "--random-seed", "1"])
            for build in options.builds:
                run(build)  # the hashes of the parents are known afterwards
            print_ratio(f"{shape}, 2 x {size / 1e9:.2f} GB, {name}", *turns(options.rounds, options.builds, run))
    merge.fresh(f"{options.folder}/out")


LINE = re.compile(r"(.*): ([\d.]+) (?:tokens|GFLOP)/s \(([\d.]+) per core second\)")


def engine(options):
    def run(build):
        text = subprocess.run([build, options.model], check=True, capture_output=True, text=True).stdout
        found = filter(None, map(LINE.match, text.splitlines()))
        return {m[1]: (1 / float(m[2]), 1 / float(m[3])) for m in found}
    before, after = turns(options.rounds, options.engine, run)
    for job in after[0]:
        print_ratio(job, [b[job] for b in before], [a[job] for a in after])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("builds", nargs=2)
    parser.add_argument("folder")
    parser.add_argument("--shape", nargs="*", choices=["llama", "moe"], default=["llama", "moe"])
    parser.add_argument("--gigabytes", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--engine", nargs=2)
    parser.add_argument("--model", default="examples/parents/father")
    options = parser.parse_args()
    merges(options, merge.Weights())
    if options.engine:
        engine(options)


if __name__ == "__main__":
    main()
