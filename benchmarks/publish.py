"""Measured studies, published: output folders in; ``results/`` and the tables in the two READMEs out.

    python -m benchmarks.publish [FOLDER …]

Each FOLDER is taken into ``results/NAME`` (the store in one file, every run as CSV, the report, figures); then the pages are
made anew from all that stands there, so that no figure in them is written by hand. A part of a full study, with fewer seeds or
arms, is kept as ``NAME-begun``, one trained for fewer epochs than declared as ``NAME-shorter``, a scaled one as
``NAME-scaled``: they are columns of one table, and a full study takes the place of all.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from allelse import stats, store, study
from allelse.design import matches
from allelse.errors import AllelseError
from allelse.report.evidence import NOT_ASKED
from benchmarks import replication
from benchmarks.measured import PARTS, RECIPES, RESULTS, ROOT, STUDIES, WORDS, Measured, take

READMES = {"en": ROOT / "README.md", "ko": ROOT / "README.ko.md"}
MARKS = ("<!-- results: made by benchmarks/publish.py -->", "<!-- /results -->")


def versions(name: str) -> list[Measured]:
    """What is shown of a study: the whole where that was run, else its parts, and then the scaled one."""
    whole = Measured.of(name)
    return [whole] if whole else [one for version in (*PARTS, "scaled") if (one := Measured.of(f"{name}-{version}"))]


def arm_table(shown: Sequence[Measured], language: str) -> Iterator[str]:
    """One row for each arm measured or named by the brief: its levels, the brief's figure, and ours in each version."""
    words, definition, factors, name = WORDS[language], shown[0].definition, shown[0].factors, shown[0].study_name
    arms = study.load(name).definition()["arms"] if name in STUDIES else definition["arms"]
    headings = [words["factors"].get(factor, factor) for factor in factors]
    figures = [words["brief"]] * bool(definition["references"])
    blocks = [columns(one, language) for one in shown]
    figures += [heading for block in blocks for heading in block.columns]
    yield "| " + " | ".join([*headings, *figures]) + " |"
    yield "|" + "|".join(["---"] * len(headings) + ["--:"] * len(figures)) + "|"
    for arm in arms:
        place = as_text(arm["levels"].get(factor) for factor in factors)
        theirs = [f"{each['accuracy']:.1f}" for each in definition["references"] if matches(each["arm"], arm["levels"])]
        if theirs or any(place in block.index for block in blocks):
            row = [*place, *([", ".join(theirs) or "–"] if definition["references"] else [])]
            for block in blocks:
                row += list(block.loc[[place]].iloc[0]) if place in block.index else ["–"] * len(block.columns)
            yield "| " + " | ".join(row) + " |"
    yield ""


def columns(measured: Measured, language: str) -> pd.DataFrame:
    """What stands in a version's columns, for each arm by its levels: ours, interval, recalibrated, n; none that are empty."""
    words, table = WORDS[language], measured.arms("accuracy")
    recalibrated = measured.arms("accuracy_recalibrated")["mean"]
    has_statistics = measured.arms("mean_distance")["mean"].notna()  # which BatchNorm alone has
    rows = []
    for place, row in table.iterrows():
        missing = [words[what].format(row[what]) for what in ("diverged", "failed", "pending") if row[what]]
        rows.append(
            (
                f"**{row['mean']:.1f}**" if row["n"] else "–",
                f"{row['low']:.1f} … {row['high']:.1f}" if row["n"] > 1 else "–",
                f"{recalibrated[place]:.1f}" if row["n"] and has_statistics[place] else "–",
                ", ".join([str(row["n"]), *missing]),
            )
        )
    arms = [as_text(levels) for levels in table[measured.factors].itertuples(index=False)]
    headings = [measured.title(language), words["interval"], words["recalibrated"], "n"]
    frame = pd.DataFrame(rows, index=pd.Index(arms, tupleize_cols=False), columns=headings)
    return frame.loc[:, (frame != "–").any()]


def as_text(levels: Iterable[Any]) -> tuple[str, ...]:
    """An arm's levels as they stand in a table."""
    return tuple("–" if pd.isna(level) else str(level) for level in levels)


def section(name: str, language: str) -> Iterator[str]:
    """A study's part of a README."""
    words, shown = WORDS[language], versions(name)
    yield f"#### {words['titles'][name] if name in STUDIES or not shown else shown[0].definition['question']}"
    yield ""
    if not shown:
        yield words["nothing"]
        yield ""
        return
    yield from arm_table(shown, language)
    for one in shown:
        yield f"- {provenance(one, language)}"
    yield ""
    for one in shown:
        theirs = [verdict for verdict in one.verdicts if verdict.id not in WORDS["why"]]
        ours = [verdict for verdict in one.verdicts if verdict.id in WORDS["why"]]
        title = words["claims of the brief"].format(title=one.title(language)) if name in STUDIES else ""
        for heading, verdicts in ((title, theirs), (words["why it happens"], ours)) if one.judges else ():
            if heading and verdicts:
                yield heading
                yield ""
            for verdict in verdicts:
                yield f"- **{words[verdict.verdict]}**: {claim(verdict, language)}{effect(one, verdict, language)}"
            if verdicts:
                yield ""


def claim(verdict: stats.Verdict, language: str) -> str:
    return verdict.says if language == "en" else str(WORDS[language]["claims"].get(verdict.id, verdict.says))


def effect(measured: Measured, verdict: stats.Verdict, language: str) -> str:
    """The size of what was claimed, and the same with recalibrated statistics; or why there is none."""
    words = WORDS[language]
    if is_not_asked(verdict):
        return f" ({words['not asked']})"
    if verdict.metric != "accuracy" or verdict.estimate is None:
        return ""
    both = (" / ".join(f"{size:+.1f}" for size in sizes(one)) for one in (verdict, measured.recalibrated[verdict.id]))
    return words["trend" if verdict.kind == "trend" else "effect"].format(*both).replace("-", "−")


def is_not_asked(verdict: stats.Verdict) -> bool:
    return bool(verdict.reason and verdict.reason.startswith(NOT_ASKED))


def sizes(verdict: stats.Verdict) -> list[float]:
    """In percentage points: one for each level that the claim is made for, or the one that decides."""
    several = verdict.kind in ("higher", "within", "trend") and len(verdict.parts) > 1
    found = [part.estimate for part in verdict.parts] if several else [verdict.estimate]
    return [size for size in found if size is not None]


def summary(language: str) -> Iterator[str]:
    """What came of the brief's statements in all measured studies, and how much of it is evaluation."""
    words = WORDS[language]
    measured = [one for name in STUDIES if (one := next((each for each in versions(name) if each.judges), None))]
    says: dict[str, dict[str, list[str]]] = {name: {} for name in ("supported", "refuted", "undecided", "not asked")}
    apart = [0.0]
    for one in measured:
        for verdict in one.verdicts:
            if verdict.id not in WORDS["why"]:
                found = says["not asked" if is_not_asked(verdict) else verdict.verdict]
                found.setdefault(claim(verdict, language), []).append(short(one, language))
            if verdict.metric == "accuracy":
                pairs = zip(sizes(verdict), sizes(one.recalibrated[verdict.id]), strict=True)
                apart += [abs(running - again) for running, again in pairs]
    yield words["summary"].format(
        begun=", ".join(short(one, language) for one in measured if one.version != "scaled") or "–",
        depths=levels(measured, "model.depth"),
        batch_sizes=levels(measured, "batch_size"),
    )
    yield ""
    for name, studies_from_claim in says.items():
        told = [f"{text} ({', '.join(studies)})" for text, studies in studies_from_claim.items()]
        if told:
            yield f"- **{words[name]}**: {'; '.join(told)}."
    yield ""
    yield words["effects"].format(f"{max(apart):.1f}")
    yield ""


def short(measured: Measured, language: str) -> str:
    return str(WORDS[language]["short"][measured.study_name])


def levels(measured: Sequence[Measured], factor: str) -> str:
    """Those of a factor that the studies which vary it have in common."""
    common = [set(one.runs[factor]) for one in measured if factor in one.factors]
    return ", ".join(map(str, sorted(set.intersection(*common)))) if common else "–"


def provenance(measured: Measured, language: str) -> str:
    """How the figures of a study were made, in a sentence or two."""
    words, recipe = WORDS[language], measured.definition["arms"][0]["recipe"]
    return words["provenance"].format(
        title=measured.title(language),
        version=words[measured.version].format(commands=" + ".join(f"`{command}`" for command in measured.findings.commands)),
        runs=len(measured.finished),
        images=f"{measured.images:,}",
        dataset={"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[recipe["dataset"]],
        devices="; ".join(measured.findings.machines),
        torch=measured.made("torch"),
        commit=measured.made("commit"),
        days=measured.days,
        hours=f"{measured.hours:.1f}",
        folder=f"results/{measured.name}/report.md",
    )


def tables(language: str) -> str:
    """What stands between the marks of a README."""
    return "\n".join(["", *summary(language), *(line for name in STUDIES for line in section(name, language))])


def recipe_table(name: str) -> Iterator[str]:
    """Validation accuracy of each arm by recipe, with the mean that a recipe is chosen by; the best comes first."""
    with store.read(RESULTS / name) as opened:
        runs = opened.table(timing=True)
        arms = [factor for factor in opened.definition["factors"] if factor != "recipe"]
    accuracy = runs.pivot_table(index="recipe", columns=arms, values="validation_accuracy", sort=False)
    headings = ["mean", *(", ".join(map(str, levels)) for levels in accuracy.columns)]
    yield f"| recipe | {' | '.join(headings)} |"
    yield f"|---|{'--:|' * len(headings)}"
    for recipe in accuracy.mean(axis=1).sort_values(ascending=False).index:
        row = accuracy.loc[recipe]
        yield f"| {recipe} | " + " | ".join(f"{value:.2f}" for value in (row.mean(), *row)) + " |"
    yield ""
    made = Measured.of(name)
    assert made is not None
    finished, epochs = runs.dropna(subset="accuracy"), made.definition["arms"][0]["recipe"]["epochs"]
    without = int(finished["commit"].isna().sum())
    commits = f"commit {made.made('commit')}" + (f" ({without} of the runs name none)" if without else "")
    yield (
        f"n = 1 seed ({runs['seed'].unique()[0]}), {len(finished)} networks, {epochs} epoch{'s' * (epochs > 1)} on "
        f"{made.images:,} images; {' and '.join(made.findings.machines)}, torch {made.made('torch')}, {commits}, "
        f"{made.days}, {made.hours:.1f} hours of computing."
    )


def second_runs() -> Iterator[str]:
    """Each study that was run again with other seeds."""
    for kept in sorted(RESULTS.glob("*-scaled")):
        if lines := list(replication.table(kept)):
            yield f"#### {kept.name}"
            yield ""
            yield from lines
            yield ""


def follow_ups() -> Iterator[str]:
    """Each measured example."""
    for kept in sorted(RESULTS.glob("*-scaled")):
        if (name := kept.name.removesuffix("-scaled")) not in STUDIES:
            for line in section(name, "en"):
                yield line.replace("](results/", "](")


SECTIONS = {"second-runs": second_runs, "follow-ups": follow_ups}
"""of the page of ``results/``"""


def with_tables(text: str, language: str) -> str:
    """A README with its tables made anew."""
    between = re.compile(f"({re.escape(MARKS[0])}\n).*?({re.escape(MARKS[1])})", re.DOTALL)
    assert between.search(text), f"the README has no place for the tables: {MARKS[0]}"
    return between.sub(lambda found: found[1] + tables(language) + found[2], text)


def with_page_tables(text: str) -> str:
    """The page of ``results/`` with its tables made anew: of recipes, and of second runs."""
    for name in (*RECIPES, *SECTIONS):
        begin, end = f"<!-- {name}: made by benchmarks/publish.py -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        lines = recipe_table(name) if name in RECIPES else SECTIONS[name]()
        table = "\n".join(["", *lines, "", ""])
        text = before + begin + table + end + rest.partition(end)[2]
    return text


def main() -> None:
    for folder in sys.argv[1:]:
        try:
            print(f"kept {take(Path(folder)).relative_to(ROOT)}")
        except (AllelseError, ValueError) as error:
            print(f"publish: {error}", file=sys.stderr)
            sys.exit(2)
    for language, readme in READMES.items():
        readme.write_text(with_tables(readme.read_text("utf-8"), language), "utf-8")
    page = RESULTS / "README.md"
    page.write_text(with_page_tables(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
