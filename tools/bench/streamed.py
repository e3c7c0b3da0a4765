"""Runs `darwin profile` within a budget and prints what it took: tokens a second, the most memory, bytes read.

    python tools/bench/streamed.py target/release/darwin MODEL ITEMS [--memory 8GiB] [--scratch DIR] [--threads N]
        [--per-domain 100]

Polls VmHWM in /proc/PID/status and rchar in /proc/PID/io (what was asked of the system, whether or not it had it in
memory), and sets both beside what `--dry-run` foretold. Prints one line of JSON at the end. Needs nothing but Linux.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

UNITS = dict(B=1, KiB=2**10, MiB=2**20, GiB=2**30, TiB=2**40)


def field(pid, file, name):
    try:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0


def amount(text, pattern):
    number, unit = re.search(pattern + r" ([0-9.]+) (\w+)", text).groups()
    return float(number) * UNITS[unit]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("darwin")
    parser.add_argument("model")
    parser.add_argument("items")
    parser.add_argument("--per-domain", default="100")
    parser.add_argument("--memory")
    parser.add_argument("--scratch")
    parser.add_argument("--threads")
    args = parser.parse_args()
    command = [args.darwin, "profile", args.model, "--items", args.items, "--per-domain", args.per_domain]
    for name in ["memory", "scratch", "threads"]:
        if getattr(args, name):
            command += [f"--{name}", getattr(args, name)]
    plan = subprocess.run(command + ["--dry-run"], capture_output=True, text=True)
    if plan.returncode:
        raise SystemExit(plan.stderr)
    print(plan.stdout)
    with tempfile.TemporaryDirectory() as out:
        start = time.monotonic()
        process = subprocess.Popen(command + ["--quiet", "--out", out], stdout=subprocess.DEVNULL)
        peak = read = 0
        while process.poll() is None:
            peak = max(peak, field(process.pid, "status", "VmHWM") << 10)
            read = max(read, field(process.pid, "io", "rchar"))
            time.sleep(0.02)
        seconds = time.monotonic() - start
        if process.returncode:
            raise SystemExit(f"darwin profile ended with {process.returncode}")
        tokens = json.loads((Path(out) / "profile.json").read_text())["forward_tokens"]
    stored = sum(f.stat().st_size for f in Path(args.model).glob("*.safetensors"))
    foretold = dict(
        seconds=float(re.search(r"about (\d+) s", plan.stdout)[1]),
        peak=amount(plan.stdout, "at most"),
        read=amount(plan.stdout, r"reads  "),
    )
    print(f"{tokens} tokens in {seconds:.1f} s (foretold {foretold['seconds']:.0f}), {tokens / seconds:.1f} a second")
    print(f"at most {peak / 2**20:.0f} MiB (foretold {foretold['peak'] / 2**20:.0f})")
    print(f"read {read / 2**20:.0f} MiB (foretold {foretold['read'] / 2**20:.0f}), {read / stored:.3f} of the files")
    measured = dict(seconds=seconds, peak=peak, read=read)
    print(json.dumps(dict(tokens=tokens, stored=stored, measured=measured, foretold=foretold)))


if __name__ == "__main__":
    main()
