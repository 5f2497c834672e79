"""Every epoch and every probe as tables: rows against what is stored and against the metrics that are made of them."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from study_support import PLAIN, allelse, changed, mistake, write_study
from tuning_support import trained

from allelse import Results, __version__, load, run, store

MADE = changed("depth = 1", "depth = 2", PLAIN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two arms of two blocks, two seeds, two epochs; one factor has the name of a measured value."""
    base = tmp_path_factory.mktemp("frames")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        run(load(write_study(base, f'{MADE}lr = {{ low = {{ "optimizer.lr" = 0.001 }} }}\n')), base / "out", "cpu")
    return base / "out"


def csv(*words: object) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(allelse("results", *words, "--format", "csv").raw))


def test_the_last_epoch_of_each_run_is_what_its_metrics_say(folder):
    curves, runs = Results(folder).epochs(), Results(folder).runs().set_index("run")
    assert list(curves.columns[:5]) == ["run", "model.activation", "lr", "seed", "epoch"]
    assert curves.groupby("run")["epoch"].apply(list).tolist() == [[1, 2]] * 4
    assert set(curves["lr"]) == {"low"}
    last = curves[curves["epoch"] == 2].set_index("run")
    for metric in ("test_accuracy", "test_loss", "train_accuracy", "train_loss"):
        assert (last[metric] == runs.loc[last.index, metric]).all()
    assert last["lr_measured"].tolist() == [0.001] * 4  # the schedule is constant
    assert list(last["seed"]) == list(runs.loc[last.index, "seed"])


def test_the_probes_of_each_run_make_its_mechanism_metrics(folder):
    probes, runs = Results(folder).probes(), Results(folder).runs().set_index("run")
    assert list(probes.columns[:7]) == ["run", "model.activation", "lr", "seed", "layer", "step", "epoch"]
    ratio = probes.dropna(subset="gradient_ratio").set_index(["run", "step", "layer"])["gradient_ratio"]
    end = probes.dropna(subset="dead")["step"].max()
    for name, step in (("start", 0), ("end", end)):
        for one in runs.index:
            first, last = (ratio[one, step, f"blocks.{block}.conv"] for block in (0, 1))
            assert np.log10(last / first) == pytest.approx(runs.loc[one, f"gradient_decades_{name}"])
    at_end = probes.dropna(subset="dead").query("step == @end").groupby("run")["dead"].mean()
    assert at_end.to_dict() == pytest.approx(runs["dead"].to_dict())


@pytest.mark.parametrize(("option", "method"), [("--epochs", Results.epochs), ("--probes", Results.probes)])
def test_all_formats_hold_the_same(folder, option, method, tmp_path):
    expected = method(Results(folder))
    pd.testing.assert_frame_equal(csv(folder, option), expected, check_dtype=False)
    (tmp_path / "rows.parquet").write_bytes(allelse("results", folder, option, "--format", "parquet").raw)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "rows.parquet"), expected, check_dtype=False)
    rows = json.loads(allelse("results", folder, option, "--format", "json").raw)
    assert rows[0].pop("arm") == {"model.activation": "sigmoid", "lr": "low"}
    assert len(rows) == len(expected)
    assert {key: np.nan if value is None else value for key, value in rows[0].items()} == pytest.approx(
        expected.drop(columns=["model.activation", "lr"]).iloc[0].to_dict(), nan_ok=True
    )


def test_tuning_runs_come_first_with_what_they_are_for(tmp_path):
    _, out = trained(tmp_path)
    curves = csv(out, "--epochs")
    assert list(curves.columns[:5]) == ["run", "purpose", "model.activation", "optimizer.lr", "seed"]
    assert curves["purpose"].tolist() == ["tuning"] * 12 + ["comparison"] * 8
    runs = csv(out, "--runs").set_index("run")["optimizer.lr"]
    assert (curves["optimizer.lr"] == runs.loc[curves["run"]].to_numpy()).all()
    assert len(Results(out).epochs()) == 8


def test_before_anything_is_finished_there_are_no_rows(folder, tmp_path):
    with store.read(folder) as opened, store.write(tmp_path / "out", opened.definition) as begun:
        begun.begin(opened.plan, [(one.id, one.arm, one.seed) for one in opened.runs()])
    assert list(csv(tmp_path / "out", "--probes").columns) == ["run", "model.activation", "lr", "seed"]
    assert allelse("results", tmp_path / "out", "--epochs", "--format", "json").out == "[]\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs"], "--epochs: is too wide for a terminal; give --format csv, json or parquet"),
        (["--runs", "--probes"], "--runs --probes: are tables of their own; give one of them at a time"),
        (["--probes", "--timing", "--format", "csv"], "--timing: belongs to single runs; give --runs too"),
        (["--epochs", "--metric", "dead", "--format", "csv"], "--metric dead: summarises arms; leave out --epochs, or "),
    ],
)
def test_options_that_do_not_go_together(folder, words, said):
    assert mistake("results", folder, *words).startswith(said)


def test_the_version_is_told():
    ended = allelse("--version")
    assert ended.code == 0
    assert ended.out.startswith(f"allelse {__version__}, torch 2.")
