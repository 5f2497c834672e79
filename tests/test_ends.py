"""How a command ends where something outside it does: its reader, a signal, what could not be measured."""

from __future__ import annotations

import errno
import signal
import sys

import pytest
import torch
from study_support import PLAIN, allelse, changed, statuses, write_study
from tuning_support import TUNED

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


LOST = {"Ctrl-C": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143)}
lost_signals = pytest.mark.parametrize(("number", "code"), LOST.values(), ids=LOST)


@lost_signals
def test_a_signal_while_a_row_is_sealed_stops_the_study_and_damages_nothing(tmp_path, monkeypatch, number, code):
    """SQLite swallows what a function that it calls raises, and makes an error of its own of it."""
    real, told = schema.seal, []

    def seal(*values):
        if "done" in values and not told:
            told.append(values)
            signal.raise_signal(number)
        return real(*values)

    file, out = write_study(tmp_path), tmp_path / "out"
    monkeypatch.setattr(schema, "seal", seal)
    ended = allelse("run", file, "--out", out)
    assert told
    assert (ended.code, ended.err.splitlines()[-1]) == (code, "allelse: stopped; the same command goes on from here")
    assert allelse("run", file, "--out", out).code == 0
    assert statuses(out) == ["done"] * 4


@lost_signals
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_throws_away_stops_the_study_too(tmp_path, monkeypatch, number, code):
    """What a signal raises while a finaliser runs reaches nobody."""
    real, struck = local.carry_out, []

    class Finalised:
        def __del__(self):
            struck.append(True)
            signal.raise_signal(number)

    def carry_out(*arguments):
        if not struck:
            Finalised()
        return real(*arguments)

    monkeypatch.setattr(local, "carry_out", carry_out)
    ended = allelse("run", write_study(tmp_path), "--out", tmp_path / "out")
    assert struck
    assert (ended.code, ended.err.splitlines()[-1]) == (code, "allelse: stopped; the same command goes on from here")


def test_a_signal_that_a_library_turns_into_an_error_is_no_failure_of_a_run(tmp_path, monkeypatch):
    real, struck = engine.train_pack, []

    def train_pack(*arguments):
        if struck:
            return real(*arguments)
        struck.append(True)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("a callback failed") from None

    monkeypatch.setattr(engine, "train_pack", train_pack)
    ended = allelse("run", write_study(tmp_path), "--out", tmp_path / "out")
    assert (ended.code, ended.err.splitlines()[-1]) == (130, "allelse: stopped; the same command goes on from here")
    assert set(statuses(tmp_path / "out")) == {"pending"}


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


def test_plan_says_in_a_line_which_networks_cannot_take_a_step_and_does_not_invent_their_time(tmp_path, monkeypatch, caplog):
    def rate(pack, *_):
        if pack.runs[0].arm["model.depth"] == 2:
            raise MemoryError
        return 1e6 / len(pack.runs)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engine, "images_per_second", rate)
    file = write_study(tmp_path, changed('"model.activation" = ["sigmoid", "relu"]', '"model.depth" = [1, 2]', PLAIN))
    ended = allelse("plan", file, "--device", "cpu")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines[3].endswith("1,000,000 0 s")
    assert lines[4].endswith("– –")
    assert "about 0 s, and 2 runs that cannot be trained here" in " ".join(lines)
    told = "a network as in model.depth = 2 cannot take a step, so its time is not known: MemoryError"
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [(told, None)]


def test_a_pack_that_is_too_large_is_no_network_that_cannot_be_trained(tmp_path, monkeypatch, caplog):
    def rate(pack, *_):
        if len(pack.runs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1e6

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engine, "images_per_second", rate)
    ended = allelse("plan", write_study(tmp_path), "--device", "cpu")
    assert "4 runs in 4 packs" in ended.out
    assert "cannot" not in ended.err
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_no_time_is_invented_for_tuning_runs_that_cannot_take_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: None)
    file = write_study(tmp_path, TUNED)
    assert "12 more runs of 1 epoch, with 2 seeds of their own: their time is not known" in allelse("plan", file).out
    ended = allelse("run", file, "--out", tmp_path / "out")
    assert "4 runs in 4 packs, their time is not known\n" in ended.err
