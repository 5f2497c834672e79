"""The soak test is itself tested: killed at two moments a study ends as undisturbed, and what is altered is noticed."""

import random
import re
import shutil
import sqlite3
from collections import Counter

import pytest

from allelse.store import schema
from benchmarks.soak import studies
from benchmarks.soak.checks import EXPORTS, Watch, differences
from benchmarks.soak.page import page
from benchmarks.soak.soak import Soak, Tally, folder_of
from benchmarks.soak.strikes import CHANCES_OF_WHOM, Strike, draw

TINY = (
    studies.PLAIN.replace("train_per_class = 40", "train_per_class = 10")
    .replace("seeds    = 4", "seeds    = 2")
    .replace('"batch"', '"none"')
)


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    """The soak of a tiny study with two kills, one while a checkpoint is saved and one while results are stored."""
    base = tmp_path_factory.mktemp("soak")
    soak = Soak(base, "local", studies.write(base, {"tiny": TINY}, -1.0))
    with (base / f"{studies.MODULE}.py").open("a") as part:
        part.write("from allelse.report import figures\n\nfigures.FIGURES.clear()  # they take longer than all the rest\n")
    soak.leave_alone("tiny")
    strikes = iter([Strike("all", "saving", 0.0, 9), Strike("all", "storing", 0.0, 0)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.soak.soak.draw", lambda rng, kind: next(strikes))
        patch.setattr("benchmarks.soak.checks.EXPORTS", EXPORTS[:1])
        soak.strike(2, seed=0)
    return soak


def test_killed_twice_a_study_ends_as_undisturbed(soaked):
    tally = soaked.tally
    assert tally.differences == []
    assert tally.kills.total() == 2
    assert {whom for whom, _ in tally.kills} == {"all"}
    assert tally.resumes >= 1
    assert not folder_of(soaked.base, "local", "study-1").exists()


@pytest.fixture
def copy(soaked, tmp_path):
    """The folder of the undisturbed study, and another one that is the same."""
    alone = folder_of(soaked.base, "local", "tiny")
    shutil.copytree(alone, tmp_path / "out")
    return tmp_path / "out", alone


def alter(out, statement: str) -> None:
    """Change what is stored, and seal it as allelse would."""
    with sqlite3.connect(out / schema.FILE) as connection:
        schema.configure(connection)
        connection.execute(statement)
        for table, seal in (("runs", schema.RUN_SEAL), ("details", "seal(run, value)")):
            connection.execute(f"UPDATE {table} SET seal = {seal}")
    connection.close()


FIRST = "(SELECT id FROM runs WHERE place = 0)"


@pytest.mark.parametrize(
    ("statement", "noticed"),
    [
        ("UPDATE runs SET result = json_set(result, '$.metrics.accuracy', 99.5) WHERE place = 0", "another result"),
        (f"UPDATE details SET value = json_set(value, '$.epochs[3].train_loss', 0.5) WHERE run = {FIRST}", "another result"),
        ("UPDATE runs SET status = 'pending', result = NULL WHERE place = 1", "other runs: 1 lost"),
        ("UPDATE runs SET result = json_set(result, '$.timing.train', 99.5) WHERE place = 0", ""),
    ],
)
def test_what_is_altered_in_the_store_is_noticed_and_times_are_not(copy, monkeypatch, statement, noticed):
    monkeypatch.setattr("benchmarks.soak.checks.EXPORTS", ())
    out, alone = copy
    alter(out, statement)
    found = list(differences(out, alone, lost=0))
    assert [noticed in what for what in found] == [True] * bool(noticed)


def test_when_and_for_how_long_it_was_trained_is_all_that_may_differ_in_a_report(copy, monkeypatch):
    monkeypatch.setattr("benchmarks.soak.checks.EXPORTS", ())
    out, alone = copy
    report = (out / "report.md").read_text("utf-8")
    later = re.sub(
        r"[0-9-]{10} \(UTC\), in \S+ \w+ of computing", "1999-12-31 to 2000-01-01 (UTC), in 7.5 hours of computing", report
    )
    for text, noticed in ((later, []), (later.replace(" done", " lost"), ["report.md has other bytes"])):
        assert text != report
        (out / "report.md").write_text(text, "utf-8")
        assert list(differences(out, alone, lost=0)) == noticed


def test_other_files_bytes_and_warnings_are_noticed(copy, monkeypatch):
    out, alone = copy
    monkeypatch.setattr("benchmarks.soak.checks.EXPORTS", EXPORTS[:1])
    (out / "report.md").write_text("")
    (out / "half.partial").touch()
    lost = "2026-01-01 00:00:00,000 WARNING pack 0123456789ab: pack 0123456789ab was lost: killed\n"
    (out / "allelse.log").write_text(lost + "2026-01-01 00:00:00,000 WARNING something else\n")
    assert list(differences(out, alone, lost=1)) == [
        "files that are in one folder only: half.partial",
        "report.md has other bytes",
        "allelse.log: 2026-01-01 00:00:00,000 WARNING something else",
    ]
    (out / "allelse.log").write_text(lost)
    assert "1 workers were lost, and only 0 were killed" in list(differences(out, alone, lost=0))[-1]


def test_a_look_notices_what_is_no_longer_finished_and_what_cannot_be_read(soaked, copy, tmp_path):
    out, _ = copy
    runs = soaked.undisturbed["tiny"].runs
    watch = Watch(out, runs)
    assert list(watch.look()) == []
    assert len(watch.finished) == len(runs) == 4
    alter(out, "UPDATE runs SET status = 'pending', result = NULL WHERE place = 1")
    assert "runs that were finished are not any more" in "".join(watch.look())
    (out / schema.FILE).unlink()
    assert "'allelse status' ended with exit code 2" in "".join(watch.look())
    assert list(Watch(tmp_path / "never begun", runs).look()) == []


def test_draws_follow_from_the_seed():
    def drawn(seed):
        rng = random.Random(seed)
        return [draw(rng, kind) for kind in CHANCES_OF_WHOM for _ in range(20)]

    assert drawn("0") == drawn("0") != drawn("1")
    assert {strike.when for strike in drawn("0")} == {"any", "saving", "storing", "report"}


def test_the_page_says_what_differed():
    fine, other = Tally(kills=Counter({("all", "report"): 2})), Tally(differences=["ray study 1: it differed"])
    text = page({"local": fine, "ray": other}, 4, 7, 60.0, "cpu")
    assert "--kills 4 --seed 7 --kinds local ray --out benchmarks" in text
    assert "**2 kills: 1 differences.**" in text
    assert "- ray study 1: it differed" in text
    assert "| the one process | 0 | 0 | 0 | 0 | 0 | 2 |" in text
