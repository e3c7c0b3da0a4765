"""Padded batches by transformers: both sequences of the case `plain`, padded on the left and on the right.

    python tools/oracle/padded.py [OUT]

Writes OUT/padded.safetensors: for each side `input_ids` and `attention_mask` (2, length) i64, `last_hidden_state`
(2, length, hidden / 4: every fourth column) f32 in the recurrent form of the delta rule, as in `engine.py`. What stands at masked positions
is not zeroed: nobody may read it.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import taps

GOLDEN = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/engine"
EXTRA = 3


@torch.no_grad()
def main():
    out = Path(sys.argv[1]) if sys.argv[1:] else GOLDEN
    plain = load_file(GOLDEN / "plain/golden.safetensors")
    sequences = [plain[f"seq{s}.input_ids"] for s in range(2)]
    model = taps.load_reference(GOLDEN / "plain")
    length = max(map(len, sequences)) + EXTRA
    found = {}
    for side in ("left", "right"):
        ids = torch.zeros(2, length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            at = slice(length - len(sequence), length) if side == "left" else slice(0, len(sequence))
            ids[row, at] = sequence
            mask[row, at] = 1
        with taps.recurrent_form(model):
            hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        for row, sequence in enumerate(sequences):
            alone = plain[f"seq{row}.final_norm"]
            apart = taps.max_over_rms(hidden[row][mask[row].bool()], alone)
            assert apart < 2e-5, (side, row, apart)
        found |= {
            f"{side}.input_ids": ids,
            f"{side}.attention_mask": mask,
            f"{side}.last_hidden_state": hidden[..., ::4].contiguous(),
        }
    out.mkdir(parents=True, exist_ok=True)
    save_file(found, out / "padded.safetensors")


if __name__ == "__main__":
    main()
