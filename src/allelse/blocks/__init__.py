"""The parts of a block, for R networks at once: a recipe's part in, a torch module with a replica dimension out.

Legend, here and in ``models`` and ``engine``:  N = images in a batch, R = replicas, C = channels of one replica,
H, W = height and width, F = features of one replica, K = classes.  ``x_NRCHW`` has shape [N, R·C, H, W].

Every parameter has shape [R, *the shape it has in a lone network]: replica r of a pack is row r of each parameter.
"""

from allelse.blocks.activations import ACTIVATIONS, build_activation
from allelse.blocks.block import Block, build_block, build_dropout
from allelse.blocks.dropout import Dropout
from allelse.blocks.exactness import build_own
from allelse.blocks.initialisation import change_fills
from allelse.blocks.norms import NORMS, BatchNorm, build_norm
from allelse.blocks.own import Own, Packing, Rows
from allelse.blocks.weights import Conv2d, Linear, SeparableConv2d, Stacked, standardize_weights

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "BatchNorm",
    "Block",
    "Conv2d",
    "Dropout",
    "Linear",
    "Own",
    "Packing",
    "Rows",
    "SeparableConv2d",
    "Stacked",
    "build_activation",
    "build_block",
    "build_dropout",
    "build_norm",
    "build_own",
    "change_fills",
    "standardize_weights",
]
