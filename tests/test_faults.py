"""Faults of the disk: nothing that was finished is lost, one line says what happened and what to do, and the study goes on."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from report_support import definition, result, write_store
from study_support import Quiet, allelse, changed, mistake, run, statuses, write_study

from allelse import engine, launch, store, study
from allelse.errors import StoreError
from allelse.launch import local
from allelse.launch.log import Log
from allelse.progress import journal
from allelse.records import RunSpec
from allelse.store import folder as opening
from allelse.store import holder

STUDY = changed("epochs          = 2", "epochs          = 1")


@pytest.fixture
def one_run_a_pack(monkeypatch):
    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: 100.0)


class Disk:
    """Between allelse and SQLite: a disk that breaks when it is told to."""

    def __init__(self, monkeypatch):
        self.pages, self.connections, real = 1_000_000, [], sqlite3.connect

        def connect(*arguments, **options):
            connection = real(*arguments, **options)
            connection.execute(f"PRAGMA max_page_count = {self.pages}")  # beyond, SQLite says what it says of a full disk
            self.connections.append(connection)
            return connection

        monkeypatch.setattr(sqlite3, "connect", connect)

    def is_full(self):
        for connection in self.connections:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")


@pytest.mark.usefixtures("one_run_a_pack")
def test_a_disk_that_fills_up_stops_the_study_with_one_line_and_the_same_command_goes_on(tmp_path, monkeypatch):
    file, out, trained, real = write_study(tmp_path, STUDY), tmp_path / "out", [], engine.train_pack

    def train_pack(pack, *rest):
        trained.append(pack.id)
        return real(pack, *rest)

    monkeypatch.setattr(engine, "train_pack", train_pack)
    with monkeypatch.context() as patch:
        disk = Disk(patch)

        def then_full(pack, *rest):
            results = train_pack(pack, *rest)
            if len(trained) == 3:
                disk.is_full()
                results = [type(one)(**{**vars(one), "error": "x" * 100_000}) for one in results]
            return results

        patch.setattr(engine, "train_pack", then_full)
        ended = allelse("run", file, "--out", out, "--device", "cpu")
    assert (ended.code, ended.err.splitlines()[-1]) == (
        2,
        f"allelse: {out}: cannot be used as an output folder: database or disk is full; no space is left for it; what is "
        "finished there stays; free space, and the same command goes on",
    )
    assert "Traceback" not in ended.err
    assert statuses(out) == ["done", "done", "pending", "pending"]
    before = len(trained)
    assert run(file, out).runs_by_status == {"done": 4}
    assert len(trained) == before + 2, "what was finished is not trained again"


LIMITED = """
import json, resource, sys
from allelse import store
from allelse.errors import StoreError
from allelse.records import RunResult
with store.write(sys.argv[1], json.loads(sys.argv[2])) as opened:
    run = opened.runs()[0].id
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
    try:
        opened.record([RunResult(run, "failed", error="x" * 500_000)])
    except StoreError as error:
        print(error)
"""


def test_a_file_that_may_grow_no_further_is_told_and_stays_whole(tmp_path):
    out = write_store(tmp_path / "out", result_of=lambda spec, accuracy: None)
    size = (out / store.FILE).stat().st_size
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, out, json.dumps(definition()), str(size)], capture_output=True, text=True
    )
    assert ended.stderr == ""
    assert "disk I/O error; the disk is full, over a quota, or does not answer; what is finished there stays" in ended.stdout
    assert set(statuses(out)) == {"pending"}


def test_a_folder_that_vanishes_in_mid_study_is_told_and_goes_on_when_it_is_back(tmp_path, monkeypatch, one_run_a_pack):
    file, out, real, calls = write_study(tmp_path, STUDY), tmp_path / "out", engine.train_pack, []

    def unplugged(pack, *rest):
        calls.append(pack)
        if len(calls) == 2:
            shutil.move(out, tmp_path / "away")
        return real(pack, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", unplugged)
        ended = allelse("run", file, "--out", out, "--device", "cpu")
    assert ended.code == 2
    assert f"{out}: cannot be used as an output folder: " in ended.err.splitlines()[-1]
    assert "is gone or silent; what is finished there stays; bring it back, and the same command goes on" in ended.err
    assert "Traceback" not in ended.err
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(tmp_path / "away", out)
    assert statuses(out) == ["done", "pending", "pending", "pending"]
    assert run(file, out).runs_by_status == {"done": 4}


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space, and the same command goes on"),
        (errno.EDQUOT, "free space, and the same command goes on"),
        (errno.EROFS, "mend its rights, or give another folder (run: --out)"),
        (errno.EACCES, "mend its rights, or give another folder (run: --out)"),
        (errno.EIO, "bring it back, and the same command goes on"),
        (errno.ESTALE, "bring it back, and the same command goes on"),
        (errno.ENOTCONN, "bring it back, and the same command goes on"),
        (errno.ENOLCK, "copy the folder to a local disk and go on there"),
    ],
)
@pytest.mark.parametrize("where", ["mkdir", "lock", "holder"])
def test_whatever_the_file_system_says_becomes_one_line_with_its_remedy(number, remedy, where, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        target = {"mkdir": (Path, "mkdir"), "lock": (holder.filelock.FileLock, "acquire"), "holder": (Path, "write_text")}[
            where
        ]
        patch.setattr(*target, broken)
        with pytest.raises(StoreError) as caught, store.write(tmp_path / "out", definition()):
            pass
    assert os.strerror(number) in str(caught.value)
    assert str(caught.value).endswith(remedy)
    with store.write(tmp_path / "out", definition()):
        pass


def test_a_folder_that_is_lost_hides_nothing_when_it_is_let_go(tmp_path, monkeypatch):
    with pytest.raises(StoreError, match="the reason"), store.write(tmp_path / "out", definition()):  # noqa: PT012
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").touch()
        raise StoreError("the reason")


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    out = write_store(tmp_path / "out")
    monkeypatch.setattr(opening, "SECONDS_TO_WAIT", 0.01)
    other = sqlite3.connect(out / store.FILE)
    other.execute("BEGIN EXCLUSIVE")  # what a reader sees where locks are never given
    told = mistake("status", out)
    other.close()
    assert "the file system has no working locks" in told
    assert "copy the folder to a local disk and go on there" in told


def test_a_reader_without_the_right_to_write_is_told_of_a_write_that_was_cut_off(tmp_path, monkeypatch):
    out = write_store(tmp_path / "out")
    with sqlite3.connect(out / store.FILE, isolation_level=None) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE runs SET result = hex(randomblob(50000))")
        shutil.copytree(out, tmp_path / "cut")
    connection.close()
    before = (tmp_path / "cut" / store.FILE).read_bytes()
    with pytest.raises(StoreError, match=r"cut off|damaged|rights"), store.read(tmp_path / "cut", mend=False) as opened:
        opened.runs()
    assert (tmp_path / "cut" / store.FILE).read_bytes() == before, "sources of a merge are only read"
    assert set(statuses(tmp_path / "cut")) == {"done"}, "any other reader takes the cut-off write back"


def test_every_commit_and_the_folder_itself_are_on_the_disk(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")) or real(handle))
    with store.write(tmp_path / "out", definition()) as opened:
        assert opened._connection.execute("PRAGMA synchronous").fetchone() == (3,), "EXTRA: the journal's end lasts too"
        assert opened._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert str(tmp_path) in synced


def test_a_checkpoint_is_on_the_disk_before_and_after_it_has_its_name(tmp_path, monkeypatch):
    from allelse.engine import checkpoint

    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name) or fsync(handle)
    )
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("replace") or replace(*paths))
    checkpoint.save_checkpoint(tmp_path / "c.safetensors", "p", {}, [], checkpoint.BEGINNING)
    assert done == [f"c.safetensors.{os.getpid()}.partial", "replace", tmp_path.name]


def test_half_written_checkpoints_and_those_of_stored_packs_are_cleaned_up(tmp_path):
    out = tmp_path / "out"
    described = definition()
    specs = [RunSpec(arm["levels"], arm["recipe"], seed) for arm in described["arms"] for seed in described["seeds"]]
    packs = [{"runs": [spec.id], "images_per_second": None, "seconds": 1.0} for spec in specs]
    with store.write(out, described) as opened:
        opened.begin({"packs": packs}, [(spec.id, spec.arm, spec.seed) for spec in specs])
        opened.record([result(specs[0], 50.0)])
        paths = [opened.checkpoint(store.opened.digest([spec.id])) for spec in specs[:2]]
    paths[0].parent.mkdir()
    for path in (*paths, paths[0].with_name("x.safetensors.12.partial")):
        path.write_bytes(b"x")
    with store.write(out, described):
        pass
    assert list(paths[0].parent.iterdir()) == [paths[1]]


def test_what_a_killed_worker_left_half_written_goes_with_the_checkpoint_of_its_pack(tmp_path):
    with store.write(tmp_path / "out", definition()) as opened:
        [ours, other] = [opened.checkpoint(name) for name in ("0123456789ab", "ba9876543210")]
        ours.parent.mkdir()
        halves = [path.with_name(f"{path.name}.{process}.partial") for path in (ours, other) for process in (7, 12)]
        for path in (ours, other, *halves):
            path.write_bytes(b"x")
        opened.forget_checkpoint("0123456789ab")
        assert set(ours.parent.iterdir()) == {other, *halves[2:]}
        opened.forget_checkpoint("0123456789ab")  # there is none any more


@pytest.mark.usefixtures("one_run_a_pack")
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    file, real = write_study(tmp_path, STUDY), time.time
    jumps = iter([1e9, -5e8, 4e9, 0.0] * 100_000)
    launch.run_study(study.load(file), tmp_path / "steady", "cpu", Quiet())
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: max(0.0, real() + next(jumps)))
        launch.run_study(study.load(file), tmp_path / "jumping", "cpu", Quiet())
    steady, jumping = (allelse("results", tmp_path / name, "--runs", "--format", "json").raw for name in ("steady", "jumping"))
    assert steady == jumping


@pytest.mark.parametrize("name", [store.FILE, f"{store.FILE}-journal", "lock", "holder.json", "allelse.log"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dangling"])
def test_pipes_devices_folders_and_links_to_nothing_are_one_line_and_never_hang(name, kind, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    if kind == "pipe":
        os.mkfifo(out / name)
    elif kind == "folder":
        (out / name).mkdir()
    else:
        (out / name).symlink_to("/dev/zero" if kind == "device" else tmp_path / "nothing")
    with pytest.raises(StoreError, match=f"its {name} is no file"), store.write(out, definition()):
        pass
    assert mistake("status", out)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["allelse.log", journal.FILE])
def test_a_pipe_beside_a_store_never_hangs_those_who_look(name, tmp_path):
    out = write_store(tmp_path / "out")
    os.mkfifo(out / name)
    process = subprocess.run(
        [sys.executable, "-m", "allelse", "status", out], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "done" in process.stdout


def test_a_folder_that_is_a_link_is_followed_and_one_to_nothing_is_told(tmp_path):
    write_store(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert set(statuses(tmp_path / "link")) == {"done"}
    (tmp_path / "lost").symlink_to(tmp_path / "nothing")
    with pytest.raises(StoreError, match="is a link to nothing; bring back"), store.write(tmp_path / "lost", definition()):
        pass
    (tmp_path / "real" / store.FILE).rename(tmp_path / "moved.sqlite")
    (tmp_path / "real" / store.FILE).symlink_to(tmp_path / "moved.sqlite")
    assert set(statuses(tmp_path / "real")) == {"done"}
    with (
        pytest.raises(StoreError, match="copies of the folder would write to one file"),
        store.write(tmp_path / "real", definition()),
    ):
        pass


@pytest.mark.parametrize("content", ["{", "[]", '{"process": "x"}', '{"process": 1, "host": "\\u001b[2J"}', "[" * 100_000])
def test_a_damaged_note_of_the_holder_is_no_trouble(content, tmp_path):
    with store.write(tmp_path / "out", definition()):
        (tmp_path / "out" / "holder.json").write_text(content)
        with (
            pytest.raises(StoreError, match="is writing to it; wait for it to end") as caught,
            store.write(tmp_path / "out", definition()),
        ):
            pass
    assert str(caught.value).isprintable()


def test_a_log_that_cannot_be_written_is_shown_once_and_stops_nothing(tmp_path, capsys):
    handler = Log(tmp_path / "nowhere")
    for _ in range(3):
        handler.handle(logging.LogRecord("allelse", logging.WARNING, "", 0, "pack %s\nfailed", ("p",), None))
    handler.close()
    assert capsys.readouterr().err == "allelse.log cannot be written, and would say: pack p failed\n"


@pytest.mark.usefixtures("one_run_a_pack")
def test_a_moved_folder_goes_on_and_holds_no_path(tmp_path, monkeypatch):
    file, real, calls = write_study(tmp_path, STUDY), engine.train_pack, []

    def stopped(pack, *rest):
        calls.append(pack)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(pack, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", stopped)
        monkeypatch.chdir(tmp_path)
        assert allelse("run", file.name, "--out", tmp_path / "out", "--device", "cpu").code == 130
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
    shutil.move(tmp_path / "out", tmp_path / "another place")
    assert allelse("run", file.name, "--out", tmp_path / "another place", "--device", "cpu").code == 0
    assert statuses(tmp_path / "another place") == ["done"] * 4


def test_a_folder_that_cannot_be_held_on_a_full_disk_is_not_left_behind(tmp_path, monkeypatch):
    part = write_store(tmp_path / "part")

    def full(path, text, write_text=Path.write_text):
        if path.name == "holder.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert "no space is left for it" in mistake("merge", tmp_path / "new" / "u", part)
        assert not (tmp_path / "new").exists()
        (tmp_path / "mine").mkdir()
        mistake("merge", tmp_path / "mine", part)
        assert not list((tmp_path / "mine").iterdir())
    assert allelse("merge", tmp_path / "new" / "u", part).code == 0
