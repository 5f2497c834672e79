"""Sentences: one claim's contrast, numbers and ruling in; what a person would write out. No statistics are done here."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log10

from allelse.claims import Claim
from allelse.design import condition_text
from allelse.errors import counted
from allelse.records import CHOSEN_ON_TEST, METRICS
from allelse.stats.contrasts import Contrast
from allelse.stats.rulings import Part, Verdict
from allelse.stats.runs import WITHOUT

PER_FROM_SCALE = {"linear": "unit of", "log2": "doubling of", "order": "level of"}
ARMS_NAMED = 3
"""arms with failed runs that a reason names one by one"""


def is_accuracy(metric: str) -> bool:
    """Whether a metric is in percent, so that its differences are percentage points."""
    return METRICS.get(metric, "").startswith("percent")


def metric_text(metric: str) -> str:
    """A metric in words, with a warning where it is chosen on the test split."""
    warning = " (chosen on the test split: optimistic)" if metric in CHOSEN_ON_TEST else ""
    return metric.replace("_", " ") + warning


def number(value: float, metric: str, signed: bool = False, digits: int = 3) -> str:
    """A value of a metric: two decimals for accuracies, so many significant digits for others."""
    text = f"{value:{'+' if signed else ''}{'z.2f' if is_accuracy(metric) else f'.{digits}g'}}"
    return text.replace("-", "−")


def digits_between(low: float, high: float) -> int:
    """As many significant digits as tell the ends of an interval apart, three or more."""
    if not low < high:
        return 3
    return max(3, 2 + floor(log10(max(abs(low), abs(high)))) - floor(log10(high - low)))


def quantity(value: float, metric: str) -> str:
    """The size of a difference with its unit."""
    return number(abs(value), metric) + (" percentage points" if is_accuracy(metric) else "")


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def failed_runs(trouble_from_arm: Mapping[str, Mapping[str, int]], seeds_from_arm: Mapping[str, int]) -> str:
    """The reason of a claim whose runs are not all there: what happened to how many seeds of which arm."""
    texts = [f"{seeds_lost(problems, seeds_from_arm[arm])} in {arm}" for arm, problems in trouble_from_arm.items()]
    more = len(texts) - ARMS_NAMED
    return "; ".join(texts[:ARMS_NAMED]) + (f"; and so on in {more} more arm{'s' if more > 1 else ''}" if more > 0 else "")


def seeds_lost(problems: Mapping[str, int], seeds: int) -> str:
    """What happened to how many seeds of one arm: ``2 of 5 seeds diverged and 1 of 5 seeds is pending``."""
    return " and ".join(
        f"{count} of {counted(seeds, 'seed')} {_happened(problem, count)}" for problem, count in problems.items()
    )


def _happened(problem: str, count: int) -> str:
    one = count == 1
    return {
        "pending": f"{'is' if one else 'are'} pending",
        WITHOUT: f"{'has' if one else 'have'} no value of this metric",
    }.get(problem, problem)


def undecided_because(claim: Claim, contrast: Contrast, part: Part, comparisons: int, claims: int, p_adjusted: float) -> str:
    """Why a claim with all its runs is undecided, from its weakest part."""
    if part.equal and contrast.test == "above" and contrast.margin == 0:
        return f"equal bit for bit on every seed ({part.n})"
    if part.no_spread and min(part.p_support or 0.0, part.p_refute or 0.0) < 1:
        return f"all {part.n} seeds give exactly the same value, too few for it to be sure (adjusted {p_text(p_adjusted)})"
    if part.no_spread and contrast.margin:
        return f"every seed lies exactly on the margin of {contrast.margin:g}"
    low, high, margin = part.low or 0.0, part.high or 0.0, contrast.margin
    ends = (low, high) if contrast.sign > 0 else (-high, -low)
    if contrast.test == "above" and ends[0] <= margin <= ends[1]:
        return f"the interval holds {contrast.sign * margin if margin else 0:g}".replace("-", "−")
    if contrast.test == "within" and not (-margin < low and high < margin) and not (low > margin or high < -margin):
        return f"the interval is neither wholly inside nor wholly outside ±{margin:g}"
    over = ["both sides of the margin"] if contrast.test == "within" and (low > margin or high < -margin) else []
    supports = ends[0] > margin if contrast.test == "above" else -margin < low and high < margin
    against = 1 if supports else comparisons  # all comparisons must hold: only refuting a claim by one of them is corrected
    over += [f"{count} {what}" for count, what in ((against, "comparisons"), (claims, "claims")) if count > 1]
    return (
        f"the interval alone would decide, but not after correction over {' and '.join(over)} (adjusted {p_text(p_adjusted)})"
    )


def verdict_sentence(claim: Claim, contrast: Contrast, part: Part, found: Verdict, alpha: float) -> str:
    """The sentence of a verdict: which comparison, its size and unit, interval, n, and the ruling with its reason."""
    text = _which(found, alpha) + _finding(claim, contrast, part) + _interval(claim, part, found.level)
    text += f" where {condition_text(claim.where)}" if claim.where else ""
    text += f"; {found.verdict}" + (f": {found.reason}." if found.reason else ".")
    if part.no_spread and min(part.p_support or 0.0, part.p_refute or 0.0) > 0 and found.verdict != "undecided":
        text += " Every seed gives exactly the same value, so the sign-flip p decided."
    reachable = 2 / 2**part.n * (len(found.parts) if found.verdict == "refuted" else 1) <= alpha
    if found.verdict != "undecided" and reachable and found.p_sign_flip is not None and found.p_sign_flip > alpha:
        text += f" The sign-flip check does not confirm it ({p_text(found.p_sign_flip)})."
    return text if contrast.plus and text.startswith(contrast.plus) else text[0].upper() + text[1:]


def _which(found: Verdict, alpha: float) -> str:
    parts = len(found.parts)
    if parts == 1 or found.p is None:
        return "" if parts == 1 else f"of {parts} comparisons the weakest: "
    if found.verdict == "supported":
        return f"all {parts} comparisons hold, the weakest: "
    if found.verdict == "refuted":
        return f"of {parts} comparisons the one most against: "
    hold = sum((part.p_support or 0.0) <= alpha for part in found.parts)
    return f"{hold} of {parts} comparisons hold by themselves, the weakest: "


def _finding(claim: Claim, contrast: Contrast, part: Part) -> str:
    metric = metric_text(claim.metric)
    at = f" at {contrast.at}" if contrast.at else ""
    if part.estimate is None:
        return f"no seed has all the runs that this {metric} needs{at}"
    size = quantity(part.estimate, claim.metric)
    if part.equal:
        of_arms = f" of {contrast.plus} and {contrast.minus}" if contrast.plus else ""
        return f"{metric}{of_arms} is equal bit for bit on every seed{at}"
    margin = f", for a margin of {contrast.margin:g}" if contrast.margin else ""
    if claim.kind == "trend":
        subject = f"the difference {contrast.plus} minus {contrast.minus} in {metric}" if contrast.plus else metric
        return f"{subject} {'falls' if part.estimate < 0 else 'rises'} by {size} {_per(claim, contrast)}{at}"
    if contrast.test == "within":
        sign = "−" if part.estimate < 0 else "+"
        return f"{contrast.plus} and {contrast.minus} differ by {sign}{size} in {metric}{margin}{at}"
    side = "below" if part.estimate < 0 else "above"
    return f"{contrast.plus} is {size} {side} {contrast.minus} in {metric}{margin}{at}"


def _per(claim: Claim, contrast: Contrast) -> str:
    return f"per {PER_FROM_SCALE[contrast.scale]} {claim.runs_along()}"


def _interval(claim: Claim, part: Part, level: float) -> str:
    if part.estimate is None:
        return ""
    if part.low is None or part.high is None:
        return f" (n = {counted(part.n, 'seed')})"
    ends = " to ".join(number(end, claim.metric, signed=True) for end in (part.low, part.high))
    return f" ({100 * level:g} % t interval {ends}, n = {part.n} seeds)"
