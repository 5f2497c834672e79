"""Small studies for the tests: TOML text in; study files, commands with their exit code and output, and stored results out."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from allelse import launch, store, study
from allelse.plan import Plan

TINY = """\
[study]
name     = "tiny"
question = "Is ReLU above sigmoid?"
seeds    = 2

[recipe]
dataset         = "digits"
train_per_class = 10
epochs          = 2
batch_size      = 20
precision       = "fp32"
optimizer       = { name = "adam", lr = 0.01 }

[recipe.model]
width = 4
depth = 1
norm  = "batch"

[factors]
"model.activation" = ["sigmoid", "relu"]

[[claims]]
id   = "relu-above"
says = "ReLU is above sigmoid"
kind = "higher"
a    = { "model.activation" = "relu" }
b    = { "model.activation" = "sigmoid" }

[[references]]
source   = "a paper"
arm      = { "model.activation" = "relu" }
accuracy = 50.0

[quick]
epochs        = 1
seeds         = 1
"model.width" = 2
"""
"""98 parameters, 100 images: a run takes some hundredths of a second."""

PLAIN = TINY.split("\n[[claims]]")[0]
"""the same without claims, references and [quick]"""


def changed(old: str, new: str, text: str = TINY) -> str:
    """``text`` with ``old``, which must stand there once, replaced."""
    assert text.count(old) == 1, old
    return text.replace(old, new)


def write_study(folder: Path, text: str = TINY, name: str = "study.toml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


@dataclass(frozen=True)
class Ended:
    """What a command left: its exit code and its output."""

    code: int
    out: str
    err: str
    raw: bytes


def allelse(*arguments: object) -> Ended:
    """One command line, in this process."""
    from allelse.cli import main

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["allelse", *map(str, arguments)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        interrupt = signal.getsignal(signal.SIGINT)
        with pytest.raises(SystemExit) as ended:
            main()
        signal.signal(signal.SIGINT, interrupt)
    raw = out.buffer.getvalue()  # type: ignore[attr-defined]
    return Ended(ended.value.code, raw.decode("utf-8", "replace"), err.buffer.getvalue().decode(), raw)  # type: ignore[attr-defined]


def mistake(*arguments: object) -> str:
    """The one line that a command with a mistake ends with, without its ``allelse: ``."""
    ended = allelse(*arguments)
    lines = [line for line in ended.err.splitlines() if not line.startswith("measuring ")]
    assert (ended.code, ended.out, len(lines)) == (2, "", 1), ended
    assert lines[0].startswith("allelse: ")
    return lines[0].removeprefix("allelse: ")


class Quiet:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.seconds = 0.0

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, plan: Plan, done: float) -> None:
        self.plan = plan
        self.seconds = done

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


def run(file: Path, folder: Path, changes: Sequence[str] = (), **options: object) -> launch.Outcome:
    return launch.run_study(study.load(file, changes=changes, **options), folder, "cpu", Quiet())  # type: ignore[arg-type]


def statuses(folder: Path) -> list[str]:
    with store.read(folder) as opened:
        return [stored.status for stored in opened.runs()]
