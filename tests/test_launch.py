"""The local launcher: everything is stored, what failed is recorded and tried again, speeds are remembered."""

import json
from dataclasses import replace

import pytest
import torch
from study_support import PLAIN, TINY, Quiet, allelse, changed, run, statuses, write_study

from allelse import engine, launch, own, store, study
from allelse.engine import provenance
from allelse.errors import StoreError, Terminated
from allelse.launch import local, orchestrator
from allelse.launch.crew import NoMemory, Task, what_failed
from allelse.plan import GAIN_TO_PACK_MORE
from allelse.records import Pack, RunSpec


@pytest.fixture
def one_pack_an_arm(monkeypatch):
    """As if this device trained every pack as fast as one run."""
    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: 1e6 * GAIN_TO_PACK_MORE ** (2 * len(pack.runs)))


def test_every_run_is_trained_and_stored_with_its_provenance(tmp_path):
    outcome = run(write_study(tmp_path), tmp_path / "out")
    assert (outcome.folder, outcome.runs_by_status) == (tmp_path / "out", {"done": 4})
    with store.read(tmp_path / "out") as opened:
        results = [stored.result for stored in opened.runs()]
        assert "NOT" not in " ".join(store.pairing(opened.runs()))
    assert all(len(result.epochs) == 2 and 0 <= result.metrics["accuracy"] <= 100 for result in results)
    assert {result.provenance.precision for result in results} == {"fp32"}
    assert len({json.dumps(dict(result.metrics)) for result in results}) == 4


def test_running_again_trains_nothing(tmp_path, monkeypatch):
    file = write_study(tmp_path)
    run(file, tmp_path / "out")
    monkeypatch.setattr(engine, "train_pack", lambda *_: pytest.fail("it trained again"))
    assert run(file, tmp_path / "out").runs_by_status == {"done": 4}


def test_progress_adds_up_to_the_planned_seconds(tmp_path):
    watcher = Quiet()
    launch.run_study(study.load(write_study(tmp_path)), tmp_path / "out", "cpu", watcher)
    assert watcher.seconds == pytest.approx(watcher.plan.seconds)
    launch.run_study(study.load(tmp_path / "study.toml"), tmp_path / "out", "cpu", watcher)
    assert watcher.seconds == pytest.approx(watcher.plan.seconds)


def fail_where(monkeypatch, activation, error):
    """Makes packs of one activation fail, and returns the list of arms that are trained."""
    trained, real = [], engine.train_pack

    def train_pack(pack, *rest):
        trained.append(pack.runs[0].arm["model.activation"])
        if trained[-1] == activation:
            raise error
        return real(pack, *rest)

    monkeypatch.setattr(engine, "train_pack", train_pack)
    return trained


@pytest.mark.usefixtures("one_pack_an_arm")
def test_a_pack_that_fails_is_recorded_and_only_it_is_tried_again(tmp_path, monkeypatch):
    file, out = write_study(tmp_path), tmp_path / "out"
    with monkeypatch.context() as patch:
        trained = fail_where(patch, "sigmoid", RuntimeError("out of\n memory"))
        assert run(file, out).runs_by_status == {"failed": 2, "done": 2}
    assert trained == ["sigmoid", "relu"]
    with store.read(out) as opened:
        assert [stored.result.error for stored in opened.runs()] == ["RuntimeError: out of memory"] * 2 + [None] * 2
    assert "Traceback" in (out / "allelse.log").read_text()

    trained = fail_where(monkeypatch, "nothing", RuntimeError())
    assert run(file, out).runs_by_status == {"done": 4}
    assert trained == ["sigmoid"]


def test_the_plan_is_stored_before_anything_is_trained(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "train_pack", killed)
    with pytest.raises(KeyboardInterrupt):
        run(write_study(tmp_path), tmp_path / "out")
    with store.read(tmp_path / "out") as opened:
        assert sum(len(planned["runs"]) for planned in opened.plan["packs"]) == 4
    assert statuses(tmp_path / "out") == ["pending"] * 4


def test_a_stored_plan_is_kept_when_the_device_would_now_be_packed_otherwise(tmp_path, monkeypatch):
    file, out = write_study(tmp_path), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(local.Speeds, "images_per_second", lambda self, pack: 100.0)
        fail_where(patch, "sigmoid", RuntimeError("once"))
        run(file, out)
    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: pytest.fail("it measured again"))
    assert run(file, out).runs_by_status == {"done": 4}


def test_the_plan_of_a_gpu_goes_on_on_a_cpu(tmp_path, monkeypatch):
    loaded, make_plan = study.load(write_study(tmp_path)), orchestrator.make_plan

    def planned(*arguments, **named):
        made = make_plan(*arguments, **named)
        packs = (replace(one, pack=replace(one.pack, way=replace(one.pack.way, graph=True))) for one in made.packs)
        return replace(made, packs=tuple(packs))

    monkeypatch.setattr(orchestrator, "make_plan", planned)
    outcome = launch.run_study(loaded, tmp_path / "out", "cpu", Quiet())
    with store.read(tmp_path / "out") as opened:
        assert all(pack["way"]["graph"] for pack in opened.plan["packs"]), "it was planned with graphs"
    assert outcome.runs_by_status == {"done": len(list(loaded.runs()))}


@pytest.mark.usefixtures("one_pack_an_arm")
def test_going_on_with_another_device_is_told_and_each_run_says_where_it_was_trained(tmp_path, monkeypatch):
    file, out, watcher = write_study(tmp_path), tmp_path / "out", Quiet()
    fail_where(monkeypatch, "relu", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(file, out)
    here = engine.describe_device(torch.device("cpu"))
    monkeypatch.undo()
    for module in (engine, provenance):
        monkeypatch.setattr(module, "describe_device", lambda device: "another CPU")
    assert launch.run_study(study.load(file), out, "cpu", watcher).runs_by_status == {"done": 4}
    [told] = [line for line in watcher.said if line.startswith("warning")]
    assert told == (
        f"warning: begun on {here} with torch {torch.__version__}, going on with another CPU with torch {torch.__version__}: "
        "pairs that are split between the two differ by more than their arm"
    )
    with store.read(out) as opened:
        assert [stored.result.provenance.device for stored in opened.runs()] == [here] * 2 + ["another CPU"] * 2


class OneRunFits:
    """A device whose memory holds one run; says which packs were trained on it."""

    def __init__(self, monkeypatch, error):
        self.trained, real = [], engine.train_pack

        def train_pack(pack, *rest):
            if len(pack.runs) > 1:
                raise error
            self.trained.append(pack)
            return real(pack, *rest)

        monkeypatch.setattr(engine, "train_pack", train_pack)


@pytest.mark.usefixtures("one_pack_an_arm")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["cuda", "cpu"],
)
def test_a_pack_that_does_not_fit_in_memory_is_halved_and_goes_on(error, tmp_path, monkeypatch):
    device, watcher = OneRunFits(monkeypatch, error), Quiet()
    loaded = study.load(write_study(tmp_path), seeds=3)
    outcome = launch.run_study(loaded, tmp_path / "out", "cpu", watcher)
    assert outcome.runs_by_status == {"done": 6}
    assert [pack.runs[0] for pack in device.trained] == list(loaded.runs())
    assert watcher.seconds == pytest.approx(watcher.plan.seconds)
    assert sum("do not fit in memory" in line for line in watcher.said) == 4  # 3 → 1 + 2, 2 → 1 + 1, for both arms
    with store.read(tmp_path / "out") as opened:
        assert [len(planned["runs"]) for planned in opened.plan["packs"]] == [1] * 6
        assert opened.plan["machine"]


def test_one_run_that_does_not_fit_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "train_pack", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    assert run(write_study(tmp_path), tmp_path / "out").runs_by_status == {"failed": 4}


@pytest.mark.usefixtures("one_pack_an_arm")
def test_a_plan_is_not_changed_by_other_options(tmp_path):
    loaded = study.load(write_study(tmp_path))
    alone = launch.Computing(pack=False)
    launch.run_study(loaded, tmp_path / "out", "cpu", Quiet(), alone)
    with store.read(tmp_path / "out") as opened:
        assert [len(planned["runs"]) for planned in opened.plan["packs"]] == [1] * 4
    with pytest.raises(StoreError, match=r"was planned with --no-pack, .* go on with --no-pack, or give a new folder"):
        launch.run_study(loaded, tmp_path / "out", "cpu", Quiet())
    assert launch.run_study(loaded, tmp_path / "out", "cpu", Quiet(), alone).runs_by_status == {"done": 4}


def test_a_diverged_run_is_final_and_has_no_accuracy(tmp_path):
    file, out = write_study(tmp_path), tmp_path / "out"
    changes = ["optimizer={ name = 'sgd', lr = 1e38 }", "model.norm=none", "model.activation=['relu', 'identity']"]
    assert run(file, out, changes).runs_by_status == {"diverged": 4}
    with store.read(out) as opened:
        assert opened.table()["accuracy"].isna().all()
        assert {stored.result.error for stored in opened.runs()} == {"the training loss was no longer finite in epoch 1"}
    assert run(file, out, changes).runs_by_status == {"diverged": 4}


@pytest.mark.usefixtures("one_pack_an_arm")
def test_a_checkpoint_is_written_where_the_store_says_and_removed_when_the_pack_is_stored(tmp_path, monkeypatch):
    from allelse.engine import loop

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    seen, real = [], loop.Training.save

    def save(self, checkpoint):
        seen.append(checkpoint)
        real(self, checkpoint)

    monkeypatch.setattr(loop.Training, "save", save)
    run(write_study(tmp_path), tmp_path / "out")
    assert len(set(seen)) == 2
    assert {path.parent for path in seen} == {tmp_path / "out" / "checkpoints"}
    assert not list((tmp_path / "out" / "checkpoints").iterdir())


def test_speeds_are_measured_once_and_a_damaged_memory_is_measured_anew(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engine, "images_per_second", lambda pack, *_: measured.append(pack) or 1e6)
    loaded, device = study.load(write_study(tmp_path)), local.Local(engine.find_device("cpu"))
    first = launch.plan_study(loaded, device)
    assert len(measured) == 2  # packs of one and of two; the two arms do the same work
    assert launch.plan_study(loaded, device) == first
    assert len(measured) == 2  # packs of one and of two; the two arms do the same work
    launch.plan_study(study.load(tmp_path / "study.toml", changes=["batch_size=25"]), device)
    assert len(measured) == 4
    for damaged in ("[1, 2", "[1]", '{"a": "fast"}'):
        (tmp_path / "cache" / "allelse" / "speeds.json").write_text(damaged)
        assert launch.plan_study(loaded, device) == first


def test_a_cache_that_cannot_be_written_costs_a_measurement_and_no_more(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert launch.plan_study(study.load(write_study(tmp_path)), local.Local(engine.find_device("cpu"))).packs


def test_a_study_without_factors_runs(tmp_path):
    assert run(write_study(tmp_path, PLAIN.split("[factors]")[0]), tmp_path / "out").runs_by_status == {"done": 2}


def test_changed_images_under_the_same_name_are_refused(tmp_path):
    import numpy as np

    from allelse.errors import StoreError

    def images(value):
        local._dataset.cache_clear()
        x = np.full((20, 4, 4), value, np.uint8)
        np.savez(tmp_path / "images.npz", x_train=x, y_train=np.arange(20) % 2, x_test=x, y_test=np.arange(20) % 2)

    file = write_study(tmp_path, changed("train_per_class = 10\n", "", TINY))
    images(3)
    run(file, tmp_path / "out", [f"dataset=npz:{tmp_path}/images.npz"])
    images(4)
    with pytest.raises(StoreError, match=r"results never mix: data\.npz:"):
        run(file, tmp_path / "out", [f"dataset=npz:{tmp_path}/images.npz"])


class Deaf(Quiet):
    """Cannot be told of progress, as where stderr is a file on a full disk."""

    def advance(self, seconds: float) -> None:
        raise OSError(28, "No space left on device")


def test_a_watcher_that_fails_is_no_failure_of_a_pack(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        launch.run_study(study.load(write_study(tmp_path)), tmp_path / "out", "cpu", Deaf())
    assert statuses(tmp_path / "out") == ["pending"] * 4


def test_a_part_that_ends_python_is_a_failure_and_sigterm_is_none(tmp_path, monkeypatch):
    def ends(error):
        def train_pack(*_):
            raise error

        monkeypatch.setattr(engine, "train_pack", train_pack)

    ends(SystemExit("bad config"))
    assert allelse("run", write_study(tmp_path), "--out", tmp_path / "out").code == 1
    with store.read(tmp_path / "out") as opened:
        assert {run.result.error for run in opened.runs()} == {"SystemExit: bad config"}
    ends(Terminated())
    ended = allelse("run", tmp_path / "study.toml", "--out", tmp_path / "out")
    assert (ended.code, ended.err.splitlines()[-1]) == (143, "allelse: stopped; the same command goes on from here")
    monkeypatch.setattr("importlib.import_module", ends_while_importing)
    with pytest.raises(Terminated):
        own.find("python:slow:Part")


def ends_while_importing(_):
    raise Terminated


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__context__ = inner
    return outer


ENDED = "CUDA error: operation failed due to a previous error during capture"


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (caused(RuntimeError(ENDED), torch.OutOfMemoryError("CUDA out of memory.")), True),
        (RuntimeError(ENDED), False),
        (ValueError("no"), False),
    ],
)
def test_a_pack_for_which_memory_runs_out_is_told_from_one_that_fails(error, is_memory, tmp_path):
    runs = tuple(RunSpec({}, {}, seed) for seed in range(2))
    task = Task(Pack(runs), 1, "", tmp_path / "checkpoint", None)
    assert isinstance(what_failed(task, error), NoMemory) is is_memory


def test_a_device_with_a_number_is_the_current_one_where_graphs_are_recorded(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        local.Local(torch.device(name)).close()
    assert chosen == [torch.device("cuda:1")]
