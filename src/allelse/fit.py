"""Fit: an arm and its data in; nothing out where it can be trained, else what is wrong, at the place where it was said."""

from __future__ import annotations

from collections import Counter
from math import prod

from allelse import data
from allelse.errors import DataError, RecipeError, counted
from allelse.models import Layer, layer_rows, layer_table, own_parts, tells_images_apart
from allelse.recipe import (
    SWA,
    BatchRenorm,
    BatchStatistics,
    ConvNet,
    Crop,
    Cutout,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    OneCycle,
    Recipe,
    Schedule,
    Step,
)
from allelse.study import Arm


def check_arm(arm: Arm, dataset: data.Dataset) -> None:
    """Hold an arm against its data before anything is trained.

    Raises:
        RecipeError: there are fewer images a class than the recipe asks for, the batch is larger than the training subset,
            averaging never begins or makes weights whose statistics nobody can measure, the learning rate never gets where its
            schedule says, the images are too small for the model, or nothing of an image reaches its head.
    """
    recipe = arm.recipe
    try:
        train, _ = data.split(
            dataset, train_per_class=recipe.train_per_class, validation_per_class=recipe.validation_per_class, seed=0
        )
    except DataError as error:
        fewest = min(Counter(dataset.train_labels.tolist()).values(), default=0)
        key = "train_per_class" if recipe.validation_per_class < fewest else "validation_per_class"
        raise RecipeError(str(error), (key,)) from None
    if recipe.batch_size > len(train):
        raise RecipeError(
            f"{recipe.batch_size} is larger than the training data of {len(train)} images; allowed: 1 to {len(train)}",
            ("batch_size",),
        )
    steps, epochs = recipe.length(len(train))
    if recipe.averaging and recipe.averaging.start_epoch > epochs:
        raise RecipeError(
            f"{recipe.averaging.start_epoch} comes when a training of {counted(epochs, 'epoch')} is over; "
            f"allowed: 1 to {epochs}",
            ("averaging", "start_epoch"),
        )
    _check_schedule(recipe.schedule, steps, len(train) // recipe.batch_size)
    _check_augmentation(recipe, _image_shape(dataset))
    if isinstance(recipe.model, ConvNet):
        _check_kernels(recipe.model, _image_shape(dataset))
        _check_sight(recipe.model, _image_shape(dataset), len(dataset.classes))
    layers(arm, dataset)
    if isinstance(recipe.averaging, SWA) and recipe.own_parts():
        for part in own_parts(recipe.model, _image_shape(dataset), len(dataset.classes)):
            if part.gathered:
                raise RecipeError(
                    f"swa makes weights for which {part.reference!r} has gathered no {' and no '.join(part.gathered)}, and "
                    f"only BatchNorm's statistics are measured anew; allowed: ema, or no averaging",
                    ("averaging",),
                )
    norm = getattr(recipe.model, "norm", None)
    if recipe.batch_size == 1 and isinstance(norm, BatchStatistics):
        for row in layer_rows(recipe.model, _image_shape(dataset), len(dataset.classes)):
            if row.name.rpartition(".")[2].startswith("norm") and prod(row.output_shape[1:]) == 1:
                raise RecipeError(
                    f"1 gives BatchNorm one value a channel in {row.name} and no variance; allowed: at least 2", ("batch_size",)
                )
    if isinstance(norm, BatchRenorm) and norm.hold_steps >= steps:
        raise RecipeError(
            f"{norm.hold_steps} leaves plain batch normalisation in all {steps} training steps; allowed: 0 to {steps - 1}",
            ("model", "norm", "hold_steps"),
        )


def _check_kernels(model: ConvNet, image_shape: tuple[int, int, int]) -> None:
    """Hold kernels against the images that come in: beyond twice their side less one, no weight ever meets a pixel."""
    most = max(3, 2 * max(image_shape[:2]) - 1)
    kernels = [(("model", "kernel"), kernel) for kernel in model.kernels()]
    for path, kernel in [*kernels, *([(("model", "stem", "kernel"), model.stem.kernel)] if model.stem else [])]:
        if kernel > most:
            height, width, _ = image_shape
            raise RecipeError(f"{kernel} reaches out of images of {height} × {width}; allowed: odd, 1 to {most}", path)


def _check_sight(model: ConvNet, image_shape: tuple[int, int, int], classes: int) -> None:
    """Refuse a mean over positions where a norm has made it the same in every image."""
    of_each_channel = any(model.norm_of_block(number).needs_positions(width) for number, width in model.normalised_widths())
    centres = isinstance(model.norm, (GroupNorm, InstanceNorm, LayerNorm))
    if of_each_channel and centres and not tells_images_apart(model, image_shape, classes):
        raise RecipeError(
            f"norm {model.norm.name!r} as it is here gives each channel of every image the same mean, its shift, and what "
            "comes after it looks at that mean alone: no network could tell two images apart; allowed: an activation that "
            "bends between the two, a head that sees places (flatten, with less pooling), or another norm",
            ("model", "norm"),
        )


def gathers(arm: Arm, dataset: data.Dataset) -> bool:
    """Whether a part of the user's own gathers statistics in an arm's network, which then is not evaluated three ways."""
    if not arm.recipe.own_parts():
        return False
    parts = own_parts(arm.recipe.model, _image_shape(dataset), len(dataset.classes))
    return any(part.gathered for part in parts)


def _check_augmentation(recipe: Recipe, image_shape: tuple[int, int, int]) -> None:
    """Hold what is cut out or shifted against the images, of which something must be left."""
    height, width, _ = image_shape
    crop, cutout = recipe.augmentation(Crop), recipe.augmentation(Cutout)
    if cutout and cutout.size >= 2 * max(height, width):
        raise RecipeError(
            f"cutout of {cutout.size} pixels hides every image of {height} × {width} whole; "
            f"allowed: size = 1 to {2 * max(height, width) - 1}",
            ("augment",),
        )
    if crop and crop.padding >= min(height, width):
        raise RecipeError(
            f"crop with a padding of {crop.padding} pixels shifts images of {height} × {width} out of sight; "
            f"allowed: padding = 1 to {min(height, width) - 1}",
            ("augment",),
        )


def _check_schedule(schedule: Schedule, steps: int, steps_per_epoch: int) -> None:
    """Hold a schedule against the length of the training, of which the last epoch may be cut short."""
    epochs, warmup_epochs = steps / steps_per_epoch, getattr(schedule, "warmup_epochs", 0.0)
    length = f"{epochs:g} epoch{'s' * (epochs != 1)}"
    if warmup_epochs >= epochs:
        raise RecipeError(
            f"{warmup_epochs:g} leaves nothing of a training of {length}; allowed: less than {epochs:g}",
            ("schedule", "warmup_epochs"),
        )
    if warmup_epochs and not 0 < (warmup := round(warmup_epochs * steps_per_epoch)) < steps:
        some = f", or what makes 1 to {steps - 1} of them" if steps > 1 else ""
        raise RecipeError(
            f"{warmup_epochs:g} is {warmup} of the {steps} steps of this training; allowed: 0{some}",
            ("schedule", "warmup_epochs"),
        )
    if isinstance(schedule, OneCycle) and schedule.rise * steps < 1:
        raise RecipeError(
            f"{schedule.rise:g} of the {steps} steps of this training is less than one: its peak never comes; train longer",
            ("schedule", "rise"),
        )
    if isinstance(schedule, Step):
        key, drops = ("every", (schedule.every,)) if schedule.every else ("milestones", schedule.milestones)
        if max(drops) >= epochs:
            raise RecipeError(
                f"{max(drops)} comes when a training of {length} is over; allowed: less than {epochs:g}",
                ("schedule", key),
            )


def layers(arm: Arm, dataset: data.Dataset) -> tuple[Layer, ...]:
    """The parameters of one network of this arm."""
    return layer_table(arm.recipe.model, _image_shape(dataset), len(dataset.classes))


def _image_shape(dataset: data.Dataset) -> tuple[int, int, int]:
    height, width, channels = dataset.train_images.shape[1:]
    return height, width, channels


def parameters(arm: Arm, dataset: data.Dataset) -> int:
    """How many numbers one network of this arm learns."""
    return sum(prod(layer.shape) for layer in layers(arm, dataset))
