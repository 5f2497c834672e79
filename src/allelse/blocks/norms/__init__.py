"""Normalisation of R replicas: a recipe's norm and the channels of one replica in, a module out.

Every norm gives back the type of its input and takes its statistics in float32, or in float64 where the input is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from allelse import recipe
from allelse.blocks.exactness import build_own
from allelse.blocks.norms.batch import BatchNorm, BatchRenorm, GhostBatchNorm, Statistics
from allelse.blocks.norms.sample import EvoNormS0, FilterResponseNorm, GroupNorm, RMSNorm

__all__ = ["NORMS", "BatchNorm", "Statistics", "build_norm"]

NORMS: dict[str, Callable[[int, int, Any], nn.Module]] = {
    "batch": BatchNorm,
    "ghost": GhostBatchNorm,
    "renorm": BatchRenorm,
    "group": lambda replicas, channels, norm: GroupNorm(replicas, channels, norm.groups_of(channels), norm.eps, norm.affine),
    "layer": lambda replicas, channels, norm: GroupNorm(replicas, channels, 1, norm.eps, norm.affine),
    "instance": lambda replicas, channels, norm: GroupNorm(replicas, channels, channels, norm.eps, norm.affine),
    "rms": RMSNorm,
    "frn": FilterResponseNorm,
    "evonorm-s0": EvoNormS0,
    "none": lambda replicas, channels, norm: nn.Identity(),
}


def build_norm(replicas: int, channels: int, norm: recipe.Norm, images: bool = True) -> nn.Module:
    """The module of ``norm`` for R replicas with ``channels`` channels, or features where it meets no ``images``, each.

    Raises:
        ValueError: the norm cannot normalise that many channels.
        PartError: it is one of the user's own, and refused.
    """
    if isinstance(norm, recipe.OwnNorm):
        return build_own(replicas, norm, "norm", (channels,), (channels, *[4, 5] * images))
    norm.check_width(channels)
    return NORMS[norm.name](replicas, channels, norm)
