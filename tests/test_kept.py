"""Stores of older versions: every command reads them, and ``run`` goes on in them or says in one line why not.

``tests/kept`` holds real folders of earlier versions, a format or a change of what is written each. They were made with the
studies that lie there; the second arm of most was still pending. Only the host's name was changed.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path

import pytest
from study_support import allelse, mistake, run

from allelse import store

KEPT = Path(__file__).parent / "kept"
NAMES = sorted(path.name.removesuffix(".sqlite.gz") for path in KEPT.glob("*.sqlite.gz"))
GOING_ON = [name for name in NAMES if name not in ("1-without-probes", "1-tuned")]


@pytest.fixture
def folder_of(tmp_path):
    """Lays a kept store out as an output folder."""

    def lay_out(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / store.FILE).write_bytes(gzip.decompress((KEPT / f"{name}.sqlite.gz").read_bytes()))
        return folder

    return lay_out


def test_every_format_is_kept():
    assert {int(name[0]) for name in NAMES} == set(range(1, store.FORMAT + 1))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_reads_a_store_of_an_older_version_and_leaves_it_as_it_is(name, folder_of):
    folder = folder_of(name)
    before = (folder / store.FILE).read_bytes()
    for command in (["status"], ["results"], ["results", "--runs", "--timing", "--format", "csv"], ["verdicts"], ["report"]):
        ended = allelse(command[0], folder, *command[1:])
        assert (ended.code, ended.err) == (0, ""), command
    assert "names no published figures" in mistake("compare", folder)
    assert "kept" in (folder / "report.md").read_text()
    assert (folder / store.FILE).read_bytes() == before


@pytest.mark.parametrize("name", GOING_ON)
def test_run_goes_on_in_a_store_of_an_older_version_and_keeps_what_is_finished(name, folder_of):
    folder = folder_of(name)
    with store.read(folder) as opened:
        before = {run.id: run.result for run in opened.runs() if run.status == "done"}
    assert len(before) == 2
    assert run(KEPT / "study.toml", folder).runs_by_status == {"done": 4}
    with store.read(folder) as opened:
        assert {run.id: run.result for run in opened.runs() if run.id in before} == before
    connection = sqlite3.connect(folder / store.FILE)
    assert connection.execute("PRAGMA user_version").fetchone() == (store.FORMAT,)
    assert connection.execute("SELECT count(*) FROM runs WHERE seal IS NULL").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_store_of_an_older_version_is_merged_with_all_that_it_holds(name, folder_of, tmp_path):
    folder = folder_of(name)
    assert allelse("merge", tmp_path / "united", folder).code == 0
    with store.read(folder) as opened, store.read(tmp_path / "united") as united:
        assert united.runs() == opened.runs()
    assert allelse("report", tmp_path / "united").code == 0


def test_a_finished_tuned_store_of_an_older_version_is_whole(folder_of):
    folder = folder_of("1-tuned")
    before = json.loads(allelse("results", folder, "--runs", "--format", "json").raw)
    assert run(KEPT / "tuned.toml", folder).runs_by_status == {"done": 4}
    assert json.loads(allelse("results", folder, "--runs", "--format", "json").raw) == before


def test_a_store_whose_runs_had_other_ids_is_told_in_one_line(folder_of):
    told = mistake("run", KEPT / "study.toml", "--out", folder_of("1-without-probes"), "--device", "cpu")
    assert "holds results of another study or of this one before a change, and results never mix: " in told
    assert "give a new folder with --out" in told
