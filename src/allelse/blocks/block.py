"""One block: an order of parts and its sizes in, a module that applies them in that order out."""

from __future__ import annotations

from torch import Tensor, nn

from allelse import recipe
from allelse.blocks.activations import build_activation
from allelse.blocks.norms import build_norm


class Block(nn.Module):
    """The parts ``conv`` (or ``linear``), ``norm`` and ``act``, each under its own name whatever the order.

    The name does not depend on the order, so the same layer starts from the same weights in every order.
    """

    def __init__(self, part_from_name: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, part in part_from_name.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


def build_block(replicas: int, weight: nn.Module, sizes: tuple[int, int], model: recipe.ConvNet | recipe.MLP) -> Block:
    """A block in the order of ``model.block`` around ``weight``.

    Arguments:
        replicas: R.
        weight: the convolution or linear layer.
        sizes: channels or features of one replica that enter and leave ``weight``; a part before it meets the first.
        model: where order, norm and activation are declared.
    """
    order = model.block.split("-")
    at_weight = min(order.index(name) for name in ("conv", "linear") if name in order)
    part_from_name: dict[str, nn.Module] = {}
    for place, name in enumerate(order):
        if name == "norm":
            part_from_name[name] = build_norm(replicas, sizes[place > at_weight], model.norm)
        elif name == "act":
            part_from_name[name] = build_activation(replicas, sizes[place > at_weight], model.activation)
        else:
            part_from_name[name] = weight
    return Block(part_from_name)
