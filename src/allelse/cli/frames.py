"""What ``results`` and others give to programs: data frames in; CSV, JSON or Parquet on stdout out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pandas as pd

from allelse.cli import tuning
from allelse.design import is_absent
from allelse.errors import AllelseError, StoreError, inert
from allelse.store import Store


def option(given: Mapping[str, bool], output: str, timing: bool, metric: str) -> str:
    """Which of ``--runs``, ``--epochs`` and ``--probes`` is given; empty for none.

    Raises:
        AllelseError: it does not go with another one, or with a format.
    """
    asked = [name for name, is_given in given.items() if is_given]
    if len(asked) > 1:
        raise AllelseError(f"{' '.join(asked)}: are tables of their own; give one of them at a time")
    if timing and asked != ["--runs"]:
        raise AllelseError("--timing: belongs to single runs; give --runs too")
    if asked and metric != "accuracy":
        raise AllelseError(
            f"--metric {metric}: summarises arms; leave out {asked[0]}, or have every metric of each run by --format csv"
        )
    if output == "table" and asked and asked != ["--runs"]:
        raise AllelseError(f"{asked[0]}: is too wide for a terminal; give --format csv, json or parquet")
    return "".join(asked)


def of_runs(store: Store, name: str, *, timing: bool = False) -> pd.DataFrame:
    """The rows that ``--runs``, ``--epochs`` or ``--probes`` asks for, those of tuning runs first."""
    if name == "--runs":
        return tuning.rows(store, lambda part: part.table(timing=timing))
    return tuning.rows(store, Store.epochs if name == "--epochs" else Store.probes)


def write(frame: pd.DataFrame, output: str, store: Store) -> None:
    """Print a frame as CSV or JSON, or its Parquet bytes; JSON nests the arm's levels by factor."""
    if output == "parquet":
        if sys.stdout.isatty():
            raise StoreError("parquet is not for the screen; send it to a file: allelse results DIR --format parquet > FILE")
        # There a column has one type, where the levels of a factor may have several.
        for column in [name for name in frame if pd.api.types.is_object_dtype(frame[name])]:
            if len(kinds := set(frame[column].dropna().map(type))) > 1:
                frame[column] = frame[column].map(float if kinds <= {int, float} else str, na_action="ignore")
        frame.to_parquet(sys.stdout.buffer)
    elif output == "csv":
        print(as_csv(frame), end="")
    else:
        factors = list(store.definition["factors"])
        nested = [
            {
                **{key: value for key, value in row.items() if key not in factors},
                "arm": {factor: row[factor] for factor in factors if not is_absent(row[factor])},
            }
            for row in frame.to_dict("records")
        ]
        print(as_json(nested))


def as_json(rows: list[dict[str, Any]]) -> str:
    import json

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        value = value.item() if hasattr(value, "item") else value
        return None if isinstance(value, float) and value != value else value

    text = json.dumps([plain(row) for row in rows], indent=1, ensure_ascii=False, allow_nan=False)
    return text if inert(text) == text else json.dumps(json.loads(text), indent=1)


def as_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV. A text that a spreadsheet would take for a formula has an apostrophe before it, as OWASP advises."""

    def plain(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = inert(value)
        return f"'{text}" if text.startswith(FORMULA_STARTS) else text

    shown = pd.DataFrame(  # an object column stays one: pandas would make 1 and None into 1.0 and nan
        {
            plain(name): pd.Series([*map(plain, frame[name])], frame.index, object)
            if frame[name].dtype == object or _has_texts(frame[name])
            else frame[name]
            for name in frame
        }
    )
    return shown.to_csv(index=False)


FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n")


def _has_texts(column: pd.Series) -> bool:
    return not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))
