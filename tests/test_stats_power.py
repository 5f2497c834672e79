"""Power before running: the seeds that a claim asks for."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy import stats
from statsmodels.stats.power import TTestPower

from allelse.claims import Claim
from allelse.stats import POWER, decidability, sign_flip_note

LEVELS = {"norm": ["batch", "group"], "batch_size": [2, 4, 8]}


def claim(**keys):
    where = {"batch_size": 2}
    arms = {"a": {"norm": "batch"}, "b": {"norm": "group"}}
    return TypeAdapter(Claim).validate_python({"id": "c", "says": "something", "kind": "higher", "where": where} | arms | keys)


WITHIN = claim(kind="within", margin=3)


def slope_claim() -> Claim:
    return TypeAdapter(Claim).validate_python(
        {"id": "t", "says": "s", "kind": "trend", "along": "batch_size", "direction": "up", "where": {"norm": "batch"}}
    )


def stable_claim() -> Claim:
    keys = {"id": "s", "says": "s", "kind": "stable", "margin": 3, "along": "batch_size", "where": {"norm": "batch"}}
    return TypeAdapter(Claim).validate_python(keys)


def chance_of_within(sd: float, n: int, alpha: float, means: np.ndarray, pairs: list[tuple[int, int]]) -> float:
    """How often all pairs of arms, which are the same but for noise, lie within 3 points by two one-sided tests: simulated."""
    rng = np.random.default_rng(0)
    arms_TNA = rng.normal(means, sd / 2**0.5, (40_000, n, len(means)))
    shown = np.ones(len(arms_TNA), bool)
    for one, other in pairs:
        differences_TN = arms_TNA[:, :, one] - arms_TNA[:, :, other]
        half_width = stats.t.ppf(1 - alpha, n - 1) * differences_TN.std(1, ddof=1) / n**0.5
        shown &= abs(differences_TN.mean(1)) + half_width <= 3
    return shown.mean()


@pytest.mark.parametrize(("n", "claims"), [(2, 1), (3, 1), (5, 1), (5, 7), (40, 3)])
def test_within_is_shown_in_eight_of_ten_studies_at_the_largest_spread(n, claims):
    found = decidability([WITHIN] * claims, LEVELS, n=n)[0]
    assert chance_of_within(found.largest_sd, n, 0.05 / claims, np.zeros(2), [(0, 1)]) == pytest.approx(POWER, abs=0.01)


def test_all_pairs_of_a_stable_claim_are_shown_together_in_at_least_as_many():
    (found,) = decidability([stable_claim()], LEVELS, n=6)
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert POWER <= chance_of_within(found.largest_sd, 6, 0.05, np.zeros(3), pairs) < POWER + 0.1


@pytest.mark.parametrize(("n", "claims"), [(2, 1), (3, 1), (5, 1), (5, 7), (40, 3)])
def test_an_effect_is_shown_in_eight_of_ten_studies_at_the_largest_spread(n, claims):
    found = decidability([claim()] * claims, LEVELS, n=n, effect=2.0)[0]
    power = TTestPower().power(2.0 / found.largest_sd, n, 0.05 / claims, alternative="two-sided")
    assert power == pytest.approx(POWER, abs=2e-3)


def test_one_seed_decides_nothing():
    for each in (WITHIN, claim(), claim(metric="loss")):
        (found,) = decidability([each], LEVELS, n=1)
        assert not found.can_decide
        assert found.largest_sd is None
        assert "one seed decides nothing" in found.text
        assert found.needs_n >= 2


def test_needed_seeds_are_the_fewest_that_have_the_power():
    (found,) = decidability([claim()], LEVELS, n=3, sd=2.0, effect=2.0)

    def power(n):
        return TTestPower().power(1.0, n, 0.05, alternative="two-sided")

    assert power(found.needs_n) >= POWER > power(found.needs_n - 1)
    assert not found.can_decide
    assert f"{found.needs_n} seeds could" in found.text
    (again,) = decidability([claim()], LEVELS, n=found.needs_n, sd=2.0, effect=2.0)
    assert again.can_decide


def test_more_claims_ask_for_more_seeds():
    one = decidability([WITHIN], LEVELS, n=5)[0]
    ten = decidability([WITHIN.model_copy(update={"id": f"c{number}"}) for number in range(10)], LEVELS, n=5)[0]
    assert ten.largest_sd < one.largest_sd
    assert ten.needs_n > one.needs_n


def test_a_trend_counts_the_noise_of_its_slope():
    (found,) = decidability([slope_claim()], LEVELS, n=5, effect=6.0)
    assert "an effect of 6.00 percentage points over all levels" in found.text
    # Levels 2, 4, 8: mean 14/3, squares 56/3, so a level's sd of s/√2 gives the slope s/√2/√(56/3); 6 points over a span of 6.
    slope_sd = found.largest_sd / 2**0.5 / (56 / 3) ** 0.5
    assert TTestPower().power(1 / slope_sd, 5, 0.05, alternative="two-sided") == pytest.approx(POWER, abs=1e-3)


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
