"""Python's way in: what a wrong argument is told, in one line as everywhere."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from study_support import write_study

import allelse
from allelse.errors import AllelseError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": "3"}, "seeds = '3'; allowed: a whole number"),
        ({"seeds": 2.5}, "seeds = 2.5; allowed: a whole number"),
        ({"seeds": True}, "seeds = True; allowed: a whole number"),
        ({"first_seed": 1.0}, "first_seed = 1.0; allowed: a whole number"),
        ({"changes": "epochs=3"}, "changes = 'epochs=3'; allowed: a list of \"key=value\" texts"),
        ({"changes": {"epochs": 3}}, "changes = {'epochs': 3}; allowed: a list of \"key=value\" texts"),
        ({"changes": [3]}, 'changes = [3]; allowed: a list of "key=value" texts'),
    ],
)
def test_load_says_what_it_takes(options, said, tmp_path):
    with pytest.raises(AllelseError) as caught:
        allelse.load(write_study(tmp_path), **options)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"study": "study.toml"}, "study = 'study.toml'; allowed: a study, as allelse.load gives it"),
        ({"device": None}, "device = None; allowed: auto, cpu, cuda or mps"),
        ({"workers": "2"}, "workers = '2'; allowed: a whole number"),
        ({"out": 3}, "out = 3; allowed: a folder"),
    ],
)
def test_run_says_what_it_takes_and_makes_nothing(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = allelse.load(write_study(tmp_path))
    with pytest.raises(AllelseError) as caught:
        allelse.run(**{"study": study, "out": "out", **options})
    assert str(caught.value) == said
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


def test_explain_says_what_it_takes():
    with pytest.raises(AllelseError, match=r"study = 'study\.toml'; allowed: a study, as allelse\.load gives it"):
        allelse.explain("study.toml")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda file: allelse.load(file, quick="no"), "quick = 'no'; allowed: True, False"),
        (lambda file: allelse.load(file, scaled=1), "scaled = 1; allowed: True, False"),
        (lambda file: allelse.explain(allelse.load(file), 5), 'levels = 5; allowed: "key=level" texts'),
        (lambda file: allelse.Results(5), "folder = 5; allowed: a folder"),
        (lambda file: allelse.run(allelse.load(file), engine="ray", address=5), "address = 5; allowed: a cluster's address"),
    ],
)
def test_arguments_of_another_kind_are_one_line(tmp_path, call, said):
    with pytest.raises(AllelseError) as caught:
        call(write_study(tmp_path))
    assert str(caught.value) == said


def test_numbers_of_numpy_and_any_row_of_changes_are_taken(tmp_path):
    study = allelse.load(write_study(tmp_path), seeds=np.int64(3), changes=(f"epochs={number}" for number in (4,)))
    assert (study.seeds, study.arms[0].recipe.epochs) == ((0, 1, 2), 4)


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────

PAGE = (Path(__file__).parent.parent / "docs" / "python.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["load", "explain", "run", "Results"])
def test_every_call_stands_on_the_page_with_what_it_takes(name):
    [taken] = re.findall(rf"`allelse\.{name}\((.*?)\)` \|", PAGE)
    parameters = [one for one in inspect.signature(getattr(allelse, name)).parameters.values() if one.name != "self"]
    assert len(taken.split(", ")) == len(parameters)
    for one in parameters:
        if one.default is not one.empty:
            assert f"{one.name}={one.default!r}".replace("'", '"') in taken


def test_every_method_of_results_stands_on_the_page():
    methods = {name for name in vars(allelse.Results) if not name.startswith("_")}
    assert methods == set(re.findall(r"`(\w+)\([^)`]*\)`", PAGE))


def test_the_python_of_the_page_runs_and_its_columns_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    small = code.replace("quick=True", 'quick=True, seeds=2, changes=["epochs=1", "train_per_class=10", "batch_size=10"]')
    assert small != code
    made: dict = {}
    exec(small, made)
    results = made["results"]
    for method in ("arms", "runs", "epochs", "probes", "verdicts"):
        [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{method}(")]
        named = set(re.findall(r"`(\w+)`", row)) - {method, "also", "timing", "level"} | (
            {"level"} if method == "verdicts" else set()
        )
        assert named <= set(getattr(results, method)().columns), method
    probed = PAGE.split("## Probes")[1].split("A factor")[0]
    assert set(re.findall(r"`(\w+)`", probed)) - {"step"} == set(results.probes().columns) - {
        *("run", "model.activation", "model.depth", "model.norm", "seed", "layer", "step", "epoch"),
    }
