"""CUDA graphs: a function that does the same work at each call in, a function that records it once and replays it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

Outcome = TypeVar("Outcome")


class Recorded(Generic[Outcome]):
    """A function of no arguments whose work is recorded as one CUDA graph, where ``record`` asks for it.

    The function must read and write the same tensors at each call, and decide nothing by their values. Its first call is run
    as it is, which also makes what is made lazily (optimiser state, library handles); the second is recorded. The outcome of
    a replay lives in the graph's memory until the next one.
    """

    def __init__(self, function: Callable[[], Outcome], record: bool) -> None:
        self.function = function
        self.record = record
        self.called = False
        self.graph: torch.cuda.CUDAGraph | None = None
        self.outcome: Outcome

    @property
    def is_ready(self) -> bool:
        """Whether the next call costs no more than those after it."""
        return self.called and (self.graph is not None or not self.record)

    def __call__(self) -> Outcome:
        if not self.record or not self.called:
            self.called = True
            return self.function()
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.outcome = self.function()
            self.graph = graph
        self.graph.replay()
        return self.outcome
