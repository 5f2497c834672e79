"""What is read and shown is never obeyed: pages, loaders, and where parts of the user's own run."""

import ast
import os
import pty
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from study_support import PLAIN, allelse, changed, write_study

from allelse import store, study
from benchmarks.fuzz import stores, studies

# ── pages ───────────────────────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = {
    "name": "<script>alert(1)</script>",
    "question": "\x1b]0;title\x07 ![x](http://a.b/x.png) \u202egnp.exe",
    "factor": "=cmd|' /C calc'!A0",
    "level": "@SUM(1)",
    "says": "</pre><img src=x onerror=alert(1)>",
    "source": "\x9b31m `x` [a](javascript:alert(1))",
    "error": "\x1b[2J \u2028",
    "device": "-1+1",
    "note": "'{{ 7 * 7 }}",
}


def test_hostile_words_are_words_on_every_page_table_and_figure(here):
    from allelse.report import write_report

    stores.look(stores.write(here / "out", HOSTILE))
    write_report(here / "out")
    page = (here / "out" / "report.html").read_text("utf-8")
    stores.check_html(page)
    stores.check_markdown((here / "out" / "report.md").read_text("utf-8"))
    figures = list((here / "out" / "figures").glob("*.svg"))
    assert len(figures) > 1
    for figure in figures:
        stores.check_svg(figure.read_text("utf-8"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_spreadsheet_takes_no_text_for_a_formula():
    from allelse.cli.frames import as_csv

    frame = pd.DataFrame({"=a": ["=1+1", "x", None], "b": [-1.5, 2, 3], "c": pd.Series([-1, "+1", True], dtype=object)})
    assert as_csv(frame) == "'=a,b,c\n'=1+1,-1.5,-1\nx,2.0,'+1\n,3.0,True\n"


def test_a_terminal_that_lacks_letters_stops_nothing(here):
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "allelse",
            "explain",
            "sigmoid-vs-relu",
            "--quick",
            "--arm",
            "activation=relu",
            "--arm",
            "depth=1",
        ],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\\xd7" in ended.stdout


def run_apart(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "allelse", *words], env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, **options
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_an_output_that_cannot_be_written_is_one_line(here):
    with open("/dev/full", "w") as full:
        ended = run_apart("data", "list", stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (
        2,
        "allelse: the output cannot be written: No space left on device; free space, or send it elsewhere\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_progress_that_cannot_be_written_stops_no_training(here):
    write_study(here)
    with open("/dev/full", "w") as full:
        ended = run_apart("run", "study.toml", "--out", "out", stdout=subprocess.PIPE, stderr=full, text=True)
    assert (ended.returncode, "Verdicts" in ended.stdout) == (0, True)
    with store.read(here / "out") as opened:
        assert opened.counts() == {"done": 4}


def test_a_terminal_that_is_closed_stops_no_training(here):
    write_study(here, changed("epochs          = 2", "epochs = 30"))
    screen, terminal = pty.openpty()
    with (
        open("told", "w+") as told,
        subprocess.Popen(
            [sys.executable, "-m", "allelse", "run", "study.toml", "--out", "out"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm"},
            stdout=told,
            stderr=terminal,
        ) as process,
    ):
        os.close(terminal)
        shown = b""
        while b"training" not in shown:
            shown += os.read(screen, 1000)
        os.close(screen)
        assert process.wait(100) == 0
        told.seek(0)
        assert "report: out" in told.read()


def test_a_mistake_that_nobody_can_read_has_its_exit_code(here):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        assert run_apart("plan", "nothing.toml", stdout=subprocess.PIPE, stderr=closed).returncode == 2


@pytest.mark.parametrize("words", [("list",), ("data", "list"), ("plan", "study.toml")], ids=" ".join)
def test_a_reader_that_left_is_no_failure(here, words):
    write_study(here)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        ended = run_apart(*words, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, [line for line in ended.stderr.splitlines() if not line.startswith("measuring")]) == (0, [])


ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ── nothing that could run code ─────────────────────────────────────────────────────────────────────────────────────

LOADERS = {
    *(
        "pickle.load",
        "pickle.loads",
        "cPickle.load",
        "dill.load",
        "dill.loads",
        "cloudpickle.load",
        "joblib.load",
        "marshal.loads",
    ),
    *("torch.load", "torch.jit.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle"),
    *("eval", "exec", "compile", "os.system", "os.popen", "subprocess.run", "subprocess.Popen", "shelve.open"),
}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize("file", sorted((ROOT / "src").rglob("*.py")), ids=lambda file: file.name)
def test_no_loader_that_can_run_code_stands_in_the_source(file):
    for name, words in calls(ast.parse(file.read_text("utf-8"))):
        asks_git = (file.name, name) == ("provenance.py", "subprocess.run")
        assert asks_git or name not in LOADERS, f"{file.name} calls {name}"
        assert words.get("allow_pickle", "False") == "False", f"{file.name}: {name}"
        assert name != "np.load", "arrays of a file are read by data/arrays.py"


def test_the_search_sees_what_it_looks_for():
    found = dict(calls(ast.parse("pickle.load(f); np.load(f, allow_pickle=True); eval('1')")))
    assert {"pickle.load", "eval"} <= set(found) & LOADERS
    assert found["np.load"] == {"allow_pickle": "True"}


# ── parts of the user's own are code: where they run ────────────────────────────────────────────────────────────────


def test_loading_a_study_or_looking_at_what_it_left_imports_no_part(here):
    (here / "canary.py").write_text("open('canary-ran', 'w').close()\nimport torch\nclass Part(torch.nn.ReLU): pass\n")
    write_study(here, changed('"relu"]', '"python:canary:Part"]', PLAIN))
    study.load("study.toml").definition()
    stores.write(here / "out", {"level": "python:canary:Part", "name": "python:canary:Part"})
    for command in (
        ["list"],
        ["status", "out"],
        ["results", "out"],
        ["results", "out", "--runs"],
        ["verdicts", "out"],
        ["report", "out"],
    ):
        assert allelse(*command).code == 0, command
    assert not Path("canary-ran").exists()
    listed = allelse("plan", "study.toml", "--seeds", "1")
    assert listed.code == 0, listed.err
    assert "python:canary:Part: element by element" in listed.out
    assert f"{here / 'canary.py'} (" in listed.out
    assert Path("canary-ran").exists(), "the bait can be taken"


def test_the_whole_study_of_the_fuzzer_is_valid(here):
    (here / "study.toml").write_text(studies.WHOLE)
    loaded = studies.load_whole("study.toml", quick=True)
    assert len(loaded.arms) > 5
