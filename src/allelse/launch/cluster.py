"""A crew on a Ray cluster: each pack a Ray task with the CPUs or the GPU that it needs, its events streamed back.

Nothing but this module knows Ray. Data sets and the user's own code are sent along, so that a node needs allelse and no more.
Ray's own retries are off: the orchestrator counts them, the same for every engine.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

import allelse
from allelse import engine, own
from allelse.data import Dataset
from allelse.errors import DeviceError, MachineError, counted
from allelse.launch.crew import Event, Failed, Finished, Hear, Lost, NoMemory, Task, carry_out_elsewhere, what_failed
from allelse.launch.local import dataset_of
from allelse.launch.measured import Speeds
from allelse.recipe import Recipe
from allelse.records import Pack, Way

SECONDS_TO_WAIT = 1.0
SECONDS_TO_FETCH = 5.0
SECONDS_TO_ANSWER = 5.0
SECONDS_BETWEEN_COUNTS = 5.0

log = logging.getLogger("allelse")


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a study is anyone else's business
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a machine that is busy needs more than Ray's 30
    try:
        import ray
    except ImportError:
        raise MachineError(
            "--engine ray: Ray is not installed; pip install 'allelse[ray]', or leave --engine out to use this machine alone"
        ) from None
    return ray


class Cluster:
    """A ``Crew``: the nodes of a Ray cluster."""

    is_elsewhere = True

    def __init__(self, device: str, workers: int | None, address: str | None) -> None:
        """
        Arguments:
            device: ``auto`` (a GPU a pack where the cluster has some), ``cpu`` or ``cuda``.
            workers: packs at once; None for as many as there are CPUs, or GPUs.
            address: of the cluster; None for ``RAY_ADDRESS`` or one that runs on this machine, else one is started here.

        Raises:
            MachineError: Ray is not installed, no cluster answers, or none of its nodes can train a pack.
            DeviceError: no such device there.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise DeviceError(f"--device {device}: Ray chooses among the devices of its nodes; allowed: auto, cpu, cuda")
        self._ray = _ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect(address)
        self._tasks: dict[Any, Task] = {}
        """by the stream of their events"""
        self._late: dict[Any, Any] = {}
        """references to events that are on their way, by stream"""
        self._datasets: dict[str, Any] = {}
        self._counted = float("-inf")
        self._workers = workers
        self._could_train = True
        try:
            nodes = self._nodes()
            cpus, gpus = (sum(int(node.get(kind, 0)) for node in nodes) for kind in ("CPU", "GPU"))
            self.device = _device(device, gpus)
            if self.device.type == "cuda":
                self.threads = max(1, cpus // max(gpus, 1))
            else:
                largest = max((int(node.get("CPU", 0)) for node in nodes), default=0)
                self.threads = max(1, min(largest, cpus // workers)) if workers else 1
            if not self._capacity():
                raise MachineError(
                    "--engine ray: no node of the cluster offers a CPU; give some to 'ray start' with --num-cpus, or add nodes"
                )
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str | None) -> None:
        name, at = ("--address", address) if address not in (None, "auto") else ("RAY_ADDRESS", os.environ.get("RAY_ADDRESS"))
        if at and at.startswith("ray://"):
            raise MachineError(
                f"{name} {at}: allelse must run on a node of the cluster; start it there, for example with "
                f"'ray job submit -- allelse run …', with --address auto"
            )
        if at:
            _check_that_something_answers(name, at)
        try:
            with _quiet():
                self._ray.init(
                    address=address,
                    include_dashboard=None if address else False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
        except Exception as error:
            self._ray.shutdown()
            where = f" at {address}" if address else ""
            # Ray takes its token along by itself only to a cluster that it found by itself.
            token = "if it asks for a token, set RAY_AUTH_MODE=token; else " if "RAY_AUTH_MODE" not in os.environ else ""
            raise MachineError(
                f"--engine ray: no Ray cluster answers{where} ({' '.join(str(error).split())[:200]}); {token}begin one with "
                f"'ray start --head', or leave --address out to have one on this machine for this study alone"
            ) from None

    def use_threads(self, planned: int | None) -> None:
        if planned and any(node.get("CPU", 0) >= planned for node in self._nodes()):
            self.threads = planned

    @property
    def at_once(self) -> int:
        # One task more than fit, so that a cluster that grows when tasks wait sees that some do.
        return self._workers or self._capacity() + 1

    def machine(self) -> dict[str, str]:
        return dict(self._ask(_machine, str(self.device), self.threads))

    def in_words(self) -> str:
        nodes, packs = len(self._nodes()), self._workers or self._capacity()
        what = "a GPU" if self.device.type == "cuda" else counted(self.threads, "thread")
        return f"a Ray cluster of {counted(nodes, 'node')}: {counted(packs, 'pack')} at once, {what} each"

    def ways(self, graph: bool) -> tuple[Way, ...]:
        return engine.ways(self.device, graph)

    def images_per_second(self, pack: Pack) -> float | None:
        speed: float | None = self._ask(_speed, pack, str(self.device), self.threads, self._dataset(pack), own.send())
        return speed

    def submit(self, task: Task) -> None:
        options = {**self._needs(), "num_returns": "streaming"}
        stream = self._ray.remote(**options)(_train).remote(task, str(self.device), self._dataset(task.pack))
        self._tasks[stream] = task

    def wait(self, hear: Hear) -> None:
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=SECONDS_TO_WAIT)
        if ready:  # and whoever else has something to tell: each is heard once a turn
            ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        if not ready and self._could_train and not self._capacity():
            log.warning("no node of the cluster can train any more; waiting for one to join")
        self._could_train = self._capacity() > 0
        for stream in dict.fromkeys([*ready, *self._late]):
            task = self._tasks[stream]
            event = self._next(stream, task)
            if event is None:
                continue
            if isinstance(event, Lost):  # to us; it must not go on beside whoever tries it again
                self._ray.cancel(stream, force=True)
            if isinstance(event, (Finished, Failed, NoMemory, Lost)):
                del self._tasks[stream]
            hear(task.pack.id, event)

    def close(self) -> None:
        try:
            for stream in self._tasks:
                self._ray.cancel(stream, force=True)
        finally:
            self._tasks = {}
            if self._ours:
                self._ray.shutdown()

    def _next(self, stream: Any, task: Task) -> Event | None:
        """The next event of a pack; None when it is still on its way."""
        errors = self._ray.exceptions
        try:
            reference = self._late.pop(stream, None) or next(stream)
            try:
                event: Event = self._ray.get(reference, timeout=SECONDS_TO_FETCH)
            except errors.GetTimeoutError:
                self._late[stream] = reference
                return None
            return event
        except StopIteration:
            return Lost("its Ray task ended without a result")
        except errors.OutOfMemoryError as error:  # Ray ended the task before the system would have
            return what_failed(task, MemoryError(str(error).partition("\n")[0]))
        except errors.RayTaskError as error:
            return what_failed(task, MachineError(_remedy(error)))
        except errors.RayError as error:
            return Lost(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _ask(self, function: Any, *arguments: Any) -> Any:
        """What a function returns on some node that can train."""
        try:
            return self._ray.get(self._ray.remote(**self._needs(), retry_exceptions=False)(function).remote(*arguments))
        except self._ray.exceptions.RayError as error:
            raise MachineError(f"--engine ray: the cluster cannot compute: {_remedy(error)}") from None

    def _needs(self) -> Mapping[str, Any]:
        if self.device.type == "cuda":
            return {"num_cpus": 1, "num_gpus": 1, "max_retries": 0}
        return {"num_cpus": self.threads, "max_retries": 0}

    def _dataset(self, pack: Pack) -> Any:
        """The pack's data set in Ray's object store: put there once, fetched once a node."""
        dataset = dataset_of(Recipe.model_validate(pack.recipe))
        if dataset.fingerprint not in self._datasets:
            self._datasets[dataset.fingerprint] = self._ray.put(dataset)
        return self._datasets[dataset.fingerprint]

    def _nodes(self) -> Sequence[Mapping[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _capacity(self) -> int:
        """Packs that all nodes together can train at once; counted anew now and then, as nodes come and go."""
        if time.monotonic() - self._counted > SECONDS_BETWEEN_COUNTS:
            kind, share = ("GPU", 1) if self.device.type == "cuda" else ("CPU", self.threads)
            self._fit = sum(int(node.get(kind, 0) // share) for node in self._nodes())
            self._counted = time.monotonic()
        return self._fit


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on stderr: Ray's core writes the same warning there by the dozen, and what matters comes as an exception, too."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_that_something_answers(name: str, address: str) -> None:
    """Where nothing does, Ray tries for minutes before it says so."""
    if address in ("auto", "local") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise MachineError(f"{name} {address}: allowed: auto, or HOST:PORT of the cluster's head, as 'ray start' shows it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, UnicodeError) as error:
        raise MachineError(
            f"{name} {address}: no Ray cluster answers there ({error}); begin one with 'ray start --head', or leave {name} out "
            f"to have one on this machine for this study alone"
        ) from None


def _device(name: str, gpus: int) -> torch.device:
    if name == "cuda" and not gpus:
        raise DeviceError("--device cuda: no node of the Ray cluster has a GPU; add one, or leave --device out")
    return torch.device("cuda" if gpus and name != "cpu" else "cpu")


def _remedy(error: Exception) -> str:
    last = " ".join(str(error).strip().splitlines()[-1:])[:300]
    if "No module named 'allelse" in last:
        last += f"; install allelse {allelse.__version__} on every node"
    return last


# ── what runs on the nodes ──────────────────────────────────────────────────────────────────────────────────────────


def _machine(device: str, threads: int) -> dict[str, str]:
    torch.set_num_threads(threads)
    return {"device": engine.describe_device(torch.device(device)), "torch": torch.__version__}


def _speed(pack: Pack, device: str, threads: int, dataset: Dataset, sources: Sequence[own.Sources]) -> float | None:
    torch.set_num_threads(threads)
    own.receive(sources)
    return Speeds(torch.device(device), lambda recipe: _writable(dataset)).images_per_second(pack)


def _train(task: Task, device: str, dataset: Dataset) -> Iterator[Event]:
    """A pack's events. It trains in a thread, because a generator cannot yield from within a callback."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def work() -> None:
        try:
            last = carry_out_elsewhere(task, lambda recipe: _writable(dataset), torch.device(device), events.put)
        except BaseException as error:  # whatever ends the thread: the stream must have an end
            last = Lost(f"{type(error).__name__}: {error}")
        events.put(_placed(last))

    threading.Thread(target=work, daemon=True).start()
    while True:
        event = events.get()
        yield event
        if isinstance(event, (Finished, Failed, NoMemory, Lost)):
            return


def _placed(event: Event) -> Event:
    """A failure with the node on which it came up: another one may lack nothing."""
    if isinstance(event, Failed):
        on = f" (on node {socket.gethostname()})"
        return replace(event, said=event.said + on, reason=event.reason + on)
    return event


MOST_DATASETS = 8
"""that a process keeps, as ``local`` does"""
_writable_from_fingerprint: dict[str, Dataset] = {}


def _writable(dataset: Dataset) -> Dataset:
    """What comes out of Ray's store is shared and read-only; torch warns of such arrays. Images are copied by who uses them.

    A process gets the same object each time, by which it knows what it has on its device already.
    """
    if dataset.fingerprint not in _writable_from_fingerprint:
        if len(_writable_from_fingerprint) == MOST_DATASETS:
            del _writable_from_fingerprint[next(iter(_writable_from_fingerprint))]
        _writable_from_fingerprint[dataset.fingerprint] = replace(
            dataset, train_labels=dataset.train_labels.copy(), test_labels=dataset.test_labels.copy()
        )
    return _writable_from_fingerprint[dataset.fingerprint]
