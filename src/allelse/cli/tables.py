"""What the commands print: studies, plans, stores and data frames in; text of at most 80 columns on stdout out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from allelse import stats
from allelse.claims import Claim, check_claims
from allelse.cli.progress import duration
from allelse.data import Dataset, Entry
from allelse.errors import StoreError, StudyError
from allelse.recipe import Recipe
from allelse.records import Pack, canonical_json
from allelse.store import Store, pairing
from allelse.study import Arm, Study

if TYPE_CHECKING:
    from allelse.launch import CheckedPart
    from allelse.plan import Plan  # brings torch along

NARROWEST = 80


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=NARROWEST)


def _table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def short(factor: str) -> str:
    """A factor's key as a heading: ``model.depth`` → ``depth``."""
    return factor.rpartition(".")[2]


def show_studies(studies: Sequence[Study]) -> None:
    console = _console()
    for study in studies:
        console.print(study.name, style="bold")
        console.print(f"  {study.question}")
        console.print(f"  {len(study.arms)} arms × {len(study.seeds)} seeds, {len(study.claims)} claims\n")
    console.print("next: allelse run sigmoid-vs-relu --quick")


# ── plan ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def show_plan(study: Study, plan: Plan, dataset_of: Callable[[Recipe], Dataset], device: str) -> None:
    from allelse.plan import differing_keys, layers, parameters

    console = _console()
    console.print(f"{study.name}: {study.question}", style="bold")
    numbers = ["parameters", "lr", "packs", "img/s", "time"]
    table = _table(*map(short, study.factors), *numbers[:3], "computed", *numbers[3:], numbers=numbers)
    for arm in study.arms:
        packs = [planned for planned in plan.packs if any(run.arm == arm.levels for run in planned.pack.runs)]
        rate = arm.recipe.optimizer.scaled_lr(arm.recipe.batch_size)
        table.add_row(
            *map(str, arm.levels.values()),
            f"{parameters(arm, dataset_of(arm.recipe)):,}",
            f"{rate:.3g}",
            _sizes([len(planned.pack.runs) for planned in packs]),
            packs[0].pack.way.in_words(len(packs[0].pack.runs)),
            f"{packs[0].images_per_second:,.0f}" if packs[0].images_per_second else "–",
            duration(sum(planned.seconds * _share(planned.pack, arm) for planned in packs)),
        )
    console.print(table)
    runs = len(study.arms) * len(study.seeds)
    console.print(
        f"\n{runs} runs in {len(plan.packs)} packs on {device}: about {duration(plan.seconds)} (packs: replicas × packs)"
    )
    if any(len({canonical_json(run.arm) for run in planned.pack.runs}) > 1 for planned in plan.packs):
        console.print("arms that differ only in learning rate or weight decay share packs")
    console.print("\nWhat differs between arms")
    for key, values in differing_keys(study.arms).items():
        shown = ", ".join(dict.fromkeys(_plain(value) for value in values))
        console.print(f"  {key}: {shown}")
    if study.claims:
        levels = {factor: list(labels) for factor, labels in study.factors.items()}
        console.print(
            f"\nWhat {len(study.seeds)} seeds can decide (assumed: differences of two arms vary by 1 point over seeds)"
        )
        asked = [claim for claim in study.claims if _fits(claim, levels)]
        # Holm's first step divides α by the number of claims that are asked.
        for judged in stats.decidability(asked, levels, len(study.seeds), study.alpha) if asked else []:
            console.print(f"  {judged.text}")
        for claim in study.claims:
            if claim not in asked:
                console.print(f"  {claim.id}: not asked in this run, which lacks its levels")
    console.print("\nThe same in all arms of a seed, by construction")
    console.print("  the training images, their order and their augmentation in each epoch, but for what differs above")
    named = [set(layers(arm, dataset_of(arm.recipe))) for arm in study.arms]
    shared = set.intersection(*named)
    console.print(
        f"  the initial weights of every layer that two arms have with one name, shape and init ({len(shared)} in all arms)"
    )


WORDS_FROM_PACKING = {
    "declared": "packed as it declares",
    "elementwise": "element by element: one serves a whole pack",
    "one by one": "one replica after the other",
}


def show_own_parts(parts: Sequence[CheckedPart]) -> None:
    """The parts of the user's own that were found exact: name, packing, file."""
    console = _console()
    if parts:
        console.print("\nYour own parts: a pack of 3 was checked against 3 lone ones in float64")
    for part in parts:
        console.print(f"  {part.reference}: {WORDS_FROM_PACKING[part.packing]}", soft_wrap=True)
        console.print(f"    {part.source.file} ({part.source.digest})", soft_wrap=True)


def _share(pack: Pack, arm: Arm) -> float:
    """Which part of a pack's runs are this arm's."""
    return [run.arm == arm.levels for run in pack.runs].count(True) / len(pack.runs)


def _fits(claim: Claim, levels: Mapping[str, Sequence[Any]]) -> bool:
    try:
        check_claims([claim], levels)
    except StudyError:
        return False
    return True


def _sizes(sizes: Sequence[int]) -> str:
    return " + ".join(f"{size}×{sizes.count(size)}" for size in sorted(set(sizes), reverse=True))


def _plain(value: Any) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# ── results ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def arms(store: Store, metric: str = "accuracy") -> pd.DataFrame:
    """One row an arm with n, mean, sd and 95 % interval; raises ``StudyError`` for a metric that no run has."""
    return stats.arm_table(store.table(), list(store.definition["factors"]), metric)


def show_results(store: Store, metric: str = "accuracy") -> None:
    console, definition = _console(), store.definition
    statuses = list(store.status_from_run().values())
    summary = arms(store, metric) if {"done", "diverged", "failed"} & set(statuses) else None
    console.print(f"{definition['name']}: {definition['question']}", style="bold")
    if summary is None:
        console.print(f"nothing is finished yet ({len(statuses)} runs planned)")
        return
    references = [reference for reference in definition["references"] if metric == "accuracy" and not definition["quick"]]
    troubles = [column for column in ("diverged", "failed", "pending") if summary[column].any()]
    numbers = ["n", "mean", "sd", "95 % interval", "published", *troubles]
    factors = list(definition["factors"])
    table = _table(*map(short, factors), *(name for name in numbers if name != "published" or references), numbers=numbers)
    for row in summary.to_dict("records"):
        published = [f"{reference['accuracy']:.1f}" for reference in references if _is_arm(reference["arm"], row)]
        table.add_row(
            *(str(row[factor]) for factor in factors),
            str(row["n"]),
            _number(row["mean"]),
            _number(row["sd"]),
            f"{_number(row['low'])} … {_number(row['high'])}",
            *([", ".join(published)] if references else []),
            *(str(row[trouble] or "") for trouble in troubles),
        )
    console.print(table)
    unit = "percent of the test split, last epoch" if metric == "accuracy" else "each in the metric's own unit"
    console.print(f"\n{metric}: {unit}; mean, sd and t interval over seeds")
    for run in store.runs():
        if run.status in ("diverged", "failed") and run.result:
            console.print(f"{run.status}: {_arm(run.arm)}, seed {run.seed}: {run.result.error}")


def _is_arm(levels: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return all(row.get(factor) == level for factor, level in levels.items())


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.2f}"


def _arm(levels: Mapping[str, Any]) -> str:
    return ", ".join(f"{short(factor)} {level}" for factor, level in levels.items()) or "the only arm"


def write(frame: pd.DataFrame, output: str, store: Store) -> None:
    """Print a frame as table, CSV or JSON, or its Parquet bytes; JSON nests the arm's levels by factor."""
    if output == "parquet":
        if sys.stdout.isatty():
            raise StoreError("parquet is not for the screen; send it to a file: allelse results DIR --format parquet > FILE")
        # There a column has one type, where the levels of a factor may have several.
        for column in [name for name in frame if pd.api.types.is_object_dtype(frame[name])]:
            if frame[column].dropna().map(type).nunique() > 1:
                frame[column] = frame[column].map(str)
        frame.to_parquet(sys.stdout.buffer)
    elif output == "csv":
        print(frame.to_csv(index=False), end="")
    elif output == "json":
        factors = list(store.definition["factors"])
        nested = [
            {
                **{key: value for key, value in row.items() if key not in factors},
                "arm": {factor: row[factor] for factor in factors},
            }
            for row in frame.to_dict("records")
        ]
        print(as_json(nested))
    else:
        _show_runs(frame, list(store.definition["factors"]))


def _show_runs(frame: pd.DataFrame, factors: Sequence[str]) -> None:
    console = _console()
    numbers = {"seed": "seed", "accuracy": "accuracy", "seconds_train": "train s", "images_per_second": "img/s"}
    numbers = {column: heading for column, heading in numbers.items() if column in frame}
    table = _table("run", *map(short, factors), "status", *numbers.values(), numbers=numbers.values())
    for row in frame.to_dict("records"):
        values = (str(row[column]) if column == "seed" else _number(row[column]) for column in numbers)
        table.add_row(row["run"], *(str(row[factor]) for factor in factors), row["status"], *values)
    console.print(table)
    for row in frame.to_dict("records"):
        if row["status"] in ("diverged", "failed"):
            console.print(f"{row['run']} {row['status']}: {row['error']}")
    console.print("\nevery metric of every run: --runs --format csv, json or parquet")


def as_json(rows: list[dict[str, Any]]) -> str:
    import json

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        value = value.item() if hasattr(value, "item") else value
        return None if isinstance(value, float) and value != value else value

    return json.dumps([plain(row) for row in rows], indent=1, ensure_ascii=False, allow_nan=False)


def show_verdicts(verdicts: Sequence[stats.Verdict]) -> None:
    """Each claim with its verdict and the sentence that gives its evidence."""
    console = _console()
    style_from_ruling = {"supported": "bold green", "refuted": "bold red", "undecided": "bold yellow"}
    if verdicts:
        console.print("\nVerdicts", style="bold")
    for verdict in verdicts:
        console.print(f"{verdict.verdict:<9}  {verdict.says}", style=style_from_ruling[verdict.verdict])
        console.print(Padding(verdict.sentence, (0, 0, 0, 11)))


# ── status and data ─────────────────────────────────────────────────────────────────────────────────────────────────


def show_status(store: Store) -> None:
    console, runs = _console(), store.runs()
    console.print(f"{store.definition['name']}: {store.definition['question']}", style="bold")
    statuses = [run.status for run in runs]
    if not runs:
        console.print("nothing is planned yet: it was stopped while measuring; run it again")
        return
    console.print(f"{len(runs)} runs: " + ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)))
    left = sum(
        planned["seconds"]
        for planned in (store.plan or {"packs": []})["packs"]
        if _is_pending(planned["runs"], store.status_from_run())
    )
    if left:
        console.print(f"about {duration(left)} left on the device that it was planned on; the same command goes on")
    for line in pairing(runs):
        console.print(line)
    devices = {
        (run.result.provenance.device, run.result.provenance.precision) for run in runs if run.result and run.result.provenance
    }
    for device, precision in sorted(devices):
        console.print(f"trained on {device} in {precision}")


def _is_pending(runs: Sequence[str], status_from_run: Mapping[str, str]) -> bool:
    return any(status_from_run[run] in ("pending", "failed") for run in runs)


def show_data(entries: Sequence[Entry]) -> None:
    console = _console()
    for entry in entries:
        shape = f", {' × '.join(map(str, entry.shape))}" if entry.shape else ""
        counts = f", {entry.train:,} + {entry.test:,} images, {entry.classes} classes" if entry.train else ""
        console.print(f"{entry.name}", style="bold")
        console.print(f"  {entry.what}{shape}{counts}")
        size = f" ({entry.bytes / 1e6:.0f} MB)" if entry.bytes else ""
        if entry.shape is None:
            continue
        if entry.present:
            console.print(f"  here: {entry.where or 'bundled'}{size}", soft_wrap=True)
        else:
            console.print(f"  not here: allelse data fetch {entry.name}, or allelse data import {entry.name} PATH")
