"""Progress: what the training of a pack tells whoever waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Doing = Literal["preparing", "training", "evaluating", "failed", "lost"]


@dataclass(frozen=True)
class Progress:
    """Where a pack is; handed to ``on_progress`` at most a few times a second and at each epoch's end."""

    share: float
    """of all work that is done, training and evaluation, 0 to 1"""
    epoch: int
    """epochs done"""
    epochs: int
    doing: Doing = "training"
    """what the time since the last report went to"""
    evaluation: float = 0.0
    """which share of all work is evaluation"""
