"""Effects against scipy: intervals, one-sided p-values, the exact sign-flip test, what pairing achieved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from allelse.stats import correlation, one_sided, sign_flip, sign_patterns, spread, t_interval

SEEDS = [2, 3, 5, 10, 40]


def draw(n, seed=0):
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=n)
    return 80.5 + shared + 0.5 * generator.normal(size=n), 80 + shared + 0.5 * generator.normal(size=n)


@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_paired_interval_is_that_of_ttest_rel(n, level):
    a, b = draw(n)
    assert t_interval(a - b, level) == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval(level)), rel=1e-10)


@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("threshold", [0.0, 0.4, -3.0])
def test_one_sided_p_is_that_of_ttest_1samp(n, threshold):
    x = np.subtract(*draw(n))
    above, below = one_sided(x, threshold)
    assert above == pytest.approx(stats.ttest_1samp(x, threshold, alternative="greater").pvalue, rel=1e-9)
    assert below == pytest.approx(stats.ttest_1samp(x, threshold, alternative="less").pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [6, 9])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_sign_flip_is_scipys_exact_permutation_test(n, threshold):
    x = np.subtract(*draw(n))

    def exact(alternative):
        return stats.permutation_test(
            (x - threshold,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        ).pvalue

    above, below = sign_flip(x, sign_patterns(n), threshold)
    assert (above, below) == (pytest.approx(exact("greater")), pytest.approx(exact("less")))
    assert 2 * min(above, below) == pytest.approx(exact("two-sided"))


def test_sign_flip_starts_at_six_seeds_where_it_can_go_below_five_percent():
    assert sign_patterns(5) is None
    assert 2 * sign_flip(np.arange(1.0, 7), sign_patterns(6))[0] == 2 / 2**6


def test_sign_patterns_beyond_sixteen_come_from_the_generator_that_is_passed():
    first, same, other = (sign_patterns(20, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert (first[0] == 1).all()
    with pytest.raises(ValueError, match="pass a generator"):
        sign_patterns(17)


def test_drawn_patterns_come_near_the_normal_limit():
    x = np.random.default_rng(5).normal(0.3, 1, 60)
    limit = stats.norm.sf(x.sum() / np.sqrt((x**2).sum()))
    assert sign_flip(x, sign_patterns(60, np.random.default_rng(0)))[0] == pytest.approx(limit, abs=0.01)


def test_all_sixteen_seed_patterns_are_there_once():
    patterns = sign_patterns(16)
    assert patterns.shape == (2**16, 16)
    assert len(np.unique(patterns, axis=0)) == 2**16


def test_one_seed_has_no_interval_and_no_p():
    assert np.isnan(t_interval([1.0])).all()
    assert np.isnan(spread([1.0]))
    with pytest.raises(ValueError, match="at least 2 seeds"):
        one_sided([1.0])


def test_values_without_spread_give_no_warning_and_no_false_certainty():
    assert one_sided([0.0] * 5) == (1.0, 1.0)
    assert one_sided([0.0] * 5, 3.0) == (1.0, 0.5**5)
    assert one_sided([0.0] * 5, 3.0, identical=True) == (1.0, 0.0)
    assert one_sided([0.5] * 3) == (0.125, 1.0)
    assert one_sided([3.0] * 3, 3.0) == (1.0, 1.0)
    assert t_interval([0.5] * 3) == (0.5, 0.5)


def test_rounding_noise_is_no_spread():
    x = np.array([83.1, 84.3, 81.7]) - np.array([83.0, 84.2, 81.6])
    assert np.ptp(x) > 0
    assert spread(x) == 0.0


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.floats(-10, 10))
def test_the_two_sides_mirror_each_other(x, threshold):
    above, below = one_sided(x, threshold)
    assert one_sided([-value for value in x], -threshold) == pytest.approx((below, above), abs=1e-6)
    assert above + below >= 1 - 1e-9 or spread(x) == 0


def test_correlation_is_pearsons_and_none_where_it_has_no_meaning():
    a, b = draw(10)
    assert correlation(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert correlation(a, [80.0] * 10) is None
    assert correlation([1.0, 2.0], [1.0, 3.0]) is None
