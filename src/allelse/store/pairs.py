"""Pairs: stored runs in; what their fingerprints prove of the pairing, in lines for people, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allelse.errors import listed
from allelse.store.opened import StoredRun


def pairing(runs: Sequence[StoredRun]) -> list[str]:
    """What the stored fingerprints prove of invariant 1: lines for people, one for each thing that pairs must share."""
    fingerprints = [(run, run.result.fingerprints) for run in runs if run.result and run.result.fingerprints]
    if not fingerprints:
        return []
    values: dict[tuple[int, str], list[str]] = {}
    for run, digest_from_name in fingerprints:
        for name, value in digest_from_name.items():
            values.setdefault((run.seed, name), []).append(value)
    names = dict.fromkeys(name for _, name in values)  # a name says what its value depends on: only equal names must agree
    broken = {name for (_, name), found in values.items() if len(set(found)) > 1}
    if broken:
        return [f"NOT paired: within a seed, arms differ in {name}" for name in names if name in broken]
    layers = len({name for (_, name), found in values.items() if name.startswith("init ") and len(found) > 1})
    seeds = len({run.seed for run, _ in fingerprints})
    within = f"within each of {seeds} seeds" if seeds > 1 else "within its one seed"
    return [
        f"paired: {within}, all finished arms share data, training subset, order and augmentation, where "
        f"their recipes ask for the same, and the initial weights of equal layers ({layers} compared)",
        *_unlike([name.removeprefix("init ") for name in names if name.startswith("init ")]),
    ]


def _unlike(names: Sequence[str]) -> Iterator[str]:
    """Parameters that several arms have in one shape and fill otherwise; ``engine.fingerprints`` makes their names."""
    ways_from_parameter: dict[tuple[str, str], set[str]] = {}
    for name in names:
        parameter, _, rest = name.partition(" ")
        shape, _, way = rest.partition(" ")
        ways_from_parameter.setdefault((parameter, shape), set()).add(way)
    unlike = dict.fromkeys(parameter for (parameter, _), ways in ways_from_parameter.items() if len(ways) > 1)
    if unlike:
        yield (
            "not shared: arms start these from other values, though of one name and shape, as a rule, a part of your own or "
            f"the number of inputs differs: {listed(list(unlike), 6)}"
        )
