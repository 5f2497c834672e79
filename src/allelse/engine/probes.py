"""Probes of mechanism: a network at a few steps of its training in; gradients, dead units, ranks and statistics out.

Rows are plain mappings, one a layer and step, with ``layer``, ``step``, ``epoch`` and what was measured there:

    convolutions and linear layers    gradient_norm, weight_norm, gradient_ratio (the first over the second)
    activations                       saturated (share of inputs where the slope is under ``FLAT``), dead (share of channels
                                      where it is so at every position of every image of the batch)
    blocks                            effective_rank: (Σλ)² / Σλ² of the covariance of the block's output channels, between
                                      1 and their number (participation ratio; Gao and Ganguli 2015, arXiv:1503.08779)
    BatchNorm, at the end             mean_distance and variance_distance of the running statistics from those of the whole
                                      training split, in the standard deviations that the norm divides by (eps included);
                                      batch_noise, how far the means of single training batches scatter
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from allelse.blocks import BatchNorm, Block, Stacked
from allelse.blocks.block import SHORTCUT
from allelse.blocks.weights import wide
from allelse.models import Network

FLAT = 0.05
"""A slope under this passes on next to nothing: a sigmoid is flatter beyond |x| ≈ 2.9, where its largest slope is ¼."""

ROWS_FOR_RANK = 4096
ROUNDINGS = 8
"""of the largest size: a spread within so many is that of a mean over ``ROWS_FOR_RANK`` equal numbers"""
BATCHES_FOR_NOISE = 8
STEPS_FOR_ONE_PROBE = 100

Row = dict[str, Any]


def probe_steps(epochs: float, steps_per_epoch: int) -> frozenset[int]:
    """Which steps are probed: the first, and the last of the first, the middle and the last epoch; fewer in a short training.

    A probed step costs about two; one in ``STEPS_FOR_ONE_PROBE`` keeps that within 3 % of the training.
    """
    total = round(epochs * steps_per_epoch)
    wanted = [0, total - 1, math.ceil(epochs / 2) * steps_per_epoch - 1, steps_per_epoch - 1]
    return frozenset(min(step, total - 1) for step in wanted[: max(2, total // STEPS_FOR_ONE_PROBE)])


class Probe:
    """Watches one training step of R replicas."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.rows: list[list[Row]] = [[] for _ in range(network.replicas)]

    @contextmanager
    def watching(self, step: int, epoch: float) -> Iterator[Callable[[], None]]:
        """Measure the forward pass inside this block. It is given what measures the gradients, to be called before the
        optimiser has its way with them and with the weights."""
        place = {"step": step, "epoch": epoch}
        hooks = []
        for name, module in self.network.named_modules():
            if re.fullmatch(r"act\d*", name.rpartition(".")[2]):
                hooks.append(module.register_forward_hook(self._on_activation(name, place)))
            elif isinstance(module, Block):
                hooks.append(module.register_forward_hook(self._on_block(name, place)))
        try:
            yield partial(self._look_at_gradients, place)
        finally:
            for hook in hooks:
                hook.remove()

    def _look_at_gradients(self, place: Row) -> None:
        for name, module in self.network.named_modules():
            weight = getattr(module, "weight", None)
            if (
                isinstance(module, Stacked)
                and isinstance(weight, nn.Parameter)
                and weight.dim() > 2
                and weight.grad is not None
            ):
                gradient, size = (norm_of_replica(values) for values in (weight.grad, weight.detach()))
                self._add(name, place, gradient_norm=gradient, weight_norm=size, gradient_ratio=gradient / size)

    def _on_activation(self, name: str, place: Row) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
            with torch.enable_grad():
                x = inputs[0].detach().requires_grad_()
                (slope,) = torch.autograd.grad(module.forward(x).sum(), x)
            for buffer, values in kept:  # an activation of the user's own may keep statistics of each forward pass
                buffer.copy_(values)
            flat_RNCP = self._by_replica(slope.abs() < FLAT)
            saturated = flat_RNCP.float().mean((1, 2, 3))
            self._add(name, place, saturated=saturated, dead=flat_RNCP.all(3).all(1).float().mean(1))

        return hook

    def _on_block(self, name: str, place: Row) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._add(name, place, effective_rank=participation_ratio(self._by_replica(output.detach())))

        return hook

    def _by_replica(self, x: Tensor) -> Tensor:
        """[N, R·C, ...] → [R, N, C, positions]."""
        return x.reshape(len(x), self.network.replicas, x.shape[1] // self.network.replicas, -1).transpose(0, 1)

    def _add(self, layer: str, place: Row, **values_R: Tensor) -> None:
        plain = {name: values.tolist() for name, values in values_R.items()}
        for replica, rows in enumerate(self.rows):
            rows.append({"layer": layer, **place, **{name: values[replica] for name, values in plain.items()}})

    def add_statistics(
        self,
        place: Row,
        running: Sequence[tuple[Tensor, Tensor]],
        population: Sequence[tuple[Tensor, Tensor]],
        noise: Sequence[Tensor],
    ) -> None:
        """Rows for every BatchNorm, from (mean, variance) of each, [R, C], and the scatter of batch means, [R, C], if known."""
        norms = [(name, module.eps) for name, module in self.network.named_modules() if isinstance(module, BatchNorm)]
        moments = zip(norms, running, population, strict=True)
        for number, ((name, eps), (mean, variance), (true_mean, true_variance)) in enumerate(moments):
            sd = (true_variance + eps).sqrt()  # what a norm divides by, also where a channel is constant
            distances = {
                "mean_distance": ((mean - true_mean).abs() / sd).mean(1),
                "variance_distance": ((variance + eps) / sd.square()).log().abs().mean(1),
            }
            scatter = {"batch_noise": (noise[number] / sd).mean(1)} if noise else {}
            self._add(name, place, **distances, **scatter)


def norm_of_replica(values: Tensor) -> Tensor:
    """Euclidean norm of each replica's row: [R, ...] → [R]."""
    return values.flatten(1).norm(dim=1)


def participation_ratio(x_RNCP: Tensor) -> Tensor:
    """(Σλ)² / Σλ² of the channel covariance of each replica, over at most ``ROWS_FOR_RANK`` evenly spaced positions: [R].

    0 where all positions are alike.
    """
    positions = x_RNCP.shape[3]
    x_RMC = x_RNCP.permute(0, 1, 3, 2).flatten(1, 2)
    stride = -(-x_RMC.shape[1] // ROWS_FOR_RANK)
    while math.gcd(stride, positions) > 1:  # else some columns of the images are never seen
        stride += 1
    x_RMC = wide(x_RMC[:, ::stride])
    centred_RMC = x_RMC - x_RMC.mean(1, keepdim=True)
    covariance = centred_RMC.transpose(1, 2) @ centred_RMC
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    ratio = trace.square() / covariance.square().sum((1, 2)).clamp_min(torch.finfo(x_RMC.dtype).tiny)
    rounding = (ROUNDINGS * torch.finfo(x_RMC.dtype).eps) ** 2 * x_RMC.square().sum((1, 2))
    return torch.where(trace <= rounding, 0.0, ratio)  # what is constant has no spread but that of its mean's rounding


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """The figures of one run that claims can speak of (``records.METRICS`` says what each is), from its probe rows."""
    metrics: dict[str, float] = {}
    steps = sorted({row["step"] for row in rows if "gradient_norm" in row})
    for name, step in (("start", 0), ("end", steps[-1] if steps else 0)):
        gradients = [
            row["gradient_ratio"]
            for row in rows
            if row["step"] == step and "gradient_ratio" in row and row["layer"][:6] == "blocks" and SHORTCUT not in row["layer"]
        ]
        if gradients:
            floor = 1e-30
            ratio = max(gradients[-1], floor) / max(gradients[0], floor)  # 0 where the first has overflowed
            metrics[f"gradient_decades_{name}"] = math.log10(ratio) if ratio else -math.inf
    for name in ("saturated", "dead", "mean_distance", "variance_distance", "batch_noise"):
        found = [row for row in rows if name in row]
        last = [row[name] for row in found if row["step"] == found[-1]["step"]]
        if last:
            metrics[name] = sum(last) / len(last)
    ranks = [row["effective_rank"] for row in rows if "effective_rank" in row and row["layer"][:6] == "blocks"]
    if ranks:
        metrics["effective_rank"] = ranks[-1]
    return metrics
