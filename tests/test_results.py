"""What is published is what was measured: pages are made from the kept stores, and the study files still say what was run."""

import csv
import re

import pytest

from allelse import store, study
from benchmarks import publish

KEPT = sorted(path.parent for path in publish.RESULTS.glob("*/study.sqlite"))
NOT_DECISIVE = {"command", "notes", "references", "data"}
kept = pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)


@pytest.mark.parametrize("language", publish.READMES)
def test_the_tables_of_the_readme_are_made_from_the_kept_stores(language):
    text = publish.READMES[language].read_text("utf-8")
    assert publish.with_tables(text, language) == text


def test_the_tables_of_recipes_are_made_from_the_kept_stores():
    text = (publish.RESULTS / "README.md").read_text("utf-8")
    assert publish.with_recipes(text) == text


@kept
def test_the_study_file_still_says_what_was_run(folder):
    with store.read(folder) as opened:
        stored = opened.definition
    _, _, name, *options = stored["command"].split()
    path = publish.ROOT / name
    now = study.load(path if path.exists() else name, scaled="--scaled" in options).definition()
    assert set(options) <= {"--scaled"}
    for key in (set(stored) | set(now)) - NOT_DECISIVE:
        assert stored.get(key) == now.get(key), key


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


@pytest.mark.parametrize("name", publish.STUDIES)
def test_every_claim_and_factor_has_its_words_in_korean(name):
    loaded, words = study.load(name), publish.WORDS["ko"]
    assert {claim.id for claim in loaded.claims} <= set(words["claims"])
    assert set(loaded.factors) <= set(words["factors"])
    assert set(publish.WORDS["en"]) == set(words)
