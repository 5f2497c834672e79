"""CUDA graphs: a function that does the same work each time in, its work done out: recorded once, then replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

Outcome = TypeVar("Outcome")


class Recorded(Generic[Outcome]):
    """Calls one function again and again, as a CUDA graph where ``record`` asks for it.

    The function must read and write the same tensors each time, and decide nothing by their values. Its first call is run as
    it is, which also makes what is made lazily (optimiser state, library handles); the second is recorded. The outcome of a
    replay lives in the graph's memory until the next one.
    """

    def __init__(self, record: bool) -> None:
        self.record = record
        self.called = False
        self.graph: torch.cuda.CUDAGraph | None = None
        self.outcome: Outcome

    @property
    def is_ready(self) -> bool:
        """Whether the next call costs no more than those after it."""
        return self.called and (self.graph is not None or not self.record)

    def __call__(self, function: Callable[[], Outcome]) -> Outcome:
        """``function`` is always the same; it is not kept, so that nothing that it holds outlives its owner."""
        if not self.record or not self.called:
            self.called = True
            return function()
        if self.graph is None:
            graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph):
                    self.outcome = function()
            finally:
                torch.cuda.set_stream(current)  # a recording that fails at its end stays on its own (torch 2.11)
            self.graph = graph
        self.graph.replay()
        return self.outcome
