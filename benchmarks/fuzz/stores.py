"""Parsers of what a study leaves: stored results, checkpoints; and the pages, tables and figures that are made of them."""

from __future__ import annotations

import copy
import csv
import html.parser
import io
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

from allelse import store
from allelse.errors import StoreError
from allelse.records import Provenance, RunResult, RunSpec
from allelse.store import schema

from .mutations import ODD_TEXTS, spoilt_bytes, spoilt_value
from .studies import quiet
from .trials import CONTROL, Fault

POSITION: Any = {
    "epoch": 1,
    "seconds": {"train": 1.0},
    "diverged": [False],
    "history": [[{"lr": 0.1}]],
    "probes": [[]],
    "fingerprints": [{"data": "d"}],
}
MADE = Provenance("0.1.0", "2.13.0", "3.11.7", "a CPU", "bf16", 2, "host", "2026-01-01T00:00:00+00:00")


def write(folder: Path, texts: dict[str, str] | None = None) -> Path:
    """A small store of made-up results; ``texts`` replace the words in it that come from a user."""
    say = {
        "name": "made-up",
        "question": "Does it matter?",
        "factor": "model.activation",
        "level": "relu",
        "says": "It is above",
    }
    say |= {"source": "a paper", "error": "it diverged", "device": "a CPU", "note": "a note", **(texts or {})}
    factors: dict[str, list[Any]] = {say["factor"]: ["sigmoid", say["level"]], "model.depth": [1, 2]}
    arms = [dict(zip(factors, levels, strict=True)) for levels in product(*factors.values())]
    named = {say["factor"]: say["level"]}
    claim = {
        "id": "above",
        "says": say["says"],
        "kind": "higher",
        "a": named,
        "b": {say["factor"]: "sigmoid"},
        "for_each": "model.depth",
    }
    definition = {
        "name": say["name"], "question": say["question"], "seeds": [0, 1, 2], "alpha": 0.05, "factors": factors, "quick": False,
        "arms": [{"levels": arm, "recipe": {"epochs": 2, "dataset": say["note"], "x": arm}} for arm in arms],
        "claims": [claim], "references": [{"source": say["source"], "arm": named, "accuracy": 80.0, "note": say["note"]}],
        "notes": [say["note"]], "command": f"allelse run {say['name']}",
    }  # fmt: skip
    specs = [RunSpec(arm["levels"], arm["recipe"], seed) for arm in definition["arms"] for seed in definition["seeds"]]
    provenance = Provenance(**{**vars(MADE), "device": say["device"], "host": say["device"]})
    results = []
    for number, spec in enumerate(specs):
        metrics = {"accuracy": 70.0 + number % 5, "accuracy_running": 70.0, "accuracy_recalibrated": 71.0}
        rows = [
            {"step": step, "epoch": 0.0, "layer": layer, "gradient_norm": 0.1 + step, "weight_norm": 1.0}
            for step in (0, 9)
            for layer in ("stem.conv", "head")
        ]
        epochs = [{"train_accuracy": 50.0 + epoch, "test_accuracy": 60.0 + epoch} for epoch in range(2)]
        prints = {"data": "d", "init head 4x10": f"h{spec.seed}"}
        whole = RunResult(spec.id, "done", metrics, epochs, prints, rows, {"train": 1.0}, provenance, None)
        lost = RunResult(spec.id, "diverged", fingerprints=prints, provenance=provenance, error=say["error"])
        results.append(lost if number == 4 else whole)
    with store.write(folder, definition) as opened:
        opened.begin(
            {"packs": [{"runs": [spec.id], "images_per_second": None, "seconds": 1.0} for spec in specs]},
            [(s.id, s.arm, s.seed) for s in specs],
        )
        opened.record(results)
    return folder


def look(folder: Path, pages: bool = False) -> None:
    """Everything that looks at a store."""
    from allelse.cli import frames, tables
    from allelse.cli.comparisons import show_comparisons
    from allelse.cli.status import show
    from allelse.errors import StudyError
    from allelse.report import gather, judge
    from allelse.report.contents import contents
    from allelse.report.markdown import markdown

    for output in ("table", "csv", "json"):
        ends = [0]
        with quiet(), store.read(folder) as opened:
            if output == "table":
                show(opened)
                tables.show_results(opened)
                tables.show_verdicts(judge(opened))
                markdown(contents(gather(opened)))
                tables.show_runs(frames.of_runs(opened, "--runs", timing=True), opened.definition)
            else:
                for frame in (
                    tables.arms(opened),
                    frames.of_runs(opened, "--runs", timing=True),
                    frames.of_runs(opened, "--epochs"),
                    frames.of_runs(opened, "--probes"),
                ):
                    frames.write(frame, output, opened)
                    ends.append(len(caught_text()))
            try:
                show_comparisons(gather(opened), output)
            except StudyError:
                continue
            whole = caught_text()
        if output == "csv":
            for first, last in pairwise([*ends, len(whole)]):
                check_csv(whole[first:last])


def caught_text() -> str:
    import sys

    return sys.stdout.buffer.getvalue().decode()  # type: ignore[attr-defined]


def values(rng: Random, folder: Path) -> None:
    """A store whose stored values were changed; mostly sealed anew, as by someone who knows how."""
    write(folder / "out")
    with closing(sqlite3.connect(folder / "out" / store.FILE)) as connection, connection:
        connection.create_function("seal", -1, schema.seal, deterministic=True)
        table, column, key = rng.choice(
            (
                *(("meta", "value", "key"), ("runs", "result", "id"), ("runs", "arm", "id"), ("runs", "status", "id")),
                ("details", "value", "run"),
            )
        )
        rows = connection.execute(f"SELECT {key}, {column} FROM {table} ORDER BY {key}").fetchall()
        name, text = rng.choice(rows)
        if column != "status" and rng.random() < 0.7:
            text = json.dumps(spoilt_value(rng, json.loads(text), raw=False))
        elif rng.random() < 0.5:
            text = rng.choice(ODD_TEXTS)
        else:
            text = spoilt_bytes(rng, str(text).encode())
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (text, name))
        if rng.random() < 0.8:
            sealed = {"meta": schema.META_SEAL, "runs": schema.RUN_SEAL, "details": "seal(run, value)"}[table]
            connection.execute(f"UPDATE {table} SET seal = {sealed}")
        if rng.random() < 0.1:
            connection.execute(
                rng.choice(("DROP TABLE runs", "DELETE FROM meta", "DELETE FROM runs", "ALTER TABLE runs DROP COLUMN seed"))
            )
    look(folder / "out")


def bytes_(rng: Random, folder: Path) -> None:
    """A store whose file was damaged."""
    write(folder / "out")
    path = folder / "out" / store.FILE
    path.write_bytes(spoilt_bytes(rng, path.read_bytes(), 6))
    if rng.random() < 0.2:
        (folder / "out" / f"{store.FILE}-journal").write_bytes(rng.randbytes(600))
    look(folder / "out")


def checkpoint(rng: Random, folder: Path) -> None:
    """A checkpoint whose bytes, position or tensors were changed."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    from torch import nn

    from allelse.engine.checkpoint import load_checkpoint, save_checkpoint

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        network(torch.ones(5, 3)).sum().backward()
        optimizer.step()
        return network, optimizer

    network, optimizer = made()
    path = folder / "pack.safetensors"
    save_checkpoint(path, "pack", {"network": network}, [optimizer], POSITION)
    fresh, other = made()
    if load_checkpoint(path, "pack", {"network": fresh}, [other]) != POSITION:
        raise Fault("a sound checkpoint is refused")
    if rng.random() < 0.4:
        path.write_bytes(spoilt_bytes(rng, path.read_bytes()))
    else:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        name = rng.choice(list(tensors))
        kind = rng.randrange(6)
        if kind == 0:
            key = rng.choice(list(metadata))
            metadata[key] = rng.choice(
                (*ODD_TEXTS, "[]", "1", '{"optimizer/9/0/step": 1}', '{"optimizer/a": 1}', "[" * 100_000)
            )
            metadata = {key: value.encode("utf-8", "replace").decode() for key, value in metadata.items()}
        elif kind == 1:
            del tensors[name]
        elif kind == 2:
            tensors[rng.choice(("optimizer/0/0/x", "optimizer/a/b/c", "optimizer/9/0/step", "optimizer/", "network/x", ""))] = (
                torch.zeros(2)
            )
        elif kind == 3:
            tensors[name] = torch.zeros(rng.choice(((1,), (7, 7), (0,), ())))
        elif kind == 4:
            tensors[name] = tensors[name].to(rng.choice((torch.int8, torch.float64, torch.bool, torch.bfloat16)))
        else:
            tensors[name] = tensors[name] + rng.choice((1.0, float("nan")))
        save_file(tensors, path, metadata=metadata)
    network, optimizer = made()
    before = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    position = load_checkpoint(path, "pack", {"network": network}, [optimizer])
    if position is None:
        same = all(torch.equal(old, new) for old, new in zip(before[0].values(), network.state_dict().values(), strict=True))
        if not same or json.dumps(before[1]["state"], default=str) != json.dumps(optimizer.state_dict()["state"], default=str):
            raise Fault("half taken: refused, but filled in part")
        raise StoreError("passed over, and its pack starts anew")
    if position != POSITION:
        raise Fault(f"half taken: another position {position}"[:200])
    if not all(bool(torch.equal(old, new)) for old, new in zip(before[0].values(), network.state_dict().values(), strict=True)):
        raise Fault("half taken: other weights were taken for its own")
    network(torch.ones(5, 3)).sum().backward()
    optimizer.step()


# ── pages ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pages(rng: Random, folder: Path) -> None:
    """Every table, page and figure of a store whose words are hostile."""
    from allelse.report import gather, write_report
    from allelse.report.contents import contents
    from allelse.report.markdown import markdown
    from allelse.report.page import html as html_of

    keys = ("name", "question", "factor", "level", "says", "source", "error", "device", "note")
    texts = {key: rng.choice(ODD_TEXTS)[:400] or "x" for key in rng.sample(keys, rng.randint(1, 9))}
    if texts.get("level") == "sigmoid" or texts.get("factor") == "model.depth":
        texts = {}
    look(write(folder / "out", texts))
    if rng.random() < 0.95:  # figures are drawn as paths and take seconds: few of them
        with store.read(folder / "out") as opened:
            told = replace(contents(gather(opened)), figures=(), mechanism_figures=())
        check_html(html_of(told, []))
        check_markdown(markdown(told))
        return
    write_report(folder / "out")
    check_html((folder / "out" / "report.html").read_text("utf-8"))
    check_markdown((folder / "out" / "report.md").read_text("utf-8"))
    for path in (folder / "out" / "figures").glob("*.svg"):
        check_svg(path.read_text("utf-8"))


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def check_html(text: str, of: str = "page", images: str = "data:") -> None:
    """Raise ``Fault`` unless nothing in it runs, is loaded or leads elsewhere."""
    if found := CONTROL.search(text):
        raise Fault(f"{of}: control character {found[0]!r}")
    tags = _Tags()
    tags.feed(text)
    for tag, attributes in tags.found:
        if tag in ("script", "iframe", "object", "embed", "base", "form") or (
            tag == "link" and attributes.get("href") != "data:,"
        ):
            raise Fault(f"{of}: <{tag}>")
        for key, value in attributes.items():
            if key.startswith("on"):
                raise Fault(f"{of}: {key}={value!r}"[:200])
            leads = key in ("href", "xlink:href", "src", "action", "srcset")
            if leads and not (value or "").startswith(("#", "data:image/png;base64,", images)):
                raise Fault(f"{of}: {key}={value!r}"[:200])


def check_markdown(text: str) -> None:
    """As ``check_html``, of what a reader of Markdown makes of it."""
    from markdown_it import MarkdownIt

    if found := CONTROL.search(text):
        raise Fault(f"markdown: control character {found[0]!r}")
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    check_html(rendered, "markdown", "figures/")
    if re.search(r"<a\b", rendered):
        raise Fault("markdown: a link")


def check_svg(text: str) -> None:
    for element in ElementTree.fromstring(text).iter():
        if element.tag.rpartition("}")[2] in ("script", "foreignObject", "a", "text"):
            raise Fault(f"svg: <{element.tag}>")
        for key, value in element.attrib.items():
            name = key.rpartition("}")[2]
            if name.startswith("on") or (name == "href" and not value.startswith(("#", "data:image/png"))):
                raise Fault(f"svg: {key}={value!r}"[:200])


def check_csv(text: str) -> None:
    """Raise ``Fault`` where a spreadsheet would take a cell for a formula."""
    rows = list(csv.reader(io.StringIO(text)))
    if len({len(row) for row in rows}) > 1:
        raise Fault("csv: rows of unequal length")
    for cell in (cell for row in rows for cell in row):
        if cell[:1] in tuple("=+-@\t\r"):
            try:
                float(cell)
            except ValueError:
                raise Fault(f"csv: the cell {cell!r}"[:200]) from None
