"""What torch reads in floats of 8 bits, and what transformers makes of them, and of packed ones of 4 bits, with
scales.

    python tools/oracle/float8.py crates/darwin-checkpoint/tests/golden/float8.json
"""

import json
import sys

import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

TYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def numbers(tensor):
    return [x if x == x and abs(x) != float("inf") else None for x in tensor.float().flatten().tolist()]


def main():
    torch.manual_seed(1)
    every = torch.arange(256, dtype=torch.uint8)
    tables = {name: numbers(every.view(kind)) for name, kind in TYPES.items()}
    tables["F8_E8M0"] = numbers(every.view(torch.float8_e8m0fnu))
    cases = []
    for name, kind in TYPES.items():
        for grid in ([2, 3], [4, 1], [1, 1]):
            weight = (torch.randn(4, 6) * 3).to(kind)
            scale = torch.rand(grid) * 0.1 + 1e-3
            read = Fp8Dequantize(None)._dequantize_one(weight, scale, torch.bfloat16)
            cases.append({"dtype": name, "bytes": weight.view(torch.uint8).flatten().tolist(),
                          "scale_shape": grid, "scale": numbers(scale), "read": numbers(read)})
    blocks = torch.randint(0, 256, (2, 3, 2, 16), dtype=torch.uint8)
    scales = torch.randint(100, 140, (2, 3, 2), dtype=torch.uint8)
    read = convert_moe_packed_tensors(blocks, scales)
    packed = {"blocks": blocks.flatten().tolist(), "scales": scales.flatten().tolist(),
              "shape": list(read.shape), "read": numbers(read)}
    json.dump({"tables": tables, "shape": [4, 6], "cases": cases, "mxfp4": packed}, open(sys.argv[1], "w"))


if __name__ == "__main__":
    main()
