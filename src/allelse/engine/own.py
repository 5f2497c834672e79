"""Optimisers of the user's own: a recipe's optimiser in, ``torch.optim`` optimisers for R replicas out, checked before.

One that updates each number by itself serves all replicas at once; any other has one instance a replica, which sees weights of
the shape that a lone network has. In float64, over some steps, either must move a few random weights as lone optimisers do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from allelse import own, recipe
from allelse.engine.checkpoint import BEGINNING, load_checkpoint, save_checkpoint
from allelse.errors import PartError
from allelse.seeds import stream

OptimizerPacking = Literal["elementwise", "one by one"]

REPLICAS, STEPS = 3, 50
"""many enough to see an optimiser change its ways after a few steps, as RAdam (arXiv:1908.03265) does after its fifth"""
SHAPES = ((3, 2, 3, 3), (3,), (4, 3))
RATES = tuple(0.1 / (1 + step) for step in range(STEPS))
TOLERANCE = 1e-10


def build_own_optimizer(parameters: Sequence[nn.Parameter], part: recipe.OwnOptimizer, lr: float) -> torch.optim.Optimizer:
    """The user's optimiser over ``parameters``, in one group, told to be ``capturable`` on a GPU where it can be."""
    made_by = _class(part)
    options = {"capturable": True} if can_be_recorded(part) and parameters[0].is_cuda else {}
    with own.refused_where_it_fails(partial(_refused, part), "when it is made"):
        optimizer = made_by(parameters, lr=lr, **part.arguments, **options)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise _refused(part, f"gives a {type(optimizer).__name__}; allowed: a class of torch.optim.Optimizer")
    return optimizer


def lone_views(row: nn.Module) -> list[nn.Parameter]:
    """The weights and gradients of a network of one replica (``rows``) in the shapes that a lone network has."""
    views = []
    for parameter in row.parameters():
        view = nn.Parameter(parameter.detach()[0])
        assert parameter.grad is not None
        view.grad = parameter.grad[0]
        views.append(view)
    return views


def can_be_recorded(part: recipe.Optimizer) -> bool:
    """Whether its steps may be recorded in a CUDA graph: one of the user's own says so by an argument ``capturable``."""
    return not isinstance(part, recipe.OwnOptimizer) or "capturable" in signature(_class(part)).parameters


def acts_on_whole_tensors(part: recipe.Optimizer) -> bool:
    """Whether each replica needs an instance of its own, because not every number is updated by itself."""
    return isinstance(part, recipe.OwnOptimizer) and optimizer_packing(part) == "one by one"


@lru_cache(maxsize=64)
def optimizer_packing(part: recipe.OwnOptimizer) -> OptimizerPacking:
    """How to have R of it, once a process.

    Raises:
        PartError: it is refused.
    """
    gradients = [[_random(step, *shape) for shape in SHAPES] for step in range(STEPS)]
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        lone = [_moved(part, gradients, replica, RATES, seed=0) for replica in range(REPLICAS)]
        if not _same(lone[0], _moved(part, gradients, 0, RATES, seed=1)):
            raise _refused(part, "is random: two trainings with the same weights and gradients differ")
        if _same(lone[0], _moved(part, gradients, 0, [2 * rate for rate in RATES], seed=0)):
            raise _refused(
                part, "does not follow 'lr' of its param_groups, so that no schedule would act; read it in each step"
            )
        if not _same(lone[0], _moved(part, gradients, 0, RATES, seed=0, interrupted=True)):
            raise _refused(part, "keeps what a checkpoint does not; keep tensors and numbers in self.state[parameter] alone")
        together = [torch.stack(values) for values in zip(*lone, strict=True)]
        if _same(_moved(part, gradients, slice(None), RATES, seed=0), together):
            return "elementwise"
    return "one by one"


class _Weights(nn.Module):
    """A few weights of three networks, or of one of them."""

    def __init__(self, at: int | slice) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(_random(STEPS, *shape)[at].clone()) for shape in SHAPES)


def _random(key: int, *shape: int) -> Tensor:
    return torch.from_numpy(stream(0, "check", key, *shape).normal(size=(REPLICAS, *shape)))


def _moved(
    part: recipe.OwnOptimizer,
    gradients: Sequence[Sequence[Tensor]],
    at: int | slice,
    rates: Sequence[float],
    seed: int,
    interrupted: bool = False,
) -> list[Tensor]:
    """Where the weights are after all steps, which are interrupted by a checkpoint where asked."""
    torch.default_generator.manual_seed(seed)
    module = _Weights(at)
    optimizer = build_own_optimizer(list(module.parameters()), part, RATES[0])  # which is not to be followed
    for step, rate in enumerate(rates):
        if interrupted and step == STEPS // 2:
            module, optimizer = _restored(part, at, module, optimizer)
        places = [parameter.data_ptr() for parameter in module.parameters()]
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(module.parameters(), gradients[step], strict=True):
            parameter.grad = gradient[at].clone()
        with own.refused_where_it_fails(partial(_refused, part), "in a step"):
            optimizer.step()
        if places != [parameter.data_ptr() for parameter in module.parameters()]:
            raise _refused(part, "puts new tensors in the place of the weights; change them in place, as torch's own do")
    return [parameter.detach() for parameter in module.parameters()]


def _restored(
    part: recipe.OwnOptimizer, at: int | slice, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[_Weights, torch.optim.Optimizer]:
    new = _Weights(at)
    made = build_own_optimizer(list(new.parameters()), part, RATES[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.safetensors"
        try:
            save_checkpoint(path, "check", {"network": module}, [optimizer], BEGINNING)
            load_checkpoint(path, "check", {"network": new}, [made])
        except Exception as error:
            raise _refused(part, f"keeps what a checkpoint cannot hold ({own.in_words(error)})") from None
    return new, made


def _same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.allclose(one, other, TOLERANCE, TOLERANCE) for one, other in zip(ours, theirs, strict=True))


def _class(part: recipe.OwnOptimizer) -> type:
    try:
        found: type = own.find(part.reference)
    except PartError as error:
        raise PartError(error.reason, ("optimizer",)) from None
    return found


def _refused(part: recipe.OwnOptimizer, reason: str) -> PartError:
    return PartError(f"{part.reference!r} {reason}", ("optimizer",))
