"""Power before running: the seeds that a claim asks for."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter
from scipy import stats

from allelse.claims import Claim
from allelse.stats import decidability, sign_flip_note

LEVELS = {"norm": ["batch", "group"], "batch_size": [2, 4, 8]}


def claim(**keys):
    where = {"batch_size": 2}
    arms = {"a": {"norm": "batch"}, "b": {"norm": "group"}}
    return TypeAdapter(Claim).validate_python({"id": "c", "says": "something", "kind": "higher", "where": where} | arms | keys)


WITHIN = claim(kind="within", margin=3)


def test_within_three_at_five_seeds_needs_a_spread_under_3_1():
    (found,) = decidability([WITHIN], LEVELS, n=5)
    assert found.largest_sd == pytest.approx(3 * 5**0.5 / stats.t.ppf(0.95, 4))
    assert found.largest_sd == pytest.approx(3.15, abs=0.01)
    assert found.can_decide


def test_one_seed_decides_nothing():
    for each in (WITHIN, claim(), claim(metric="loss")):
        (found,) = decidability([each], LEVELS, n=1)
        assert not found.can_decide
        assert found.largest_sd is None
        assert "one seed decides nothing" in found.text
        assert found.needs_n >= 2


def test_needed_seeds_are_the_fewest_whose_interval_is_narrow_enough():
    (found,) = decidability([claim()], LEVELS, n=3, sd=2.0, effect=2.0)

    def half_width(n):
        return stats.t.ppf(0.975, n - 1) * 2.0 / n**0.5

    assert half_width(found.needs_n) < 2.0 <= half_width(found.needs_n - 1)
    assert not found.can_decide
    assert f"{found.needs_n} seeds could" in found.text
    (again,) = decidability([claim()], LEVELS, n=found.needs_n, sd=2.0, effect=2.0)
    assert again.can_decide


def test_more_claims_ask_for_more_seeds():
    one = decidability([WITHIN], LEVELS, n=5)[0]
    ten = decidability([WITHIN.model_copy(update={"id": f"c{number}"}) for number in range(10)], LEVELS, n=5)[0]
    assert ten.largest_sd == pytest.approx(3 * 5**0.5 / stats.t.ppf(1 - 0.05 / 10, 4))
    assert ten.needs_n > one.needs_n


def test_a_trend_counts_the_noise_of_its_slope():
    trend = TypeAdapter(Claim).validate_python(
        {"id": "t", "says": "s", "kind": "trend", "along": "batch_size", "direction": "up", "where": {"norm": "batch"}}
    )
    (found,) = decidability([trend], LEVELS, n=5, effect=6.0)
    # Levels 2, 4, 8: mean 14/3, squares 56/3, so a level's sd of s/√2 gives the slope s/√2/√(56/3); 6 points over a span of 6.
    slope_sd = found.largest_sd / 2**0.5 / (56 / 3) ** 0.5
    assert stats.t.ppf(0.975, 4) * slope_sd / 5**0.5 == pytest.approx(1.0)


def test_small_studies_hear_of_the_sign_flip_and_others_do_not():
    assert "p = 0.0625 with 5 seeds" in sign_flip_note(5)
    assert [sign_flip_note(n) for n in (1, 6, 20)] == ["", "", ""]


def test_hopeless_claims_say_so():
    (found,) = decidability([claim(kind="within", margin=0.001)], LEVELS, n=5)
    assert found.needs_n is None
    assert "over 10000 seeds" in found.text


def test_metrics_without_an_assumed_spread_are_left_to_the_data():
    (found,) = decidability([claim(metric="loss")], LEVELS, n=2)
    assert found.can_decide
    assert found.largest_sd is None


def test_a_study_without_claims_has_nothing_to_say():
    assert decidability([], LEVELS, n=5) == []
