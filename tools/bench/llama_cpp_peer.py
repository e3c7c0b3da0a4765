"""Speed of llama.cpp on the weights that Darwin runs, on the CPU.

    CMAKE_ARGS=-DGGML_NATIVE=on pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36 gguf==0.19.0
    python tools/bench/llama_cpp_peer.py convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2-f16.gguf
    python tools/bench/llama_cpp_peer.py run smollm2-f16.gguf --threads 2

`convert` dequantises every matrix with gguf-py and writes it as float16 (vectors as float32), all keys kept.
`run` prints a JSON line: tokens per second of a prompt of 512 tokens in one batch, and of 64 tokens decoded one by
one, greedily, after a prompt of 16; medians, after a run that is not counted.
"""

import argparse
import ctypes
import json
import statistics
import time
from pathlib import Path

PREFILL, PROMPT, DECODE = 512, 16, 64


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    converts = commands.add_parser("convert")
    converts.add_argument("source", type=Path)
    converts.add_argument("out", type=Path)
    runs = commands.add_parser("run")
    runs.add_argument("model", type=Path)
    runs.add_argument("--threads", type=int, required=True)
    runs.add_argument("--batch", type=int, default=512, help="most tokens of a call (n_batch)")
    runs.add_argument("--ubatch", type=int, default=512, help="tokens computed at once (n_ubatch)")
    runs.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.command == "convert":
        convert(arguments.source, arguments.out)
    else:
        print(json.dumps(run(arguments)))


def convert(source, out):
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        left_out = key in ("general.architecture", "general.quantization_version", "general.file_type")
        if not key.startswith("GGUF.") and not left_out:
            element = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=element)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.astype(np.float16) if values.ndim > 1 else values.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Engine:
    """llama.cpp's C interface, so that Python costs nothing per token."""

    def __init__(self, arguments):
        import llama_cpp

        self.api = llama_cpp
        self.model = llama_cpp.Llama(
            str(arguments.model), n_ctx=2 * PREFILL, n_batch=arguments.batch, n_ubatch=arguments.ubatch,
            n_threads=arguments.threads, n_threads_batch=arguments.threads, verbose=False)
        self.context = self.model._ctx.ctx
        self.vocab = self.model.n_vocab()

    def clear(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def feed(self, ids):
        """Runs tokens and gives the most likely next one."""
        array = (self.api.llama_token * len(ids))(*ids)
        failed = self.api.llama_decode(self.context, self.api.llama_batch_get_one(array, len(ids)))
        if failed:
            raise SystemExit(f"llama_decode failed: {failed}")
        return self.api.llama_get_logits_ith(self.context, -1)

    def argmax(self, logits):
        import numpy as np

        return int(np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (self.vocab,)).argmax())


def run(arguments):
    engine = Engine(arguments)
    ids = [(7919 * i + 13) % (engine.vocab - 100) + 50 for i in range(PREFILL)]

    def prefill():
        engine.clear()
        start = time.perf_counter()
        engine.argmax(engine.feed(ids))
        return PREFILL / (time.perf_counter() - start)

    def decode():
        engine.clear()
        token = engine.argmax(engine.feed(ids[:PROMPT]))
        start = time.perf_counter()
        for _ in range(DECODE):
            token = engine.argmax(engine.feed([token]))
        return DECODE / (time.perf_counter() - start)

    record = dict(program=f"llama-cpp-python {engine.api.__version__}", model=arguments.model.name,
                  threads=arguments.threads, n_batch=arguments.batch, n_ubatch=arguments.ubatch,
                  system=engine.api.llama_print_system_info().decode())
    for name, tokens, job in (("prefill", PREFILL, prefill), ("decode", DECODE, decode)):
        job()
        rates = [job() for _ in range(arguments.runs)]
        record[name] = dict(tokens=tokens, tokens_per_s=round(statistics.median(rates), 2),
                            runs=[round(rate, 2) for rate in rates])
    return record


if __name__ == "__main__":
    main()
