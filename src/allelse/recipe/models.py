"""The networks that a recipe can name: stem, blocks in an order, pooling, head."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, PlainValidator, Tag, model_validator

from allelse.errors import did_you_mean
from allelse.recipe.activations import Activation, PlainActivation
from allelse.recipe.base import Count, Listed, Named, Part
from allelse.recipe.norms import BatchNorm, Norm


def _check_widths(value: Any) -> int | tuple[int, ...]:
    widths = value if isinstance(value, (list, tuple)) else [value]
    if not widths or not all(type(width) is int and 1 <= width <= 65_536 for width in widths):
        raise ValueError("allowed: a whole number from 1 to 65536, or a list with one for each block")
    return tuple(widths) if isinstance(value, (list, tuple)) else value


Widths = Annotated[Any, PlainValidator(_check_widths, json_schema_input_type=int | list[int])]


def _check_order(value: Any, weight: str) -> str:
    parts = value.split("-") if isinstance(value, str) else []
    known = (weight, "norm", "act")
    for part in parts:
        if part not in known:
            raise ValueError(f"unknown part {part!r}; {did_you_mean(part, known)}, joined by '-' in any order")
    if weight not in parts or len(set(parts)) != len(parts):
        raise ValueError(f"allowed: {weight!r} once, with 'norm' and 'act' at most once each, joined by '-' in any order")
    return value


class Stem(Part):
    """A convolution before the first block, so that every block sees the same width."""

    width: Annotated[int, Field(ge=1, le=65_536)]
    """output channels"""
    kernel: Annotated[int, Field(ge=1, multiple_of=1)] = 3
    norm: bool = False
    """whether the model's norm follows, where the block order has it"""
    activation: bool = False
    """whether the model's activation follows"""


class Head(Part):
    """From the last block's features to the classes."""

    name: Literal["gap", "flatten"] = "gap"
    """``gap``: global average, then a linear layer; ``flatten``: all positions into a linear layer"""
    pool: Count = 1
    """``flatten`` only: average windows of this many pixels first"""

    @model_validator(mode="after")
    def _pool_needs_flatten(self) -> Head:
        if self.name == "gap" and self.pool != 1:
            raise ValueError("pool belongs to the 'flatten' head; the 'gap' head averages all positions")
        return self


class _Blocks(Part):
    """What every family of block networks has."""

    block: str
    """the order of the block's parts, joined by '-', each at most once"""
    width: Widths = 64
    """channels or features of every block, or one number for each block"""
    depth: Annotated[int, Field(ge=1, le=1_000)] = 4
    """number of blocks"""
    bias: bool = True
    """whether the blocks' convolutions or linear layers have one"""
    weight_standardization: bool = False
    """whether each filter of the convolutions or linear layers before the head has mean 0 and variance 1 (Qiao et al. 2019)"""
    norm: Norm = BatchNorm()
    activation: Activation = PlainActivation(name="relu")

    @model_validator(mode="after")
    def _one_width_a_block(self) -> _Blocks:
        if isinstance(self.width, tuple) and len(self.width) < self.depth:
            raise ValueError(
                f"width lists {len(self.width)} blocks, depth asks for {self.depth}; give one width for each block"
            )
        return self

    @model_validator(mode="after")
    def _norm_fits(self) -> _Blocks:
        parts = self.block.split("-")
        if "norm" in parts:
            for width in self.normalised_widths():
                self.norm.check_width(width)
            own = self.norm.own_activation()
            if own and "act" in parts and self.activation.name != "identity":
                raise ValueError(
                    f"norm {self.norm.name!r} has an activation of its own, {own}, to which {self.activation.name!r} would be "
                    "a second; allowed with it: activation = \"identity\", or a block without 'act'"
                )
        return self

    def normalised_widths(self) -> tuple[int, ...]:
        """The widths that the norm meets, without the images' own channels; one before the weights meets what enters them."""
        return self.widths()[:-1] if self.norm_comes_first() else self.widths()

    def norm_comes_first(self) -> bool:
        """Whether a block's norm stands before its convolution or linear layer."""
        return self.block.startswith(("norm", "act-norm"))

    def widths(self) -> tuple[int, ...]:
        """The width of each block in order; a list longer than ``depth`` gives its first ``depth``."""
        return self.width[: self.depth] if isinstance(self.width, tuple) else (self.width,) * self.depth


class ConvNet(_Blocks):
    """Blocks of convolution, norm and activation on images."""

    family: Literal["convnet"] = "convnet"
    block: Annotated[str, PlainValidator(lambda value: _check_order(value, "conv"))] = "conv-norm-act"
    stem: Stem | None = None
    kernel: Count = 3
    """side of every block's convolution, in pixels; padded to keep the size, so odd"""
    pool: Annotated[tuple[Count, ...], Listed] = ()
    """halve the image after these blocks (counted from 1), where the network has them"""
    pool_kind: Literal["max", "avg"] = "max"
    head: Annotated[Head, Named] = Head()

    def normalised_widths(self) -> tuple[int, ...]:
        meets_stem = self.stem and (self.stem.norm or self.norm_comes_first())
        return super().normalised_widths() + ((self.stem.width,) if self.stem and meets_stem else ())

    @model_validator(mode="after")
    def _odd_kernels(self) -> ConvNet:
        for where, kernel in (("kernel", self.kernel), ("stem.kernel", self.stem.kernel if self.stem else 1)):
            if kernel % 2 == 0:
                raise ValueError(f"{where} is {kernel}; allowed: odd numbers, so that padding keeps the image's size")
        return self


class MLP(_Blocks):
    """Blocks of linear layer, norm and activation on flattened images."""

    family: Literal["mlp"]
    block: Annotated[str, PlainValidator(lambda value: _check_order(value, "linear"))] = "linear-norm-act"

    @model_validator(mode="after")
    def _norm_has_values(self) -> MLP:
        for width in self.normalised_widths() if "norm" in self.block.split("-") else ():
            if self.norm.needs_positions(width):
                raise ValueError(
                    f"norm {self.norm.name!r} as it is here takes each statistic over a single value, because an MLP has one "
                    "value a feature; allowed: batch, renorm, layer, rms, none; ghost of at least 2 images; group and "
                    "evonorm-s0 with at least 2 features a group"
                )
        return self


def _family(value: Any) -> Any:
    return value.get("family", "convnet") if isinstance(value, dict) else getattr(value, "family", None)


Model = Annotated[
    Union[Annotated[ConvNet, Tag("convnet")], Annotated[MLP, Tag("mlp")]],
    Discriminator(_family),
]
