"""A Ray cluster of three nodes on this machine, one of which is killed in mid-study; skipped where Ray is not installed."""

import os
import re
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from types import SimpleNamespace

import pytest
from fault_support import Faults, is_running, results, wait_until
from study_support import PLAIN, Quiet, mistake, write_study

from allelse import engine, launch, store, study
from allelse.errors import DeviceError
from allelse.launch import local
from allelse.launch.cluster import Cluster as OnRay
from allelse.launch.crew import Lost, Progressed

os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # read when Ray is imported; a busy machine needs more than 30
ray = pytest.importorskip("ray")

pytestmark = [
    # Ray's own, of its own making: what it will do otherwise in a later version, and pipes and files that it leaves to the end
    pytest.mark.filterwarnings("ignore:.*accelerator.*:FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STORE = 80 * 2**20
"""bytes of each node's object store, about the least that Ray takes"""


def node(cpus: int) -> dict[str, int]:
    """A small node. It is told its ports: one that chooses them gives up when its agents take more than 15 s to do so."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    for one in sockets:
        one.close()
    return {"num_cpus": cpus, "object_store_memory": STORE, **ports}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head without CPUs, on which nothing is trained, and two nodes of one."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.getbasetemp()
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        resource_tracker.ensure_running()  # which outlives the cluster
        before = descendants(os.getpid())
        started = Cluster(initialize_head=True, head_node_args={**node(0), "include_dashboard": False})
        try:
            started.small = [started.add_node(**node(1)) for _ in range(2)]
            yield started
        finally:
            processes = descendants(os.getpid()) - before
            ray.shutdown()
            started.shutdown()
            for process in processes:
                if is_running(process):
                    os.kill(process, signal.SIGKILL)


def descendants(process: int) -> set[int]:
    """Every process that came of this one."""
    shown = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parent_from_process = dict(map(int, line.split()) for line in shown.splitlines())
    found: set[int] = set()
    while more := {child for child, parent in parent_from_process.items() if parent in found | {process}} - found:
        found |= more
    return found


@pytest.fixture(scope="module")
def after(cluster, tmp_path_factory):
    """A study that was trained here, and on the cluster while a node was killed on which a pack of it was training."""
    faults = Faults(tmp_path_factory.mktemp("on_ray"), "Held", "Once", "Big", epochs=40)
    loaded, here = study.load(faults.study), faults.base / "here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.Speeds, "images_per_second", lambda self, pack: 1e6 * 2.0 ** len(pack.runs))
        patch.setattr("allelse.engine.train_pack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        for out in (here, faults.out):  # one plan for both
            with pytest.raises(KeyboardInterrupt):
                launch.run_study(loaded, out, "cpu", Quiet())
    launch.run_study(loaded, here, "cpu", Quiet())

    def kill_its_node() -> None:
        try:
            wait_until(faults.held)
            (held,) = faults.held()
            its = next(node for node in cluster.small if held in descendants(raylet(node)))
            cluster.remove_node(its, allow_graceful=False)
            wait_until(lambda: not is_running(held))
        finally:
            faults.let_go()

    watcher = Quiet()
    machine = launch.Machines("ray", address=cluster.address)
    with ThreadPoolExecutor(1) as beside:
        killed = beside.submit(kill_its_node)
        outcome = launch.run_study(loaded, faults.out, "cpu", watcher, machines=machine)
        killed.result()
    return faults, here, watcher, outcome


def raylet(node) -> int:
    """The process of a node of which its workers come."""
    (started,) = node.all_processes["raylet"]
    return started.process.pid


def test_a_study_ends_whole_when_a_node_is_killed(after):
    _, _, watcher, outcome = after
    assert outcome.runs_by_status == {"done": 6}
    lost = " ".join(line for line in watcher.said if "tried again" in line)
    assert re.search(r":Held: (NodeDied|WorkerCrashed)Error", lost), "a node was killed on which this pack was training"
    assert re.search(r":Once: WorkerCrashedError", lost), "this pack kills its worker"
    assert watcher.seconds == pytest.approx(watcher.plan.seconds)


def test_ray_gives_the_numbers_of_one_process_to_the_bit(after):
    faults, here, _, _ = after
    with store.read(faults.out) as opened:
        whole = [run.id for run in opened.runs() if "Big" not in run.arm["model.activation"]]
    ours, theirs = results(faults.out), results(here)
    assert {run: ours[run] for run in whole} == {run: theirs[run] for run in whole}
    assert len(whole) == 4


def test_a_pack_goes_on_from_the_checkpoint_of_another_worker(after):
    faults, _, _, _ = after
    assert "resumed at 3" in faults.notes()


def test_out_of_memory_on_a_node_halves_the_pack(after):
    faults, _, _, _ = after
    with store.read(faults.out) as opened:
        assert sorted(len(packed["runs"]) for packed in opened.plan["packs"]) == [1, 1, 2, 2]


def test_no_task_outlives_the_study(after):
    faults, _, _, _ = after
    wait_until(lambda: not [worker for worker in faults.workers() if is_running(worker)], 30)


def test_without_any_node_the_command_waits_for_one_and_says_so_once(caplog):
    """No cluster of its own: what Ray would say is made up."""
    crew, rounds = OnRay.__new__(OnRay), iter([1, 0, 0, 0, 1])
    crew._tasks, crew._late, crew._could_train = {"stream": None}, {}, True
    crew._ray = SimpleNamespace(wait=lambda *_, **__: ([], ["stream"]))
    crew._capacity = lambda: capacity
    for capacity in rounds:  # noqa: B007
        crew.wait(lambda *_: pytest.fail("nothing has happened"))
    said = [record.getMessage() for record in caplog.records if record.name == "allelse"]
    assert said == ["no node of the cluster can train any more; waiting for one to join"]
    assert list(crew._tasks) == ["stream"], "it is still to be done"


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ray://head:10001", "ray://head:10001: allelse must run on a node of the cluster"),
        ("banana", "banana: allowed: auto, or HOST:PORT of the cluster's head, as 'ray start' shows it"),
        ("host:port", "host:port: allowed: auto, or HOST:PORT"),
        ("127.0.0.1:99999", "127.0.0.1:99999: allowed: auto, or HOST:PORT"),
        ("127.0.0.1:{free}", "127.0.0.1:{free}: no Ray cluster answers there ([Errno 111] Connection refused); begin one with"),
        ("a..b:6379", "a..b:6379: no Ray cluster answers there ("),
    ],
)
@pytest.mark.parametrize("way", ["option", "environment"])
def test_an_address_at_which_nothing_answers_is_one_line_at_once(tmp_path, monkeypatch, address, expected, verb, way):
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray would try for minutes"))
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        free = listening.getsockname()[1]
    address, expected, file = address.format(free=free), expected.format(free=free), write_study(tmp_path, PLAIN)
    if way == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    told = mistake(verb, file, "--engine", "ray", *(["--address", address] if way == "option" else []))
    assert told.startswith(f"{'--address' if way == 'option' else 'RAY_ADDRESS'} {expected}")
    assert list(tmp_path.iterdir()) == [file]


def test_what_ray_cannot_do_is_one_line(cluster, tmp_path):
    file, there = write_study(tmp_path, PLAIN), launch.Machines("ray", address=cluster.address)
    assert "allelse must run on a node of the cluster" in mistake(
        "run", file, "--engine", "ray", "--address", "ray://head:10001"
    )
    with pytest.raises(DeviceError, match="no node of the Ray cluster has a GPU"):
        launch.run_study(study.load(file), tmp_path / "out", "cuda", Quiet(), machines=there)
    assert not ray.is_initialized()
    assert not (tmp_path / "out").exists()


class Slow(Exception):
    """As Ray's GetTimeoutError."""


def test_an_event_that_is_slow_to_come_is_waited_for_and_one_that_is_lost_ends_its_task():
    """No cluster of its own: what Ray would say is made up."""
    gone, cancelled, heard = type("RayError", (Exception,), {}), [], []
    answers = iter([Slow(), Progressed(engine.Progress(0.5, 1, 2)), gone("its node died")])

    def get(_, timeout):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    names = ("OutOfMemoryError", "RayTaskError")
    errors = SimpleNamespace(GetTimeoutError=Slow, RayError=gone, **{name: type(name, (Exception,), {}) for name in names})
    crew, stream = OnRay.__new__(OnRay), iter(["first", "second"])
    crew._tasks, crew._late, crew._could_train = {stream: SimpleNamespace(pack=SimpleNamespace(id="a"))}, {}, True
    crew._capacity = lambda: 1
    crew._ray = SimpleNamespace(
        wait=lambda streams, **_: (streams, []), get=get, exceptions=errors, cancel=lambda one, force: cancelled.append(one)
    )
    for _ in range(3):
        crew.wait(lambda pack, event: heard.append((pack, type(event))))
    assert heard == [("a", Progressed), ("a", Lost)]
    assert cancelled == [stream]
    assert not crew._tasks
