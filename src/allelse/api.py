"""The same from Python and a notebook: a study in; tables as pandas frames, verdicts and a report out.

>>> import allelse
>>> study = allelse.load("sigmoid-vs-relu", quick=True)
>>> results = allelse.run(study)           # trains what is not stored yet
>>> results.arms()                         # n, mean, sd, interval of each arm
>>> results.verdicts()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Literal

import pandas as pd

from allelse import stats, store
from allelse.errors import AllelseError, counted
from allelse.report import compare, compute_figures, gather, judge, judge_also, write_figures, write_report
from allelse.study import Study, further_claims
from allelse.study import load as _load_study
from allelse.tuning import Tuning


def load(
    name_or_path: str | Path,
    *,
    quick: bool = False,
    scaled: bool = False,
    seeds: int | None = None,
    first_seed: int | None = None,
    changes: Sequence[str] = (),
) -> Study:
    """Read and check a study: a packaged name or a file.

    Arguments:
        name_or_path: as ``allelse run STUDY`` takes it.
        quick: its small version: what ``[quick]`` in its file makes of it.
        scaled: its version for machines without a GPU, on its own data.
        seeds: a number of seeds instead of the file's.
        first_seed: the first of them, as ``--first-seed`` takes it.
        changes: ``"key=value"`` texts, as ``--set`` takes them.

    Raises:
        AllelseError: one line that says what is wrong and what to do.
    """
    _check("name_or_path", name_or_path, "a study's name or a file", str, Path)
    _check("quick", quick, "True, False", bool)
    _check("scaled", scaled, "True, False", bool)
    _check("seeds", seeds, "a whole number", Integral, NoneType)
    _check("first_seed", first_seed, "a whole number", Integral, NoneType)
    _check("changes", changes, 'a list of "key=value" texts', Iterable)
    listed = [] if isinstance(changes, str | Mapping) else list(changes)
    if (changes and not listed) or not all(isinstance(change, str) for change in listed):
        raise AllelseError(f'changes = {changes!r}; allowed: a list of "key=value" texts')
    return _load_study(name_or_path, quick=quick, scaled=scaled, seeds=seeds, first_seed=first_seed, changes=listed)


def _check(name: str, given: object, allowed: str, *kinds: type) -> None:
    """One line about an argument of another type, where Python would fail somewhere within."""
    if not isinstance(given, kinds) or (isinstance(given, bool) and bool not in kinds):
        raise AllelseError(f"{name} = {given!r}; allowed: {allowed}")


def explain(study: Study, *levels: str) -> pd.DataFrame:
    """One row a layer of the network that one arm trains: ``name``, ``kind``, ``output_shape``, ``parameters``, ``macs``
    (multiply–adds of one image, forward), ``activations`` (numbers in its output for one image).

    Arguments:
        study: from ``load``.
        levels: ``"key=level"`` texts that single the arm out, as ``allelse explain --arm`` takes them.

    Raises:
        AllelseError: none or several arms have these levels, or the arm does not fit its data.
    """
    from allelse.explanation import anatomy, find_arm

    _check("study", study, "a study, as allelse.load gives it", Study)
    for level in levels:
        _check("levels", level, '"key=level" texts', str)
    return pd.DataFrame([vars(layer) for layer in anatomy(find_arm(study, levels)).layers])


def run(
    study: Study,
    out: str | Path | None = None,
    device: str = "auto",
    *,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    on_error: Literal["continue", "stop"] = "continue",
) -> Results:
    """Train all of ``study`` that the output folder does not hold yet.

    Arguments:
        study: from ``load``.
        out: the output folder; ``runs/NAME`` when left out.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        workers: packs that train at once, in a process each; left out: this process, or one a GPU where there are several.
        engine: ``local``, this machine; or ``ray``, a Ray cluster.
        address: the cluster's; left out: what Ray finds, or one that is started here.
        on_error: whether to ``continue`` with the other packs or to ``stop`` when one fails.

    Raises:
        AllelseError: data, machines, device or folder do not fit, or runs failed; what is finished is stored.
    """
    from allelse.cli.progress import Screen
    from allelse.launch import Machines, run_study

    _check("study", study, "a study, as allelse.load gives it", Study)
    _check("out", out, "a folder", str, Path, NoneType)
    _check("device", device, "auto, cpu, cuda or mps", str)
    _check("workers", workers, "a whole number", Integral, NoneType)
    _check("address", address, "a cluster's address", str, NoneType)
    machines = Machines(engine, workers, address, on_error=on_error)
    folder = Path(out) if out else Path("runs") / study.name
    with Screen() as screen:
        outcome = run_study(study, folder, device, screen, machines=machines)
    if failed := outcome.runs_by_status.get("failed", 0):
        pending = f" and {outcome.runs_by_status['pending']} are pending, as it was to stop there" if outcome.stopped else ""
        raise AllelseError(
            f"{folder}: {counted(failed, 'run')} failed{pending}, see {folder / 'allelse.log'}; running again tries them again"
        )
    return Results(folder)


class Results:
    """What an output folder holds. Every method reads it anew, so it may be watched while it is written."""

    def __init__(self, folder: str | Path) -> None:
        _check("folder", folder, "a folder", str, Path)
        self.folder = Path(folder)

    def runs(self, *, timing: bool = False) -> pd.DataFrame:
        """One row a run: ``run``, the factors, ``seed``, ``status``, ``error``, ``accuracy`` (percent), other metrics."""
        with store.read(self.folder) as opened:
            return opened.table(timing=timing)

    def epochs(self) -> pd.DataFrame:
        """One row an epoch of a run: ``run``, the factors, ``seed``, ``epoch`` (from 1), ``lr``, and the accuracies (percent)
        and losses after it."""
        with store.read(self.folder) as opened:
            return opened.epochs()

    def probes(self) -> pd.DataFrame:
        """One row a layer and probed step of a run: ``run``, the factors, ``seed``, ``layer``, ``step`` (from 0), ``epoch``,
        then what was measured there: norms of gradients and weights, saturation, ranks, distances of statistics."""
        with store.read(self.folder) as opened:
            return opened.probes()

    def arms(self, metric: str = "accuracy") -> pd.DataFrame:
        """One row an arm: the factors, ``n``, ``mean``, ``sd``, ``low``, ``high`` (95 % t interval), and what is missing."""
        with store.read(self.folder) as opened:
            return stats.arm_table(opened.table(), list(opened.definition["factors"]), metric)

    def tuning(self) -> pd.DataFrame:
        """One row a value tried for the tuned number: the factors, ``value``, ``mean`` of the metric, ``n``, ``chosen``."""
        with store.read(self.folder) as opened:
            settled = opened.tuning
        choices = Tuning.from_json(settled).choices if settled else ()
        rows = [
            {**choice.levels, "value": tried.value, "mean": tried.mean, "n": tried.n, "chosen": tried.value == choice.value}
            for choice in choices
            for tried in choice.tried
        ]
        return pd.DataFrame(rows)

    def verdicts(self, also: str | Path | None = None) -> pd.DataFrame:
        """One row a claim: its ``id``, what it ``says``, its ``verdict``, estimate, n, correlation and sentence.

        ``low`` and ``high`` are a t interval at ``level``: 1 − the study's ``alpha``, for ``within`` and ``stable`` 1 − 2
        ``alpha``; it and ``p`` are before Holm's correction, the verdict is after it.

        Arguments:
            also: a file of further ``[[claims]]``, made when the runs were there: in the column ``exploratory`` they are True.
        """
        _check("also", also, "a file", str, Path, NoneType)
        with store.read(self.folder) as opened:
            judged, explored = judge(opened), []
            if also is not None:
                explored = judge_also(opened, further_claims(str(also), opened.definition))
        columns = [
            *("id", "says", "verdict", "metric", "estimate", "low", "high", "level", "p", "p_adjusted", "p_sign_flip"),
            *("n", "correlation", "sentence", "reason"),
        ]
        frame = pd.DataFrame([verdict.to_json() for verdict in [*judged, *explored]], columns=columns)
        if also is not None:
            frame["exploratory"] = [False] * len(judged) + [True] * len(explored)
        return frame

    def comparisons(self) -> pd.DataFrame:
        """One row a published figure and arm of ours: theirs, ours, the difference with its interval, p, and the verdict."""
        with store.read(self.folder) as opened:
            return pd.DataFrame([one.to_json() for one in compare(opened)])

    def figures(self) -> list[Path]:
        """Write the study's figures, as PNG and SVG, into ``figures/`` of the folder; the paths of the PNG files."""
        with store.read(self.folder) as opened:
            figures = compute_figures(gather(opened))
            written = write_figures(figures, opened.folder / "figures")
        return [path for path in written if path.suffix == ".png"]

    def report(self) -> Path:
        """Write ``report.html``, ``report.md`` and ``figures/`` into the folder; the path of the HTML file."""
        return write_report(self.folder)

    def __repr__(self) -> str:
        return f"Results({str(self.folder)!r})"
