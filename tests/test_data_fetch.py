"""Downloads: what arrives is verified, and what goes wrong is one line that leaves nothing behind."""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import sys
import time
from dataclasses import replace

import pytest
from data_support import binary_files, sandbox, tar_gz, tiny, web_server

from allelse.data import fetch, load
from allelse.data.cifar import CIFARS
from allelse.errors import DataError

PATH = "/mirror/cifar-10-binary.tar.gz"


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    return sandbox(tmp_path, monkeypatch)


@pytest.fixture
def served(cache_folder, monkeypatch):
    """A mirror that has a tiny CIFAR-10, whose checksum is the one expected."""
    content = tar_gz(binary_files(CIFARS["cifar10"], tiny(CIFARS["cifar10"])))
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(CIFARS, "cifar10", replace(CIFARS["cifar10"], archive_md5=md5))
    with web_server() as server:
        server.content_from_path[PATH] = content
        monkeypatch.setenv("ALLELSE_CIFAR_URL", server.url + "/")
        yield server


def left_over(folder):
    return sorted(file.name for file in folder.iterdir() if not file.name.endswith(".lock"))


def test_the_official_checksums_are_the_ones_the_authors_publish():
    # As listed at https://www.cs.toronto.edu/~kriz/cifar.html.
    assert CIFARS["cifar10"].archive_md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    assert CIFARS["cifar100"].archive_md5 == "03b5dce01913d631647c71ecec9e9cb8"
    assert sum(CIFARS["cifar10"].binary_sizes.values()) == 60_000 * 3073
    assert sum(CIFARS["cifar100"].binary_sizes.values()) == 60_000 * 3074


def test_load_downloads_once_and_then_needs_no_network(served):
    first = load("cifar10")
    assert served.asked == [PATH]
    served.status = 500
    assert load("cifar10").fingerprint == first.fingerprint
    assert fetch("cifar10").name == "cifar10.npz"
    assert served.asked == [PATH]


def test_fetch_keeps_the_verified_archive_and_replaces_a_damaged_one(served, cache_folder):
    archive = fetch("cifar10", progress=False)
    assert archive == cache_folder / "cifar-10-binary.tar.gz"
    assert archive.read_bytes() == served.content_from_path[PATH]
    assert left_over(cache_folder) == [archive.name]
    archive.write_bytes(b"half")
    assert fetch("cifar10", progress=False).read_bytes() == served.content_from_path[PATH]
    fetch("cifar10", progress=False)
    assert len(served.asked) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "stream", "shown"), [(False, Terminal, False), (True, io.StringIO, False), (True, Terminal, True)]
)
def test_the_progress_bar_shows_only_when_asked_and_only_on_a_terminal(served, monkeypatch, progress, stream, shown):
    screen = stream()
    monkeypatch.setattr(sys, "stderr", screen)
    fetch("cifar10", progress=progress)
    assert ("cifar-10-binary.tar.gz: 100%" in screen.getvalue()) == shown


@pytest.mark.parametrize(
    ("break_it", "said", "tries"),
    [
        ({"cut_after": 30_000}, "was cut short, so nothing of it was kept", 2),
        ({"content_from_path": {PATH: b"something else"}}, "another checksum than the official md5", 1),
        ({"content_from_path": {}}, "answered 404", 1),
        ({"status": 503}, "answered 503", 2),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(break_it, said, tries, served, cache_folder):
    for name, value in break_it.items():
        setattr(served, name, value)
    with pytest.raises(DataError, match=said) as caught:
        load("cifar10")
    message = str(caught.value)
    assert "\n" not in message
    for way_out in ("`allelse data fetch cifar10`", "`allelse data import cifar10 PATH`", "`--quick`"):
        assert way_out in message
    assert len(served.asked) == tries
    assert left_over(cache_folder) == []


def test_a_silent_server_is_given_up(served, cache_folder, monkeypatch):
    # The package's name ``fetch`` is the function, so the module is asked for by its path.
    monkeypatch.setattr(importlib.import_module("allelse.data.fetch"), "_SECONDS_OF_SILENCE", 0.2)
    served.silence = 1.0
    with pytest.raises(DataError, match=r"cannot be reached \(ReadTimeout\)"):
        load("cifar10")
    assert len(served.asked) == 2
    assert left_over(cache_folder) == []


def test_without_a_network_the_ways_out_are_told_at_once(cache_folder):
    started = time.monotonic()
    with pytest.raises(DataError, match=r"cannot be reached .*allelse data import cifar10 PATH.*--quick"):
        load("cifar10")
    assert time.monotonic() - started < 10
    assert left_over(cache_folder) == []


def test_a_mirror_must_be_a_web_address(cache_folder, monkeypatch):
    monkeypatch.setenv("ALLELSE_CIFAR_URL", "/mnt/mirror")
    with pytest.raises(DataError, match=r"ALLELSE_CIFAR_URL is '/mnt/mirror'; allowed: .*https://"):
        fetch("cifar10")


def test_bundled_digits_cannot_be_fetched(cache_folder):
    with pytest.raises(DataError, match="'digits' is no data set that can be fetched"):
        fetch("digits")


def test_a_cache_that_cannot_be_made_is_named(tmp_path, cache_folder):
    cache_folder.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"the data cache .*cache cannot be written .*set ALLELSE_DATA"):
        fetch("cifar10")


def test_a_cache_without_write_permission_is_named(cache_folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a superuser may write everywhere
    with pytest.raises(DataError, match=r"cannot be written \(permission denied\); set ALLELSE_DATA"):
        fetch("cifar10")
