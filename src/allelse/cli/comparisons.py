"""What ``allelse compare`` prints: findings in; published figures beside ours, as a table of 80 columns, JSON or CSV, out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import pandas as pd
from rich.table import Table

from allelse.cli.frames import as_csv, as_json
from allelse.cli.tables import make_console, make_table
from allelse.design import arm_text
from allelse.errors import StudyError
from allelse.report import Findings
from allelse.report.published import name_of, notes, summary_text, with_metric
from allelse.report.tables import interval, value
from allelse.stats import Comparison
from allelse.stats.sentences import p_text


def show_comparisons(findings: Findings, output: str) -> None:
    """Print every published figure of the study beside ours.

    Raises:
        StudyError: the study names none.
    """
    definition, found = findings.definition, findings.comparisons
    if not found:
        raise StudyError(
            f"{findings.folder}: its study names no published figures; add [[references]] with source, arm and accuracy, where "
            "known also sd and n, to the study file, and run it again: finished runs are kept"
        )
    if output == "json":
        print(as_json([one.to_json() for one in found]))
    elif output == "csv":
        frame = pd.DataFrame([{**one.to_json(), "arm": arm_text(one.arm)} for one in found])
        print(as_csv(frame), end="")
    else:
        console = make_console()
        console.print(f"{definition['name']}: {definition['question']}", style="bold")
        for source, shown in groupby(found, lambda one: one.source):
            if not definition["quick"]:
                console.print(f"\nours beside {source}")
                console.print(_beside(findings, shown))
        listed = Table.grid(padding=(0, 1))
        for note in notes(findings):
            listed.add_row("-", note)
        console.print()
        console.print(listed)


def _beside(findings: Findings, shown: Iterable[Comparison]) -> Table:
    table = make_table("arm", "theirs", "ours", "ours − theirs", "verdict")
    for one in shown:
        reach, verdict = interval(one.low, one.high, one.metric), one.words.replace(" within", "\nwithin")
        if one.prediction_low is not None and one.ours.mean is not None:
            reach = f"PI ±{value(one.ours.mean - one.prediction_low, one.metric)}"
            verdict += "\ninside PI" if one.is_expected else "\noutside PI"
        p = "" if one.p_adjusted is None else f", {p_text(one.p_adjusted)}"
        table.add_row(
            with_metric(name_of(findings, one), one.metric, "\n"),
            summary_text(one.theirs, one.metric, "\n"),
            summary_text(one.ours, one.metric, "\n") + "".join(f"\n{count} {what}" for what, count in one.problems.items()),
            f"{value(one.difference, one.metric, signed=True)}{p}\n{reach}",
            verdict,
        )
    return table
