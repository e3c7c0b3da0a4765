"""Whole merges of generated pairs beside two yardsticks in the same run: the floor (every input byte
read once, every output byte written and synced, two threads, no arithmetic) and mergekit. Beside them, how
long the child's SHA-256 takes, which the floor lacks.

    python tools/bench/merge.py target/release/darwin FOLDER [--shape llama|moe] [--gigabytes 4]
        [--rounds 5] [--peer .../bin/mergekit-yaml] [--peer-rounds 5] [--slow-peer [METHOD ...]] [--scaling] [--limit]

Prints medians with their spread, ratios, and each process's peak resident memory. `--scaling` adds
tables over sizes and threads, `--limit` a run in a memory cgroup of 1 GiB (page cache included).
FOLDER keeps the pairs from run to run; it needs about four times the size of one model.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from ml_dtypes import bfloat16

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=2560,
             intermediate_size=6912, num_attention_heads=20, num_key_value_heads=20, head_dim=128,
             vocab_size=32000, rms_norm_eps=1e-6, tie_word_embeddings=False, dtype="bfloat16",
             max_position_embeddings=4096)
MOE = dict(hidden_size=2048, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=512,
           shared_expert_intermediate_size=512, num_attention_heads=16, num_key_value_heads=2,
           head_dim=256, linear_num_key_heads=16, linear_num_value_heads=32, linear_key_head_dim=128,
           linear_value_head_dim=128, linear_conv_kernel_dim=4, vocab_size=32000, rms_norm_eps=1e-6,
           tie_word_embeddings=False, model_type="qwen3_5_moe_text", max_position_embeddings=4096)


def llama(layers):
    h, i, v = LLAMA["hidden_size"], LLAMA["intermediate_size"], LLAMA["vocab_size"]
    yield "model.embed_tokens.weight", (v, h)
    for n in range(layers):
        at = f"model.layers.{n}."
        for part in "qkvo":
            yield f"{at}self_attn.{part}_proj.weight", (h, h)
        yield f"{at}mlp.gate_proj.weight", (i, h)
        yield f"{at}mlp.up_proj.weight", (i, h)
        yield f"{at}mlp.down_proj.weight", (h, i)
        yield f"{at}input_layernorm.weight", (h,)
        yield f"{at}post_attention_layernorm.weight", (h,)
    yield "model.norm.weight", (h,)
    yield "lm_head.weight", (v, h)


def moe(layers):
    h, e, i, v = MOE["hidden_size"], MOE["num_experts"], MOE["moe_intermediate_size"], MOE["vocab_size"]
    yield "model.language_model.embed_tokens.weight", (v, h)
    for n in range(layers):
        at = f"model.language_model.layers.{n}."
        if n % 4 == 3:
            yield f"{at}self_attn.q_proj.weight", (2 * 16 * 256, h)
            yield f"{at}self_attn.k_proj.weight", (2 * 256, h)
            yield f"{at}self_attn.v_proj.weight", (2 * 256, h)
            yield f"{at}self_attn.o_proj.weight", (h, 16 * 256)
            yield f"{at}self_attn.q_norm.weight", (256,)
            yield f"{at}self_attn.k_norm.weight", (256,)
        else:
            yield f"{at}linear_attn.in_proj_qkv.weight", (8192, h)
            yield f"{at}linear_attn.in_proj_z.weight", (4096, h)
            yield f"{at}linear_attn.in_proj_b.weight", (32, h)
            yield f"{at}linear_attn.in_proj_a.weight", (32, h)
            yield f"{at}linear_attn.conv1d.weight", (8192, 1, 4)
            yield f"{at}linear_attn.A_log", (32,)
            yield f"{at}linear_attn.dt_bias", (32,)
            yield f"{at}linear_attn.norm.weight", (128,)
            yield f"{at}linear_attn.out_proj.weight", (h, 4096)
        yield f"{at}mlp.gate.weight", (e, h)
        yield f"{at}mlp.experts.gate_up_proj", (e, 2 * i, h)
        yield f"{at}mlp.experts.down_proj", (e, h, i)
        yield f"{at}mlp.shared_expert.gate_proj.weight", (512, h)
        yield f"{at}mlp.shared_expert.up_proj.weight", (512, h)
        yield f"{at}mlp.shared_expert.down_proj.weight", (h, 512)
        yield f"{at}mlp.shared_expert_gate.weight", (1, h)
        yield f"{at}input_layernorm.weight", (h,)
        yield f"{at}post_attention_layernorm.weight", (h,)
    yield "model.language_model.norm.weight", (h,)
    yield "lm_head.weight", (v, h)


def config(shape, layers):
    if shape == "llama":
        return LLAMA | dict(num_hidden_layers=layers)
    kinds = ["full_attention" if n % 4 == 3 else "linear_attention" for n in range(layers)]
    text = MOE | dict(num_hidden_layers=layers, layer_types=kinds, dtype="bfloat16")
    vision = dict(depth=1, hidden_size=64, intermediate_size=64, num_heads=2, patch_size=2,
                  out_hidden_size=2048, num_position_embeddings=4, spatial_merge_size=1)
    return dict(architectures=["Qwen3_5MoeForConditionalGeneration"], model_type="qwen3_5_moe",
                dtype="bfloat16", tie_word_embeddings=False, text_config=text, vision_config=vision)


def layers_for(shape, gigabytes):
    tensors, layers = dict(llama=llama, moe=moe)[shape], 1
    size = lambda n: sum(2 * int(np.prod(s)) for _, s in tensors(n))
    while size(layers) < gigabytes * 1e9:
        layers += 1
    return layers, size(layers)


class Weights:
    """Gaussian father weights and a small difference, from one block of numbers read at shifting
    places; made once, so that generating is faster than the disk."""

    def __init__(self):
        rng = np.random.default_rng(7)
        self.n = (1 << 24) + 12_345
        self.own = (0.02 * rng.standard_normal(self.n, dtype=np.float32))
        self.more = (0.002 * rng.standard_normal(self.n, dtype=np.float32))

    def block(self, seed, count, mother):
        at = seed * 7_654_321 % self.n
        index = np.arange(at, at + count) % self.n
        values = self.own[index]
        if mother:
            values = values + self.more[(index * 3 + seed) % self.n]
        return values.astype(bfloat16).tobytes()


def write_model(folder, shape, layers, mother, weights, shard=2_000_000_000):
    os.makedirs(folder)
    groups, filled = [[]], 0
    for name, dims in dict(llama=llama, moe=moe)[shape](layers):
        size = 2 * int(np.prod(dims))
        if filled + size > shard and groups[-1]:
            groups.append([])
            filled = 0
        groups[-1].append((name, dims, size))
        filled += size
    places, seed = {}, 0
    for n, group in enumerate(groups):
        file_name = f"model-{n + 1:05}-of-{len(groups):05}.safetensors"
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, dims, size in group:
            header[name] = dict(dtype="BF16", shape=list(dims), data_offsets=[offset, offset + size])
            offset += size
            places[name] = file_name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(f"{folder}/{file_name}", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, _, size in group:
                left = size // 2
                while left:
                    count = min(left, 1 << 23)
                    seed += 1
                    file.write(weights.block(seed, count, mother))
                    left -= count
            file.flush()
            os.fsync(file.fileno())
    json.dump({"metadata": {}, "weight_map": places}, open(f"{folder}/model.safetensors.index.json", "w"))
    json.dump(config(shape, layers), open(f"{folder}/config.json", "w"))


def pair(root, shape, gigabytes, weights):
    layers, size = layers_for(shape, gigabytes)
    folder = f"{root}/{shape}-{layers}"
    if not os.path.exists(f"{folder}/done"):
        shutil.rmtree(folder, ignore_errors=True)
        for mother in (False, True):
            write_model(f"{folder}/{'mother' if mother else 'father'}", shape, layers, mother, weights)
        open(f"{folder}/done", "w").close()
    return folder, size


def shards(folder):
    return sorted(f"{folder}/{f}" for f in os.listdir(folder) if f.endswith(".safetensors"))


def floor(folder, out, threads=2, tile=4 << 20):
    """Every input byte read once, as many bytes as one parent has written and synced."""
    os.makedirs(out)
    jobs, files = [], []
    for parent in ("father", "mother"):
        for path in shards(f"{folder}/{parent}"):
            source = os.open(path, os.O_RDONLY)
            size = os.fstat(source).st_size
            target = -1
            if parent == "father":
                target = os.open(f"{out}/{os.path.basename(path)}", os.O_WRONLY | os.O_CREAT)
                os.ftruncate(target, size)
                files.append(target)
            jobs += [(source, target, at, min(tile, size - at)) for at in range(0, size, tile)]
    every, lock, start = list(jobs), threading.Lock(), time.perf_counter()
    jobs.reverse()

    def work():
        buffer = bytearray(tile)
        while True:
            with lock:
                if not jobs:
                    return
                source, target, at, size = jobs.pop()
            view = memoryview(buffer)[:size]
            assert os.preadv(source, [view], at) == size
            if target >= 0:
                assert os.pwrite(target, view, at) == size

    def sync():
        # The disk works from the start on, so that no time is lost at the end.
        while not done.wait(0.2):
            for target in files:
                os.fdatasync(target)

    done = threading.Event()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    syncing = threading.Thread(target=sync)
    for worker in [*workers, syncing]:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    syncing.join()
    for target in files:
        os.fsync(target)
    seconds = time.perf_counter() - start
    for handle in {job[0] for job in every} | set(files):
        os.close(handle)
    return seconds, 0


def hashing(size, block=64 << 20):
    """Seconds that SHA-256 takes for so many bytes in memory, on one core: no child with checksums
    is written in less, as a shard's hash cannot be shared."""
    data, hasher, start = os.urandom(block), hashlib.sha256(), time.perf_counter()
    for at in range(0, size, block):
        hasher.update(memoryview(data)[:size - at])
    return time.perf_counter() - start


def process(command, cgroup=None):
    """Seconds and peak resident bytes (VmHWM) of a whole process."""
    start = time.perf_counter()
    enter = None
    if cgroup:
        enter = lambda: open(f"{cgroup}/cgroup.procs", "w").write(str(os.getpid()))
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, preexec_fn=enter)
        peak = 0
        while child.poll() is None:
            peak = max(peak, resident(child.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        if child.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}: {errors.read().decode()[-2000:]}")
    return seconds, peak


def resident(pid):
    """VmHWM: rusage would count what this process had at the fork."""
    try:
        with open(f"/proc/{pid}/status") as status:
            lines = [line for line in status if line.startswith("VmHWM:")]
        return 1024 * int(lines[0].split()[1]) if lines else 0
    except (OSError, IndexError):
        return 0


BASE = "base_model: {0}/father\n"
RECIPES = {
    "linear": "merge_method: linear\nmodels:\n- {{model: {0}/father, parameters: {{weight: 0.6}}}}\n"
              "- {{model: {0}/mother, parameters: {{weight: 0.4}}}}\n",
    "slerp": "merge_method: slerp\nmodels:\n- {{model: {0}/father}}\n- {{model: {0}/mother}}\n" + BASE
             + "parameters: {{t: 0.4}}\n",
    "dare_ties": "merge_method: dare_ties\nmodels:\n- {{model: {0}/mother, parameters: "
                 "{{weight: 0.4, density: 0.8}}}}\n" + BASE,
    "ties": "merge_method: ties\nmodels:\n- {{model: {0}/mother, parameters: {{weight: 0.4, density: 0.6}}}}\n"
            + BASE + "parameters: {{normalize: false}}\n",
}
SLOW = ("dare_ties", "ties")
TARGETS = dict(linear=(1.3, 4), slerp=(1.6, 5), dare_ties=(1.4, 15), ties=(2.0, 25))


def write_recipes(folder):
    for name, text in RECIPES.items():
        open(f"{folder}/{name}.yml", "w").write(text.format(folder))


def fresh(out):
    shutil.rmtree(out, ignore_errors=True)
    return out


def spread(times):
    return f"{statistics.median(times):8.2f} {min(times):8.2f} {max(times):8.2f}"


def compare(options, folder, size):
    out = f"{options.folder}/out"
    peer = [options.peer] if options.peer else []
    write_recipes(folder)
    floors, ours, theirs = [], {n: [] for n in RECIPES}, {n: [] for n in RECIPES}
    beside = {}
    peaks, their_peaks = [], []

    def run_peer(name):
        seconds, peak = process(peer + [f"{folder}/{name}.yml", fresh(out), "--random-seed", "1",
                                        "--no-copy-tokenizer", "--quiet"])
        theirs[name].append(seconds)
        their_peaks.append(peak)

    def run_own(name):
        seconds, peak = process([options.darwin, "merge", f"{folder}/{name}.yml", fresh(out), "-q",
                                 "--random-seed", "1"])
        peaks.append(peak)
        return seconds

    for _ in range(options.rounds):
        floors.append(floor(folder, fresh(out))[0])
        for name in RECIPES:
            ours[name].append(run_own(name))
            if peer and name in ("linear", "slerp") and len(theirs[name]) < options.peer_rounds:
                run_peer(name)
    for name in (options.slow_peer or SLOW) if peer and options.slow_peer is not None else []:
        # They run once: ours right before and after, for a processor's clock changes within minutes.
        beside[name] = [run_own(name), run_own(name)]
        run_peer(name)
        beside[name] += [run_own(name), run_own(name)]
    fresh(out)
    base = statistics.median(floors)
    print(f"\n{options.shape}: two parents of {size / 1e9:.2f} GB bf16, {options.rounds} rounds, seconds: median, "
          f"least, most")
    print(f"{'floor':<22} {spread(floors)}   {3 * size / base / 1e9:.2f} GB/s read and written")
    print(f"{'SHA-256, one core':<22} {hashing(size):8.2f}   of as many bytes as the child has; darwin writes checksums")
    for name in RECIPES:
        most, least = TARGETS[name]
        mine = statistics.median(ours[name])
        print(f"{'darwin ' + name:<22} {spread(ours[name])}   {mine / base:5.2f} x floor (to reach {most})")
        if theirs[name]:
            other = statistics.median(theirs[name])
            near = statistics.median(beside.get(name, ours[name]))
            times = "".join(f" {seconds:.2f}" for seconds in beside.get(name, []))
            print(f"{'mergekit ' + name:<22} {spread(theirs[name])}   darwin is {other / near:5.1f} times as fast"
                  f" (to reach {least}){'; before and after it' + times if times else ''}")
    print(f"peak resident memory: darwin {max(peaks) / 2**20:.0f} MiB"
          + (f", mergekit {max(their_peaks) / 2**20:.0f} MiB" if their_peaks else ""), flush=True)


def scaling(options, weights):
    out = f"{options.folder}/out"
    print(f"\n{options.shape}: how the time grows, seconds (GB/s read and written), and peak memory")
    print(f"{'GB a parent':>12} {'threads':>8} {'floor':>8} " + " ".join(f"{name:>18}" for name in RECIPES)
          + f" {'peak MiB':>9}")
    for gigabytes in (0.5, 1, 2):
        folder, size = pair(options.folder, options.shape, gigabytes, weights)
        write_recipes(folder)
        for threads in (1, 2):
            cells, peaks = [], []
            base = floor(folder, fresh(out), threads)[0]
            for name in RECIPES:
                seconds, peak = process([options.darwin, "merge", f"{folder}/{name}.yml", fresh(out), "-q",
                                         "-j", str(threads)])
                cells.append(f"{seconds:10.2f} ({3 * size / seconds / 1e9:.2f})")
                peaks.append(peak)
            print(f"{size / 1e9:12.2f} {threads:8} {base:8.2f} " + " ".join(f"{cell:>18}" for cell in cells)
                  + f" {max(peaks) / 2**20:9.0f}", flush=True)
        fresh(out)
        shutil.rmtree(folder)


def limited(options, folder, size):
    """The same in a memory cgroup of 1 GiB, page cache included."""
    out, group = f"{options.folder}/out", "/sys/fs/cgroup/memory/darwin-bench"
    write_recipes(folder)
    os.makedirs(group, exist_ok=True)
    try:
        open(f"{group}/memory.limit_in_bytes", "w").write(str(1 << 30))
        print(f"\n{options.shape}, {size / 1e9:.2f} GB a parent, in a memory cgroup of 1 GiB (page cache included)")
        for name in RECIPES:
            seconds, peak = process([options.darwin, "merge", f"{folder}/{name}.yml", fresh(out), "-q"], group)
            print(f"darwin {name:<12} {seconds:8.2f} s, peak resident {peak / 2**20:.0f} MiB", flush=True)
    finally:
        fresh(out)
        time.sleep(1)
        os.rmdir(group)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("darwin")
    parser.add_argument("folder")
    parser.add_argument("--shape", choices=["llama", "moe"], default="llama")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer")
    parser.add_argument("--peer-rounds", type=int, default=5)
    parser.add_argument("--slow-peer", nargs="*", choices=SLOW, metavar="METHOD")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--limit", action="store_true")
    options = parser.parse_args()
    weights = Weights()
    folder, size = pair(options.folder, options.shape, options.gigabytes, weights)
    if options.rounds:
        compare(options, folder, size)
    if options.limit:
        limited(options, folder, size)
    if options.scaling:
        scaling(options, weights)


if __name__ == "__main__":
    main()
