"""What the commands print: studies, plans, stores and data frames in; text on stdout out, of 80 columns where tables fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from allelse import stats
from allelse.claims import Claim, settings
from allelse.cli import tuning
from allelse.cli.console import make_console
from allelse.cli.progress import duration, time_of
from allelse.data import Dataset, Entry
from allelse.design import Level, arm_key, arm_text, level_text, matches, short_names
from allelse.errors import counted, listed
from allelse.recipe import Recipe
from allelse.records import METRICS, THREE_WAYS, Pack, canonical_json
from allelse.report.evidence import why_not_asked
from allelse.stats.sentences import digits_between, number
from allelse.store import Store
from allelse.study import Arm, Study

if TYPE_CHECKING:
    from allelse.launch import CheckedPart
    from allelse.plan import Plan  # brings torch along


BETWEEN_COLUMNS = 3
LONGEST_WORD = 24
"""a longer one in a table may be cut in two"""


def make_table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        is_number = column in numbers
        table.add_column(column, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    return table


def show_table(console: Console, table: Table) -> None:
    """Print a table of texts. Where it is too wide, its words are set in several lines, from the widest column on; no number
    and no short word is cut, so that a table of many columns is wider than the console."""
    texts = [[*map(str, column.cells)] for column in table.columns]
    headings = [re.split(r"(?<=[ _.])", str(column.header)) for column in table.columns]
    widths = [max(map(cell_len, ("".join(pieces), *cells))) for pieces, cells in zip(headings, texts, strict=True)]
    least = []
    for column, pieces, cells, width in zip(table.columns, headings, texts, widths, strict=True):
        word = max(map(cell_len, (*pieces, *(word for text in cells for word in text.split()))))
        least.append(width if column.no_wrap else min(word, LONGEST_WORD))
    between = BETWEEN_COLUMNS * (len(widths) - 1)
    while sum(widths) + between > console.width and widths != least:
        widest = max(range(len(widths)), key=lambda column: (widths[column] > least[column], widths[column]))
        widths[widest] -= 1
    for column, pieces, width in zip(table.columns, headings, widths, strict=True):
        column.width = width
        column.header = reduce(lambda heading, piece: _joined(heading, piece, width), pieces)
    before = console.width
    console.width = max(before, sum(widths) + between)
    console.print(table)
    console.width = before


def _joined(heading: str, piece: str, width: int) -> str:
    """A heading with one more piece, in a new line where the last one is full."""
    return heading + "\n" * (cell_len(heading.rpartition("\n")[2] + piece.rstrip()) > width) + piece


def show_studies(studies: Sequence[Study]) -> None:
    console = make_console()
    for study in studies:
        console.print(study.name, style="bold")
        console.print(f"  {study.question}")
        console.print(f"  {len(study.arms)} arms × {_seeds(study)}, {len(study.claims)} claims\n")
    console.print("next: allelse run sigmoid-vs-relu --quick")


# ── plan ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _seeds(study: Study) -> str:
    """'10 seeds', or '10 to 20 seeds' where arms have unequal numbers of them."""
    counts = sorted({len(arm.seeds) for arm in study.arms})
    return f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else counted(counts[0], "seed")


def show_plan(study: Study, plan: Plan, tuning_plan: Plan | None, dataset_of: Callable[[Recipe], Dataset], device: str) -> None:
    from allelse.fit import gathers, parameters
    from allelse.plan import differing_keys, equal_networks, shared_weights

    console = make_console()
    console.print(f"{study.name}: {study.question}", style="bold")
    unequal = len({arm.seeds for arm in study.arms}) > 1
    numbers = [*(["seeds"] if unequal else []), "parameters", "lr", "packs", "img/s", "time"]
    ways = {planned.pack.way for planned in plan.packs}
    how = ["computed"] if len(ways) > 1 else []
    table = make_table(*short_names(study.factors).values(), *numbers[:-2], *how, *numbers[-2:], numbers=numbers)
    for column in table.columns:
        column.no_wrap &= column.header != "packs"  # '3×2 + 2×1' may be set in two lines
    for arm in study.arms:
        packs = [planned for planned in plan.packs if any(run.arm == arm.levels for run in planned.pack.runs)]
        lr = f"{arm.recipe.optimizer.scaled_lr(arm.recipe.batch_size):.3g}"
        seconds = sum(planned.seconds * _share(planned.pack, arm) for planned in packs)
        table.add_row(
            *(level_text(arm.levels.get(factor)) for factor in study.factors),
            *([str(len(arm.seeds))] if unequal else []),
            f"{parameters(arm, dataset_of(arm.recipe)):,}",
            "tuned" if study.tune and study.tune.key == "optimizer.lr" else lr,
            _sizes([len(planned.pack.runs) for planned in packs]),
            *[packs[0].pack.way.in_words(len(packs[0].pack.runs)) for _ in how],
            *([f"{rate:,.0f}", duration(seconds)] if (rate := packs[0].images_per_second) else ["–", "–"]),
        )
    show_table(console, table)
    in_packs = f"{counted(sum(len(arm.seeds) for arm in study.arms), 'run')} in {counted(len(plan.packs), 'pack')}"
    console.print(f"\n{in_packs} on {device}: {time_of(plan, 'about')} (packs: replicas × packs)")
    if not how:
        console.print(f"packs are computed in one way: {ways.pop().in_words(2)}")
    if any(len({canonical_json(run.arm) for run in planned.pack.runs}) > 1 for planned in plan.packs):
        console.print("arms that differ only in learning rate or weight decay share packs")
    if study.notes:
        console.print("\nWhat is declared of some arms")
    for note in study.notes:
        show_item(console, note)
    if study.tune and tuning_plan:
        tuning.show_plan(console, study.tune, tuning_plan)
    console.print("\nWhat differs between arms")
    if len(study.arms) == 1:
        show_item(console, "nothing: there is one")
    for key, values in differing_keys(study.arms).items():
        if any(value is not None for value in values):  # else a key that some part leaves empty and another does not have
            show_item(console, f"{key}: {', '.join(dict.fromkeys(map(value_text, values)))}")
    for equal in equal_networks(study.arms):
        keys = dict.fromkeys(".".join(key.split(".")[:2]) for key in differing_keys(equal))
        why = f"nothing there reads {' and '.join(keys)}" if keys else "their recipes are the same"
        show_item(console, f"one network under {len(equal)} names, as {why}: {' = '.join(arm.name for arm in equal)}")
    if study.claims:
        _show_decidability(console, study, [arm.levels for arm in study.arms if gathers(arm, dataset_of(arm.recipe))])
    console.print("\nThe same in all arms of a seed, by construction")
    show_item(console, "the training images, their order and their augmentation in each epoch, but for what differs above")
    in_all, unlike = shared_weights(study.arms, dataset_of)
    alike = f"two arms have with one name, shape, init and number of inputs ({in_all} in all arms)"
    show_item(console, f"the initial weights of every layer that {alike}")
    if unlike:
        show_item(
            console,
            f"not by construction: {listed(unlike, 6)}, of one name and shape, which arms may fill in different ways; "
            "'allelse explain STUDY --arm … --against …' compares their values",
        )


WORDS_FROM_PACKING = {
    "declared": "packed as it declares",
    "elementwise": "element by element: one serves a whole pack",
    "image by image": "image by image: one serves a whole pack",
    "one by one": "one replica after the other",
}


def show_own_parts(parts: Sequence[CheckedPart]) -> None:
    """The parts of the user's own that were found exact: name, packing, file."""
    console = make_console()
    if parts:
        console.print("\nYour own parts: a pack of 3 was checked against 3 lone ones in float64")
    for part in parts:
        console.print(f"  {part.reference}: {WORDS_FROM_PACKING[part.packing]}", soft_wrap=True)
        console.print(f"    {part.source.file} ({part.source.digest})", soft_wrap=True)


def _share(pack: Pack, arm: Arm) -> float:
    """Which part of a pack's runs are this arm's."""
    return [run.arm == arm.levels for run in pack.runs].count(True) / len(pack.runs)


def _show_decidability(console: Console, study: Study, gathering: Sequence[Mapping[str, Level]]) -> None:
    """What the seeds can decide; ``gathering`` arms are not evaluated three ways."""
    seeds_from_arm = {frozenset(arm_key(arm.levels).items()): len(arm.seeds) for arm in study.arms}
    console.print(
        f"\nWhat {_seeds(study)} can decide at least {stats.POWER * 10:.0f} times in 10 "
        "(assumed: differences of two arms vary by 1 point over seeds)"
    )
    why_not = {claim.id: why for claim in study.claims if (why := _why_not(claim, study, gathering))}
    # Holm's first step divides α by the number of claims that are asked.
    asked = [claim for claim in study.claims if claim.id not in why_not]
    for judged in stats.decidability(
        asked, study.design, lambda arm: seeds_from_arm[frozenset(arm_key(arm).items())], study.alpha
    ):
        show_item(console, judged.text)
    for claim in study.claims:
        if claim.id in why_not:
            show_item(console, f"{claim.id}: {why_not[claim.id]}")
            continue
        for reason in dict.fromkeys(reason for setting in settings(claim, study.design) for reason in setting.missing):
            show_item(console, f"{claim.id}: a comparison is left out, as {reason}")
    if note := stats.sign_flip_note(len(study.seeds)):
        show_item(console, note)


def _why_not(claim: Claim, study: Study, gathering: Sequence[Mapping[str, Level]]) -> str:
    """Why no number of seeds will decide a claim; empty where one may."""
    if why := why_not_asked(claim, study.design):
        return f"not asked in this run: {why}"
    needed = [arm for setting in settings(claim, study.design) for _, arms in setting.rows for arm in arms.values()]
    lacking = [arm for arm in needed if claim.metric in THREE_WAYS and arm in gathering]
    return f"undecided in any case: {arm_text(lacking[0])} gathers statistics and has no {claim.metric}" if lacking else ""


def _sizes(sizes: Sequence[int]) -> str:
    return " + ".join(f"{size}×{sizes.count(size)}" for size in sorted(set(sizes), reverse=True))


def show_item(console: Console, text: str) -> None:
    """One entry of a list, indented as a whole."""
    console.print(Padding(text, (0, 0, 0, 2), expand=False))


def value_text(value: Any) -> str:
    """A recipe's value as a person reads it; a dash for a key that is not there."""
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# ── results ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def arms(store: Store, metric: str = "accuracy") -> pd.DataFrame:
    """One row an arm with n, mean, sd and 95 % interval; raises ``StudyError`` for a metric that no run has."""
    return stats.arm_table(store.table(), list(store.definition["factors"]), metric)


def show_results(store: Store, metric: str = "accuracy") -> None:
    console, definition = make_console(), store.definition
    counts = store.counts()
    summary = arms(store, metric) if {"done", "diverged", "failed"} & set(counts) else None
    console.print(f"{definition['name']}: {definition['question']}", style="bold")
    if summary is None:
        tuning.show(console, store)
        console.print(f"nothing is finished yet ({counted(sum(counts.values()), 'run')} planned)")
        return
    declared = [] if definition["quick"] else definition["references"]
    references = [reference for reference in declared if reference.get("metric", "accuracy") == metric]
    troubles = [column for column in ("diverged", "failed", "pending") if summary[column].any()]
    numbers = ["n", "mean", "sd", "95 % interval", "published", *troubles]
    factors = list(definition["factors"])
    table = make_table(
        *short_names(factors).values(), *(name for name in numbers if name != "published" or references), numbers=numbers
    )
    for row in summary.to_dict("records"):
        published = [f"{reference['accuracy']:.1f}" for reference in references if matches(reference["arm"], row)]
        table.add_row(
            *(level_text(row[factor]) for factor in factors),
            str(row["n"]),
            _number(row["mean"], metric, digits := digits_between(row["low"], row["high"])),
            _number(row["sd"], metric),
            f"{_number(row['low'], metric, digits)} … {_number(row['high'], metric, digits)}",
            *([", ".join(published)] if references else []),
            *(str(row[trouble] or "") for trouble in troubles),
        )
    show_table(console, table)
    unit = METRICS.get(metric, "in the metric's own unit")
    console.print(f"\n{metric}: {unit}; mean, sd and t interval over seeds")
    tuning.show(console, store)
    for run in store.outcomes() if {"diverged", "failed"} & set(counts) else ():
        if run.status in ("diverged", "failed") and run.result:
            console.print(f"{run.status}: {_arm(run.arm, factors)}, seed {run.seed}: {run.result.error}")


def _number(value: float | None, metric: str = "accuracy", digits: int = 3) -> str:
    return "–" if value is None or value != value else number(value, metric, digits=digits)


def _arm(levels: Mapping[str, Any], factors: Sequence[str]) -> str:
    short = short_names(factors)
    return ", ".join(f"{short[factor]} {level_text(level)}" for factor, level in levels.items()) or "the only arm"


def show_runs(frame: pd.DataFrame, definition: Mapping[str, Any]) -> None:
    console, tune, factors = make_console(), definition.get("tune"), list(definition["factors"])
    if tune:
        tried, frame = frame[frame["purpose"] == "tuning"], frame[frame["purpose"] == "comparison"]
        factors.append(tune["key"])
        console.print(f"tuning runs, by {tune['metric']}")
        _print_runs(console, tried, factors, {"seed": "seed", tune["metric"]: "validation"})
        console.print("\nruns of the comparison")
    numbers = {"seed": "seed", "accuracy": "accuracy", "seconds_train": "train s", "images_per_second": "img/s"}
    _print_runs(console, frame, factors, numbers)
    console.print("\nevery metric of every run: --runs --format csv, json or parquet")


def _print_runs(console: Console, frame: pd.DataFrame, factors: Sequence[str], numbers: Mapping[str, str]) -> None:
    numbers = {column: heading for column, heading in numbers.items() if column in frame}
    table = make_table("run", *short_names(factors).values(), "status", *numbers.values(), numbers=numbers.values())
    for row in frame.to_dict("records"):
        values = (str(row[column]) if column == "seed" else _number(row[column]) for column in numbers)
        table.add_row(row["run"], *(level_text(row.get(factor)) for factor in factors), row["status"], *values)
    show_table(console, table)
    for row in frame.to_dict("records"):
        if row["status"] in ("diverged", "failed"):
            console.print(f"{row['run']} {row['status']}: {row['error']}")


def show_verdicts(verdicts: Sequence[stats.Verdict], title: str = "Verdicts", warning: str = "") -> None:
    """Each claim with its verdict and the sentence that gives its evidence; what is to mind of seeds of several runs below."""
    console = make_console()
    style_from_ruling = {"supported": "bold green", "refuted": "bold red", "undecided": "bold yellow"}
    if verdicts:
        console.print(f"\n{title}", style="bold")
    for verdict in verdicts:
        words = Table.grid(padding=(0, 2, 0, 0))
        words.add_column(width=9)
        words.add_column(overflow="fold")  # else letters are lost where some are two columns wide
        words.add_row(verdict.verdict, verdict.says, style=style_from_ruling[verdict.verdict])
        words.add_row("", verdict.sentence)
        console.print(words)
    for metric in dict.fromkeys(verdict.metric for verdict in verdicts):
        if metric in METRICS and metric != "accuracy":
            show_item(console, f"{metric}: {METRICS[metric]}")
    if warning:
        console.print(f"\nSeeds of several runs. {warning}")


# ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def show_data(entries: Sequence[Entry]) -> None:
    console = make_console()
    for entry in entries:
        shape = f", {' × '.join(map(str, entry.shape))}" if entry.shape else ""
        counts = f", {entry.train:,} + {entry.test:,} images, {entry.classes} classes" if entry.train else ""
        console.print(f"{entry.name}", style="bold")
        show_item(console, f"{entry.what}{shape}{counts}")
        size = f" ({entry.bytes / 1e6:.0f} MB)" if entry.bytes else ""
        if entry.shape is None:
            continue
        if entry.present:
            console.print(f"  here: {entry.where or 'bundled'}{size}", soft_wrap=True)
        else:
            console.print(f"  not here: allelse data fetch {entry.name}, or allelse data import {entry.name} PATH")
