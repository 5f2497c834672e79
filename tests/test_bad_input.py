"""Bad input through the command line: one clear line on stderr, nothing on stdout, exit code 2, nothing left behind."""

import numpy as np
import pytest
from data_support import random_images, save_image
from study_support import PLAIN, TINY, allelse, changed, mistake, write_study


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path).relative_to(tmp_path)


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epochs          = 2", "epocs = 2", "study.toml, line 9: recipe.epocs: unknown key; did you mean 'epochs'? allowed: "),
        ("epochs          = 2", 'epochs = "2"', "study.toml, line 9: recipe.epochs: '2'; allowed: a whole number"),
        ('"batch"', '"bacth"', "study.toml, line 17: recipe.model.norm: 'bacth' is unknown; did you mean 'batch'? allowed: "),
        ('"batch"', '"group"', "study.toml, line 17: recipe.model.norm: norm.groups = 32 does not divide the width 4; "),
        ("depth = 1", "depth = 0", "study.toml, line 16: recipe.model.depth: 0; allowed: at least 1"),
        ("seeds    = 2", "seeds    =", "study.toml: not valid TOML: Invalid value (at line 4, column 11); mend the file there"),
    ],
)
def test_a_mistake_in_the_study_file(file, command, old, new, expected):
    file.write_text(changed(old, new))
    assert mistake(command, file).startswith(expected)


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.colour=red", "--set model.colour=red: model.colour: unknown key; allowed: block, width, "),
        ("lr=0.1", "--set lr=0.1: lr: unknown key; did you mean 'optimizer.lr'? allowed: dataset, "),
        (
            "batch_size=101",
            "--set batch_size=101: batch_size: 101 is larger than the training data of 100 images; allowed: 1 to 100",
        ),
        ("train_per_class=500", "--set train_per_class=500: train_per_class: digits: class '0' has "),
        (
            "dataset=digit",
            "--set dataset=digit: dataset: there is no data set 'digit'; did you mean 'digits'? allowed: digits, cifar10, ",
        ),
        ("validation_per_class=500", "--set validation_per_class=500: validation_per_class: digits: class '0' has "),
        (
            "image_size=4",
            "--set image_size=4: image_size: 4 with data set 'digits'; allowed: with folder:PATH only; leave it out",
        ),
        (
            "dataset=npz:none.npz",
            "--set dataset=npz:none.npz: dataset: there is no file none.npz; allowed: an .npz with x_train, y_train, x_test, ",
        ),
        (
            "dataset=folder:none",
            "--set dataset=folder:none: dataset: there is no folder none; allowed: PATH/train/<class>/ and PATH/test/<class>/",
        ),
    ],
)
def test_a_change_that_does_not_fit(file, command, change, expected):
    assert mistake(command, file, "--set", change).startswith(expected)


def test_the_arm_that_does_not_fit_its_data_is_named(file):
    file.write_text(changed("[factors]", '[factors]\n"train_per_class" = [10, 5]', PLAIN))
    assert mistake("plan", file, "--set", "batch_size=100") == (
        "--set batch_size=100: batch_size: 100 is larger than the training data of 50 images; allowed: 1 to 50 "
        "(arm train_per_class 5, activation sigmoid)"
    )


def test_a_number_of_a_part_is_found_where_it_was_set(file):
    file.write_text(changed('"batch"', '{ name = "group", groups = 1 }\nblock = "norm-conv-act"'))
    told = mistake("plan", file, "--set", "model.norm.groups=2")
    assert told.startswith("--set model.norm.groups=2: model.norm.groups: norm.groups = 2 does not divide the width 1")


def test_missing_data_without_a_network_name_the_ways_out(file, tmp_path, monkeypatch):
    monkeypatch.setenv("ALLELSE_DATA", str(tmp_path / "empty"))
    ended = allelse("run", file, "--set", "dataset=cifar10", "--out", "out")
    assert (ended.code, ended.out) == (2, "")
    told = ended.err.splitlines()[-1]
    assert told.startswith("allelse: --set dataset=cifar10: dataset: cifar10 is not on this machine and http://127.0.0.1:9/")
    assert all(way in told for way in ("allelse data fetch cifar10", "allelse data import cifar10 PATH", "--quick"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04" + b"cut" * 20])
def test_a_corrupt_npz(file, content):
    (file.parent / "bad.npz").write_bytes(content)
    assert "bad.npz is no readable .npz file, or is damaged; " in mistake("run", file, "--set", "dataset=npz:bad.npz")


@pytest.mark.parametrize(
    ("before", "after", "remedy"),
    [
        ('"digits"', "“digits”", 'write " for “'),
        ('"digits"', "「digits」", 'write " for 「'),
        ('"digits"', "‘digits’", "write ' for ‘"),
        ("seeds    = 2", "seeds    ＝ 2", "write = for ＝"),
        ("seeds    = 2", "seeds    = ２", "write 2 for ２"),
        ("seeds    = 2", "seeds    =\u00a02", "write a plain blank for the other kind that stands there"),
        ('"digits"', "digits", 'a name or a text there needs marks: "digits"'),
        ("seeds    = 2", "seeds    = False", "write false"),
        ("seeds    = 2", "시드 = 2", 'a name or a text there needs marks: "시드"'),
        ("seeds    = 2", "seeds    = ", "mend the file there"),
    ],
)
def test_signs_that_keyboards_put_in_the_place_of_plain_ones_are_named(file, before, after, remedy):
    file.write_text(file.read_text("utf-8").replace(before, after), "utf-8")
    told = mistake("plan", file)
    assert "not valid TOML: " in told
    assert told.endswith(f"; {remedy}")


def test_an_npz_without_read_permission_is_not_called_damaged(file, monkeypatch):
    def denied(path, *_):  # a superuser may read everything
        raise PermissionError(13, "Permission denied", str(path))

    (file.parent / "mine.npz").touch()
    monkeypatch.setattr("allelse.data.npz.read_arrays", denied)
    assert "mine.npz cannot be read (Permission denied); mend its rights" in mistake(
        "run", file, "--set", "dataset=npz:mine.npz"
    )


def test_an_npz_cut_short(file):
    images = random_images(20, (4, 4))
    np.savez("whole.npz", x_train=images, y_train=np.arange(20) % 2, x_test=images, y_test=np.arange(20) % 2)
    whole = (file.parent / "whole.npz").read_bytes()
    (file.parent / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cut.npz is no readable .npz file, or is damaged; " in mistake("run", file, "--set", "dataset=npz:cut.npz")


def test_a_folder_without_classes(file, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
    assert "dataset: images/train has no class folders; allowed: " in mistake("plan", file, "--set", "dataset=folder:images")


def test_images_of_mixed_size(file, tmp_path):
    for number, (split, name) in enumerate([(split, name) for split in ("train", "test") for name in "ab"]):
        save_image(tmp_path / "images" / split / name / "1.png", random_images(1, (8 + number, 8, 3))[0])
    told = mistake("run", file, "--set", "dataset=folder:images")
    assert (
        "images of mixed size: images/train/a/1.png has 8 x 8 pixels, images/train/b/1.png has 8 x 9; set image_size"
    ) in told


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cdua", "--device cdua: unknown device; did you mean 'cuda'? allowed: auto, cpu, cuda, mps"),
        ("cuda:x", "--device cuda:x: unknown device; did you mean 'cuda'? allowed: auto, cpu, cuda, mps"),
        ("cuda:01", "--device cuda:01: unknown device; did you mean 'cuda'? allowed: auto, cpu, cuda, mps"),
        ("cuda:²", "--device cuda:²: unknown device; did you mean 'cuda'? allowed: auto, cpu, cuda, mps"),
        ("cpu:", "--device cpu:: unknown device; did you mean 'cpu'? allowed: auto, cpu, cuda, mps"),
        ("auto:1", "--device auto:1: unknown device; did you mean 'auto'? allowed: auto, cpu, cuda, mps"),
        ("cpu:0", "--device cpu:0: unknown device; did you mean 'cpu'? allowed: auto, cpu, cuda, mps"),
        ("cuda", "--device cuda: not on this machine; here: cpu; leave --device out to take the best"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_device_that_is_not_there(file, command, device, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert mistake(command, file, "--device", device) == expected


def test_an_output_folder_of_another_study(file, tmp_path):
    assert allelse("run", file, "--quick", "--out", "out").code == 0
    assert mistake("run", file, "--quick", "--out", "out", "--set", "model.bias=false") == (
        "out: holds results of another study or of this one before a change, and results never mix: arms 1.recipe.model.bias: "
        "default → false; arms 2.recipe.model.bias: default → false. Take the change back, or give a new folder with --out"
    )
    other = write_study(tmp_path, changed('"tiny"', '"other"', TINY), "other.toml")
    assert 'name: "tiny-quick" → "other-quick"' in mistake("run", other, "--quick", "--out", "out")
    assert mistake("run", file, "--quick", "--out", ".") == ".: holds other files and no study; give an empty or a new folder"


def test_a_misspelt_factor_of_a_set_is_named(file):
    text = file.read_text().replace('"model.activation" = ["sigmoid", "relu"]', '"블록 순서" = { a = { "model.depth" = 1 } }')
    file.write_text(text.partition("[[claims]]")[0])
    assert (
        mistake("plan", file, "--set", "블록순서=a")
        == "--set 블록순서=a: 블록순서: unknown key; did you mean the factor '블록 순서'?"
    )
    assert "unknown key; allowed: dataset" in mistake("plan", file, "--set", "beauty=a")


def test_an_output_folder_that_cannot_be_written(file, tmp_path, monkeypatch):
    told = mistake("run", file, "--out", file / "out")
    assert told.startswith("study.toml/out: cannot be used as an output folder: ")
    assert told.endswith("; a part of its path is a file; give another folder (run: --out)")
    assert mistake("plan", file, "--set", "recipe.epochs=3").endswith("keys of the recipe are written without 'recipe.' here")

    def denied(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", denied)
    assert mistake("run", file, "--out", "out").startswith(
        "out: cannot be used as an output folder: [Errno 13] Permission denied: 'out'"
    )


@pytest.mark.parametrize("command", ["results", "status"])
def test_a_folder_without_a_study(file, command):
    assert mistake(command, "none") == (
        "none: no study was run there (it holds no study.sqlite); 'allelse run STUDY --out none' makes one"
    )
    assert mistake(command, "two words").endswith("; allelse run STUDY --out 'two words' makes one")
    assert mistake("run", "two words.toml").endswith("; allelse new 'two words.toml' writes one to start from")
    assert mistake(command, "~nobody-here/x").startswith("~nobody-here/x: no study was run there ")


@pytest.mark.parametrize("command", [["results"], ["status"], ["status", "--watch"], ["report"], ["merge", "out"]])
def test_a_file_in_place_of_an_output_folder(file, tmp_path, command):
    assert mistake(*command, file) == "study.toml: is a file; give the output folder of a study"
    assert list(tmp_path.iterdir()) == [tmp_path / file]


@pytest.mark.parametrize("seeds", ["0", "-3", "many", "10001"])
def test_a_number_of_seeds_that_is_none(file, seeds):
    assert "--seeds" in mistake("plan", file, "--seeds", seeds)


def test_a_study_that_is_not_there(file):
    assert mistake("run", "sigmoid-vs-rel").startswith(
        "sigmoid-vs-rel: no such study; did you mean 'sigmoid-vs-relu'? allowed: "
    )
    assert mistake("run", "none.toml") == "none.toml: no such file; 'allelse new none.toml' writes one to start from"
    assert mistake("run", ".") == ".: is a folder; name a study file; 'allelse status .' looks at what was run there"


def test_a_study_that_cannot_be_planned_leaves_nothing_and_may_be_mended(file, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    command = ["run", file, "--device", "cpu", "--out", "deep/out"]
    assert "batch_size: 101 is larger" in mistake(*command, "--set", "batch_size=101")
    assert sorted(tmp_path.rglob("*")) == before
    assert allelse(*command).code == 0


def test_a_study_that_was_stopped_before_it_was_planned_may_still_be_changed(file, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("allelse.launch.orchestrator.make_plan", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert allelse("run", file, "--out", "out").code == 130
    assert "nothing is planned yet" in mistake("results", "out")
    assert allelse("run", file, "--out", "out", "--set", "model.width=2").code == 0
    assert "results never mix" in mistake("run", file, "--out", "out")


@pytest.mark.parametrize("table", ["quick", "scaled"])
def test_a_mistyped_key_of_a_smaller_study_is_told_all_that_may_stand_there(tmp_path, table):
    file = write_study(tmp_path, TINY.split("[quick]")[0] + f"[{table}]\nsedes = 1\n")
    told = mistake("plan", file)
    assert told.startswith(f"{file}, line 35: {table}.sedes: unknown key; did you mean 'seeds'? allowed: seeds, factors, ")
    assert {"exclude", "adjust", "tune", "epochs", "model"} <= set(told.partition("allowed: ")[2].split(", "))
    file = write_study(tmp_path, TINY.split("[quick]")[0] + f'[{table}]\n"modle.depth" = 1\n')
    assert "modle.depth: unknown key; " in mistake("plan", file)
