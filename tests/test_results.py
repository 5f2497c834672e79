"""What is published is what was measured: pages are made from the kept stores, and the study files still say what was run."""

import argparse
import csv
import re
import shlex

import numpy as np
import pandas as pd
import pytest
from report_support import definition, result, write_store
from scipy.stats import ttest_ind

from allelse import store, study
from allelse.report import gather
from benchmarks import measured, publish, replication

KEPT = sorted(path.parent for path in measured.RESULTS.glob("*/study.sqlite"))
NOT_DECISIVE = {"command", "notes", "references", "data"}
kept = pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)


@pytest.mark.parametrize("language", publish.READMES)
def test_the_tables_of_the_readme_are_made_from_the_kept_stores(language):
    text = publish.READMES[language].read_text("utf-8")
    assert publish.with_tables(text, language) == text


def test_the_tables_of_recipes_and_second_runs_are_made_from_the_kept_stores():
    text = (measured.RESULTS / "README.md").read_text("utf-8")
    assert publish.with_page_tables(text) == text


@kept
def test_the_study_file_still_says_what_was_run(folder):
    with store.read(folder) as opened:
        stored, first = opened.definition, (opened.parts or [opened.definition])[0]["seeds"]
    assert list(stored["seeds"][: len(first)]) == list(first)
    _, _, name, *options = shlex.split(stored["command"])
    asked = argparse.ArgumentParser()
    asked.add_argument("--scaled", action="store_true")
    asked.add_argument("--seeds", type=int)
    asked.add_argument("--set", action="append", default=[])
    given, path = asked.parse_args(options), measured.ROOT / name

    def now(seeds):
        file = path if path.exists() else name
        return study.load(file, scaled=given.scaled, seeds=seeds, changes=given.set).definition()

    assert now(given.seeds)["seeds"] == list(first)
    # A second part has as many seeds more as its command asked for.
    loaded = now(len(stored["seeds"]))
    for key in (set(stored) | set(loaded)) - NOT_DECISIVE:
        assert stored.get(key) == loaded.get(key), key


@kept
def test_the_csv_holds_every_run_of_the_store(folder):
    with store.read(folder) as opened:
        stored = {run.id: run for run in opened.runs()}
    rows = list(csv.DictReader((folder / "runs.csv").read_text("utf-8").splitlines()))
    assert {row["run"] for row in rows} == set(stored)
    for row in rows:
        result = stored[row["run"]].result
        assert row["status"] == stored[row["run"]].status
        assert not result or float(row["accuracy"]) == result.metrics["accuracy"]


@kept
def test_every_run_names_its_commit_and_device_and_nothing_of_the_folders_it_was_made_in(folder):
    with store.read(folder) as opened:
        made = [run.result.provenance for run in opened.runs() if run.result]
    assert made
    assert all(one.device for one in made)
    if not folder.name.startswith("recipe"):  # some of those were trained before commits were stored
        assert all(one.commit and not one.commit.endswith("+") for one in made)
    for file in folder.rglob("*"):
        if file.is_file():
            assert not re.findall(rb"/(?:work|tmp|root|home)/", file.read_bytes()), file


@pytest.mark.parametrize("name", measured.STUDIES)
def test_every_claim_and_factor_has_its_words_in_korean(name):
    loaded, words = study.load(name), measured.WORDS["ko"]
    assert {claim.id for claim in loaded.claims} <= set(words["claims"])
    assert set(loaded.factors) <= set(words["factors"])
    assert set(measured.WORDS["en"]) == set(words)


@pytest.mark.parametrize("name", measured.STUDIES)
def test_each_table_has_the_briefs_figures_beside_ours_of_every_version(name):
    declared = study.load(name)
    heading, _, *rows = publish.arm_table(publish.versions(name), "en")
    headings = [cell.strip() for cell in heading.strip("| ").split(" | ")]
    cells = [[cell.strip("* ") for cell in row.strip("| ").split(" | ")] for row in rows if row]
    shown = {tuple(row[: len(declared.factors)]): row for row in cells}
    brief = {tuple(map(str, one["arm"].values())): one["accuracy"] for one in declared.definition()["references"]}
    assert {arm: float(row[len(declared.factors)]) for arm, row in shown.items() if row[len(declared.factors)] != "–"} == brief
    versions = [folder for folder in KEPT if folder.name.rpartition("-")[0] == name]
    assert sum("epoch" in title for title in headings) == len(versions)
    expected = set(brief)
    for folder in versions:
        runs = pd.read_csv(folder / "runs.csv", keep_default_na=False)
        runs["accuracy"] = pd.to_numeric(runs["accuracy"])  # none of runs that are pending
        column = headings.index(measured.Measured.of(folder.name).title("en"))
        groups = runs.groupby([runs[factor].astype(str) for factor in declared.factors])["accuracy"]
        for arm, accuracies in groups:
            assert float(shown[arm][column]) == pytest.approx(accuracies.mean(), abs=0.051), arm
            n, pending = accuracies.count(), accuracies.isna().sum()
            assert shown[arm][headings.index("n", column)] == (f"{n}, {pending} pending" if pending else str(n))
            expected.add(arm)
    assert set(shown) == expected


def test_effects_are_told_with_running_and_with_recalibrated_statistics():
    runs = pd.read_csv(measured.RESULTS / "sigmoid-vs-relu-scaled" / "runs.csv").query("`model.norm` == 'batch'")
    text = publish.READMES["en"].read_text("utf-8")
    told = re.search(r"ReLU is above sigmoid at every depth \((.*) points; recalibrated (.*)\)", text)
    for metric, sizes in zip(("accuracy", "accuracy_recalibrated"), told.groups(), strict=True):
        means = runs.pivot_table(index="model.depth", columns="model.activation", values=metric)
        assert [float(size) for size in sizes.split(" / ")] == pytest.approx(list(means["relu"] - means["sigmoid"]), abs=0.051)


def test_what_a_scaled_study_did_not_ask_is_neither_supported_nor_refuted():
    lines = dict(line.split("**: ", 1) for line in publish.summary("en") if line.startswith("- **"))
    assert "batch size 32" in lines["- **not asked of this version"]
    assert not any("batch size 32" in claims for heading, claims in lines.items() if "not asked" not in heading)


def test_a_store_is_kept_without_the_folder_of_the_clone_and_can_be_read(tmp_path, monkeypatch):
    root = tmp_path / "clone"
    for name, path in (("ROOT", root), ("RESULTS", root / "results")):
        monkeypatch.setattr(measured, name, path)
    (root / "results").mkdir(parents=True)
    described = {**definition(), "command": f"allelse run {root}/mine.toml"}
    kept = measured.take(write_store(tmp_path / "out", described))
    assert str(root).encode() not in (kept / store.FILE).read_bytes()
    with store.read(kept) as opened:
        assert opened.definition["command"] == "allelse run mine.toml"
        assert opened.counts() == {"done": len(opened.runs())}


@pytest.mark.parametrize(
    ("seeds", "changes", "expected"),
    [
        (10, [], "sigmoid-vs-relu"),
        (12, [], "sigmoid-vs-relu"),
        (1, [], "sigmoid-vs-relu-begun"),
        (10, ["model.depth=[1, 8]"], "sigmoid-vs-relu-begun"),
        (40, ["model.depth=[1, 8]"], "sigmoid-vs-relu-begun"),
    ],
)
def test_a_part_of_a_full_study_does_not_pass_for_the_whole(seeds, changes, expected):
    definition = study.load("sigmoid-vs-relu", seeds=seeds, changes=changes).definition()
    assert measured.kept_as(definition, {"done": 1}) == expected


@pytest.mark.parametrize(("planned", "done", "judges"), [(2, 2, True), (1, 1, False), (10, 2, False)])
def test_a_part_of_a_full_study_judges_where_all_that_it_planned_is_there(planned, done, judges, tmp_path):
    loaded = study.load("conv-activation-norm-position", seeds=planned)
    specs, described = list(loaded.runs()), loaded.definition()
    with store.write(tmp_path, described) as opened:
        opened.begin({"packs": [], "machine": {}, "computing": {}}, [(spec.id, spec.arm, spec.seed) for spec in specs])
        opened.record([result(spec, 50.0 + spec.seed, probes=False) for spec in specs if spec.seed < done])
        part = measured.Measured(gather(opened), opened.table(timing=True))
    assert (part.version, part.judges) == ("begun", judges)
    assert measured.Measured.of("conv-activation-norm-position-scaled").judges


def test_a_full_study_of_which_runs_are_pending_does_not_pass_for_the_whole():
    definition = study.load("sigmoid-vs-relu").definition()
    assert measured.kept_as(definition, {"done": 310, "diverged": 10}) == "sigmoid-vs-relu"
    for missing in ("pending", "failed"):
        assert measured.kept_as(definition, {"done": 319, missing: 1}) == "sigmoid-vs-relu-begun"
    definition["arms"][0]["seeds"] = 3
    assert measured.kept_as(definition, {"done": 313}) == "sigmoid-vs-relu-begun"


def test_a_study_with_another_recipe_is_not_published_as_the_packaged_one():
    assert measured.kept_as(study.load("sigmoid-vs-relu", scaled=True).definition(), {}) == "sigmoid-vs-relu-scaled"
    for change in ("batch_size=64", "epochs=31"):
        with pytest.raises(ValueError, match="not what the packaged study declares"):
            measured.kept_as(study.load("sigmoid-vs-relu", changes=[change]).definition(), {})


def test_a_shorter_training_of_a_study_is_published_as_such():
    assert measured.kept_as(study.load("sigmoid-vs-relu", changes=["epochs=29"]).definition(), {}) == "sigmoid-vs-relu-shorter"
    assert measured.kept_as(study.load("sigmoid-vs-relu", changes=["epochs=30"]).definition(), {}) == "sigmoid-vs-relu"
    with pytest.raises(ValueError, match="not what the packaged study declares"):
        measured.kept_as(study.load("sigmoid-vs-relu", changes=["epochs=29", "batch_size=64"]).definition(), {})


def test_a_second_run_is_compared_as_scipy_does():
    values = np.random.default_rng(0).normal(60.0, 2.0, size=(2, 2, 4))
    first, second = (
        pd.DataFrame(
            [
                {"norm": norm, "seed": seed, "status": "done", "accuracy": values[part, place, seed]}
                for place, norm in enumerate(("batch", "group"))
                for seed in range(4)
            ]
        )
        for part in range(2)
    )
    found = list(replication.differences(first, second, ["norm"]))
    assert [arm for arm, *_ in found] == ["norm = batch", "norm = group"]
    for (_, mean1, mean2, low, high), ours, theirs in zip(found, values[0], values[1], strict=True):
        expected = ttest_ind(ours, theirs, equal_var=False).confidence_interval()
        assert (mean1, mean2) == pytest.approx((ours.mean(), theirs.mean()))
        assert (low, high) == pytest.approx((expected.low, expected.high))
