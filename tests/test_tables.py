"""Tables in the terminal: headings that tell factors apart, levels as they were written, and numbers in one piece."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from study_support import PLAIN, allelse, changed, mistake, write_study

from allelse.design import short_names

MANY = """
"model.norm" = [{ name = "group", groups = 2 }]
"optimizer.weight_decay" = [0]
"model.activation.name" = ["relu"]
"model.head.name" = ["gap", "flatten"]
label_smoothing = [0, 0.5]
"model.bias" = [true]
augment = [["flip"], [{ name = "crop", padding = 1 }, "flip"]]
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    text = changed(
        "epochs          = 2", "epochs          = 1", changed('"model.activation" = ["sigmoid", "relu"]', MANY, PLAIN)
    )
    file = write_study(folder, text)
    assert allelse("run", file, "--out", folder / "out").code == 0
    return file, folder / "out"


def cells(out: str, row: int) -> list[str]:
    """The cells of one line under a table's rule."""
    lines = out.splitlines()
    [rule] = [number for number, line in enumerate(lines) if re.fullmatch("─+", line)]
    return re.split(" {2,}", lines[rule + row].strip())


def test_a_table_of_many_factors_has_every_number_and_every_short_word_in_one_piece(many):
    file, out = many
    arm = ["group(groups=2)", "0", "relu", "gap", "0", "true", "flip"]
    above, last = (
        ["weight_", "activation.", "head.", "label_"],
        ["norm", "decay", "name", "name", "smoothing", "bias", "augment"],
    )
    for shown in (allelse("plan", file), allelse("results", out)):
        assert cells(shown.out, -2)[:4] == above
        assert cells(shown.out, -1)[:7] == last
        assert cells(shown.out, 1)[:7] == arm
    n, mean, sd, interval = cells(allelse("results", out).out, 1)[7:]
    assert re.fullmatch(r"2 \d+\.\d\d \d+\.\d\d −?\d+\.\d\d … \d+\.\d\d", f"{n} {mean} {sd} {interval}")
    run = cells(allelse("results", out, "--runs").out, 1)
    assert re.fullmatch("[0-9a-f]{12}", run[0])
    assert run[1:9] == [*arm, "done"]


def test_levels_are_told_as_they_were_written(many):
    _, out = many
    frame = pd.read_csv(io.StringIO(allelse("results", out, "--format", "csv").out), dtype=str)
    assert list(frame["label_smoothing"]) == ["0", "0", "0.5", "0.5"] * 2
    assert list(frame["augment"]) == ["flip", "crop(padding=1)-flip"] * 4
    parquet = pd.read_parquet(io.BytesIO(allelse("results", out, "--format", "parquet").raw))
    assert list(parquet["label_smoothing"]) == [0, 0, 0.5, 0.5] * 2


def test_a_factors_short_name_is_what_no_other_ends_with():
    assert short_names(["model.head.name", "model.norm.name", "model.depth", "name"]) == {
        "model.head.name": "head.name",
        "model.norm.name": "norm.name",
        "model.depth": "depth",
        "name": "name",
    }


@pytest.mark.parametrize("name", ["value", "chosen", "mean"])
def test_no_factor_is_named_as_a_column(tmp_path, name):
    file = write_study(tmp_path, changed('"model.activation" = ["sigmoid", "relu"]', f"{name} = {{ a.epochs = 1 }}", PLAIN))
    assert f"factors.{name}: the tables have a column of this name" in mistake("plan", file)
