"""The recipe as a whole: what one arm trains."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from allelse.recipe.augmentations import Augmentation, AugmentationKind, CutMix, Mixup
from allelse.recipe.averaging import Averaging
from allelse.recipe.base import Count, Fraction, Listed, Part, Positive
from allelse.recipe.losses import BinaryCrossEntropy, CrossEntropy, Loss
from allelse.recipe.models import ConvNet, Model
from allelse.recipe.norms import GhostBatchNorm
from allelse.recipe.optimizers import SGD, Adam, Optimizer, Rprop
from allelse.recipe.own import OwnCode
from allelse.recipe.schedules import Constant, Schedule


class Recipe(Part):
    """What one arm trains; every field that no factor names is the same in all arms."""

    dataset: Annotated[str, Field(min_length=1)]
    """``digits``, ``cifar10``, ``cifar100``, ``folder:PATH`` or ``npz:PATH``"""
    image_size: Annotated[int, Field(ge=1, le=8192)] | None = None
    """``folder:`` only: side to which images are resized, in pixels; their own size when left out"""
    train_per_class: Count | None = None
    """a balanced training subset of this many images a class, drawn per seed; all when left out"""
    validation_per_class: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """images a class that are cut from the training split, the same for all seeds, to choose settings on"""
    epochs: Count = 10
    """length of the training, when not ``updates``"""
    updates: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """length of the training in optimiser steps, in place of ``epochs``; the last epoch may be cut short"""
    batch_size: Count = 128
    standardize: bool = True
    """whether each channel of the images has mean 0 and sd 1 over the training split; else pixels are shown from 0 to 1"""
    augment: Annotated[tuple[Augmentation, ...], Listed] = ()
    optimizer: Optimizer = Adam()
    schedule: Schedule = Constant()
    averaging: Averaging | None = None
    """the average of weights that is evaluated; the trained weights themselves when left out"""
    max_grad_norm: Positive | None = None
    """length to which a longer gradient is cut before each step (Pascanu et al. 2013, arXiv:1211.5063); none when left out"""
    loss: Loss = CrossEntropy()
    label_smoothing: Fraction = 0.0
    precision: Literal["auto", "bf16", "fp32", "fp64"] = "auto"
    """what convolutions and products compute in; ``auto``: bf16 where the device is fast at it, else fp32"""
    model: Model = ConvNet()

    def augmentation(self, kind: type[AugmentationKind]) -> AugmentationKind | None:
        """The recipe's augmentation of this kind, if it has one."""
        return next((part for part in self.augment if isinstance(part, kind)), None)

    def length(self, images: int) -> tuple[int, int]:
        """Optimiser steps of the training on a subset of so many images, and the epochs that they begin."""
        steps_per_epoch = images // self.batch_size
        updates = self.updates or self.epochs * steps_per_epoch
        return updates, ceil(updates / steps_per_epoch)

    @classmethod
    def _elsewhere(cls, key: str) -> str:
        if key in ("seeds", "first_seed"):
            return f"study.{key}"
        if key == "learning_rate":
            return "optimizer.lr"
        if key in ConvNet.model_fields:
            return f"model.{key}"
        return f"optimizer.{key}" if key in SGD.model_fields else ""

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if self.updates is not None and "epochs" in self.model_fields_set:
            raise ValueError(
                f"updates = {self.updates} and epochs = {self.epochs} both say how long to train; allowed: one of the two"
            )
        return self

    @model_serializer(mode="wrap")
    def _the_length_that_counts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if self.updates is not None:
            values.pop("epochs", None)
        return values

    @model_validator(mode="after")
    def _each_augmentation_once(self) -> Recipe:
        names = [part.name for part in self.augment]
        if len(set(names)) != len(names):
            raise ValueError("augment names one augmentation twice; allowed: each at most once")
        return self

    @model_validator(mode="after")
    def _rprop_steps_by_itself(self) -> Recipe:
        if isinstance(self.optimizer, Rprop) and self.schedule != Constant():
            raise ValueError(
                "schedule has no say with rprop, whose lr is only its first step's size; allowed: constant, without warm-up"
            )
        return self

    @model_validator(mode="after")
    def _a_loss_that_can_be_smoothed(self) -> Recipe:
        if self.label_smoothing and not isinstance(self.loss, (CrossEntropy, BinaryCrossEntropy)):
            raise ValueError(
                f"label_smoothing = {self.label_smoothing} says nothing to {self.loss.name}; "
                "allowed: 0, or loss = cross-entropy or binary-cross-entropy"
            )
        return self

    @model_validator(mode="after")
    def _ghost_batches_fill_the_batch(self) -> Recipe:
        norm = getattr(self.model, "norm", None)
        if isinstance(norm, GhostBatchNorm) and self.batch_size % norm.ghost_size:
            allowed = ", ".join(str(size) for size in range(1, self.batch_size + 1) if self.batch_size % size == 0)
            raise ValueError(
                f"model.norm.ghost_size = {norm.ghost_size} does not divide batch_size = {self.batch_size}; "
                f"allowed here: {allowed}"
            )
        return self

    @model_validator(mode="after")
    def _something_left_to_mix_up(self) -> Recipe:
        cutmix = self.augmentation(CutMix)
        if self.augmentation(Mixup) and cutmix and cutmix.probability == 1:
            raise ValueError(
                "augment names mixup, and cutmix with a probability of 1, which leaves no image for it; allowed: less than 1"
            )
        return self

    def own_parts(self) -> dict[tuple[str, ...], OwnCode]:
        """The parts of the user's own, by the path of keys under which they stand."""
        parts: dict[tuple[str, ...], object] = {("model", "family"): self.model}
        parts |= {("optimizer",): self.optimizer, ("loss",): self.loss}
        parts |= {("model", key): getattr(self.model, key, None) for key in ("block", "norm", "activation")}
        return {path: part for path, part in parts.items() if isinstance(part, OwnCode)}
