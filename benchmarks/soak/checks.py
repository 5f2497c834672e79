"""Checks: an output folder and the one of a study that nobody disturbed in; what differs between them, in words, out.

Every byte of what is stored and written must be the same, but for

- ``timing`` of each run, and ``started`` in its provenance: they say when it was made, and how fast;
- ``progress.json``, which says when it was written; it must say that all is done;
- ``allelse.log``, which may hold one warning for each worker that was killed, and nothing else.

The report shows none of these, so it is compared as it is, with its figures. It does show the commit of allelse's own
repository, so a soak wants a checkout that nobody commits to meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from allelse import progress, store
from allelse.records import RunResult, canonical_json

from .strikes import HERE, allelse

MAY_DIFFER = ("study.sqlite", "progress.json", "allelse.log")
"""as bytes; what they hold is compared"""
WHEN = re.compile(rb", [0-9-]{10}(?: to [0-9-]{10})? \(UTC\), in [0-9.]+ \w+ of computing\.")
"""in a report: on which days it was trained, and for how long"""
NEVER_BEGAN = re.compile(r"holds no study\.sqlite|its study never began")
EXPORTS = (("results", "--runs", "--format", "csv"), ("results", "--format", "json"), ("verdicts", "--format", "json"))


def what_is_equal(result: RunResult | None) -> str:
    """All of a run's result that must be the same, as one text."""
    if result is None:
        return "nothing"
    made = replace(result.provenance, started="") if result.provenance else None
    return canonical_json(asdict(replace(result, timing={}, provenance=made)))


def stored(out: Path) -> dict[str, Any]:
    """All that a store holds, by what it is; each run by its part, id, arm, seed and status, in the store's order."""
    held: dict[str, Any] = {}
    with store.read(out) as opened:
        held["definition"], held["plan"], held["tuning"] = opened.definition, opened.plan, opened.tuning
        tuning = opened.tuning_part
        held["plan of the tuning"] = tuning and tuning.plan
        held["runs"] = {}
        for name, part in (("", opened), ("tuning ", tuning)):
            for run in part.runs() if part else ():
                held["runs"][f"{name}{run.id} {canonical_json(run.arm)} {run.seed} {run.status}"] = what_is_equal(run.result)
    return held


def differences(out: Path, expected: Path, *, lost: int) -> Iterator[str]:
    """What of a folder is not as in that of a study that nobody disturbed; ``lost`` workers were killed."""
    here, there = stored(out), stored(expected)
    for what in there:
        if what != "runs" and here[what] != there[what]:
            yield f"the {what} is another one"
    if list(here["runs"]) != list(there["runs"]):
        missing, strange = (
            [run for run in a if run not in b] for a, b in ((there["runs"], here["runs"]), (here["runs"], there["runs"]))
        )
        yield f"other runs: {len(missing)} lost {missing[:2]}, {len(strange)} strange {strange[:2]}, or in another order"
    yield from (f"run {run}: another result" for run, text in there["runs"].items() if here["runs"].get(run, text) != text)
    here_files, there_files = files(out), files(expected)
    if extra := sorted(set(here_files) ^ set(there_files) - {"allelse.log"}):
        yield f"files that are in one folder only: {', '.join(extra)}"
    yield from (f"{name} has other bytes" for name in there_files if here_files.get(name, "") != there_files[name])
    for words in EXPORTS:
        if exported(out, words) != expected_export(expected, words):
            yield f"'allelse {' '.join(words)}' gives other bytes"
    if (journal := progress.read(out)) is None or not journal.ended or journal.share < 0.999:
        yield f"progress.json does not say that all is done: {journal}"
    yield from unexpected_warnings(out, lost)


def files(out: Path) -> dict[str, bytes]:
    """Every file by name, with its bytes where they must be the same; without the day and how long it took."""
    paths = {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {
        name: b"" if name in MAY_DIFFER else WHEN.sub(b"", path.read_bytes())
        for name, path in paths.items()
        if name != "allelse.log"
    }


@cache
def expected_export(out: Path, words: tuple[str, ...]) -> bytes:
    return exported(out, words)


def exported(out: Path, words: tuple[str, ...]) -> bytes:
    verb, *options = words
    return subprocess.run(
        list(map(str, allelse(verb, out, *options))), env={**os.environ, **HERE}, capture_output=True, check=True
    ).stdout


def unexpected_warnings(out: Path, lost: int) -> Iterator[str]:
    """Lines of the log, but for one a worker that was killed."""
    log = out / "allelse.log"
    lines = log.read_text().splitlines() if log.exists() else []
    told = [
        line for line in lines if re.search(r" WARNING pack [0-9a-f]{12}:? .*was lost: |pack [0-9a-f]{12} was lost: ", line)
    ]
    yield from (f"allelse.log: {line}" for line in lines if line not in told)
    if len(told) > lost:
        yield f"allelse.log: {len(told)} workers were lost, and only {lost} were killed"


class Watch:
    """Looks at a folder after each kill: it can be read, and what was finished once stays as it is."""

    def __init__(self, out: Path, expected: Mapping[str, str]) -> None:
        """
        Arguments:
            out: the folder that is looked at.
            expected: what its runs must come to, as ``stored`` has them.
        """
        self.out = out
        self.expected = {key.rpartition(" ")[0]: text for key, text in expected.items()}
        self.began = False
        self.finished: set[str] = set()
        self.runs: set[str] = set()

    def look(self) -> Iterator[str]:
        """What is wrong now."""
        ended = subprocess.run(
            list(map(str, allelse("status", self.out))), env={**os.environ, **HERE}, capture_output=True, text=True, check=False
        )
        never_began = ended.returncode == 2 and not self.began and NEVER_BEGAN.search(ended.stderr)
        if ended.returncode and not never_began:
            yield f"'allelse status' ended with exit code {ended.returncode}: {ended.stderr.strip()[-500:]}"
        if ended.returncode:
            return
        self.began = True
        now = {}
        for key, text in stored(self.out)["runs"].items():
            run, _, status = key.rpartition(" ")
            now[run] = status
            if status in ("done", "diverged") and text != self.expected.get(run):
                yield f"run {run} is {status} with another result"
            if status == "failed":
                yield f"run {run} failed: {json.loads(text)['error']}"
        if gone := self.runs - set(now):
            yield f"runs that were planned are not there any more: {sorted(gone)[:2]}"
        finished = {run for run, status in now.items() if status in ("done", "diverged")}
        if again := self.finished - finished:
            yield f"runs that were finished are not any more: {sorted(again)[:2]}"
        self.runs, self.finished = set(now), finished
