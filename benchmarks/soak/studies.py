"""The studies of the soak: a folder in; study files, and the part of the user's own that they use, in it, out.

Every arm has an activation of that part, so whoever trains a pack imports it, in whatever process. The commands are those of
every user; what is unusual stands in the part: checkpoints are frequent, every start of a training is noted, and plans are the
same again and again. Speeds are measured as ever, but a plan hears that a pack is as many times faster as it has runs.
"""

from __future__ import annotations

from pathlib import Path

MODULE = "soak_parts"

PARTS = '''\
"""Activations of torch, and the settings of a soak test."""

import os
import sys
from pathlib import Path

import torch

from allelse import plan
from allelse.engine import loop
from allelse.launch.local import Local

NOTES = Path({notes!r})

loop.SECONDS_BETWEEN_CHECKPOINTS = {seconds}
plan.MEASURING_SECONDS = 1e9  # else a busy moment makes another plan


def resume_and_note(self, checkpoint, resume=loop.Training.resume):
    resume(self, checkpoint)
    with NOTES.open("a") as file:
        file.write(f"{{os.getpid()}} {{self.pack.id}} {{self.epoch}}\\n")


def even(measured):
    def speed(self, pack):
        way = ("im2col", "grouped", "branches")[len(pack.runs) % 3]  # a GPU has all three: let packs of other sizes take others
        return measured(self, pack) and 1e4 * len(pack.runs) * (2 if pack.way.graph and pack.way.convolution == way else 1)

    return speed


loop.Training.resume = resume_and_note
Local.images_per_second = even(Local.images_per_second)
if cluster := sys.modules.get("allelse.launch.cluster"):
    cluster.Cluster.images_per_second = even(cluster.Cluster.images_per_second)


class Relu(torch.nn.ReLU):
    pass


class Sigmoid(torch.nn.Sigmoid):
    pass


class Tanh(torch.nn.Tanh):
    pass
'''

PLAIN = f"""\
[study]
name     = "plain"
question = "Is ReLU above sigmoid, however often the power fails?"
seeds    = 4

[recipe]
dataset         = "digits"
train_per_class = 40
epochs          = 30
batch_size      = 20
precision       = "fp32"
augment         = [{{ name = "crop", padding = 1 }}]
optimizer       = {{ name = "adam", lr = 0.01 }}

[recipe.model]
width = 8
depth = 2
norm  = "batch"

[factors]
"model.activation" = ["python:{MODULE}:Relu", "python:{MODULE}:Sigmoid"]

[[claims]]
id   = "relu-above"
says = "ReLU is above sigmoid"
kind = "higher"
a    = {{ "model.activation" = "python:{MODULE}:Relu" }}
b    = {{ "model.activation" = "python:{MODULE}:Sigmoid" }}
"""
"""Adam's state, BatchNorm's statistics, augmentation: two packs of four runs."""

TUNED = f"""\
[study]
name     = "tuned"
question = "Is ReLU above tanh, each with a learning rate of its own?"
seeds    = 4

[recipe]
dataset              = "digits"
train_per_class      = 30
validation_per_class = 20
epochs               = 16
batch_size           = 20
precision            = "fp32"
optimizer            = {{ name = "sgd", lr = 0.1, momentum = 0.9 }}
averaging            = {{ name = "ema", decay = 0.95, start_epoch = 3 }}

[recipe.model]
width = 8
depth = 2
norm  = {{ name = "group", groups = 2 }}

[factors]
"model.activation" = ["python:{MODULE}:Relu", "python:{MODULE}:Tanh"]

[tune]
key    = "optimizer.lr"
values = [0.005, 0.05, 1e30]
seeds  = 2
epochs = 8

[[claims]]
id   = "relu-above"
says = "ReLU is above tanh"
kind = "higher"
a    = {{ "model.activation" = "python:{MODULE}:Relu" }}
b    = {{ "model.activation" = "python:{MODULE}:Tanh" }}
"""
"""Momentum, averaged weights, tuning with a value that diverges: packs of six runs with an optimiser each, then of four."""

STUDIES = {"plain": PLAIN, "tuned": TUNED}


def write(folder: Path, texts: dict[str, str], seconds_between_checkpoints: float = 0.05) -> dict[str, Path]:
    """Write the part and the study files; the latter's paths by name."""
    text = PARTS.format(notes=str(notes(folder)), seconds=seconds_between_checkpoints)
    (folder / f"{MODULE}.py").write_text(text)
    files = {name: folder / f"{name}.toml" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    return files


def notes(folder: Path) -> Path:
    """Where every start of a training is noted: process, pack, epoch."""
    return folder / "notes"


def resumes(folder: Path) -> int:
    """How often a training went on from a checkpoint so far."""
    file = notes(folder)
    return sum(line.split()[2:] > ["0"] for line in file.read_text().splitlines()) if file.exists() else 0
