"""Averages of weights: a network and what the recipe asks for in, a network of averaged weights beside it out.

Each weight is averaged alone, so packing changes nothing. All that lasts is in the averaged network; when an epoch begins
or ends, its number says what to do, so that a resumed training needs nothing else.
"""

from __future__ import annotations

import torch

from allelse import recipe
from allelse.engine.evaluate import batch_norms
from allelse.models import Network


class Averaged:
    """The average of a network's weights over its training. Epochs are counted from 1."""

    def __init__(self, trained: Network, network: Network, averaging: recipe.Averaging) -> None:
        """
        Arguments:
            trained: of R replicas.
            network: of the same model, for the averages.
            averaging: EMA or SWA.
        """
        self.network = network
        self.averaging = averaging
        self.needs_recalibration = isinstance(averaging, recipe.SWA) and bool(batch_norms(network))
        """before it is evaluated: nobody has measured the statistics of these weights"""
        own, theirs = network.state_dict(), trained.state_dict()  # which share their memory with the networks
        weights = {name for name, _ in network.named_parameters()}
        with_buffers = isinstance(averaging, recipe.EMA)
        averaged = [name for name in own if name in weights or (with_buffers and own[name].is_floating_point())]
        copied = [name for name in own if name not in averaged]
        self.averages = [own[name] for name in averaged], [theirs[name] for name in averaged]
        self.copies = [own[name] for name in copied], [theirs[name] for name in copied]

    def has_begun(self, epoch: int) -> bool:
        """Whether there is an average once this epoch is done."""
        return epoch >= self.averaging.start_epoch

    def begin_epoch(self, epoch: int) -> None:
        """Start from the trained weights; what the steps of earlier epochs made of them counts for nothing."""
        if epoch <= self.averaging.start_epoch:
            self._move(1.0)

    def end_step(self) -> None:
        if isinstance(self.averaging, recipe.EMA):
            self._move(1 - self.averaging.decay)

    def end_epoch(self, epoch: int) -> None:
        if isinstance(self.averaging, recipe.SWA) and self.has_begun(epoch):
            self._move(1 / (epoch - self.averaging.start_epoch + 1))

    def _move(self, share: float) -> None:
        """Move the averages by this share of their way to the trained weights."""
        torch._foreach_lerp_(*self.averages, share)
        if self.copies[0]:
            torch._foreach_copy_(*self.copies)
