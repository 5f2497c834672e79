"""A study's parts of the user's own, checked before anything is trained: a study in, each with its file and packing out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from allelse import engine, own
from allelse.data import Dataset
from allelse.models import own_parts
from allelse.recipe import OwnOptimizer, OwnPart, Recipe
from allelse.study import Arm, Study


@dataclass(frozen=True)
class CheckedPart:
    """A part of the user's own that is exact in packs."""

    reference: str
    """``python:module:Name``"""
    source: own.Source
    packing: str
    """how there are R of it: ``declared``, ``elementwise``, ``image by image`` or ``one by one``"""


def check_parts(study: Study, dataset_of: Callable[[Recipe], Dataset]) -> list[CheckedPart]:
    """Import every own part of a study, and hold it against lone modules of torch.

    Raises:
        StudyError: a part cannot be imported or made, does not fit, or would not be exact; it says where it is asked for.
    """
    packing_from_reference: dict[str, str] = {}
    for arm in study.arms:
        if arm.recipe.own_parts():
            with arm.placed():
                packing_from_reference |= _packings(arm, dataset_of(arm.recipe))
                sources = {reference: own.source(reference) for reference in packing_from_reference}
    return [CheckedPart(reference, sources[reference], packing) for reference, packing in packing_from_reference.items()]


def _packings(arm: Arm, dataset: Dataset) -> dict[str, str]:
    height, width, channels = dataset.train_images.shape[1:]
    parts = own_parts(arm.recipe.model, (height, width, channels), len(dataset.classes))
    found: dict[str, str] = {part.reference: part.packing for part in parts}
    if isinstance(optimizer := arm.recipe.optimizer, OwnOptimizer):
        found[optimizer.reference] = engine.optimizer_packing(optimizer)
    if isinstance(loss := arm.recipe.loss, OwnPart):
        found[loss.reference] = engine.loss_packing(loss, len(dataset.classes))
    return found
