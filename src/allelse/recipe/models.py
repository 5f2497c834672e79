"""The networks that a recipe can name: stem, blocks in an order, pooling, head."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Discriminator, Field, PlainValidator, Tag, field_validator, model_validator

from allelse.errors import counted, did_you_mean
from allelse.recipe.activations import Activation, PlainActivation
from allelse.recipe.base import Count, Fraction, Listed, Named, Part, PerBlock
from allelse.recipe.initialisation import DefaultInit, Init
from allelse.recipe.norms import BatchNorm, Norm
from allelse.recipe.own import PREFIX, Ours, Own, OwnModel, OwnPart, Whose

OWN_BLOCK = "own"
"""the only part of a block of the user's own"""


def _own_to_table(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) and value.startswith(PREFIX) else value


def _check_order(value: Any, weight: str) -> str:
    parts = value.split("-") if isinstance(value, str) else []
    known = (weight, "norm", "act", "drop", "add")
    for part in parts:
        if part not in known:
            raise ValueError(f"unknown part {part!r}; {did_you_mean(part, known)}, joined by '-' in any order")
    if weight not in parts or any(first == second for first, second in pairwise(parts)):
        raise ValueError(
            f"allowed: {weight!r} at least once, 'norm', 'act', 'drop' and 'add', joined by '-' in any order, "
            "none twice in a row"
        )
    if "add" in parts and (parts.count("add") > 1 or weight in parts[parts.index("add") :]):
        raise ValueError(f"allowed: 'add' once, after the last {weight!r}")
    return value


class Stem(Part):
    """A convolution before the first block, so that every block sees the same width."""

    width: Annotated[int, Field(ge=1, le=65_536)]
    """output channels"""
    kernel: Annotated[int, Field(ge=1)] = 3
    norm: bool = False
    """whether the model's norm follows, where the block order has it"""
    activation: bool = False
    """whether the model's activation follows, where the block order has one"""


class Head(Part):
    """From the last block's features to the classes."""

    name: Literal["gap", "flatten"] = "gap"
    """``gap``: global average, then linear layers; ``flatten``: all positions into linear layers"""
    pool: Count = 1
    """``flatten`` only: average windows of this many pixels first"""
    norm: bool = False
    """whether the model's norm comes first, where the block order has it: after pre-activated blocks"""
    activation: bool = False
    """whether the model's activation comes first, too, where the block order has one"""
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=65_536)], ...], Listed] = ()
    """features of linear layers before the last one, each followed by the model's activation"""
    dropout: Fraction = 0.0
    """share that is zeroed in training after each hidden layer; where there is none, of what enters the linear layer"""

    @model_validator(mode="after")
    def _pool_needs_flatten(self) -> Head:
        if self.name == "gap" and self.pool != 1:
            raise ValueError("pool belongs to the 'flatten' head; the 'gap' head averages all positions")
        return self


class _Blocks(Part):
    """What every family of block networks has."""

    block: str | OwnPart
    """the order of the block's parts, joined by '-'; ``add``: where a residual block adds its input, if not at the end. Or a
    block of the user's own, which is called with the channels or features that enter and leave, and knows no other field"""
    width: PerBlock = 64
    """channels or features of every block, or one number for each block"""
    depth: Annotated[int, Field(ge=1, le=1_000)] = 4
    """number of blocks"""
    bias: bool = True
    """whether the blocks' convolutions or linear layers have one"""
    weight_standardization: bool = False
    """whether each filter of all layers but the last linear one has mean 0 and variance 1 (Qiao et al. 2019)"""
    norm: Norm = BatchNorm()
    activation: Activation = PlainActivation(name="relu")
    dropout: Fraction | None = None
    """share of the numbers that ``drop`` zeroes in training (Srivastava et al. 2014), to the nearest 1/65536"""
    dropout_of: Literal["numbers", "channels", "images"] = "numbers"
    """what ``drop`` zeroes as a whole: a number; a channel (Tompson et al. 2015, arXiv:1411.4280); or all that it is given of
    an image, which is stochastic depth where ``residual`` adds the block's input then (Huang et al. 2016, arXiv:1603.09382)"""
    residual: bool = False
    """whether a block's input is added to what it computes, through a linear projection without bias or norm where the shapes
    differ (He et al. 2016, arXiv:1512.03385, equations 1 and 2)"""
    init: Init = DefaultInit()
    """how weights are drawn; the last linear layer keeps torch's default"""

    @model_validator(mode="after")
    def _gain_is_known(self) -> _Blocks:
        self.init.gain_with(self.activation)
        return self

    @model_validator(mode="after")
    def _one_number_a_block(self) -> _Blocks:
        for name, numbers in self._lists().items():
            if isinstance(numbers, tuple) and len(numbers) < self.depth:
                one = "group count" if name == "norm.groups" else name
                raise ValueError(
                    f"{name} lists {counted(len(numbers), 'block')}, depth asks for {self.depth}; give one {one} for each block"
                )
        return self

    def _lists(self) -> dict[str, Any]:
        """The fields that may have one number for each block."""
        return {"width": self.width, "norm.groups": getattr(self.norm, "groups", None)}

    @model_validator(mode="after")
    def _drop_has_a_rate(self) -> _Blocks:
        drops = "drop" in self._order()
        if drops and self.dropout is None:
            raise ValueError(f"block is {self.block!r}, whose 'drop' needs a rate; give one, as in dropout = 0.2")
        if self.dropout is not None and not drops:
            raise ValueError(
                f"dropout = {self.dropout:g} has no 'drop' in block = {self.block!r}; "
                f"say where it acts, as in '{self.block}-drop', or leave it out"
            )
        if self.dropout_of != "numbers" and not drops:
            raise ValueError(f"dropout_of = {self.dropout_of} has no 'drop' in block = {self.block!r}; leave it out")
        return self

    @model_validator(mode="after")
    def _norm_fits(self) -> _Blocks:
        parts = self._order()
        if "norm" in parts:
            for number, width in self.normalised_widths():
                self.norm_of_block(number).check_width(width)
            own = self.norm.own_activation()
            if own and "act" in parts and self.activation.name != "identity":
                raise ValueError(
                    f"norm {self.norm.name!r} has an activation of its own, {own}, to which {self.activation.name!r} would be "
                    "a second; allowed with it: activation = \"identity\", or a block without 'act'"
                )
        return self

    def normalised_widths(self) -> list[tuple[int, int]]:
        """Number of the block and the width that its norm meets, without the images' own channels.

        One before the weights meets what enters the block.
        """
        widths = self.widths()
        before, after = ("norm" in parts for parts in self.around_weight())
        entering = list(enumerate(widths[:-1], start=2)) if before else []
        return entering + (list(enumerate(widths, start=1)) if after else [])

    def parts(self) -> tuple[str, ...]:
        """The block's parts in order, a repeated one with its number: ``conv``, ``act``, ``conv2``, ``act2``."""
        names = self._order()
        counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
        return tuple(name if count == 1 else f"{name}{count}" for name, count in zip(names, counts, strict=True))

    def around_weight(self) -> tuple[list[str], list[str]]:
        """The parts before and after the first convolution or linear layer."""
        names = self._order()
        place = next((place for place, name in enumerate(names) if name in ("conv", "linear", OWN_BLOCK)))
        return names[:place], names[place + 1 :]

    def unread(self) -> list[str]:
        """Of ``norm`` and ``activation``, what the network is built without: no value of it changes anything."""
        read = {"norm": "norm" in self._order(), "activation": "act" in self._order() or self.init.reads_activation()}
        return [name for name, is_read in read.items() if not is_read]

    def _order(self) -> list[str]:
        return [OWN_BLOCK] if isinstance(self.block, OwnPart) else self.block.split("-")

    def widths(self) -> tuple[int, ...]:
        """The width of each block in order; a list longer than ``depth`` gives its first ``depth``."""
        return self._per_block(self.width)

    def norm_of_block(self, number: int) -> Any:
        """The norm of block ``number``, counted from 1, with the groups of that block."""
        groups = getattr(self.norm, "groups", None)
        return self.norm.model_copy(update={"groups": groups[number - 1]}) if isinstance(groups, tuple) else self.norm

    def _per_block(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value[: self.depth] if isinstance(value, tuple) else (value,) * self.depth


class ConvNet(_Blocks):
    """Blocks of convolution, norm and activation on images."""

    family: Literal["convnet"] = "convnet"
    block: Annotated[
        Union[Annotated[str, PlainValidator(lambda value: _check_order(value, "conv")), Ours], Annotated[OwnPart, Own]],
        Whose,
        BeforeValidator(_own_to_table),
    ] = "conv-norm-act"
    conv: Literal["full", "depthwise-separable"] = "full"
    """of the blocks; ``depthwise-separable``: one filter a channel, then 1 × 1 over all channels with nothing between the two
    (Chollet 2017, arXiv:1610.02357)"""
    stem: Stem | None = None
    kernel: PerBlock = 3
    """side of the blocks' convolutions in pixels, or one number for each block; padded to keep the size, so odd"""
    pool: Annotated[tuple[Count, ...], Listed] = ()
    """halve the image after these blocks (counted from 1), where the network has them"""
    pool_kind: Literal["max", "avg", "stride"] = "max"
    """how; ``stride``: by no pooling, but the first convolution of these blocks has stride 2 (Springenberg et al. 2015,
    arXiv:1412.6806), and an odd side is rounded up, not down"""
    head: Annotated[Head, Named] = Head()

    def normalised_widths(self) -> list[tuple[int, int]]:
        before, _ = self.around_weight()
        stem = [(1, self.stem.width)] if self.stem and (self.stem.norm or "norm" in before) else []
        head = [(self.depth, self.widths()[-1])] if self.head.norm else []
        return stem + super().normalised_widths() + head

    def unread(self) -> list[str]:
        around = [part for part in (self.stem, self.head) if part and isinstance(self.block, OwnPart)]
        read = {
            "norm": any(part.norm for part in around),
            "activation": any(part.activation for part in around) or bool(self.head.hidden),
        }
        return [name for name in super().unread() if not read[name]]

    def kernels(self) -> tuple[int, ...]:
        """The kernel of each block in order."""
        return self._per_block(self.kernel)

    def _lists(self) -> dict[str, Any]:
        return {**super()._lists(), "kernel": self.kernel}

    @model_validator(mode="after")
    def _strides_need_a_convolution(self) -> ConvNet:
        if isinstance(self.block, OwnPart) and self.pool and self.pool_kind == "stride":
            raise ValueError(
                "pool_kind is 'stride', of a convolution that a block of your own does not have; allowed: max, avg"
            )
        return self

    @field_validator("pool")
    @classmethod
    def _each_once(cls, pool: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(pool)) < len(pool):
            raise ValueError("allowed: each block once; halving an image twice takes two blocks")
        return pool

    @model_validator(mode="after")
    def _odd_kernels(self) -> ConvNet:
        kernels = [("kernel", kernel) for kernel in self.kernels()]
        for where, kernel in [*kernels, ("stem.kernel", self.stem.kernel if self.stem else 1)]:
            if kernel % 2 == 0:
                raise ValueError(f"{where} is {kernel}; allowed: odd numbers, so that padding keeps the image's size")
        return self


class MLP(_Blocks):
    """Blocks of linear layer, norm and activation on flattened images."""

    family: Literal["mlp"]
    block: Annotated[
        Union[Annotated[str, PlainValidator(lambda value: _check_order(value, "linear")), Ours], Annotated[OwnPart, Own]],
        Whose,
        BeforeValidator(_own_to_table),
    ] = "linear-norm-act"

    @model_validator(mode="after")
    def _channels_are_numbers(self) -> MLP:
        if self.dropout_of == "channels":
            raise ValueError("dropout_of is channels, which in an MLP are numbers; allowed: numbers, images")
        return self


OWN_FAMILY = "python:MODULE:NAME"


def _family(value: Any) -> Any:
    family = value.get("family", "convnet") if isinstance(value, dict) else getattr(value, "family", None)
    return OWN_FAMILY if isinstance(family, str) and family.startswith(PREFIX) else family


Model = Annotated[
    Union[Annotated[ConvNet, Tag("convnet")], Annotated[MLP, Tag("mlp")], Annotated[OwnModel, Tag(OWN_FAMILY)]],
    Discriminator(_family),
]
