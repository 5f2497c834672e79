"""Factors as people think them: named levels, factors that only some arms have, excluded combinations, arms set otherwise."""

from __future__ import annotations

import pytest
from study_support import PLAIN, allelse, changed, mistake, run, write_study

from allelse import store, study
from allelse.errors import StudyError
from allelse.plan import differing_keys

BASE = PLAIN.split("[factors]")[0]
NORMS = """
[factors]
"model.norm"        = ["batch", "group", "none"]
"model.norm.groups" = { when = { "model.norm" = "group" }, levels = [1, 2, 4] }
"batch_size"        = [10, 20]
"""
EXCLUDE = """
[[exclude]]
"model.norm" = "batch"
"batch_size" = 10

[[exclude]]
"model.norm.groups" = [1, 4]
"batch_size"        = 20
"""
ADJUST = """
[[adjust]]
where = { "model.norm" = ["batch", "none"] }
set   = { epochs = 3, "optimizer.lr" = 0.02 }

[[adjust]]
where = { "model.norm" = "none" }
set   = { epochs = 4 }
seeds = 4
"""
CLAIM = """
[[claims]]
id   = "group-above"
says = "Group norm is above batch norm"
kind = "higher"
a    = { "model.norm" = "group", "model.norm.groups" = 2 }
b    = { "model.norm" = "batch" }
for_each = "batch_size"
"""


@pytest.fixture
def load(tmp_path):
    return lambda text, **options: study.load(write_study(tmp_path, text), **options)


def arms(loaded) -> list[tuple]:
    return [tuple(arm.levels.values()) for arm in loaded.arms]


# ── a factor that only some arms have ───────────────────────────────────────────────────────────────────────────────


def test_arms_without_the_factor_come_once_and_lack_it(load):
    loaded = load(BASE + NORMS)
    groups = [("group", number, size) for number in (1, 2, 4) for size in (10, 20)]
    assert arms(loaded) == [("batch", 10), ("batch", 20), *groups, ("none", 10), ("none", 20)]
    assert [arm.recipe.model.norm.name for arm in loaded.arms] == ["batch"] * 2 + ["group"] * 6 + ["none"] * 2
    assert [arm.recipe.model.norm.groups for arm in loaded.arms[2:8]] == [1, 1, 2, 2, 4, 4]
    assert loaded.arms[0].name == "norm batch, batch_size 10"
    assert loaded.arms[4].name == "norm group, groups 2, batch_size 10"
    assert len({run.id for run in loaded.runs()}) == 10 * 2
    assert loaded.factors["model.norm.groups"] == (1, 2, 4)


def test_the_factor_does_not_change_the_runs_of_arms_that_lack_it(load):
    without = load(BASE + NORMS.replace('"model.norm.groups" = { when = { "model.norm" = "group" }, levels = [1, 2, 4] }\n', "")
                   .replace('"group", ', ""))  # fmt: skip
    assert {run.id for run in without.runs()} < {run.id for run in load(BASE + NORMS).runs()}


def test_conditions_may_name_several_levels_and_follow_on_one_another(load):
    loaded = load(
        changed("width = 4", "width = 32", BASE)
        + """
[factors]
"model.norm" = ["batch", "group", "none"]
[factors."model.norm.eps"]
when   = { "model.norm" = ["batch", "group"] }
levels = [1e-5, 0.1]
[factors.groups]
when   = { "model.norm" = "group", "model.norm.eps" = 0.1 }
levels.few  = { "model.norm.groups" = 1 }
levels.many = { "model.norm.groups" = 4 }
"""
    )
    assert arms(loaded) == [
        *(("batch", 1e-5), ("batch", 0.1), ("group", 1e-5)),
        *(("group", 0.1, "few"), ("group", 0.1, "many"), ("none",)),
    ]


def test_set_replaces_its_levels_and_a_norm_without_it_takes_it_away(load):
    few = load(BASE + NORMS, changes=["model.norm.groups=[2]"])
    assert arms(few)[2:4] == [("group", 2, 10), ("group", 2, 20)]
    gone = load(BASE + NORMS + CLAIM, changes=["model.norm=batch"])
    assert (arms(gone), list(gone.factors)) == ([("batch", 10), ("batch", 20)], ["model.norm", "batch_size"])


def test_quick_levels_of_the_factor_keep_its_condition(load):
    text = BASE + NORMS + '[quick]\nfactors = { "model.norm.groups" = [2], "batch_size" = [20] }\n'
    assert arms(load(text, quick=True)) == [("batch", 20), ("group", 2, 20), ("none", 20)]


# ── named levels ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_level_that_is_named_by_a_number_is_that_number(load):
    text = """
[factors.size]
8     = { "model.width" = 8, "model.depth" = 2 }
16    = { "model.width" = 16, "model.depth" = 1 }
"0.5" = { "model.width" = 2 }

[[claims]]
id = "wider"
says = "Wider is better"
kind = "trend"
along = "size"
direction = "up"
scale = "log2"

[[references]]
source = "a paper"
arm = { size = 8 }
accuracy = 90.0
"""
    loaded = load(BASE + text)
    assert loaded.factors == {"size": (8, 16, 0.5)}
    assert arms(load(BASE + text, changes=["size=[16]"])) == [(16,)]


def test_two_factors_may_not_set_one_key(load):
    second = '[factors.kind]\na = { "model.norm" = "none" }\nb = { "model.norm" = "layer" }\n'
    with pytest.raises(StudyError, match=r"factors.kind: sets model.norm and so undoes what factors.model.norm sets; let one"):
        load(BASE + NORMS + second)
    turned = '[factors]\n"model.norm.eps" = [1e-5, 1e-3]\n"model.norm" = ["batch", "layer"]\n'
    with pytest.raises(StudyError, match=r"sets model.norm and so undoes what factors.model.norm.eps sets"):
        load(BASE + turned)


# ── combinations that are no arms ───────────────────────────────────────────────────────────────────────────────────


def test_excluded_combinations_are_no_arms_and_are_kept_in_the_definition(load):
    loaded = load(BASE + NORMS + EXCLUDE)
    assert arms(loaded) == [("batch", 20), ("group", 1, 10), ("group", 2, 10), ("group", 2, 20), ("group", 4, 10),
                            ("none", 10), ("none", 20)]  # fmt: skip
    assert loaded.definition()["excluded"] == [
        {"model.norm": "batch", "batch_size": 10},
        {"model.norm": "group", "model.norm.groups": 1, "batch_size": 20},
        {"model.norm": "group", "model.norm.groups": 4, "batch_size": 20},
    ]
    assert "excluded" not in load(BASE + NORMS).definition()


def test_exclusions_read_the_same_as_one_list(load):
    inline = 'exclude = [{ "model.norm" = "batch", "batch_size" = 10 }, { "model.norm.groups" = [1, 4], "batch_size" = 20 }]\n'
    assert arms(load(inline + BASE + NORMS)) == arms(load(BASE + NORMS + EXCLUDE))


def test_a_level_that_no_arm_is_left_with_is_no_level_of_the_study(load):
    loaded = load(BASE + NORMS + '[[exclude]]\n"model.norm" = "group"\n')
    assert loaded.factors == {"model.norm": ("batch", "none"), "batch_size": (10, 20)}


def test_a_claim_over_what_is_left_is_kept_and_one_over_nothing_is_refused(load):
    assert len(load(BASE + NORMS + CLAIM + EXCLUDE).claims) == 1
    with pytest.raises(StudyError) as caught:
        load(BASE + NORMS + CLAIM + '[[exclude]]\n"model.norm" = "batch"\n')
    assert str(caught.value).endswith(
        "study.toml, line 25: claims.1: claim 'group-above': nothing is left to compare: the study has no arm with "
        "model.norm = batch; name arms that the study has"
    )


def test_a_set_that_leaves_excluded_arms_only_is_refused(load):
    with pytest.raises(StudyError, match="exclude: no arm is left"):
        load(BASE + NORMS + EXCLUDE, changes=["model.norm=batch", "batch_size=10"])


# ── arms set otherwise ──────────────────────────────────────────────────────────────────────────────────────────────


def test_adjusted_arms_have_their_own_keys_and_seeds_and_the_last_word_counts(load):
    loaded = load(BASE + NORMS + ADJUST)
    found = {arm.levels["model.norm"]: (arm.recipe.epochs, arm.recipe.optimizer.lr, arm.seeds) for arm in loaded.arms}
    assert found == {"batch": (3, 0.02, (0, 1)), "group": (2, 0.01, (0, 1)), "none": (4, 0.02, (0, 1, 2, 3))}
    assert differing_keys(loaded.arms).keys() >= {"epochs", "optimizer.lr"}
    plain = load(BASE + NORMS)
    same = {run.id for run in loaded.runs()} & {run.id for run in plain.runs()}
    assert same == {run.id for run in plain.runs() if run.arm["model.norm"] == "group"}
    assert [arm.get("seeds") for arm in loaded.definition()["arms"]] == [None] * 8 + [4] * 2


@pytest.mark.parametrize(
    ("options", "seeds"),
    [({}, [2, 4]), ({"seeds": 3}, [3, 3]), ({"quick": True}, [1, 1])],
)
def test_a_number_of_seeds_for_all_arms_goes_before_their_own(load, options, seeds):
    text = BASE + NORMS + ADJUST + "[quick]\nseeds = 1\n"
    loaded = load(text, **options)
    assert [len(loaded.arms[place].seeds) for place in (0, -1)] == seeds
    assert loaded.arms[-1].recipe.epochs == 4


def test_quick_may_have_adjustments_of_its_own(load):
    text = BASE + NORMS + ADJUST + '[quick]\nseeds = 1\n[[quick.adjust]]\nwhere = { "batch_size" = 10 }\nseeds = 3\n'
    quick = load(text, quick=True)
    assert {(arm.levels["batch_size"], arm.recipe.epochs, len(arm.seeds)) for arm in quick.arms} == {(10, 2, 3), (20, 2, 1)}
    assert {arm.recipe.epochs for arm in load(BASE + NORMS + ADJUST + "[quick]\nadjust = []\n", quick=True).arms} == {2}


def test_a_set_of_what_every_arm_sets_anew_is_refused(load):
    every = BASE + NORMS + "[[adjust]]\nset = { epochs = 3 }\n"
    with pytest.raises(StudyError, match="--set epochs=5: every arm sets epochs, so this would change nothing"):
        load(every, changes=["epochs=5"])
    some = load(BASE + NORMS + ADJUST, changes=["epochs=5"])
    assert [arm.recipe.epochs for arm in some.arms] == [3, 3, 5, 5, 5, 5, 5, 5, 4, 4]


@pytest.mark.parametrize(
    ("text", "who", "key"),
    [
        (BASE + NORMS + "[quick]\nbatch_size = 5\n", "every level of the factor 'batch_size'", "batch_size"),
        (BASE + NORMS + '[quick]\nmodel.norm = "batch"\n', "every level of the factor 'model.norm'", "model.norm"),
        (BASE + NORMS + '[quick]\nmodel = { norm = "batch" }\n', "every level of the factor 'model.norm'", "model.norm"),
        (BASE + NORMS + "[[adjust]]\nset = { epochs = 3 }\n[quick]\nepochs = 1\n", "every arm", "epochs"),
    ],
)
def test_what_quick_says_of_a_key_that_every_arm_sets_anew_is_refused(load, text, who, key):
    with pytest.raises(StudyError) as caught:
        load(text, quick=True)
    line = text.splitlines().index("[quick]") + 2
    assert f"line {line}: quick.{key}: {who} sets {key}, so this changes nothing; leave it out" in str(caught.value)


def test_quick_may_set_a_key_that_some_arm_keeps(load):
    text = BASE + NORMS + ADJUST + "[quick]\nepochs = 1\n"
    assert [arm.recipe.epochs for arm in load(text, quick=True).arms] == [3, 3, 1, 1, 1, 1, 1, 1, 4, 4]
    none_left = load(text, quick=True, changes=['model.norm=["batch"]'])
    assert {arm.recipe.epochs for arm in none_left.arms} == {3}, "a --set may leave arms out"


def test_an_adjustment_may_not_undo_a_factor(load):
    with pytest.raises(StudyError, match=r"adjust.1: sets batch_size and so undoes what factors.batch_size sets"):
        load(BASE + NORMS + "[[adjust]]\nset = { batch_size = 5 }\n")


# ── through the commands ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("factors")
    file = write_study(folder, BASE + NORMS + CLAIM + EXCLUDE + ADJUST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        assert run(file, folder / "out").runs_by_status == {"done": 5 * 2 + 2 * 4}
    return file, folder / "out"


def test_plan_tells_what_is_declared_of_some_arms(finished):
    out = allelse("plan", finished[0]).out
    text = " ".join(out.split())
    assert "norm groups batch_size seeds parameters" in text
    assert "batch – 20 2" in text
    assert "18 runs in" in text
    assert "model.norm.groups: only where model.norm = group" in text
    assert "excluded: 3 of 10 combinations: model.norm = batch, batch_size = 10; " in text
    assert "where model.norm = none: epochs = 4, 4 seeds (2 arms)" in text
    assert "epochs: 3, 2, 4" in text
    assert "What 2 to 4 seeds can decide" in text
    assert "group-above: a comparison is left out, as the study has no arm with model.norm = batch, batch_size = 10" in text
    assert max(map(len, out.splitlines())) <= 80


def test_tables_of_every_format_show_that_an_arm_lacks_the_factor(finished):
    import json

    import pandas as pd

    out = " ".join(allelse("results", finished[1]).out.split())
    assert "batch – 20 2 " in out
    assert "group 4 10 2 " in out
    assert "4.0" not in out.split("accuracy:")[0].replace("44.0", "")
    runs = json.loads(allelse("results", finished[1], "--runs", "--format", "json").out)
    assert runs[0]["arm"] == {"model.norm": "batch", "batch_size": 20}
    assert runs[2]["arm"] == {"model.norm": "group", "model.norm.groups": 1, "batch_size": 10}
    rows = allelse("results", finished[1], "--runs", "--format", "csv").out.splitlines()
    assert rows[1].split(",")[1:5] == ["batch", "", "20", "0"]
    assert rows[3].split(",")[1:5] == ["group", "1", "10", "0"]
    (finished[1].parent / "runs.parquet").write_bytes(allelse("results", finished[1], "--runs", "--format", "parquet").raw)
    frame = pd.read_parquet(finished[1].parent / "runs.parquet")
    assert frame["model.norm.groups"].dropna().unique().tolist() == [1, 2, 4]
    assert "–" in allelse("results", finished[1], "--runs").out


def test_verdict_report_and_pairing_cope_with_arms_that_lack_a_factor(finished):
    ended = allelse("verdicts", finished[1])
    assert "model.norm.groups = 2" in ended.out
    assert "n = 2 seeds" in " ".join(ended.out.split())
    assert "paired: within each of 4 seeds" in " ".join(allelse("status", finished[1]).out.split())
    assert allelse("report", finished[1]).code == 0
    page = (finished[1] / "report.md").read_text()
    assert "7 arms × 2 to 4 seeds: 18 runs, 18 done" in page
    assert "| norm group, groups 4, batch size 10 | 2 |" in page
    assert "| norm none, batch size 10 | 4 |" in page
    assert "Declared of the arms: excluded: 3 of 10 combinations" in page
    with store.read(finished[1]) as opened:
        assert {len(run.arm) for run in opened.runs()} == {2, 3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[factors]\n"model.norm.groups" = { when = { "model.norm" = "group" }, levels = [1] }\n"model.norm" = ["group"]\n',
            "line 20: factors.model.norm.groups.when: 'model.norm' stands after this factor, or is itself; put it before",
        ),
        (
            '[factors]\n"model.norm" = ["group"]\n"model.norm.groups" = { when = { "model.nrm" = "group" }, levels = [1] }\n',
            "line 21: factors.model.norm.groups.when.model.nrm: there is no factor 'model.nrm' here; "
            "did you mean 'model.norm'? allowed: model.norm",
        ),
        (
            '[factors]\n"model.norm" = ["group"]\n"model.norm.groups" = { when = { "model.norm" = "grp" }, levels = [1] }\n',
            "line 21: factors.model.norm.groups.when.model.norm: 'model.norm' has no level 'grp'; did you mean 'group'? ",
        ),
        (
            '[factors]\n"model.norm.groups" = { when = { "model.norm" = "group" } }\n',
            "line 20: factors.model.norm.groups: levels is missing beside when; add it, or name no level 'when'",
        ),
        (
            '[factors]\n"model.norm.groups" = { when = "group", levels = [1] }\n',
            "line 20: factors.model.norm.groups.when: 'group'; allowed: a table of levels by factor",
        ),
        (
            '[factors."model.norm.groups"]\nlevels = [1]\nfew = 3\n',
            "line 21: factors.model.norm.groups.few: a factor with when or levels has no other keys; "
            "put named levels into levels",
        ),
        (
            NORMS + '[[exclude]]\n"model.norm" = "bach"\n',
            "line 25: exclude.1.model.norm: 'model.norm' has no level 'bach'; did you mean 'batch'? allowed: batch, ",
        ),
        (
            NORMS + '[[exclude]]\n"model.norm" = []\n',
            "line 25: exclude.1.model.norm: []; allowed: a level or a list of levels of batch, group, none",
        ),
        (
            NORMS + '[[exclude]]\n"model.norm" = "batch"\n[[exclude]]\n"model.norm" = "none"\n"model.norm.groups" = 1\n',
            "line 26: exclude.2: no arm has model.norm = none, model.norm.groups = 1, so this excludes nothing",
        ),
        (NORMS + "[[exclude]]\n", "line 24: exclude.1: every combination of levels is excluded; leave at least one"),
        (
            NORMS + EXCLUDE + '[[adjust]]\nwhere = { "model.norm" = "batch", "batch_size" = 10 }\nseeds = 3\n',
            "line 33: adjust.1.where: no arm has model.norm = batch, batch_size = 10; name arms that there are",
        ),
        (
            NORMS + '[[adjust]]\nwhere = { "model.norm" = "none" }\n',
            "line 24: adjust.1: set or seeds is missing; say what is otherwise for these arms",
        ),
        (NORMS + "[[adjust]]\nseeds = 0\n", "line 25: adjust.1.seeds: 0; allowed: at least 1"),
        (
            NORMS + '[[adjust]]\nset = { epohs = 3 }\n',
            "line 24: adjust.1: epohs: unknown key; did you mean 'epochs'? allowed: ",
        ),
        (NORMS + '[[adjust]]\nset = { epochs = "3" }\n', "line 24: adjust.1: epochs: '3'; allowed: a whole number"),
        (
            NORMS + CLAIM.replace('"model.norm" = "group"', '"model.norm" = "none"'),
            "line 25: claims.1: claim 'group-above': nothing is left to compare: arms with model.norm = none have no factor "
            "'model.norm.groups'; name arms that the study has",
        ),
        (
            NORMS + '[[references]]\nsource = "x"\narm = { "model.norm" = "none", "model.norm.groups" = 2 }\naccuracy = 1.0\n',
            "line 24: references.1: 'x': arms with model.norm = none have no factor 'model.norm.groups'",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_place_value_and_remedy(tmp_path, monkeypatch, text, expected):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, BASE + text)
    told = mistake("plan", "study.toml")
    assert told.startswith(f"study.toml, {expected}")
