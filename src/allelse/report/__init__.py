"""The report room: a store in; verdicts, figures and two pages that stand alone, out. Never imports torch.

Read ``evidence`` (verdicts from a store) and ``findings`` (the store, read once); then ``layout`` and ``shapes`` (which
figures, as plain data), ``accuracy``, ``differences``, ``curves``, ``gradients`` (what each shows), ``drawing`` and ``style``
(matplotlib); then ``sameness``, ``tables`` and ``published``, ``contents`` (the page as plain text), ``page`` and ``markdown``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from allelse.report.evidence import compare, judge, judge_also, of_a_second_look
from allelse.report.findings import Findings, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allelse.report.shapes import Figure

__all__ = [
    "Findings",
    "compare",
    "compute_figures",
    "gather",
    "judge",
    "judge_also",
    "of_a_second_look",
    "write_figures",
    "write_report",
]

# matplotlib takes half a second to import, and whoever asks for verdicts alone need not wait for it.


def write_report(folder: str | Path, tell: Callable[[str], None] = lambda line: None) -> Path:
    """Write ``report.html``, ``report.md`` and ``figures/`` into an output folder; the path of the HTML file.

    Arguments:
        folder: of a study.
        tell: is given a line where a name has letters that no font has.

    Raises:
        StoreError: no study was run there, or the files cannot be written.
    """
    from allelse.report.page import write_report

    return write_report(Path(folder), tell)


def compute_figures(findings: Findings) -> list[Figure]:
    """The figures that this study gets, as plain data; which ones is settled by its factors and by what its runs hold."""
    from allelse.report.figures import compute_figures

    return compute_figures(findings)


def write_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """``NAME.png`` and ``NAME.svg`` for each figure, captioned, in ``folder``; the paths written."""
    from allelse.report.figures import picture, write_pictures

    return write_pictures([picture(figure) for figure in figures], folder)
