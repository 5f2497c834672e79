"""Effects: numbers of one value a seed in; mean, interval and p-values out.

The seed is the unit of replication. Every effect here is a mean of per-seed values ``x`` of shape ``(n,)``, such as paired
differences, judged by Student's t: with few seeds its interval covers what it says for near-normal values, where the percentile
bootstrap falls short (about 85 % for a nominal 95 % at n = 5). The exact sign-flip test needs symmetry only, and stands
beside it as a check.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

SIGN_FLIP_FROM = 6
"""fewer seeds cannot give a two-sided sign-flip p under 0.05: 2 / 2**5 = 0.0625"""
EXACT_UP_TO = 16
"""seeds up to which all 2**n sign patterns are gone through"""
RANDOM_PATTERNS = 9_999
"""sign patterns drawn beyond that; the pattern that was observed is counted in as well (Phipson and Smyth 2010)"""


def t_interval(x: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of ``x``, shape (n,), two-sided, in the unit of ``x``; ``(nan, nan)`` when n < 2."""
    values = np.asarray(x, dtype=float)
    n = len(values)
    if n < 2:
        return (float("nan"), float("nan"))
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * spread(values) / n**0.5
    mean = float(values.mean())
    return (mean - half, mean + half)


def spread(x: ArrayLike) -> float:
    """The standard deviation (n − 1) of ``x``, shape (n,), where rounding noise on equal values counts as 0; nan when n < 2."""
    values = np.asarray(x, dtype=float)
    if len(values) < 2:
        return float("nan")
    # 83.1 − 82.1 and 84.3 − 83.3 differ in the last bits, and a t of 1e14 is no evidence.
    lowest, highest = float(values.min()), float(values.max())
    if highest - lowest <= 1e-9 * max(highest, -lowest):
        return 0.0
    centred = values - values.mean()
    return float(centred @ centred / (len(values) - 1)) ** 0.5


def one_sided(x: ArrayLike, threshold: float = 0.0, identical: bool = False) -> tuple[float, float]:
    """Student's one-sided p-values: (for a mean above the threshold, for a mean below it).

    Without spread there is no t. Equal values are a coincidence of a coarse metric, as when two networks that learn nothing are
    both at chance: worth what the sign-flip test says, ½ to the power n. Of one network under two names they are certain.

    Arguments:
        x: one value a seed, shape (n,), n ≥ 2.
        threshold: in the unit of ``x``.
        identical: whether ``x`` are differences of one network under two names.
    """
    values = np.asarray(x, dtype=float)
    n = len(values)
    if n < 2:
        raise ValueError(f"a p-value needs at least 2 seeds, there are {n}")
    gap, sd = float(values.mean()) - threshold, spread(values)
    if sd == 0.0:
        if abs(gap) <= 1e-9 * max(abs(threshold), float(np.abs(values).max())):
            return (1.0, 1.0)
        p = 0.0 if identical else 0.5**n
        return (p, 1.0) if gap > 0 else (1.0, p)
    t = gap / (sd / n**0.5)
    return (float(special.stdtr(n - 1, -t)), float(special.stdtr(n - 1, t)))


def sign_patterns(n: int, generator: np.random.Generator | None = None) -> Floats | None:
    """The sign patterns of the sign-flip test for n seeds, shape (patterns, n): all of them up to n = 16, else drawn.

    Arguments:
        n: number of seeds.
        generator: what to draw from; used, and needed, only beyond n = 16.

    Returns:
        entries of ±1 with the observed pattern (all +1) as the first row; None when n < 6.
    """
    if n < SIGN_FLIP_FROM:
        return None
    if n <= EXACT_UP_TO:
        return _all_patterns(n)
    if generator is None:
        raise ValueError(f"beyond {EXACT_UP_TO} seeds the sign patterns are drawn: pass a generator")
    drawn = 1.0 - 2.0 * generator.integers(0, 2, size=(1 + RANDOM_PATTERNS, n)).astype(np.float64)
    drawn[0] = 1.0
    return drawn


@lru_cache(maxsize=2)
def _all_patterns(n: int) -> Floats:
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return np.asarray(1.0 - 2.0 * bits, dtype=np.float64)


def sign_flip(x: ArrayLike, patterns: Floats, threshold: float = 0.0) -> tuple[float, float]:
    """One-sided p-values of the sign-flip test (Fisher 1935), as ``one_sided``; twice the smaller is the two-sided p.

    Arguments:
        x: one value a seed, shape (n,).
        patterns: of ``sign_patterns(n)``, shape (patterns, n).
        threshold: in the unit of ``x``.
    """
    shifted = np.asarray(x, dtype=float) - threshold
    sums = patterns @ shifted
    slack = 1e-12 * float(np.abs(shifted).sum() + len(shifted) * abs(threshold))  # where all lie on it, only rounding is left
    observed = float(shifted.sum())
    return (float(np.mean(sums >= observed - slack)), float(np.mean(sums <= observed + slack)))


def correlation(a: ArrayLike, b: ArrayLike) -> float | None:
    """Pearson's correlation of two arms over seeds, shapes (n,): what pairing achieved. None if n < 3 or one does not vary."""
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(first) < 3 or spread(first) == 0.0 or spread(second) == 0.0:
        return None
    first, second = first - first.mean(), second - second.mean()
    r = float(first @ second / ((first @ first) * (second @ second)) ** 0.5)
    return max(-1.0, min(1.0, r))
