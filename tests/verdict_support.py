"""Claims of each kind, and made-up studies to judge them on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from allelse.claims import Claim
from allelse.stats import verdicts

NORMS, SIZES = ("batch", "group", "layer"), (2, 8, 32)
LEVELS = {"norm": list(NORMS), "batch_size": list(SIZES)}


def claims(*rows):
    return TypeAdapter(list[Claim]).validate_python(
        [{"id": f"c{number}", "says": "s", **row} for number, row in enumerate(rows)]
    )


def norm(level):
    return {"norm": level}


def at(size):
    return {"where": {"batch_size": size}}


HIGHER = {"kind": "higher", "a": norm("batch"), "b": norm("group"), **at(8)}
WITHIN = {**HIGHER, "kind": "within", "margin": 3.0}
TREND = {"kind": "trend", "along": "batch_size", "direction": "up", "where": norm("batch")}
GROWS = {"kind": "trend", "along": "batch_size", "direction": "up", "a": norm("batch"), "b": norm("group"), "scale": "log2"}
MONOTONE = {"kind": "monotone", "along": "batch_size", "direction": "up", "where": norm("batch")}
STABLE = {"kind": "stable", "along": "batch_size", "margin": 3.0, "where": norm("batch")}
BEST = {"kind": "best", "arm": norm("batch"), **at(8)}
ALL = (HIGHER, WITHIN, TREND, GROWS, MONOTONE, STABLE, BEST)


def study(n=8, seed=0, sd=1.0, **means):
    """A table of 3 norms × 3 batch sizes; ``means`` by norm, one number or one for each batch size."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=n)
    rows = []
    for name in NORMS:
        for place, size in enumerate(SIZES):
            mean = np.broadcast_to(means.get(name, 80.0), 3)[place]
            accuracy = mean + shared + sd * generator.normal(size=n)
            rows += [{"norm": name, "batch_size": size, "seed": k, "status": "done", "accuracy": accuracy[k]} for k in range(n)]
    return pd.DataFrame(rows)


def values(table, name, size):
    return table.query("norm == @name and batch_size == @size")["accuracy"].to_numpy()


def judge(row, table, **options):
    (found,) = verdicts(claims(row), table, levels_from_factor=LEVELS, **options)
    return found
