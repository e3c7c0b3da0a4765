"""True facts for the recall domains, read from three permissive sources.

Sources (unpacked below `SRC`): countries-list 3.4.1 (MIT), CLDR 48.2.0 locale names
and territory statistics (Unicode-3.0), WordNet 3.0 (WordNet licence).
Every function returns a sorted list of tuples, so that the result does not depend
on hash order.
"""
import json
import os
from collections import Counter
from functools import lru_cache

SRC = os.environ.get("PARENTS_SRC", "work/src")
CL = "countries-list-3.4.1/package"
CLDR = "cldr-localenames-full-48.2.0/package/main"
CORE = "cldr-core-48.2.0/package"
WN = "wn/usr/share/wordnet"

LANGS = {
    "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch", "pl": "Polish", "sv": "Swedish", "fi": "Finnish", "tr": "Turkish",
    "hu": "Hungarian", "cs": "Czech", "ru": "Russian", "el": "Greek", "ja": "Japanese",
    "ar": "Arabic",
}
MAX_NAME = 24      # characters; longer names cost too many tokens


def _json(*parts):
    with open(os.path.join(SRC, *parts), encoding="utf-8") as f:
        return json.load(f)


@lru_cache(None)
def countries():
    """code -> record of countries-list, names short enough to be cheap, no sub-territories."""
    out = {}
    for code, rec in sorted(_json(CL, "countries.min.json").items()):
        if "partOf" not in rec and len(rec["name"]) <= MAX_NAME:
            out[code] = rec
    return out


@lru_cache(None)
def ranks(key):
    """code -> rank (1 = largest) of a CLDR territory statistic, among the countries above."""
    info = _json(CORE, "supplemental", "territoryInfo.json")["supplemental"]["territoryInfo"]
    vals = {c: float(info[c][key]) for c in countries() if c in info and float(info[c][key]) > 0}
    order = sorted(vals, key=lambda c: (-vals[c], c))
    return {c: i + 1 for i, c in enumerate(order)}


def numbers():
    """relation -> {country name: number}; what the composed domain computes with."""
    cs = countries()
    return {
        "population rank": {cs[c]["name"]: r for c, r in ranks("_population").items()},
        "GDP rank": {cs[c]["name"]: r for c, r in ranks("_gdp").items()},
        "calling code": {r["name"]: r["phone"][0] for r in cs.values() if r["phone"][0] < 1000},
    }


def country_facts():
    """(relation, subject, answer) about countries and currencies."""
    cs, out = countries(), []
    conts = _json(CL, "continents.min.json")
    curr = _json(CL, "currencies.min.json")
    langs = _json(CL, "languages.min.json")
    for code, r in cs.items():
        n = r["name"]
        if r.get("capital") and len(r["capital"]) <= MAX_NAME:
            out.append(("capital", n, r["capital"]))
            if r["capital"] != n:
                out.append(("country with capital", r["capital"], n))
        out.append(("ISO code", n, code))
        out.append(("continent", n, conts[r["continent"]]))
        if r["currency"]:
            out.append(("currency code", n, r["currency"][0]))
        if r["languages"] and r["languages"][0] in langs:
            out.append(("first language", n, langs[r["languages"][0]]["name"].split(" (")[0]))
    for code, r in sorted(curr.items()):
        if len(r["name"]) <= MAX_NAME:
            out.append(("currency named", code, r["name"]))
            out.append(("numeric code of", code, r["numeric"]))
    for rel, table in numbers().items():
        out += [(rel, n, str(v)) for n, v in table.items()]
    return sorted(set(out))


def _offsets(pos):
    """data.POS of WordNet: offset -> (words, pointers, lexical file number)."""
    out = {}
    with open(os.path.join(SRC, WN, "data." + pos), encoding="utf-8") as f:
        for line in f:
            if line.startswith("  "):
                continue
            p = line.split(" | ")[0].split()
            n = int(p[3], 16)
            words = [p[4 + 2 * i] for i in range(n)]
            q = 4 + 2 * n
            ptrs = [tuple(p[q + 1 + 4 * i: q + 5 + 4 * i]) for i in range(int(p[q]))]
            out[p[0]] = (words, ptrs, p[1])
    return out


def wordnet_facts(kinds=3600, opposites=500):
    """('kind', noun, hypernym) for the first sense of plain nouns, ('opposite', adj, adj)."""
    data, out = _offsets("noun"), []
    freq = Counter()
    with open(os.path.join(SRC, WN, "cntlist.rev"), encoding="utf-8") as f:
        for line in f:
            key, _, n = line.split()
            freq[key.split("%")[0]] += int(n)
    cand = []
    with open(os.path.join(SRC, WN, "index.noun"), encoding="utf-8") as f:
        for line in f:
            if line.startswith("  "):
                continue
            p = line.split()
            w, first = p[0], p[6 + int(p[3])]
            if not w.isalpha() or not 3 <= len(w) <= 11:
                continue
            if data[first][2] == "18" or any(q[0] == ";u" for q in data[first][1]):
                continue        # persons and words marked as slang, slurs or vulgar
            hyp = [q[1] for q in data[first][1] if q[0] == "@"]
            if len(hyp) == 1:
                h = data[hyp[0]][0][0]
                if h.isalpha() and h.islower() and len(h) <= 11 and h != w:
                    cand.append((w, h))
    pop = Counter(h for _, h in cand)
    cand = [c for c in cand if 4 <= pop[c[1]] <= 120]
    cand.sort(key=lambda c: (-freq[c[0]], c))
    out += [("kind", w, h) for w, h in cand[:kinds]]
    adj, pairs = _offsets("adj"), set()
    for off, (words, ptrs, _) in adj.items():
        for sym, tgt, pos, st in ptrs:
            if sym == "!" and pos == "a":
                a, b = words[int(st[:2], 16) - 1], adj[tgt][0][int(st[2:], 16) - 1]
                a, b = a.split("(")[0], b.split("(")[0]
                if a.isalpha() and b.isalpha() and len(a) <= 11 and len(b) <= 11:
                    pairs.add((a, b))
    pairs = sorted(pairs, key=lambda p: (-freq[p[0]] - freq[p[1]], p))
    seen = set()
    for a, b in pairs:
        if a not in seen:
            seen.add(a)
            out.append(("opposite", a, b))
        if len(seen) >= opposites:
            break
    return sorted(set(out))


def language_facts():
    """('de', English name, German name) for countries and languages, names that differ only."""
    out = set()

    def names(lang, part):
        d = _json(CLDR, lang, part + ".json")["main"][lang]["localeDisplayNames"]
        return d[part]
    en_t, en_l = names("en", "territories"), names("en", "languages")
    common = set(_json(CL, "languages.min.json"))
    for lang in LANGS:
        t, l = names(lang, "territories"), names(lang, "languages")
        for c in countries():
            if c in en_t and c in t:
                out.add((lang, en_t[c], t[c]))
        for c in sorted(common):
            if c in en_l and c in l:
                out.add((lang, en_l[c], l[c]))
    return sorted(f for f in out if f[1].lower() != f[2].lower() and f[2]
                  and len(f[1]) <= 20 and len(f[2].encode()) <= 30)
