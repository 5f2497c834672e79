"""Contents: findings in; all that the report says, as plain text in the order of reading, out. Both pages show it."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from allelse import stats
from allelse.errors import counted, listed
from allelse.report.accuracy import statistics_gap, ways_differ
from allelse.report.evidence import NOT_ASKED, of_a_second_look
from allelse.report.figures import MECHANISM, compute_figures
from allelse.report.findings import Findings
from allelse.report.published import notes, published_table
from allelse.report.sameness import equal_arms, shared_keys
from allelse.report.shapes import Figure
from allelse.report.tables import (
    NONE,
    Table,
    arm_table,
    difference_table,
    evaluation_table,
    interval,
    machine_table,
    p_cell,
    parts_table,
    probe_legend,
    probe_table,
    trouble_table,
    tuning_table,
    value,
)
from allelse.stats.contrasts import scale_of
from allelse.stats.sentences import PER_FROM_SCALE, is_accuracy
from allelse.store import pairing

CAVEATS = {
    "quick": (
        "Quick study.",
        "Another recipe than the study's own, as [quick] in its file says: these verdicts speak of this recipe only.",
    ),
    "scaled": (
        "Scaled study.",
        "The study's own data and question, trained for less, so that a machine without a GPU can do it: these verdicts speak "
        "of this recipe only.",
    ),
}
ICONS = {"supported": "✓", "refuted": "✗", "undecided": "?"}


@dataclass(frozen=True)
class Card:
    """One claim with its verdict."""

    id: str
    says: str
    verdict: str
    icon: str
    sentence: str
    facts: tuple[tuple[str, str], ...]
    parts: Table | None


@dataclass(frozen=True)
class Contents:
    """The report, top to bottom."""

    name: str
    question: str
    state: str
    """how much of it is finished, with n and hardware"""
    caveats: tuple[tuple[str, str], ...]
    """what must be said of a study that is not run as its file declares it: in what, and what that means"""
    tally: str
    cards: tuple[Card, ...]
    arms: Table | None
    arm_notes: tuple[str, ...]
    published: Table | None
    published_notes: tuple[str, ...]
    tuning: Table | None
    tuning_notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    mechanism_notes: tuple[str, ...]
    evaluations: Table | None
    probes: Table | None
    probe_legend: tuple[tuple[str, str], ...]
    mechanism_figures: tuple[Figure, ...]
    same: tuple[str, ...]
    shared: Table | None
    differed: Table | None
    command: str
    command_notes: tuple[str, ...]
    definition: str
    machines: Table | None
    trouble: Table | None
    trouble_note: str


def contents(findings: Findings) -> Contents:
    """Compute everything; nothing is drawn yet."""
    definition = findings.definition
    figures = compute_figures(findings)
    trouble, more = trouble_table(findings)
    command, command_notes = _again(findings)
    shared = tuple(shared_keys(findings).items())
    return Contents(
        name=str(definition.get("name", "unnamed study")),
        question=str(definition.get("question", "")),
        state=_state(findings),
        caveats=tuple(_caveats(findings)),
        tally=_tally(findings.verdicts),
        cards=tuple(_card(findings, verdict) for verdict in findings.verdicts),
        arms=arm_table(findings),
        arm_notes=tuple(_arm_notes(findings)),
        published=published_table(findings),
        published_notes=tuple(notes(findings)),
        tuning=tuning_table(findings),
        tuning_notes=tuple(_tuning_notes(findings)),
        figures=tuple(figure for figure in figures if figure.words.name not in MECHANISM),
        mechanism_notes=tuple(_mechanism_notes(findings)),
        evaluations=evaluation_table(findings),
        probes=probe_table(findings),
        probe_legend=tuple(probe_legend(findings)),
        mechanism_figures=tuple(figure for figure in figures if figure.words.name in MECHANISM),
        same=tuple(_same(findings)),
        shared=Table("shared", "Recipe keys that are the same in all arms; others: at the default", ("key", "value"), shared)
        if shared
        else None,
        differed=difference_table(findings),
        command=command,
        command_notes=tuple(command_notes),
        definition=json.dumps(definition, indent=1, ensure_ascii=False, sort_keys=True),
        machines=machine_table(findings),
        trouble=trouble,
        trouble_note=f"{more} more rows are not shown; 'allelse results' lists them." if more else "",
    )


# ── the top ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _state(findings: Findings) -> str:
    counts = Counter(run.status for run in findings.runs)
    if not counts:
        return "No run is planned yet."
    shown = ", ".join(f"{counts[status]} {status}" for status in ("done", "diverged", "failed", "pending") if counts[status])
    fewest, most = min(findings.seeds_from_arm.values()), max(findings.seeds_from_arm.values())
    seeds = counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    planned = f"{counted(len(findings.arms), 'arm')} × {seeds}: {counted(len(findings.runs), 'run')}, {shown}"
    if not findings.machines:
        return f"{planned}."
    where, days = " and ".join(findings.machines), " to ".join(dict.fromkeys((findings.days[0], findings.days[-1])))
    return f"{planned}; trained on {where}, {days} (UTC), in {_long(findings.seconds)} of computing."


def _long(seconds: float) -> str:
    return (
        f"{seconds / 60:.0f} minutes"
        if 90 <= seconds < 5400
        else f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 3600:.1f} hours"
    )


def _tally(verdicts: Sequence[stats.Verdict]) -> str:
    counts: Counter[str] = Counter(verdict.verdict for verdict in verdicts)
    if not counts:
        return "This study declares no claims."
    not_asked = sum(bool(verdict.reason and verdict.reason.startswith(NOT_ASKED)) for verdict in verdicts)
    among = f", {not_asked} of them not asked in this run" if not_asked else ""
    return f"Of {counted(len(verdicts), 'claim')}: " + ", ".join(f"{counts[name]} {name}" for name in ICONS) + among + "."


def _card(findings: Findings, verdict: stats.Verdict) -> Card:
    unit = _unit(findings, verdict)
    facts = []
    if verdict.estimate is not None:
        facts.append(("Estimate", value(verdict.estimate, verdict.metric, signed=True) + unit))
        facts.append((f"{100 * verdict.level:g} % t interval", interval(verdict.low, verdict.high, verdict.metric)))
    if verdict.p is not None and verdict.p_adjusted is not None:
        holds = max((part.p_support or 0.0 for part in verdict.parts), default=1.0)
        side = " against it" if verdict.p < holds else ""
        facts.append(("p", f"{p_cell(verdict.p)}{side}; after Holm {p_cell(verdict.p_adjusted)}"))
    if verdict.p_sign_flip is not None:
        facts.append(("Sign-flip check", p_cell(verdict.p_sign_flip)))
    if verdict.n:
        correlation = NONE if verdict.correlation is None else f"{verdict.correlation:.2f}".replace("-", "−")
        facts += [("n", counted(verdict.n, "seed")), ("Pair correlation", correlation)]
    return Card(
        id=verdict.id,
        says=verdict.says,
        verdict=verdict.verdict,
        icon=ICONS[verdict.verdict],
        sentence=verdict.sentence,
        facts=tuple(facts),
        parts=parts_table(verdict),
    )


def _unit(findings: Findings, verdict: stats.Verdict) -> str:
    unit = " points" if is_accuracy(verdict.metric) else ""
    claim = findings.claims.get(verdict.id, {})
    along = claim.get("along")
    if verdict.kind == "trend" and isinstance(along, str):
        per = PER_FROM_SCALE[scale_of(claim.get("scale"), findings.levels.get(along, []))]
        unit += f" per {per} {findings.short.get(along, along).replace('_', ' ')}"
    return unit


# ── the arms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _arm_notes(findings: Findings) -> list[str]:
    return [
        *(f"Declared of the arms: {note}." for note in findings.definition.get("notes", [])),
        *(
            f"Equal bit for bit on every seed, in every metric and epoch: {' = '.join(group)}. "
            "These are one network under several names."
            for group in equal_arms(findings)
        ),
    ]


def _tuning_notes(findings: Findings) -> list[str]:
    """The budget of the tuning and what to mind, or how far it is."""
    if findings.tuning:
        return [f"{line}." for line in (findings.tuning.budget(), *findings.tuning.warnings())]
    if tune := findings.definition.get("tune"):
        counts = Counter(run.status for run in findings.tuning_runs)
        shown = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none is planned yet"
        return [f"{tune['key']} is tuned before the comparison: {counted(len(findings.tuning_runs), 'run')}, {shown}."]
    return []


# ── mechanism ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _mechanism_notes(findings: Findings) -> list[str]:
    notes = []
    if findings.has("accuracy_recalibrated") and findings.has("accuracy_running"):
        found = [(statistics_gap(findings, arm), arm) for arm in findings.arms]
        differing = [(gap, arm) for gap, arm in found if ways_differ(findings, arm)]  # else its norm has no running statistics
        if lacking := [findings.arm_name(arm) for gap, arm in differing if not len(gap)]:
            both = "that with running and that with recalibrated statistics"
            notes.append(f"No seed has both accuracies, {both}, as finite numbers in {listed(lacking, 3)}.")
        gaps = [(float(gap.mean()), gap, arm) for gap, arm in differing if len(gap)]
        widest = max(gaps, key=lambda gap: abs(gap[0]), default=None)
        if widest and widest[0]:
            mean, good, arm = widest
            (low, high), n = stats.t_interval(good), len(good)
            ends = interval(low, high, "accuracy")
            with_ends = f" ({f'95 % t interval {ends}, ' if ends != NONE else ''}n = {counted(n, 'seed')})"
            picked = f" It was picked as the widest of {len(gaps)} arms: a place to look, not a test." if len(gaps) > 1 else ""
            notes.append(
                "The widest distance between recalibrated and running statistics is "
                f"{value(mean, 'accuracy', signed=True)} points, in {findings.arm_name(arm)}{with_ends}.{picked}"
            )
            # The widest of many is above 0 by chance, too.
            if n > 1 and 2 * stats.one_sided(good)[0] <= 0.05 / len(gaps):
                notes.append(
                    "Accuracy that comes back when statistics are recalibrated was not lost in learning: the running "
                    "statistics lag behind the network."
                )
        elif any(len(gap) for gap, _ in found):
            which = "every other arm" if lacking else "every arm"
            notes.append(f"Running and recalibrated statistics give the same accuracy in {which}.")
    return notes


# ── what was the same, and again ────────────────────────────────────────────────────────────────────────────────────


def _same(findings: Findings) -> list[str]:
    lines = [line[0].upper() + line[1:] + "." for line in pairing(findings.runs)]
    return lines or ["No run is finished, so no fingerprint can be compared yet."]


def _caveats(findings: Findings) -> Iterator[tuple[str, str]]:
    yield from (text for kind, text in CAVEATS.items() if findings.definition.get(kind))
    asked = [f"{option} {shlex.quote(change)}" for option, change in findings.changes]
    what = f"{' '.join(asked)} was asked for"
    if asked and findings.parts and findings.changes[0][0] == "--seeds":  # of all together: nobody asked for them at once
        seeds = int(findings.changes[0][1])
        what = f"{counted(seeds, 'seed')} {'was' if seeds == 1 else 'were'} run" + "".join(f", with {one}" for one in asked[1:])
    if asked:
        yield "Changed by the command.", f"Whatever the study file declares, {what}: these verdicts speak of what was run."
    if warning := of_a_second_look(findings.definition["seeds"], findings.parts):
        yield "Seeds of several runs.", warning


def _again(findings: Findings) -> tuple[str, list[str]]:
    definition = findings.definition
    seeds: Sequence[int] = definition.get("seeds", [])
    span = f"Seeds: {seeds[0]} to {seeds[-1]} ({len(seeds)})." if seeds else "Seeds: none."
    if len(counts := sorted(set(findings.seeds_from_arm.values()))) > 1:
        span = f"Seeds: from {seeds[0]} on, {counts[0]} to {counts[-1]} of them an arm."
    notes = [
        span,
        "All that the study file said, with what the command changed, is in the definition below.",
        f"All results are in study.sqlite, in {findings.folder}; 'allelse results' and 'allelse verdicts' read the same file.",
    ]
    if len(findings.commands) == 1:
        return f"{findings.commands[0]} --out DIR", notes
    folders = [f"DIR{number}" for number, _ in enumerate(findings.commands, start=1)]
    runs = [f"{command} --out {folder}" for command, folder in zip(findings.commands, folders, strict=True)]
    return "\n".join([*runs, f"allelse merge DIR {' '.join(folders)}"]), notes
