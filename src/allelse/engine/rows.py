"""The replicas of a pack as networks of their own: a packed network in, R lone networks that share its tensors out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from allelse.models import Network


def row_networks(network: Network, build: Callable[[], Network]) -> list[Network]:
    """Network r has row r of every parameter, gradient and buffer of ``network``: what is written to one is in the other.

    Gradients get memory that stays; set them to zero with ``zero_gradients`` before each backward pass.

    Arguments:
        network: of R replicas, on its device.
        build: makes a network of one replica of the same model; its own tensors are not used.
    """
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return [_row(network, build, replica) for replica in range(network.replicas)]


def _row(network: Network, build: Callable[[], Network], replica: int) -> Network:
    with torch.device("meta"):
        row = build()
    packed_from_name = dict(network.named_modules())
    for name, module in row.named_modules():
        packed = packed_from_name[name]
        for key, parameter in packed.named_parameters(recurse=False):
            shared = nn.Parameter(parameter.detach()[replica : replica + 1])
            assert parameter.grad is not None
            shared.grad = parameter.grad[replica : replica + 1]
            module._parameters[key] = shared
        for key, buffer in packed.named_buffers(recurse=False):
            module._buffers[key] = buffer[replica : replica + 1]
    return row


def zero_gradients(network: nn.Module) -> None:
    torch._foreach_zero_([parameter.grad for parameter in network.parameters() if parameter.grad is not None])


def clip_gradients(network: nn.Module, max_norm: float) -> None:
    """Scale the gradient of each replica whose 2-norm over all weights is above ``max_norm`` down to that length.

    As ``torch.nn.utils.clip_grad_norm_`` does for a lone network. What is not finite stays so, in its own replica.
    """
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norms_NR = torch.stack([torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1) for gradient in gradients])
    scale_R = (max_norm / (torch.linalg.vector_norm(norms_NR, dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale_R.view(-1, *[1] * (gradient.dim() - 1)))
