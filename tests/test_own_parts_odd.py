"""Parts of the user's own that bend what a module is: lazy sizes, a ``train`` of their own, a pack that is another alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from allelse.blocks.exactness import packing_of
from allelse.blocks.own import Maker
from allelse.errors import PartError
from allelse.recipe import OwnPart

HERE = f"python:{__name__}:"


class Lazy(nn.Module):
    """An activation with a weight that has no shape until it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LazyLinear(4)

    def forward(self, x):
        return self.inner(x)


class OneChannel(nn.Module):
    """A block that gives one channel, whatever it is asked for."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 1, 1)

    def forward(self, x):
        return self.conv(x)


class Recomputed(nn.Module):
    """An activation that is computed once more in the backward pass, when its own weights are back in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return checkpoint(lambda z: torch.tanh(self.slope * z).float().to(self.slope.dtype), x, use_reentrant=False)


class FrozenStatistics(nn.Module):
    """A norm whose statistics never learn, as those of a network that was trained before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.BatchNorm2d(channels)

    def train(self, mode: bool = True):
        super().train(mode)
        self.inner.eval()
        return self

    def forward(self, x):
        return self.inner(x)


class FrozenWithoutReturn(FrozenStatistics):
    def train(self, mode: bool = True):
        super().train(mode)


class ByAnotherName(nn.Module):
    """A norm that no other weights can be put in for, as it holds its own apart; its ``packed`` is exact."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels))
        self.held = [self.scale]

    def forward(self, x):
        return x * self.held[0].view(-1, 1, 1)

    @classmethod
    def packed(cls, replicas: int, channels: int):
        return PackedScale(replicas, channels)


class PackedScale(nn.Module):
    def __init__(self, replicas: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(replicas, channels))

    def forward(self, x):
        return x * self.scale.view(-1, 1, 1)


class RmsOfSeveral(nn.Module):
    """A norm over channels; for one replica its ``packed`` takes away the wrong dimension, as a stray squeeze does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x / x.pow(2).mean(1, keepdim=True).add(1e-5).sqrt() * self.scale.view(-1, 1, 1)

    @classmethod
    def packed(cls, replicas: int, channels: int):
        made = cls(channels)
        made.scale = nn.Parameter(torch.ones(replicas, channels))
        made.forward = lambda x: cls.of_several(made, x, replicas)
        return made

    def of_several(self, x, replicas):
        y = x.unflatten(1, (replicas, -1)).squeeze(1)
        return (y / y.pow(2).mean(2, keepdim=True).add(1e-5).sqrt()).reshape(x.shape) * self.scale.view(-1, 1, 1)


def maker_of(name: str, *sizes: int, kind: str = "norm") -> Maker:
    return Maker(OwnPart.model_validate({"name": HERE + name}), kind, sizes)


@pytest.mark.parametrize(
    ("name", "kind", "sizes", "reason"),
    [
        ("Lazy", "activation", (), "has inner.weight of no shape yet; give the sizes, as in torch.nn.Linear for "),
        ("Recomputed", "activation", (), "cannot compute with weights that are put in for its own, as torch.func.functional_"),
        (
            "RmsOfSeveral",
            "norm",
            (4,),
            "declares 'packed', which for one network differs from a lone one in the output of ",
        ),
        ("OneChannel", "block", (4, 4), "gives [4, 1, 4, 5] for images [4, 4, 4, 5]; allowed: 4 channels"),
    ],
)
def test_what_does_not_fit_is_refused_for_what_is_wrong_with_it(name, kind, sizes, reason):
    with pytest.raises(PartError) as caught:
        packing_of(maker_of(name, *sizes, kind=kind), (4, 4, 5))
    assert str(caught.value).startswith(f"recipe.model.{kind}: '{HERE}{name}' {reason}")


@pytest.mark.parametrize(
    ("name", "packing"),
    [("FrozenStatistics", "one by one"), ("FrozenWithoutReturn", "one by one"), ("ByAnotherName", "declared")],
)
def test_what_bends_a_module_and_is_exact_is_taken(name, packing):
    assert packing_of(maker_of(name, 4), (4, 4, 5)) == packing
