"""Worker processes: the same numbers as in one process, and what happens when one dies, or the process that began them."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fault_support import Faults, equal_part, is_running, results, wait_until
from study_support import PLAIN, Quiet, allelse, changed, mistake, write_study

import allelse as allelse_package
from allelse import engine, launch, store, study
from allelse.errors import DataError, DeviceError
from allelse.launch import local, machines, orchestrator, processes
from allelse.launch.crew import Lost, carry_out_elsewhere
from allelse.launch.processes import Processes


@pytest.fixture(scope="module")
def one_pack_an_arm(tmp_path_factory):
    """As if this device trained every pack as fast as one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr(local.Speeds, "images_per_second", lambda self, pack: 1e6 * 2.0 ** len(pack.runs))
        yield


@pytest.fixture(scope="module")
def struck(tmp_path_factory, one_pack_an_arm):
    """A study with one arm of each fault, trained by two workers and in this process: the faults, both folders, the watcher."""
    faults = Faults(tmp_path_factory.mktemp("struck"), "relu", "Once", "Always", "Big")
    watcher = Quiet()
    loaded = study.load(faults.study)
    here = faults.base / "here"
    launch.run_study(loaded, here, "cpu", Quiet())
    launch.run_study(loaded, faults.out, "cpu", watcher, machines=launch.Machines(workers=2, retries=1))
    return faults, here, watcher


def test_what_is_killed_again_and_again_is_recorded_and_the_rest_is_done(struck):
    faults, _, watcher = struck
    assert faults.status_from_arm() == {
        "relu": ["done"] * 2,
        "Once": ["done"] * 2,
        "Always": ["failed"] * 2,
        "Big": ["done"] * 2,
    }
    with store.read(faults.out) as opened:
        [error] = {run.result.error for run in opened.runs() if run.status == "failed"}
    assert error.startswith("given up after 2 times: the worker process was killed by SIGKILL")
    assert sum("tried again (1 of 1)" in line for line in watcher.said) == 2
    assert sum(line.startswith("failed: ") for line in watcher.said) == 1
    assert "was lost: the worker process was killed" in (faults.out / "allelse.log").read_text()


def test_workers_give_the_numbers_of_one_process_to_the_bit(struck):
    faults, here, _ = struck
    ours, theirs = results(faults.out), results(here)
    assert len(ours) == 6
    # a pack of two and two packs of one are the same trainings up to rounding, so only the former can be equal to the bit
    with store.read(faults.out) as opened:
        alike = [run.id for run in opened.runs() if run.status == "done" and "Big" not in run.arm["model.activation"]]
        threads = {run.result.provenance.threads for run in opened.runs() if run.status == "done"}
    assert len(alike) == 4
    assert {run: ours[run] for run in alike} == {run: theirs[run] for run in alike}
    assert threads == {torch.get_num_threads()}
    with store.read(faults.out) as opened:
        assert opened.plan["threads"] == torch.get_num_threads()


def test_a_pack_whose_worker_died_goes_on_from_its_checkpoint(struck):
    faults, _, _ = struck
    assert "resumed at 3" in faults.notes()


def test_out_of_memory_in_a_worker_halves_the_pack(struck):
    faults, _, watcher = struck
    with store.read(faults.out) as opened:
        sizes = sorted(len(packed["runs"]) for packed in opened.plan["packs"])
    assert sizes == [1, 1, 2, 2, 2]
    assert sum("do not fit in memory at once" in line for line in watcher.said) == 1


def test_progress_sums_over_workers_and_counts_nothing_twice(struck):
    _, _, watcher = struck
    assert watcher.seconds == pytest.approx(watcher.plan.seconds)


def test_no_worker_outlives_the_study_and_its_folder_is_tidy(struck):
    faults, _, _ = struck
    assert len(faults.workers()) >= 4
    assert not [worker for worker in faults.workers() if is_running(worker)]
    left = {path.name for path in (faults.out / "checkpoints").iterdir()}
    assert "token" not in left


@pytest.mark.usefixtures("one_pack_an_arm")
def test_on_error_stop_keeps_what_is_finished_and_the_same_command_goes_on(tmp_path):
    faults = Faults(tmp_path, "relu", "Broken", "sigmoid", epochs=1)
    command = ["run", faults.study, "--out", faults.out, "--device", "cpu", "--workers", 1, "--on-error", "stop"]
    ended = allelse(*command)
    assert ended.code == 1
    assert ended.err.splitlines()[-1] == (
        f"allelse: 2 runs failed, stopped there with 2 pending, see {faults.out / 'allelse.log'}; "
        "the same command tries them again and goes on"
    )
    assert faults.status_from_arm() == {"relu": ["done"] * 2, "Broken": ["failed"] * 2, "sigmoid": ["pending"] * 2}
    assert "stopped " in allelse("status", faults.out).out
    log = (faults.out / "allelse.log").read_text()
    assert "Traceback" in log
    assert "RuntimeError: it broke" in log
    faults.mend()
    assert allelse(*command).code == 0
    assert [status for both in faults.status_from_arm().values() for status in both] == ["done"] * 6


def test_on_error_stop_in_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "train_pack", lambda *_: (_ for _ in ()).throw(RuntimeError("it broke")))
    file = write_study(tmp_path, PLAIN)
    stop = launch.Machines(on_error="stop")
    outcome = launch.run_study(study.load(file), tmp_path / "out", "cpu", Quiet(), launch.Computing(pack=False), stop)
    assert (outcome.stopped, outcome.runs_by_status) == (True, {"failed": 1, "pending": 3})


class Forgetful(local.Local):
    """Loses every pack that it is given."""

    def wait(self, hear):
        hear(self._task.pack.id, Lost("the machine is gone"))


@pytest.mark.usefixtures("one_pack_an_arm")
def test_a_lost_pack_is_tried_again_twice_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "Local", Forgetful)
    file, watcher = write_study(tmp_path, PLAIN), Quiet()
    assert launch.run_study(study.load(file), tmp_path / "out", "cpu", watcher).runs_by_status == {"failed": 4}
    again = [line.partition("; ")[2] for line in watcher.said if "tried again" in line]
    assert again == ["tried again (1 of 2)", "tried again (2 of 2)"] * 2, "for each of the two packs"
    with store.read(tmp_path / "out") as opened:
        assert {run.result.error for run in opened.runs()} == {
            "given up after 3 times: the machine is gone; --no-pack in a new folder trains the runs one by one"
        }


# ── who began the workers dies, or is told to end ───────────────────────────────────────────────────────────────────

SCRIPT = """\
import sys
import allelse

print("begun", flush=True)
sys.exit(allelse.run(allelse.load(sys.argv[1]), sys.argv[2], "cpu", workers=1) is None)
"""
"""A user's script without ``if __name__ == "__main__"``: it must not be run again in a worker."""


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=str
)
def test_workers_end_with_the_process_that_began_them(tmp_path, sent, code):
    faults = Faults(tmp_path, "Once", epochs=2000, planner=0)
    (tmp_path / "died").touch()
    (tmp_path / "script.py").write_text(SCRIPT)
    begin = [tmp_path / "script.py"] if sent == signal.SIGKILL else ["-m", "allelse", "run"]
    options = [] if sent == signal.SIGKILL else ["--device", "cpu", "--workers", "1", "--out"]
    command = [sys.executable, *begin, faults.study, *options, faults.out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: list((faults.out / "checkpoints").glob("*.safetensors")) or process.poll() is not None)
            [worker] = faults.workers() - {process.pid}
            assert is_running(worker)
            process.send_signal(sent)
            shown, said = process.communicate()
        finally:
            process.kill()
    assert process.returncode == code, said
    assert shown == ("begun\n" if sent == signal.SIGKILL else "")
    if sent != signal.SIGKILL:
        assert said.splitlines()[-1] == "allelse: stopped; the same command goes on from here"
        assert "Traceback" not in said
        assert not is_running(worker)
    wait_until(lambda: not is_running(worker), 10)
    assert faults.status_from_arm() == {"Once": ["pending"] * 2}


# ── who is hired ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_several_gpus_get_a_worker_each_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(engine, "find_device", lambda name: torch.device({"auto": "cuda"}.get(name, name)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    def devices(device, workers=None):
        with machines.crew(launch.Machines(workers=workers), device) as hired:
            return [str(one) for one in hired._devices] if isinstance(hired, Processes) else str(hired.device)

    assert devices("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices("cuda", 4) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert devices("cuda:1") == "cuda:1"
    assert devices("cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert devices("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices("auto") == "cuda"


@pytest.fixture
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_workers_share_the_threads_and_a_plan_keeps_its_own_where_there_are_as_many(monkeypatch):
    torch.set_num_threads(8)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    with machines.crew(launch.Machines(workers=4), "cpu") as hired:
        assert (hired.threads, torch.get_num_threads()) == (2, 2)
        assert "(2 threads)" in hired.machine()["device"]
        hired.use_threads(1)
        assert (hired.threads, torch.get_num_threads()) == (1, 1)
        hired.use_threads(8)
        assert hired.threads == 1
    assert torch.get_num_threads() == 8
    with machines.crew(launch.Machines(), "cpu") as hired:
        assert hired.threads == 8
        hired.use_threads(2)
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 8


@pytest.mark.usefixtures("_threads")
def test_a_study_goes_on_with_the_threads_of_its_plan(tmp_path, monkeypatch):
    file = write_study(tmp_path, changed("epochs          = 2", "epochs          = 1", PLAIN))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            launch.run_study(study.load(file), tmp_path / "out", "cpu", Quiet())
    torch.set_num_threads(2)
    watcher = Quiet()
    launch.run_study(study.load(file), tmp_path / "out", "cpu", watcher)
    assert not [line for line in watcher.said if line.startswith("warning")]
    with store.read(tmp_path / "out") as opened:
        assert {run.result.provenance.threads for run in opened.runs()} == {1}


def test_folders_of_before_there_were_workers_go_on(tmp_path):
    file = write_study(tmp_path, PLAIN)
    launch.run_study(study.load(file), tmp_path / "out", "cpu", Quiet())
    with store.write(tmp_path / "out", store_definition(tmp_path / "out")) as opened:
        opened.replan({key: value for key, value in opened.plan.items() if key != "threads"})
        kept = [equal_part(run.result) for run in opened.runs()]
    watcher = Quiet()
    assert launch.run_study(study.load(file), tmp_path / "out", "cpu", watcher).runs_by_status == {"done": 4}
    with store.read(tmp_path / "out") as opened:
        assert [equal_part(run.result) for run in opened.runs()] == kept


def store_definition(out: Path) -> dict:
    with store.read(out) as opened:
        return opened.definition


def test_packs_are_no_larger_than_gives_every_worker_one(tmp_path, monkeypatch):
    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: 1e6 * 2.0 ** len(pack.runs))
    loaded = study.load(write_study(tmp_path, PLAIN), seeds=6)
    for workers, sizes in ((1, [6, 6]), (2, [6, 6]), (4, [3, 3, 3, 3])):
        with machines.crew(launch.Machines(workers=workers), "cpu") as hired:
            assert [len(planned.pack.runs) for planned in launch.plan_study(loaded, hired).packs] == sizes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--workers", 0], "--workers 0: allowed: 1 to 4096"),
        (["--address", "auto"], "--address auto: is of a Ray cluster; add --engine ray, or leave --address out"),
        (["--engine", "ray", "--address", ""], "--address: is empty; allowed: auto, or HOST:PORT of the head of a Ray cluster"),
        (
            ["--engine", "ray", "--device", "mps"],
            "--device mps: Ray chooses among the devices of its nodes; allowed: auto, cpu",
        ),
        (["--engine", "ray", "--device", "cpu"], "--engine ray: Ray is not installed; pip install 'allelse[ray]', or leave"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_machines_that_are_not_there_are_one_line_and_make_no_folder(tmp_path, monkeypatch, options, expected, verb):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    assert mistake(verb, write_study(tmp_path), *options).startswith(expected)
    assert not (tmp_path / "runs").exists()


def test_plan_says_who_would_train(tmp_path):
    ended = allelse("plan", write_study(tmp_path), "--device", "cpu", "--workers", 2)
    assert ended.code == 0
    assert "2 worker processes with 1 thread each; they share the time" in ended.out


def test_what_is_asked_of_python_is_checked_too(tmp_path):
    with pytest.raises(launch.machines.MachineError, match="unknown engine; allowed: local, ray"):
        launch.run_study(study.load(write_study(tmp_path)), tmp_path / "out", "cpu", Quiet(), machines=launch.Machines("dask"))
    with pytest.raises(DeviceError):
        launch.run_study(study.load(write_study(tmp_path)), tmp_path / "out", "gpu", Quiet())
    assert not (tmp_path / "out").exists()


def test_a_worker_that_is_just_starting_does_not_mind_ctrl_c():
    worker = processes._start(torch.device("cpu"))
    os.kill(worker.process.pid, signal.SIGINT)
    worker.pipe.close()  # its end, once it looks for a task
    worker.process.join(60)
    assert worker.process.exitcode == 0


def test_a_signal_without_a_name_is_a_loss_like_any_other():
    ours, _ = multiprocessing.Pipe()
    died = SimpleNamespace(exitcode=-40, join=lambda _: None)
    assert (
        processes._last_words(processes._Worker(died, ours, torch.device("cpu")))
        == "the worker process was killed by signal 40"
    )


@pytest.mark.parametrize(("device", "asked"), [("cuda", []), ("cuda:1", [torch.device("cuda:1")]), ("cpu", [])])
def test_a_worker_chooses_a_gpu_only_where_it_sees_several(monkeypatch, device, asked):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    task = SimpleNamespace(
        version=allelse_package.__version__, threads=1, sources=(), recipe=None, pack=SimpleNamespace(runs=())
    )

    def dataset_of(_):
        raise DataError("no further than here")

    event = carry_out_elsewhere(task, dataset_of, torch.device(device), lambda _: None)
    assert (event.reason, chosen) == ("no further than here", asked)


def test_a_pack_that_is_trained_again_shows_life_though_no_progress():
    """The journal is written when the watcher is told, and must say that someone is at work."""
    told = []
    part = orchestrator.Part.__new__(orchestrator.Part)
    part.told, part.watcher = {}, SimpleNamespace(at=lambda *_: None, advance=told.append)
    planned = SimpleNamespace(seconds=10.0, pack=SimpleNamespace(id="a"))
    for share in (0.5, 0.9, 0.0, 0.2, 0.95):
        part._tell(planned, engine.Progress(share, 0, 0))
    assert told == pytest.approx([5.0, 4.0, 0.0, 0.0, 0.5])
