"""What transformers' logits processors leave to draw from: golden numbers for the engine's sampler.

    python tools/oracle/sampling.py [OUT]

Writes OUT/sampling.json: cases of parameters, tokens that came before, logits, and the tokens that are left with
their scores. The processors and their order are those that transformers itself makes of a generation config
(`_get_logits_processor`).
"""

import itertools
import json
import sys
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden"
VOCAB = 48

PARAMETERS = [
    dict(temperature=t, top_k=k, top_p=p, min_p=m, repetition_penalty=r)
    for t, k, p, m, r in [
        (1.0, 0, 1.0, 0.0, 1.0),
        (0.7, 0, 1.0, 0.0, 1.0),
        (1.0, 5, 1.0, 0.0, 1.0),
        (1.0, 0, 0.8, 0.0, 1.0),
        (1.0, 0, 1.0, 0.1, 1.0),
        (1.0, 0, 1.0, 0.0, 1.3),
        (1.5, 0, 1.0, 0.0, 0.8),
        (0.6, 20, 0.95, 0.0, 1.0),
        (0.7, 20, 0.8, 0.0, 1.05),
        (1.3, 40, 0.6, 0.2, 1.2),
        (2.0, 1, 1.0, 0.0, 1.0),
        (0.3, 0, 0.05, 0.0, 1.0),
        (1.0, 100, 0.9, 0.05, 1.1),
        (1.0, 0, 0.5, 1.0, 1.0),
    ]
]


def rows(gen):
    """Logits of several shapes: spread, flat, peaked, with ties."""
    spread = torch.randn(VOCAB, generator=gen) * 3
    flat = torch.randn(VOCAB, generator=gen) * 0.2
    peaked = torch.randn(VOCAB, generator=gen)
    peaked[11] = 14.0
    tied = torch.round(torch.randn(VOCAB, generator=gen) * 2)
    return dict(spread=spread, flat=flat, peaked=peaked, tied=tied)


def main():
    out = Path(sys.argv[1]) if sys.argv[1:] else OUT
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    gen = torch.Generator().manual_seed(5)
    logits = rows(gen)
    history = torch.randint(VOCAB, (9,), generator=gen)
    cases = []
    for parameters, (name, row) in itertools.product(PARAMETERS, logits.items()):
        if name == "tied" and parameters["top_p"] < 1.0:
            continue  # which of two equal tokens is cut is not said anywhere
        config = GenerationConfig(do_sample=True, **parameters)
        processors = model._get_logits_processor(generation_config=config, input_ids_seq_length=len(history))
        scores = processors(history[None], row[None].clone())[0]
        left = torch.isfinite(scores).nonzero()[:, 0]
        cases.append(
            dict(
                logits=name,
                **parameters,
                processors=[type(p).__name__ for p in processors],
                left=left.tolist(),
                scores=[float(f"{scores[i].item():.7g}") for i in left],
            )
        )
    shown = {name: [float(f"{x:.9g}") for x in row.tolist()] for name, row in logits.items()}
    text = ",\n".join(json.dumps(case) for case in cases)
    text = f'{{"history": {history.tolist()},\n"logits": {json.dumps(shown)},\n"cases": [\n{text}\n]}}\n'
    out.mkdir(parents=True, exist_ok=True)
    (out / "sampling.json").write_text(text)


if __name__ == "__main__":
    main()
