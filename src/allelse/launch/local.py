"""The local launcher: plans a study on this machine's device, trains its packs one by one, and stores each as it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch

from allelse import data, engine, store
from allelse.errors import AllelseError, StoreError
from allelse.launch.journal import Journalled
from allelse.launch.log import Log
from allelse.launch.measured import Speeds
from allelse.launch.parts import check_parts
from allelse.plan import Plan, PlannedPack, halve, make_plan
from allelse.recipe import Recipe
from allelse.records import RunResult
from allelse.study import Study, tuned, tuning_study
from allelse.tuning import Tuning, blinded, choose

log = logging.getLogger("allelse")


class Watcher(Protocol):
    """What wants to know how a study goes on: a progress bar, a notebook, a test."""

    def say(self, text: str) -> None:
        """One line about what is happening now."""

    def start(self, plan: Plan, done: float) -> None:
        """Training begins; ``done`` of ``plan.seconds`` were stored before."""

    def advance(self, seconds: float) -> None:
        """Work that the plan estimated at so many seconds is done."""


@dataclass(frozen=True)
class Outcome:
    """What a launch left behind."""

    folder: Path
    runs_by_status: dict[str, int]


@lru_cache(maxsize=2)
def _dataset(name: str, image_size: int | None) -> data.Dataset:
    return data.load(name, image_size)


def dataset_of(recipe: Recipe) -> data.Dataset:
    """The data set that a recipe names, loaded once a process."""
    return _dataset(recipe.dataset, recipe.image_size)


@dataclass(frozen=True)
class Computing:
    """How to compute, where a user wants to check that it does not matter."""

    pack: bool = True
    """several runs in a pack, where that is faster"""
    graph: bool = True
    """CUDA graphs, where the device has them"""


def plan_study(study: Study, device: torch.device, computing: Computing = Computing()) -> Plan:
    """Load the data, check every arm against it, and choose the packs and how they are computed by measurement.

    Raises:
        DataError, StudyError: data are missing, or an arm does not fit them.
    """
    check_parts(study, dataset_of)
    speeds = Speeds(device, dataset_of)
    ways = engine.ways(device, computing.graph)
    return make_plan(
        study, lambda arm: dataset_of(arm.recipe), speeds.images_per_second, ways, most=None if computing.pack else 1
    )


def run_study(study: Study, folder: Path, device: str, watcher: Watcher, computing: Computing = Computing()) -> Outcome:
    """Train all of ``study`` that ``folder`` does not hold yet.

    A pack that fails is recorded with its error and the rest goes on; running the study again tries it anew. Results are
    stored pack by pack, so a process that is killed loses at most the time since its last checkpoint.

    Raises:
        AllelseError: before anything is trained, when study, data, device or folder do not fit.
    """
    torch_device = engine.find_device(device)
    names = sorted({(arm.recipe.dataset, arm.recipe.image_size) for arm in study.arms}, key=str)
    fingerprints = {f"{name} at {size}" if size else name: _dataset(name, size).fingerprint for name, size in names}
    inputs: dict[str, object] = {"data": fingerprints}
    if parts := check_parts(study, dataset_of):
        inputs["own parts"] = {part.source.module: part.source.digest for part in parts}
    with (
        store.write(folder, {**study.definition(), **inputs}) as opened,
        Log(opened.folder) as opened_log,
        Journalled(opened, watcher, opened_log, _words_of(device, asdict(computing))) as watcher,
    ):
        part = opened
        if opened.parts:  # a united folder has the seeds of all that it was made of
            study = study.with_seeds(opened.definition["seeds"], [(run.arm, run.seed) for run in opened.runs()])
        if study.tune is not None and opened.tuning_part is not None:
            part = opened.tuning_part
            watcher.say(f"tuning {study.tune.key} on validation images first, then the comparison")
            _run_part(tuning_study(study), part, torch_device, computing, watcher, kept=blinded)
            if "failed" not in part.status_from_run().values():
                study, part = tuned(study, _settled(opened, part, watcher)), opened
        if part is opened:
            _run_part(study, opened, torch_device, computing, watcher)
        final = part.status_from_run().values()
    return Outcome(folder, {status: list(final).count(status) for status in dict.fromkeys(final)})


def _run_part(
    study: Study,
    opened: store.Store,
    device: torch.device,
    computing: Computing,
    watcher: Watcher,
    kept: Callable[[RunResult], RunResult] = lambda result: result,
) -> None:
    """Plan and train one part of a study, its tuning or its comparison, as far as it is not stored yet."""
    machine = {"device": engine.describe_device(device), "torch": torch.__version__}
    described = {"machine": machine, "computing": asdict(computing)}
    if opened.plan is None:
        watcher.say(f"measuring how to pack {len(study.arms)} arms × {len(study.seeds)} seeds on this device")
        plan = plan_study(study, device, computing)
        opened.begin({**plan.to_json(), **described}, ((run.id, run.arm, run.seed) for run in study.runs()))
    else:
        plan = Plan.from_json(opened.plan, study)
        described = {key: opened.plan[key] for key in described}
        if described["computing"] != asdict(computing):
            raise StoreError(
                f"{opened.folder}: was planned {_options(described['computing'])}, and a plan is kept to its end; "
                f"go on {_options(described['computing'])}, or give a new folder with --out"
            )
        if (planned_on := described["machine"]) != machine:
            watcher.say(
                f"warning: begun on {_words(planned_on)}, going on with {_words(machine)}: "
                f"pairs that are split between the two differ by more than their arm"
            )
    status_from_run = opened.status_from_run()
    pending = [planned for planned in plan.packs if not _is_final(planned, status_from_run)]
    watcher.start(plan, plan.seconds - sum(planned.seconds for planned in pending))
    while pending:
        planned = pending.pop(0)
        checkpoint = opened.checkpoint(planned.pack.id)
        try:
            opened.record([kept(result) for result in _train(planned, device, checkpoint, watcher)])
        except NoMemory:
            halves = halve(planned)
            watcher.say(f"{len(planned.pack.runs)} runs do not fit in memory at once: {dict(planned.pack.runs[0].arm)}; halved")
            plan = plan.with_halves(planned, halves)
            opened.replan({**plan.to_json(), **described})
            pending[:0] = halves
        opened.forget_checkpoint(planned.pack.id)


def _options(computing: Mapping[str, bool]) -> str:
    off = _words_of("auto", computing)
    return "with " + " ".join(off) if off else "without --no-pack and --no-graph"


def _words_of(device: str, computing: Mapping[str, bool]) -> list[str]:
    """The options of the command line that ask for this."""
    return [*(["--device", device] if device != "auto" else []), *(f"--no-{name}" for name, on in computing.items() if not on)]


def _settled(opened: store.Store, tuning_part: store.Store, watcher: Watcher) -> Tuning:
    """What the tuning runs chose, stored before anything is planned with it."""
    if opened.tuning is None:
        tuning = choose(opened.definition["tune"], tuning_part.runs())
        opened.settle(tuning.to_json())
        for warning in tuning.warnings():
            watcher.say(f"warning: {warning}")
    return Tuning.from_json(opened.tuning or {})


def _words(machine: Mapping[str, str]) -> str:
    return f"{machine['device']} with torch {machine['torch']}"


def _is_final(planned: PlannedPack, status_from_run: dict[str, str]) -> bool:
    return all(status_from_run[run.id] in ("done", "diverged") for run in planned.pack.runs)


class NoMemory(Exception):
    """A pack of several runs does not fit in the device's memory."""


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _train(planned: PlannedPack, device: torch.device, checkpoint: Path, watcher: Watcher) -> list[RunResult]:
    """The results of a pack; every failure but ``NoMemory`` is one of them."""
    recipe = Recipe.model_validate(planned.pack.recipe)
    advance = _in_plan_seconds(planned, watcher)
    try:
        return engine.train_pack(planned.pack, dataset_of(recipe), device, checkpoint, advance)
    except Exception as error:
        if len(planned.pack.runs) > 1 and _is_out_of_memory(error):
            advance(engine.Progress(0.0, 0, 0, "failed"))
            raise NoMemory from None
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        log.exception("pack %s failed", planned.pack.id)
        watcher.say(f"failed: {dict(planned.pack.runs[0].arm)}: {reason}")
        advance(engine.Progress(1.0, 0, 0, "failed"))
        if isinstance(error, AllelseError):
            reason = str(error)
        return [RunResult(run=run.id, status="failed", error=reason) for run in planned.pack.runs]


def _in_plan_seconds(planned: PlannedPack, watcher: Watcher) -> Callable[[engine.Progress], None]:
    """Progress of one pack in the plan's own seconds, so that slow arms count for what they take."""
    reported = 0.0

    def advance(progress: engine.Progress) -> None:
        nonlocal reported
        if isinstance(watcher, Journalled):
            watcher.at(planned, progress)
        now = planned.seconds * progress.share
        watcher.advance(now - reported)
        reported = now

    return advance
