"""Merging: output folders of one study, from several machines, in; one folder that holds all of their runs, out.

The folders are copies of one that went on in different places, or were begun apart, with other seeds or with some of the arms
of one of them. Nothing is trained and nothing is chosen: a run that was finished once is taken as it is, one that was
finished several times must have come out the same, or be explained by another device, precision, version or pack, and then the
first is kept and the rest is told.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allelse.design import arm_text
from allelse.errors import StoreError, counted
from allelse.progress import journal
from allelse.records import RunResult, canonical_json, digest
from allelse.store import schema
from allelse.store.definitions import apart, united
from allelse.store.faults import explained, on_disk
from allelse.store.folder import UNFINISHED, connected, read, taken, transaction
from allelse.store.opened import FINAL, Store, StoredRun
from allelse.store.schema import FILE

RANK = {"done": 0, "diverged": 0, "failed": 1, "pending": 2}
"""which of two statuses of one run is kept: the lower"""


@dataclass(frozen=True)
class _Part:
    """What one folder holds, read at one moment, of its comparison or its tuning."""

    folder: Path
    plan: dict[str, Any]
    runs: dict[str, StoredRun]
    rows: dict[str, tuple[Any, ...]]

    def pack_of(self, run: str) -> dict[str, Any]:
        """The pack that a run is in, and how it is computed."""
        return next(({"runs": pack["runs"], "way": pack["way"]} for pack in self.plan["packs"] if run in pack["runs"]), {})


@dataclass(frozen=True)
class _Source:
    """What one folder holds, read at one moment."""

    folder: Path
    definition: dict[str, Any]
    tuning: dict[str, Any] | None
    comparison: _Part | None
    tuned_by: _Part | None
    parts: list[dict[str, Any]]
    """that it was united from itself"""

    @property
    def arms(self) -> int:
        return len(self.definition["arms"])


def merge(out: str | Path, folders: Sequence[str | Path]) -> list[str]:
    """Unite output folders of one study in ``out``, with all their seeds, runs and plans; ``allelse run`` goes on there.

    ``out`` is written whole, or is left as it was; the folders are only read. Where some have fewer arms, as of a study that
    was begun with fewer levels, all their runs must be planned in those that have all arms, and these count before them; where
    none has all arms, the study that is made has the levels of all, and each of its arms must be in one of them.

    Arguments:
        out: a new folder, or one that holds the same study, which counts as the first of ``folders`` then.
        folders: output folders.

    Returns:
        what was united, and each thing that was decided on the way, in lines for people.

    Raises:
        StoreError: the folders are not of one study, or their finished runs contradict each other.
    """
    with taken(out) as ours:
        out = ours.folder
        there = [out] if (out / FILE).exists() else []
        if there:
            with read(out):  # takes back a write that was cut off
                pass
        paths = {
            os.path.realpath(os.path.expanduser(folder)): Path(os.path.expanduser(folder)) for folder in [*there, *folders]
        }
        sources = [_source(path) for path in paths.values()]
        before = sources[0].arms if there and not _planned(sources[0]) else 0
        sources.sort(key=lambda one: -one.arms)
        notes = [f"{one.folder}: nothing is planned there yet, so it adds nothing" for one in sources if not _planned(one)]
        sources = [one for one in sources if _planned(one)]
        if not sources:
            raise StoreError(f"{out}: nothing to unite: none of the folders has planned a run; name others")
        try:
            declared = united([one.definition for one in sources])
        except ValueError as error:
            raise StoreError(f"{out}: the folders have other arms of one study each, and {error}, or leave some out") from None
        arms = len(declared["arms"])
        if before > arms:
            raise StoreError(
                f"{out}: nothing is planned there yet, and the {arms} arms of the others would take the place of its {before}; "
                f"go on with 'allelse run' until it shows the time left"
            )
        wholes = [one for one in sources if one.arms == arms] or sources
        _check_one_study(declared, wholes, sources, notes)
        comparison = _united([one.comparison for one in sources if one.comparison], declared, notes)
        tuning = _united([one.tuned_by for one in sources if one.tuned_by], declared, notes)
        definition = _definition(declared, wholes, sources, comparison, notes)
        settled = next((one.tuning for one in sources if one.tuning), None)
        parts = _described(wholes)
        for part in (comparison, tuning):
            _copy_checkpoints(out, part, [one.folder for one in sources])
        _write(out, {"definition": definition, "tuning": settled, "parts": parts}, comparison, tuning)
        _remove(out / journal.FILE)  # it tells of what was left before
    statuses = [row[4] for row in comparison.rows.values()] if comparison else []
    shown = ", ".join(f"{statuses.count(status)} {status}" for status in RANK if status in statuses)
    runs = f"{counted(len(statuses), 'run')} of {counted(len(definition['seeds']), 'seed')}: {shown}"
    return [f"{out}: {runs if statuses else 'the tuning runs'}, from {counted(len(sources), 'folder')}", *notes]


def _write(out: Path, described: Mapping[str, Any], comparison: _Part | None, tuning: _Part | None) -> None:
    """Put the united store in the place of what is in ``out``, whole or not at all."""
    with explained(out):
        (out / UNFINISHED).unlink(missing_ok=True)
    try:
        with connected(out, "rwc", UNFINISHED) as (connection, version):
            store = Store(out, connection)
            with explained(out), transaction(connection):
                schema.prepare(connection, version, tuning=bool(described["definition"].get("tune")))
                for key, value in described.items():
                    if value is not None:
                        store.put(key, json.dumps(value))
                for key, part, into in (("plan", comparison, store), ("tuning plan", tuning, store.tuning_part)):
                    if part and into:
                        into.put(key, json.dumps(part.plan))
                        into.insert(row[:7] for row in part.rows.values())
        with explained(out):
            os.replace(out / UNFINISHED, out / FILE)
            on_disk(out)
    finally:
        _remove(out / UNFINISHED)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _source(folder: Path) -> _Source:
    with read(folder, mend=False) as opened, opened.at_one_moment():
        tuning = opened.tuning_part
        return _Source(
            folder,
            opened.definition,
            opened.tuning,
            _part(opened),
            _part(tuning) if tuning and tuning.plan else None,
            opened.parts,
        )


def _part(opened: Store) -> _Part | None:
    plan = opened.plan
    if plan is None:
        return None
    runs = {run.id: run for run in opened.runs()}
    return _Part(opened.folder, plan, runs, {row[0]: row for row in opened.rows()})


def _planned(source: _Source) -> bool:
    return bool(source.comparison or source.tuned_by)


def _check_one_study(
    declared: Mapping[str, Any], wholes: Sequence[_Source], sources: Sequence[_Source], notes: list[str]
) -> None:
    whole, arms = wholes[0], len(declared["arms"])
    planned = {run for one in wholes if one.comparison for run in one.comparison.runs}
    for one in sources:
        if why := apart(one.definition, declared):
            here, there = (definition.get("data", {}) for definition in (one.definition, declared))
            if set(here) != set(there) and sorted(here.values()) == sorted(there.values()):
                paths = [" and ".join(sorted(names)) for names in (set(here) - set(there), set(there) - set(here))]
                raise StoreError(
                    f"{one.folder}: has the images of {whole.folder} under another path, {paths[0]} and not {paths[1]}, and "
                    f"a run is known by it; run it with that one"
                )
            than = next((other for other in sources if _disagree(one, other)), whole)
            raise StoreError(f"{one.folder}: is of another study than {than.folder}, and results never mix: {why}")
        if whole.tuned_by and one.tuned_by and set(whole.tuned_by.runs) != set(one.tuned_by.runs):
            fewer = "a part of the arms tunes for itself: leave it out, or let one folder"
            raise StoreError(
                f"{one.folder}: tuned on other runs than {whole.folder}, so their arms may have other numbers; "
                f"{fewer if one.arms < arms else 'let one folder'} tune, and go on in copies of it"
            )
        if one.comparison and one.arms < arms:
            for run in one.comparison.runs.values():
                if run.id not in planned:
                    raise StoreError(
                        f"{one.folder}: its run of {arm_text(run.arm)} with seed {run.seed} is planned in no folder that has "
                        f"all {arms} arms; leave it out, or name one where 'allelse run' has begun with it"
                    )
            notes.append(f"{one.folder}: has {one.arms} of the {arms} arms")
    settled = [one for one in sources if one.tuning]
    for one in settled[1:]:
        if _chosen(one) != _chosen(settled[0]):
            raise StoreError(
                f"{one.folder}: its tuning chose otherwise than that of {settled[0].folder}; leave one of them out"
            )


def _disagree(one: _Source, other: _Source) -> bool:
    """Whether both have an arm, by another recipe each."""
    recipes = {canonical_json(arm["levels"]): arm["recipe"] for arm in one.definition["arms"]}
    return any(arm["recipe"] != recipes.get(canonical_json(arm["levels"]), arm["recipe"]) for arm in other.definition["arms"])


def _chosen(source: _Source) -> dict[str, Any]:
    """The value that was chosen, by the levels that share it: another machine has other last digits in the means behind it."""
    return {canonical_json(choice["levels"]): choice["value"] for choice in (source.tuning or {})["choices"]}


# ── uniting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _united(parts: Sequence[_Part], definition: Mapping[str, Any], notes: list[str]) -> _Part | None:
    """All runs of all parts, each once, in the study's order, with a plan of packs that hold either finished runs or others."""
    if not parts:
        return None
    kept: dict[str, _Part] = {}
    for part in parts:
        for run, stored in part.runs.items():
            other = kept.get(run)
            if other is None or RANK[stored.status] < RANK[other.runs[run].status]:
                kept[run] = part
            elif RANK[stored.status] == RANK[other.runs[run].status] == 0:
                notes += _conflict(run, other, part)
    place_from_arm = {canonical_json(arm["levels"]): place for place, arm in enumerate(definition["arms"])}

    def place(run: str) -> tuple[int, int]:
        stored = kept[run].runs[run]
        return place_from_arm.get(canonical_json(stored.arm), len(place_from_arm)), stored.seed

    rows = {run: kept[run].rows[run] for run in sorted(kept, key=place)}
    rows = {run: (row[0], number, *row[2:]) for number, (run, row) in enumerate(rows.items())}
    final = {run for run, row in rows.items() if row[4] in FINAL}
    first = parts[0]
    for part in parts[1:]:
        for key in ("machine", "computing"):
            if part.plan[key] != first.plan[key]:
                told = "; what is left is planned as in the latter" if key == "computing" else ""
                notes.append(
                    f"{part.folder}: planned on {_words(part.plan[key])}, {first.folder} on {_words(first.plan[key])}{told}"
                )
    plan = {**first.plan, "packs": list(_packs(parts, kept, final))}
    return _Part(first.folder, plan, {run: kept[run].runs[run] for run in rows}, rows)


def _packs(parts: Sequence[_Part], kept: Mapping[str, _Part], final: set[str]) -> Iterator[dict[str, Any]]:
    """Every run in one pack: one that is finished in that which it was trained in, another as its first part planned it. So a
    pack of which some are finished is cut, since a pack is trained as a whole, and what is finished stays."""
    planned: set[str] = set()
    for part in parts:
        for pack in part.plan["packs"]:
            finished = [run for run in pack["runs"] if run in final and kept[run] is part]
            left = [run for run in pack["runs"] if run not in final and run not in planned]
            planned.update(left)
            for runs in (finished, left):
                if runs:
                    yield {**pack, "runs": runs, "seconds": pack["seconds"] * len(runs) / len(pack["runs"])}


def _conflict(run: str, first: _Part, second: _Part) -> Iterator[str]:
    """A line where a run was finished twice and came out otherwise for a reason; nothing where it came out the same.

    Raises:
        StoreError: there is no reason.
    """
    one, other = first.runs[run].result, second.runs[run].result
    assert one is not None
    assert other is not None
    who = f"run {run} ({arm_text(first.runs[run].arm)}, seed {first.runs[run].seed})"
    for name, value in one.fingerprints.items():
        if other.fingerprints.get(name, value) != value:
            raise StoreError(f"{second.folder}: {who} was given another {name} than in {first.folder}; leave one of them out")
    if not (differs := _differing(one, other)):
        return
    what, *values = differs
    old, new = (round(value, 9) if isinstance(value, float) else value for value in values)
    if not (reasons := list(_reasons(run, first, second))):
        raise StoreError(
            f"{second.folder}: {who} came out otherwise than in {first.folder}: {what} {old} there and {new} here, on the same "
            f"device with the same versions and packs; one of the two is damaged or was changed: leave one out"
        )
    yield (
        f"{who} was finished twice: {what} {old} in {first.folder}, which is kept, and {new} in {second.folder}, which had "
        f"{', '.join(reasons)}"
    )


def _differing(one: RunResult, other: RunResult) -> tuple[str, object, object] | None:
    """The first thing in which two results of one run differ, and both values."""
    if one.status != other.status:
        return "status", one.status, other.status
    for name in dict.fromkeys([*one.metrics, *other.metrics]):
        old, new = one.metrics.get(name), other.metrics.get(name)
        if old != new and name in one.metrics and name in other.metrics:  # a version may know more of them
            return name, old, new
    return None


def _reasons(run: str, first: _Part, second: _Part) -> Iterator[str]:
    """What rightly changes the last digits of a training, where the second part had another: device, versions, pack."""
    made = [part.runs[run].result.provenance for part in (first, second)]  # type: ignore[union-attr]
    for name in ("device", "precision", "torch", "allelse", "commit", "threads"):
        old, new = (getattr(one, name, None) for one in made)
        if old != new:
            yield f"another {name} ({new}, not {old})"
    packs = [part.pack_of(run) for part in (first, second)]
    if packs[0] != packs[1]:
        old, new = (len(pack.get("runs", ())) for pack in packs)
        yield f"another pack (of {new}, not of {old})" if old != new else "another pack"


def _definition(
    declared: Mapping[str, Any],
    wholes: Sequence[_Source],
    sources: Sequence[_Source],
    comparison: _Part | None,
    notes: list[str],
) -> dict[str, Any]:
    """As declared, with the seeds of all that have all arms."""
    for one in sources:
        if one.definition["references"] != declared["references"]:
            notes.append(f"{one.folder}: names other published figures; those of {wholes[0].folder} are kept")
    if comparison is None:
        return dict(declared)
    seeds_from_arm: dict[str, set[int]] = {}
    for run in comparison.runs.values():
        seeds_from_arm.setdefault(canonical_json(run.arm), set()).add(run.seed)
    seeds = sorted({seed for one in wholes for seed in one.definition["seeds"]})
    arms = []
    for arm in declared["arms"]:
        own = seeds_from_arm.get(canonical_json(arm["levels"]), set())
        if wholes[0].arms < len(declared["arms"]) and "seeds" not in arm and own != set(seeds):
            raise StoreError(
                f"{wholes[0].folder}: no folder has the arm {arm_text(arm['levels'])} with seed "
                f"{min(set(seeds) - own)}, which other arms have; train it, too, or leave those out"
            )
        plain = {key: value for key, value in arm.items() if key != "seeds"}
        arms.append(plain if own == set(seeds) else {**plain, "seeds": len(own)})
    return {**declared, "seeds": seeds, "arms": arms}


def _described(wholes: Sequence[_Source]) -> list[dict[str, Any]]:
    """Seeds, number of runs, machine and command of each folder, and of those that one was united from; each once."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in wholes:
        part = one.comparison or one.tuned_by
        assert part is not None
        own = {"seeds": one.definition["seeds"], "runs": len(part.runs), "machine": part.plan["machine"]}
        for each in one.parts or [{**own, "command": one.definition.get("command")}]:
            alike = found.setdefault(canonical_json({key: value for key, value in each.items() if key != "command"}), [])
            if each.get("command"):  # early versions kept none
                alike[:] = [other for other in alike if other.get("command") not in (None, each["command"])] + [each]
            elif not alike:
                alike.append(each)
    return [each for alike in found.values() for each in alike]


def _copy_checkpoints(out: Path, part: _Part | None, folders: Iterable[Path]) -> None:
    """Take along the checkpoint of each pack that is not finished; one that cannot be taken costs time and no result."""
    for pack in part.plan["packs"] if part else ():
        if any(part.rows[run][4] not in FINAL for run in pack["runs"]):  # type: ignore[union-attr]
            name = Path("checkpoints") / f"{digest(pack['runs'])}.safetensors"
            found = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if found and not (out / name).exists():
                with suppress(OSError):
                    (out / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(found, out / f"{name}.partial")
                    os.replace(out / f"{name}.partial", out / name)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items())
