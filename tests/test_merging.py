"""Merging: what several folders hold is united, nothing finished is lost or trained again, nothing is decided in silence."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from itertools import product

import pytest
from filelock import FileLock
from merging_support import FACTORS, content, fill, of_seeds, refused, some
from report_support import MADE, definition
from study_support import PLAIN, TINY, Quiet, allelse, changed, mistake, statuses, write_study

from allelse import launch, progress, stats, store, study
from allelse.records import canonical_json, digest
from allelse.report import gather
from allelse.store import merging
from allelse.store.folder import connected


def test_folders_with_seeds_of_their_own_are_united_and_stay_as_they_are(tmp_path):
    a, b = fill(tmp_path / "a", [0, 1]), fill(tmp_path / "b", [4, 5], final=[4], pack=1)
    before = content(a), content(b)
    notes = store.merge(tmp_path / "u", [a, b])
    assert notes == [f"{tmp_path}/u: 8 runs of 4 seeds: 6 done, 2 pending, from 2 folders"]
    runs, seeds = of_seeds(tmp_path / "u")
    done = ["done", "done", "done", "pending"]
    assert runs == [(arm, seed, status) for arm in FACTORS["model.activation"] for seed, status in zip([0, 1, 4, 5], done)]
    assert seeds == [0, 1, 4, 5]
    assert (content(a), content(b)) == before
    with store.read(tmp_path / "u") as united, store.read(a) as first:
        results = {run.id: run.result for run in united.runs()}
        assert all(results[run.id] == run.result for run in first.runs()), "each with its own provenance"
        assert sorted(run for pack in united.plan["packs"] for run in pack["runs"]) == sorted(results)
        assert [part["seeds"] for part in united.parts] == [[0, 1], [4, 5]]


def test_copies_that_went_on_in_different_places_are_united(tmp_path):
    whole = fill(tmp_path / "whole", range(4))
    fill(tmp_path / "a", range(4), final=[0, 1])
    fill(tmp_path / "b", range(4), final=[2, 3])
    store.merge(tmp_path / "u", [tmp_path / "a", tmp_path / "b"])
    for folder in (whole, tmp_path / "u"):
        assert allelse("results", folder, "--runs", "--format", "json").raw
    assert (
        allelse("results", whole, "--runs", "--format", "json").raw
        == allelse("results", tmp_path / "u", "--runs", "--format", "json").raw
    )


def test_an_existing_folder_of_the_study_is_the_first_of_them(tmp_path):
    a, b = fill(tmp_path / "a", [0]), fill(tmp_path / "b", [1])
    assert store.merge(a, [b, a, b])[0] == f"{a}: 4 runs of 2 seeds: 4 done, from 2 folders"
    assert of_seeds(a)[1] == [0, 1]
    assert store.merge(a, [b])[0] == f"{a}: 4 runs of 2 seeds: 4 done, from 2 folders", "merging again changes nothing"


def test_a_pack_that_is_partly_finished_is_cut_so_that_nothing_finished_is_trained_again(tmp_path):
    a = fill(tmp_path / "a", range(4), final=[], pack=4)
    b = fill(tmp_path / "b", range(2), pack=1)
    store.merge(tmp_path / "u", [a, b])
    with store.read(tmp_path / "u") as united:
        status = united.status_from_run()
        packs = [[status[run] for run in pack["runs"]] for pack in united.plan["packs"]]
        assert sorted(packs) == [["done"]] * 4 + [["pending"] * 2] * 2
        assert sum(pack["seconds"] for pack in united.plan["packs"]) == pytest.approx(8)


def test_a_checkpoint_of_what_is_pending_is_taken_along(tmp_path):
    a, b = fill(tmp_path / "a", range(2), final=[]), fill(tmp_path / "b", [7])
    with store.read(a) as opened:
        pack = opened.plan["packs"][1]["runs"]
        path = opened.checkpoint(digest(pack))
    path.parent.mkdir()
    path.write_bytes(b"state")
    (path.parent / "other.safetensors").write_bytes(b"of nothing that is pending")
    store.merge(tmp_path / "u", [b, a])
    assert content(tmp_path / "u" / "checkpoints") == {type(path)(path.name): b"state"}


def test_the_same_images_under_another_path_are_told_as_such(tmp_path):
    for name, path in (("a", "npz:d.npz"), ("b", "npz:../d.npz")):
        fill(tmp_path / name, [0], data={path: "38f388353d271c5e"})
    assert refused(tmp_path / "u", tmp_path / "a", tmp_path / "b") == (
        f"{tmp_path}/b: has the images of {tmp_path}/a under another path, npz:../d.npz and not npz:d.npz, "
        "and a run is known by it; run it with that one"
    )
    fill(tmp_path / "c", [0], data={"npz:c.npz": "0000000000000000"})
    assert "is of another study" in refused(tmp_path / "u", tmp_path / "a", tmp_path / "c")


def test_equal_runs_from_two_places_are_one(tmp_path):
    a, b = fill(tmp_path / "a", [0, 1]), fill(tmp_path / "b", [1, 2], pack=1)
    assert len(store.merge(tmp_path / "u", [a, b])) == 1
    assert of_seeds(tmp_path / "u")[1] == [0, 1, 2]


def test_other_numbers_on_another_device_are_told_and_the_first_are_kept(tmp_path):
    a = fill(tmp_path / "a", [0])
    b = fill(tmp_path / "b", [0], made=replace(MADE, device="a GPU"), accuracy=lambda spec: 51.0)
    _, *notes = store.merge(tmp_path / "u", [a, b])
    assert [note for note in notes if note.startswith("run ")] == [
        f"run {run} (model.activation = {arm}, seed 0) was finished twice: accuracy 50.0 in {a}, which is kept, and 51.0 in "
        f"{b}, which had another device (a GPU, not a CPU)"
        for run, arm in zip(run_ids(a), FACTORS["model.activation"], strict=True)
    ]
    with store.read(tmp_path / "u") as united:
        assert {run.result.metrics["accuracy"] for run in united.runs()} == {50.0}
    store.merge(tmp_path / "v", [b, a])
    with store.read(tmp_path / "v") as united:
        assert {run.result.metrics["accuracy"] for run in united.runs()} == {51.0}


def test_another_commit_is_a_reason(tmp_path):
    a = fill(tmp_path / "a", [0], made=replace(MADE, commit="aaaa"))
    b = fill(tmp_path / "b", [0], made=replace(MADE, commit="bbbb"), accuracy=lambda spec: 51.0)
    assert "which had another commit (bbbb, not aaaa)" in " ".join(store.merge(tmp_path / "u", [a, b]))


def test_a_finished_run_stays_in_the_pack_that_it_was_trained_in(tmp_path):
    begun = fill(tmp_path / "begun", [0, 1], final=[])
    alone = fill(tmp_path / "alone", [0, 1], pack=1)
    store.merge(tmp_path / "u", [begun, alone])
    with store.read(tmp_path / "u") as united:
        assert [len(pack["runs"]) for pack in united.plan["packs"]] == [1, 1, 1, 1]
    together = fill(tmp_path / "together", [0, 1], accuracy=lambda spec: 51.0)  # as ``begun`` would have gone on
    assert "which had another pack (of 2, not of 1)" in " ".join(store.merge(tmp_path / "u", [together]))


def test_what_was_left_before_is_forgotten(tmp_path):
    a, b = fill(tmp_path / "a", [0]), fill(tmp_path / "b", [1])
    (a / progress.FILE).write_text("{}")
    store.merge(a, [b])
    assert not (a / progress.FILE).exists()


def run_ids(folder):
    with store.read(folder) as opened:
        return [run.id for run in opened.runs()]


def test_other_numbers_for_no_reason_are_refused_and_nothing_is_written(tmp_path):
    a, b = fill(tmp_path / "a", [0]), fill(tmp_path / "b", [0], accuracy=lambda spec: 51.0)
    told = refused(tmp_path / "u", a, b)
    assert f"came out otherwise than in {a}: accuracy 50.0 there and 51.0 here, on the same device" in told
    assert not (tmp_path / "u" / store.FILE).exists()
    assert store.merge(tmp_path / "u", [a])


def test_another_study_is_refused_with_what_differs(tmp_path):
    a, b = fill(tmp_path / "a", [0]), fill(tmp_path / "b", [1], alpha=0.01)
    assert refused(tmp_path / "u", a, b) == (
        f"{b}: is of another study than {a}, and results never mix: alpha: 0.05 → 0.01; leave one of them out"
    )


def test_a_united_folder_keeps_the_command_of_each_of_its_parts(tmp_path):
    parts = [fill(tmp_path / str(seed), [seed], command=f"allelse run made-up --first-seed {seed}") for seed in (3, 0, 7)]
    part = fill(tmp_path / "relu", [3], **some("relu"), command="allelse run made-up --first-seed 3 --set …")
    store.merge(tmp_path / "u", [*parts[:2], part])
    for _ in range(2):
        store.merge(tmp_path / "u", parts[2:])
    with store.read(tmp_path / "u") as opened:
        assert gather(opened).commands == [f"allelse run made-up --first-seed {seed}" for seed in (3, 0, 7)]
        assert len(opened.parts) == 3


def test_a_part_that_an_early_version_kept_without_its_command_is_one_with_the_same_part(tmp_path):
    a, b = (fill(tmp_path / name, [seed], command=f"allelse run {name}") for seed, name in enumerate("ab"))
    store.merge(tmp_path / "u", [a, b])
    with connected(tmp_path / "u", "rw") as (connection, _), connection:
        opened = store.Store(tmp_path / "u", connection)
        old = [{key: value for key, value in part.items() if key != "command"} for part in opened.parts]
        opened.put("parts", json.dumps(old))
    store.merge(tmp_path / "u", [b])
    with store.read(tmp_path / "u") as opened:
        assert [part.get("command") for part in opened.parts] == [None, "allelse run b"]
        assert gather(opened).commands == ["allelse run a", "allelse run b"]


def test_what_holds_no_study_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    a = fill(tmp_path / "a", [0])
    assert "no study was run there" in refused(tmp_path / "u", a, tmp_path / "empty")
    assert "holds other files and no study" in refused(tmp_path / "other", a)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]
    with store.write(tmp_path / "unplanned", definition(factors=FACTORS, claims=[], seeds=[0])):
        pass
    assert "nothing to unite" in refused(tmp_path / "u", tmp_path / "unplanned")
    assert "adds nothing" in store.merge(tmp_path / "u", [a, tmp_path / "unplanned"])[1]


def everything(folder):
    """Every path below ``folder``, with the bytes of each file."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("why", "out"),
    [
        *product(
            ["not there", "another study", "other numbers", "no space"], ["new", "new/and/deep", "empty", "a", "without a lock"]
        ),
        *product(["held by another"], ["empty", "a", "without a lock"]),
    ],
)
def test_a_merge_that_fails_leaves_nothing_that_was_not_there(out, why, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    a = fill(tmp_path / "a", [0])
    fill(tmp_path / "without a lock", [0])
    (tmp_path / "without a lock" / "lock").unlink(missing_ok=True)
    pending = fill(tmp_path / "pending", [3], final=[])
    with store.read(pending) as opened:
        path = opened.checkpoint(digest(opened.plan["packs"][0]["runs"]))
    path.parent.mkdir()
    path.write_bytes(b"state")
    others = {
        "not there": tmp_path / "nothing",
        "another study": fill(tmp_path / "other", [1], alpha=0.01),
        "other numbers": fill(tmp_path / "numbers", [0], accuracy=lambda spec: 51.0),
        "held by another": fill(tmp_path / "b", [1]),
        "no space": fill(tmp_path / "c", [1]),
    }
    with ExitStack() as stack:
        if why == "held by another":
            stack.enter_context(FileLock(tmp_path / out / "lock"))
        if why == "no space":
            full = OSError(28, "No space left on device")
            monkeypatch.setattr(merging.os, "replace", lambda *_: (_ for _ in ()).throw(full))
        before = everything(tmp_path)
        assert refused(tmp_path / out, a, pending, others[why])
        assert everything(tmp_path) == before


@pytest.mark.parametrize("at", ["put", "insert", "replace"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_merge_that_is_cut_off_leaves_the_store_before_or_none(at, existing, tmp_path, monkeypatch):
    a, b, out = fill(tmp_path / "a", [0]), fill(tmp_path / "b", [1]), tmp_path / "u"
    if existing:
        fill(out, [2])

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((merging.os, "replace") if at == "replace" else (store.Store, at)), killed)
        with pytest.raises(KeyboardInterrupt):
            store.merge(out, [a, b])
    if existing:
        assert of_seeds(out)[1] == [2]
    else:
        assert not (out / store.FILE).exists()
    assert store.merge(out, [a, b])[0].endswith(f"from {2 + existing} folders")


def test_folders_that_tuned_apart_are_refused(tmp_path):
    tune = {"key": "optimizer.lr", "metric": "validation_accuracy", "per": [], "values": [0.1]}
    described = definition(factors=FACTORS, claims=[], seeds=[0], tune=tune)
    for name in ("a", "b"):
        with store.write(tmp_path / name, described) as opened:
            opened.tuning_part.begin({"packs": []}, [(name, {"model.activation": "relu", "optimizer.lr": 0.1}, 5)])
    assert "tuned on other runs than" in refused(tmp_path / "u", tmp_path / "a", tmp_path / "b")
    assert "the tuning runs, from 1 folder" in store.merge(tmp_path / "u", [tmp_path / "a"])[0]


def test_the_command_line_from_two_machines_to_one_report(tmp_path, monkeypatch):
    """Two folders with seeds of their own, one stopped half-way: united, trained to the end, and the same as one machine's."""
    from allelse import engine
    from allelse.launch import local

    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: 100.0)  # packs of one, on every machine
    file = write_study(tmp_path, changed("epochs          = 2", "epochs          = 1", PLAIN))
    run = ["run", file, "--device", "cpu"]
    assert allelse(*run, "--out", tmp_path / "a").code == 0
    real, calls = engine.train_pack, []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", stopped)
        assert allelse(*run, "--out", tmp_path / "b", "--first-seed", 2, "--seeds", 1).code == 130
    shutil.move(tmp_path / "b", tmp_path / "from the other machine")
    merged = allelse("merge", tmp_path / "u", tmp_path / "a", tmp_path / "from the other machine")
    told = f"{tmp_path}/u: 6 runs of 3 seeds: 5 done, 1 pending, from 2 folders\nnext: allelse report {tmp_path}/u\n"
    assert (merged.code, merged.out) == (0, told)
    assert "6 runs: 5 done, 1 pending" in allelse("status", tmp_path / "u").out

    trained = []
    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", lambda pack, *rest: trained.append(pack) or real(pack, *rest))
        assert allelse(*run, "--out", tmp_path / "u").code == 0
    assert [pack.seeds for pack in trained] == [(2,)]
    assert statuses(tmp_path / "u") == ["done"] * 6
    assert (tmp_path / "u" / "report.html").exists()
    assert allelse(*run, "--out", tmp_path / "one", "--seeds", 3).code == 0
    united, alone = (allelse("results", tmp_path / name, "--runs", "--format", "json").raw for name in ("u", "one"))
    assert united == alone
    told = mistake(*run, "--out", tmp_path / "u", "--seeds", 5)
    assert "holds 3 seeds of this study, from 0, and results stay; train the others with --seeds 2 --first-seed 3 --out" in told
    assert allelse(*run, "--seeds", 2, "--first-seed", 3, "--out", tmp_path / "more").code == 0
    around = mistake(*run, "--out", tmp_path / "more", "--seeds", 9)  # 0 to 2 and 5 to 8 are missing
    assert "seeds: 2 from 3 → 9 from 0" in around
    assert allelse("merge", tmp_path / "u", tmp_path / "more").code == 0
    assert statuses(tmp_path / "u") == ["done"] * 10


def test_the_first_seed_moves_all_seeds_and_says_what_is_allowed(tmp_path):
    file = write_study(tmp_path, TINY)
    loaded = study.load(file, first_seed=7)
    assert loaded.seeds == (7, 8)
    assert {run.seed for run in loaded.runs()} == {7, 8}
    assert loaded.command.endswith("--first-seed 7")
    assert mistake("plan", file, "--first-seed", -1) == "--first-seed -1: allowed: 0 to 1000000000"


def test_an_arm_with_seeds_of_its_own_keeps_them_in_a_united_folder(tmp_path, monkeypatch):
    from allelse.launch import local

    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: 100.0)
    own = '\n[[adjust]]\nwhere = { "model.activation" = "relu" }\nseeds = 1\n'
    file = write_study(tmp_path, changed("epochs          = 2", "epochs          = 1", PLAIN) + own)
    for name, first in (("a", 0), ("b", 2)):
        launch.run_study(study.load(file, first_seed=first), tmp_path / name, "cpu", Quiet())
    store.merge(tmp_path / "u", [tmp_path / "a", tmp_path / "b"])
    with store.read(tmp_path / "u") as opened:
        assert opened.definition["seeds"] == [0, 1, 2, 3]
        assert [arm.get("seeds") for arm in opened.definition["arms"]] == [None, 2]
        summary = stats.arm_table(opened.table(), ["model.activation"])
        assert summary[["n", "pending"]].to_numpy().tolist() == [[4, 0], [2, 0]], "seed 1 was never asked of the second"
    outcome = launch.run_study(study.load(file), tmp_path / "u", "cpu", Quiet())
    assert outcome.runs_by_status == {"done": 6}
    assert json.loads(canonical_json(of_seeds(tmp_path / "u")[0]))[-1] == ["relu", 2, "done"]
