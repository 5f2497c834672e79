"""Bad input: a slice of the fuzzing of ``benchmarks/fuzz``, and one test for each kind of fault that it has found."""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from study_support import PLAIN, TINY, allelse, changed, mistake, write_study

from allelse import data, study
from allelse.data.pickles import read_batch
from allelse.errors import AllelseError, DataError, StudyError, inert
from benchmarks.fuzz import cifar, datasets
from benchmarks.fuzz.__main__ import PARSERS

ROOT = Path(__file__).parents[1]
RELY_ON_THE_STORE = ("checkpoint", "store, values", "store, bytes")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ── the slice ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each parser runs in a process of its own")
def test_spoilt_input_is_taken_whole_or_refused_with_a_line(tmp_path):
    asked = [word for name in PARSERS if name not in RELY_ON_THE_STORE for word in (f"--only={name}",)]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.fuzz", "--inputs", "250", "--seed", "7", *asked],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout[-4000:] + ended.stderr[-2000:]
    assert ended.stdout.count("accepted") >= 5, "the inputs are not all rubbish"


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_is_one_line_that_no_terminal_obeys():
    assert str(AllelseError("a\nb \x1b[31m \x9b \u202e \udcff \x00")) == "a b \\x1b[31m \\x9b \\u202e \\udcff \\x00"
    assert inert("한국어 – ∆ 𝔘\n\t") == "한국어 – ∆ 𝔘\n\t"


def test_a_message_keeps_its_beginning_and_its_remedy_whatever_the_value():
    told = str(AllelseError("study.toml: " + "x" * 50_000 + "; allowed: a number"))
    assert told.startswith("study.toml: x")
    assert told.endswith("x; allowed: a number")
    assert len(told) < 2_100


# ── study files ─────────────────────────────────────────────────────────────────────────────────────────────────────


TEN = "".join(f'"f{number}" = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]\n' for number in range(30))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("depth = 1", "depth = 0x" + "f" * 6000, "line 16: recipe.model.depth: a whole number beyond 64 bits; allowed: "),
        ('["sigmoid", "relu"]', "[1" + "0" * 400 + ", 1]", "line 20: factors.model.activation.1: a whole number beyond"),
        ('["sigmoid", "relu"]', "[2020-01-01, 2021-01-01]", "line 20: factors.model.activation.1: 2020-01-01; allowed: "),
        ('["sigmoid", "relu"]', "[nan, inf]", "line 20: factors.model.activation.1: nan; allowed: a finite number"),
        ("depth = 1", "depth = { " + "a." * 3000 + "a = 1 }", "line 16: recipe.model.depth."),
        ("[factors]", "[factors]\n" + TEN, "line 24: factors.f4: with this factor"),
    ],
)  # fmt: skip
def test_values_that_no_study_can_have(here, old, new, expected):
    write_study(here, changed(old, new))
    with pytest.raises(StudyError) as caught:
        study.load("study.toml")
    assert str(caught.value).startswith(f"study.toml, {expected}")


def test_levels_by_name_stay_texts_where_the_number_would_not_be_finite(here):
    write_study(here, PLAIN + '\n[factors.a]\n1e999 = { batch_size = 10 }\n"2" = { batch_size = 20 }\n')
    assert study.load("study.toml").factors["a"] == ("1e999", 2)


def test_more_runs_than_can_be_planned_are_refused(here):
    sizes = f'["sigmoid", "relu"]\nbatch_size = {[*range(1, 101)]}'
    write_study(here, changed('["sigmoid", "relu"]', sizes, PLAIN))
    assert len(study.load("study.toml", seeds=5).arms) == 200
    with pytest.raises(StudyError, match="200 arms × 10000 seeds; allowed: 1000000 runs; ask for fewer with --seeds"):
        study.load("study.toml", seeds=10_000)
    write_study(here, changed('["sigmoid", "relu"]', f"{sizes}\n[[adjust]]\nseeds = 10_000", PLAIN))
    with pytest.raises(StudyError, match=r"2000000 runs; allowed: 1000000 runs; ask for fewer seeds in \[\[adjust\]\]"):
        study.load("study.toml", seeds=None)
    tuned = f'{sizes}\n[tune]\nkey = "optimizer.lr"\nvalues = {[n / 1000 for n in range(1, 11)]}\nseeds = 1000'
    text = changed('["sigmoid", "relu"]', tuned, PLAIN).replace("epochs ", "validation_per_class = 2\nepochs ")
    write_study(here, text)
    with pytest.raises(
        StudyError, match=r"2000000 tuning runs; allowed: 1000000 runs; ask for fewer values or seeds in \[tune"
    ):
        study.load("study.toml")


def test_claims_take_no_longer_for_being_many(here):
    claim = TINY[TINY.index("[[claims]]") : TINY.index("[[references]]")]
    write_study(here, PLAIN + "".join(claim.replace("relu-above", f"claim-{number}") for number in range(1_500)))
    asked = []
    original = study.declared.check_claims
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            study.declared, "check_claims", lambda claims, design: (asked.append(len(claims)), original(claims, design))
        )
        study.load("study.toml")
    assert sum(asked) == 1_500


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")])
def test_a_pipe_or_a_device_is_no_study_file(here, make):
    make("study.toml")
    assert mistake("plan", "study.toml") == ("study.toml: is a pipe or a device; write the study into a file and name that")


def test_a_study_file_is_a_short_text(here):
    Path("study.toml").write_text("#" * (1 << 20) + "\n")
    assert mistake("plan", "study.toml").startswith("study.toml: has more than 1,048,576 bytes; allowed: a study file")


def test_a_file_of_windows_and_its_editors_is_read(here):
    (here / "study.toml").write_bytes(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode())
    assert study.load("study.toml").name == "tiny"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("epochs=2\nbatch_size=5", "--set epochs=2 batch_size=5: epochs: "),  # not two epochs, and the rest passed over
        (
            "study.seeds=3",
            "--set study.seeds=3: [study] stands in the file; allowed: recipe keys; --seeds N and --first-seed N for seeds",
        ),
        ("epochs=\udcff", "--set epochs=\\udcff: holds bytes that are no UTF-8; write it as UTF-8 text"),
        ("a." * 3000 + "a=1", "--set a.a.a."),
        ("epochs=2020-01-01", "--set epochs=2020-01-01: 2020-01-01; allowed: a text in quotes"),
        ("image_size=1000000", "--set image_size=1000000: image_size: 1000000; allowed: at most 8192"),
    ],
)
def test_a_change_is_taken_whole_or_refused(here, change, expected):
    write_study(here)
    with pytest.raises(StudyError) as caught:
        study.load("study.toml", changes=[change])
    assert str(caught.value).startswith(expected)


def test_networks_that_fit_no_memory_are_not_made_to_be_compared(here):
    write_study(here)
    wide = [word for key in ("width=[65536, 65536]", "depth=2", "norm=none") for word in ("--set", f"model.{key}")]
    ended = allelse("explain", "study.toml", "--arm", "activation=relu", "--against", "activation=sigmoid", *wide)
    assert ended.code == 2
    assert ended.err.startswith("allelse: --against: 38,65")
    assert ended.err.endswith(" initial weights cannot be compared; allowed: 250,000,000; leave --against out\n")


def test_names_beyond_an_attribute_of_a_number_are_no_part(here):
    write_study(here, changed('"relu"]', '"python:math:pi.x"]', PLAIN))
    assert "has no 'x'" in mistake("plan", "study.toml")


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def zipped(**content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, inner in content.items():
            archive.writestr(f"{key}.npy", inner)
    return buffer.getvalue()


def npy(shape: str, content: bytes = b"") -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize("shape", ["(17179869184, 1, 1)", "(-1, 4, 4)", "(9, 4, 4)", "(0, 99999999999999999999)"])
def test_an_array_is_no_larger_than_its_file(here, shape):
    whole = npy("(8, 4, 4)", bytes(128))
    Path("x.npz").write_bytes(zipped(x_train=npy(shape, bytes(128)), y_train=whole, x_test=whole, y_test=whole))
    with pytest.raises(DataError, match=r"x\.npz holds pickled objects or damaged arrays"):
        data.load("npz:x.npz")


def test_a_zip_that_unpacks_to_a_thousand_times_its_size_is_not_unpacked(here, monkeypatch):
    monkeypatch.setattr("allelse.data.arrays.PLAIN_BYTES", 1 << 16)
    bomb = npy("(5000000, 1, 1)", bytes(5_000_000))
    Path("x.npz").write_bytes(zipped(x_train=bomb, y_train=bomb, x_test=bomb, y_test=bomb))
    with pytest.raises(DataError, match=r"x_train would unpack to 5,000,\d+ bytes from [\d,]+, as no images do"):
        data.load("npz:x.npz")


def test_an_encrypted_or_broken_zip_is_refused(here):
    whole = npy("(8, 4, 4)", bytes(range(128)))
    content = zipped(x_train=whole, y_train=whole, x_test=whole, y_test=whole)
    at = content.index(b"PK\x01\x02")
    for spoilt in (
        content[: at + 8] + b"\x01" + content[at + 9 :],  # says that it is encrypted
        content.replace(content[60:90], bytes(30), 1),  # zlib's own error
    ):
        Path("x.npz").write_bytes(spoilt)
        with pytest.raises(DataError, match=r"x\.npz is no readable \.npz file, or is damaged"):
            data.load("npz:x.npz")


def test_an_image_that_says_it_is_large_is_not_decoded(here):
    for split in ("train", "test"):
        for name in "ab":
            (here / "x" / split / name).mkdir(parents=True)
            (here / "x" / split / name / "1.png").write_bytes(datasets.pictures()[0])
    (here / "x/train/a/1.png").write_bytes(datasets.huge_png(9_000, 9_000))
    with pytest.raises(DataError, match=r"x/train/a/1\.png has 9000 x 9000 pixels; allowed: 67,108,864; make it smaller"):
        data.load("folder:x")


def test_more_images_than_memory_holds_are_refused_before_they_are_decoded(here, monkeypatch):
    for split in ("train", "test"):
        for name in "ab":
            (here / "x" / split / name).mkdir(parents=True)
            (here / "x" / split / name / "1.png").write_bytes(datasets.pictures()[0])
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 2, "SC_PAGE_SIZE": 100}.get)
    with pytest.raises(DataError, match=r"x: 4 images of 108 bytes need more than the 0\.0 GiB of memory here; set a smaller"):
        data.load("folder:x")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are UTF-8")
@pytest.mark.parametrize("name", ["\udcff", "\x1b[2J", "a\nb"])
def test_class_folders_have_names_that_can_be_shown(here, name):
    for split in ("train", "test"):
        (here / "x" / split / name).mkdir(parents=True)
    with pytest.raises(DataError, match="whose name has control characters or is no UTF-8; rename it"):
        data.load("folder:x")


def test_an_archive_whose_headers_alone_fill_memory_is_refused(here, monkeypatch):
    monkeypatch.setattr("allelse.data.archives._MOST_OTHER_BYTES", 1 << 10)
    monkeypatch.setattr(type(cifar.TINY), "pickle_limits", {})
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    Path("x.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    with pytest.raises(DataError, match=r"x\.tar\.gz unpacks to more than cifar10 has; use an official archive"):
        cifar.read_archive(cifar.TINY, Path("x.tar.gz"))


@pytest.mark.parametrize("content", [opcodes for opcodes in cifar.OPCODES if b"touch" in opcodes or b"open" in opcodes])
def test_a_pickle_calls_nothing(here, content):
    with pytest.raises(DataError, match="no CIFAR batch that is safe to read"):
        read_batch(content, "labels", "x")
    assert not Path("canary-ran").exists()


def test_the_bait_of_these_tests_would_be_taken(here):
    pickle.loads(cifar.OPCODES[0])
    assert Path("canary-ran").exists()


@pytest.mark.parametrize("content", [b"Nr\xff\xff\xff\x7f.", b"Np99999999999\n."])
def test_a_pickle_asks_for_no_room_in_the_unpicklers_memo(content):
    with pytest.raises(DataError, match=r"safe to read \(memo \d+\)"):
        read_batch(content, "labels", "x")


def test_an_array_in_a_pickle_is_never_given_to_numpy(monkeypatch):
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    content = pickle.dumps(batch, 2)
    monkeypatch.setattr(np, "dtype", None)
    planes, labels = read_batch(content, "labels", "x")
    assert (planes.shape, labels.tolist()) == ((2, 3072), [0, 1])


def test_a_cached_data_set_with_other_images_is_not_taken(here):
    data.cache.keep(here / "kept.npz", datasets.few_digits())
    with np.load("kept.npz") as file:
        arrays = {key: file[key] for key in file.files}
    for key, other in (("train_images", arrays["train_images"][::-1]), ("test_labels", arrays["test_labels"] + 99)):
        np.savez("kept.npz", **{**arrays, key: other})
        with pytest.raises(DataError, match=r"kept\.npz is damaged; delete that file"):
            data.cache.read(here / "kept.npz", "digits")


def test_a_folder_of_a_user_who_is_not_there_is_none(here, monkeypatch):
    for name in ("npz:~nobody-here/x", "folder:~nobody-here"):
        with pytest.raises(DataError, match="there is no"):
            data.load(name)
    monkeypatch.setenv("ALLELSE_DATA", "x" * 5000)
    with pytest.raises(DataError, match="cannot be written"):
        data.fetch("cifar10")


@pytest.mark.parametrize("address", ["http://", "https://[::1", "http://x:99999", "http://a b/", "http://\x1b[31m/"])
def test_an_address_that_no_server_has(here, monkeypatch, address):
    monkeypatch.setenv("ALLELSE_DATA", str(here / "kept"))
    monkeypatch.setenv("ALLELSE_CIFAR_URL", address)
    with pytest.raises(DataError, match="allowed: an address that"):
        data.fetch("cifar10", progress=False)


def test_an_import_shows_no_bar_where_there_is_no_terminal(here, monkeypatch, capsys):
    monkeypatch.setattr("allelse.data.folder._SHOW_PROGRESS_FROM", 1)
    for split in ("train", "test"):
        for name in "ab":
            (here / "x" / split / name).mkdir(parents=True)
            (here / "x" / split / name / "1.png").write_bytes(datasets.pictures()[0])
    data.load("folder:x")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content", ['{"a": 1e999}', '{"a": ' + "9" * 400 + "}", '{"a": true, "b": "1"}', "[" * 100_000, "[1]", ""]
)
def test_a_damaged_memory_of_speeds_is_forgotten(here, content):
    from allelse.launch.measured import Speeds

    speeds = Speeds(None, None)
    speeds.file = here / "speeds.json"
    speeds.file.write_text(content)
    assert {key: rate for key, rate in speeds._read().items() if key != "a"} == {}
    speeds._remember("c", 7.0)
    assert json.loads(speeds.file.read_text())["c"] == 7.0
