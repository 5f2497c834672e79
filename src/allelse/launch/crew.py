"""What every engine has in common: a ``Task`` in, ``Event``s out; a ``Crew`` is whoever carries tasks out.

The orchestrator hands out tasks and alone writes the store. A crew decides nothing: it trains packs somewhere, and tells what
came of each by exactly one last event (``Finished``, ``Failed``, ``NoMemory`` or ``Lost``).
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

import allelse
from allelse import engine, own
from allelse.data import Dataset
from allelse.errors import AllelseError, DataError, MachineError, Terminated
from allelse.launch.log import LOGGERS
from allelse.recipe import Recipe
from allelse.records import Pack, RunResult, Way

SECONDS_BETWEEN_PROGRESS = 0.2


@dataclass(frozen=True)
class Proof:
    """How a worker knows that a path is the very folder that the orchestrator means, on a disk that both share."""

    file: Path
    token: str

    def holds(self) -> bool:
        """Whether the folder is seen here, and may be written in."""
        try:
            return self.file.read_text() == self.token and os.access(self.file.parent, os.W_OK)
        except (OSError, ValueError):
            return False


@dataclass(frozen=True)
class Task:
    """A pack to train, with all that a worker must be told."""

    pack: Pack
    threads: int
    """CPU threads within one operation: sums come in another order with another number, so it is part of the plan"""
    fingerprint: str
    """of the data set that the study was begun with"""
    checkpoint: Path
    """where the pack keeps its checkpoint, on a machine where ``proof`` holds; else it goes without"""
    proof: Proof
    sources: Sequence[own.Sources] = ()
    """the user's own code that the pack may need"""
    version: str = allelse.__version__
    """of allelse where the task was made"""

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(self.pack.recipe)


@dataclass(frozen=True)
class Progressed:
    """So much of the pack's training is done."""

    progress: engine.Progress


@dataclass(frozen=True)
class Logged:
    """A line for the study's log."""

    level: int
    text: str


@dataclass(frozen=True)
class Finished:
    """The pack is trained: one result a run."""

    results: Sequence[RunResult]


@dataclass(frozen=True)
class Failed:
    """The pack's own code, its data or its device raised an error, and would again."""

    said: str
    """one line with the error's type"""
    reason: str
    """what is recorded: without the type where the text is written for users"""
    trace: str = ""


@dataclass(frozen=True)
class NoMemory:
    """A pack of several runs does not fit in memory."""


@dataclass(frozen=True)
class Lost:
    """Whoever trained the pack is gone: killed, crashed, or cut off. Another one may well finish it."""

    reason: str


Event = Progressed | Logged | Finished | Failed | NoMemory | Lost
Hear = Callable[[str, Event], None]
"""takes a pack's id and what happened to it"""


class Crew(Protocol):
    """Whoever measures and trains: this process, processes of this machine, or a cluster."""

    is_elsewhere: bool
    """whether packs are trained outside of this process"""

    @property
    def at_once(self) -> int:
        """Packs that train at one time; as many tasks may be submitted before ``wait``."""

    @property
    def threads(self) -> int:
        """Of each pack."""

    def use_threads(self, planned: int | None) -> None:
        """Keep to the number of threads that a plan was made with, where the machines have as many."""

    def machine(self) -> dict[str, str]:
        """The ``device`` that packs are trained on, and the version of ``torch`` there."""

    def in_words(self) -> str:
        """Who trains, e.g. '2 worker processes with 1 thread each'."""

    def ways(self, graph: bool) -> tuple[Way, ...]:
        """The ways to compute a pack there, the one for a lone network first."""

    def images_per_second(self, pack: Pack) -> float | None:
        """How fast a pack trains there; ``None`` where it cannot take a step."""

    def submit(self, task: Task) -> None:
        """Have a pack trained."""

    def wait(self, hear: Hear) -> None:
        """Until something happens to a submitted pack; ``hear`` is told in this thread. A while at most."""

    def close(self) -> None:
        """End everyone at once, and leave no process behind."""


def carry_out(
    task: Task, dataset: Dataset, device: torch.device, checkpoint: Path | None, tell: Callable[[Event], None]
) -> Event:
    """Train a pack in this thread; the last event of it, after ``tell`` was told the others."""
    try:
        if dataset.fingerprint != task.fingerprint:
            raise DataError(f"data set {dataset.name!r} was changed since the study was begun; take the change back")
        advance = lambda progress: tell(Progressed(progress))  # noqa: E731
        return Finished(engine.train_pack(_as_computed_on(device, task.pack), dataset, device, checkpoint, advance))
    except Terminated:
        raise
    except (Exception, SystemExit) as error:  # a part of the user's own may call sys.exit
        return what_failed(task, error)


def _as_computed_on(device: torch.device, pack: Pack) -> Pack:
    """A pack without CUDA graphs where the device has none, as where a GPU's plan goes on."""
    return pack if device.type == "cuda" else replace(pack, way=replace(pack.way, graph=False))


def what_failed(task: Task, error: BaseException) -> Failed | NoMemory:
    """The last event of a pack that raised ``error``."""
    if len(task.pack.runs) > 1 and _is_out_of_memory(error):
        return NoMemory()
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Failed(said, str(error) if isinstance(error, AllelseError) else said, traceback.format_exc())


NO_MEMORY = re.compile("can't allocate memory|CUDA error: out of memory|(CUDNN|CUBLAS|CUSOLVER)_STATUS_ALLOC_FAILED")
"""what the CPU's allocator, the CUDA runtime and its libraries say"""


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, be it behind the error that the end of a spoilt recording raises."""
    return error is not None and (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or NO_MEMORY.search(str(error)) is not None
        or _is_out_of_memory(error.__cause__ or error.__context__)
    )


def carry_out_elsewhere(
    task: Task, dataset_of: Callable[[Recipe], Dataset], device: torch.device, tell: Callable[[Event], None]
) -> Event:
    """``carry_out`` in a process of its own: with the task's threads and code, and what is logged here told too."""
    with _logs_told(tell):
        try:
            if task.version != allelse.__version__:
                raise MachineError(
                    f"allelse is {allelse.__version__} here and {task.version} where the study runs; install one"
                )
            torch.set_num_threads(task.threads)
            if device.index is not None:  # without one it is the only one that this process sees
                torch.cuda.set_device(device)
            own.receive(task.sources)
            dataset = dataset_of(task.recipe)
        except (Exception, SystemExit) as error:
            return what_failed(task, error)
        checkpoint = task.checkpoint if task.proof.holds() else None
        return carry_out(task, dataset, device, checkpoint, _now_and_then(tell))


def _now_and_then(tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """Progress a few times a second at most: an epoch of a tiny network takes milliseconds, and so does a message.

    Only how a pack begins and that it is over is told in any case.
    """
    last = time.monotonic()

    def seldom(event: Event) -> None:
        nonlocal last
        must = isinstance(event, Progressed) and (event.progress.doing == "preparing" or event.progress.share >= 1)
        if must or time.monotonic() - last > SECONDS_BETWEEN_PROGRESS:
            last = time.monotonic()
            tell(event)

    return seldom


class _Teller(logging.Handler):
    def __init__(self, tell: Callable[[Event], None]) -> None:
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(Logged(record.levelno, record.getMessage()))


@contextmanager
def _logs_told(tell: Callable[[Event], None]) -> Iterator[None]:
    teller, loggers = _Teller(tell), [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(teller)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(teller)


def end_with(parent_is_gone: Callable[[], object]) -> None:
    """End this process as soon as ``parent_is_gone`` returns, whatever it does: who cannot tell anyone trains for nobody."""

    def watch() -> None:
        parent_is_gone()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
