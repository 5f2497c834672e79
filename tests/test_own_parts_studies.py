"""Parts of the user's own in study files, and what users read of them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from study_support import PLAIN, allelse, changed, mistake, run, statuses, write_study

from allelse import own, recipe, store, study

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
own.search(EXAMPLES)
USERS = "python:parts_of_users:"
SWISH = "python:own_parts.activations:Swish"
OWN = changed('["sigmoid", "relu"]', f'["relu", "{USERS}Softmax"]', PLAIN)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def with_activation(text: str) -> str:
    return changed('["sigmoid", "relu"]', f"[{text}]", PLAIN)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ('"python:none.acts:A"', "'python:none.acts:A': there is no module 'none' in "),
        (
            '"python:parts_of_users:Softmix"',
            f"'{USERS}Softmix': {ROOT}/tests/parts_of_users.py has no 'Softmix'; did you mean 'Soft",
        ),
        (
            '"python:broken:A"',
            "'python:broken:A': importing broken raises ImportError: cannot import name 'nothing' from 'math' ",
        ),
        ('"python:quits:A"', "'python:quits:A': importing quits raises SystemExit: 3 (quits.py, line 1)"),
        ('"python:no-module"', "'python:no-module'; allowed: python:MODULE:NAME, as in python:mypkg.acts:Squareplus"),
        (
            f'{{ name = "{USERS}Softmax", b = 2 }}',
            f"'{USERS}Softmax' raises TypeError: Softmax.__init__() got an unexpected keyw",
        ),
        (f'"{USERS}Noise"', f"'{USERS}Noise' is random: two calls with the same weights and images differ in "),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_mistake_is_one_line_with_its_place(command, activation, expected, tmp_path):
    (tmp_path / "broken.py").write_text("from math import nothing\n")
    (tmp_path / "quits.py").write_text("raise SystemExit(3)\n")
    write_study(tmp_path, with_activation(activation))
    told = mistake(command, "study.toml")
    place, _, reason = told.partition("a level of this factor: model.activation")
    assert place.startswith("study.toml, line 20: factors.model.activation: ")
    assert re.sub(r"^(\.name|\.day)?: ", "", reason).startswith(expected)
    assert not (tmp_path / "runs").exists()


def test_an_argument_that_is_no_plain_value_is_refused_where_it_stands(tmp_path):
    write_study(tmp_path, with_activation('{ name = "python:m:A", day = 2020-01-01 }'))
    assert mistake("plan", "study.toml").startswith(
        "study.toml, line 20: factors.model.activation.1.day: 2020-01-01; allowed: a text in quotes, a number, "
    )


def test_a_mistake_in_a_change_names_the_change(tmp_path):
    write_study(tmp_path, PLAIN)
    assert mistake("plan", "study.toml", "--set", f"optimizer.name={USERS}Noisy").startswith(
        f"--set optimizer.name={USERS}Noisy: optimizer.name: '{USERS}Noisy' is random: "
    )


def test_a_module_of_another_place_is_not_taken_for_the_one_beside_the_study(tmp_path):
    (tmp_path / "json.py").write_text("class A: pass\n")
    write_study(tmp_path, with_activation('"python:json:A"'))
    assert (
        f"'python:json:A': 'json' is {Path(json.__file__).resolve()} here, and not the one in {tmp_path.resolve()}"
        in mistake("plan", "study.toml")
    )


def test_arguments_are_the_runs_and_come_back_from_the_store(tmp_path):
    text = with_activation(f'{{ name = "{SWISH}", start = 0.5 }}, {{ name = "{SWISH}", start = 1.0 }}')
    loaded = study.load(write_study(tmp_path, text))
    assert [arm.name for arm in loaded.arms] == [f"activation {SWISH}(start={start})" for start in (0.5, 1.0)]
    runs = list(loaded.runs())
    assert len({run.id for run in runs}) == 4
    assert runs[0].recipe["model"]["activation"] == {"name": SWISH, "start": 0.5}
    assert recipe.Recipe.model_validate(json.loads(json.dumps(runs[0].recipe))) == loaded.arms[0].recipe


def test_a_changed_part_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "changing.py").write_text("from torch.nn import Tanh\nclass A(Tanh): pass\n")
    file = write_study(tmp_path, with_activation('"python:changing:A"'))
    run(file, tmp_path / "out")
    with store.read(tmp_path / "out") as opened:
        assert list(opened.definition["own parts"]) == ["changing"]
    (tmp_path / "changing.py").write_text("from torch.nn import ReLU\nclass A(ReLU): pass\n")
    assert mistake("run", "study.toml", "--out", "out").endswith(
        f"'python:changing:A': {tmp_path.resolve()}/changing.py was changed since it was imported; begin a new Python"
    )
    monkeypatch.delitem(sys.modules, "changing")  # as a new Python
    own._text_at_import.clear()
    told = mistake("run", "study.toml", "--out", "out")
    assert re.fullmatch(
        r"out: holds results of another study or of this one before a change, and results never mix: own parts.changing: "
        r'"\w{12}" → "\w{12}"\. Take the change back, or give a new folder with --out',
        told,
    )


def test_the_example_runs_and_looking_at_its_store_imports_no_ones_code(tmp_path, monkeypatch):
    file = EXAMPLES / "own-parts.toml"
    run(file, tmp_path / "out", quick=True, seeds=2)
    assert statuses(tmp_path / "out") == ["done"] * 12

    def refuse(reference):
        raise AssertionError(f"{reference} was imported")

    monkeypatch.setattr(own, "find", refuse)
    for command in ("results", "status", "verdicts", "report"):
        assert allelse(command, "out").code == 0, command
    study.load(file)


def test_a_part_with_a_number_that_is_learned_trains(tmp_path):
    run(write_study(tmp_path, with_activation(f'"{USERS}StarReLU"')), tmp_path / "out")
    assert set(statuses(tmp_path / "out")) == {"done"}


def test_plan_lists_the_parts_with_their_files(tmp_path):
    write_study(tmp_path, OWN)
    shown = allelse("plan", "study.toml").out
    assert f"  {USERS}Softmax: one replica after the other\n    {ROOT}/tests/parts_of_users.py (" in shown


# ── what users read ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_part_of_the_example_that_is_refused():
    noisy = "python:own_parts.activations:NoisyReLU"
    told = mistake("plan", "sigmoid-vs-relu", "--quick", "--set", f"model.activation=['relu', '{noisy}']")
    assert f"'{noisy}' is random: " in told


def test_the_page_of_documentation_works_as_it_stands(tmp_path):
    text = (ROOT / "docs" / "own-parts.md").read_text("utf-8")
    files = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", text, re.DOTALL))
    assert list(files) == ["acts.py", "study.toml"]
    for name, content in files.items():
        (tmp_path / name).write_text(content, "utf-8")
    ended = allelse("plan", "study.toml")
    assert ended.code == 0, ended.err
    assert "python:acts:Squareplus: element by element: one serves a whole pack" in ended.out
    assert "python:acts:Swish: packed as it declares" in ended.out
    said = {phrase for row in re.findall(r"^\| (`.*?) \|", text, re.M) for phrase in re.findall(r"`([^`]+)`", row)}
    files_that_say = ("blocks/exactness.py", "engine/own.py", "blocks/own.py", "engine/losses.py")
    source = "".join((ROOT / "src/allelse" / file).read_text() for file in files_that_say)
    kinds = ("activation", "norm", "block", "model", "optim", "loss")
    reasons = {phrase.rstrip(" …") for phrase in said if not phrase.startswith(kinds)}
    assert {phrase for phrase in reasons if phrase.replace("torch.float32 where", "{y.dtype} where") not in source} == set()


def test_an_average_of_weights_whose_statistics_nobody_can_measure_anew_is_refused(tmp_path):
    norm = '"python:own_parts.norms:MeanOnlyBatchNorm"'
    write_study(tmp_path, changed('norm  = "batch"', f"norm  = {norm}", PLAIN))
    for averaging in ('"swa", start_epoch = 1', '"ema"'):
        told = allelse("plan", "study.toml", "--set", f"averaging={{ name = {averaging} }}")
        if told.code == 0:
            assert "ema" in averaging
            continue
        assert told.err == (
            'allelse: --set averaging={ name = "swa", start_epoch = 1 }: averaging.name: swa makes weights for which '
            "'python:own_parts.norms:MeanOnlyBatchNorm' has gathered no running_mean, and only BatchNorm's statistics are "
            "measured anew; allowed: ema, or no averaging (arm activation sigmoid)\n"
        )


def test_what_a_part_that_gathers_has_no_metric_for_is_not_promised(tmp_path):
    norms = '["batch", "python:own_parts.norms:MeanOnlyBatchNorm"]'
    claims = "".join(
        f'[[claims]]\nid = "{name}"\nsays = "?"\nkind = "higher"\nmetric = "{metric}"\n'
        'where = { "model.activation" = "relu" }\na = { "model.norm" = "batch" }\nb = { "model.norm" = "MeanOnlyBatchNorm" }\n'
        for name, metric in (("gap", "statistics_gap"), ("plain", "accuracy"))
    )
    text = changed('norm  = "batch"\n', "", PLAIN).replace("[factors]", f'[factors]\n"model.norm" = {norms}') + claims
    write_study(tmp_path, text.replace('"MeanOnlyBatchNorm"', '"python:own_parts.norms:MeanOnlyBatchNorm"'))
    planned = allelse("plan", "study.toml")
    assert planned.code == 0, planned.err
    told = " ".join(planned.out.split())
    assert "gap: undecided in any case: " in told
    assert "gathers statistics and has no statistics_gap" in told
    assert "plain: undecided in any case" not in told
