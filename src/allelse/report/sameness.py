"""Sameness: findings in; what differed between arms, and which arms came out equal bit for bit, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from allelse.records import canonical_json, digest, flattened
from allelse.report.findings import Arm, Findings

_ABSENT = object()


def differing_keys(findings: Findings) -> dict[str, list[str]]:
    """Every recipe key that is not the same in all arms, with its values in the order of the arms, each once."""
    flat = _flat_recipes(findings)
    columns = {key: [values.get(key, _ABSENT) for values in flat] for values in flat for key in values}
    texts = {key: list(dict.fromkeys(_text(value) for value in column)) for key, column in columns.items()}
    return {key: values for key, values in texts.items() if len(values) > 1}


def shared_keys(findings: Findings) -> dict[str, str]:
    """Every recipe key that is the same in all arms."""
    differing = differing_keys(findings)
    return {key: _text(value) for flat in _flat_recipes(findings)[:1] for key, value in flat.items() if key not in differing}


def _flat_recipes(findings: Findings) -> list[dict[str, Any]]:
    """What each arm's recipe says by dotted key, with the number that was tuned for it, and levels that are the default."""
    tuning, arms = findings.tuning, findings.definition.get("arms", [])
    flat = [
        dict(flattened(arm.get("recipe", {}))) | ({tuning.key: tuning.choice_for(arm["levels"]).value} if tuning else {})
        for arm in arms
    ]
    named = [dict(_of_levels(arm.get("levels", {}))) for arm in arms]
    both = [
        (key, level == values[key])
        for levels, values in zip(named, flat, strict=True)
        for key, level in levels.items()
        if key in values
    ]
    literal = {key for key, _ in both} - {key for key, equal in both if not equal}  # else the level's name is one of its own
    return [
        {key: level for key, level in levels.items() if key in literal} | values
        for levels, values in zip(named, flat, strict=True)
    ]


def _of_levels(levels: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the levels of an arm say of keys of its recipe: a stored recipe leaves out what is at the default."""
    for factor, level in levels.items():
        for key, inner in flattened(level, factor):
            yield from ((key, inner), (f"{key}.name", inner))


def equal_arms(findings: Findings) -> list[list[str]]:
    """Groups of arms that are finished and equal bit for bit, on every seed, in every metric and epoch; by name."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for arms in _alike(findings):
        for arm in arms:
            digests = tuple(digest({"metrics": each.metrics, "epochs": each.epochs}, 24) for each in findings.results(arm))
            groups.setdefault(digests, []).append(findings.arm_name(arm))
    return [names for names in groups.values() if len(names) > 1]


def _alike(findings: Findings) -> list[list[Arm]]:
    """Finished arms of the same accuracies, by accuracies: all that is worth a second look among thousands of runs."""
    groups: dict[bytes, list[Arm]] = {}
    for arm in findings.arms if findings.has("accuracy") else []:
        results = findings.results(arm)
        if len(results) == findings.seeds_from_arm[findings.key(arm)] and all(result.epochs for result in results):
            groups.setdefault(findings.values(arm).tobytes(), []).append(arm)
    return [arms for arms in groups.values() if len(arms) > 1]


def _text(value: Any) -> str:
    if value is _ABSENT or value is None:
        return "–"
    return value if isinstance(value, str) else canonical_json(value)
