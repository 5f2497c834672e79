"""Convolution of R replicas as patches and one batched matrix product, with its own backward.

Grouped convolutions often meet kernels that use no matrix units; a batched product always does. It costs memory: the patches
of k × k pixels are k² times as large as the images, which small batches can afford (Chellapilla et al. 2006).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_NUMBERS = 2**28
"""in patches without gradients: half a gigabyte in bf16"""


def conv2d_by_patches(x_NRCHW: Tensor, weight_RDCkk: Tensor) -> Tensor:
    """R convolutions with stride 1 that keep the size of the image: [N, R·C, H, W] and [R, D, C, k, k] → [N, R·D, H, W].

    ``k`` is odd. The outcome is in channels-last memory. Equal to ``F.conv2d`` with ``groups=R`` and padding ``k // 2``.
    Without gradients, as in evaluation, whose batches are larger, patches are made of so many images at a time as fit.
    """
    if torch.is_grad_enabled():
        return _ConvolutionByPatches.apply(x_NRCHW, weight_RDCkk)
    at_a_time = max(1, MOST_NUMBERS // (x_NRCHW[0].numel() * weight_RDCkk[0, 0, 0].numel()))
    first, *others = (_product(some_NRCHW, weight_RDCkk) for some_NRCHW in x_NRCHW.split(at_a_time))
    return torch.cat([first, *others]) if others else first


class _ConvolutionByPatches(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x_NRCHW: Tensor, weight_RDCkk: Tensor) -> Tensor:
        context.save_for_backward(x_NRCHW, weight_RDCkk)
        return _product(x_NRCHW, weight_RDCkk)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient_NRDHW,) = gradients
        x_NRCHW, weight_RDCkk = context.saved_tensors
        of_x = of_weight = None
        if context.needs_input_grad[0]:
            # Each pixel meets the gradients around it through the kernel turned by half a turn, inputs and outputs exchanged.
            of_x = _product(gradient_NRDHW, weight_RDCkk.flip(3, 4).transpose(1, 2))
        if context.needs_input_grad[1]:
            replicas, _, channels, side, _ = weight_RDCkk.shape
            gradient_RMD = _by_replica(gradient_NRDHW, replicas).flatten(1, 3)
            of_weight_RDK = torch.bmm(gradient_RMD.transpose(1, 2), _patches(x_NRCHW, replicas, side))
            of_weight = of_weight_RDK.unflatten(2, (side, side, channels)).permute(0, 1, 4, 2, 3)
        return of_x, of_weight


def _product(x_NRCHW: Tensor, weight_RDCkk: Tensor) -> Tensor:
    replicas, _, _, side, _ = weight_RDCkk.shape
    weight_RKD = weight_RDCkk.permute(0, 3, 4, 2, 1).flatten(1, 3)
    out_RMD = torch.bmm(_patches(x_NRCHW, replicas, side), weight_RKD)
    images, (height, width) = len(x_NRCHW), x_NRCHW.shape[2:]
    out_NHWRD = out_RMD.view(replicas, images, height, width, -1).permute(1, 2, 3, 0, 4)
    return out_NHWRD.flatten(3).permute(0, 3, 1, 2)


def _patches(x_NRCHW: Tensor, replicas: int, side: int) -> Tensor:
    """What each output pixel sees: [R, M = N·H·W, K = k·k·C]."""
    if side == 1:
        return _by_replica(x_NRCHW, replicas).flatten(1, 3)
    padded_NRCHW = F.pad(x_NRCHW, (side // 2,) * 4)
    windows_NHWRCkk = padded_NRCHW.permute(0, 2, 3, 1).unfold(1, side, 1).unfold(2, side, 1)
    windows_NHWRCkk = windows_NHWRCkk.unflatten(3, (replicas, -1))
    return windows_NHWRCkk.permute(3, 0, 1, 2, 5, 6, 4).flatten(4, 6).flatten(1, 3)


def _by_replica(x_NRCHW: Tensor, replicas: int) -> Tensor:
    """[N, R·C, H, W] → [R, N, H, W, C]."""
    return x_NRCHW.unflatten(1, (replicas, -1)).permute(1, 0, 3, 4, 2)
