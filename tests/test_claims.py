"""Claims: what a study may claim, and one clear line for what it may not."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from allelse.claims import Claim, check_claims, level_key
from allelse.errors import StudyError

LEVELS = {"model.activation": ["sigmoid", "relu"], "model.depth": [1, 2, 8], "bias": [True, False], "epochs": [20]}
RELU, SIGMOID = {"model.activation": "relu"}, {"model.activation": "sigmoid"}
AT = {"model.depth": 8, "bias": True}


def claim(**keys):
    return TypeAdapter(Claim).validate_python({"id": "c", "says": "something", "kind": "higher"} | keys)


def higher(**keys):
    return claim(**{"a": RELU, "b": SIGMOID, "where": AT} | keys)


GOOD = {
    "higher": higher(margin=1),
    "higher at each level": higher(where={"bias": True}, for_each="model.depth"),
    "within": higher(kind="within", margin=3),
    "trend": claim(kind="trend", along="model.depth", direction="down", where=RELU | {"bias": True}),
    "trend of a difference": claim(kind="trend", along="model.depth", direction="up", a=RELU, b=SIGMOID, where={"bias": True}),
    "monotone": claim(kind="monotone", along="model.depth", direction="up", where=RELU | {"bias": False}),
    "stable": claim(kind="stable", along="model.depth", margin=0.5, where=RELU | {"bias": False}),
    "best": claim(kind="best", arm=RELU, where=AT),
    "higher at some levels": higher(where={"bias": True, "model.depth": [1, 8]}, for_each="model.depth"),
    "higher at each combination": higher(where={}, for_each=["model.depth", "bias"]),
    "stable over some levels": claim(
        kind="stable", along="model.depth", margin=1, where=RELU | {"bias": True, "model.depth": [2, 8]}
    ),
    "best of some": claim(kind="best", arm={"model.depth": 8}, where=RELU | {"bias": True, "model.depth": [2]}),
    "single level named": higher(where=AT | {"epochs": 20}),
}


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD.keys())
def test_every_kind_passes(good):
    check_claims([good], LEVELS)


@pytest.mark.parametrize(
    "keys",
    [
        {"kind": "within", "margin": 0},
        {"kind": "within", "margin": -1},
        {"kind": "within"},
        {"margin": -0.5},
        {"kind": "highest"},
        {"id": "Not a slug"},
        {"id": ""},
        {"says": ""},
        {"direction": "up"},
        {"a": {}},
        {"margin": "3"},
        {"margin": float("nan")},
        {"a": {"model.depth": [1]}},
        {"where": {"model.depth": []}},
        {"where": {"model.depth": [[1]]}},
        {"for_each": []},
    ],
)
def test_impossible_values_are_refused_by_the_model(keys):
    with pytest.raises(ValidationError):
        higher(**keys)


def test_a_trend_takes_both_arms_or_none():
    with pytest.raises(ValidationError, match="a and b"):
        claim(kind="trend", along="model.depth", direction="up", a=RELU)


WRONG = {
    "unknown factor": (
        higher(where={"model.dept": 8, "bias": True}),
        "where names factor 'model.dept'.*did you mean 'model.depth'",
    ),
    "unknown along": (claim(kind="stable", along="depth", margin=1, where=RELU), "along names factor 'depth'"),
    "unknown for_each": (higher(for_each="seeds"), "for_each names factor 'seeds'"),
    "unknown level": (higher(a={"model.activation": "rellu"}), "'rellu'.*did you mean 'relu'.*allowed: sigmoid, relu"),
    "a number that is no level": (higher(where={"model.depth": 3, "bias": True}), "level '3'.*allowed: 1, 2, 8"),
    "1 is not true": (higher(where={"model.depth": 8, "bias": 1}), "'bias' level '1'.*allowed: true, false"),
    "open factor": (higher(where={"bias": True}), "leaves factor 'model.depth' open.*for_each.*levels: 1, 2, 8"),
    "open in b alone": (
        claim(a=RELU | {"model.depth": 1}, b=SIGMOID, where={"bias": True}),
        "b leaves factor 'model.depth' open",
    ),
    "settled twice": (higher(where=AT | {"model.activation": "relu"}), "'model.activation' is settled twice"),
    "a list that nothing goes through": (
        higher(where={"bias": True, "model.depth": [1, 8]}),
        "where lists levels of factor 'model.depth'.*one level, or a list with for_each = \"model.depth\"",
    ),
    "a list with a level that is none": (
        higher(where={"bias": True, "model.depth": [1, 3]}, for_each="model.depth"),
        "level '3'.*allowed: 1, 2, 8",
    ),
    "for_each twice": (higher(where={}, for_each=["model.depth", "model.depth", "bias"]), "'model.depth' is settled twice"),
    "an unknown one of for_each": (higher(where={}, for_each=["model.depth", "biass"]), "for_each names factor 'biass'"),
    "open beside for_each": (
        higher(where={}, for_each="model.depth"),
        r"leaves factor 'bias' open.*for_each = \[\"model.depth\", \"bias\"\]; levels: true, false",
    ),
    "a list of one along": (
        claim(kind="stable", along="model.depth", margin=1, where=RELU | {"bias": True, "model.depth": [2]}),
        "'model.depth' has 1 level",
    ),
    "best of a list of itself": (
        claim(kind="best", arm={"model.depth": 8}, where=RELU | {"bias": True, "model.depth": [8]}),
        "nothing to be better than",
    ),
    "for_each and where": (higher(for_each="model.depth"), "'model.depth' is settled twice"),
    "same arm": (higher(b=RELU), "a and b are the same arm"),
    "same arm, 1 and 1.0": (claim(a={"model.depth": 1}, b={"model.depth": 1.0}, where=RELU | {"bias": True}), "same arm"),
    "one level along": (claim(kind="stable", along="epochs", margin=1, where=RELU | AT), "'epochs' has 1 level"),
    "best of one": (claim(kind="best", arm={"epochs": 20}, where=RELU | AT), "nothing to be better than"),
    "linear over names": (
        claim(kind="trend", along="model.activation", direction="up", scale="linear", where=AT),
        "scale 'linear' needs levels that are numbers.*'sigmoid'",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_claim_that_does_not_fit_the_study_is_refused_in_one_line(wrong, message):
    with pytest.raises(StudyError, match=message) as caught:
        check_claims([wrong], LEVELS)
    assert str(caught.value).startswith("claim 'c'")
    assert "\n" not in str(caught.value)


def test_log2_needs_levels_above_zero():
    trend = claim(kind="trend", along="lr", direction="up", scale="log2")
    check_claims([trend], {"lr": [0.5, 2]})
    with pytest.raises(StudyError, match="numbers above 0"):
        check_claims([trend], {"lr": [0, 2]})


@pytest.mark.parametrize(
    ("level", "remedy"),
    [
        ({"depth": 1}, 'write a key that has dots in quotes, as "model.depth" = 1'),
        ([1, {"depth": 2}], 'write a key that has dots in quotes, as "model.depth" = 1'),
    ],
)
def test_what_is_no_level_is_told_with_what_was_meant(level, remedy):
    with pytest.raises(ValidationError) as caught:
        higher(where={"model": level})
    assert remedy in str(caught.value)


def test_an_arm_has_one_level_of_a_factor_and_the_message_says_what_takes_several():
    with pytest.raises(ValidationError) as caught:
        higher(a={"model.depth": [1, 2]})
    assert "'along' and 'for_each' go through several, all or those that 'where' lists" in str(caught.value)


def test_a_level_in_quotes_that_is_a_number_is_told_so():
    with pytest.raises(StudyError, match="level '8', which the study does not have; write it without quotes"):
        check_claims([higher(where=AT | {"model.depth": "8"})], LEVELS)
    with pytest.raises(StudyError, match="level '8', which the study does not have; write it in quotes"):
        check_claims([higher()], LEVELS | {"model.depth": ["1", "8"]})


def test_an_id_is_given_once():
    with pytest.raises(StudyError, match="2 claims have this id"):
        check_claims([higher(), higher(says="other")], LEVELS)


def test_a_study_without_factors_has_nothing_to_compare():
    with pytest.raises(StudyError, match="names factor"):
        check_claims([higher(where={})], {})


def test_levels_are_the_same_by_value_but_not_across_bool_number_and_text():
    assert level_key(8) == level_key(8.0)
    assert len({level_key(level) for level in (1, True, "1", "true")}) == 4


def test_claims_say_their_arms_and_what_they_run_along():
    assert GOOD["best"].arms() == {"arm": RELU}
    assert GOOD["trend of a difference"].arms() == {"a": RELU, "b": SIGMOID}
    assert GOOD["trend"].runs_along() == "model.depth"
    assert GOOD["higher"].runs_along() is None
