"""Mistakes in ``--set``: one line each that names the change, and the file's own mistakes stay its own."""

import pytest
from message_support import ACTIVATIONS, COMPARED, MODEL_KEYS, NORMS, OF_LEVELS, RECIPE_KEYS, message
from study_support import TINY, changed


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("epochs", "allowed: key=value, e.g. --set epochs=2 or --set 'model.depth=[1, 2]'"),
        ("=3", "allowed: key=value, e.g. --set epochs=2 or --set 'model.depth=[1, 2]'"),
        ("epoch=3", f"epoch: unknown key; did you mean 'epochs'? allowed: {RECIPE_KEYS}"),
        ("epochs=two", "epochs: 'two'; allowed: a whole number"),
        ("epochs=[1, 2]", f"epochs: [1, 2]; allowed: a whole number; {COMPARED}"),
        ('loss=["focal"]', f"loss: ['focal']; allowed: a name in \"quotes\", or a table with a name; {COMPARED}"),
        ("epochs.x=3", "epochs.x: epochs is 2, which has no keys of its own; name an existing key of the recipe"),
        ("model.wdth=3", f"model.wdth: unknown key; did you mean 'width'? allowed: {MODEL_KEYS}"),
        ("model.depth=0", "model.depth: 0; allowed: at least 1"),
        (
            "model.norm=bach",
            f"model.norm: 'bach' is unknown; did you mean 'batch'? allowed: {NORMS}",
        ),
        ("model.norm=group", "model.norm: norm.groups = 32 does not divide the width 4; allowed here: 1, 2, 4"),
        ("model.activation=[]", f"factors.model.activation: []; {OF_LEVELS}"),
        ("model.activation=rely", f"model.activation: 'rely' is unknown; did you mean 'relu'? allowed: {ACTIVATIONS}"),
        ("optimizer=sgd", "optimizer.lr: is missing; add it"),
        ("depth=3", f"depth: unknown key; did you mean 'model.depth'? allowed: {RECIPE_KEYS}"),
        ('augment=[{"alpha"=1.0}]', "augment.1: has no name; add one"),
        ("model.pool=[1, 1]", "model.pool: [1, 1]; allowed: each block once; halving an image twice takes two blocks"),
        ("seeds=3", "[study] stands in the file; allowed: recipe keys; --seeds N and --first-seed N for seeds"),
        ("first_seed=3", "[study] stands in the file; allowed: recipe keys; --seeds N and --first-seed N for seeds"),
        ("learning_rate=3", f"learning_rate: unknown key; did you mean 'optimizer.lr'? allowed: {RECIPE_KEYS}"),
        (
            "model.activation=[relu,gelu]",
            'is no list or table as TOML has it; write it inside one pair of single quotes, with texts in "…": '
            '--set \'model.activation=["relu", "gelu"]\'',
        ),
    ],
)
def test_a_mistake_in_set_names_the_change(change, expected):
    assert message(TINY, changes=["batch_size=10", change]) == f"--set {change}: {expected}"


def test_a_mistake_stays_the_files_own_when_a_change_has_nothing_to_do_with_it():
    told = message(changed('"batch"', '{ name = "group", groups = 3 }'), changes=["model.bias=false"])
    assert told.startswith("study.toml, line 17: recipe.model.norm.groups: ")
