"""The recipe: everything that the runs of a study share, as frozen pydantic models. Raw TOML values in, a ``Recipe`` out.

One class a part, one field a line, each with its unit. A part with a single field set may be written as its name alone:
``norm = "batch"`` is ``norm = { name = "batch" }``. Unknown keys, wrong types and impossible values raise pydantic's
``ValidationError``, which ``study`` turns into one line with file, line and key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag, model_validator
from pydantic_core import PydanticCustomError

from allelse.errors import did_you_mean

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """Base of every recipe part: frozen, no unknown keys, no silent change of type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                raise PydanticCustomError(
                    "unknown_key", "unknown key; {allowed}", {"key": key, "allowed": did_you_mean(key, list(cls.model_fields))}
                )
        return value


def _name_to_table(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Named = BeforeValidator(_name_to_table)
Listed = Field(strict=False)  # TOML and JSON give lists, frozen models keep tuples


# ── norms ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class BatchNorm(Part):
    """Ioffe and Szegedy 2015 (arXiv:1502.03167), as ``torch.nn.BatchNorm2d``."""

    name: Literal["batch"] = "batch"
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """weight of the newest batch in the running statistics"""
    eps: Positive = 1e-5
    affine: bool = True


class GroupNorm(Part):
    """Wu and He 2018 (arXiv:1803.08494), as ``torch.nn.GroupNorm``."""

    name: Literal["group"] = "group"
    groups: Count | None = None
    """how many groups the channels are cut into; 32 when neither this nor ``channels_per_group`` is given"""
    channels_per_group: Count | None = None
    eps: Positive = 1e-5
    affine: bool = True

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> GroupNorm:
        if self.groups is not None and self.channels_per_group is not None:
            raise ValueError("give groups or channels_per_group, not both")
        return self

    def groups_of(self, channels: int) -> int:
        """How many groups ``channels`` are cut into; ``ValueError`` when they do not divide evenly."""
        per_group = self.channels_per_group
        groups = channels // per_group if per_group else self.groups or 32
        if groups < 1 or channels % groups or (per_group and channels % per_group):
            key, value = ("channels_per_group", per_group) if per_group else ("groups", groups)
            raise ValueError(
                f"norm.{key} = {value} does not divide the width {channels}; "
                f"allowed here: {', '.join(str(d) for d in range(1, channels + 1) if channels % d == 0)}"
            )
        return groups


class LayerNorm(Part):
    """Ba et al. 2016 (arXiv:1607.06450): over all channels and positions of one image, scale and shift a channel."""

    name: Literal["layer"] = "layer"
    eps: Positive = 1e-5
    affine: bool = True


class InstanceNorm(Part):
    """Ulyanov et al. 2016 (arXiv:1607.08022): over the positions of each channel of one image."""

    name: Literal["instance"] = "instance"
    eps: Positive = 1e-5
    affine: bool = True


class NoNorm(Part):
    name: Literal["none"] = "none"


Norm = Annotated[Annotated[Union[BatchNorm, GroupNorm, LayerNorm, InstanceNorm, NoNorm], Field(discriminator="name")], Named]


# ── activations ─────────────────────────────────────────────────────────────────────────────────────────────────────


class PlainActivation(Part):
    """An activation without a number of its own."""

    name: Literal["sigmoid", "tanh", "relu", "silu", "gelu", "mish", "identity"]


class LeakyReLU(Part):
    name: Literal["leaky_relu"] = "leaky_relu"
    slope: float = 0.01
    """gradient for negative inputs"""


class PReLU(Part):
    """He et al. 2015 (arXiv:1502.01852), one learned slope a layer."""

    name: Literal["prelu"] = "prelu"
    slope: float = 0.25
    """the slope to start from"""


class ELU(Part):
    name: Literal["elu"] = "elu"
    alpha: Positive = 1.0
    """minus the value that negative inputs tend to"""


Activation = Annotated[
    Annotated[Union[PlainActivation, LeakyReLU, PReLU, ELU], Field(discriminator="name")],
    Named,
]


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_widths(value: Any) -> int | tuple[int, ...]:
    widths = value if isinstance(value, (list, tuple)) else [value]
    if not widths or not all(type(width) is int and width >= 1 for width in widths):
        raise ValueError("allowed: a whole number of at least 1, or a list with one for each block")
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

    width: Count
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
    depth: Count = 4
    """number of blocks"""
    bias: bool = True
    """whether the blocks' convolutions or linear layers have one"""
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
    def _groups_divide_widths(self) -> _Blocks:
        if isinstance(self.norm, GroupNorm) and "norm" in self.block.split("-"):
            for width in self.normalised_widths():
                self.norm.groups_of(width)
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
    def _no_instance_norm(self) -> MLP:
        if self.norm.name == "instance":
            raise ValueError(
                "an MLP has one value a feature, which instance norm would set to 0; allowed norms: batch, group, layer, none"
            )
        return self


def _family(value: Any) -> Any:
    return value.get("family", "convnet") if isinstance(value, dict) else getattr(value, "family", None)


Model = Annotated[
    Union[Annotated[ConvNet, Tag("convnet")], Annotated[MLP, Tag("mlp")]],
    Discriminator(_family),
]


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Optimizer(Part):
    lr: Positive
    """learning rate at ``lr_batch_size``"""
    weight_decay: NonNegative = 0.0
    decay_norm_and_bias: bool = True
    """whether weight decay also acts on norm parameters, slopes and biases"""
    lr_scaling: Literal["constant", "linear", "sqrt"] = "constant"
    """how lr follows the batch size: lr · (batch_size / lr_batch_size) to the power 0, 1 or ½"""
    lr_batch_size: Count = 128
    """the batch size that ``lr`` is stated for"""

    def scaled_lr(self, batch_size: int) -> float:
        """The learning rate at ``batch_size`` by the declared rule."""
        power = {"constant": 0.0, "linear": 1.0, "sqrt": 0.5}[self.lr_scaling]
        return self.lr * (batch_size / self.lr_batch_size) ** power


class SGD(_Optimizer):
    """As ``torch.optim.SGD``."""

    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        return self


class Adam(_Optimizer):
    """As ``torch.optim.Adam``: weight decay is added to the gradient."""

    name: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    betas: Annotated[tuple[Fraction, Fraction], Listed] = (0.9, 0.999)
    eps: Positive = 1e-8


class AdamW(_Optimizer):
    """As ``torch.optim.AdamW``: weight decay acts on the weights themselves."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    betas: Annotated[tuple[Fraction, Fraction], Listed] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01


Optimizer = Annotated[Annotated[Union[SGD, Adam, AdamW], Field(discriminator="name")], Named]


class _Schedule(Part):
    warmup_epochs: NonNegative = 0.0
    """linear rise from 0 over this many epochs before the schedule begins; fractions allowed"""


class Constant(_Schedule):
    name: Literal["constant"] = "constant"


class Cosine(_Schedule):
    """Loshchilov and Hutter 2017 (arXiv:1608.03983), one half period, by step."""

    name: Literal["cosine"] = "cosine"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """where it ends, as a fraction of the learning rate"""


class Step(_Schedule):
    name: Literal["step"] = "step"
    milestones: Annotated[tuple[Count, ...], Listed] = ()
    """multiply by ``factor`` once this many epochs are done, for each"""
    every: Count | None = None
    """or: multiply by ``factor`` after every so many epochs"""
    factor: Positive = 0.1

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Step:
        if bool(self.milestones) == (self.every is not None):
            raise ValueError("give milestones or every, one of the two")
        return self


class OneCycle(Part):
    """Smith and Topin 2018 (arXiv:1708.07120), as ``torch.optim.lr_scheduler.OneCycleLR`` with cosine annealing."""

    name: Literal["one-cycle"] = "one-cycle"
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """fraction of all steps until the peak, which is the learning rate"""
    start_divisor: Annotated[float, Field(ge=1)] = 25.0
    """the peak over the first learning rate"""
    final_divisor: Annotated[float, Field(ge=1)] = 1e4
    """the first learning rate over the last"""


Schedule = Annotated[Annotated[Union[Constant, Cosine, Step, OneCycle], Field(discriminator="name")], Named]


class Flip(Part):
    """Mirror left to right, each image with probability ½."""

    name: Literal["flip"] = "flip"


class Crop(Part):
    """Pad with black and cut the original size out at a random place."""

    name: Literal["crop"] = "crop"
    padding: Count = 4
    """pixels a side"""


class Cutout(Part):
    """DeVries and Taylor 2017 (arXiv:1708.04552): a square of mean colour around a random pixel."""

    name: Literal["cutout"] = "cutout"
    size: Count = 16
    """side of the square, in pixels; it may hang over the edge"""


AugmentationKind = TypeVar("AugmentationKind", Flip, Crop, Cutout)
Augmentation = Annotated[Annotated[Union[Flip, Crop, Cutout], Field(discriminator="name")], Named]


class Recipe(Part):
    """What one arm trains; every field that no factor names is the same in all arms."""

    dataset: Annotated[str, Field(min_length=1)]
    """``digits``, ``cifar10``, ``cifar100``, ``folder:PATH`` or ``npz:PATH``"""
    image_size: Count | None = None
    """``folder:`` only: side to which images are resized, in pixels; their own size when left out"""
    train_per_class: Count | None = None
    """a balanced training subset of this many images a class, drawn per seed; all when left out"""
    validation_per_class: Annotated[int, Field(ge=0)] = 0
    """images a class that are cut from the training split, the same for all seeds, to choose settings on"""
    epochs: Count = 10
    batch_size: Count = 128
    augment: Annotated[tuple[Augmentation, ...], Listed] = ()
    optimizer: Optimizer = Adam()
    schedule: Schedule = Constant()
    label_smoothing: Fraction = 0.0
    precision: Literal["auto", "bf16", "fp32", "fp64"] = "auto"
    """what convolutions and products compute in; ``auto``: bf16 where the device is fast at it, else fp32"""
    model: Model = ConvNet()

    def augmentation(self, kind: type[AugmentationKind]) -> AugmentationKind | None:
        """The recipe's augmentation of this kind, if it has one."""
        return next((part for part in self.augment if isinstance(part, kind)), None)

    @model_validator(mode="after")
    def _each_augmentation_once(self) -> Recipe:
        names = [part.name for part in self.augment]
        if len(set(names)) != len(names):
            raise ValueError("augment names one augmentation twice; allowed: each at most once")
        return self
