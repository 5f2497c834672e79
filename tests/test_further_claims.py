"""Claims that are made when the runs were there: judged as if they had been declared, told apart, and stored nowhere."""

from __future__ import annotations

import json
import tomllib

import pytest
from report_support import CLAIMS, definition, write_store
from study_support import allelse, mistake

from allelse import Results

FURTHER = """\
[[claims]]
id        = "rises"
says      = "ReLU rises with depth"
kind      = "trend"
along     = "model.depth"
where     = { "model.activation" = "relu" }
direction = "up"
"""


def noisy(arm, seed):
    return (
        50.0 + 0.4 * arm["model.depth"] + (arm["model.activation"] == "relu") + 0.3 * ((seed * 7 + arm["model.depth"] * 3) % 5)
    )


@pytest.fixture
def folder(tmp_path):
    return write_store(tmp_path / "out", definition(claims=CLAIMS[:1]), accuracy=noisy)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "more.toml").write_text(FURTHER)
    return tmp_path / "more.toml"


def judged(*words: object) -> list[dict]:
    return json.loads(allelse("verdicts", *words, "--format", "json").raw)


def test_a_further_claim_is_judged_as_if_it_were_declared_too_and_the_declared_ones_stay(folder, file, tmp_path):
    whole = write_store(tmp_path / "whole", definition(claims=[*CLAIMS[:1], *tomllib.loads(FURTHER)["claims"]]), accuracy=noisy)
    declared, further = judged(folder, "--also", file)
    assert [declared] == judged(folder)
    assert further.pop("exploratory") is True
    assert further == judged(whole)[1]
    assert further["p_adjusted"] > further["p"]


def test_it_stands_apart_on_the_screen_with_how_to_confirm_it(folder, file):
    before = (folder / "study.sqlite").read_bytes()
    lines = allelse("verdicts", folder, "--also", file).out.splitlines()
    heading = lines.index("Exploratory: asked when the runs were there")
    assert any("ReLU is above sigmoid" in line for line in lines[:heading])
    assert any("ReLU rises with depth" in line for line in lines[heading:])
    assert lines[-1] == "to confirm one, declare it in a study file and run that with --first-seed 5"
    assert (folder / "study.sqlite").read_bytes() == before
    assert "rises" not in allelse("verdicts", folder).out


def test_from_python_a_column_tells_them_apart(folder, file):
    frame = Results(folder).verdicts(also=file)
    assert frame[["id", "exploratory"]].values.tolist() == [["relu-above", False], ["rises", True]]
    assert "exploratory" not in Results(folder).verdicts()


def test_a_study_without_claims_can_be_asked(tmp_path, file):
    folder = write_store(tmp_path / "out", definition(claims=[]), accuracy=noisy)
    assert "with --also FILE" in allelse("verdicts", folder).out
    assert [one["id"] for one in judged(folder, "--also", file)] == ["rises"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": is empty; "),
        ("[[claims]", ": not valid TOML: "),
        ("claims = []\n", ", line 1: claims: "),
        (FURTHER + "[recipe]\nepochs = 1\n", ", line 8: recipe: is not of a file of further claims; allowed: [[claims]]"),
        (
            FURTHER.replace("rises", "relu-above", 1),
            ", line 2: claims.1.id: 'relu-above' is declared by the study itself; give it ",
        ),
        (
            FURTHER.replace("depth", "dept"),
            ", line 1: claims.1: claim 'rises': along names factor 'model.dept', which the study ",
        ),
        (FURTHER + 'metric = "acuracy"\n', ", line 8: claims.1.metric: 'acuracy'; did you mean 'accuracy'? "),
        (FURTHER + FURTHER, ", line 8: claims.2: claim 'rises': 2 claims have this id; "),
    ],
)
def test_what_is_wrong_with_the_file_is_told_in_one_line(folder, file, text, said):
    file.write_text(text)
    assert mistake("verdicts", folder, "--also", file).startswith(f"{file}{said}")


def test_a_file_that_is_not_there(folder, tmp_path):
    assert mistake("verdicts", folder, "--also", tmp_path / "none.toml").startswith(f"{tmp_path}/none.toml: no such file; ")
