"""Fingerprints: what the runs of a pack are given in; digests that are equal where two runs were given the same, out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import compress

import numpy as np

from allelse import recipe
from allelse.data import Dataset
from allelse.engine.draws import Draws
from allelse.models import Network, stacked_parameters, way_of_filling


class Fingerprints:
    """Of the runs of one pack."""

    def __init__(self, values: recipe.Recipe, dataset: Dataset, subsets: Sequence[np.ndarray], network: Network) -> None:
        """
        Arguments:
            values: the recipe of the pack.
            dataset: what it trains on.
            subsets: the training images of each replica, [R] of [n].
            network: with the weights that it begins with.
        """
        self._recipe = values
        self._images = len(dataset.train_images)
        self._shape = "x".join(map(str, dataset.train_images.shape[1:]))
        self._subset = len(subsets[0])
        self.plain = [{"data": dataset.fingerprint, "subset": _digest(subset.tobytes())} for subset in subsets]
        """name to digest of each replica, for checkpoints; those of order and augmentation go on with every epoch"""
        for full_name, module, name, parameter in stacked_parameters(network):
            shape = "x".join(map(str, parameter.shape[1:]))
            way = way_of_filling(module, name)
            named = f"init {full_name} {shape} {way}".rstrip()
            drawn = parameter.detach().float().cpu().numpy()  # what is drawn is the same in every precision
            for plain, weights in zip(self.plain, drawn, strict=True):
                plain[named] = _digest(weights.tobytes())

    def add_epoch(self, draws: Sequence[Draws], trains: Sequence[bool] | np.ndarray) -> None:
        """Take in what each replica that still ``trains`` draws for one epoch more."""
        for plain, drawn in compress(zip(self.plain, draws, strict=True), trains):
            for name, of_epoch in zip(("order", "augmentation"), drawn.digests(), strict=True):
                plain[name] = _digest((plain.get(name, "") + of_epoch).encode())

    def named(self, replica: int, epochs: int) -> dict[str, str]:
        """Those of one replica under names that say what each depends on, so that only what should be equal has one name."""
        source = f"{self._recipe.dataset} {self._shape}"
        subset = f"{source}: {self._subset} images"
        parts = "+".join("".join(map(str, part.model_dump().values())) for part in self._recipe.augment) or "none"
        if self._recipe.augmentation(recipe.Mixup) or self._recipe.augmentation(recipe.CutMix):
            parts += f" within {subset}"  # where partners are drawn from
        detail_from_name = {
            "data": source,
            "subset": subset,
            "order": f"{subset} {epochs} epochs",
            "augmentation": f"{parts} of {self._images} {self._shape} {epochs} epochs",
        }
        return {
            f"{name} {detail_from_name[name]}" if name in detail_from_name else name: value
            for name, value in self.plain[replica].items()
        }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
