"""Merging of folders that have some of the arms into those that have all."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from merging_support import FACTORS, content, fill, of_seeds, refused, some
from report_support import MADE, definition
from study_support import PLAIN, allelse, changed, write_study

from allelse import store
from allelse.report import write_report


def test_folders_with_some_of_the_arms_are_taken_into_those_that_have_all(tmp_path):
    first, second = fill(tmp_path / "first", [0, 1], final=[1]), fill(tmp_path / "second", [2], final=[])
    relu, sigmoid = fill(tmp_path / "relu", [0], **some("relu")), fill(tmp_path / "sigmoid", [2], **some("sigmoid"))
    assert store.merge(tmp_path / "u", [relu, first, sigmoid, second]) == [
        f"{tmp_path}/u: 6 runs of 3 seeds: 4 done, 2 pending, from 4 folders",
        f"{relu}: has 1 of the 2 arms",
        f"{sigmoid}: has 1 of the 2 arms",
    ]
    runs, seeds = of_seeds(tmp_path / "u")
    assert seeds == [0, 1, 2]
    statuses = ["pending", "done", "done", "done", "done", "pending"]
    assert runs == [(*run, status) for run, status in zip(product(["sigmoid", "relu"], seeds), statuses, strict=True)]
    with store.write(tmp_path / "u", definition(factors=FACTORS, claims=[], seeds=[0, 1])) as opened:
        assert opened.counts() == {"pending": 2, "done": 4}, "the whole study goes on there"
        assert [part["seeds"] for part in opened.parts] == [[0, 1], [2]], "which have all arms"


def test_what_follows_from_the_arms_alone_may_differ_where_some_are_left_out(tmp_path):
    """Levels that are excluded, factors that other arms lack, data and parts of the user's own that only some arms use."""
    more = {
        "data": {"digits": "d", "cifar10": "c"},
        "own parts": {"mine": "m"},
        "excluded": [{"model.activation": "sigmoid"}],
        "factors": {**FACTORS, "model.norm": ["batch"]},
    }
    arms = definition(factors=FACTORS)["arms"]
    whole = fill(tmp_path / "whole", [0], final=[], **more, arms=arms)
    part = fill(tmp_path / "part", [0], **some("relu"), data={"digits": "d"})
    assert store.merge(tmp_path / "u", [whole, part])[0].endswith("2 runs of 1 seed: 1 done, 1 pending, from 2 folders")
    other = fill(tmp_path / "other", [0], **some("relu"), data={"digits": "of other images"})
    assert 'data.digits: "d" → "of other images"; leave one of them out' in refused(tmp_path / "v", whole, other)


def test_some_of_the_arms_with_another_recipe_are_of_another_study(tmp_path):
    a, relu = fill(tmp_path / "a", [0]), {"model.activation": "relu"}
    other = fill(tmp_path / "b", [0], **some("relu"), arms=[{"levels": relu, "recipe": {"epochs": 99, "arm": relu}}])
    assert refused(tmp_path / "u", a, other).endswith(
        "never mix: in the arm model.activation = relu, recipe.epochs: 2 → 99; leave one of them out"
    )


def test_where_one_arm_has_two_recipes_both_folders_are_named(tmp_path):
    def of(name, epochs, *activations):
        arms = [
            {"levels": (levels := {"model.activation": one}), "recipe": {"epochs": epochs, "arm": levels}}
            for one in activations
        ]
        return fill(tmp_path / name, [0], factors={"model.activation": list(activations)}, arms=arms)

    first, second, third = of("a", 2, "sigmoid", "relu"), of("b", 2, "relu", "tanh"), of("c", 5, "tanh", "gelu")
    for folders in ((first, third, second), (third, first, second)):
        said = refused(tmp_path / "u", *folders)
        assert f"{third}: is of another study than {second}" in said or f"{second}: is of another study than {third}" in said
        assert "in the arm model.activation = tanh, recipe.epochs: " in said


def test_an_arm_that_other_factors_make_is_of_another_study(tmp_path):
    more = {"model.activation": ["relu"], "model.norm": ["batch", "none"]}
    a, b = fill(tmp_path / "a", [0]), fill(tmp_path / "b", [0], factors=more)
    assert refused(tmp_path / "u", a, b) == (
        f"{b}: is of another study than {a}, and results never mix: that one lacks the arm model.activation = relu, "
        f"model.norm = batch; leave one of them out, or name a folder that has the arms of both"
    )


def depths(*levels, activations=("sigmoid", "relu"), **changes):
    """What makes ``fill`` a folder of these depths."""
    return {"factors": {"model.activation": list(activations), "model.depth": list(levels)}, **changes}


def test_folders_that_have_all_arms_together_make_the_study_that_has_them_all(tmp_path):
    few = fill(tmp_path / "few", [0, 1], **depths(2, command="allelse run made-up --set depth=[2]", data={"digits": "d"}))
    many = fill(tmp_path / "many", [0, 1], final=[1], **depths(1, 10, command="allelse run made-up --set depth=[1,10]"))
    assert store.merge(tmp_path / "u", [few, many]) == [
        f"{tmp_path}/u: 12 runs of 2 seeds: 8 done, 4 pending, from 2 folders",
        f"{many}: has 4 of the 6 arms",
        f"{few}: has 2 of the 6 arms",
    ]
    whole = fill(tmp_path / "whole", [0, 1], final=[], **depths(1, 2, 10, data={"digits": "d"}))
    with store.read(whole) as expected, store.read(tmp_path / "u") as opened:
        for key in ("factors", "arms", "seeds", "data", "claims"):
            assert opened.definition[key] == expected.definition[key], key
        assert [(run.arm, run.seed) for run in opened.runs()] == [(run.arm, run.seed) for run in expected.runs()]
        assert {part["command"] for part in opened.parts} == {
            "allelse run made-up --set depth=[2]",
            "allelse run made-up --set depth=[1,10]",
        }
        assert opened.definition["command"].endswith("--set 'model.depth=[1, 2, 10]'"), "which goes on with all of it"
    with store.write(tmp_path / "u", definition(claims=[], seeds=[0, 1], **depths(1, 2, 10, data={"digits": "d"}))) as opened:
        assert opened.counts() == {"pending": 4, "done": 8}, "the whole study goes on there"


@pytest.mark.parametrize("order", [["relu", "sigmoid"], ["sigmoid", "relu"]])
def test_the_order_in_which_folders_are_named_does_not_matter(order, tmp_path):
    folders = [fill(tmp_path / name, [0], **some(name)) for name in order]
    store.merge(tmp_path / "u", folders)
    with store.write(tmp_path / "u", definition(factors=FACTORS, claims=[], seeds=[0])) as opened:
        assert opened.counts() == {"done": 2}, "the study whose file has them in one order goes on there"


def test_what_the_folders_lack_together_is_named(tmp_path):
    a, b = fill(tmp_path / "a", [0], **depths(1, 2)), fill(tmp_path / "b", [0], **depths(4, activations=["relu"]))
    assert refused(tmp_path / "u", a, b) == (
        f"{tmp_path}/u: the folders have other arms of one study each, and none of them has the arm "
        f"model.activation = sigmoid, model.depth = 4; train it, too, or leave some out"
    )
    c = fill(tmp_path / "c", [0, 1], **depths(4))
    assert refused(tmp_path / "u", a, c) == (
        f"{a}: no folder has the arm model.activation = sigmoid, model.depth = 1 with seed 1, which other arms have; train it, "
        f"too, or leave those out"
    )
    left_out = {"model.activation": "sigmoid", "model.depth": 4}
    assert store.merge(tmp_path / "v", [a, fill(tmp_path / "d", [0], **depths(4, activations=["relu"], excluded=[left_out]))])
    with store.read(tmp_path / "v") as opened:
        assert opened.definition["excluded"] == [left_out]
        assert len(opened.definition["arms"]) == 5


def test_levels_that_a_claim_takes_in_an_order_that_no_folder_has_are_not_united(tmp_path):
    claim = {"id": "down", "says": "down", "kind": "monotone", "along": "model.activation", "direction": "down"}
    folders = [fill(tmp_path / name, [0], **some(name), claims=[claim]) for name in ("sigmoid", "relu")]
    assert "none of them has all levels of model.activation in the order that the claim 'down' asks for" in refused(
        tmp_path / "u", *folders
    )


def test_levels_that_a_claim_takes_all_at_once_have_no_order(tmp_path):
    claim = {"id": "alike", "says": "alike", "kind": "stable", "along": "model.activation", "margin": 2.0}
    folders = [fill(tmp_path / name, [0], **some(name), claims=[claim]) for name in ("relu", "sigmoid")]
    store.merge(tmp_path / "u", folders)
    with store.write(tmp_path / "u", definition(factors=FACTORS, claims=[claim], seeds=[0])) as opened:
        assert opened.counts() == {"done": 2}


def test_levels_in_another_order_are_of_another_study_where_a_claim_goes_along_them(tmp_path):
    """It would go the other way."""
    claim = {"id": "down", "says": "down", "kind": "monotone", "along": "model.activation", "direction": "down"}
    a = fill(tmp_path / "a", [0], claims=[claim])
    b = fill(tmp_path / "b", [1], **some("relu", "sigmoid"), claims=[claim])
    assert 'factors.model.activation 1: "sigmoid" → "relu"' in refused(tmp_path / "u", a, b)


def test_levels_in_another_order_are_united_in_that_of_the_first(tmp_path):
    """As folders with some of the arms, united seed by seed in the order in which each was trained."""
    for seed, order in enumerate((["sigmoid", "relu"], ["relu", "sigmoid"])):
        alone = [fill(tmp_path / f"{arm} {seed}", [seed], **some(arm)) for arm in order]
        store.merge(tmp_path / f"of {seed}", alone)
    store.merge(tmp_path / "u", [tmp_path / "of 0", tmp_path / "of 1"])
    runs, seeds = of_seeds(tmp_path / "u")
    assert seeds == [0, 1]
    assert runs == [(arm, seed, "done") for arm in ("sigmoid", "relu") for seed in (0, 1)]
    both = [
        {"factors": {**some(*order)["factors"], "model.norm": ["batch", "none"]}, "excluded": excluded}
        for order, excluded in (
            (["sigmoid", "relu", "tanh"], [{"model.activation": arm, "model.norm": "none"} for arm in ("relu", "tanh")]),
            (["tanh", "relu", "sigmoid"], [{"model.activation": arm, "model.norm": "none"} for arm in ("tanh", "relu")]),
        )
    ]
    for seed, one in enumerate(both):
        arms = [arm for arm in definition(claims=[], factors=one["factors"])["arms"] if arm["levels"] not in one["excluded"]]
        fill(tmp_path / f"excluding {seed}", [seed], **one, arms=arms)
    assert store.merge(tmp_path / "w", [tmp_path / f"excluding {seed}" for seed in range(2)]), "what is excluded has no order"
    other = fill(tmp_path / "other", [2], **some("relu", "sigmoid"), alpha=0.01)
    assert "never mix: alpha: 0.05 → 0.01; leave one of them out" in refused(tmp_path / "v", tmp_path / "u", other)


def test_the_plan_and_the_seeds_are_of_those_that_have_all_arms(tmp_path):
    other = replace(MADE, device="a GPU")
    relu = {"model.activation": "relu"}
    arms = [{"levels": relu, "recipe": {"epochs": 2, "arm": relu}, "seeds": 1}]
    part = fill(tmp_path / "part", [0, 1, 2], made=other, **some("relu"), arms=arms)
    whole = fill(tmp_path / "whole", [0], final=[])
    _, *notes = store.merge(tmp_path / "u", [part, whole])
    assert f"{part}: planned on device a GPU, torch {MADE.torch}, {whole} on device a CPU, torch {MADE.torch}" in notes
    with store.read(tmp_path / "u") as opened:
        assert opened.plan["machine"]["device"] == "a CPU"
        assert opened.definition["seeds"] == [0]


def test_a_folder_whose_arms_would_be_lost_is_not_written(tmp_path):
    """Stopped before anything was planned, it holds no run, but a definition that 'allelse run' goes on with."""
    out = tmp_path / "all"
    with store.write(out, definition(factors=FACTORS, claims=[], seeds=[0])):
        pass
    before = content(out)
    assert refused(out, fill(tmp_path / "some", [0], **some("relu"))) == (
        f"{out}: nothing is planned there yet, and the 1 arms of the others would take the place of its 2; go on with "
        f"'allelse run' until it shows the time left"
    )
    assert content(out) == before


def test_a_seed_that_some_of_the_arms_alone_have_is_refused(tmp_path):
    """Else the other arms would lack it for ever, or the study seem finished without it."""
    a, b = fill(tmp_path / "a", [0, 1]), fill(tmp_path / "b", [1, 7], **some("relu"))
    assert refused(tmp_path / "u", a, b) == (
        f"{b}: its run of model.activation = relu with seed 7 is planned in no folder that has all 2 arms; leave it out, or "
        f"name one where 'allelse run' has begun with it"
    )


def test_the_command_line_from_some_levels_to_all(tmp_path, monkeypatch):
    """As docs/machines.md has it: some levels first, all of them begun and stopped, the former taken in, the rest trained."""
    from allelse import engine
    from allelse.launch import local

    monkeypatch.setattr(local.Speeds, "images_per_second", lambda self, pack: 100.0)
    file = write_study(tmp_path, changed("epochs          = 2", "epochs          = 1", PLAIN))
    run, real = ["run", file, "--device", "cpu"], engine.train_pack
    assert allelse(*run, "--set", 'model.activation=["relu"]', "--out", tmp_path / "some").code == 0

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", stopped)
        assert allelse(*run, "--out", tmp_path / "all").code == 130
    assert allelse("merge", tmp_path / "all", tmp_path / "some").out.splitlines()[1:] == [
        f"{tmp_path}/some: has 1 of the 2 arms",
        f"next: allelse report {tmp_path}/all",
    ]
    trained = []
    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_pack", lambda pack, *rest: trained.append(pack) or real(pack, *rest))
        assert allelse(*run, "--out", tmp_path / "all").code == 0
    assert {run.arm["model.activation"] for pack in trained for run in pack.runs} == {"sigmoid"}
    assert allelse(*run, "--out", tmp_path / "at once").code == 0
    united, alone = (allelse("results", tmp_path / name, "--runs", "--format", "json").raw for name in ("all", "at once"))
    assert united == alone


def test_the_command_line_with_levels_here_and_levels_there(tmp_path, monkeypatch):
    """As docs/machines.md has it: each folder has some levels, the united one is the study that has all of them."""
    from allelse import engine

    file = write_study(tmp_path, changed("epochs          = 2", "epochs          = 1", PLAIN))
    run = ["run", file, "--device", "cpu", "--out"]
    for name in ("sigmoid", "relu"):
        assert allelse(*run, tmp_path / name, "--set", f'model.activation=["{name}"]').code == 0
    assert allelse("merge", tmp_path / "all", tmp_path / "sigmoid", tmp_path / "relu").code == 0
    monkeypatch.setattr(engine, "train_pack", lambda *_: 1 / 0)
    assert allelse(*run, tmp_path / "all").code == 0, "it is the whole study, and all of it is trained"
    assert "failed" not in allelse("results", tmp_path / "all").out
    page = (tmp_path / "all" / "report.md").read_text("utf-8")
    assert page.partition("## Run it again")[2].count("model.activation=") >= 2, "both commands"
    told = page.partition("Whatever the study file declares, ")[2].partition(" was asked")[0].replace("\\", "")
    assert told == """--set 'model.activation=["sigmoid", "relu"]'""", "the levels of both at once"


def test_a_united_report_says_with_how_many_seeds_it_was_run_at_last(tmp_path):
    folders = [
        fill(tmp_path / str(seed), [seed], command="allelse run made-up" + (f" --seeds 1 --first-seed {seed}" if seed else ""))
        for seed in range(3)
    ]
    store.merge(tmp_path / "u", folders)
    page = write_report(tmp_path / "u").with_name("report.md").read_text("utf-8")
    assert "Whatever the study file declares, 3 seeds were run: these verdicts" in page
