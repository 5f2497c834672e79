"""Killed and resumed equals never killed: real processes, killed at random moments, compared byte for byte."""

import json
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
from study_support import allelse, changed, statuses, write_study

from allelse.report import figures

COMMAND = """\
from allelse.cli import main
from allelse.engine import loop
from allelse.report import figures

figures.FIGURES.clear()  # they take longer than all the rest
loop.SECONDS_BETWEEN_CHECKPOINTS = -1
main()
"""
STUDY = changed("epochs          = 2", "epochs          = 40")


def start(file, out) -> subprocess.Popen:
    """``allelse run`` with a checkpoint after every epoch, as a process of its own."""
    arguments = [sys.executable, "-c", COMMAND, "run", file, "--out", out, "--device", "cpu", "--seeds", "3"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def go_on(file, out) -> str:
    """What ``results`` gives once the same command has gone on to the end, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "FIGURES", {})
        assert allelse("run", file, "--out", out, "--device", "cpu", "--seeds", "3").code == 0
    return allelse("results", out, "--runs", "--format", "json").raw


def training(process: subprocess.Popen) -> None:
    """Wait until ``process`` trains."""
    assert any("packs, estimated" in line for line in process.stderr)


def wait_for_a_checkpoint(out) -> None:
    """Wait until a checkpoint is written that was not there at the call."""

    def written() -> set[tuple[str, int]]:
        return {(path.name, path.stat().st_ino) for path in (out / "checkpoints").glob("*.safetensors")}

    before, begun = written(), time.monotonic()
    while not written() - before and time.monotonic() - begun < 30:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The study's file, what ``results`` gives for a run that was left alone, and the seconds its training took."""
    base = tmp_path_factory.mktemp("uninterrupted")
    file = write_study(base, STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        with start(file, base / "out") as process:
            training(process)
            begun = time.monotonic()
            process.communicate()
    assert process.returncode == 0
    return file, allelse("results", base / "out", "--runs", "--format", "json").raw, time.monotonic() - begun


def test_killed_at_random_moments_and_run_again_ends_with_the_same_bytes(uninterrupted, tmp_path):
    file, expected, seconds = uninterrupted
    out = tmp_path / "out"
    for wait in (lambda _: None, wait_for_a_checkpoint, wait_for_a_checkpoint):
        with start(file, out) as process:
            training(process)
            wait(out)
            time.sleep(random.uniform(0, 0.25) * seconds)
            process.kill()
    assert list((out / "checkpoints").glob("*.safetensors")) or "done" in statuses(out), "no kill came in the middle"
    assert go_on(file, out) == expected
    assert set(statuses(out)) == {"done"}


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(uninterrupted, tmp_path):
    file, expected, _ = uninterrupted
    with start(file, tmp_path / "out") as process:
        training(process)
        wait_for_a_checkpoint(tmp_path / "out")
        process.send_signal(signal.SIGSTOP)  # so that it cannot end while the second command is tried
        second = allelse("run", file, "--out", tmp_path / "out", "--seeds", 3)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        shown, said = process.communicate()
    assert (process.returncode, shown, said) == (130, "", "allelse: stopped; the same command goes on from here\n")
    # while it trained, it was the only one allowed to
    assert second.code == 2
    assert second.err.startswith(
        f"allelse: {tmp_path}/out: process {process.pid} on {socket.gethostname()} is writing to it (since 2"
    )
    assert second.err.endswith("; wait for it to end, or give another folder (run: --out)\n")
    assert json.loads(go_on(file, tmp_path / "out")) == json.loads(expected)


def test_sigterm_in_one_process_ends_as_ctrl_c_does_with_exit_code_143(uninterrupted, tmp_path):
    file, expected, _ = uninterrupted
    with start(file, tmp_path / "out") as process:
        training(process)
        wait_for_a_checkpoint(tmp_path / "out")
        process.terminate()
        shown, said = process.communicate()
    assert (process.returncode, shown, said) == (143, "", "allelse: stopped; the same command goes on from here\n")
    assert go_on(file, tmp_path / "out") == expected
