"""One block: an order of parts and its sizes in, a module that applies them in that order out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from allelse import recipe
from allelse.blocks.activations import build_activation
from allelse.blocks.dropout import Dropout, Unit
from allelse.blocks.norms import build_norm

SHORTCUT = "shortcut"


class Block(nn.Module):
    """The parts ``conv`` (or ``linear``), ``norm``, ``act`` and ``drop``, each under its own name whatever the order.

    The name does not depend on the order, so the same layer starts from the same weights in every order. A part named
    ``shortcut`` is applied to the block's input, and its output added to what has been computed so far.
    """

    def __init__(self, part_from_name: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, part in part_from_name.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        entered = x
        for name, part in self.named_children():
            x = x + part(entered) if name == SHORTCUT else part(x)
        return x


def build_block(
    replicas: int,
    model: recipe.ConvNet | recipe.MLP,
    number: int,
    parts: Sequence[str],
    sizes: tuple[int, int],
    weights: Sequence[nn.Module],
    shortcut: nn.Module | None = None,
) -> Block:
    """A block with its parts in order.

    Arguments:
        replicas: R.
        model: where norm, activation and dropout are declared.
        number: of the block, counted from 1.
        parts: their names in order, as ``model.parts()`` gives them.
        sizes: channels or features of one replica that enter and leave; parts before the first weight meet the first.
        weights: its convolutions or linear layers in order.
        shortcut: what the block's input goes through before it is added, at ``add`` or else at the end; ``None`` adds nothing.
    """
    size, left, images = sizes[0], list(weights), isinstance(model, recipe.ConvNet)
    part_from_name: dict[str, nn.Module] = {}
    for name in parts:
        kind = name.rstrip("0123456789")
        if kind == "norm":
            part_from_name[name] = build_norm(replicas, size, model.norm_of_block(number), images)
        elif kind == "act":
            part_from_name[name] = build_activation(replicas, size, model.activation, images)
        elif kind == "drop":
            part_from_name[name] = build_dropout(replicas, model.dropout, model.dropout_of)
        elif kind != "add":
            part_from_name[name] = left.pop(0)
            size = sizes[1]
        elif shortcut is not None:
            part_from_name[SHORTCUT] = shortcut
    if shortcut is not None:
        part_from_name.setdefault(SHORTCUT, shortcut)
    return Block(part_from_name)


def build_dropout(replicas: int, rate: float | None, unit: Unit = "numbers") -> nn.Module:
    """Dropout at ``rate``; at none of 0 there is none."""
    return Dropout(replicas, rate, unit) if rate else nn.Identity()
