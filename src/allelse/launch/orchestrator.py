"""The orchestrator: a study, an output folder and a crew in; every run planned, handed out, and stored as it comes back.

It is the only writer of the store, whoever trains. What is decided in the course of a study is decided here: which packs are
pending, halved, tried again or given up, and when to stop.
"""

from __future__ import annotations

import logging
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from allelse import engine, own, store
from allelse.errors import StoreError, Terminated, counted
from allelse.launch.crew import Crew, Event, Failed, Finished, Logged, Lost, NoMemory, Progressed, Proof, Task
from allelse.launch.journal import Journalled, arm_of, is_final
from allelse.launch.local import dataset_of
from allelse.launch.log import Log
from allelse.launch.machines import HERE, Machines, crew
from allelse.launch.parts import check_parts
from allelse.launch.watcher import Watcher
from allelse.plan import Plan, PlannedPack, halve, make_plan
from allelse.recipe import Recipe
from allelse.records import RunResult
from allelse.study import Study, tuned, tuning_study
from allelse.tuning import Tuning, blinded, choose

log = logging.getLogger("allelse")


@dataclass(frozen=True)
class Outcome:
    """What a launch left behind."""

    folder: Path
    runs_by_status: dict[str, int]
    stopped: bool = False
    """whether a pack failed and the study was to stop there"""


@dataclass(frozen=True)
class Computing:
    """How to compute, where a user wants to check that it does not matter."""

    pack: bool = True
    """several runs in a pack, where that is faster"""
    graph: bool = True
    """CUDA graphs, where the device has them"""

    def options(self) -> list[str]:
        """Of the command line, that ask for this."""
        return [f"--no-{name}" for name, on in asdict(self).items() if not on]


def plan_study(study: Study, crew: Crew, computing: Computing = Computing()) -> Plan:
    """Load the data, check every arm against it, and choose the packs and how they are computed by measurement.

    Raises:
        DataError, StudyError: data are missing, or an arm does not fit them.
    """
    check_parts(study, dataset_of)
    # No pack so large that a part of the crew would have nothing to do.
    runs = sum(len(arm.seeds) for arm in study.arms)
    most = ceil(runs / crew.at_once) if computing.pack else 1
    ways = crew.ways(computing.graph)
    return make_plan(study, lambda arm: dataset_of(arm.recipe), crew.images_per_second, ways, most)


def run_study(
    study: Study,
    folder: Path,
    device: str,
    watcher: Watcher,
    computing: Computing = Computing(),
    machines: Machines = HERE,
) -> Outcome:
    """Train all of ``study`` that ``folder`` does not hold yet.

    A pack that fails is recorded with its error and the rest goes on; running the study again tries it anew. Results are
    stored pack by pack, so a process that is killed loses at most the time since its last checkpoint.

    Raises:
        AllelseError: before anything is trained, when study, data, device, machines or folder do not fit.
    """
    with crew(machines, device) as hired, _stoppable() as check_stop:
        data: dict[str, str] = {}
        for (name, size), arm in {(arm.recipe.dataset, arm.recipe.image_size): arm for arm in study.arms}.items():
            with arm.placed():
                data[f"{name} at {size}" if size else name] = dataset_of(arm.recipe).fingerprint
        inputs: dict[str, object] = {"data": dict(sorted(data.items()))}
        if parts := check_parts(study, dataset_of):
            inputs["own parts"] = {part.source.module: part.source.digest for part in parts}
        # The crew ends before the folder is free for another writer.
        with (
            store.write(folder, {**study.definition(), **inputs}) as opened,
            closing(hired),
            Log(opened.folder) as opened_log,
            Journalled(opened, watcher, [*machines.options(device), *computing.options()]) as watcher,
        ):
            go_on = partial(
                Part, crew=hired, computing=computing, machines=machines, watcher=watcher, log=opened_log, check_stop=check_stop
            )
            part = opened
            if opened.parts:  # a united folder has the seeds of all that it was made of
                study = study.with_seeds(opened.definition["seeds"], [(run.arm, run.seed) for run in opened.runs()])
            if study.tune is not None and opened.tuning_part is not None:
                part = opened.tuning_part
                watcher.say(f"tuning {study.tune.key} on validation images first, then the comparison")
                go_on(tuning_study(study), part, kept=blinded).run()
                if set(part.status_from_run().values()) <= set(store.FINAL):
                    study, part = tuned(study, _settled(opened, part, watcher)), opened
            if part is opened:
                go_on(study, opened).run()
            final = list(part.status_from_run().values())
    # What is pending can only be so because a failure stopped the study.
    return Outcome(folder, {status: final.count(status) for status in dict.fromkeys(final)}, "pending" in final)


@dataclass
class Part:
    """One part of a study, its tuning or its comparison, on its way into the store."""

    study: Study
    opened: store.Store
    crew: Crew
    computing: Computing
    machines: Machines
    watcher: Journalled
    log: Log
    check_stop: Callable[[], None]
    """raises what a signal asked for, should that have been lost on its way"""
    kept: Callable[[RunResult], RunResult] = lambda result: result
    """what is stored of a result"""

    plan: Plan = field(init=False)
    described: dict[str, Any] = field(init=False)
    """what is stored with the plan: the machine it was measured on, and how it is computed"""
    pending: list[PlannedPack] = field(init=False)
    running: dict[str, PlannedPack] = field(init=False, default_factory=dict)
    """by pack"""
    losses: dict[str, int] = field(init=False, default_factory=dict)
    """how often a pack's worker died"""
    told: dict[str, float] = field(init=False, default_factory=dict)
    """seconds of each pack that the watcher was told of: what is done twice is told once"""
    is_over: bool = field(init=False, default=False)
    """whether a pack failed and the study is to stop there"""

    def run(self) -> None:
        """Plan it, or take the stored plan, and train all that is not stored."""
        self._prepare()
        status_from_run = self.opened.status_from_run()
        self.pending = [planned for planned in self.plan.packs if not is_final(planned, status_from_run)]
        done = sum(planned.seconds for planned in self.plan.packs if is_final(planned, status_from_run))
        if self.pending and self.crew.is_elsewhere:
            share = "; they share the estimated time" if self.crew.at_once > 1 else ""
            self.watcher.say(self.crew.in_words() + share)
            self.pending.sort(key=lambda planned: -planned.seconds)  # the longest first, so that all end at about one time
        self.watcher.start(self.plan, done)
        with _proof(self.opened.checkpoint("token").with_suffix(""), self.crew.is_elsewhere) as proof:
            sources = own.send() if self.crew.is_elsewhere else []
            while (self.pending or self.running) and not self.is_over:
                while self.pending and len(self.running) < self.crew.at_once:
                    self._submit(self.pending.pop(0), proof, sources)
                self.crew.wait(self._hear)
                self.check_stop()

    def _prepare(self) -> None:
        computing = asdict(self.computing)
        if (stored := self.opened.plan) is None:
            number = sum(len(arm.seeds) for arm in self.study.arms)
            self.watcher.say(f"measuring how to pack {counted(number, 'run')} on this device")
            self.plan = plan_study(self.study, self.crew, self.computing)
            self.described = {"machine": self.crew.machine(), "computing": computing, "threads": self.crew.threads}
            runs = ((run.id, run.arm, run.seed) for run in self.study.runs())
            self.opened.begin({**self.plan.to_json(), **self.described}, runs)
            return
        self.plan = Plan.from_json(stored, self.study)
        self.described = {key: value for key, value in stored.items() if key in ("machine", "computing", "threads")}
        if (planned := self.described["computing"]) != computing:
            raise StoreError(
                f"{self.opened.folder}: was planned {_words_of(planned)}, and a plan is kept to its end; "
                f"go on {_words_of(planned)}, or give a new folder with --out"
            )
        self.crew.use_threads(self.described.get("threads"))
        if (before := self.described["machine"]) != (machine := self.crew.machine()):
            self.watcher.say(
                f"warning: begun on {_words(before)}, going on with {_words(machine)}: "
                f"pairs that are split between the two differ by more than their arm"
            )

    def _submit(self, planned: PlannedPack, proof: Proof, sources: Sequence[own.Sources]) -> None:
        pack = planned.pack
        self.running[pack.id] = planned
        fingerprint = dataset_of(Recipe.model_validate(pack.recipe)).fingerprint
        checkpoint = self.opened.checkpoint(pack.id).absolute()
        if not self.crew.is_elsewhere:  # whatever is logged from now on is about this one
            self.log.pack = pack.id
        self.crew.submit(Task(pack, self.crew.threads, fingerprint, checkpoint, proof, sources))

    def _hear(self, pack: str, event: Event) -> None:
        planned = self.running[pack]
        if not isinstance(event, Finished):  # whose results are stored first; a failure may be a signal that was caught
            self.check_stop()
        if isinstance(event, Progressed):
            self._tell(planned, event.progress)
        elif isinstance(event, Logged):
            self.log.pack = pack
            log.log(event.level, "%s", event.text)
            self.log.pack = ""
        else:
            del self.running[pack]
            self.log.pack = ""
            self._ended(planned, event)

    def _ended(self, planned: PlannedPack, event: Finished | Failed | NoMemory | Lost) -> None:
        match event:
            case Finished(results):
                self.opened.record([self.kept(result) for result in results])
            case NoMemory():
                self._halve(planned)
            case Failed(said, reason, trace):
                log.error("pack %s failed: %s\n%s", planned.pack.id, said, trace)
                self._give_up(planned, said, reason)
            case Lost(reason):
                self._try_again(planned, reason)
        if not isinstance(event, Lost):  # whoever tries that again, now or in another run, goes on from it
            self.opened.forget_checkpoint(planned.pack.id)

    def _halve(self, planned: PlannedPack) -> None:
        runs, halves = planned.pack.runs, halve(planned)
        self.watcher.say(f"{len(runs)} runs do not fit in memory at once: {arm_of(planned)}; halved")
        self.plan = self.plan.with_halves(planned, halves)
        self.opened.replan({**self.plan.to_json(), **self.described})
        self.watcher.at(planned, engine.Progress(0.0, 0, 0, "failed"))
        told = self.told.pop(planned.pack.id, 0.0)
        self.told |= {half.pack.id: told * len(half.pack.runs) / len(runs) for half in halves}
        self.pending[:0] = halves

    def _try_again(self, planned: PlannedPack, reason: str) -> None:
        pack = planned.pack
        losses = self.losses[pack.id] = self.losses.get(pack.id, 0) + 1
        log.warning("pack %s was lost: %s", pack.id, reason)
        if losses <= self.machines.retries:
            self.watcher.say(f"{arm_of(planned)}: {reason}; tried again ({losses} of {self.machines.retries})")
            self.watcher.at(planned, engine.Progress(0.0, 0, 0, "lost"))
            self.pending.insert(0, planned)
        else:
            several = "; --no-pack in a new folder trains the runs one by one" if len(pack.runs) > 1 else ""
            given_up = f"given up after {losses} times: {reason}{several}"
            self._give_up(planned, given_up, given_up)

    def _give_up(self, planned: PlannedPack, said: str, reason: str) -> None:
        self.opened.record([RunResult(run=run.id, status="failed", error=reason) for run in planned.pack.runs])
        self.watcher.say(f"failed: {arm_of(planned)}: {said}")
        self._tell(planned, engine.Progress(1.0, 0, 0, "failed"))
        self.is_over = self.watcher.is_stopped = self.machines.on_error == "stop"

    def _tell(self, planned: PlannedPack, progress: engine.Progress) -> None:
        """Progress of one pack in the plan's own seconds, so that slow arms count for what they take."""
        self.watcher.at(planned, progress)
        before = self.told.get(planned.pack.id, 0.0)
        self.told[planned.pack.id] = now = max(before, planned.seconds * progress.share)
        self.watcher.advance(now - before)


def _words_of(computing: Mapping[str, bool]) -> str:
    options = Computing(**computing).options()
    return "with " + " ".join(options) if options else "without --no-pack and --no-graph"


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


@contextmanager
def _proof(file: Path, is_needed: bool) -> Iterator[Proof]:
    """A secret in the output folder: a worker that can read it sees the same folder, and not another one of the same path."""
    proof = Proof(file.absolute(), secrets.token_hex())
    if is_needed:
        with suppress(OSError):  # a folder that takes no token takes no checkpoints either
            file.parent.mkdir(exist_ok=True)
            file.write_text(proof.token)
    try:
        yield proof
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)


@contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """SIGTERM ends this block as Ctrl-C does: workers are ended, the lock is given back, the exit code is 143.

    Python throws away what is raised while a finaliser or the callback of a weak reference runs, SQLite makes an error of its
    own of it, and filelock a group: whichever of the two signals came is remembered, and what is yielded raises it again. Where
    somebody else listens to Ctrl-C, or ignores it, it is left to them.
    """
    asked: list[type[BaseException]] = []

    def end(number: int, _: object) -> None:
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the end
        asked.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        raise asked[-1]

    def check() -> None:
        if asked:
            raise asked[0]

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background of a script it is ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, end)
    try:
        yield check
    except BaseException as error:
        if asked and not isinstance(error, (KeyboardInterrupt, Terminated)):
            raise asked[0] from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
