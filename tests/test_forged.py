"""Forged and damaged stores: whatever stands in one, every command gives its result or one line, and obeys no text of it."""

from __future__ import annotations

import copy
import json
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_support import definition, result, write_store
from study_support import allelse, mistake

from allelse import store
from allelse.errors import StoreError
from allelse.store import schema

JUNK = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -(10**30), 0.5, -0.5, 1e308, -1e308, 1e-320),
    *(
        "",
        "x",
        "done",
        "pending",
        "\x1b[2J\x1b]0;pwned\x07",
        "a\nb\rc",
        "\u202ekcats",
        "\x9b31m",
        "x" * 100_000,
        "<script>alert(1)</script>",
    ),
    *([], {}, [[]], [None], [1, "x"], {"": {}}, {"accuracy": "high"}, {"levels": {"a": []}}),
]
RAW = [
    "",
    "{",
    "null",
    "NaN",
    '{"a": NaN}',
    "Infinity",
    "1e999",
    "[" * 100_000,
    '{"a":' * 50_000,
    '"\\ud800"',
    "\x00",
    "1" * 10_000,
    "{} {}",
]
COMMANDS = [
    ["status"],
    ["results"],
    ["results", "--runs", "--format", "csv"],
    ["results", "--runs", "--timing"],
    ["results", "--format", "json"],
    ["verdicts"],
    ["compare"],
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A store with all that a store can hold: done, diverged, failed and pending runs, references, tuning, parts."""
    factors = {"model.activation": ["sigmoid", "relu"], "model.depth": [1, 2]}
    references = [
        {"source": "a paper", "arm": {"model.activation": "relu"}, "accuracy": 80.0, "sd": 1.0, "n": 5, "metric": "accuracy"}
    ]
    tune = {
        "key": "optimizer.lr",
        "metric": "validation_accuracy",
        "per": ["model.activation"],
        "values": [0.1],
        "epochs": None,
        "seeds": 1,
    }
    described = definition(factors=factors, seeds=[0, 1, 2], references=references, tune=tune)
    kind_from_place = {3: "diverged", 4: "failed"}
    places = iter(range(100))

    def of(spec, accuracy):
        kind = kind_from_place.get(place := next(places), "done")
        return None if place == 5 else result(spec, accuracy, status=kind, error=None if kind == "done" else "no longer finite")

    folder = write_store(tmp_path_factory.mktemp("sound") / "out", described, of)
    with store.write(folder, described) as opened:
        with store.read(folder) as read:
            ids = [run.id for run in read.runs()]
        packs = [
            {"runs": [run], "way": {"convolution": "grouped", "graph": False}, "images_per_second": 9.0, "seconds": 1.0}
            for run in ids
        ]
        machine = {"device": "a CPU", "torch": "2"}
        opened.replan({"packs": packs, "machine": machine, "computing": {"pack": True, "graph": True}})
        tuned = [
            {
                "levels": {"model.activation": level},
                "value": 0.1,
                "at_edge": "lowest",
                "tried": [{"value": 0.1, "mean": 50.0, "n": 1, "diverged": 0}],
            }
            for level in factors["model.activation"]
        ]
        opened.settle(
            {
                "key": "optimizer.lr",
                "metric": "validation_accuracy",
                "per": ["model.activation"],
                "runs": 2,
                "seeds": 1,
                "epochs": 1,
                "images": 100,
                "choices": tuned,
            }
        )
        part = opened.tuning_part
        part.begin(
            {"packs": []},
            [
                (f"t{number}", {**arm["levels"], "optimizer.lr": 0.1}, 1_100_000_000)
                for number, arm in enumerate(described["arms"])
            ],
        )
    united = [{"seeds": [0, 1], "command": "allelse run STUDY"}, {"seeds": [2], "command": None, "runs": 4}]
    sealed_at(folder, "INSERT INTO meta VALUES ('parts', ?1, seal('parts', ?1))", json.dumps(united))
    for command in [*COMMANDS, ["report"]]:
        assert allelse(command[0], folder, *command[1:]).code == 0
    return folder


def nodes(value, path=()):
    """The path of every value within plain values."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nodes(inner, (*path, key))


def forge(folder: Path, choose: random.Random) -> str:
    """Change one value somewhere in a store, as someone would who knows how it is sealed; says what was done."""
    connection = sqlite3.connect(folder / store.FILE)
    connection.create_function("seal", -1, schema.seal, deterministic=True)
    texts = [("meta", "value", "key", key) for (key,) in connection.execute("SELECT key FROM meta ORDER BY key")]
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE '%runs' ORDER BY name")]
    for table in tables:
        for run, stored in connection.execute(f"SELECT id, result FROM {table} ORDER BY place").fetchall():
            texts += [(table, column, "id", run) for column in ("arm", *(["result"] if stored else []))]
    texts += [("details", "value", "run", run) for (run,) in connection.execute("SELECT run FROM details ORDER BY run")]
    table, column, key, name = choose.choice(texts)
    (text,) = connection.execute(f"SELECT {column} FROM {table} WHERE {key} = ?", (name,)).fetchone()
    how = choose.choice(["value", "value", "value", "key", "raw", "column"])
    if how == "column" and table != "meta":
        column = choose.choice(["place", "seed", "status", "id", "result", "arm"])
        new = choose.choice([None, -1, 2**62, "x", 0.5, b"\xff\xfe", "done", "pending", "failed", "\x1b[2J"])
    elif how == "raw":
        new = choose.choice(RAW)
    else:
        value = json.loads(text)
        path = choose.choice([path for path in nodes(value) if path])
        at = value
        for step in path[:-1]:
            at = at[step]
        junk = copy.deepcopy(choose.choice(JUNK))
        if how == "key":
            del at[path[-1]]
        else:
            at[path[-1]] = junk
        new = json.dumps(value, ensure_ascii=choose.random() < 0.5)
        column_and_path = f"{column} {path}: {str(junk)[:60]!r}" if how == "value" else f"{column} {path} deleted"
    try:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (new, name))
        seal = {"meta": schema.META_SEAL, "details": "seal(run, value)"}.get(table, schema.RUN_SEAL)
        connection.execute(f"UPDATE {table} SET seal = {seal}")
        connection.commit()
    except sqlite3.Error:
        connection.rollback()
    connection.close()
    return f"{table} {name} {how}: {column_and_path if how in ('value', 'key') else (column, str(new)[:60])}"


def damage(folder: Path, choose: random.Random) -> str:
    """Flip some bits of the file, or cut it; says what was done."""
    content = bytearray((folder / store.FILE).read_bytes())
    if choose.random() < 0.2:
        content = content[: choose.randrange(len(content))]
    else:
        for _ in range(choose.choice([1, 1, 3, 30])):
            content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    (folder / store.FILE).write_bytes(content)
    return "bytes"


def check(command: list[str], folder: Path, what: str) -> int:
    """The exit code of a command that ended as it must."""
    ended = allelse(command[0], folder, *command[1:])
    assert ended.code in (0, 2), (what, command, ended.code)
    if ended.code == 2:
        lines = ended.err.splitlines()
        assert len(lines) == 1, (what, command, ended.err[-2000:])
        assert lines[0].startswith("allelse: ")
    shown = (ended.out + ended.err).replace("\n", "").replace("\t", "")
    controls = sorted({char for char in shown if not char.isprintable() and char != "\xa0"})
    assert not controls, (what, command, controls)
    return ended.code


def forged_and_checked(sound, folder, seed, change, commands=COMMANDS):
    choose = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(sound / store.FILE, folder / store.FILE)
    what = change(folder, choose)
    return [check(command, folder, f"{seed}: {what}") for command in commands]


@settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**9), st.sampled_from([forge, forge, damage]))
def test_every_command_on_a_forged_store_gives_its_result_or_one_line(sound, tmp_path_factory, seed, change):
    command = COMMANDS[seed % len(COMMANDS)]
    forged_and_checked(sound, tmp_path_factory.getbasetemp() / "forged", seed, change, [command])


@settings(max_examples=3, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**9))
def test_a_report_of_a_forged_store_is_made_or_refused_in_one_line(sound, tmp_path_factory, seed):
    forged_and_checked(sound, tmp_path_factory.getbasetemp() / "forged", seed, forge, [["report"]])


def forged_at(folder, statement, *values):
    connection = sqlite3.connect(folder / store.FILE)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def sealed_at(folder, statement, *values):
    """As ``forged_at``, by someone who knows how a store is sealed."""
    connection = sqlite3.connect(folder / store.FILE)
    connection.create_function("seal", -1, schema.seal, deterministic=True)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("table", "where", "column", "path", "value"),
    [
        ("meta", "key = 'parts'", "value", "$[0].seeds", "[]"),
        ("meta", "key = 'parts'", "value", "$[0]", '{"runs": 4}'),
        ("meta", "key = 'parts'", "value", "$[0].seeds", "3"),
        ("meta", "key = 'tuning'", "value", "$.choices[0].value", "0.2"),
        ("meta", "key = 'definition'", "value", "$.arms[0].recipe.model", '"convnet"'),
        ("meta", "key = 'definition'", "value", "$.arms[0].recipe.augment", '["flip"]'),
        ("details", "true", "value", "$.probes[0].step", '"x"'),
        ("details", "true", "value", "$.probes[0].layer", "null"),
    ],
)
def test_what_reports_are_made_of_is_refused_in_one_line_where_it_cannot_be(sound, tmp_path, table, where, column, path, value):
    shutil.copytree(sound, tmp_path / "out")
    key = "run" if table == "details" else "key"
    changed = f"json_set({column}, '{path}', json('{value}'))"
    sealed_at(tmp_path / "out", f"UPDATE {table} SET {column} = {changed}, seal = seal({key}, {changed}) WHERE {where}")
    assert " is damaged: " in mistake("report", tmp_path / "out")


def test_a_time_that_was_no_number_takes_no_report_away(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "out")
    nothing = "json_set(result, '$.timing', json('{\"train\": null}'))"
    seal = schema.RUN_SEAL.replace("result", nothing)
    sealed_at(tmp_path / "out", f"UPDATE runs SET result = {nothing}, seal = {seal} WHERE result IS NOT NULL")
    assert allelse("report", tmp_path / "out").code == 0


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_store(tmp_path / "out")


@pytest.mark.parametrize("table", ["meta", "runs"])
def test_a_number_that_was_changed_on_the_disk_is_noticed(table, folder):
    column, old, new = {
        "meta": ("value", '"alpha": 0.05', '"alpha": 0.45'),
        "runs": ("result", '"accuracy":70', '"accuracy":90'),
    }[table]
    forged_at(folder, f"UPDATE {table} SET {column} = replace({column}, ?, ?)", old, new)
    assert "is not as it was stored; put back a copy of the folder" in mistake("results", folder)


def test_status_results_and_verdicts_read_no_epochs_and_probes(folder):
    before = [allelse(command, folder).out for command in ("status", "results", "verdicts")]
    forged_at(folder, "UPDATE details SET value = 'x'")
    assert [allelse(command, folder).out for command in ("status", "results", "verdicts")] == before
    assert "is not as it was stored" in mistake("report", folder), "who reads them notices"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM runs WHERE place = 3",
        "UPDATE runs SET place = 4 WHERE place = 3",
        "UPDATE runs SET status = 'done' WHERE status = 'pending'",
        "UPDATE runs SET status = 'pending'",
        "UPDATE runs SET result = NULL",
        "UPDATE runs SET result = substr(result, 1, 50)",
    ],
)
def test_a_partial_result_is_never_taken_for_a_whole(statement, tmp_path):
    folder = write_store(tmp_path / "out", result_of=lambda spec, accuracy: result(spec, accuracy) if spec.seed else None)
    forged_at(folder, statement)
    forged_at(folder, "UPDATE runs SET seal = NULL")
    assert " is damaged: " in mistake("results", folder)


@pytest.mark.parametrize("threads", ['"two"', "-1", "0", "1.5", "null", "1000000"])
def test_threads_that_cannot_be_are_no_plan(threads, folder):
    forged_at(folder, f"UPDATE meta SET value = json_set(value, '$.threads', json('{threads}')) WHERE key = 'plan'")
    forged_at(folder, "UPDATE meta SET seal = NULL")
    with pytest.raises(StoreError, match="damaged"), store.write(folder, definition()) as opened:
        opened.plan["threads"]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER UPDATE ON runs BEGIN DELETE FROM meta; END",
        "CREATE VIEW v AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
        "CREATE TABLE more (x)",
    ],
)
def test_a_file_with_what_allelse_never_makes_is_refused_before_it_can_act(statement, folder):
    forged_at(folder, statement)
    assert "was not written by allelse: it holds" in mistake("status", folder)
    with pytest.raises(StoreError, match="was not written by allelse"), store.write(folder, definition()):
        pass


def test_runs_that_are_a_view_without_end_never_hang(folder):
    forged_at(folder, "DROP TABLE runs")
    forged_at(folder, "CREATE VIEW runs AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n")
    assert "was not written by allelse: it holds 'view runs'" in mistake("status", folder)


def test_the_database_of_another_program_is_refused_and_left_as_it_is(tmp_path):
    connection = sqlite3.connect(tmp_path / store.FILE)
    connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    before = (tmp_path / store.FILE).read_bytes()
    with pytest.raises(StoreError, match="was not written by allelse"), store.write(tmp_path, definition()):
        pass
    assert (tmp_path / store.FILE).read_bytes() == before


def test_a_study_whose_texts_hold_escapes_is_shown_without_and_goes_on(tmp_path):
    described = definition(question="Is it \x1b[31mred\x07\u202e?", claims=[])
    folder = write_store(tmp_path / "out", described)
    assert "Is it \\x1b[31mred\\x07\\u202e?" in allelse("status", folder).out
    with store.write(folder, described) as opened:
        assert "\x1b" not in opened.definition["question"]
