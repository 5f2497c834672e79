"""Progress that survives: the journal, what ``status`` says of it while a study runs and after, watching, and the log."""

import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import pytest
from study_support import Quiet, allelse, changed, run, statuses, write_study

from allelse import engine, launch, progress, store, study
from allelse.cli.status import command, look
from allelse.launch import journal as launch_journal
from allelse.launch import log as launch_log
from allelse.plan import Plan

SLOW = changed("epochs          = 2", "epochs          = 4000")
COMMAND = "import allelse.engine.loop as l; l.SECONDS_BETWEEN_CHECKPOINTS = -1; from allelse.cli import main; main()"
JOURNAL = progress.Journal(
    written=1.8e9,
    part="comparison",
    share=0.4,
    seconds_left=100.0,
    training=(progress.Training("relu", 3, 0.2, 1, 5),),
    options=("--device", "cpu"),
)


def status(out):
    return " ".join(allelse("status", out).out.split())


# ── the journal ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_journal_is_read_back_as_it_was_written(tmp_path):
    assert progress.write(tmp_path, JOURNAL)
    assert progress.read(tmp_path) == JOURNAL
    assert [path.name for path in tmp_path.iterdir()] == [progress.FILE]


def test_a_journal_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    progress.write(tmp_path, JOURNAL)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert not progress.write(tmp_path, replace(JOURNAL, share=0.9))
    assert progress.read(tmp_path) == JOURNAL
    assert [path.name for path in tmp_path.iterdir()] == [progress.FILE]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"share": float("nan")},
        {"share": -1},
        {"written": "now"},
        {"written": True},
        {"seconds_left": 1e300},
        {"seconds_left": None},
        {"part": "rm -rf"},
        {"part": ["tuning"]},
        {"training": 3},
        {"training": [{}]},
        {"training": [{"arm": 3, "runs": 1, "share": 0, "epoch": 0, "epochs": 1}]},
        {"options": [3]},
    ],
    ids=str,
)
def test_a_forged_journal_counts_as_none(changes, tmp_path):
    progress.write(tmp_path, JOURNAL)
    values = json.loads((tmp_path / progress.FILE).read_text())
    (tmp_path / progress.FILE).write_text(json.dumps({**values, **changes}))
    assert progress.read(tmp_path) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 50_000, b" " * 200_000, b'{"format": 1}'])
def test_a_damaged_journal_counts_as_none_and_status_goes_by_the_store(raw, stopped):
    (stopped / progress.FILE).write_bytes(raw)
    assert progress.read(stopped) is None
    assert "4 runs: 2 done, 2 pending" in status(stopped)
    assert "go on with: allelse run " in status(stopped)


def test_nothing_in_a_journal_moves_the_cursor_or_becomes_another_command(stopped):
    evil = "\x1b[2Jrelu\r\n\u202e" + "x" * 1000
    forged = replace(JOURNAL, training=(progress.Training(evil, 1, 0.1, 0, 1),), options=("; rm -rf ~",))
    progress.write(stopped, forged)
    read = progress.read(stopped)
    assert read.training[0].arm.startswith("[2Jrelu x")
    assert len(read.training[0].arm) <= 300
    shown = allelse("status", stopped).out
    assert "\x1b" not in shown
    assert "'; rm -rf ~'" in shown


# ── a study keeps it ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def one_pack_an_arm(monkeypatch):
    from allelse.launch import local

    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: 1e4 * len(pack.runs))


@pytest.fixture
def stopped(tmp_path, monkeypatch, one_pack_an_arm):
    """The folder of a study that was stopped by Ctrl-C when its first arm was done."""
    real = engine.train_pack

    def train_pack(pack, *rest):
        if pack.runs[0].arm["model.activation"] == "relu":
            raise KeyboardInterrupt
        return real(pack, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", train_pack)
        with pytest.raises(KeyboardInterrupt):
            run(write_study(tmp_path), tmp_path / "out")
    return tmp_path / "out"


class Timed(Quiet):
    """Wants to know the time left."""

    def __init__(self):
        super().__init__()
        self.lefts = []

    def left(self, seconds):
        self.lefts.append(seconds)


@pytest.mark.usefixtures("one_pack_an_arm")
def test_a_running_study_writes_what_it_is_at_and_tells_its_watcher_the_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr(launch_journal, "SECONDS_BETWEEN_WRITES", -1.0)
    seen, watcher, real = [], Timed(), progress.write

    def write(folder, journal):
        seen.append(journal)
        return real(folder, journal)

    monkeypatch.setattr(progress, "write", write)
    launch.run_study(study.load(write_study(tmp_path)), tmp_path / "out", "cpu", watcher, launch.Computing(graph=False))
    shares = [journal.share for journal in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    arms = [journal.training[0].arm for journal in seen if journal.training]
    assert list(dict.fromkeys(arms)) == ["model.activation = sigmoid", "model.activation = relu"]
    assert {journal.training[0].runs for journal in seen if journal.training} == {2}
    assert all(len(journal.training) <= 1 for journal in seen)
    assert seen[-1].ended
    assert not any(journal.ended for journal in seen[:-1])
    assert seen[-1].options == ("--device", "cpu", "--no-graph")
    assert watcher.lefts[-1] == pytest.approx(0.0, abs=0.01)
    assert min(watcher.lefts) >= 0
    assert max(watcher.lefts) > 0
    assert progress.read(tmp_path / "out") == seen[-1]
    assert "go on with" not in status(tmp_path / "out")


def test_a_journal_that_cannot_be_written_costs_nothing_else(stopped, tmp_path, monkeypatch):
    (stopped / progress.FILE).unlink(missing_ok=True)
    (stopped / progress.FILE).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
        assert run(tmp_path / "study.toml", stopped).runs_by_status == {"done": 2, "failed": 2}
    assert run(tmp_path / "study.toml", stopped).runs_by_status == {"done": 4}
    assert "4 runs: 4 done" in status(stopped)


def test_a_stopped_study_says_how_far_it_is_and_what_goes_on(stopped):
    said = status(stopped)
    assert "stopped 0 s ago, with 50% done" in said
    progress.write(stopped, replace(progress.read(stopped), seconds_left=120.0))  # less than the plan, by what is kept
    assert "about 2 min left on the device that it was planned on; the same command goes on" in status(stopped)
    assert f"go on with: allelse run {stopped.parent}/study.toml --device cpu --out {stopped}" in said
    assert "is at work" not in said


def test_the_command_that_goes_on_is_what_was_given_to_the_letter(stopped):
    words = ["allelse", "run", "my  study.toml", "--set", "model.width=[" + ", ".join(["8"] * 200) + "]"]
    told = command({"command": shlex.join(words)}, stopped, None)
    assert shlex.split(told) == [*words, "--out", str(stopped)]
    assert "\n" not in command({"command": shlex.join([*words, "a\nrm b"])}, stopped, None)


def test_what_failed_is_counted_in_the_time_left_as_it_is_tried_again(stopped):
    with store.read(stopped) as opened:
        seen = look(opened)
    journal = replace(progress.read(stopped), seconds_left=0.0)
    seen = replace(seen, counts={"done": 2, "failed": 2}, planned_seconds_left=100.0, journal=journal)
    assert seen.seconds_left == 100.0
    assert replace(seen, counts={"done": 2, "planned": 2}).seconds_left == 0.0


@pytest.mark.usefixtures("one_pack_an_arm")
def test_a_resumed_study_begins_where_it_was(stopped, tmp_path):
    watcher = Timed()
    launch.run_study(study.load(tmp_path / "study.toml"), stopped, "cpu", watcher)
    assert progress.read(stopped).share == 1.0
    assert "4 runs: 4 done" in status(stopped)
    assert "stopped" not in status(stopped)


# ── from another terminal ───────────────────────────────────────────────────────────────────────────────────────────


def wait_until(condition, seconds=60.0):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it took too long"
        time.sleep(0.05)


def test_watching_follows_a_running_study_until_it_is_killed_and_then_says_how_to_go_on(tmp_path):
    file, out = write_study(tmp_path, SLOW), tmp_path / "out"
    arguments = [sys.executable, "-c", COMMAND, "run", file, "--out", out, "--device", "cpu"]
    watch = [sys.executable, "-m", "allelse", "status", out, "--watch"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        wait_until(lambda: (found := progress.read(out)) is not None and found.training)
        who = f"process {running.pid} on {socket.gethostname()} is at work on it"
        said = status(out)
        assert who in said
        assert "training model.activation = sigmoid: " in said
        assert " left" in said
        assert "go on with" not in said

        # Ctrl-C ends watching, and nothing else
        with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            first = watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            shown, problem = watching.communicate()
        assert "% done, about " in first
        assert (watching.returncode, problem) == (0, "")
        assert running.poll() is None

        with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            watching.stdout.readline()
            running.kill()
            running.wait()
            shown, problem = watching.communicate(timeout=60)
    assert (watching.returncode, problem) == (0, "")
    text = " ".join(shown.split())
    assert "stopped " in text
    assert f"go on with: allelse run {file} --device cpu --out {out}" in text
    assert who not in text
    assert "\x1b" not in shown
    assert "pending" in statuses(out)


def test_watching_a_study_that_is_finished_shows_it_and_ends(stopped, tmp_path):
    run(tmp_path / "study.toml", stopped)
    ended = allelse("status", stopped, "--watch")
    assert ended.code == 0
    assert "4 runs: 4 done" in ended.out


# ── the log ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("always")
def test_warnings_of_all_kinds_are_logged_with_time_and_pack_and_shown_by_status(stopped, tmp_path, monkeypatch):
    real = engine.train_pack

    def train_pack(pack, dataset, device, checkpoint, advance):
        def told(now):
            advance(now)
            if now.doing == "evaluating" and now.epoch == 1:
                warnings.warn("numbers look odd", stacklevel=1)
                logging.getLogger("torch.somewhere").warning("a kernel is slow")
                logging.getLogger("allelse").warning("a checkpoint was passed over")

        return real(pack, dataset, device, checkpoint, told)

    monkeypatch.setattr(engine, "train_pack", train_pack)
    run(tmp_path / "study.toml", stopped)
    with store.read(stopped) as opened:
        pack = Plan.from_json(opened.plan, study.load(tmp_path / "study.toml")).packs[1].pack.id
    lines = [line for line in (stopped / "allelse.log").read_text().splitlines() if " WARNING " in line]
    assert len(lines) == 3
    assert all(f"WARNING pack {pack}: " in line and line[:2] == "20" for line in lines)
    assert "numbers look odd" in lines[0]
    said = status(stopped)
    assert all(text in said for text in ("numbers look odd", "a kernel is slow", "a checkpoint was passed over"))


def test_the_same_warning_is_written_a_few_times_and_then_counted_and_a_log_goes_on(tmp_path):
    log = logging.getLogger("allelse")
    for _ in range(2):
        with launch_log.Log(tmp_path):
            for number in range(1_000):
                log.warning("pack %s has %d odd numbers", f"{number:012x}", number)
            log.warning("something else")
        log.warning("nobody listens any more")
    text = (tmp_path / launch_log.FILE).read_text()
    assert text.count("odd numbers") == 2 * launch_log.MOST_ALIKE + 2
    assert text.count("and 990 more times") == 2
    assert text.count("something else") == 2
    assert "nobody listens" not in text


def test_a_log_of_ever_new_warnings_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(launch_log, "MOST_BYTES", 20_000)
    monkeypatch.setattr(launch_log, "MOST_KINDS", 50)
    with launch_log.Log(tmp_path) as opened:
        for number in range(2_000):
            logging.getLogger("allelse").warning("warning " + "".join(chr(97 + int(digit)) for digit in str(number)))
        assert len(opened.alike) <= 50
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * 20_000


def test_unlike_failures_of_one_form_are_all_logged(tmp_path):
    log, words = logging.getLogger("allelse"), "abcdefghijklmnop"
    with launch_log.Log(tmp_path):
        for letter in words:
            log.log(logging.WARNING, "%s", f"a warning of kind {letter}")
    assert (tmp_path / launch_log.FILE).read_text().count("a warning of kind") == len(words)
