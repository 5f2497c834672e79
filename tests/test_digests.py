"""Digests beside the results: they say what the results say; and a store without them, or with old ones, says the same."""

import sqlite3
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from study_support import allelse, run, write_study
from test_store import DEFINITION, RUNS, done

from allelse import store
from allelse.records import RunResult
from allelse.store import pairing

PRINTS = {"data d": "1", "subset s": "2", "init blocks.0 4x4": "3"}
OTHERS = [
    replace(done("r1"), fingerprints=PRINTS, probes=({"layer": "a"},), epochs=({"train_loss": 1.0},)),
    replace(done("r3", 70.0), fingerprints=PRINTS),
    RunResult("r2", "diverged", error="no longer finite", fingerprints={"data d": "1"}),
]


def filled(folder, results=OTHERS):
    with store.write(folder, DEFINITION) as opened:
        opened.begin({"packs": []}, RUNS)
        opened.record(results)
    return folder


def changed_by_hand(folder, *statements):
    connection = sqlite3.connect(folder / store.FILE)
    with connection:
        for statement in statements:
            connection.execute(*statement)
    connection.close()


def as_an_older_allelse_left_it(folder):
    changed_by_hand(
        folder, ["DROP TABLE outcomes"], ["DROP TABLE fingerprints"], ["DROP TABLE machines"], ["DROP INDEX runs_listed"]
    )


def all_that_is_read(folder):
    with store.read(folder) as opened:
        return opened.outcomes(timing=True), opened.counts(), opened.pairing(), opened.machines(), opened.table(timing=True)


def assert_equal(one, other):
    assert one[:4] == other[:4]
    pd.testing.assert_frame_equal(one[4], other[4])


def test_what_is_read_from_digests_is_what_the_results_say(tmp_path):
    outcomes, counts, paired, machines, table = all_that_is_read(filled(tmp_path / "out"))
    with store.read(tmp_path / "out") as opened:
        runs = opened.runs()
    assert outcomes == [
        replace(one, result=replace(one.result, epochs=(), probes=(), fingerprints={})) if one.result else one for one in runs
    ]
    assert counts == {"done": 2, "diverged": 1, "pending": 1}
    assert paired == pairing(runs)
    assert "paired: within each of 2 seeds, " in paired[0]
    assert machines == [("a CPU", "fp32")]
    assert table["seconds_train"].tolist()[0] == 2.0


def test_arms_that_differ_within_a_seed_are_seen(tmp_path):
    folder = filled(tmp_path / "out", [OTHERS[0], replace(OTHERS[1], fingerprints={**PRINTS, "subset s": "other"})])
    with store.read(folder) as opened:
        assert opened.pairing() == pairing(opened.runs()) == ["NOT paired: within a seed, arms differ in subset s"]


def test_a_store_without_digests_says_the_same_and_gets_them_when_it_is_written_to(tmp_path):
    with_them = all_that_is_read(filled(tmp_path / "out"))
    as_an_older_allelse_left_it(tmp_path / "out")
    assert_equal(all_that_is_read(tmp_path / "out"), with_them)
    with store.write(tmp_path / "out", DEFINITION):
        pass
    changed_by_hand(tmp_path / "out", ["UPDATE runs SET result = 'not JSON' WHERE result IS NOT NULL"])
    assert_equal(all_that_is_read(tmp_path / "out"), with_them)  # no result was looked at


def test_runs_that_an_older_allelse_added_are_read_from_their_results(tmp_path):
    folder = filled(tmp_path / "out", [RunResult("r1", "failed", error="no memory"), *OTHERS[1:]])
    expected = all_that_is_read(filled(tmp_path / "new"))
    with store.read(tmp_path / "new") as opened:
        raw = dict(opened._connection.execute("SELECT id, result FROM runs").fetchall())
    changed_by_hand(folder, ["UPDATE runs SET status = 'done', result = ? WHERE id = 'r1'", (raw["r1"],)])
    assert_equal(all_that_is_read(folder), expected)


@pytest.mark.parametrize(("command", "never"), [("status", {"torch", "pandas", "numpy", "scipy"}), ("results", {"torch"})])
def test_commands_that_read_load_no_more_than_they_need(tmp_path, command, never):
    run(write_study(tmp_path), tmp_path / "out")
    code = f"import sys; sys.argv = ['allelse', {command!r}, sys.argv[1]]\nfrom allelse.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\nprint('LOADED', *sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert "4 runs: 4 done" in ended.stdout or "relu" in ended.stdout
    assert not set(ended.stdout.split("LOADED ")[1].split()) & never


def test_status_and_results_read_no_whole_result(tmp_path):
    run(write_study(tmp_path), tmp_path / "out")
    before = [allelse(command, tmp_path / "out").out for command in ("status", "results", "verdicts")]
    changed_by_hand(tmp_path / "out", ["UPDATE runs SET result = 'not JSON'"])
    assert [allelse(command, tmp_path / "out").out for command in ("status", "results", "verdicts")] == before
