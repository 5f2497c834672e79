"""Losses: a recipe's loss in, what it makes of outputs and labels out; one of the user's own is checked before.

One that looks at each image by itself serves all replicas at once; any other is called for one replica after the other, with
what a lone network would give it. So either is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allelse import own, recipe
from allelse.errors import PartError
from allelse.seeds import stream

LossOf = Callable[[Tensor, Tensor], Tensor]
"""takes outputs [R, B, K] and labels [R, B]; gives the loss of each image, [R, B]"""
LossPacking = Literal["image by image", "one by one"]

REPLICAS, IMAGES, CALLS = 3, 5, 50


def loss_of(part: recipe.Loss, smoothing: float, classes: int, device: torch.device, dtype: torch.dtype) -> LossOf:
    """What a recipe's loss makes of one label an image, with so much of the target spread over all classes.

    Arguments:
        part: the recipe's loss.
        smoothing: share of the target that is spread.
        classes: K.
        device: where outputs are.
        dtype: of outputs.

    Raises:
        PartError: one of the user's own is refused.
    """
    if isinstance(part, recipe.OwnPart):
        return _own_loss(part, classes, device, dtype)

    def loss(logits_RBK: Tensor, labels_RB: Tensor) -> Tensor:
        if isinstance(part, recipe.CrossEntropy):
            return F.cross_entropy(logits_RBK.transpose(1, 2), labels_RB, reduction="none", label_smoothing=smoothing)
        if isinstance(part, recipe.Focal):
            log_p_RB = logits_RBK.log_softmax(2).gather(2, labels_RB.unsqueeze(2)).squeeze(2)
            unsure_RB = (-log_p_RB.expm1()).clamp(min=torch.finfo(log_p_RB.dtype).tiny)  # at 0 a root has no gradient
            return -(unsure_RB**part.gamma) * log_p_RB
        shown_RBK = torch.zeros_like(logits_RBK).scatter_(2, labels_RB.unsqueeze(2), 1.0)
        if isinstance(part, recipe.BinaryCrossEntropy):
            wanted_RBK = shown_RBK * (1 - smoothing) + smoothing / shown_RBK.shape[2]
            return F.binary_cross_entropy_with_logits(logits_RBK, wanted_RBK, reduction="none").mean(2)
        weight_RBK = 1 + (part.weight - 1) * shown_RBK
        return (weight_RBK * (logits_RBK - part.target * shown_RBK) ** 2).mean(2)

    return loss


def _own_loss(part: recipe.OwnPart, classes: int, device: torch.device, dtype: torch.dtype) -> LossOf:
    made, packing = _made(part, device, dtype), loss_packing(part, classes)

    def loss(logits_RBK: Tensor, labels_RB: Tensor) -> Tensor:
        if packing == "image by image":
            losses: Tensor = made(logits_RBK.flatten(0, 1), labels_RB.flatten())
            return losses.unflatten(0, labels_RB.shape)
        return torch.stack([made(*replica) for replica in zip(logits_RBK, labels_RB, strict=True)])

    return loss


@lru_cache(maxsize=64)
def loss_packing(part: recipe.OwnPart, classes: int) -> LossPacking:
    """How to have R of it, once a process.

    Raises:
        PartError: it is refused.
    """
    draw, make = stream(0, "check", "loss", classes), partial(_made, part, torch.device("cpu"), torch.float64)
    outputs_RBK = torch.from_numpy(draw.normal(scale=3.0, size=(REPLICAS, IMAGES, classes)))
    labels_RB = torch.from_numpy(draw.integers(0, classes, (REPLICAS, IMAGES)))
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        first, again = (_called(part, make(), outputs_RBK[0], labels_RB[0], seed) for seed in (0, 1))
        if not _same(first, again):
            raise _refused(part, "is random: two calls with the same outputs and labels differ")
        made, pairs = make(), list(zip(outputs_RBK, labels_RB, strict=True))
        calls = [_called(part, made, *pairs[call % REPLICAS], seed=0) for call in range(CALLS)]
        if not all(_same(calls[call % REPLICAS], one) for call, one in enumerate(calls)) or not _same(first, calls[0]):
            raise _refused(part, "keeps something from one call to the next, which no checkpoint would hold")
        losses, gradients = _called(part, made, outputs_RBK.flatten(0, 1), labels_RB.flatten(), seed=0)
    together = zip(losses.split(IMAGES), gradients.split(IMAGES), strict=True)
    by_image = all(map(_same, calls[:REPLICAS], together))
    return "image by image" if by_image else "one by one"


def _made(part: recipe.OwnPart, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Any]:
    try:
        found = own.find(part.reference)
    except PartError as error:
        raise PartError(error.reason, ("loss",)) from None
    when = "when it is made; name what makes a loss, which is then called with outputs and labels"
    with own.refused_where_it_fails(partial(_refused, part), when):
        made: Callable[[Tensor, Tensor], Any] = found(**part.arguments)
    if not callable(made):
        raise _refused(part, f"gives a {type(made).__name__}; allowed: what can be called with outputs and labels")
    if isinstance(made, nn.Module) and any(True for _ in made.parameters()):
        raise _refused(part, "has parameters, which nothing would train; allowed: arguments and buffers")
    return made.to(device, dtype) if isinstance(made, nn.Module) else made


def _called(
    part: recipe.OwnPart, made: Callable[[Tensor, Tensor], Any], outputs_BK: Tensor, labels_B: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """The loss of each image [B], and the gradient of their sum [B, K]."""
    torch.default_generator.manual_seed(seed)
    x_BK, y_B = outputs_BK.clone().requires_grad_(), labels_B.clone()
    with own.refused_where_it_fails(partial(_refused, part), "for outputs [images, classes] and labels [images]"):
        losses_B = made(x_BK, y_B)
    if not isinstance(losses_B, Tensor) or losses_B.shape != labels_B.shape:
        given = list(losses_B.shape) if isinstance(losses_B, Tensor) else f"a {type(losses_B).__name__}"
        raise _refused(
            part, f'gives {given} for {len(labels_B)} images; allowed: one loss for each, in torch with reduction = "none"'
        )
    if losses_B.dtype != outputs_BK.dtype:
        raise _refused(part, f"gives {losses_B.dtype} where {outputs_BK.dtype} came in; compute in what comes in")
    if not losses_B.isfinite().all():
        raise _refused(part, "gives NaN or infinity for ordinary numbers")
    if not torch.equal(x_BK, outputs_BK) or not torch.equal(y_B, labels_B):
        raise _refused(part, "changes what comes in; allowed: to give a new tensor")
    if losses_B.requires_grad:
        (gradient_BK,) = torch.autograd.grad(losses_B.sum(), x_BK, allow_unused=True)
    if not losses_B.requires_grad or gradient_BK is None or not gradient_BK.isfinite().all() or not gradient_BK.any():
        raise _refused(part, "has no gradient that a network could follow")
    return losses_B.detach(), gradient_BK


def _same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> bool:
    return all(torch.allclose(one, other, 1e-10, 1e-12) for one, other in zip(ours, theirs, strict=True))


def _refused(part: recipe.OwnPart, reason: str) -> PartError:
    return PartError(f"{part.reference!r} {reason}", ("loss",))
