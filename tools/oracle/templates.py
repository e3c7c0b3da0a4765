"""What transformers' `apply_chat_template` renders: golden strings for the engine's chat templates.

    python tools/oracle/templates.py [OUT]

Writes OUT/templates/cases.json. `models`: the templates of `golden/templates/` and of the example father with
conversations in which each of their branches is met; `features`: short templates of our own for what transformers'
Jinja has beyond the plain one. A case has the request and what is `rendered`, or the `error` that comes.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "crates/darwin-testkit/fixtures/golden"
SPECIALS = dict(bos_token="<s>", eos_token="<|im_end|>")


def message(role, content, **more):
    return dict(role=role, content=content, **more)


USER, NEXT = message("user", "What is 2 + 3?"), message("user", "  And twice that?\n")
SYSTEM = message("system", "Be brief.")
ANSWER = message("assistant", "5")
THOUGHT = message("assistant", "5", reasoning_content="2 + 3 is 5.\n")
TAGGED = message("assistant", "<think>\nTwo and three.\n</think>\n\nFive.")
WEATHER = dict(
    type="function",
    function=dict(
        name="weather",
        description="The weather of a town, in °C; <b>not</b> \"wind\".",
        parameters=dict(
            type="object",
            properties=dict(town=dict(type="string"), days=dict(type="integer", default=1, enum=[1, 3, 7])),
            required=["town"],
        ),
    ),
)
CLOCK = dict(type="function", function=dict(name="clock", parameters=dict(type="object", properties={})))


def call(name, arguments, wrapped=True):
    function = dict(name=name, arguments=arguments)
    return dict(type="function", function=function) if wrapped else function


CALLS = message(
    "assistant",
    "Let me look.",
    tool_calls=[
        call("weather", dict(town="Åre \"é\"\n", days=3, exact=True, at=None, near=[1, 2.5, "x"], unit=dict(c=1e-7))),
        call("clock", {}, wrapped=False),
    ],
)
SILENT = message("assistant", None, reasoning_content="A tool.", tool_calls=[call("weather", dict(town="Rom", far=1e16))])
RESULTS = [message("tool", '{"celsius": 3}'), message("tool", "12:00")]
PARTS = message("user", [dict(type="text", text="Look: "), dict(type="image", image="x.png"), dict(type="text", text="what?")])
BEGUN = message("assistant", "The answer is ")

PLAIN = dict(
    user=[USER],
    system=[SYSTEM, USER],
    turns=[SYSTEM, USER, ANSWER, NEXT],
    reasoned=[USER, THOUGHT, NEXT, TAGGED],
    alias=[USER, message("assistant", "5", thinking="Easy.")],
)
TOOLS = dict(
    called=[SYSTEM, message("user", "Weather in Åre?"), CALLS, *RESULTS],
    silent=[message("user", "Weather in Rome?"), SILENT, RESULTS[0], ANSWER, NEXT],
    answered=[message("user", "Weather?"), CALLS, *RESULTS, THOUGHT],
)


def requests(name):
    """(conversation, arguments) of a model's cases."""
    for talk in PLAIN.values():
        yield talk, dict(add_generation_prompt=talk[-1]["role"] == "user")
    yield PLAIN["user"], dict(add_generation_prompt=False)
    for thinking in (True, False):
        yield PLAIN["turns"], dict(add_generation_prompt=True, enable_thinking=thinking)
    yield [USER, BEGUN], dict(continue_final_message=True)
    yield [USER, message("assistant", "The answer is")], dict(continue_final_message=True)
    yield [USER, THOUGHT], dict(continue_final_message="reasoning_content")
    yield [], dict()
    if name == "father":
        return
    for talk in TOOLS.values():
        yield talk, dict(tools=[WEATHER, CLOCK], add_generation_prompt=True)
    yield TOOLS["called"], dict(add_generation_prompt=True)
    yield PLAIN["user"], dict(tools=[CLOCK], add_generation_prompt=True, enable_thinking=False)
    yield [USER, message("assistant", "x", tool_calls=[call("clock", '{"a": 1}')])], dict()
    if name == "qwen3_5":
        yield [SYSTEM, PARTS], dict(add_generation_prompt=True)
        yield [PARTS, ANSWER, PARTS], dict(add_vision_id=True)
        yield [PARTS, message("assistant", [dict(type="text", text="I see")])], dict(continue_final_message=True)
        yield [SYSTEM], dict()
        yield [USER, SYSTEM], dict()
        yield [message("system", [dict(type="image", image="x.png")]), USER], dict()
        yield [USER, message("critic", "no")], dict()


FEATURES = [
    "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ unk_token is defined }}",
    "{%- for m in messages -%}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}"
    "{% if loop.index0 == 2 %}{% break %}{% endif %}{%- endfor %}",
    "a\n  {% generation %}\n  b {{ messages[0].content }}\n  {% endgeneration %}\nc",
    "{% set x = 1 %}{%- generation -%} {% set x = 2 %}{{ x }} {%- endgeneration -%} {{ x }}",
    "{{ data | tojson }}\n{{ data | tojson(indent=2) }}\n{{ data | tojson(ensure_ascii=True, sort_keys=True) }}",
    "{{ data | tojson(separators=(',', ':')) }}|{{ data | tojson(indent=0) }}|{{ [] | tojson(indent=1) }}",
    "{{ data }}|{{ data.list }}|{{ data.float }}|{{ data.none }}|{{ true }}|{{ data.float | string + '!' }}",
    "{{ [1.0, 1e16, 1e-5, 0.0001, 123456789.5, -0.0, 1e100] }}{{ ['it\\'s', 'a\"b', 'é\\n'] }}",
    "{{ strftime_now('%%') }}{{ raise_exception is defined }}",
    "{{ raise_exception('roles must alternate: ' ~ messages[0].role) }}",
    "{{ messages[0].content.missing.more }}",
    "{% for m in messages %}\n  {{ m.role | capitalize }}:\n\t{%+ if true %}x{% endif +%}\n{% endfor %}\n\n",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('; ') }}",
    "{% macro twice(x, y=2) %}{{ x }}{{ y }}{% endmacro %}{{ twice('a') }}{{ twice('b', y='c') }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}{% endfor %}{{ ns.n }}",
    "{{ ' x '.strip() }}{{ 'a,b,c'.split(',')[-1] }}{{ 'a,b,c'.split(',', 1) }}{{ 'xxay'.lstrip('x') }}{{ 'ab'.title() }}",
    "{% for k, v in data.items() %}{{ k }}={{ v }};{% endfor %}{{ data.get('nothing', 'default') }}{{ 'int' in data }}",
    "{{ messages[1:] | length }}{{ messages[::-1][0].content }}{{ messages[-1]['content'][:3] }}",
    "{{ dict(a=1, b='x') }}{{ '%s-%d' | format('a', 3) }}{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 ** 3 }}{{ 4 / 2 }}",
    "{{ none is none }}{{ 1 is number }}{{ 'a' is string }}{{ [] is sequence }}{{ {} is mapping }}{{ x is undefined }}",
    "{% for v in [none, true, 1, 1.5, 'a', [1], {'a': 1}, unknown] %}{{ v is iterable }} {{ v is sequence }} "
    "{{ v is mapping }} {{ v is number }} {{ v is integer }} {{ v is float }} {{ v is string }} {{ v is boolean }}\n"
    "{% endfor %}{{ unknown | length }}{{ unknown | count }}{{ {'a': 1} | length }}{{ 'é' | length }}",
    "{{ none | length }}",
]
TALK = [message("user", "one"), message("assistant", "two"), message("user", "three"), message("assistant", "four")]
DATA = dict(int=3, float=2.0, none=None, true=True, text="é <b>&'\"\n\u007f\U0001f600", list=[1, "a", None], empty={}, map=dict(z=1, a=[]))


def tokenizer(template):
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, "x")), **SPECIALS)
    made.chat_template = template
    return made


def run(template, talk, arguments):
    case = dict(messages=talk, **arguments)
    try:
        return case | dict(rendered=tokenizer(template).apply_chat_template(talk, tokenize=False, **arguments))
    except Exception as error:  # whatever a template or a request can raise
        return case | dict(error=type(error).__name__, says=str(error)[:200])


def father():
    """The example father's template."""
    return json.loads((ROOT / "examples/parents/father/tokenizer_config.json").read_text())["chat_template"]


def main():
    out = Path(sys.argv[1]) if sys.argv[1:] else GOLDEN
    models_ = {}
    for name in ("qwen3", "qwen3_5", "smollm2", "father"):
        template = father() if name == "father" else (GOLDEN / f"templates/{name}.jinja").read_text()
        models_[name] = [run(template, talk, arguments) for talk, arguments in requests(name)]
    features = [dict(template=t, **run(t, TALK, dict(data=DATA))) for t in FEATURES]
    for case in features:
        del case["messages"], case["data"]
    about = dict(specials=SPECIALS, messages=TALK, data=DATA, features=features, models=models_)
    folder = out / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(about, ensure_ascii=False, indent=0) + "\n")
    for case in features + [c for cases in models_.values() for c in cases]:
        if "error" in case:
            print(case["error"], case["says"][:150].replace("\n", " "))


if __name__ == "__main__":
    main()
