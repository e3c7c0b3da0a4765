"""Golden numbers for CMA-ES, from pycma.

    python tools/oracle/pycma.py [OUT]

Writes OUT/parameters.json (strategy parameters for several dimensions), OUT/trajectories.json (the state after
each of five tells, on given populations) and OUT/statistics.json (evaluations to 1e-8 over 20 seeds).

The populations of the trajectories are drawn by us and handed to pycma as its normal samples z, so that pycma
asks x = mean + sigma B D z itself: solutions told from outside would be shortened to a likely length. B and D
are pycma's own decomposition (any signs and order are right); an implementation compared with this takes x and
f and needs no z.
"""

import json
import math
import sys
import warnings
from pathlib import Path

import cma
import numpy as np
from cma.utilities.math import Mh

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/cma"
GENERATIONS = 5


def sphere(x):
    return float(np.sum(np.asarray(x) ** 2))


def ellipsoid(x):
    x = np.asarray(x)
    return float(np.sum(10.0 ** (6 * np.arange(len(x)) / (len(x) - 1)) * x**2))


def rosenbrock(x):
    x = np.asarray(x)
    return float(np.sum(100 * (x[:-1] ** 2 - x[1:]) ** 2 + (x[:-1] - 1) ** 2))


def slope(x):
    """Linear: the step size grows, and with it the path, until hsig stalls the rank-one update."""
    return float(np.asarray(x) @ np.arange(1.0, len(x) + 1))


def options(**more):
    return {"verbose": -9, "verb_log": 0, "verb_disp": 0, **more}


def tutorial(n, popsize):
    """The defaults of Hansen's tutorial (arXiv:1604.00772v2, table 1), to say where pycma differs."""
    raw = [math.log((popsize + 1) / 2) - math.log(i) for i in range(1, popsize + 1)]
    mu = popsize // 2
    positive, negative = raw[:mu], raw[mu:]
    mu_eff = sum(positive) ** 2 / sum(w * w for w in positive)
    mu_eff_minus = sum(negative) ** 2 / sum(w * w for w in negative)
    cc = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)
    cs = (mu_eff + 2) / (n + mu_eff + 5)
    c1 = 2 / ((n + 1.3) ** 2 + mu_eff)
    cmu = min(1 - c1, 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((n + 2) ** 2 + mu_eff))
    damps = 1 + 2 * max(0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + cs
    alpha = min(1 + c1 / cmu, 1 + 2 * mu_eff_minus / (mu_eff + 2), (1 - c1 - cmu) / (n * cmu))
    weights = [w / sum(positive) if w > 0 else 0.0 for w in raw]
    total = sum(-w for w in raw if w < 0)
    active = [w if w > 0 else alpha * r / total for w, r in zip(weights, raw)]
    return dict(mu=mu, mu_eff=mu_eff, cc=cc, cs=cs, c1=c1, cmu=cmu, damps=damps, weights_active=active)


def strategy(es):
    weights = es.sp.weights
    return dict(
        popsize=es.popsize,
        mu=weights.mu,
        mu_eff=weights.mueff,
        mu_eff_minus=weights.mueffminus,
        weights=list(map(float, weights)),
        cc=es.sp.cc,
        cs=es.adapt_sigma.cs,
        c1=es.sp.c1,
        cmu=es.sp.cmu,
        damps=es.adapt_sigma.damps,
        cmean=es.sp.cmean,
        chi_n=float(Mh.chiN(es.N)),  # what the step-size rule divides by: E|N(0, I)|, exactly
        chi_n_series=float(es.const.chiN),  # the tutorial's sqrt(n) (1 - 1/4n + 1/21n²)
    )


def parameters():
    out = []
    for n in (3, 8, 17):
        es = cma.CMAEvolutionStrategy([0.5] * n, 0.3, options(seed=1))
        plain = cma.CMAEvolutionStrategy([0.5] * n, 0.3, options(seed=1, CMA_active=False))
        es.adapt_sigma.initialize(es)
        found = dict(n=n, **strategy(es), weights_not_active=list(map(float, plain.sp.weights)))
        wanted = tutorial(n, es.popsize)
        gaps = {k: abs(found[k] - wanted[k]) for k in wanted if k != "weights_active"}
        gaps["weights"] = max(abs(a - b) for a, b in zip(found["weights"], wanted["weights_active"]))
        found["differs_from_tutorial"] = {k: float(f"{v:.3g}") for k, v in gaps.items() if v > 1e-12}
        found["tutorial"] = {k: wanted[k] for k in found["differs_from_tutorial"] if k in wanted}
        out.append(found)
    return out


def state(es):
    es.sm.update_now(-1)  # decompose, so that the matrix is symmetric and B, D belong to it
    return dict(
        mean=es.mean.tolist(),
        sigma=float(es.sigma),
        C=es.sm.C.tolist(),
        pc=es.pc.tolist(),
        ps=es.adapt_sigma.ps.tolist(),
    )


def trajectory(function, active, seed, sigma0):
    n, popsize = 4, 8
    rng = np.random.RandomState(seed)
    drawn = []

    def randn(count, dimension):
        drawn.append(rng.randn(count, dimension))
        return drawn[-1].copy()

    start = [0.5, -0.3, 0.2, 0.8]
    made = options(popsize=popsize, CMA_active=active, randn=randn, updatecovwait=0, seed=1)
    es = cma.CMAEvolutionStrategy(start, sigma0, made)
    es.adapt_sigma.initialize(es)
    hsig_of, hsigs = es.adapt_sigma.hsig, []
    es.adapt_sigma.hsig = lambda strategy: hsigs.append(hsig_of(strategy)) or hsigs[-1]
    initial = state(es)
    generations = []
    for _ in range(GENERATIONS):
        drawn.clear()
        before, sigma = es.mean.copy(), es.sigma
        x = [np.array(v) for v in es.ask()]
        assert len(drawn) == 1 and drawn[0].shape == (popsize, n)
        z = drawn[0]
        expect = before + sigma * (es.sm.B @ (es.sm.D * z).T).T
        assert np.allclose(x, expect, rtol=0, atol=1e-14), "pycma changed the samples"
        f = [function(v) for v in x]
        assert len(set(f)) == popsize
        row = dict(z=z.tolist(), x=[v.tolist() for v in x], f=f)
        es.tell(x, f)
        assert len(hsigs) == len(generations) + 1
        row["hsig"] = bool(hsigs[-1])
        generations.append(row | state(es))
    return dict(
        function=function.__name__,
        active=active,
        n=n,
        initial=initial,
        strategy=strategy(es),
        generations=generations,
    )


def stalls(seed):
    """Whether hsig stops the rank-one update at least once, with and without active weights."""
    both = [trajectory(slope, active, seed, 0.1)["generations"] for active in (True, False)]
    return all({row["hsig"] for row in rows} == {True, False} for rows in both)


def trajectories():
    stalled = next(seed for seed in range(12, 1000) if stalls(seed))
    return [
        trajectory(function, active, seed, sigma0)
        for function, seed, sigma0 in ((rosenbrock, 11, 0.3), (slope, stalled, 0.1))
        for active in (True, False)
    ]


def statistics():
    n, target, seeds, out = 8, 1e-8, range(1, 21), []
    for function, start, sigma0 in ((sphere, 3.0, 1.0), (ellipsoid, 3.0, 1.0), (rosenbrock, 0.0, 0.5)):
        evaluations, failed = [], 0
        for seed in seeds:
            es = cma.CMAEvolutionStrategy([start] * n, sigma0, options(seed=seed, ftarget=target, maxfevals=50_000))
            while not es.stop():
                x = es.ask()
                es.tell(x, [function(v) for v in x])
            if es.best.f <= target:
                evaluations.append(es.countevals)
            else:
                failed += 1
        low, median, high = np.percentile(evaluations, [25, 50, 75])
        out.append(
            dict(
                function=function.__name__,
                n=n,
                popsize=es.popsize,
                start=[start] * n,
                sigma0=sigma0,
                target=target,
                seeds=len(seeds),
                failed=failed,
                quartile_1=low,
                median=median,
                quartile_3=high,
                evaluations=evaluations,
            )
        )
        print(f"{function.__name__}: median {median:.0f} [{low:.0f}, {high:.0f}], {failed} failed")
    return out


def main():
    warnings.simplefilter("ignore")
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUT
    out.mkdir(parents=True, exist_ok=True)
    versions = dict(cma=cma.__version__, numpy=np.__version__)
    for name, make in (("parameters", parameters), ("trajectories", trajectories), ("statistics", statistics)):
        text = json.dumps(dict(versions=versions, **{name: make()}), separators=(",", ":"))
        (out / f"{name}.json").write_text(text.replace('},{"', '},\n{"') + "\n")
    for case in json.loads((out / "parameters.json").read_text())["parameters"]:
        print(f"n = {case['n']}: differs from the tutorial in {case['differs_from_tutorial']}")


if __name__ == "__main__":
    main()
