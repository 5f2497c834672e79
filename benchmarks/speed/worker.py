"""A process a way: what one way sets for its process (threads, allocator, cuDNN's flags) must not reach another.

The parent sends ``prepare`` with a job, ``turn`` with seconds, ``drop``; each is answered by a mapping, or by ``{"error": …}``.
"""

from __future__ import annotations

import gc
import signal
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any


class WayError(Exception):
    """One line on why a way has no figure."""


class Worker:
    """The parent's end of one process."""

    def __init__(self, way: str) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, way))
        self.process.start()
        theirs.close()

    def send(self, command: str, *arguments: Any) -> None:
        with suppress(OSError):  # it died: ``receive`` says so
            self.pipe.send((command, *arguments))

    def receive(self, patience: float) -> dict[str, Any]:
        """The answer to the last command.

        Raises:
            WayError: the way failed, died, or gave no answer within ``patience`` seconds; the process is ended then, because
                what it leaves on a device may be broken.
        """
        answer: dict[str, Any] = {"error": f"over {patience:.0f} s"}
        try:
            if self.pipe.poll(patience):
                answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(1)
            answer = {"error": f"its process ended (exit code {self.process.exitcode})"}
        if "error" in answer:
            self.stop()
            raise WayError(answer["error"])
        return answer

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def serve(pipe: Connection, way: str) -> None:
    """The child's end: answer commands until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    if way == "allelse":  # imported before torch, as in a user's process
        from benchmarks.speed.ours import Ours as loop_of
    else:
        from benchmarks.speed.loops import LOOPS

        loop_of = LOOPS[way]
    import torch

    loop = None
    while True:
        try:
            command, *arguments = pipe.recv()
        except EOFError:
            return
        answer: dict[str, Any] = {}
        try:
            if command == "describe":
                from benchmarks.speed.ours import describe

                answer = describe(*arguments)
            elif command == "write":
                from benchmarks.speed.ours import write

                write(*arguments)
            elif command == "prepare":
                if arguments[0].threads:
                    torch.set_num_threads(arguments[0].threads)
                loop = loop_of(*arguments)
                answer = loop.start()
            elif command == "turn":
                assert loop is not None
                answer = loop.turn(*arguments)
            elif command == "drop":
                loop = None
        except Exception as problem:
            answer = {"error": _in_one_line(problem)}
            loop = None
        if command == "prepare" or loop is None or loop.frees_memory:  # the other ways need it
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        pipe.send(answer)


def _in_one_line(problem: Exception) -> str:
    if "out of memory" in str(problem).lower() or "can't allocate memory" in str(problem).lower():
        return "out of memory"
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:120]}"
