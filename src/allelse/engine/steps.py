"""Training steps: a network, its optimisers and an epoch's batches in, trained weights and the epoch's score out.

The losses of the replicas are summed, never averaged, and no operation mixes replicas, so each one is trained exactly as it
would be alone (invariant 2).

On a GPU whole steps are recorded as CUDA graphs: gathering, augmentation, forward, backward, optimiser and sums. The place in
the epoch and the learning rate are tensors there, so that nothing waits for the host and one graph serves every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from allelse.engine.averaging import Averaged
from allelse.engine.batches import TrainingBatches
from allelse.engine.device import sum_dtype
from allelse.engine.draws import Draws
from allelse.engine.graphs import Recorded
from allelse.engine.losses import LossOf
from allelse.engine.rows import clip_gradients, zero_gradients
from allelse.models import Network, centred_biases

STEPS_A_REPLAY = 8


class Steps:
    """One optimiser step of every replica after another."""

    def __init__(
        self,
        network: Network,
        branches: Sequence[Network],
        optimizers: Sequence[torch.optim.Optimizer],
        batches: TrainingBatches,
        rates: np.ndarray,
        loss_of: LossOf,
        graph: bool,
        averaged: Averaged | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        """
        Arguments:
            network: of R replicas.
            branches: its replicas as networks of their own (``rows``), when each is to be computed alone; else empty.
            optimizers: one for all replicas, or one for each.
            batches: what is seen.
            rates: learning rate of every step of the training and every optimiser, [steps, optimisers].
            loss_of: what is minimised.
            graph: record CUDA graphs.
            averaged: what keeps an average of the weights.
            max_grad_norm: length to which a replica's gradient is cut.
        """
        self.network = network
        self.branches = branches
        self.optimizers = optimizers
        self.batches = batches
        self.rates = rates
        self.loss_of = loss_of
        self.graph = graph
        self.averaged = averaged
        self.max_grad_norm = max_grad_norm
        device = batches.feed.labels.device
        self.loss_R = torch.zeros(network.replicas, dtype=sum_dtype(device), device=device)
        self.correct_R = torch.zeros(network.replicas, dtype=torch.int64, device=device)
        self.centred = centred_biases(network)
        self.keeps_gradients = any(parameter.grad is not None for parameter in network.parameters())
        self.done = 0
        """steps of the current epoch"""
        self.first = 0
        """step of the training at which the current epoch began"""
        self.streams = [torch.cuda.Stream(device) for _ in branches] if device.type == "cuda" else []
        if graph:
            self.place = torch.zeros(1, dtype=torch.int64, device=device)
            self.step = torch.zeros_like(self.place)
            self.rates_on_device = torch.from_numpy(rates).to(device, torch.float32)
            self.rate = torch.zeros(len(optimizers), device=device)
        self.one: Recorded[None] = Recorded(graph)
        self.many: Recorded[None] = Recorded(graph)

    def begin(self, first: int, draws: Sequence[Draws]) -> None:
        """Begin an epoch, whose first step is number ``first`` of the training."""
        self.batches.load(draws)
        self.first, self.done = first, 0
        self.loss_R.zero_()
        self.correct_R.zero_()
        if self.graph:
            self.place.zero_()
            self.step.fill_(first)
            for rate, optimizer in zip(self.rate, self.optimizers, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate

    def alone(self, look: Callable[[], None]) -> None:
        """One step that is not recorded, of the packed network whatever the branches, so that hooks on it are called;
        ``look`` is called between its backward pass and the optimiser."""
        self._step(look)
        self.done += 1

    def advance(self, until: int) -> None:
        """The next step; or several, where a graph holds them and ``until`` steps of the epoch leave room for them."""
        if self.graph and until - self.done >= STEPS_A_REPLAY:
            self.many(self._several_steps)
            self.done += STEPS_A_REPLAY
        else:
            self.one(self._step)
            self.done += 1

    def is_ready(self, steps_per_epoch: int) -> bool:
        """Whether that is recorded which makes up most of an epoch of so many steps."""
        return (self.many if self.graph and steps_per_epoch >= STEPS_A_REPLAY else self.one).is_ready

    def score(self) -> tuple[Tensor, Tensor]:
        """Mean loss in nats and accuracy in percent of the epoch's steps so far, each [R]."""
        correct_R = self.correct_R.to(self.loss_R.dtype)  # torch divides integers in float32
        return self.loss_R / self.done, 100 * correct_R / (self.done * self.batches.batch_size)

    def _several_steps(self) -> None:
        for _ in range(STEPS_A_REPLAY):
            self._step()

    def _step(self, look: Callable[[], None] | None = None) -> None:
        place = self._begin_step()
        if self.keeps_gradients:
            zero_gradients(self.network)
        else:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
        if self.branches and look is None:
            self._side_by_side([self._branch(replica, place) for replica in range(len(self.branches))])
        else:
            self._forward_and_backward(self.network, place, slice(None))
        for parameter in self.network.parameters():
            if parameter.grad is None:  # it took no part in this step: a gradient of zero, however the pack is computed
                parameter.grad = torch.zeros_like(parameter)
        if self.centred:  # what there is in place of a gradient of 0 is rounding
            torch._foreach_zero_([bias.grad for bias in self.centred if bias.grad is not None])
        if look is not None:
            look()
        if self.max_grad_norm is not None:
            clip_gradients(self.network, self.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.averaged:
            self.averaged.end_step()

    def _begin_step(self) -> int | Tensor:
        """Set the learning rate; the place in the epoch."""
        if not self.graph:
            for rate, optimizer in zip(self.rates[self.first + self.done], self.optimizers, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = float(rate)
            return self.done
        self.rate.copy_(self.rates_on_device.index_select(0, self.step)[0])
        place = self.place.clone()
        self.place += 1
        self.step += 1
        return place

    def _branch(self, replica: int, place: int | Tensor) -> Callable[[], None]:
        rows = slice(replica, replica + 1)
        return lambda: self._forward_and_backward(self.branches[replica], place, rows)

    def _side_by_side(self, works: Sequence[Callable[[], None]]) -> None:
        """Each on a stream of its own where the device has streams, and all of them done for whoever comes next.

        Also where one fails: a recording that ends with streams that nobody waited for spoils what comes after it.
        """
        if not self.streams:
            for work in works:
                work()
            return
        current = torch.cuda.current_stream(self.loss_R.device)
        with ExitStack() as joins:
            for work, stream in zip(works, self.streams, strict=True):
                stream.wait_stream(current)
                joins.callback(current.wait_stream, stream)
                with torch.cuda.stream(stream):
                    work()

    def _forward_and_backward(self, network: Network, place: int | Tensor, rows: slice) -> None:
        x, targets = self.batches.at(place, rows)
        logits_RBK = network(x)
        loss_R = targets.loss(logits_RBK, self.loss_of)
        loss_R.sum().backward()
        self.loss_R[rows] += loss_R.detach()
        self.correct_R[rows] += targets.correct(logits_RBK.detach())
