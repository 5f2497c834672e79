"""Evaluation of R replicas, with normalisation three ways: a network and a split in, loss and accuracy of each replica out.

BatchNorm can be evaluated with its running statistics (the usual way), with statistics recalibrated over the training
split as training shows it, or with the statistics of each test batch. Where the three differ, a low accuracy says something
about the running statistics, not about what the network has learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allelse.blocks import BatchNorm, Own
from allelse.blocks.norms import Statistics
from allelse.blocks.weights import wide
from allelse.engine.batches import ImageFeed
from allelse.engine.device import sum_dtype
from allelse.models import Network


@dataclass(frozen=True)
class Score:
    """Loss in nats and accuracy in percent, each [R]."""

    loss: Tensor
    accuracy: Tensor

    def of(self, replica: int) -> tuple[float, float]:
        """Loss and accuracy; where the loss is not finite there is no accuracy: what the largest of NaNs is says nothing."""
        loss = float(self.loss[replica])
        return loss, float(self.accuracy[replica]) if math.isfinite(loss) else math.nan


def batch_norms(network: Network) -> list[BatchNorm]:
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def set_statistics(network: Network, statistics: Statistics) -> None:
    """Say which statistics every BatchNorm of the network normalises with."""
    for norm in batch_norms(network):
        norm.statistics = statistics


@torch.no_grad()
def evaluate(
    network: Network, feed: ImageFeed, index_nR: Tensor, dtype: torch.dtype, statistics: Statistics = "running"
) -> Score:
    """Score every replica on the images at ``index_nR`` ([n, R], or [n, 1] for all), in that order, without dropout."""
    network.eval()
    set_statistics(network, statistics)
    loss = torch.zeros(network.replicas, dtype=sum_dtype(index_nR.device), device=index_nR.device)
    correct = torch.zeros_like(loss)
    for x, labels_RB in feed.evaluation_batches(index_nR, network.replicas, dtype):
        logits_RBK = network(x)
        loss += F.cross_entropy(logits_RBK.transpose(1, 2), labels_RB, reduction="none").sum(1)
        correct += (logits_RBK.argmax(2) == labels_RB).sum(1)
    set_statistics(network, "update")
    network.train()
    return Score(loss / len(index_nR), 100 * correct / len(index_nR))


@torch.no_grad()
def recalibrate(network: Network, images: Iterable[Tensor]) -> None:
    """Replace all running statistics by the plain average of batch statistics over ``images``, each [B, R·C, H, W].

    The rule is that of ``torch.optim.swa_utils.update_bn`` (Wu and Johnson 2021, arXiv:2105.07576: "precise" statistics). Give
    it large batches, augmented as in training: else the augmentation would set them apart from the running statistics, where
    only a lag should. There is no dropout: it changes the variance that a later norm meets (Li et al. 2019, arXiv:1801.05134),
    and the network is evaluated without it.
    """
    network.eval()
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:  # as update_bn does: no share, be it 0, of what is not finite
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0)
    set_statistics(network, "recalibrate")
    for number, x in enumerate(images, start=1):
        for norm in norms:
            norm.momentum = 1.0 / number  # the first batch overwrites, each later one joins the average
        network(x)
    set_statistics(network, "update")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train()


Moments = list[tuple[Tensor, Tensor]]
"""Mean and variance, each [R, C], of every BatchNorm in order."""


def moments(network: Network) -> Moments:
    """A copy of all running statistics."""
    return [(norm.running_mean.clone(), norm.running_var.clone()) for norm in batch_norms(network)]


@contextmanager
def recalibrated(network: Network, images: Iterable[Tensor]) -> Iterator[Moments]:
    """Inside this block the running statistics are ones recalibrated over ``images``, of which it is given a copy."""
    kept = moments(network)
    recalibrate(network, images)
    yield moments(network)
    for norm, (mean, var) in zip(batch_norms(network), kept, strict=True):
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


def asks_for_recalibration(network: Network) -> bool:
    """Whether the recipe wants the network evaluated with recalibrated statistics (``norm.evaluate``)."""
    return any(norm.evaluate == "recalibrated" for norm in batch_norms(network))


def evaluate_three_ways(
    network: Network,
    train: Iterable[Tensor],
    test: tuple[ImageFeed, Tensor],
    dtype: torch.dtype,
    last: Score,
) -> tuple[dict[str, Score], Moments]:
    """Scores on ``test`` under ``running``, ``recalibrated`` and ``batch`` statistics; the network is left as it was.

    A network without BatchNorm has one answer to all three. One with a part of the user's own that gathers statistics has
    none: nobody else knows how these are measured anew.

    Arguments:
        network: trained.
        train: what the statistics are recalibrated over, in batches [B, R·C, H, W].
        test: what is scored.
        dtype: what the network computes in.
        last: its score on ``test`` at the end of the last epoch, with the statistics that the recipe asks for.

    Returns:
        the scores, and the recalibrated statistics.
    """
    gathers = any(isinstance(module, Own) and module.gathered for module in network.modules())
    if not batch_norms(network):
        return {} if gathers else {"running": last, "recalibrated": last, "batch": last}, []
    if gathers:
        with recalibrated(network, train) as population:
            return {}, population
    scores = {"running": evaluate(network, *test, dtype) if asks_for_recalibration(network) else last}
    with recalibrated(network, train) as population:
        scores["recalibrated"] = evaluate(network, *test, dtype)
    scores["batch"] = evaluate(network, *test, dtype, statistics="batch")
    return scores, population


@torch.no_grad()
def scatter_of_batch_means(network: Network, images: Iterable[Tensor]) -> list[Tensor]:
    """Standard deviation, over training batches [B, R·C, H, W], of the mean that each BatchNorm sees: [R, C] of each.

    A ghost batch counts as a batch. Without two batches there is no telling: empty.
    """
    if not batch_norms(network):
        return []
    means: list[list[Tensor]] = [[] for _ in batch_norms(network)]

    def collector(norm: BatchNorm, found: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: found.extend(
            wide(part).mean([0, *range(2, part.dim())]).unflatten(0, (network.replicas, -1))
            for part in norm.training_parts(inputs[0])
        )

    norms_and_means = zip(batch_norms(network), means, strict=True)
    hooks = [norm.register_forward_pre_hook(collector(norm, found)) for norm, found in norms_and_means]
    network.eval()  # without dropout, but each norm as in training: a ghost batch apart, renormalised towards what runs
    buffers = [(buffer, buffer.clone()) for norm in batch_norms(network) for buffer in norm.buffers()]
    for x in images:
        network(x)
        for buffer, values in buffers:
            buffer.copy_(values)
    network.train()
    for hook in hooks:
        hook.remove()
    return [torch.stack(found).std(0) for found in means] if min(map(len, means)) > 1 else []
