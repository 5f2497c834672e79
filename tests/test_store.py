"""The store: whole results only, one writer, many readers, and folders that are something else."""

import json
import multiprocessing
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading

import pytest
from filelock import FileLock

from allelse import store
from allelse.errors import StoreError
from allelse.records import Provenance, RunResult, canonical_json

DEFINITION = {
    "name": "s",
    "question": "Is deeper better?",
    "seeds": [0, 1],
    "factors": {"model.depth": [1, 2]},
    "arms": [{"levels": {"model.depth": depth}, "recipe": {"epochs": 2, "lr": 0.1}} for depth in (1, 2)],
    "claims": [],
    "references": [],
    "quick": False,
}
RUNS = [
    ("r1", {"model.depth": 1}, 0),
    ("r2", {"model.depth": 1}, 1),
    ("r3", {"model.depth": 2}, 0),
    ("r4", {"model.depth": 2}, 1),
]
WHERE = Provenance("0", "2", "3", "a CPU", "fp32", 1, "here", "2026-01-01T00:00:00+00:00")


def done(run: str, accuracy: float = 50.0) -> RunResult:
    return RunResult(
        run, "done", {"accuracy": accuracy, "a_loss": 1.5}, timing={"train": 2.0, "images_per_second": 9.0}, provenance=WHERE
    )


@pytest.fixture
def folder(tmp_path):
    """An output folder with four planned runs, the second and third of which are recorded."""
    with store.write(tmp_path / "out", DEFINITION) as opened:
        opened.begin({"packs": []}, RUNS)
        opened.record([done("r3", 70.0), RunResult("r2", "diverged", error="no longer finite")])
    return tmp_path / "out"


def test_what_was_recorded_is_read_back_whole(folder):
    with store.read(folder) as opened:
        assert opened.definition == DEFINITION
        assert opened.plan["packs"] == []
        assert [(run.id, run.arm, run.seed, run.status) for run in opened.runs()] == [
            ("r1", {"model.depth": 1}, 0, "pending"),
            ("r2", {"model.depth": 1}, 1, "diverged"),
            ("r3", {"model.depth": 2}, 0, "done"),
            ("r4", {"model.depth": 2}, 1, "pending"),
        ]
        assert canonical_json(opened.runs()[2].result.to_json()) == canonical_json(done("r3", 70.0).to_json())
        assert opened.status_from_run() == {"r1": "pending", "r2": "diverged", "r3": "done", "r4": "pending"}


def test_the_table_is_in_the_plans_order_and_drops_nothing(folder):
    with store.read(folder) as opened:
        table, timed = opened.table(), opened.table(timing=True)
    assert list(table.columns) == ["run", "model.depth", "seed", "status", "error", "accuracy", "a_loss"]
    assert list(table["run"]) == ["r1", "r2", "r3", "r4"]
    assert list(table["status"]) == ["pending", "diverged", "done", "pending"]
    assert table["accuracy"].isna().tolist() == [True, True, False, True]
    assert (table["accuracy"][2], table["a_loss"][2], table["error"][1]) == (70.0, 1.5, "no longer finite")
    assert set(timed.columns) - set(table.columns) == {"seconds_train", "images_per_second", *vars(WHERE)}
    assert (timed["seconds_train"][2], timed["host"][2]) == (2.0, "here")


def test_a_record_is_stored_whole_or_not_at_all(folder):
    class Unstorable(RunResult):
        def to_json(self):
            raise RuntimeError("the process ends here")

    with store.write(folder, DEFINITION) as opened, pytest.raises(RuntimeError):
        opened.record([done("r1"), Unstorable("r4", "done")])
    with store.read(folder) as opened:
        assert opened.status_from_run()["r1"] == "pending"


def kill_while_storing(file):
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
    connection.execute("UPDATE runs SET status = 'done', result = hex(randomblob(100000))")
    os._exit(9)


@pytest.mark.parametrize("then", ["read", "write"])
def test_a_process_killed_while_it_stored_leaves_the_state_before(folder, then):
    process = multiprocessing.get_context("spawn").Process(target=kill_while_storing, args=(folder / store.FILE,))
    process.start()
    process.join()
    assert (folder / f"{store.FILE}-journal").stat().st_size, "the kill came too late to test anything"
    with store.read(folder) if then == "read" else store.write(folder, DEFINITION) as opened:
        assert list(opened.status_from_run().values()) == ["pending", "diverged", "done", "pending"]


def test_readers_see_whole_records_while_another_writes(folder):
    ends = threading.Event()
    seen = []

    def read():
        while not ends.is_set():
            with store.read(folder) as opened:
                seen.append(tuple(opened.table()["accuracy"].fillna(0)[[0, 3]]))

    with store.write(folder, DEFINITION) as opened:
        reader = threading.Thread(target=read)
        reader.start()
        for accuracy in range(1, 40):
            opened.record([done("r1", float(accuracy)), done("r4", float(accuracy))])
        ends.set()
        reader.join()
    assert seen
    assert all(first == last for first, last in seen)
    assert list(seen) == sorted(seen)


HOLD = """
import json, sys
from allelse import store
with store.write(sys.argv[1], json.loads(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_who_writes_and_may_after_a_kill(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "out", json.dumps(DEFINITION)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        told = refused(tmp_path / "out")
        with store.read(tmp_path / "out") as opened:
            assert opened.definition == DEFINITION, "reading works meanwhile"
        holder.kill()
    assert re.sub(r"since [0-9T:+-]*", "since T", told) == (
        f"{tmp_path}/out: process {holder.pid} on {socket.gethostname()} is writing to it (since T); "
        "wait for it to end, or give another folder (run: --out)"
    )
    with store.write(tmp_path / "out", DEFINITION):
        pass


def test_who_only_looks_whether_somebody_writes_keeps_no_writer_out(tmp_path):
    with store.write(tmp_path / "out", DEFINITION):
        pass
    looking = FileLock(tmp_path / "out" / "lock", thread_local=False)
    looking.acquire()  # as a look takes it, for a moment
    timer = threading.Timer(0.1, looking.release)
    timer.start()
    with store.write(tmp_path / "out", DEFINITION):
        pass
    timer.join()


def refused(folder, definition=DEFINITION) -> str:
    with pytest.raises(StoreError) as caught, store.write(folder, definition):
        pass
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_changed_study_is_refused_with_what_changed(folder):
    other = json.loads(json.dumps(DEFINITION))
    other["arms"][0]["recipe"]["epochs"] = 3
    other["seeds"] = [0, 1, 2]
    assert refused(folder, other) == (
        f"{folder}: holds results of another study or of this one before a change, and results never mix: "
        "seeds: 2 from 0 → 3 from 0; arms 1.recipe.epochs: 2 → 3. Take the change back, or give a new folder with --out"
    )
    with store.write(folder, DEFINITION) as opened:
        assert opened.definition == DEFINITION


@pytest.mark.parametrize("key", ["claims", "alpha", "question"])
def test_what_was_declared_before_training_cannot_be_changed_after(folder, key):
    given = {**DEFINITION, key: ["another"]}
    assert f"results never mix: {key}" in refused(folder, given)
    with store.read(folder) as opened:
        assert opened.definition == DEFINITION


def test_many_changes_are_told_in_short(folder):
    assert "; and 2 more. Take" in refused(folder, {**DEFINITION, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6})


def test_folders_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert refused(tmp_path) == f"{tmp_path}: holds other files and no study; give an empty or a new folder"
    assert refused(tmp_path / "thesis.tex") == f"{tmp_path}/thesis.tex: is a file; give a folder"
    assert refused(tmp_path / "thesis.tex" / "out").startswith(
        f"{tmp_path}/thesis.tex/out: cannot be used as an output folder: "
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch):
    def denied(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", denied)
    assert refused(tmp_path / "out") == (
        f"{tmp_path}/out: cannot be used as an output folder: [Errno 13] Permission denied: '{tmp_path}/out'; "
        "what is finished there stays; free space or mend its rights, or give another folder (run: --out)"
    )


@pytest.mark.parametrize("content", [b"garbage " * 1000, "cut"])
def test_a_damaged_file_is_told_in_one_line_by_readers_and_writers(folder, content):
    file = folder / store.FILE
    file.write_bytes(file.read_bytes()[:5000] if content == "cut" else content)
    told = refused(folder)
    assert told.startswith(f"{folder}: cannot be used as an output folder: ")
    with pytest.raises(StoreError, match="cannot be used as an output folder: "), store.read(folder) as opened:
        opened.runs()


def test_a_folder_of_a_newer_version_is_refused(folder):
    with sqlite3.connect(folder / store.FILE) as connection:
        connection.execute(f"PRAGMA user_version = {store.FORMAT + 1}")
    connection.close()
    expected = (
        f"{folder}: written by a newer allelse (format {store.FORMAT + 1}, this one reads {store.FORMAT}); upgrade allelse"
    )
    assert refused(folder) == expected
    with pytest.raises(StoreError) as caught, store.read(folder):
        pass
    assert str(caught.value) == expected


def test_a_folder_whose_study_never_began_is_told_and_can_be_begun(tmp_path):
    (tmp_path / store.FILE).touch()
    with pytest.raises(StoreError, match=r"its study never began; run it again$"), store.read(tmp_path):
        pass
    with store.write(tmp_path, DEFINITION) as opened:
        assert opened.plan is None


def test_a_folder_without_a_study_is_told_with_what_makes_one(tmp_path):
    with pytest.raises(StoreError) as caught, store.read(tmp_path):
        pass
    assert str(caught.value) == (
        f"{tmp_path}: no study was run there (it holds no study.sqlite); 'allelse run STUDY --out {tmp_path}' makes one"
    )
    (tmp_path / "notes.txt").touch()  # there, no study can be run
    with pytest.raises(StoreError, match="give the folder that 'allelse run' named as its report's"), store.read(tmp_path):
        pass


@pytest.mark.parametrize("way", [shutil.copytree, shutil.move])
def test_a_copied_or_moved_folder_goes_on(folder, tmp_path, way):
    way(folder, tmp_path / "other place")
    with store.write(tmp_path / "other place", DEFINITION) as opened:
        opened.record([done("r1")])
        assert opened.checkpoint("p") == tmp_path / "other place" / "checkpoints" / "p.safetensors"
    with store.read(tmp_path / "other place") as opened:
        assert list(opened.status_from_run().values()) == ["done", "diverged", "done", "pending"]


def pairing_of(*fingerprints: dict[str, str]) -> list[str]:
    return store.pairing(
        [
            store.StoredRun(str(n), {}, 0, "done", RunResult(str(n), "done", fingerprints=values))
            for n, values in enumerate(fingerprints)
        ]
    )


def test_the_fingerprints_of_a_seed_prove_the_pairing_or_disprove_it():
    same = {"data": "d", "order": "o", "init a 1": "i"}
    assert pairing_of(same, {**same, "init b 2": "j"})[0].startswith("paired: within its one seed, all finished")
    assert pairing_of(same, {**same, "order": "p"}) == ["NOT paired: within a seed, arms differ in order"]
    assert pairing_of(same, {**same, "init a 1": "k"}) == ["NOT paired: within a seed, arms differ in init a 1"]
    assert pairing_of() == []
    assert pairing_of(same) == ["pairs: none to compare, as no seed has two finished arms"]


def test_only_what_two_runs_of_a_seed_have_is_counted_as_compared():
    arms = [{"init a 1": "i", "init b 2": str(n), "init c.bias 4 of 3": "k"} for n in range(2)]
    arms[1]["init b 2 by own"] = arms[1].pop("init b 2")
    arms[1]["init c.bias 4 of 5"] = arms[1].pop("init c.bias 4 of 3") + "k"
    arms[0]["init d 1 by own one"] = arms[1]["init d 1 by own other"] = "drawn before the keyword tells"
    arms[0]["init of one arm 3"] = "l"
    compared, unlike = pairing_of(*arms)
    assert compared.endswith("(2 compared)")
    assert unlike.startswith("not shared: ")
    assert unlike.endswith(": b, c.bias")
    assert len(pairing_of({"init a": "i"}, {"init ": "i"})) == 1, "names that no version of allelse has made"
