"""The examples: short files that load, plan, explain and run quick to verdicts, and a page that names every one."""

import json
import re
from pathlib import Path

import pytest
from study_support import allelse

from allelse import study
from allelse.design import level_text
from allelse.report import figures

FOLDER = Path(__file__).parents[1] / "examples"
FILES = sorted(FOLDER.glob("*.toml"))
each_example = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@pytest.fixture
def figures_unsaved(monkeypatch):
    """Draw every figure, but once, for the page: saving each as PNG and SVG too is held in test_figures."""
    monkeypatch.setattr(figures, "png", lambda *_: b"")
    monkeypatch.setattr(figures, "svg", lambda *_: "")


def lines(*arguments: object) -> list[str]:
    ended = allelse(*arguments)
    assert ended.code == 0, ended.err
    return ended.out.splitlines()


def test_there_are_eight_or_more_and_the_page_names_every_one():
    assert len(FILES) >= 8
    links = re.findall(r"\]\(([^)]+\.toml)\)", (FOLDER / "README.md").read_text("utf-8"))
    assert sorted(links) == [file.name for file in FILES]


@each_example
def test_an_example_is_short_and_asks_the_same_when_quick(file):
    assert len(file.read_text("utf-8").splitlines()) < (50 if file.stem.startswith("published") else 80)
    loaded, quick = study.load(file), study.load(file, quick=True)
    assert loaded.name == file.stem
    assert loaded.claims
    assert quick.claims == loaded.claims
    assert list(quick.factors) == list(loaded.factors)
    assert {arm.recipe.dataset for arm in loaded.arms} == {"cifar10"}
    assert {arm.recipe.dataset for arm in quick.arms} == {"digits"}


@each_example
@pytest.mark.parametrize("version", [[], ["--quick"]], ids=["full", "quick"])
def test_every_arm_can_be_explained_in_80_columns(file, version):
    loaded = study.load(file, quick=bool(version))
    for arm in (loaded.arms[0], loaded.arms[-1]):
        chosen = [word for factor, level in arm.levels.items() for word in ("--arm", f"{factor}={level_text(level)}")]
        told = lines("explain", file, *version, *chosen)
        assert told[0].startswith(f"{loaded.name}: ")
        assert [word for word in ("True", "False") if word in told[0]] == []  # as TOML and the tables have it
        assert max(map(len, told)) <= 80


@each_example
@pytest.mark.usefixtures("figures_unsaved")
def test_the_quick_version_is_planned_and_runs_to_its_verdicts(file, tmp_path):
    quick = study.load(file, quick=True)
    planned = lines("plan", file, "--quick", "--device", "cpu")
    assert planned[0].startswith(f"{quick.name}: ")
    ran = lines("run", file, "--quick", "--device", "cpu", "--out", tmp_path)
    assert ran[-1] == f"report: {tmp_path / 'report.html'}"
    state = lines("status", tmp_path)
    shown = [line for line in planned + ran[:-1] + state if str(tmp_path) not in line]  # a path is never broken
    assert max(map(len, shown)) <= 80
    runs = sum(len(arm.seeds) for arm in quick.arms)
    assert f"{runs} runs: {runs} done" in state
    assert "NOT paired" not in " ".join(state)
    assert any(line.startswith("paired: ") for line in state)
    verdicts = json.loads("\n".join(lines("verdicts", tmp_path, "--format", "json")))
    assert [verdict["id"] for verdict in verdicts] == [claim.id for claim in quick.claims]
    assert {verdict["verdict"] for verdict in verdicts} <= {"supported", "refuted", "undecided"}
