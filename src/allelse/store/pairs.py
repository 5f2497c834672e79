"""Pairs: stored runs in; what their fingerprints prove of the pairing, in lines for people, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from allelse.errors import listed
from allelse.store.opened import StoredRun


def pairing(runs: Sequence[StoredRun]) -> list[str]:
    """What the stored fingerprints prove of invariant 1: lines for people, one for each thing that pairs must share."""
    fingerprints = [(run, run.result.fingerprints) for run in runs if run.result and run.result.fingerprints]
    if not fingerprints:
        return []
    if max(Counter(run.seed for run, _ in fingerprints).values()) == 1:
        return ["pairs: none to compare, as no seed has two finished arms"]
    values: dict[tuple[int, str], set[str]] = {}
    for run, digest_from_name in fingerprints:
        for name, value in digest_from_name.items():
            values.setdefault((run.seed, name), set()).add(value)
    names = dict.fromkeys(name for _, name in values)  # a name says what its value depends on: only equal names must agree
    broken = {name for (_, name), found in values.items() if len(found) > 1}
    if broken:
        return [f"NOT paired: within a seed, arms differ in {name}" for name in names if name in broken]
    compared, unlike = _initial_weights(fingerprints)
    seeds = len({run.seed for run, _ in fingerprints})
    within = f"within each of {seeds} seeds" if seeds > 1 else "within its one seed"
    lines = [
        f"paired: {within}, all finished arms share data, training subset, order and augmentation, where "
        f"their recipes ask for the same, and the initial weights of equal layers ({compared - len(unlike)} compared)"
    ]
    if unlike:
        lines.append(
            "not shared: arms start these from other values, though of one name and shape, as a rule, a part of your own or "
            f"the number of inputs differs: {listed(unlike, 6)}"
        )
    return lines


def _initial_weights(fingerprints: Sequence[tuple[StoredRun, Mapping[str, str]]]) -> tuple[int, list[str]]:
    """How many parameters two runs of a seed have in one shape, and which of them these start from other values."""
    found: dict[tuple[str, str], dict[int, list[str]]] = {}
    for run, digest_from_name in fingerprints:
        for name, value in digest_from_name.items():
            if name.startswith("init "):  # the parameter, its shape, and what else its values follow from
                parameter, shape, *_ = [*name.removeprefix("init ").split(" ", 2), ""]
                found.setdefault((parameter, shape), {}).setdefault(run.seed, []).append(value)
    compared = {base: of_seed for base, of_seed in found.items() if any(len(values) > 1 for values in of_seed.values())}
    unlike = [name for (name, _), of_seed in compared.items() if any(len(set(values)) > 1 for values in of_seed.values())]
    return len(compared), unlike
