"""Work: a recipe and the sizes of its splits in; how much of a run is training and how much evaluation, out.

Everything is counted in images trained on, so that a measured speed turns it into seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from allelse.recipe.norms import BatchStatistics
from allelse.recipe.whole import Recipe

FORWARD_SHARE = 1 / 3
"""What evaluating an image costs against training on it: one pass forward against one forward and two back."""


@dataclass(frozen=True)
class Work:
    """What one run of ``recipe`` does with so many images."""

    recipe: Recipe
    train: int
    validation: int
    test: int

    @property
    def training(self) -> float:
        """All optimiser steps."""
        return float(self.recipe.length(self.train)[0] * self.recipe.batch_size)

    def evaluations(self, epochs: int) -> float:
        """The evaluations that the first ``epochs`` epochs end with."""
        images = epochs * (self.test + self.validation)
        norm = getattr(self.recipe.model, "norm", None)
        recalibrates = isinstance(norm, BatchStatistics) and norm.evaluate == "recalibrated"
        images += epochs * self.train * recalibrates
        if averaging := self.recipe.averaging:
            measured_anew = recalibrates or (averaging.name == "swa" and isinstance(norm, BatchStatistics))
            averaged = max(epochs - averaging.start_epoch + 1, 0)
            images += averaged * (self.test + self.train * measured_anew)
        return FORWARD_SHARE * images

    @property
    def evaluation(self) -> float:
        """All that is evaluated, the last look with statistics three ways included."""
        return self.evaluations(self.recipe.length(self.train)[1]) + FORWARD_SHARE * (self.train + 3 * self.test)

    @property
    def whole(self) -> float:
        return self.training + self.evaluation
