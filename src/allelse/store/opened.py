"""An open output folder: what is stored of a study in; its definition, plan, runs and tables out, and new results in."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allelse.design import EVERY_RUN
from allelse.records import RunResult, canonical_json, digest
from allelse.store import forms
from allelse.store.faults import explained
from allelse.store.schema import FILE, META_SEAL, RUN_SEAL, parted, put_details, seal

if TYPE_CHECKING:
    import pandas as pd  # takes half a second, and most readers of a store ask for no table

CHECKPOINTS = "checkpoints"
FINAL = ("done", "diverged")


@dataclass(frozen=True)
class StoredRun:
    """One planned run and what came of it."""

    id: str
    arm: Mapping[str, Any]
    seed: int
    status: str
    """``pending``, ``done``, ``diverged`` or ``failed``"""
    result: RunResult | None


class Store:
    """An open output folder; ``read`` and ``write`` make one.

    Whatever is read is checked first: every method raises ``StoreError``, one line, where the file is damaged or forged, or its
    disk is full, gone or not writable.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, *, tuning: bool = False, sealed: bool = True) -> None:
        self.folder = folder
        self._connection = connection
        self._sealed = sealed
        self._runs, self._plan = ("tuning_runs", "tuning plan") if tuning else ("runs", "plan")
        self._known: dict[bool, tuple[object, list[StoredRun]]] = {}

    @property
    def definition(self) -> dict[str, Any]:
        """The study as it was declared before the first step (``Study.definition``); its references are those last given."""
        text = self._meta("definition")
        if text is None:
            raise forms.damaged(self._where("definition"), "it is not there")
        return forms.definition(text, self._where("definition"))

    @property
    def plan(self) -> dict[str, Any] | None:
        """The plan as it was stored before the first step (``Plan.to_json``), or ``None`` when there is none yet."""
        text = self._meta(self._plan)
        return None if text is None else forms.plan(text, self._where(self._plan), self.status_from_run())

    @property
    def is_planned(self) -> bool:
        """Whether a run, also one of the tuning, is planned: what was declared stands from then on."""
        return any(self._meta(key) is not None for key in ("plan", "tuning plan", "parts")) or bool(self.status_from_run())

    @property
    def tuning_part(self) -> Store | None:
        """The same folder's plan and runs of tuning, in an arm each with one level more, the number; None without tuning."""
        if not self.definition.get("tune"):
            return None
        return Store(self.folder, self._connection, tuning=True, sealed=self._sealed)

    @property
    def tuning(self) -> dict[str, Any] | None:
        """What the tuning runs chose (``tuning.Tuning.to_json``); ``None`` without tuning, and until it is settled."""
        text = self._meta("tuning")
        return None if text is None else forms.tuning(text, self._where("tuning"), self.definition)

    @property
    def parts(self) -> list[dict[str, Any]]:
        """Of a united folder, what each of those with all arms that it was made of held: ``seeds``, number of ``runs``,
        ``machine``, ``command``; empty for any other."""
        text = self._meta("parts")
        return [] if text is None else forms.parsed("parts", text, self._where("parts"))

    def settle(self, tuning: Mapping[str, Any]) -> None:
        """Store what the tuning runs chose; once, for good."""
        with explained(self.folder), self._connection:
            self.put("tuning", canonical_json(tuning))

    def checkpoint(self, pack: str) -> Path:
        """Where the pack of this id keeps its checkpoint."""
        return self.folder / CHECKPOINTS / f"{pack}.safetensors"

    def forget_checkpoint(self, pack: str) -> None:
        """Remove the checkpoint of a pack whose results are stored, and what a worker that was killed left half-written; one
        that cannot be removed is never read again."""
        checkpoint = self.checkpoint(pack)
        with suppress(OSError):
            checkpoint.unlink(missing_ok=True)
            for half in checkpoint.parent.glob(f"{checkpoint.name}.*.partial"):
                half.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what a process that was killed left: half-written files, and checkpoints of packs that are stored."""
        stored = self.status_from_run()
        for pack in (self.plan or {"packs": []})["packs"]:
            if all(stored[run] in FINAL for run in pack["runs"]):
                self.forget_checkpoint(digest(pack["runs"]))
        with suppress(OSError):
            for half in (self.folder / CHECKPOINTS).glob("*.partial"):
                half.unlink(missing_ok=True)

    def begin(self, plan: Mapping[str, Any], runs: Iterable[tuple[str, Mapping[str, Any], int]]) -> None:
        """Store the plan and one pending row a run (id, arm, seed), in one transaction."""
        rows = [
            (run, place, json.dumps(dict(arm), ensure_ascii=False), seed, "pending", None, None)
            for place, (run, arm, seed) in enumerate(runs)
        ]
        with explained(self.folder), self._connection:
            self.put(self._plan, json.dumps(plan))
            self.insert(rows)

    def replan(self, plan: Mapping[str, Any]) -> None:
        """Store a plan of the same runs in place of the one before."""
        with explained(self.folder), self._connection:
            self.put(self._plan, json.dumps(plan))

    def record(self, results: Sequence[RunResult]) -> None:
        """Store the results of one pack, all of them or none; they are on the disk when this returns."""
        texts = [canonical_json(result.to_json()).encode("utf-8", "replace").decode() for result in results]
        with explained(self.folder), self._connection:
            for result, whole in zip(results, texts, strict=True):
                text, details = parted(whole)
                updated = self._connection.execute(
                    f"UPDATE {self._runs} SET status = ?1, result = ?2, "  # noqa: S608  (a name of ours)
                    "seal = seal(id, place, arm, seed, ?1, ?2) WHERE id = ?3",
                    (result.status, text, result.run),
                )
                if updated.rowcount != 1:
                    raise forms.damaged(self._where("runs"), f"the run {result.run} that was planned is not there")
                put_details(self._connection, result.run, details)

    def runs(self) -> list[StoredRun]:
        """Every planned run, in the plan's order."""
        return self._read(whole=True)

    def outcomes(self) -> list[StoredRun]:
        """As ``runs``, many times faster: results without epochs and probes."""
        return self._read(whole=False)

    def _read(self, *, whole: bool) -> list[StoredRun]:
        with explained(self.folder):
            stamp = (self._connection.execute("PRAGMA data_version").fetchone()[0], self._connection.total_changes)
        if whole not in self._known or self._known[whole][0] != stamp:
            self._known[whole] = (stamp, self._checked(self.rows(whole=whole)))
        return list(self._known[whole][1])

    def rows(self, *, whole: bool = True) -> list[tuple[Any, ...]]:
        """Every row as it is stored, ``id``, ``place``, ``arm``, ``seed``, ``status``, ``result``, ``details``, both seals, by
        place; without details unless ``whole``."""
        details = "details.value" if whole and self._sealed else "NULL"
        seals = f"{self._runs}.seal, {'details.seal' if whole else 'NULL'}" if self._sealed else "NULL, NULL"
        joined = "LEFT JOIN details ON details.run = id" if whole and self._sealed else ""
        with explained(self.folder):
            rows = self._connection.execute(  # not by the index: a damaged one would leave rows out
                f"SELECT id, place, arm, {self._runs}.seed, status, result, {details}, {seals} "  # noqa: S608
                f"FROM {self._runs} NOT INDEXED {joined} ORDER BY place"
            ).fetchall()
        if any(row[1] != place for place, row in enumerate(rows)) or len({row[0] for row in rows}) < len(rows):
            raise forms.damaged(self._where(self._runs), "a run is not there, or is there twice")
        if whole and not self._sealed:  # format 1, where they stood in the result
            rows = [(*row[:5], *parted(row[5]), *row[7:]) if isinstance(row[5], str) else row for row in rows]
        if whole and self._sealed and any(row[5] is not None and row[6] is None for row in rows):
            raise forms.damaged(self._where("details"), "epochs and probes of a run are not there")
        return rows

    def _checked(self, rows: Iterable[tuple[Any, ...]]) -> list[StoredRun]:
        definition = self.definition
        extra = {definition["tune"]["key"]} if self._runs == "tuning_runs" and definition.get("tune") else set()
        arms = {canonical_json(arm["levels"]) for arm in definition["arms"]}
        levels_from_text: dict[object, dict[str, Any]] = {}  # one text for all seeds of an arm

        def levels(text: object, where: str) -> dict[str, Any]:
            if text not in levels_from_text:
                found = forms.parsed("levels", text, where)
                if canonical_json({key: level for key, level in found.items() if key not in extra}) not in arms:
                    raise forms.damaged(where, "it is of no arm of the study")
                levels_from_text[text] = found
            return levels_from_text[text]

        return [self._stored(row, levels) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many runs have each status, in the order in which the plan comes upon them."""
        return dict(Counter(self.status_from_run().values()))

    def _stored(self, row: tuple[Any, ...], levels: Callable[[object, str], dict[str, Any]]) -> StoredRun:
        run, _, arm, seed, status, result, details, sealed, details_sealed = row
        if not isinstance(run, str) or not isinstance(seed, int) or status not in forms.STATUSES:
            raise forms.damaged(self._where(self._runs), f"a run has the id {run!r:.40}, the seed {seed!r:.40}, {status!r:.40}")
        run = forms.visible(run)
        where = self._where(f"run {run[:40]}")
        if self._sealed and (sealed != seal(*row[:6]) or (details is not None and details_sealed != seal(run, details))):
            raise forms.damaged(where, "it is not as it was stored")
        return StoredRun(run, levels(arm, where), seed, status, forms.result(result, details, run, status, where))

    def status_from_run(self) -> dict[str, str]:
        """The status of every run by id."""
        with explained(self.folder):
            rows = self._connection.execute(
                f"SELECT id, status, result IS NULL FROM {self._runs} NOT INDEXED ORDER BY place"  # noqa: S608
            ).fetchall()
        for run, status, without_result in rows:
            if not isinstance(run, str) or status not in forms.STATUSES or (status == "pending") != without_result:
                raise forms.damaged(self._where(self._runs), "a run has no id, or a status that cannot be")
        return {forms.visible(run): status for run, status, _ in rows}

    def table(self, *, timing: bool = False) -> pd.DataFrame:
        """One row a run in the plan's order: ``run``, one column a factor, ``seed``, ``status``, ``error``, one a metric.

        Where the arm of a run lacks a factor, its column holds None.
        A run that is not finished has its row, too, which ``attrs`` say (``design.EVERY_RUN``).
        With ``timing`` also what differs from one execution to the next: seconds, speed, device, versions, host.
        """

        def outcome(run: StoredRun) -> dict[str, Any]:
            row: dict[str, Any] = {"status": run.status, "error": run.result.error if run.result else None, "accuracy": None}
            if run.result:
                row.update(sorted(run.result.metrics.items()))
            if run.result and timing:
                seconds = run.result.timing.items()
                row |= {f"seconds_{key}" if key != "images_per_second" else key: value for key, value in seconds}
                row |= vars(run.result.provenance) if run.result.provenance else {}
            return row

        frame = self._table(self.outcomes(), lambda run: [outcome(run)])
        frame.attrs[EVERY_RUN] = True
        return frame

    def epochs(self) -> pd.DataFrame:
        """One row an epoch of a run, finished or diverged: ``run``, one column a factor, ``seed``, ``epoch`` (from 1), then
        ``lr`` and the accuracies and losses after it (``RunResult.epochs``)."""
        return self._table(
            self.runs(), lambda run: [{"epoch": n, **row} for n, row in enumerate(run.result.epochs if run.result else (), 1)]
        )

    def probes(self) -> pd.DataFrame:
        """One row a layer and probed step of a run: ``run``, one column a factor, ``seed``, ``layer``, ``step`` (from 0),
        ``epoch``, then what was measured there (``engine.probes``)."""
        first = ("layer", "step", "epoch")
        return self._table(
            self.runs(),
            lambda run: [{key: row.get(key) for key in first} | dict(row) for row in (run.result.probes if run.result else ())],
        )

    def _table(self, runs: Sequence[StoredRun], rows_of: Callable[[StoredRun], Iterable[Mapping[str, Any]]]) -> pd.DataFrame:
        """``run``, one column a factor and ``seed`` before each of a run's rows; where the name of a factor is that of a value,
        too, the value's has ``_measured`` after it."""
        import pandas as pd

        factors = dict.fromkeys([*self.definition["factors"], *(factor for run in runs for factor in run.arm)])
        rows = [
            {"run": run.id, **{factor: run.arm.get(factor) for factor in factors}, "seed": run.seed}
            | {f"{name}_measured" if name in factors else name: value for name, value in row.items()}
            for run in runs
            for row in rows_of(run)
        ]
        frame = pd.DataFrame(rows, columns=None if rows else ["run", *factors, "seed"])
        for factor in factors:
            if len({type(row[factor]) for row in rows}) > 1:  # else pandas makes 4.0 and nan of 4 and None, 0.0 of 0 beside 0.5
                frame[factor] = pd.Series([row[factor] for row in rows], dtype=object)
        return frame

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """All that is read within is of one moment, whatever another process writes meanwhile."""
        with explained(self.folder):
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                self._connection.rollback()

    # ── what a transaction of this room puts in ─────────────────────────────────────────────────────────────────────

    def put(self, key: str, text: str) -> None:
        """Put one value of the study in, within a transaction."""
        self._connection.execute("INSERT OR REPLACE INTO meta (key, value, seal) VALUES (?1, ?2, seal(?1, ?2))", (key, text))

    def insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Put runs in, each ``id``, ``place``, ``arm``, ``seed``, ``status``, ``result``, ``details``, within a transaction."""
        columns = RUN_SEAL.removeprefix("seal(").removesuffix(")")
        for *row, details in rows:
            self._connection.execute(
                f"INSERT INTO {self._runs} ({columns}, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, seal(?1, ?2, ?3, ?4, ?5, ?6))",  # noqa: S608
                row,
            )
            if details is not None:
                put_details(self._connection, row[0], details)

    def _meta(self, key: str) -> str | None:
        sealed = f"seal = {META_SEAL}" if self._sealed else "NULL"
        with explained(self.folder):
            row = self._connection.execute(
                f"SELECT value, {sealed} FROM meta NOT INDEXED WHERE key = ?",  # noqa: S608
                (key,),
            ).fetchone()
        if row and row[1] == 0:
            raise forms.damaged(self._where(key), "it is not as it was stored")
        return row[0] if row else None

    def _where(self, part: str) -> str:
        return f"{self.folder}: {part} in {FILE}"
