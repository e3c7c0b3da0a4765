"""What mergekit's built-in chat templates render: golden strings for crates/darwin-merge/tests/templates.rs.

    python tools/parity/templates.py [OUT.json]

Only rendered conversations are written, no template. Our templates are our own text for the formats as their
publishers document them.
"""

import importlib.resources
import itertools
import json
import sys
from pathlib import Path

import jinja2

HERE = Path(__file__).resolve().parent
# mergekit.py of this folder is not the package
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
from mergekit._data import chat_templates  # noqa: E402

OUT = HERE.parents[1] / "crates/darwin-testkit/fixtures/golden/chat_templates.json"
SYSTEM, USER, ANSWER, NEXT = (
    dict(role=role, content=content)
    for role, content in [("system", "Be brief."), ("user", "2 + 3?"), ("assistant", "5"), ("user", "4 + 4?")]
)
TALKS = [[USER], [SYSTEM, USER], [USER, ANSWER], [SYSTEM, USER, ANSWER, NEXT], [USER, ANSWER, NEXT]]


def main():
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = None
    cases = []
    for name, messages, generate in itertools.product(("exaone", "llama3"), TALKS, (False, True)):
        text = importlib.resources.files(chat_templates).joinpath(name + ".jinja").read_text()
        rendered = environment.from_string(text).render(
            messages=messages, add_generation_prompt=generate, bos_token="<s>", eos_token="</s>"
        )
        cases.append(dict(name=name, messages=messages, generate=generate, rendered=rendered))
    out = Path(sys.argv[1]) if sys.argv[1:] else OUT
    out.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
