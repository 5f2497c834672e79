"""Evidence: the table of runs in; effects, verdicts and summaries out. Never imports torch.

Read ``effects`` (numbers of one value a seed), ``contrasts`` (what a claim compares), ``verdicts`` (the rule), ``rulings``
(what became of a claim), ``sentences``; then ``summary`` (the table of arms), ``comparisons`` (published figures beside ours)
and ``power`` (before running).
"""

from allelse.stats.comparisons import Comparison, compare
from allelse.stats.contrasts import Contrast, contrasts
from allelse.stats.effects import correlation, one_sided, sign_flip, sign_patterns, spread, t_interval
from allelse.stats.power import POWER, Decidability, decidability, sign_flip_note
from allelse.stats.rulings import Part, Verdict
from allelse.stats.summary import arm_table
from allelse.stats.verdicts import holm, verdicts

__all__ = [
    "POWER",
    "Comparison",
    "Contrast",
    "Decidability",
    "Part",
    "Verdict",
    "arm_table",
    "compare",
    "contrasts",
    "correlation",
    "decidability",
    "holm",
    "one_sided",
    "sign_flip",
    "sign_flip_note",
    "sign_patterns",
    "spread",
    "t_interval",
    "verdicts",
]
