"""Pairs: stored runs in; what their fingerprints prove of the pairing, in lines for people, out."""

from __future__ import annotations

from collections.abc import Sequence

from allelse.store.opened import StoredRun


def pairing(runs: Sequence[StoredRun]) -> list[str]:
    """What the stored fingerprints prove of invariant 1: lines for people, one for each thing that pairs must share."""
    fingerprints = [(run, run.result.fingerprints) for run in runs if run.result and run.result.fingerprints]
    if not fingerprints:
        return []
    values: dict[tuple[int, str], set[str]] = {}
    for run, digest_from_name in fingerprints:
        for name, value in digest_from_name.items():
            values.setdefault((run.seed, name), set()).add(value)
    names = dict.fromkeys(name for _, name in values)  # a name says what its value depends on: only equal names must agree
    broken = {name for (_, name), found in values.items() if len(found) > 1}
    if broken:
        return [f"NOT paired: within a seed, arms differ in {name}" for name in names if name in broken]
    layers = sum(name.startswith("init ") for name in names)
    seeds = len({run.seed for run, _ in fingerprints})
    within = f"within each of {seeds} seeds" if seeds > 1 else "within its one seed"
    return [
        f"paired: {within}, all finished arms share data, training subset, order and augmentation, where "
        f"their recipes ask for the same, and the initial weights of equal layers ({layers} compared)"
    ]
