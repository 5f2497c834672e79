"""The script of everything that waits for a GPU: what can be known of it without one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

import pytest

from allelse.records import Way
from benchmarks import gpu, ways
from benchmarks.speed.grid import chosen


@pytest.mark.parametrize(("stage", "count"), [("speed-narrow", 3), ("speed-wide", 1), ("speed", len(chosen([])))])
def test_the_speed_stages_have_the_cells_that_are_aimed_at(stage, count):
    assert len(chosen(gpu.CELLS_FROM_STAGE[stage])) == count


def test_what_needs_cifar_is_passed_over_where_it_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ALLELSE_DATA", str(tmp_path / "none"))
    begun = []
    monkeypatch.setattr(gpu, "run", lambda stage, *_: begun.append(stage) or 0)
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--out", str(tmp_path / "out")])
    assert gpu.main() == 0
    assert begun == ["ways", "speed-narrow", "speed-wide", "soak", "speed"]
    told = capsys.readouterr().out
    for stage in (*gpu.RECIPES, *gpu.STUDIES):
        name = "cifar10" if stage in ("recipe-cifar10", "conv-activation-norm-position", "sigmoid-vs-relu") else "cifar100"
        assert f"── {stage}: needs {name}, which is not there" in told


def test_ways_are_begun_once_more_after_a_cuda_error(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(gpu, "run", lambda stage, *_: begun.append(stage) or 1)
    for stage, times in (("ways", 2), ("soak", 1)):
        begun.clear()
        monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--out", str(tmp_path), "--only", stage])
        gpu.main()
        assert begun == [stage] * times


@pytest.mark.parametrize(("ended", "times"), [(-6, 2), (139, 2), (130, 1), (-2, 1), (0, 1)])
def test_ways_are_begun_once_more_after_a_crash_and_not_after_a_stop(tmp_path, monkeypatch, ended, times):
    begun = []
    monkeypatch.setattr(gpu, "run", lambda stage, *_: begun.append(stage) or ended)
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--out", str(tmp_path), "--only", "ways"])
    gpu.main()
    assert begun == ["ways"] * times


def test_a_check_that_ends_the_process_is_the_last_one_of_the_next(tmp_path, monkeypatch, capsys):
    done = []

    def crash():
        done.append("b")
        raise SystemExit(134)  # as an abort would, it passes what keeps errors

    def named(name):
        return lambda: done.append(name) or 1.0

    monkeypatch.setattr(ways, "checks", lambda *_: iter([("a", named("a")), ("b", crash), ("c", named("c"))]))
    monkeypatch.setattr(ways, "page", lambda *_: "")
    monkeypatch.setattr(sys, "argv", ["ways", "--device", "cpu", "--out", str(tmp_path)])
    for _ in range(2):
        with pytest.raises(SystemExit):
            ways.main()
    assert done == ["a", "b", "c", "b"]
    [figures] = json.loads((tmp_path / "ways.json").read_text()).values()
    assert figures == {"a": 1.0, "b": "did not come back", "c": 1.0}


@pytest.mark.parametrize("precision", ways.PRECISIONS.values())
@pytest.mark.parametrize("name", ["grouped", "im2col"])
@pytest.mark.parametrize("kernel", ways.KERNELS)
def test_the_check_for_nan_counts_none_on_a_cpu(kernel, name, precision):
    for channels in ways.CHANNELS:
        assert ways.reached_by_nan(Way(name), precision, *kernel, channels, ways.CPU) == 0


def test_the_check_for_nan_sees_it(monkeypatch):
    monkeypatch.setattr(ways.Conv2d, "forward", lambda self, x: x.mean((1, 2, 3), keepdim=True).expand(-1, 15, 16, 16) * x)
    assert ways.reached_by_nan(Way("grouped"), ways.PRECISIONS["fp32"], 3, 1, (5, 5, 1), ways.CPU) > 0


def test_a_stage_that_does_not_stop_is_killed_with_all_that_it_began(tmp_path, monkeypatch):
    script = "import os, signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); os.fork(); time.sleep(0.1)\n"
    script += f"time.sleep(2.5); open({str(tmp_path / 'outlived')!r}, 'a')"
    monkeypatch.setattr(gpu, "GRACE", 0.2)
    monkeypatch.setattr(gpu, "command", lambda *_: [sys.executable, "-c", script])
    begun = time.monotonic()
    assert gpu.run("ways", "cpu", tmp_path, 0.8) < 0
    time.sleep(max(0.0, 3.5 - (time.monotonic() - begun)))
    assert not (tmp_path / "outlived").exists()


def test_the_archive_goes_on_on_another_machine(tmp_path):
    here, there, archive = tmp_path / "here", tmp_path / "there", tmp_path / "gpu.tar.gz"
    (here / "study").mkdir(parents=True)
    there.mkdir()
    (here / "study" / "study.sqlite").write_bytes(b"runs")
    gpu.unpack(archive, there)  # the first time there is none
    gpu.pack(here, archive)
    gpu.unpack(archive, there)
    assert (there / "study" / "study.sqlite").read_bytes() == b"runs"
    (there / "study" / "study.sqlite").write_bytes(b"more runs")
    gpu.unpack(archive, there)
    assert (there / "study" / "study.sqlite").read_bytes() == b"more runs", "what is there may be newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.tar.gz", "here", "there"]


def test_a_stage_keeps_its_speeds_in_the_folder_and_finds_its_data(tmp_path, monkeypatch):
    monkeypatch.setenv("ALLELSE_DATA", "data")
    ask = "import os, sys; sys.exit((os.environ['XDG_CACHE_HOME'], os.environ['ALLELSE_DATA']) != (sys.argv[1], sys.argv[2]))"
    wanted = [str(tmp_path / "cache"), os.path.abspath("data")]
    monkeypatch.setattr(gpu, "command", lambda *_: [sys.executable, "-c", ask, *wanted])
    assert gpu.run("ways", "cpu", tmp_path, 20) == 0


def test_checkpoints_are_left_out_of_an_archive_that_would_be_too_large(tmp_path, monkeypatch, capsys):
    here, there, archive = tmp_path / "here", tmp_path / "there", tmp_path / "gpu.tar.gz"
    (here / "study" / "checkpoints").mkdir(parents=True)
    (here / "study" / "study.sqlite").write_bytes(b"runs")
    (here / "study" / "checkpoints" / "a.safetensors").write_bytes(os.urandom(5_000))
    for largest, kept in ((1 << 20, ["a.safetensors"]), (4_000, [])):
        monkeypatch.setattr(gpu, "LARGEST_ARCHIVE", largest)
        gpu.pack(here, archive)
        there.mkdir()
        gpu.unpack(archive, there)
        assert (there / "study" / "study.sqlite").read_bytes() == b"runs"
        assert [path.name for path in there.rglob("*.safetensors")] == kept
        assert ("begin anew elsewhere" in capsys.readouterr().out) == (not kept)
        shutil.rmtree(there)


def test_what_spoils_a_recording_is_kept_and_not_that_it_ended_badly():
    class Recording:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError) as caught, Recording():
        raise ValueError("a value was read")
    assert str(ways.origin(caught.value)) == "a value was read"
