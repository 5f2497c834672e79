"""Measured studies: an output folder in; what is kept of it in ``results/``, and what the pages say of that, out."""

from __future__ import annotations

import sqlite3
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import chdir, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any

import pandas as pd

from allelse import stats, store, study
from allelse.report import gather, write_report
from allelse.report.evidence import judge_table
from allelse.report.findings import Findings
from allelse.store import schema

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
STUDIES = (
    "sigmoid-vs-relu",
    "batchnorm-vs-groupnorm",
    "batchnorm-vs-groupnorm-many-epochs",
    "conv-activation-norm-position",
)
PARTS = ("begun", "shorter")  # of full studies
RECIPES = ("recipe-cifar10", "recipe-cifar100")
WORDS = tomllib.loads((RESULTS / "words.toml").read_text("utf-8"))
"""headings and claims in each language"""


def take(folder: Path) -> Path:
    """Keep what an output folder holds in ``results/NAME``; what was kept there before goes once the copy is whole."""
    with store.read(folder) as opened:
        kept = RESULTS / kept_as(opened.definition, opened.counts())
        runs = opened.table(timing=True)
    new = kept.with_name(f".{kept.name}")
    rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    with closing(sqlite3.connect(folder / store.FILE)) as connection:
        connection.execute("VACUUM INTO ?", (str(new / store.FILE),))
    with closing(sqlite3.connect(new / store.FILE)) as connection, connection:  # where this clone lies is nobody's business
        schema.configure(connection)
        connection.execute("UPDATE meta SET value = replace(value, ?, '') WHERE key = 'definition'", (f"{ROOT}/",))
        if connection.execute("PRAGMA user_version").fetchone()[0] > 1:  # stores of the first format have no seals
            connection.execute(f"UPDATE meta SET seal = {schema.META_SEAL} WHERE key = 'definition'")
    runs.to_csv(new / "runs.csv", index=False)
    rmtree(kept, ignore_errors=True)
    new.rename(kept)
    if kept.name in RECIPES:
        return kept
    with chdir(ROOT):  # the report names the folder
        page = write_report(kept.relative_to(ROOT))
    for same in (kept / page.name, *(kept / "figures").glob("*.svg")):
        same.unlink()  # as report.md and the PNGs, and ten times as large
    return kept


def kept_as(definition: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """The name of the folder for a study: a part of a packaged one must not pass for the whole, nor a shorter training for it.

    Arguments:
        definition: of the study.
        counts: how many runs have each status.

    Raises:
        ValueError: an arm of it has another recipe than the packaged study declares, but for fewer epochs.
    """
    name, arms = str(definition["name"]), definition["arms"]
    if name not in STUDIES:
        return name
    whole = study.load(name).definition()
    declared, epochs = [(arm["levels"], arm["recipe"]) for arm in whole["arms"]], whole["arms"][0]["recipe"]["epochs"]
    lengths = {arm["recipe"].get("epochs", epochs) for arm in arms}
    if is_shorter := len(lengths) == 1 and max(lengths) < epochs:
        arms = [{**arm, "recipe": {**arm["recipe"], "epochs": epochs}} for arm in arms]
    if strange := [arm for arm in arms if (arm["levels"], arm["recipe"]) not in declared]:
        raise ValueError(f"{name}: not what the packaged study declares: {strange[0]}")
    if is_shorter:
        return f"{name}-shorter"
    fewest = min(arm.get("seeds", len(definition["seeds"])) for arm in arms)
    missing = counts.get("pending", 0) + counts.get("failed", 0)
    is_whole = len(arms) == len(declared) and fewest >= len(whole["seeds"]) and not missing
    return name if is_whole else f"{name}-begun"


@dataclass(frozen=True)
class Measured:
    """What is kept of one study."""

    findings: Findings
    runs: pd.DataFrame
    """with where and how fast each was trained"""

    @classmethod
    def of(cls, *names: str) -> Measured | None:
        """The first of these that is kept, else none."""
        for name in names:
            if (RESULTS / name / store.FILE).exists():
                with store.read(RESULTS / name) as opened:
                    return cls(gather(opened), opened.table(timing=True))
        return None

    @property
    def definition(self) -> Mapping[str, Any]:
        return self.findings.definition

    @property
    def verdicts(self) -> Sequence[stats.Verdict]:
        return self.findings.verdicts

    @cached_property
    def recalibrated(self) -> dict[str, stats.Verdict]:
        """By id: the verdicts that its claims of accuracy would have with recalibrated statistics."""
        claims = [
            {**one, "metric": "accuracy_recalibrated"} if one.get("metric", "accuracy") == "accuracy" else one
            for one in self.definition["claims"]
        ]
        return {verdict.id: verdict for verdict in judge_table({**self.definition, "claims": claims}, self.runs)}

    @property
    def name(self) -> str:
        return kept_as(self.definition, Counter(self.runs["status"]))

    @property
    def version(self) -> str:
        """Which, as in ``words.toml``."""
        return next((part for part in ("scaled", *PARTS) if self.name.endswith(f"-{part}")), "full")

    @property
    def study_name(self) -> str:
        """Of which study it is, scaled or not, the whole or a part."""
        return str(self.definition["name"]).removesuffix("-scaled")

    @cached_property
    def judges(self) -> bool:
        """Whether the claims are judged by it: by a part of a full study where it has every arm, with more than one seed."""
        if self.version in ("full", "scaled"):
            return True
        arms = self.arms("accuracy")
        is_complete = len(arms) == len(study.load(self.study_name).arms) and not arms[["pending", "failed"]].any(axis=None)
        return self.version == "begun" and is_complete and min(arms["n"]) > 1

    def title(self, language: str) -> str:
        """Of its column: how long it trained."""
        epochs = self.definition["arms"][0]["recipe"]["epochs"]
        return str(WORDS[language]["ours"].format(epochs=epochs, plural="s" * (epochs > 1)))

    @cached_property
    def factors(self) -> list[str]:
        return list(self.definition["factors"])

    @cached_property
    def finished(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == "done"]

    @property
    def images(self) -> int:
        """That each network is trained on."""
        recipe = self.definition["arms"][0]["recipe"]
        classes = {"cifar10": 10, "cifar100": 100}[recipe["dataset"]]
        return int(recipe.get("train_per_class") or 0) * classes or 50_000

    @property
    def days(self) -> str:
        """On which the first and the last run began."""
        return " – ".join(dict.fromkeys((self.findings.days[0], self.findings.days[-1])))

    @property
    def hours(self) -> float:
        return self.findings.seconds / 3600

    def arms(self, metric: str) -> pd.DataFrame:
        return stats.arm_table(self.runs, self.factors, metric)

    def made(self, column: str) -> str:
        """What all finished runs have in a column, each value once."""
        return ", ".join(sorted(set(map(str, self.runs[column].dropna()))))
