"""How a command ends where something outside it does: its reader, a signal, what could not be measured."""

from __future__ import annotations

import errno
import sys

import pytest
from study_support import allelse, statuses, write_study

from allelse import engine
from allelse.cli import progress, tables
from allelse.launch import local, processes
from allelse.store import schema


@pytest.mark.parametrize(
    ("error", "is_failing", "code"),
    [(BrokenPipeError(), False, 0), (BrokenPipeError(), True, 1), (OSError(errno.ENOSPC, "No space left"), False, 2)],
)
def test_a_report_is_written_and_failures_are_told_where_the_table_cannot_be(tmp_path, monkeypatch, error, is_failing, code):
    def unread(*_):
        raise error

    def train_pack(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(tables, "show_results", unread)
    monkeypatch.setattr(sys.modules["allelse.cli.main"], "discard", lambda stream: None)
    if is_failing:
        monkeypatch.setattr(engine, "train_pack", train_pack)
    ended = allelse("run", write_study(tmp_path), "--out", tmp_path / "out")
    assert ended.code == code
    assert ("4 runs failed" in ended.err) is is_failing
    assert (tmp_path / "out" / "report.html").exists()


def test_ctrl_c_while_a_row_is_sealed_damages_nothing(tmp_path, monkeypatch):
    """SQLite swallows what a function that it calls raises, so that nobody can tell why it did."""
    real, told = schema.seal, []

    def seal(*values):
        if "done" in values and not told:
            told.append(values)
            raise KeyboardInterrupt
        return real(*values)

    file, out = write_study(tmp_path), tmp_path / "out"
    monkeypatch.setattr(schema, "seal", seal)
    ended = allelse("run", file, "--out", out)
    assert told
    assert ended.code == 2
    assert (
        f"allelse: {out}: stopped while it was read or written, or its study.sqlite is damaged; what is finished" in ended.err
    )
    assert allelse("run", file, "--out", out).code == 0
    assert statuses(out) == ["done"] * 4


def test_a_study_whose_speed_could_not_be_measured_tells_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: None)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    ended = allelse("run", write_study(tmp_path), "--out", tmp_path / "out")
    assert ended.code == 0
    assert " s spent" in ended.err


def test_more_processes_than_there_can_be_are_told(tmp_path, monkeypatch):
    def start(self):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(processes.SpawnProcess, "start", start)
    ended = allelse("run", write_study(tmp_path), "--workers", "2", "--out", tmp_path / "out")
    assert ended.code == 2
    expected = "allelse: --workers: no more processes can be begun here: Too many open files; use fewer"
    assert ended.err.splitlines()[-1] == expected
