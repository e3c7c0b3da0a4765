"""Children of every family load in transformers, in each layout and as text alone: nothing is missing,
unexpected or of another shape, and layouts give the same logits.

    python tools/oracle/layouts_load.py target/release/darwin
"""

import subprocess
import sys
import tempfile

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from families import BASE, TEXT, TEXT_OF, WHOLE

transformers.utils.logging.set_verbosity_error()
RECIPE = """merge_method: linear
models:
- {{model: {0}/father, parameters: {{weight: 0.5}}}}
- {{model: {0}/mother, parameters: {{weight: 0.5}}}}
"""


def build(name):
    if name in WHOLE:
        text = BASE | TEXT[TEXT_OF[name]] | dict(model_type=TEXT_OF[name])
        return AutoModelForImageTextToText.from_config(
            AutoConfig.for_model(name, text_config=text, **WHOLE[name]))
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(BASE | TEXT[name])))


def logits(folder, auto):
    model, info = auto.from_pretrained(folder, output_loading_info=True, experts_implementation="eager")
    problems = [f"{key} {sorted(map(str, value))[:2]}" for key, value in info.items() if value]
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(8)[None]).logits, problems


def main():
    failed = False
    for name in [*TEXT, *WHOLE]:
        with tempfile.TemporaryDirectory() as folder:
            for seed, parent in enumerate(["father", "mother"]):
                torch.manual_seed(seed)
                model = build(name)
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.add_(0.05 * torch.randn_like(parameter))
                model.save_pretrained(f"{folder}/{parent}")
            open(f"{folder}/recipe.yml", "w").write(RECIPE.format(folder))
            auto = AutoModelForImageTextToText if name in WHOLE else AutoModelForCausalLM
            variants = {"parent": [], "fused": ["--layout", "fused"], "per-expert": ["--layout", "per-expert"]}
            if name in WHOLE:
                variants["text only"] = ["--text-only"]
            if name == "gpt_oss":
                del variants["per-expert"]
            reference, words = None, []
            for variant, flags in variants.items():
                out = f"{folder}/{variant.replace(' ', '-')}"
                subprocess.run([sys.argv[1], "merge", f"{folder}/recipe.yml", out, *flags], check=True,
                               capture_output=True)
                found, problems = logits(out, AutoModelForCausalLM if variant == "text only" else auto)
                reference = found if reference is None else reference
                worst = (found - reference).abs().max().item()
                ok = not problems and worst < 1e-5
                failed |= not ok
                words.append(f"{variant}: {'; '.join(problems) or 'loads'}, logits differ by {worst:.1e}")
            print(f"{name:18} {' | '.join(words)}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
