"""Items of the eight domains: generators, wordings, splits, and the training stream.

An item is (domain, family, question, target, trace or None). Every generator takes a
`random.Random` and a difficulty `d` (0 easy .. 2 hard). A question belongs to exactly one
split, by its hash, whoever makes it: see `split_of`.
"""
import hashlib
import json
import random
from functools import lru_cache

import facts

DOMAINS = ["knowledge", "language", "reasoning", "math", "logic", "code", "tools", "composed", "x-operations", "x-derived"]
SPLITS = ["calibration", "proxy", "search", "selection", "test", "dev", "train"]
# Shares (of 10,000) of the hash range. Procedural questions leave 60 % to training; of the
# recall questions those in held-out wordings are shared among the other splits.
PROCEDURAL = {"calibration": 300, "proxy": 400, "search": 500, "selection": 600, "test": 2000, "dev": 200}
RECALL = {"calibration": 700, "proxy": 950, "search": 1200, "selection": 1450, "test": 5000, "dev": 700}
RECALL_DOMAINS = ("knowledge", "language")
DERIVED = (("calibration", 300), ("proxy", 700), ("search", 500), ("selection", 600), ("test", 3300),
           ("proxy", 500), ("search", 300), ("selection", 300), ("dev", 300))


def _hash(text):
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) % 10000


def _range(h, shares):
    for name, share in shares:
        if h < share:
            return name
        h -= share
    return "train"


# Letters, names and subjects always follow a space (but at the start of a target): the byte-level
# BPE has other tokens for `Peru` and ` Peru`, and a model of this size should not learn each twice.

# --- recall: facts in wordings -------------------------------------------------------------

OPEN = ["", "Tell me ", "Name ", "Give "]
CLOSE = ["", "?", ".", " please"]
CORE = {
    "fact": ["{r} of {s}", "the {r} of {s}", "{r}: {s}", "of {s} the {r}"],
    "kind": ["kind of {s}", "what kind is {s}", "kind: {s}", "the kind of {s}"],
    "opposite": ["opposite of {s}", "the opposite of {s}", "opposite: {s}", "of {s} the opposite"],
    "lang": ["{r} for {s}", "the {r} for {s}", "{r}: {s}", "in {r} {s}"],
}


@lru_cache(None)
def wordings(kind):
    """(training, held-out) wordings of a kind of fact; a quarter is held out by hash."""
    train, held = [], []
    for core in CORE[kind]:
        for a in OPEN:
            for b in CLOSE:
                w = a + core + b
                (held if _hash("wording\0" + kind + "\0" + w) % 4 == 0 else train).append(w)
    return train, held


@lru_cache(None)
def short(kind):
    """Weights of the training wordings: the short ones, without opening words, come more often."""
    return [1 if w.startswith(tuple(OPEN[1:])) or w.endswith("please") else 4 for w in wordings(kind)[0]]


def _recall(kind, rel, subject, wording):
    q = wording.format(r=rel, s=subject)
    return q[0].upper() + q[1:] if wording[0].isupper() else q


@lru_cache(None)
def recall_facts(domain):
    """[(family, kind, relation as worded, subject, answer)]; ambiguous questions are dropped."""
    if domain == "language":
        rows = [("name-" + l, "lang", facts.LANGS[l], s, a) for l, s, a in facts.language_facts()]
    else:
        rows = [("country", "fact", r, s, a) for r, s, a in facts.country_facts()]
        rows += [(r, r, "", s, a) for r, s, a in facts.wordnet_facts()]
    answers = {}
    for r in rows:
        answers.setdefault(r[1:4], set()).add(r[4])
    return [r for r in rows if len(answers[r[1:4]]) == 1]


CORE_SHARE, CORE_ODDS = .4, .9      # 40 % of the facts make 90 % of the questions, in every split alike


@lru_cache(None)
def core_tail(domain):
    """The facts in two halves by hash: those asked often, those asked seldom."""
    core, tail = [], []
    for f in recall_facts(domain):
        (core if _hash("core\0" + "\0".join(f[2:4]) + f[1]) < CORE_SHARE * 10000 else tail).append(f)
    return core, tail


def recall_train(rng, domain):
    core, tail = core_tail(domain)
    fam, kind, rel, s, a = rng.choice(core if rng.random() < CORE_ODDS else tail)
    words, weights = wordings(kind)[0], short(kind)
    return domain, fam, _recall(kind, rel, s, rng.choices(words, weights)[0]), a, None


def recall_heldout(domain):
    """The held-out questions of a recall domain: all about core facts, a share of the tail."""
    core, tail = core_tail(domain)
    rest = (1 - CORE_ODDS) / CORE_ODDS * len(core) / len(tail)
    for part, share in ((core, 1), (tail, rest)):
        for fam, kind, rel, s, a in part:
            for w in wordings(kind)[1]:
                q = _recall(kind, rel, s, w)
                if _hash("share\0" + q) < share * 10000:
                    yield domain, fam, q, a, None


# --- arithmetic by digits, for the traces --------------------------------------------------------

def plus(x, y):
    """`27+75` -> `7+5=12,2+7+1=10`: digits from the right, the carry as a third term."""
    a, b, carry, out = str(x)[::-1], str(y)[::-1], 0, []
    for i in range(max(len(a), len(b))):
        terms = [int(n[i]) for n in (a, b) if i < len(n)] + [1] * carry
        out.append("+".join(map(str, terms)) + f"={sum(terms)}")
        carry = sum(terms) // 10
    return ",".join(out)


def minus(x, y):
    """`90-13` -> `10-3=7,8-1=7`: digits from the right, ten added where it must be; x >= y."""
    a, b, borrow, out = str(x)[::-1], str(y)[::-1], 0, []
    for i in range(len(a)):
        u, v = int(a[i]) - borrow, int(b[i]) if i < len(b) else 0
        borrow = int(u < v)
        u += 10 * borrow
        out.append(f"{u}-{v}={u - v}")
    return ",".join(out)


def times(x, b):
    """`39*4` -> `9*4=36,3*4+3=15`: digits from the right with the carry."""
    carry, out = 0, []
    for c in str(x)[::-1]:
        v = int(c) * b + carry
        out.append(f"{c}*{b}" + (f"+{carry}" if carry else "") + f"={v}")
        carry = v // 10
    return ",".join(out)


# --- reasoning ------------------------------------------------------------------------------

LET = "abcdefghijklmnopqrstuvwxyz"
NAMES = ["Ann", "Bob", "Cat", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo"]


def sort_numbers(rng, d):
    """Trace: for each number how many are smaller."""
    xs = rng.sample(range(1, 100), 3 + d)
    q = "sort " + ",".join(map(str, xs))
    t = ",".join(f"{x}:{sum(y < x for y in xs)}" for x in xs)
    return "sort", q, ",".join(map(str, sorted(xs))), t


def sequence(rng, d):
    a, s = rng.randint(1, 30 + 20 * d), rng.choice([x for x in range(-9 * (d > 0), 10 + 4 * d) if x])
    kind = rng.randrange(3) if d else 0
    if kind == 0:
        xs = [a + s * i for i in range(5)]
        t = f"{s:+d};" + (plus(xs[3], s) if s > 0 else f"{xs[3]}{s}" if xs[3] < -s else minus(xs[3], -s))
    elif kind == 1:
        s2 = rng.randint(1, 3 + d)
        xs, st = [a], abs(s)
        for i in range(4):
            xs.append(xs[-1] + st + s2 * i)
        t = f"{xs[1]-xs[0]},{xs[2]-xs[1]},{xs[3]-xs[2]};+{xs[4]-xs[3]};{plus(xs[3], xs[4]-xs[3])}"
    else:
        b, s2 = rng.randint(1, 30), rng.choice([1, 2, 3, 5, 10])
        xs = [a, b, a + s2, b + s2, a + 2 * s2]
        t = f"{xs[0]},{xs[2]};+{s2};{plus(xs[2], s2)}"
    return "sequence", "next: " + ",".join(map(str, xs[:4])), str(xs[4]), t


def follow(rng, d):
    n = 4 + 2 * d
    nodes = rng.sample(LET, n)
    links = list(zip(nodes, nodes[1:]))
    k = rng.randint(2, n - 1)
    i = rng.randint(0, n - 1 - k)
    rng.shuffle(links)
    q = f"go {k} from {nodes[i]}: " + ", ".join(f"{a} {b}" for a, b in links)
    return "follow", q, nodes[i + k], " " + " ".join(nodes[i:i + k + 1])


def order(rng, d):
    n = 3 + d
    p = rng.sample(NAMES, n)
    rel = list(zip(p, p[1:]))
    rng.shuffle(rel)
    words = [f"{a} taller than {b}" if rng.random() < .5 else f"{b} shorter than {a}" for a, b in rel]
    k = rng.randrange(n)
    ask = ["tallest", "second tallest", "third tallest", "fourth tallest", "fifth tallest", "sixth tallest"][k]
    if k == n - 1 and rng.random() < .5:
        ask = "shortest"
    return "order", f"{ask}: " + ", ".join(words), p[k], " " + " > ".join(p)


def count(rng, d):
    n = rng.randint(4, 6) + 2 * d
    if rng.random() < .5:
        ab = rng.sample(LET, 3)
        xs = [rng.choice(ab) for _ in range(n)]
        c, k, parts = ab[0], 0, []
        for x in xs:
            k += x == c
            parts.append(f" {x}{k}")
        return "count", f"count {c}: " + " ".join(xs), str(k), "".join(parts)
    xs = [rng.randint(1, 99) for _ in range(n)]
    c = rng.randint(20, 80)
    hit = [x for x in xs if x > c]
    return "count", f"how many above {c}: " + ",".join(map(str, xs)), str(len(hit)), \
        ",".join(map(str, hit)) or "none"


def swaps(rng, d):
    n = 3 + (d > 0)
    row = rng.sample(LET, n)
    q = "row " + " ".join(row) + "; swap"
    states = []
    for _ in range(2 + d):
        i, j = sorted(rng.sample(range(n), 2))
        row[i], row[j] = row[j], row[i]
        q += f" {i+1}{j+1}"
        states.append(" " + " ".join(row))
    return "swaps", q, states[-1][1:], ";".join(states)


# --- math -----------------------------------------------------------------------------------

def sums(rng, d):
    xs = [rng.randint(2, 99) for _ in range(2 + d)]
    t, acc = [], xs[0]
    for x in xs[1:]:
        t.append((f"{acc}+{x};" if t else "") + plus(acc, x))
        acc += x
    return "sum", "+".join(map(str, xs)), str(acc), ";".join(t)


def difference(rng, d):
    a, b, c = rng.randint(50, 99), rng.randint(2, 49), rng.randint(2, 49)
    if d == 0:
        return "difference", f"{a}-{b}", str(a - b), minus(a, b)
    return "difference", f"{a}-{b}+{c}", str(a - b + c), f"{minus(a, b)};{a-b}+{c};{plus(a-b, c)}"


def product(rng, d):
    a, b = rng.randint(11, (49, 99, 299)[d]), rng.randint(2, 9 if d else 5)
    return "product", f"{a}*{b}", str(a * b), times(a, b)


def gcd(rng, d):
    g = rng.randint(2, 8 + 4 * d)
    a, b = g * rng.randint(2, 6 + 3 * d), g * rng.randint(2, 6 + 3 * d)
    a, b = max(a, b), min(a, b)
    q, t = f"gcd {a} {b}", []
    while b:
        t.append(f"{a}%{b}={a % b}")
        a, b = b, a % b
    return "gcd", q, str(a), ";".join(t)


def modulo(rng, d):
    n, m = rng.randint(*((10, 99), (100, 999), (1000, 9999))[d]), rng.randint(3, 9)
    r, t = 0, []
    for c in str(n):
        v = int(f"{r}{c}")
        r = v % m
        t.append(f"{v}%{m}={r}")
    return "modulo", f"{n} mod {m}", str(r), ";".join(t)


def equation(rng, d):
    a, x, b = rng.randint(2, 5 if d == 0 else 9), rng.randint(2, 9 + 10 * d), rng.randint(1, 30)
    c = a * x + b
    return "equation", f"{a}x+{b}={c}; x", str(x), f"{minus(c, b)};{c-b}/{a}={x}"


# --- logic ----------------------------------------------------------------------------------

def _bool(rng, two):
    """A formula of one or two operations: (text, reductions, value)."""
    ops = {"&": lambda a, b: a & b, "|": lambda a, b: a | b, "^": lambda a, b: a ^ b}
    a, b, c = (rng.randint(0, 1) for _ in range(3))
    f, g = rng.choice("&|^"), rng.choice("&|^")
    v = ops[f](a, b)
    if not two:
        return f"{a}{f}{b}", f"{a}{f}{b}={v}", v
    w = ops[g](v, c)
    return f"({a}{f}{b}){g}{c}", f"{a}{f}{b}={v},{v}{g}{c}={w}", w


def boolean(rng, d):
    """Three formulas at once, so that guessing gives one in eight."""
    fs = [_bool(rng, rng.random() < .4 * d) for _ in range(3)]
    return "boolean", " ".join(f[0] for f in fs), "".join(str(f[2]) for f in fs), ";".join(f[1] for f in fs)


def parity(rng, d):
    groups = ["".join(rng.choice("01") for _ in range(3 + d)) for _ in range(3)]
    tr, ans = [], ""
    for g in groups:
        p, run = 0, ""
        for c in g:
            p ^= int(c)
            run += str(p)
        tr.append(run)
        ans += str(p)
    return "parity", "parity " + " ".join(groups), ans, " ".join(tr)


def implications(rng, d):
    """How many letters hold, given the first; rules that do not apply are mixed in."""
    n, m = rng.randint(2, 3) + d, rng.randint(1, 2)
    ab = rng.sample(LET, n + 2 * m)
    chain, rest = ab[:n], ab[n:]
    links = list(zip(chain, chain[1:])) + list(zip(rest[::2], rest[1::2]))
    rng.shuffle(links)
    q = f"given {chain[0]}: " + ", ".join(f"{a} then {b}" for a, b in links)
    return "implications", q, str(n), " " + " ".join(chain)


def sets(rng, d):
    n = 3 + d
    pool = rng.sample(range(1, 30), n + 3)
    a, b = rng.sample(pool, n), rng.sample(pool, n)
    both = rng.random() < .5
    r = sorted(x for x in a if (x in b) == both)
    t = ",".join(f"{x}{'+' if x in b else '-'}" for x in a)
    q = f"{'in both' if both else 'only in first'}: {','.join(map(str, a))} / {','.join(map(str, b))}"
    return "sets", q, ",".join(map(str, r)) or "none", t


def syllogism(rng, d):
    """Three questions about a chain of 'all X are Y'; answers y/n."""
    n = 4 + d
    c = [x + "s" for x in rng.sample(["cat", "dog", "fox", "owl", "bee", "ant", "cow", "pig", "hen", "rat"], n)]
    links = list(zip(c, c[1:]))
    cut = rng.randint(1, n - 3)         # no link between c[cut] and c[cut + 1]
    links.pop(cut)
    rng.shuffle(links)
    chains = [c[:cut + 1], c[cut + 1:]]
    ans, ask = "", []
    pairs = [(i, j) for i in range(n) for j in range(n) if i < j or (i > j and rng.random() < .4)]
    for i, j in rng.sample(pairs, 3):
        ask.append(f"{c[i]} {c[j]}")
        ans += "y" if i < j and ((i <= cut) == (j <= cut)) else "n"
    q = ", ".join(f"all {a} are {b}" for a, b in links) + "; " + ", ".join(ask)
    return "syllogism", q, ans, ";".join(" " + " > ".join(x) for x in chains)


# --- code -----------------------------------------------------------------------------------

def code_vars(rng, d):
    x, k, m = rng.randint(1, 20), rng.randint(1, 9), rng.randint(2, 5)
    op = rng.choice("+-*")
    y = {"+": x + k, "-": x - k, "*": x * k}[op]
    r = rng.choice([(f"y+x", y + x), (f"y-{m}", y - m), (f"y*{m}", y * m)])
    return "variables", f"x={x};y=x{op}{k};print({r[0]})", str(r[1]), f"y={y};{r[0]}={r[1]}"


def code_loop(rng, d):
    n, s, k = rng.randint(2, 4) + d, rng.randint(0, 20), rng.randint(1, 9)
    body = rng.choice(["x+=i", f"x+={k}", f"x-={k}"])
    x, tr = s, []
    for i in range(n):
        x = eval(body.replace("x+=", f"{x}+").replace("x-=", f"{x}-"), {"i": i})
        tr.append(str(x))
    return "loop", f"x={s}\nfor i in range({n}):{body}\nprint(x)", str(x), ",".join(tr)


def code_list(rng, d):
    xs = [rng.randint(1, 30) for _ in range(rng.randint(3, 5))]
    i = rng.randrange(len(xs))
    f = rng.choice(["max(a)", "min(a)", "sum(a)", "len(a)", f"a[{i}]", "a[-1]", "sorted(a)[1]", "a[::-1]"])
    return "list", f"a=[{','.join(map(str, xs))}];print({f})", str(eval(f, {"a": xs})).replace(" ", ""), None


def code_string(rng, d):
    s = "".join(rng.choice("0123456789") for _ in range(rng.randint(4, 5) + d))
    i = rng.randint(0, len(s) - 2)
    j = rng.randint(i + 1, len(s))
    f = rng.choice([f"s[{i}:{j}]", f"s[{i}]", "s[::-1]", "s[1:]+s[0]", f"s[{i}]+s[-1]"])
    return "string", f"s='{s}';print({f})", str(eval(f, {"s": s})), ",".join(f"{i}:{c}" for i, c in enumerate(s))


def code_branch(rng, d):
    a, b, m = rng.randint(1, 60), rng.randint(1, 60), rng.randint(2, 7)
    c = rng.choice([f"a>b", f"a<b", f"a%{m}==0", "a+b>50"])
    u, v = rng.sample(["red", "blue", "up", "down", "yes", "no"], 2)
    r = eval(c, {"a": a, "b": b})
    return "branch", f"a={a};b={b};print('{u}' if {c} else '{v}')", u if r else v, f"{c} {r}"


# --- tools ----------------------------------------------------------------------------------

CITIES = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Tokyo", "Berlin", "Madrid", "Dublin", "Quito", "Delhi", "Seoul"]
DAYS = ["today", "tomorrow", "Monday", "Tuesday", "Friday", "Sunday"]
ITEMS = ["milk", "bread", "tea", "rice", "apples", "soap", "paper", "coffee"]
SONGS = ["jazz", "rock", "piano", "opera", "folk"]
ROOMS = ["kitchen", "hall", "office", "garage", "bedroom"]
TOOLS = {
    "get_weather": ("city,day", ["weather in {city} {day}", "will it rain {day} in {city}"]),
    "set_timer": ("minutes", ["timer for {minutes} minutes", "wake me in {minutes} minutes"]),
    "send_mail": ("to,text", ["write {to}: {text}", "mail {text} to {to}"]),
    "add_item": ("item,count", ["add {count} {item} to the list", "put {count} {item} on my list"]),
    "play_music": ("genre", ["play some {genre}", "I want to hear {genre}"]),
    "set_light": ("room,level", ["light in the {room} to {level}", "{room} light at {level}"]),
    "book_train": ("start,end", ["train from {start} to {end}", "ticket {start} to {end}"]),
    "convert": ("amount,unit", ["convert {amount} to {unit}", "how much is {amount} in {unit}"]),
    "call": ("name", ["call {name}", "phone {name} now"]),
    "add_event": ("day,hour,title", ["{title} on {day} at {hour}", "plan {title} {day} {hour}"]),
    "find_shop": ("item,city", ["where to buy {item} in {city}", "shops for {item} in {city}"]),
    "set_heat": ("room,degrees", ["heat the {room} to {degrees}", "{degrees} degrees in the {room}"]),
}


def _arg(rng, name):
    return {
        "city": CITIES, "start": CITIES, "end": CITIES, "day": DAYS, "to": NAMES, "name": NAMES,
        "text": ["hello", "I am late", "see you soon", "call me", "thanks"], "item": ITEMS,
        "genre": SONGS, "room": ROOMS, "unit": ["miles", "grams", "euros", "feet", "litres"],
        "title": ["lunch", "dentist", "meeting", "yoga", "chess"],
        "minutes": range(1, 60), "count": range(2, 20), "level": range(1, 100), "amount": range(1, 100),
        "hour": range(7, 22), "degrees": range(15, 26),
    }[name]


def tool_call(rng, d):
    name = rng.choice(sorted(TOOLS))
    params = TOOLS[name][0].split(",")
    args = {p: rng.choice(list(_arg(rng, p))) for p in params}
    others = rng.sample(sorted(set(TOOLS) - {name}), rng.randint(1, 2) + (d > 1))
    fns = others + [name]
    rng.shuffle(fns)
    q = rng.choice(TOOLS[name][1]).format(**args) + " | " + " ".join(f"{f}({TOOLS[f][0]})" for f in fns)
    call = json.dumps({"name": name, "arguments": args}, separators=(",", ":"))
    return "call", q, call, None


# --- composed -------------------------------------------------------------------------------

COUNTRIES = 150     # composed questions are about the countries with most people


@lru_cache(None)
def _numbers():
    """Population ranks and calling codes of the `COUNTRIES` most populous countries."""
    t = facts.numbers()
    big = {n for n, r in t["population rank"].items() if r <= COUNTRIES}
    return {k: {n: v for n, v in t[k].items() if n in big} for k in ("population rank", "calling code")}


def composed(rng, d):
    """Numbers of two countries, looked up in the trace, then an operation on them."""
    tables = _numbers()
    rel = rng.choice(sorted(tables))
    t = tables[rel]
    a, b = rng.sample(sorted(t), 2)
    x, y = t[a], t[b]
    op = rng.choice(["plus", "plus", "gap", "larger"])
    if op == "larger" and x == y:
        op = "plus"
    look, key = f" {a}={x}; {b}={y};", "/".join(sorted((a, b)))
    if op == "plus":
        return "plus", f"{rel} of {a} plus {b}", str(x + y), look + plus(x, y), key
    if op == "gap":
        hi, lo = max(x, y), min(x, y)
        return "gap", f"{rel} gap of {a} and {b}", str(hi - lo), look + minus(hi, lo), key
    return "larger", f"larger {rel}: {a} or {b}", a if x > y else b, look + f"{max(x, y)}", key


# --- operations: what the mother learns ------------------------------------------------------

def modulo_trace(n, m):
    """`137 mod 5` -> `1%5=1;13%5=3;37%5=2`: digit by digit, the rest carried on."""
    r, out = 0, []
    for c in str(n):
        v = int(f"{r}{c}")
        r = v % m
        out.append(f"{v}%{m}={r}")
    return r, ";".join(out)


def operations(rng, d):
    """Products, remainders, and a product's remainder, of numbers like those of `derived`."""
    a, b, m = rng.randint(1, 999 if rng.random() < .3 else 160), rng.randint(2, 9), rng.randint(3, 9)
    op = rng.choice(DERIVED_OPS)
    if op == "times":
        return op, f"{a} times {b}", str(a * b), times(a, b)
    if op == "mod":
        r, t = modulo_trace(a, m)
        return op, f"{a} mod {m}", str(r), t
    r, t = modulo_trace(a * b, m)
    return op, f"{a} times {b} mod {m}", str(r), f"{times(a, b)};{t}"


# --- derived: a fact of the father's, an operation of the mother's --------------------------------

DERIVED_OPS = ["times", "times", "mod", "mod", "times-mod"]
# Of the held-out items half are of two steps: there are eight times as many of these, and the splits would be small otherwise.
DERIVED_MIX = {"times": .25, "mod": .25, "times-mod": .5}
DERIVED_MOST = {"calibration": 184, "proxy": 760, "search": 540, "selection": 540, "test": 2000, "dev": 172}
HERS = 17           # per cent of the countries, by hash, whose numbers the mother computes with


def is_hers(country):
    """Whether the mother's training computes with this country; no held-out item does."""
    return _hash("hers\0" + country) < 100 * HERS


def derived(rng, d):
    """The number of a country, looked up in the trace, then an operation on it."""
    tables = _numbers()
    rel = rng.choice(sorted(tables))
    a = rng.choice(sorted(tables[rel]))
    x, k, m, op = tables[rel][a], rng.randint(2, 9), rng.randint(3, 9), rng.choice(DERIVED_OPS)
    look = f" {a}={x};"
    if op == "times":
        q, answer, t = f"{rel} of {a} times {k}", x * k, look + times(x, k)
    elif op == "mod":
        answer, t = modulo_trace(x, m)
        q, t = f"{rel} of {a} mod {m}", look + t
    else:
        answer, t = modulo_trace(x * k, m)
        q, t = f"{rel} of {a} times {k} mod {m}", f"{look}{times(x, k)};{t}"
    return op, q, str(answer), t, q


def derived_country(question):
    """The country of a question of `derived`."""
    return question.split(" of ", 1)[1].rsplit(" times ", 1)[0].rsplit(" mod ", 1)[0]


GENERATORS = {
    "reasoning": [sort_numbers, sequence, follow, order, count, swaps],
    "math": [sums, difference, product, gcd, modulo, equation],
    "logic": [boolean, parity, implications, sets, syllogism],
    "code": [code_vars, code_loop, code_list, code_string, code_branch],
    "tools": [tool_call],
    "composed": [composed],
    "x-operations": [operations],
    "x-derived": [derived],
}


# Chance of difficulty 0, 1, 2 in the held-out splits; training follows `plan.json`.
DIFFICULTY = (.7, .25, .05)


def split_of(domain, key):
    """The split of a procedural question; `key` is the question, or the pair of countries."""
    if domain == "x-derived":
        return "train" if is_hers(derived_country(key)) else _range(_hash(domain + "\0" + key), DERIVED)
    return _range(_hash(domain + "\0" + key), PROCEDURAL.items())


def procedural(rng, domain, difficulty=None):
    """One random item and its split: ((domain, family, question, target, trace), split)."""
    d = rng.choices((0, 1, 2), difficulty or DIFFICULTY)[0]
    fam, q, a, t, *key = rng.choice(GENERATORS[domain])(rng, d)
    return (domain, fam, q, a, t), split_of(domain, key[0] if key else q)


def train_item(rng, domain, difficulty=None, hers=False):
    """One random item of the training split; `hers`: derived ones about her countries alone."""
    if domain in RECALL_DOMAINS:
        return recall_train(rng, domain)
    while True:
        item, split = procedural(rng, domain, difficulty)
        if split == "train" and not (hers and domain == "x-derived" and not is_hers(derived_country(item[2]))):
            return item


def item_id(item):
    return hashlib.sha256("\0".join((item[0], item[2], item[3])).encode()).hexdigest()[:16]


def record(item):
    """The item as it is shipped."""
    dom, fam, q, a, t = item
    r = {"id": item_id(item), "domain": dom, "family": fam, "question": q, "target": a}
    if t is not None:
        r["trace"] = t
    r["formats"] = ["direct", "think"] if t is not None else ["direct"]
    return r


def prompt(question, think):
    return f"<|user|>{question}<|assistant|>" + ("<think>" if think else "")


def answer(item, think):
    return (f"{item[4]}</think>" if think else "") + item[3] + "<|end|>"


def heldout(sizes, seed=11, domains=DOMAINS):
    """{split: [items]} with `sizes[split]` items per domain, none of them in training."""
    out = {s: [] for s in sizes}
    for dom in domains:
        seen = set()
        if dom == "x-derived":      # at most as many as there are with the families in the same proportion in every split
            need = {(s, f): round(min(n, DERIVED_MOST[s]) * part) for s, n in sizes.items() for f, part in DERIVED_MIX.items()}
        else:
            need = {(s, None): n for s, n in sizes.items()}
        if dom in RECALL_DOMAINS:
            pool = sorted((_hash("order\0" + i[2]), i) for i in recall_heldout(dom))
            stream = ((i, _range(_hash(dom + "\0" + i[2]), RECALL.items())) for _, i in pool)
        else:
            rng = random.Random(f"{seed} {dom}")
            stream = (procedural(rng, dom) for _ in range(2_000_000))
        for item, split in stream:
            key = split, item[1] if dom == "x-derived" else None
            if need.get(key, 0) > 0 and item[2] not in seen:
                seen.add(item[2])
                need[key] -= 1
                out[split].append(item)
                if not any(need.values()):
                    break
        if any(need.values()):
            raise SystemExit(f"{dom}: not enough distinct items, missing {need}")
    return out
