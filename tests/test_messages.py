"""Mistakes in study files and changes: one line each, with file, line, key, the value given and what is allowed."""

# ruff: noqa: E501 (a message stands on one line)

import re

import pytest
from message_support import (
    ACTIVATIONS,
    COMPARED,
    LEVELS,
    MODEL_KEYS,
    NORMS,
    OF_LEVELS,
    OPTIMIZERS,
    QUICK_KEYS,
    RECIPE_KEYS,
    message,
)
from study_support import PLAIN, TINY, changed


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # names, types and bounds of recipe keys
        (
            "epochs          = 2",
            "epoch = 2",
            f"line 9: recipe.epoch: unknown key; did you mean 'epochs'? allowed: {RECIPE_KEYS}",
        ),
        (
            'optimizer       = { name = "adam", lr = 0.01 }',
            'optimizer = "muon"',
            f"line 12: recipe.optimizer: 'muon' orthogonalises whole matrices, which would mix the networks of a pack; allowed: {OPTIMIZERS}",
        ),
        (
            "width = 4",
            'width = 4\ninit = { name = "orthogonal", gain = "relu" }',
            "line 16: recipe.model.init.gain: 'relu'; allowed: a number more than 0, or 'activation'",
        ),
        ("width = 4", "wdth = 4", f"line 15: recipe.model.wdth: unknown key; did you mean 'width'? allowed: {MODEL_KEYS}"),
        ("epochs          = 2", 'epochs = "two"', "line 9: recipe.epochs: 'two'; allowed: a whole number"),
        ("epochs          = 2", "epochs = 2.5", "line 9: recipe.epochs: 2.5; allowed: a whole number"),
        ("epochs          = 2", "epochs = true", "line 9: recipe.epochs: true; allowed: a whole number"),
        (
            "epochs          = 2",
            "epochs = 1979-05-27",
            "line 9: recipe.epochs: 1979-05-27; allowed: a text in quotes, a number, true, false, a list or a table",
        ),
        ("epochs          = 2", "epochs = 0", "line 9: recipe.epochs: 0; allowed: at least 1"),
        ('"digits"', "3", 'line 7: recipe.dataset: 3; allowed: a text in "quotes"'),
        ("lr = 0.01", "lr = nan", "line 12: recipe.optimizer.lr: nan; allowed: a finite number"),
        ("lr = 0.01", "lr = inf", "line 12: recipe.optimizer.lr: inf; allowed: a finite number"),
        ("lr = 0.01", "lr = 0", "line 12: recipe.optimizer.lr: 0; allowed: more than 0"),
        (
            "lr = 0.01",
            f"lr = {'9' * 400}",
            "line 12: recipe.optimizer.lr: a whole number beyond 64 bits; allowed: from -2^63 to 2^63 - 1",
        ),
        (
            '"adam", lr',
            '"adm", lr',
            f"line 12: recipe.optimizer.name: 'adm' is unknown; did you mean 'adam'? allowed: {OPTIMIZERS}",
        ),
        ("depth = 1", "depth = 0", "line 16: recipe.model.depth: 0; allowed: at least 1"),
        (
            "width = 4",
            "width = []",
            "line 15: recipe.model.width: []; allowed: a whole number from 1 to 65536, or a list with one for each block",
        ),
        (
            "width = 4\ndepth = 1",
            "width = [4]\ndepth = 2",
            "line 15: recipe.model.width: width lists 1 block, depth asks for 2; give one width for each block",
        ),
        (
            '"batch"',
            '"bach"',
            f"line 17: recipe.model.norm: 'bach' is unknown; did you mean 'batch'? allowed: {NORMS}",
        ),
        (
            '"batch"',
            '{ name = "group", groups = 3 }',
            "line 17: recipe.model.norm.groups: norm.groups = 3 does not divide the width 4; allowed here: 1, 2, 4",
        ),
        (
            '"batch"',
            '"group"',
            "line 17: recipe.model.norm: norm.groups = 32 does not divide the width 4; allowed here: 1, 2, 4",
        ),
        (
            'name     = "tiny"',
            f'name = "{"x" * 101}"',
            f"line 2: study.name: '{'x' * 56}…; is too long; allowed: at most 100 letters",
        ),
        (
            "accuracy = 50.0",
            "accuracy = 0.5",
            "line 32: references.1.accuracy: accuracy is 0.5, less than one percent; give percent, as in 50",
        ),
        (
            '["sigmoid", "relu"]',
            "[true, false, 1]",
            "line 20: factors.model.activation: [true, false, 1] names a level twice; allowed: each level once; "
            "true is 1 and false is 0 here",
        ),
        (
            "depth = 1",
            'depth = 1\nfamily = "mpl"',
            "line 17: recipe.model.family: 'mpl' is unknown; did you mean 'mlp'? allowed: convnet, mlp, python:MODULE:NAME",
        ),
        (
            "depth = 1",
            'depth = 1\nblock = "conv-nrm-act"',
            "line 17: recipe.model.block: unknown part 'nrm'; did you mean 'norm'? "
            "allowed: conv, norm, act, drop, add, joined by '-' in any order",
        ),
        (
            "depth = 1",
            'depth = 1\nblock = "conv-act-act"',
            "line 17: recipe.model.block: 'conv-act-act'; allowed: 'conv' at least once, 'norm', 'act', 'drop' and 'add', "
            "joined by '-' in any order, none twice in a row",
        ),
        (
            "depth = 1",
            "depth = 1\ndropout = 0.2",
            "line 17: recipe.model.dropout: dropout = 0.2 has no 'drop' in block = 'conv-norm-act'; "
            "say where it acts, as in 'conv-norm-act-drop', or leave it out",
        ),
        (
            "depth = 1",
            'depth = 1\nblock = "conv-drop-act"',
            "line 17: recipe.model.block: block is 'conv-drop-act', whose 'drop' needs a rate; give one, as in dropout = 0.2",
        ),
        (
            "depth = 1",
            "depth = 1\nkernel = 4",
            "line 17: recipe.model.kernel: kernel is 4; allowed: odd numbers, so that padding keeps the image's size",
        ),
        (
            'precision       = "fp32"',
            'augment = ["flip", "flp"]',
            "line 11: recipe.augment.2: 'flp' is unknown; did you mean 'flip'? allowed: flip, crop, cutout, random-erasing, "
            "mixup, cutmix",
        ),
        ('precision       = "fp32"', 'augment = "flip"', "line 11: recipe.augment: 'flip'; allowed: a list in [brackets]"),
        # the [study] table
        (
            '"tiny"',
            '"Tiny Study"',
            "line 2: study.name: 'Tiny Study'; allowed: lower-case letters (a to z) and digits, with single hyphens between them",
        ),
        ('name     = "tiny"\n', "", "line 1: study.name: is missing; add it"),
        ("seeds    = 2", "seeds    = 0", "line 4: study.seeds: 0; allowed: at least 1"),
        (
            "seeds    = 2",
            "seeds = 1\nfirst_seed = 1_000_000_000_000",
            "line 5: study.first_seed: 1000000000000; allowed: at most 1e+09",
        ),
        # factors
        (LEVELS, '"model.activation" = []', f"line 20: factors.model.activation: []; {OF_LEVELS}"),
        (LEVELS, '"model.activation" = "relu"', f"line 20: factors.model.activation: 'relu'; {OF_LEVELS}"),
        (
            LEVELS,
            '"model.activation" = ["relu", "sigmoid", "relu"]',
            "line 20: factors.model.activation: ['relu', 'sigmoid', 'relu'] names a level twice; allowed: each level once",
        ),
        (
            LEVELS,
            f'{LEVELS}\n"optimizer.lr" = [1, 1.0]',
            "line 21: factors.optimizer.lr: [1, 1.0] names a level twice; allowed: each level once",
        ),
        (
            LEVELS,
            f'{LEVELS}\n"epochs.more" = [1]',
            "line 21: factors.epochs.more: epochs is 2, which has no keys of its own; name an existing key of the recipe",
        ),
        (
            LEVELS,
            f"{LEVELS}\nseed = {{ a = {{ epochs = 1 }} }}",
            "line 21: factors.seed: the tables have a column of this name, or the metrics do; name it otherwise",
        ),
        (
            LEVELS,
            f"{LEVELS}\ndead = {{ a = {{ epochs = 1 }} }}",
            "line 21: factors.dead: the tables have a column of this name, or the metrics do; name it otherwise",
        ),
        (
            LEVELS,
            f'{LEVELS}\n"a\\nb" = [1]',
            f"line 19: factors.a b: a level of this factor: a b: unknown key; allowed: {RECIPE_KEYS}; a factor with a name of "
            "its own has named levels, each a table of the keys it sets",
        ),
        # claims and references
        (
            'b    = { "model.activation"',
            'b    = { "model.activaton"',
            "line 22: claims.1: claim 'relu-above': b names factor 'model.activaton', which the study does not have; "
            "did you mean 'model.activation'? allowed: model.activation",
        ),
        (
            'a    = { "model.activation" = "relu" }',
            'a    = { "model.activation" = "rely" }',
            "line 22: claims.1: claim 'relu-above': a gives 'model.activation' level 'rely', which the study does not have; "
            "did you mean 'relu'? allowed: sigmoid, relu",
        ),
        (
            '"higher"',
            '"hihger"',
            "line 25: claims.1.kind: 'hihger' is unknown; did you mean 'higher'? allowed: higher, within, trend, monotone, stable, best",
        ),
        ('"higher"', '"higher"\nmargin = "3"', "line 26: claims.1.margin: '3'; allowed: a number"),
        (
            'arm      = { "model.activation" = "relu" }',
            'arm      = { "model.activation" = "rely" }',
            "line 29: references.1: 'a paper': model.activation = 'rely'; did you mean 'relu'? allowed: sigmoid, relu",
        ),
        (
            'arm      = { "model.activation" = "relu" }',
            'arm      = { "model.activation" = ["relu"] }',
            "line 29: references.1: 'a paper': model.activation = ['relu']; did you mean 'relu'? allowed: sigmoid, relu",
        ),
        (
            'arm      = { "model.activation" = "relu" }',
            'arm      = { "model.depth" = 1 }',
            "line 29: references.1: 'a paper' names the factor 'model.depth'; allowed: model.activation",
        ),
        ("accuracy = 50.0", "accuracy = 101", "line 32: references.1.accuracy: 101; allowed: at most 100"),
        *(
            (
                "accuracy = 50.0",
                f"accuracy = 50.0\nsd = 0.3{runs}",
                "line 33: references.1.sd: sd is a spread over runs and needs n, their number, of at least 2; add it, or leave sd out",
            )
            for runs in ("", "\nn = 1")
        ),
        (
            "accuracy = 50.0",
            'accuracy = 50.0\nmetric = "test_acuracy"',
            "line 33: references.1.metric: metric 'test_acuracy' is no accuracy; did you mean 'test_accuracy'? allowed: accuracy, "
            "accuracy_best_epoch, accuracy_median_last_five, accuracy_raw, "
            "accuracy_running, accuracy_recalibrated, accuracy_batch, train_accuracy, test_accuracy, validation_accuracy",
        ),
    ],
)
def test_a_mistake_is_one_line_with_place_value_and_remedy(old, new, expected):
    assert message(changed(old, new)) == f"study.toml, {expected}"


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        ('"model.depth" = [1, 0]', "model.depth: a level of this factor: model.depth: 0; allowed: at least 1"),
        (
            '"model.norm" = ["batch", "group"]',
            "model.norm: a level of this factor: model.norm: norm.groups = 32 does not divide the width 4; allowed here: 1, 2, 4",
        ),
        (
            '"optimizer.momentum" = [0.9]',
            "optimizer.momentum: a level of this factor: optimizer.momentum: unknown key; allowed: lr, "
            "lr_scaling, lr_batch_size, weight_decay, decay_norm_and_bias, name, betas, eps, amsgrad",
        ),
    ],
)
def test_a_level_that_does_not_fit_is_found_on_its_factors_line(factor, expected):
    assert message(f"{PLAIN}{factor}\n") == f"study.toml, line 21: factors.{expected}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"model.activation" = ["', '"model.activaton" = ["', r"20: factors\.model\.activaton: .* did you mean 'activation'\?"),
        ('["sigmoid", "relu"]', '["sigmoid", "rellu"]', r"20: factors\.model\.activation: .* did you mean 'relu'\?"),
        (
            'b    = { "model.activation" = "sig',
            'b    = { "model.activaton" = "sig',
            "22: claims.1: .* did you mean 'model.activation'",
        ),
    ],
)
def test_what_is_misspelt_is_told_where_it_stands_not_of_what_names_it_rightly(old, new, expected):
    assert re.match(f"study.toml, line {expected}", message(changed(old, new)))


def test_a_gain_that_is_not_known_is_found_on_the_line_of_the_init():
    gains = '"model.init" = ["default", { name = "orthogonal", gain = "activation" }]\n'
    assert message(changed('"relu"]', '"gelu"]', PLAIN) + gains) == (
        "study.toml, line 21: factors.model.init: a level of this factor: model.init.gain: init.gain: torch knows none for "
        "the activation 'gelu'; allowed: a number, or 'activation' with one of identity, sigmoid, tanh, relu, selu, leaky_relu, prelu"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": is empty; 'allelse new FILE' writes a study file to start from"),
        ("study = 3\nrecipe = {}\n", ", line 1: study: 3; allowed: a table of keys"),
        (f"recipe = 'x'\n{TINY.split('[recipe]')[0]}", ", line 1: recipe: 'x'; allowed: a table of keys"),
        (f"factors = 'x'\n{PLAIN.split('[factors]')[0]}", ", line 1: factors: 'x'; allowed: a table of keys"),
        (f"quick = [1]\n{PLAIN}", ", line 1: quick: [1]; allowed: a table of keys"),
        (f"quick = false\n{PLAIN}", ", line 1: quick: false; allowed: a table of keys"),
        (
            f"{PLAIN}\n[claims]\nid = 'x'\n",
            ", line 22: claims: is a table; there may be several of them, each under [[claims]], in double brackets",
        ),
        (
            PLAIN.replace("epochs          = 2", 'augment = { name = "flip" }'),
            ", line 9: recipe.augment: {'name': 'flip'}; allowed: a list in [brackets]",
        ),
        (
            PLAIN.replace("epochs          = 2", "standardize = [true, false]"),
            f", line 9: recipe.standardize: [true, false]; allowed: true or false; {COMPARED}",
        ),
        (f"claims = ['x']\n{PLAIN}", ", line 1: claims.1: 'x'; allowed: a table of keys"),
        (f"claims = [{{ id = 'a' }}]\n{PLAIN}", ', line 1: claims.1: has no kind; add one, e.g. kind = "higher"'),
        (
            PLAIN.replace('"model.activation" = [', "model.activation = ["),
            ', line 19: factors.model: put the factor\'s name into quotes: "model.activation" = [...]',
        ),
        (f"references = 'x'\n{PLAIN}", ", line 1: references: 'x'; allowed: a list in [brackets]"),
        (
            f"extra = 1\n{PLAIN}",
            ", line 1: extra: unknown key; allowed: study, recipe, factors, exclude, adjust, tune, claims, references, quick, scaled",
        ),
        ("[study]\nseeds = \n", ": not valid TOML: Invalid value (at line 2, column 9); mend the file there"),
        (
            "[study]\nseeds = 2\nseeds = 3\n",
            ": not valid TOML: Cannot overwrite a value (at line 3, column 10); something is given twice there; keep one of the two",
        ),
        (
            '[factors."model.norm"]\na = {}\n[factors."model.norm"]\n',
            ": not valid TOML: Cannot declare ('factors', 'model.norm') twice (at line 3, column 22); "
            '[factors."model.norm"] stands further up too; put its keys together there',
        ),
        (
            "[claims]\nid = 'a'\n[claims]\n",
            ": not valid TOML: Cannot declare ('claims',) twice (at line 3, column 8); write [[claims]] for each",
        ),
        (b"\xff\xfe[\x00", ": is no UTF-8 text; save it as UTF-8, or name a study file"),
    ],
)
def test_a_file_of_another_shape_is_told_in_one_line(text, expected):
    assert message(text) == f"study.toml{expected}"


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000])
def test_what_the_toml_reader_gives_up_on_is_told_in_one_line(value):
    told = message(changed("epochs          = 2", f"epochs = {value}"))
    assert told.startswith("study.toml: not valid TOML: ")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            '"model.width" = 2',
            '"model.width" = 0',
            "line 37: quick.model.width: 0; allowed: a whole number from 1 to 65536, or a list with one for each block",
        ),
        ("epochs        = 1", "epoch = 1", f"line 35: quick.epoch: unknown key; did you mean 'epochs'? allowed: {QUICK_KEYS}"),
        ("seeds         = 1", "seeds = 0", "line 36: quick.seeds: 0; allowed: at least 1"),
        (
            '"model.width" = 2',
            '"epochs.x" = 2',
            "line 37: quick.epochs.x: epochs is 1, which has no keys of its own; name an existing key of the recipe",
        ),
        ('"model.width" = 2', "factors = 3", "line 37: quick.factors: 3; allowed: a table of keys"),
        (
            '"model.width" = 2',
            'factors = { "model.activation" = ["rely"] }',
            "line 37: quick.factors.model.activation: a level of this factor: model.activation: 'rely' is unknown; "
            f"did you mean 'relu'? allowed: {ACTIVATIONS}",
        ),
    ],
)
def test_a_mistake_in_quick_is_found_on_its_own_line(old, new, expected):
    assert message(changed(old, new), quick=True) == f"study.toml, {expected}"


def test_quick_of_a_file_without_that_table():
    assert message(PLAIN, quick=True) == (
        "study.toml: has no [quick] table, so --quick has nothing to change; add one or leave --quick out"
    )


def test_a_line_is_found_below_multi_line_values_and_odd_line_separators():
    text = changed('"Is ReLU above sigmoid?"', '"""\nseparators: \u2028 \u0085\n"""')
    assert (
        message(changed("epochs          = 2", "epochs = 0", text))
        == "study.toml, line 11: recipe.epochs: 0; allowed: at least 1"
    )
