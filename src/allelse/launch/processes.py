"""A crew of worker processes on this machine: tasks out through a pipe to each, events back through it.

Workers are spawned, never forked: CUDA does not survive a fork, and a fork would inherit the lock on the output folder. A
worker that dies is seen by the end of its pipe, and the next task gets a new one; a worker whose parent dies ends itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any

import torch

from allelse.errors import MachineError, counted
from allelse.launch.crew import Event, Failed, Finished, Hear, Lost, NoMemory, Task, carry_out_elsewhere, end_with
from allelse.launch.local import Local, dataset_of

SECONDS_TO_END = 5.0
SECONDS_TO_WAIT = 1.0


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    device: torch.device
    pack: str | None = None
    """what it trains"""


class Processes(Local):
    """A ``Crew``: worker processes, each with a pack, a share of the cores and, where there are several, a GPU of its own."""

    is_elsewhere = True

    def __init__(self, devices: list[torch.device]) -> None:
        """
        Arguments:
            devices: one a worker. Packs are measured on the first, in this process, with a worker's number of threads.
        """
        super().__init__(devices[0], at_once=len(devices))
        self._workers: list[_Worker | None] = [None] * len(devices)
        self._devices = devices

    def in_words(self) -> str:
        workers = counted(self.at_once, "worker process", "worker processes")
        if self.device.type == "cuda":
            return f"{workers} on {counted(len(set(self._devices)), 'GPU')}"
        return f"{workers} with {counted(self.threads, 'thread')} each"

    def submit(self, task: Task) -> None:
        place = next(place for place, worker in enumerate(self._workers) if worker is None or worker.pack is None)
        worker = self._workers[place]
        if worker is None or not worker.process.is_alive():
            worker = self._workers[place] = _start(self._devices[place])
        worker.pack = task.pack.id
        with suppress(OSError):  # if it just died, ``wait`` finds its pipe at an end
            worker.pipe.send(task)

    def wait(self, hear: Hear) -> None:
        worker_from_pipe = {worker.pipe: worker for worker in self._workers if worker and worker.pack}
        for pipe in wait_for(list(worker_from_pipe), SECONDS_TO_WAIT):
            worker = worker_from_pipe[pipe]  # type: ignore[index]
            pack = worker.pack
            assert pack is not None
            try:
                event: Event = worker.pipe.recv()
            except (EOFError, OSError):
                event = Lost(_last_words(worker))
                self._workers[self._workers.index(worker)] = None
            if isinstance(event, (Finished, Failed, NoMemory, Lost)):
                worker.pack = None
            hear(pack, event)

    def close(self) -> None:
        there = [worker for worker in self._workers if worker]
        self._workers = [None] * len(self._workers)
        for worker in there:
            worker.process.terminate()
        for worker in there:
            _ended(worker)
        super().close()


def _start(device: torch.device) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, str(device), os.getcwd()), name="allelse worker", daemon=True)
    try:
        with _without_main(), _without_interrupts():
            process.start()
    except OSError as error:
        raise MachineError(f"--workers: no more processes can be begun here: {error.strerror}; use fewer") from None
    theirs.close()  # so that its end is the end of the pipe
    return _Worker(process, ours, device)


def _last_words(worker: _Worker) -> str:
    _ended(worker)
    code = worker.process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
        hint = ", as the system does when memory is short" if -code == getattr(signal, "SIGKILL", 9) else ""
        return f"the worker process was killed by {name}{hint}"
    return f"the worker process ended with exit code {code}"


def _ended(worker: _Worker) -> None:
    worker.process.join(SECONDS_TO_END)
    if worker.process.exitcode is None:
        worker.process.kill()
        worker.process.join()
    worker.pipe.close()


@contextmanager
def _without_main() -> Iterator[None]:
    """A script of the user's is not run again in each worker, as ``multiprocessing`` would: nothing of it is needed there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of the terminal; a worker inherits this mask until it ignores it by itself."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # the first worker would begin it, and that unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, device_name: str, folder: str) -> None:
    """A worker's life: tasks in, events out, until the parent ends it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(lambda: wait_for([parent.sentinel]))
    os.chdir(folder)  # data sets may be named by relative paths
    device, sending = torch.device(device_name), threading.Lock()

    def tell(event: Any) -> None:
        with sending:
            pipe.send(event)

    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        tell(carry_out_elsewhere(task, dataset_of, device, tell))
