"""Calibration of the verdicts: synthetic studies of known truth in; error rates, coverage and power out, as calibration.md.

    python benchmarks/calibration.py [--studies 1200] [--processes 2] [--date YYYY-MM-DD]

Each synthetic study goes through ``allelse.stats.verdicts`` as a real one does: 3 norms × 4 batch sizes × n seeds, one table,
all kinds of claim. A run's accuracy is its arm's mean + √ρ · (effect of its seed) + √(1 − ρ) · (its own noise), total sd 1
point; ρ is what pairing can achieve. Skewed effects are minus an exponential (skewness −2): now and then a seed does badly.
When every arm is skewed alike the differences are symmetric again, so the hard case is ``one arm skewed``, and harder yet
where the others scatter little. One claim alone has no correction to hide behind.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from importlib.metadata import version
from multiprocessing import Pool
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the processes share the cores; set before NumPy is loaded

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from allelse.claims import Claim
from allelse.stats import Verdict, verdicts

NORMS = ("batch", "group", "layer")
SIZES = (2, 8, 32, 128)
LEVELS = {"norm": list(NORMS), "batch_size": list(SIZES)}
SEEDS = (3, 5, 10, 20)
SHAPES = ("normal", "skewed", "one arm skewed")
TIGHT = 0.3
"""the others' own noise beside a skewed arm, where they scatter little"""
ALONE = {
    "normal": ("normal", 1.0),
    "one arm skewed": ("one arm skewed", 1.0),
    "one arm skewed, the others tight": ("one arm skewed", TIGHT),
}
PAIRING = {"strong (ρ = 0.9)": 0.9, "weak (ρ = 0.1)": 0.1}
ALPHA = 0.05


def claims(*rows: dict) -> list[Claim]:
    return TypeAdapter(list[Claim]).validate_python([{"says": "synthetic", **row} for row in rows])


def norm(level: str) -> dict:
    return {"norm": level}


# No two arms that a directional claim compares differ: either verdict is wrong. Equivalence claims lie a hair outside their
# margin, the worst case for a wrong "supported"; "refuted" would be right.
NULL_MEANS = {"batch": (80, 80, 80, 80), "group": (80, 80, 80, 80), "layer": (77, 77, 77, 74)}
NULL_CLAIMS = claims(
    {"id": "higher", "kind": "higher", "a": norm("batch"), "b": norm("group"), "where": {"batch_size": 8}},
    {"id": "higher-other-way", "kind": "higher", "a": norm("group"), "b": norm("batch"), "where": {"batch_size": 32}},
    {"id": "higher-everywhere", "kind": "higher", "a": norm("batch"), "b": norm("group"), "for_each": "batch_size"},
    {"id": "within", "kind": "within", "a": norm("batch"), "b": norm("layer"), "margin": 3.0, "where": {"batch_size": 8}},
    {"id": "trend", "kind": "trend", "along": "batch_size", "direction": "up", "scale": "log2", "where": norm("batch")},
    {
        "id": "trend-of-difference",
        "kind": "trend",
        "along": "batch_size",
        "direction": "up",
        "a": norm("batch"),
        "b": norm("group"),
    },
    {"id": "monotone", "kind": "monotone", "along": "batch_size", "direction": "up", "where": norm("group")},
    {"id": "stable", "kind": "stable", "along": "batch_size", "margin": 3.0, "where": norm("layer")},
    {"id": "best", "kind": "best", "arm": norm("batch"), "where": {"batch_size": 2}},
)

# Three claims that are plainly true, so that Holm steps down, and four as above.
MIXED_MEANS = {"batch": (80, 80, 80, 80), "group": (80, 80, 80, 80), "layer": (60, 60, 60, 57)}
MIXED_CLAIMS = claims(
    {"id": "true-higher", "kind": "higher", "a": norm("batch"), "b": norm("layer"), "where": {"batch_size": 8}},
    {"id": "true-higher-2", "kind": "higher", "a": norm("group"), "b": norm("layer"), "where": {"batch_size": 32}},
    {"id": "true-everywhere", "kind": "higher", "a": norm("group"), "b": norm("layer"), "for_each": "batch_size"},
    {"id": "higher", "kind": "higher", "a": norm("batch"), "b": norm("group"), "where": {"batch_size": 8}},
    {"id": "within", "kind": "within", "a": norm("batch"), "b": norm("group"), "margin": 3.0, "where": {"batch_size": 128}},
    {"id": "trend", "kind": "trend", "along": "batch_size", "direction": "up", "scale": "log2", "where": norm("group")},
    {"id": "best", "kind": "best", "arm": norm("batch"), "where": {"batch_size": 2}},
)
MIXED_OFFSET = {("batch", 128): 3.0}
"""puts ``within`` on its margin"""
MIXED_NULL = ("higher", "within", "trend", "best")

# One claim to a study, under weak pairing: no difference, and the margin met exactly from either side by the skewed arm.
ALONE_MEANS = {"batch": (80, 80, 80, 80), "group": (80, 80, 77, 80), "layer": (83, 83, 83, 83)}
ALONE_CLAIMS = claims(
    {"id": "higher", "kind": "higher", "a": norm("batch"), "b": norm("group"), "where": {"batch_size": 8}},
    {"id": "above", "kind": "within", "a": norm("batch"), "b": norm("group"), "margin": 3.0, "where": {"batch_size": 32}},
    {"id": "below", "kind": "within", "a": norm("batch"), "b": norm("layer"), "margin": 3.0, "where": {"batch_size": 8}},
)

POWER_MEANS = {"batch": (80, 82, 84, 86), "group": (80, 80, 80, 80), "layer": (79, 79 + 2 / 3, 80 + 1 / 3, 81)}
POWER_CLAIMS = claims(
    {"id": "higher", "kind": "higher", "a": norm("batch"), "b": norm("group"), "where": {"batch_size": 8}},
    {"id": "within", "kind": "within", "a": norm("group"), "b": norm("layer"), "margin": 3.0, "where": {"batch_size": 32}},
    {"id": "trend", "kind": "trend", "along": "batch_size", "direction": "up", "scale": "log2", "where": norm("layer")},
    {"id": "monotone", "kind": "monotone", "along": "batch_size", "direction": "up", "where": norm("batch")},
    {"id": "stable", "kind": "stable", "along": "batch_size", "margin": 3.0, "where": norm("group")},
    {"id": "best", "kind": "best", "arm": norm("batch"), "where": {"batch_size": 8}},
)
POWER_KINDS = [claim.kind for claim in POWER_CLAIMS]


class Studies:
    """Synthetic studies of one truth: the table's frame is made once, its accuracies drawn anew for each study."""

    def __init__(self, means: dict, n: int, shape: str, rho: float, offset: dict | None = None, tight: float = 1.0) -> None:
        self.n, self.shape, self.rho, self.tight = n, shape, rho, tight
        self.arms = [(name, size) for name in NORMS for size in SIZES]
        self.means = np.array(
            [means[name][SIZES.index(size)] + (offset or {}).get((name, size), 0.0) for name, size in self.arms]
        )
        self.skewed = np.array([shape == "skewed" or (shape == "one arm skewed" and name == "batch") for name, _ in self.arms])
        rows = [
            {"norm": name, "batch_size": size, "seed": seed, "status": "done"} for name, size in self.arms for seed in range(n)
        ]
        self.frame = pd.DataFrame(rows)

    def draw(self, generator: np.random.Generator) -> pd.DataFrame:
        own = generator.standard_normal((len(self.arms), self.n))
        own *= self.tight
        own[self.skewed] = 1 - generator.standard_exponential((int(self.skewed.sum()), self.n))
        of_seed = generator.standard_normal(self.n) if self.shape == "normal" else 1 - generator.standard_exponential(self.n)
        accuracy = self.means[:, None] + self.rho**0.5 * of_seed + (1 - self.rho) ** 0.5 * own
        return self.frame.assign(accuracy=accuracy.ravel())


def cell(task: tuple) -> dict:
    """All figures of one (shape, pairing, n)."""
    shape, pairing, n, studies, seed = task
    generator = np.random.default_rng(seed)
    rho = PAIRING[pairing]
    return {
        "shape": shape,
        "pairing": pairing,
        "n": n,
        **null_rates(Studies(NULL_MEANS, n, shape, rho), studies, generator),
        **mixed_rates(Studies(MIXED_MEANS, n, shape, rho, MIXED_OFFSET), studies, generator),
        **powers(Studies(POWER_MEANS, n, shape, rho), studies // 4, generator),
    }


def alone(task: tuple) -> dict:
    """The rates of one (effects, n) of a claim alone, and of one that is looked at again with twice the seeds."""
    effects, n, studies, seed = task
    generator = np.random.default_rng(seed)
    shape, tight = ALONE[effects]
    source = Studies(ALONE_MEANS, 2 * n, shape, PAIRING["weak (ρ = 0.1)"], tight=tight)
    wrong = dict.fromkeys([*(claim.id for claim in ALONE_CLAIMS), "looked at twice"], 0)
    for _ in range(studies):
        twice = source.draw(generator)
        once = twice[twice["seed"] < n]
        for claim in ALONE_CLAIMS:
            wrong[claim.id] += is_wrong(verdicts([claim], once, ALPHA, LEVELS)[0])
        wrong["looked at twice"] += any(is_wrong(verdicts(ALONE_CLAIMS[:1], seen, ALPHA, LEVELS)[0]) for seen in (once, twice))
    return {"effects": effects, "n": n, **{name: count / studies for name, count in wrong.items()}}


def is_wrong(verdict: Verdict) -> bool:
    return verdict.verdict == "supported" or (verdict.verdict == "refuted" and verdict.kind not in ("within", "stable"))


def null_rates(source: Studies, studies: int, generator: np.random.Generator) -> dict:
    supported = refuted = either = 0
    covered = {"t95": 0, "t90": 0, "slope95": 0, "bootstrap95": 0}
    for _ in range(studies):
        table = source.draw(generator)
        found = {verdict.id: verdict for verdict in verdicts(NULL_CLAIMS, table, ALPHA, LEVELS)}
        said = {verdict.verdict for verdict in found.values() if is_wrong(verdict)}
        supported += "supported" in said
        refuted += "refuted" in said
        either += bool(said)
        for name, claim, truth in (("t95", "higher", 0.0), ("t90", "within", 3.0), ("slope95", "trend", 0.0)):
            covered[name] += found[claim].low <= truth <= found[claim].high
        low, high = percentile_bootstrap(table, generator)
        covered["bootstrap95"] += low <= 0 <= high
    rates = {"supported": supported, "refuted": refuted, "either": either, **covered}
    return {f"null {name}": count / studies for name, count in rates.items()}


def percentile_bootstrap(table: pd.DataFrame, generator: np.random.Generator, resamples: int = 400) -> tuple[float, float]:
    """What the t interval is preferred to, for the same difference as the claim ``higher``."""
    at = table[table["batch_size"] == 8]
    x = at.loc[at["norm"] == "batch", "accuracy"].to_numpy() - at.loc[at["norm"] == "group", "accuracy"].to_numpy()
    means = x[generator.integers(0, len(x), size=(resamples, len(x)))].mean(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]))


def mixed_rates(source: Studies, studies: int, generator: np.random.Generator) -> dict:
    wrong = 0
    for _ in range(studies):
        found = verdicts(MIXED_CLAIMS, source.draw(generator), ALPHA, LEVELS)
        wrong += any(is_wrong(verdict) for verdict in found if verdict.id in MIXED_NULL)
    return {"mixed wrong": wrong / studies}


def powers(source: Studies, studies: int, generator: np.random.Generator) -> dict:
    adjusted = dict.fromkeys(POWER_KINDS, 0)
    alone = dict.fromkeys(POWER_KINDS, 0)
    for _ in range(studies):
        for verdict in verdicts(POWER_CLAIMS, source.draw(generator), ALPHA, LEVELS):
            adjusted[verdict.kind] += verdict.verdict == "supported"
            alone[verdict.kind] += max(part.p_support for part in verdict.parts) <= ALPHA
    rates = {f"power {kind}": adjusted[kind] / studies for kind in POWER_KINDS}
    return rates | {f"alone {kind}": alone[kind] / studies for kind in POWER_KINDS}


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(cells: list[dict], alones: list[dict], studies: int, date: str, seconds: float, processes: int) -> str:
    def rows(*keys: str, join: str | None = None) -> list[list[str]]:
        found = []
        for each in cells:
            figures = [percent(each[key]) + (f" ({percent(each[key.replace('power', join)])})" if join else "") for key in keys]
            found.append([each["shape"], each["pairing"], str(each["n"]), *figures])
        return found

    scenario = ["effects", "pairing", "n"]
    software = {name: version(name) for name in ("allelse", "numpy", "scipy", "pandas")}
    machine = f"{platform.machine()}, {processes} processes; Python {platform.python_version()}, "
    machine += ", ".join(f"{name} {number}" for name, number in software.items())
    error = percent(2 * (ALPHA * (1 - ALPHA) / studies) ** 0.5)
    pooled_error = percent(2 * (ALPHA * (1 - ALPHA) / (studies * len(cells) / len(SHAPES))) ** 0.5)
    pooled = [
        f"{shape} {percent(np.mean(null))} and {percent(np.mean(mixed))} % (largest row {percent(max(*null, *mixed))} %)"
        for shape in SHAPES
        for null, mixed in [([each[key] for each in cells if each["shape"] == shape] for key in ("null either", "mixed wrong"))]
    ]
    errors = markdown_table(
        [*scenario, "any supported", "any refuted", "any verdict", "mixed: any wrong"],
        rows("null supported", "null refuted", "null either", "mixed wrong"),
    )
    coverage = markdown_table(
        [*scenario, "difference, 95 %", "difference, 90 %", "slope, 95 %", "percentile bootstrap, 95 %"],
        rows("null t95", "null t90", "null slope95", "null bootstrap95"),
    )
    single = markdown_table(
        ["effects", "n", "higher", "within, from above", "within, from below", "higher, looked at again with 2 n"],
        [
            [each["effects"], str(each["n"]), *(percent(each[key]) for key in ("higher", "above", "below", "looked at twice"))]
            for each in alones
        ],
    )
    power = markdown_table([*scenario, *POWER_KINDS], rows(*(f"power {kind}" for kind in POWER_KINDS), join="alone"))
    return f"""# Calibration of the verdicts

Written by `python benchmarks/calibration.py --studies {studies} --processes {processes}` on {date}, in {seconds:.0f} s
({machine}).
All figures are percentages; α = 0.05. How the studies are made stands at the head of the script.

Family-wise rate of a wrong verdict, all claims null and mixed, mean over pairing and n (±{pooled_error}):
{"; ".join(pooled)}.

## Wrong verdicts (family-wise)

Each study has {len(NULL_CLAIMS)} claims of all kinds. Directional claims compare arms that do not differ, so that
*supported* and *refuted* are both wrong; equivalence claims lie a hair outside their margin, so that *supported* is wrong.
Should be at most 5.0; Monte-Carlo error ±{error} (two standard errors, n = {studies} studies a row). *Mixed*: three of seven
claims are plainly true, which makes Holm lenient to the rest; wrong verdicts among
{", ".join(f"`{name}`" for name in MIXED_NULL)}.

{errors}

## Wrong verdicts of one claim alone

One claim to a study, so nothing is corrected; weak pairing. `higher` compares arms that do not differ; `within` lies on its
margin, which the skewed arm meets from above or from below. *The others tight*: their own noise has sd {TIGHT}. The t test
takes differences for near-normal: with an arm that does badly now and then, beside one that hardly scatters, it errs more often
than α. So does a claim that is looked at, is undecided, and is looked at again with more seeds.

{single}

## Coverage of the intervals

{coverage}

## Power: how often a true claim is supported

After Holm over six true claims; in brackets alone, without correction (n = {studies // 4} studies a row). A run's sd is 1
point, so the sd of a difference is 0.45 under strong and 1.34 under weak pairing. Truth: `higher` +2 points; `within` 0.33 for
a margin of 3; `trend` 2 points over four levels; `monotone` steps of 2; `stable` no difference, margin 3; `best` +2 and +2.33.

{power}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1200, help="null and mixed studies a row; a quarter as many for power")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    given = parser.parse_args()
    scenarios = [(shape, pairing, n) for shape in SHAPES for pairing in PAIRING for n in SEEDS]
    seeds = np.random.SeedSequence(20240607).spawn(len(scenarios))
    tasks = [(*scenario, given.studies, seed) for scenario, seed in zip(scenarios, seeds, strict=True)]
    rows = [(effects, n) for effects in ALONE for n in SEEDS]
    seeds = np.random.SeedSequence(20261130).spawn(len(rows))
    alone_tasks = [(*row, given.studies, seed) for row, seed in zip(rows, seeds, strict=True)]
    started = time.perf_counter()
    with Pool(given.processes) as pool:
        cells, alones = pool.map(cell, tasks, chunksize=1), pool.map(alone, alone_tasks, chunksize=1)
    given.output.write_text(
        report(cells, alones, given.studies, given.date, time.perf_counter() - started, given.processes), encoding="utf-8"
    )
    print(given.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
