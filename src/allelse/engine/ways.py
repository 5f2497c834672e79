"""The ways to compute a pack: a device in, the ones that are worth measuring there out."""

from __future__ import annotations

import torch
from torch import nn

from allelse.blocks import Conv2d
from allelse.records import Way


def ways(device: torch.device, graphs: bool = True) -> tuple[Way, ...]:
    """The candidates on this device, the one for a lone network first; a plan chooses among them by measurement.

    On a CPU im2col was never faster than oneDNN's grouped convolution, and branches are what a pack of one is. On a GPU
    grouped convolutions may meet slow direct kernels, which the other two avoid.
    """
    if device.type != "cuda":
        return (Way(),)
    return Way("grouped", graphs), Way("branches", graphs), Way("im2col", graphs)


def compute_by(network: nn.Module, way: Way) -> None:
    """Let every convolution of ``network`` compute as ``way`` says.

    Where its replicas train in branches, the packed network is what is evaluated and probed: by patches, since grouped
    convolutions are what branches are there to avoid.
    """
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.by_patches = way.convolution != "grouped"
