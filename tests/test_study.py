"""Study files: what they leave out, their factors, arms, changes and ids."""

import json

import pytest
from study_support import PLAIN, TINY, changed, write_study

from allelse import study
from allelse.errors import StudyError
from allelse.records import canonical_json


@pytest.fixture
def load(tmp_path):
    """Loads a study from its text."""
    return lambda text=TINY, **options: study.load(write_study(tmp_path, text), **options)


def with_factors(factors: str) -> str:
    return PLAIN.split("[factors]")[0] + factors


def test_what_a_recipe_leaves_out_has_the_documented_defaults(load):
    recipe = load('study = { name = "s", question = "?", seeds = 1 }\nrecipe = { dataset = "digits" }\n').arms[0].recipe
    assert (recipe.epochs, recipe.batch_size, recipe.augment, recipe.precision) == (10, 128, (), "auto")
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.schedule.name) == ("adam", 1e-3, "constant")
    assert (recipe.model.family, recipe.model.block, recipe.model.norm.name) == ("convnet", "conv-norm-act", "batch")
    assert (recipe.model.width, recipe.model.depth, recipe.model.activation.name) == (64, 4, "relu")


def test_a_study_without_factors_has_one_arm(load):
    loaded = load(with_factors(""))
    assert [(dict(arm.levels), arm.name) for arm in loaded.arms] == [({}, "the only arm")]


def test_arms_are_the_product_of_all_levels_with_the_last_factor_fastest(load):
    loaded = load(with_factors('[factors]\n"model.depth" = [2, 1]\n"batch_size" = [10, 20, 50]\n'))
    assert [(arm.recipe.model.depth, arm.recipe.batch_size) for arm in loaded.arms] == [
        (depth, size) for depth in (2, 1) for size in (10, 20, 50)
    ]
    assert loaded.arms[1].name == "depth 2, batch_size 20"
    assert loaded.factors == {"model.depth": (2, 1), "batch_size": (10, 20, 50)}


def test_a_named_level_moves_all_its_keys_and_nothing_else(load):
    loaded = load(
        with_factors(
            '[factors.order]\n"first" = { "model.block" = "conv-norm-act" }\n'
            '"second, leaky" = { "model.block" = "conv-act-norm", "model.activation" = { name = "leaky_relu", slope = 0.1 } }\n'
        )
    )
    first, second = (arm.recipe.model_dump() for arm in loaded.arms)
    assert list(loaded.factors["order"]) == ["first", "second, leaky"]
    assert second["model"].pop("block") == "conv-act-norm"
    assert second["model"].pop("activation") == {"name": "leaky_relu", "slope": 0.1}
    assert first["model"].pop("block") == "conv-norm-act"
    assert first["model"].pop("activation") == {"name": "relu"}
    assert first == second


@pytest.mark.parametrize(
    ("levels", "labels"),
    [
        ('"model.norm" = ["none", { name = "group", groups = 2 }]', ("none", "group(groups=2)")),
        ('"model.norm" = [{ name = "batch" }]', ("batch",)),
        ('"model.pool" = [[], [1]]', ("none", "1")),
        ('"model.width" = [4, [4, 8]]', (4, "4-8")),
        ('"model.bias" = [true, false]', (True, False)),
        ('"optimizer.lr" = [1e-3, 0.1]', (0.001, 0.1)),
    ],
)
def test_levels_are_labelled_as_people_read_them(load, levels, labels):
    assert list(load(with_factors(f"[factors]\n{levels}\n")).factors.values()) == [labels]


def test_quick_changes_what_it_names_and_is_said_in_the_name(load):
    full, quick = load(), load(quick=True)
    assert (quick.name, quick.quick, full.name, full.quick) == ("tiny-quick", True, "tiny", False)
    assert (len(quick.seeds), quick.arms[0].recipe.epochs, quick.arms[0].recipe.model.width) == (1, 1, 2)
    assert (len(full.seeds), full.arms[0].recipe.epochs, full.arms[0].recipe.model.width) == (2, 2, 4)
    assert quick.factors == full.factors


def test_quick_may_change_levels_and_replace_a_whole_part(load):
    text = TINY + 'optimizer = { name = "sgd", lr = 0.5 }\nfactors = { "model.activation" = ["relu"] }\n'
    quick = load(text, quick=True)
    assert quick.factors == {"model.activation": ("relu",)}
    assert quick.arms[0].recipe.optimizer.model_dump(include={"name", "lr"}) == {"name": "sgd", "lr": 0.5}


def test_quick_as_nested_tables_keeps_what_it_does_not_name(load):
    model = load(changed('"model.width" = 2\n', "\n[quick.model]\nwidth = 3\n"), quick=True).arms[0].recipe.model
    assert (model.width, model.depth) == (3, 1)


def test_set_changes_a_recipe_key_in_every_arm(load):
    loaded = load(changes=["epochs=7", "model.kernel = 5", "dataset=cifar10"])
    assert {(arm.recipe.epochs, arm.recipe.model.kernel, arm.recipe.dataset) for arm in loaded.arms} == {(7, 5, "cifar10")}


def test_set_comes_after_quick(load):
    assert load(quick=True, changes=["epochs=7"]).arms[0].recipe.epochs == 7


def test_set_replaces_the_levels_of_a_factor(load):
    assert load(changes=['model.activation=["gelu", "silu"]']).factors == {"model.activation": ("gelu", "silu")}
    assert load(changes=["model.activation=gelu"]).factors == {"model.activation": ("gelu",)}


def test_set_reaches_into_a_part_that_was_given_by_its_name_alone(load):
    assert load(changes=["model.norm.momentum=0.5"]).arms[0].recipe.model.norm.model_dump() == {
        "name": "batch",
        "momentum": 0.5,
        "eps": 1e-5,
        "affine": True,
        "evaluate": "running",
    }


@pytest.mark.parametrize("key", ["model.block", "model.activation", "model.activation.slope"])
def test_set_of_what_every_level_sets_anew_is_refused(load, key):
    text = with_factors(
        '[factors.order]\na = { "model.block" = "conv-norm-act", "model.activation" = "relu" }\n'
        'b = { "model.block" = "conv-act-norm", "model.activation" = "relu" }\n'
    )
    with pytest.raises(StudyError, match=f"--set {key}=1: every level of the factor 'order' sets {key}, so this would change"):
        load(text, changes=[f"{key}=1"])


def test_seeds_follow_the_first_one(load):
    text = changed("seeds    = 2", "seeds    = 3\nfirst_seed = 40")
    assert load(text).seeds == (40, 41, 42)
    assert load(text, seeds=1).seeds == (40,)


@pytest.mark.parametrize("seeds", [0, -1, 10_001])
def test_an_impossible_number_of_seeds_is_refused(load, seeds):
    with pytest.raises(StudyError, match=rf"^--seeds {seeds}: allowed: 1 to 10000$"):
        load(seeds=seeds)


NAMED = """[factors.order]
"norm first" = { "model.block" = "conv-norm-act", "model.activation" = "relu" }
"norm last"  = { "model.block" = "conv-act-norm", "model.activation" = "relu" }
"""


def test_set_keeps_named_levels_by_their_labels_and_refuses_others(load):
    [arm] = load(with_factors(NAMED), changes=["order=norm last"]).arms
    assert (arm.levels, arm.recipe.model.block) == ({"order": "norm last"}, "conv-act-norm")
    with pytest.raises(StudyError) as caught:
        load(with_factors(NAMED), changes=["order=norm lst"])
    assert str(caught.value) == (
        "--set order=norm lst: 'norm lst' is no level of 'order'; did you mean 'norm last'? allowed: norm first, norm last"
    )


def test_a_definition_is_plain_json_that_tells_the_command(load):
    definition = load(TINY, changes=["augment=['flip', 'crop']"], seeds=3).definition()
    assert canonical_json(json.loads(json.dumps(definition))) == canonical_json(definition)
    assert definition["command"].endswith("""--seeds 3 --set 'augment=['"'"'flip'"'"', '"'"'crop'"'"']'""")


def test_runs_go_arm_by_arm_and_seed_by_seed(load):
    assert [(run.arm["model.activation"], run.seed) for run in load().runs()] == [
        ("sigmoid", 0),
        ("sigmoid", 1),
        ("relu", 0),
        ("relu", 1),
    ]


def test_run_ids_are_the_same_for_ever(load):
    # A changed id makes every stored result of every user a stranger: change this only with a new store format.
    assert [run.id for run in load().runs()] == ["dffa488264d5", "3142f72bf577", "0de460063081", "9e444f72b41d"]


def test_run_ids_do_not_depend_on_how_the_recipe_is_written(load):
    longer = changed('norm  = "batch"', 'norm = { name = "batch" }\nkernel = 3\nfamily = "convnet"')
    assert [run.id for run in load(longer).runs()] == [run.id for run in load().runs()]


@pytest.mark.parametrize(
    "options",
    [
        {"changes": ["epochs=3"]},
        {"changes": ["optimizer.lr=0.02"]},
        {"changes": ["model.norm.eps=1e-4"]},
        {"changes": ["model.bias=false"]},
        {"changes": ["label_smoothing=0.1"]},
        {"changes": ["model.activation=['tanh', 'gelu']"]},
        {"quick": True},
    ],
)
def test_any_change_of_the_recipe_gives_other_run_ids(load, options):
    assert not {run.id for run in load(**options).runs()} & {run.id for run in load().runs()}


def test_other_seeds_give_other_run_ids_and_more_seeds_keep_the_old_ones(load):
    ids = {run.id for run in load().runs()}
    assert not ids & {run.id for run in load(changed("seeds    = 2", "seeds    = 2\nfirst_seed = 2")).runs()}
    assert ids < {run.id for run in load(seeds=3).runs()}
    assert len(ids) == 4


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(load, tmp_path):
    (tmp_path / "windows.toml").write_bytes(b"\xef\xbb\xbf" + TINY.replace("\n", "\r\n").encode())
    assert study.load(tmp_path / "windows.toml").arms == load().arms


def test_a_key_of_a_part_that_the_recipe_leaves_out_is_of_its_default(load):
    text = 'study = { name = "s", question = "?", seeds = 1 }\nrecipe = { dataset = "digits" }\n'
    loaded = load(text, changes=["optimizer.lr=0.5", "model.norm.eps=0.25", "schedule.warmup_epochs=1"]).arms[0].recipe
    assert (loaded.optimizer.name, loaded.optimizer.lr) == ("adam", 0.5)
    assert (loaded.model.norm.name, loaded.model.norm.eps) == ("batch", 0.25)
    assert (loaded.schedule.name, loaded.schedule.warmup_epochs) == ("constant", 1)


def test_quick_and_scaled_at_once_are_refused():
    with pytest.raises(StudyError, match="--quick and --scaled are two versions of a study; give one of them"):
        study.load("sigmoid-vs-relu", quick=True, scaled=True)


@pytest.mark.parametrize(
    ("metric", "key", "value"),
    [("validation_accuracy", "validation_per_class", "2"), ("loss_raw", "averaging", '{ name = "ema", decay = 0.9 }')],
)
def test_a_claim_on_a_metric_that_no_arm_will_have_is_refused(load, metric, key, value):
    text = changed('kind = "higher"', f'kind = "higher"\nmetric = "{metric}"')
    with pytest.raises(StudyError, match=f"line 26: claims.1.metric: '{metric}', which no arm will have; set {key} in "):
        load(text)
    assert load(changed("epochs          = 2", f"epochs = 2\n{key} = {value}", text)).claims[0].metric == metric
    assert load(text, changes=["epochs=1"]).claims[0].metric == metric  # there it is one that is not asked in this run


def test_a_claim_on_batch_norm_where_no_arm_has_one_is_refused(load):
    text = changed('kind = "higher"', 'kind = "higher"\nmetric = "mean_distance"')
    assert load(text).claims[0].metric == "mean_distance"
    with pytest.raises(StudyError, match="'mean_distance', which no arm will have; it is measured of BatchNorm"):
        load(changed('"batch"', '"layer"', text))


# ── a study that is not there ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "sigmoid-vs-rel",
            "sigmoid-vs-rel: no such study; did you mean 'sigmoid-vs-relu'? allowed: sigmoid-vs-relu, batchnorm-vs-groupnorm, "
            "batchnorm-vs-groupnorm-many-epochs, conv-activation-norm-position; or give a .toml file",
        ),
        ("none.toml", "none.toml: no such file; 'allelse new none.toml' writes one to start from"),
        ("folder/none", "folder/none: no such file; 'allelse new folder/none' writes one to start from"),
        (".", ".: is a folder; name a study file; 'allelse status .' looks at what was run there"),
        (
            "~nobody-here/s.toml",
            "~nobody-here/s.toml: cannot be read as a UTF-8 text file: Could not determine home directory.",
        ),
    ],
)
def test_a_study_that_is_not_there_is_told_with_the_ways_out(name, expected):
    with pytest.raises(StudyError) as caught:
        study.load(name)
    assert str(caught.value) == expected


def test_a_name_too_long_for_the_file_system_is_told_in_one_line():
    with pytest.raises(StudyError, match=r"^x+: cannot be read as a UTF-8 text file: .*too long"):
        study.load("x" * 300)


# ── what tables of tables mean ──────────────────────────────────────────────────────────────────────────────────────

OTHER_MODEL = changed("width = 4", 'width = 8\nstem = { width = 4, norm = true }\nhead = "flatten"', PLAIN).split("[factors]")[
    0
]
KEPT = {"width": 8, "stem.norm": True}


def model_of(arm) -> dict:
    model = arm.recipe.model
    return {"width": model.width, "stem.norm": model.stem.norm}


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ("[factors.design]\na = { model.depth = 2 }\n", {}),
        ("[factors.design]\na = { model = { depth = 2 } }\n", {}),
        ('[factors.design]\na = { model.head.hidden = [3], "model.depth" = 2 }\n', {}),
        ("[factors]\nepochs = [2]\n[[adjust]]\nwhere = { epochs = 2 }\nset = { model.depth = 2 }\n", {}),
        ("[quick]\nmodel.depth = 2\n", {"quick": True}),
        ("[quick.model]\ndepth = 2\n", {"quick": True}),
        ("", {"changes": ["model={depth=2}"]}),
    ],
)
def test_a_key_in_a_table_of_the_model_leaves_the_rest_of_the_model(load, written, options):
    [arm] = load(OTHER_MODEL + written, **options).arms
    assert arm.recipe.model.depth == 2
    assert model_of(arm) == KEPT
    assert arm.recipe.model.head.name == "flatten"
    assert arm.recipe.model.head.hidden == ((3,) if "hidden" in written else ())


def test_a_model_with_its_family_is_another_one(load):
    [arm] = load(OTHER_MODEL + '[factors.design]\na = { model = { family = "mlp", depth = 2 } }\n').arms
    assert (arm.recipe.model.family, arm.recipe.model.width) == ("mlp", 64)


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ('[factors.how]\na = { "optimizer.lr" = 0.5, optimizer = "adamw" }\n', {}),
        ('[factors]\nepochs = [2]\n[[adjust]]\nwhere = {}\nset = { "optimizer.lr" = 0.5, optimizer = "adamw" }\n', {}),
        ('[quick]\n"optimizer.lr" = 0.5\noptimizer = "adamw"\n', {"quick": True}),
    ],
)
def test_a_part_goes_before_the_keys_in_it_whatever_the_order(load, written, options):
    [arm] = load(OTHER_MODEL + written, **options).arms
    assert (arm.recipe.optimizer.name, arm.recipe.optimizer.lr) == ("adamw", 0.5)


def test_a_change_that_would_undo_an_earlier_one_is_refused(load):
    with pytest.raises(StudyError, match=r"^--set optimizer=adamw: would undo --set optimizer\.lr=0\.5; give it first$"):
        load(changes=["optimizer.lr=0.5", "optimizer=adamw"])
    [arm, _] = load(changes=["optimizer=adamw", "optimizer.lr=0.4", "optimizer.lr=0.5"]).arms
    assert (arm.recipe.optimizer.name, arm.recipe.optimizer.lr) == ("adamw", 0.5)


def test_a_table_on_the_command_line_that_a_factor_undoes_is_refused(load):
    with pytest.raises(StudyError, match=r"'model\.activation' sets model\.activation, so this would change nothing"):
        load(changes=["model={depth=2, activation='gelu'}"])
    assert {arm.recipe.model.depth for arm in load(changes=["model={depth=2}"]).arms} == {2}


@pytest.mark.parametrize(
    ("named", "version", "expected"),
    [
        ('head = "flatten"', "[quick.model.head]\nhidden = [3]\n", ("model.head", "flatten")),
        ('norm = "group"', "[quick.model.norm]\ngroups = 2\n", ("model.norm", "group")),
        ('norm = "batch"', '[quick.model]\n"norm.momentum" = 0.3\n', ("model.norm", "batch")),
        ("", '[quick.model]\n"norm.momentum" = 0.3\n', ("model.norm", "batch")),
    ],
)
def test_a_version_changes_keys_of_a_part_that_is_named_alone_or_left_out(load, named, version, expected):
    text = PLAIN.split("[factors]")[0].replace('norm  = "batch"', named)
    [arm] = load(text + version, quick=True).arms
    assert getattr(arm.recipe.model, expected[0].partition(".")[2]).name == expected[1]


def test_a_condition_of_a_version_asks_of_earlier_factors_only(load):
    text = with_factors('[factors]\n"model.activation" = ["relu", "gelu"]\n"model.depth" = [1, 2]\n')
    for asked in ("model.depth", "model.activation"):
        level = 1 if asked == "model.depth" else "relu"
        late = f'[quick.factors."model.activation"]\nwhen = {{ "{asked}" = {level!r} }}\nlevels = ["relu", "gelu"]\n'
        with pytest.raises(StudyError, match="stands after this factor, or is itself; put it before"):
            load(text + late, quick=True)
    depth = '[quick.factors."model.depth"]\nwhen = { "model.activation" = "relu" }\nlevels = [1, 2]\n'
    assert len(load(text + depth, quick=True).arms) == 3


def test_a_level_on_the_command_line_is_the_one_that_the_file_has(load):
    text = with_factors('[factors]\n"model.depth" = [1, 2]\n')
    for change in ("model.depth=1.0", "model.depth=[1.0]"):
        [arm] = load(text, changes=[change]).arms
        assert [type(level) for level in arm.levels.values()] == [int]
    with pytest.raises(StudyError, match="true; allowed: a whole number"):
        load(text, changes=["model.depth=true"])


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ('[[exclude]]\nbatch_size = "20"\n', "'batch_size' has no level '20'; write it without quotes"),
        ('[[references]]\nsource = "a"\naccuracy = 5\narm = { batch_size = "20" }\n', "write it without quotes"),
        ("[quick]\nseeds = 20000\n", "quick.seeds: 20000; allowed: at most 10000"),
    ],
)
def test_a_wrong_level_or_number_is_told_where_it_stands(load, written, remedy):
    with pytest.raises(StudyError, match=remedy):
        load(with_factors("[factors]\nbatch_size = [10, 20]\n") + written)


def test_quick_may_take_some_of_the_named_levels_by_their_names(load):
    sizes = 'size = { small = { "model.width" = 2 }, 8 = { "model.width" = 8 }, big = { "model.width" = 16 } }\n'
    named = with_factors(f"[factors]\n{sizes}")
    quick = load(named + '[quick]\nfactors = { size = ["big", 8] }\n', quick=True)
    assert [(arm.levels["size"], arm.recipe.model.width) for arm in quick.arms] == [("big", 16), (8, 8)]
    new = load(named + '[quick.factors.size]\ntiny = { "model.width" = 1 }\n', quick=True)
    assert [(arm.levels["size"], arm.recipe.model.width) for arm in new.arms] == [("tiny", 1)]
    with pytest.raises(
        StudyError, match=r"quick.factors.size: 'bgi' is no level of 'size'; did you mean 'big'\? allowed: small, "
    ):
        load(named + '[quick]\nfactors = { size = ["bgi"] }\n', quick=True)
