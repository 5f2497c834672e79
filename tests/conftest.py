"""What holds for every test: no test reads or writes the user's own caches, and none reaches a network."""

import os
import signal
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tiny networks only lose time on more threads

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's "&" has it ignored, by all begun here


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache a session, so that speeds are measured once; a home without data; a port on which nobody answers."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("HOME", str(base / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "cache"))
    monkeypatch.setenv("ALLELSE_DATA", str(base / "data"))
    monkeypatch.setenv("ALLELSE_CIFAR_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Replayed:
    """Stands for a CUDA graph where there is none: the same function, called each time."""

    def __init__(self, record: bool) -> None:
        pass

    def __call__(self, function: Callable[[], object]) -> object:
        return function()


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs that ask for CUDA graphs are trained with all that graphs need, on the CPU."""
    from allelse.engine import loop, steps

    for module in (loop, steps):
        monkeypatch.setattr(module, "Recorded", Replayed)
