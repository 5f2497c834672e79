"""A study that tunes, trained once for the tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_support import PLAIN, changed, run, write_study

from allelse import plan, store
from allelse.launch import local

TUNE = """
[tune]
key    = "optimizer.lr"
values = [0.3, 0.003, 0.03]
seeds  = 2
epochs = 1

[[claims]]
id   = "relu-above"
says = "ReLU is above sigmoid"
kind = "higher"
a    = { "model.activation" = "relu" }
b    = { "model.activation" = "sigmoid" }

[quick]
epochs = 1
[quick.tune]
values = [0.01, 0.02]
"""
TUNED = changed("epochs          = 2", "validation_per_class = 10\nepochs = 2", PLAIN) + TUNE


def trained(folder: Path) -> tuple[Path, Path]:
    """A study file and its output folder, trained in one go, each arm and value as one pack."""
    file = write_study(folder, TUNED)
    with pytest.MonkeyPatch.context() as patch:
        pack_all_seeds(patch)
        assert run(file, folder / "out").runs_by_status == {"done": 4}
    return file, folder / "out"


def pack_all_seeds(patch: pytest.MonkeyPatch) -> None:
    """As if this device trained larger packs ever faster, so that plans are the same in every test."""
    patch.setattr(local.Speeds, "images_per_second", lambda self, pack: 1e6 * 2.0 ** len(pack.runs))
    patch.setattr(plan, "NUMBERS", ())  # and one value of the tuned number a pack, so that packs can fail by value


def results_of(folder: Path) -> list:
    with store.read(folder) as opened:
        return [(run.id, run.arm, run.seed, run.result.metrics, run.result.epochs) for run in opened.runs()]
