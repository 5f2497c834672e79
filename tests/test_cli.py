"""The commands: what they print, at which width, in which format, and with which exit code."""

# ruff: noqa: E501 (a message stands on one line)

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from study_support import PLAIN, TINY, allelse, changed, mistake, write_study

from allelse import engine, store, study
from allelse.records import Way


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that was run once for this module: its file, its folder, and what ``run`` printed."""
    base = tmp_path_factory.mktemp("finished")
    file = write_study(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        return file, base / "out", allelse("run", file, "--out", base / "out", "--device", "cpu")


def width(text: str) -> int:
    return max(map(len, text.splitlines()))


def rows(ended) -> list[dict]:
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


def test_list_shows_the_packaged_studies_and_what_to_do_next():
    ended = allelse("list")
    assert ended.code == 0
    assert [line for line in ended.out.splitlines() if line in study.packaged_studies()] == list(study.packaged_studies())
    assert ended.out.splitlines()[-1] == "next: allelse run sigmoid-vs-relu --quick"
    assert width(ended.out) <= 80


def test_list_does_not_wait_for_torch():
    code = "import sys; sys.argv = ['allelse', 'list']\nfrom allelse.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_written_template_plans_and_runs(tmp_path):
    file = tmp_path / "mine.toml"
    ended = allelse("new", file)
    assert (ended.code, ended.out) == (0, f"wrote {file}; next: allelse plan {file}\n")
    small = ["--set", "train_per_class=10", "--set", "model.width=4"]
    assert allelse("plan", file, *small).code == 0
    assert allelse("run", file, "--quick", *small, "--seeds", 2, "--out", tmp_path / "out").code == 0
    assert len(rows(allelse("results", tmp_path / "out", "--runs", "--format", "json"))) == 4
    assert study.load(file).seeds == (0, 1, 2, 3, 4)


def test_new_leaves_a_file_that_is_there_as_it_is(tmp_path):
    file = write_study(tmp_path)
    assert mistake("new", file) == f"{file}: is there already and is left as it is; give another name"
    assert file.read_text() == TINY
    missing = tmp_path / "no" / "s.toml"
    assert (
        mistake("new", missing)
        == f"{missing}: cannot be written: No such file or directory; make its folder, or give another name"
    )


def test_plan_shows_arms_packs_time_and_what_differs(finished, monkeypatch):
    from allelse.launch import local

    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: 1e6 * len(pack.runs))
    ended = allelse("plan", finished[0], "--device", "cpu")
    assert ended.code == 0
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines[0] == "tiny: Is ReLU above sigmoid?"
    assert lines[1] == "activation parameters lr packs img/s time"
    # 4·9 + 4 convolution, 4 + 4 norm, 4·10 + 10 head
    assert lines[3:5] == ["sigmoid 98 0.01 2×1 2,000,000 0 s", "relu 98 0.01 2×1 2,000,000 0 s"]
    assert "model.activation.name: sigmoid, relu" in lines
    assert any(line.startswith("4 runs in 2 packs on ") for line in lines)
    assert "packs are computed in one way: grouped" in lines
    assert width(ended.out) <= 80
    alone = allelse("plan", finished[0], "--device", "cpu", "--set", "model.activation=relu").out
    assert "What differs between arms\n  nothing: there is one" in alone


def test_plan_shows_how_packs_are_computed(finished, monkeypatch):
    from allelse.launch import local

    ways = (Way("grouped", True), Way("im2col", True))
    monkeypatch.setattr(engine, "ways", lambda device, graphs: ways)

    def rate(self, pack):
        return 1e6 if len(pack.runs) == 1 else 2e6 if pack.way == ways[1] else None

    monkeypatch.setattr(local.Speeds, "images_per_second", rate)
    lines = [" ".join(line.split()) for line in allelse("plan", finished[0]).out.splitlines()]
    assert "packs are computed in one way: im2col + graph" in lines


def test_runs_can_be_trained_alone_and_without_graphs(finished, tmp_path):
    file, out, _ = finished
    ended = allelse("plan", file, "--device", "cpu", "--no-pack", "--no-graph")
    assert "4 runs in 4 packs on " in ended.out
    assert allelse("run", file, "--device", "cpu", "--no-pack", "--out", tmp_path / "alone").code == 0
    assert len(packs(tmp_path / "alone")) == 4
    said = mistake("run", file, "--device", "cpu", "--no-graph", "--out", out)
    assert "was planned without --no-pack and --no-graph" in said


def test_run_shows_its_table_and_verdicts_and_where_the_report_is(finished):
    _, out, ended = finished
    assert ended.code == 0
    assert ended.out.startswith(allelse("results", out).out)
    assert allelse("verdicts", out).out in ended.out
    assert str(out) in ended.out.splitlines()[-1]
    assert [line.partition(", est")[0] for line in ended.err.splitlines()] == [
        "measuring how to pack 4 runs on this device",
        f"4 runs in {len(packs(out))} packs",
    ]


def packs(out) -> list:
    with store.read(out) as opened:
        return opened.plan["packs"]


def test_run_without_out_names_the_folder_after_the_study(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert allelse("run", finished[0], "--quick").code == 0
    assert (tmp_path / "runs" / "tiny-quick" / "study.sqlite").is_file()


def test_results_show_each_arm_with_the_published_figure(finished):
    lines = allelse("results", finished[1]).out.splitlines()
    assert lines[1].split() == ["activation", "n", "mean", "sd", "95", "%", "interval", "published"]
    assert [line.split()[:2] for line in lines[3:5]] == [["sigmoid", "2"], ["relu", "2"]]
    assert lines[4].split()[-1] == "50.0"
    assert width("\n".join(lines)) <= 80


def test_a_metric_that_is_no_percentage_has_three_significant_digits(finished):
    listed = rows(allelse("results", finished[1], "--runs", "--format", "json"))
    mean = sum(row["train_loss"] for row in listed[:2]) / 2
    line = allelse("results", finished[1], "--metric", "train_loss").out.splitlines()[3]
    assert line.split()[2] == f"{mean:.3g}"


def test_json_of_runs_keeps_the_contract(finished):
    _, out, _ = finished
    ended = allelse("results", out, "--runs", "--format", "json")
    listed = rows(ended)
    assert [(row["arm"], row["seed"]) for row in listed] == [
        ({"model.activation": activation}, seed) for activation in ("sigmoid", "relu") for seed in (0, 1)
    ]
    assert [row["run"] for row in listed] == [run.id for run in study.load(finished[0]).runs()]
    assert all(row["status"] == "done" and 0 <= row["accuracy"] <= 100 and row["error"] is None for row in listed)
    assert all(row["accuracy"] == row["test_accuracy"] for row in listed)
    varying = {"seconds_train", "seconds_evaluate", "images_per_second", "host", "started", "device", "threads", "torch"}
    assert not varying & set(listed[0])
    assert varying <= set(rows(allelse("results", out, "--runs", "--timing", "--format", "json"))[0])


def test_two_executions_give_the_same_json_of_runs(finished, tmp_path):
    file, out, _ = finished
    assert allelse("run", file, "--out", tmp_path / "again").code == 0
    first, again = (allelse("results", folder, "--runs", "--format", "json").raw for folder in (out, tmp_path / "again"))
    assert first == again


@pytest.mark.parametrize("flags", [[], ["--runs"], ["--runs", "--timing"]])
def test_every_format_holds_the_same_rows(finished, flags):
    out = finished[1]
    listed = rows(allelse("results", out, *flags, "--format", "json"))
    csv = pd.read_csv(io.BytesIO(allelse("results", out, *flags, "--format", "csv").raw), dtype={"run": str})
    parquet = pd.read_parquet(io.BytesIO(allelse("results", out, *flags, "--format", "parquet").raw))
    assert list(csv.columns) == list(parquet.columns)
    assert set(csv.columns) == {*listed[0], "model.activation"} - {"arm"}
    for frame in (csv, parquet):
        assert list(frame["model.activation"]) == [row["arm"]["model.activation"] for row in listed]
    value = "accuracy" if flags else "mean"
    assert list(parquet[value]) == [row[value] for row in listed]
    assert list(csv[value]) == pytest.approx([row[value] for row in listed])


@pytest.mark.parametrize("flags", [["--runs"], ["--runs", "--timing"]])
def test_the_table_of_runs_fits_80_columns_and_has_every_run(finished, flags):
    ended = allelse("results", finished[1], *flags)
    listed = rows(allelse("results", finished[1], "--runs", "--format", "json"))
    assert width(ended.out) <= 80
    assert all(row["run"] in ended.out and f"{row['accuracy']:.2f}" in ended.out for row in listed)


def test_levels_of_several_types_in_one_factor_can_be_written_in_every_format(tmp_path):
    file = write_study(tmp_path, changed('"model.activation" = ["sigmoid", "relu"]', '"model.width" = [4, [8]]', PLAIN))
    assert allelse("run", file, "--seeds", 1, "--out", tmp_path / "out").code == 0
    for output in ("table", "csv", "json", "parquet"):
        for flags in ([], ["--runs"]):
            assert allelse("results", tmp_path / "out", "--format", output, *flags).code == 0
    frame = pd.read_parquet(io.BytesIO(allelse("results", tmp_path / "out", "--format", "parquet").raw))
    assert list(frame["model.width"]) == ["4", "8"]


def test_results_of_another_metric_and_of_one_that_is_not_there(finished):
    ended = allelse("results", finished[1], "--metric", "train_loss")
    assert "train_loss: a training image" in ended.out
    assert "published" not in ended.out
    told = mistake("results", finished[1], "--metric", "train_los")
    assert told.startswith("metric 'train_los' is not among the results; did you mean 'train_loss'? allowed: accuracy, ")


def test_status_of_a_finished_study_proves_the_pairing(finished):
    lines = allelse("status", finished[1]).out.splitlines()
    assert lines[:2] == ["tiny: Is ReLU above sigmoid?", "4 runs: 4 done"]
    assert lines[2].startswith("paired: within each of 2 seeds, ")
    assert lines[-1].startswith("trained on ")
    assert lines[-1].endswith(" in fp32")


def test_half_a_study_shows_what_is_there_and_what_is_missing(finished, tmp_path, monkeypatch):
    real, calls = engine.train_pack, []

    def train_pack(pack, *rest):
        calls.append(pack)
        if pack.runs[0].arm["model.activation"] == "relu":
            raise KeyboardInterrupt
        return real(pack, *rest)

    monkeypatch.setattr(engine, "train_pack", train_pack)
    ended = allelse("run", finished[0], "--out", tmp_path / "half")
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "allelse: stopped; the same command goes on from here"
    assert "Traceback" not in ended.err

    lines = allelse("results", tmp_path / "half").out.splitlines()
    assert lines[1].split()[-1] == "pending"
    assert lines[4].split() == ["relu", "0", "–", "–", "–", "…", "–", "50.0", "2"]
    assert "4 runs: 2 done, 2 pending" in allelse("status", tmp_path / "half").out
    assert [row["accuracy"] is None for row in rows(allelse("results", tmp_path / "half", "--runs", "--format", "json"))] == [
        False,
        False,
        True,
        True,
    ]
    for output in ("csv", "parquet"):
        assert allelse("results", tmp_path / "half", "--format", output).code == 0


def test_a_stored_study_of_which_nothing_is_finished_says_so(finished, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "train_pack", stopped)
    allelse("run", finished[0], "--out", tmp_path / "out")
    assert "nothing is finished yet (4 runs planned)" in allelse("results", tmp_path / "out").out
    assert "4 runs: 4 pending" in allelse("status", tmp_path / "out").out
    for output in ("csv", "json", "parquet"):
        assert allelse("results", tmp_path / "out", "--runs", "--format", output).code == 0


@pytest.mark.parametrize("failing", [["sigmoid"], ["sigmoid", "relu"]])
def test_failed_runs_show_everywhere_give_exit_code_1_and_are_tried_again(finished, tmp_path, monkeypatch, failing):
    real, out, trained = engine.train_pack, tmp_path / "out", []

    def train_pack(pack, *rest):
        trained.append(pack.runs[0].arm["model.activation"])
        if trained[-1] in failing:
            raise RuntimeError("no memory")
        return real(pack, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", train_pack)
        ended = allelse("run", finished[0], "--out", out)
    count = 2 * len(failing)
    assert ended.code == 1
    assert ended.err.splitlines()[-1] == (
        f"allelse: {count} runs failed, see {out / 'allelse.log'}; the same command tries them again"
    )
    assert "failed: activation sigmoid, seed 1: RuntimeError: no memory" in ended.out
    assert f"{count} failed" in allelse("status", out).out
    first = rows(allelse("results", out, "--runs", "--format", "json"))[0]
    assert (first["status"], first["accuracy"], first["error"]) == ("failed", None, "RuntimeError: no memory")
    assert "failed: RuntimeError: no memory" in allelse("results", out, "--runs").out
    ended = allelse("run", finished[0], "--out", out)
    assert ended.code == 0
    assert "failed:" not in ended.out
    assert (
        allelse("results", out, "--runs", "--format", "json").raw
        == allelse("results", finished[1], "--runs", "--format", "json").raw
    )


def test_diverged_runs_show_everywhere_and_are_no_failure(finished, tmp_path):
    out = tmp_path / "out"
    changes = ["--set", "optimizer={ name = 'sgd', lr = 1e38 }", "--set", "model.norm=none"]
    ended = allelse("run", finished[0], *changes, "--set", "model.activation=['sigmoid', 'relu']", "--out", out)
    assert ended.code == 0
    assert ended.out.splitlines()[1].split()[-1] == "diverged"
    listed = rows(allelse("results", out, "--runs", "--format", "json"))
    diverged = [row for row in listed if row["status"] == "diverged"]
    assert len(diverged) >= 2
    assert all(
        row["accuracy"] is None and row["error"].startswith("the training loss was no longer finite") for row in diverged
    )
    assert f"{len(diverged)} diverged" in allelse("status", out).out
    relu = rows(allelse("results", out, "--format", "json"))[1]
    assert (relu["arm"]["model.activation"], relu["diverged"]) == ("relu", 2)


def test_long_names_do_not_make_the_output_wider(tmp_path):
    levels = "\n".join(f'"{"a level with a long name " * 4}{number}" = {{ epochs = {number} }}' for number in (1, 2))
    text = PLAIN.split("[factors]")[0] + f"[factors.{'long' * 30}]\n{levels}\n"
    file = write_study(tmp_path, changed("Is ReLU above sigmoid?", "Why? " * 60, text))
    ended = allelse("run", file, "--seeds", 1, "--out", tmp_path / "out")
    shown = [ended.out.partition("\nreport: ")[0]]
    shown += [
        allelse(*command).out
        for command in (["plan", file], ["status", tmp_path / "out"], ["results", tmp_path / "out", "--runs"])
    ]
    assert all(width(text) <= 80 for text in shown), shown


def test_data_list_tells_what_is_here():
    lines = allelse("data", "list").out.splitlines()
    assert lines[0] == "digits"
    assert "  here: bundled with scikit-learn" in lines
    assert "  not here: allelse data fetch cifar10, or allelse data import cifar10 PATH" in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--timing"], "--timing: belongs to single runs; give --runs too"),
        (["--runs", "--metric", "loss_running"], "--metric loss_running: summarises arms; leave out --runs, or have "),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(finished, words, said):
    assert mistake("results", finished[1], *words).startswith(said)


def test_a_study_file_that_does_not_fit_on_the_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, *_, **__):
        path.touch()
        return Full()

    monkeypatch.setattr(Path, "open", opened)
    assert (
        mistake("new", tmp_path / "new.toml")
        == f"{tmp_path / 'new.toml'}: cannot be written: No space left on device; free space"
    )
    assert not list(tmp_path.iterdir())


def test_plan_checks_the_smaller_versions_too(tmp_path):
    file = write_study(tmp_path, changed("epochs        = 1", "epochs = 0"))
    assert mistake("plan", file).startswith(f"{file}, line 35: quick.epochs: 0; allowed: ")
    assert allelse("run", file, "--out", tmp_path / "out").code == 0, "which asks for neither"


def test_a_study_without_claims_says_so_where_verdicts_are_asked(tmp_path):
    plain = write_study(tmp_path, PLAIN, "plain.toml")
    assert allelse("run", plain, "--seeds", "2", "--set", "epochs=1", "--out", tmp_path / "out").code == 0
    ended = allelse("verdicts", tmp_path / "out")
    assert (ended.code, ended.out) == (0, "its study makes no claims; ask some of these runs with --also FILE\n")
    assert json.loads(allelse("verdicts", tmp_path / "out", "--format", "json").out) == []


def test_verdicts_keep_their_column_and_say_what_their_metrics_are(tmp_path):
    long = "ReLU " + "is above the sigmoid in what is lost on every image of the test split " * 2
    claim = f'says = "{long.strip()}"\nkind = "higher"\nmetric = "loss_running"\n'
    text = changed('says = "ReLU is above sigmoid"\nkind = "higher"\n', claim)
    write_study(tmp_path, text)
    assert allelse("run", tmp_path / "study.toml", "--seeds", "2", "--set", "epochs=1", "--out", tmp_path / "out").code == 0
    shown = allelse("verdicts", tmp_path / "out").out.splitlines()
    first = next(number for number, line in enumerate(shown) if "ReLU is above" in line)
    *rest, last = [line for line in shown[first + 1 :] if line.strip()]
    assert all(line.startswith(" " * 11) and line[11] != " " for line in rest)
    assert last.strip() == "loss_running: nats a test image"


def test_plan_says_why_a_claim_is_not_asked(tmp_path):
    file = write_study(tmp_path, TINY)
    ended = allelse("plan", file, "--set", "model.activation=relu", "--device", "cpu")
    told = " ".join(ended.out.split())
    assert "relu-above: not asked in this run: no arm has model.activation = sigmoid" in told
    assert "What 2 seeds can decide" in told
    assert "What 1 seed can decide" in " ".join(allelse("plan", file, "--seeds", "1", "--device", "cpu").out.split())
