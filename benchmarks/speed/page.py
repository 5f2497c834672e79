"""The Markdown page: a machine and the records of its cells in; aims, tables and every cell of the grid out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.speed import floor, grid
from benchmarks.speed.aims import aims
from benchmarks.speed.reading import Reading
from benchmarks.speed.suite import PROCESSES_ON_A_GPU, SLOWEST_CELL, SLOWEST_MEASURED_STEP, SLOWEST_STEP

OTHERS = {"serial": "strong serial", "processes": "k processes", "plain": "plain", "grouped": "grouped", "vmap": "vmap"}


def page(machine: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page."""
    readings = [Reading(cell, records.get(cell.name), machine["precision"]) for cell in grid.cells()]
    measured = [reading for reading in readings if reading.record and not reading.reason]
    lines = [
        f"# Training speed: {machine['device']}",
        "",
        head(machine, records.values()),
        "",
        f"`python -m benchmarks.speed`: {len(measured)} of {len(readings)} cells measured. Training images a second over all "
        f"networks, the median of {_turns(records.values())} turns that the ways of a cell take one after another "
        f"(fewer where a cell takes over {SLOWEST_CELL:g} s); ratios are of these medians.",
        "",
        "## The aims, on this machine",
        "",
        *table(
            ("aim", "found", "met"),
            "llc",
            [
                (aim.says, aim.found, {True: "yes", False: "**no**", None: "—"}[aim.met])
                for aim in aims(readings, machine["type"])
            ],
        ),
        "",
        *_explanation(machine, measured),
        "",
    ]
    for size in ("digits", *grid.WIDTHS):
        chosen = sorted((r for r in readings if r.cell.size == size), key=_place)
        lines += [f"## {_heading(size)}", "", *_speeds(chosen), ""]
    lines += ["## GroupNorm against BatchNorm", "", *_norms(readings), ""]
    lines += ["## What has to be done once", "", *_once(measured), ""]
    return "\n".join(lines)


def _turns(records: Iterable[Mapping[str, Any]]) -> str:
    """How many turns the ways took, as measured: ``3`` or ``3 to 5``."""
    counts = {len(way["turns"]) for record in records for way in record.get("ways", {}).values() if way.get("turns")}
    return " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else "no"


def head(machine: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> str:
    """When and on what was measured."""
    dates = sorted({record["date"] for record in records}) or ["nothing measured yet"]
    cuda = f" · CUDA {machine['cuda']}" if machine["cuda"] else ""
    return (
        f"{' to '.join(dict.fromkeys([dates[0], dates[-1]]))} · {machine['device']} · {machine['threads']} CPU threads · "
        f"{machine['precision']} · torch {machine['torch']}{cuda} · Python {machine['python']} · {machine['system']} · allelse "
        f"{machine['allelse']} · images: {machine['images']}"
    )


def _explanation(machine: Mapping[str, Any], measured: Sequence[Reading]) -> Iterator[str]:
    on_gpu, precision = machine["type"] == "cuda", machine["precision"]
    graph = "; the whole step is one CUDA graph" if on_gpu else ""
    loader = "2 workers, pinned memory, torch's TF32 defaults" if on_gpu else "no workers"
    k = f"the smaller of replicas and {PROCESSES_ON_A_GPU}, without MPS" if on_gpu else "the smaller of replicas and cores"
    runs = "; ".join(f"{name} {source.epochs} epochs of {source.images:,} images" for name, source in grid.SOURCES.items())
    yield from (
        "## What is compared",
        "",
        "One network in all: a 3 × 3 convolution, then 4 blocks of 3 × 3 convolution, norm and ReLU, all of one width, global "
        f"average, linear layer; Adam; GroupNorm with {grid.GROUPS} groups. CIFAR-10 is cropped and mirrored. What a run is: "
        f"{runs}. Every way has a process of its own and counts loss and right answers.",
        "",
        f"- **allelse**: the pack that its plan chooses, in its own training loop; convolutions in {precision}.",
        "- **strong serial**: one network after another in plain torch: images as uint8 on the device and cut out there, "
        f"{precision}, channels_last, fused Adam{graph}.",
        f"- **k processes**: k copies of strong serial at once; k is {k}; threads shared out.",
        f"- **plain**: DataLoader ({loader}), eager, fp32, as notebooks write it.",
        "- **grouped**: all networks side by side in grouped convolutions, in the manner of HFTA: fp32, NCHW, eager.",
        f"- **vmap**: `torch.func.vmap` of the gradient over stacked parameters; {precision}, eager, fused Adam; BatchNorm "
        "keeps no running statistics there, because `vmap` cannot update them in place.",
        "",
        "**The floor** of a step is the larger of arithmetic over the measured matrix rate and bytes over the measured copy "
        f"rate{_rates(measured)}.",
        "",
        "```text",
        *[line.removeprefix("    ") for line in (floor.__doc__ or "").splitlines()[2:4]],
        "```",
        "",
        " ".join((floor.__doc__ or "").split("\n\n")[2].split()),
        "",
        f"Not measured is what would take over {SLOWEST_STEP:g} s a step at the measured matrix rate, or takes over "
        f"{SLOWEST_MEASURED_STEP:g} s in truth.",
    )


def _rates(measured: Sequence[Reading]) -> str:
    if not measured:
        return ""
    said = []
    for what, unit in (("matrix", "FLOP/s"), ("copy", "B/s")):
        turns = [value for reading in measured if reading.record for value in reading.record[what]]
        said.append(f"{_si(median(turns), unit)}, from {_si(min(turns), unit)} to {_si(max(turns), unit)}")
    return f", measured in the turns of the same cell (medians and extremes of all: {'; '.join(said)})"


def _heading(size: str) -> str:
    return "Digits: 16 channels, 8 × 8 pixels" if size == "digits" else f"{size.capitalize()}: {grid.WIDTHS[size]} channels"


def _place(reading: Reading) -> tuple[str, int, int]:
    return reading.cell.norm, reading.cell.batch, reading.cell.replicas


def _speeds(readings: Sequence[Reading]) -> list[str]:
    titles = (
        "norm",
        "batch",
        "replicas",
        "pack",
        "images/s",
        "runs/h",
        *[f"× {name}" for name in OTHERS.values()],
        "floor",
        "matrix",
    )
    rows = []
    for reading in readings:
        cell, ours = reading.cell, reading.way("allelse")
        row = [cell.norm, str(cell.batch), str(cell.replicas)]
        if reading.reason:
            row += [f"not measured: {reading.reason}", *[""] * (len(titles) - 4)]
        else:
            pack = " ".join(map(str, filter(None, (ours.get("replicas"), ours.get("way")))))
            row += [pack or "not measured: " + ours.get("not_measured", "no reason kept")]
            row += [number(reading.rate("allelse")), number(reading.runs_per_hour())]
            row += [_ratio(reading, way) for way in OTHERS]
            row += [_percent(reading.share_of_floor()), _percent(reading.share_of_matrix_rate())]
        rows.append(row)
    return table(titles, "lrrlrrrrrrrrr", rows)


def _ratio(reading: Reading, way: str) -> str:
    ratio = reading.over(way)
    if ratio is not None:
        return f"{ratio:.2f}"
    reason = reading.way(way).get("not_measured", "—")
    return "—" if reason == "one process is strong serial" else str(reason)


def _norms(readings: Sequence[Reading]) -> list[str]:
    """GroupNorm's time over BatchNorm's: both in shares of the matrix rate of their own turns, so that drift cancels."""
    pairs: dict[tuple[int, int, int], dict[str, Reading]] = {}
    for reading in readings:
        if reading.cell.data != "digits":
            pairs.setdefault((reading.cell.width, reading.cell.batch, reading.cell.replicas), {})[reading.cell.norm] = reading
    rows = []
    for (width, batch, replicas), pair in sorted(pairs.items()):
        if len(pair) == 2 and all(not reading.reason for reading in pair.values()):
            times = [_times_as_long(pair, way) for way in ("allelse", "serial")]
            memory = [
                " / ".join(dict.fromkeys(str(pair[norm].way(way).get("memory") or "?") for norm in grid.NORMS))
                for way in ("allelse", "serial")
            ]
            rows.append((str(width), str(batch), str(replicas), *times, *memory))
    titles = ("width", "batch", "replicas", "allelse", "strong serial", "memory in allelse", "in strong serial")
    said = (
        "How many times as long a step with GroupNorm takes, each corrected by the matrix rate of its own turns; and the "
        "memory format of what the norms put out, one word where both agree."
    )
    return [said, "", *(table(titles, "rrrrrll", rows) if rows else ["No pair was measured."])]


def _times_as_long(pair: Mapping[str, Reading], way: str) -> str:
    batch, group = (
        reading.rate(way) and reading.rate(way) / median(reading.record["matrix"])  # type: ignore[index]
        for reading in (pair["BatchNorm"], pair["GroupNorm"])
    )
    return f"{batch / group:.2f}" if batch and group else "—"


def _once(measured: Sequence[Reading]) -> list[str]:
    said = (
        "Seconds to choose the pack (allelse measures it; remembered, so that the next study pays nothing), and to compile, "
        "capture and warm up; then allelse over strong serial with all of that counted, for all runs of the cell; and what "
        "share of them the choosing is."
    )
    rows = [
        (
            reading.cell.name,
            number(reading.way("allelse").get("choose_s"), 2),
            number(reading.way("allelse").get("start_s"), 2),
            number(reading.way("serial").get("start_s"), 2),
            number(reading.over_with_all("serial"), 2),
            _percent(reading.choosing_share(), 2),
        )
        for reading in measured
    ]
    titles = ("cell", "choosing", "start", "start of strong serial", "× strong serial, all counted", "choosing of all")
    return [said, "", *(table(titles, "lrrrrr", rows) if rows else ["Nothing was measured."])]


def table(titles: Sequence[str], sides: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; ``sides`` has one of l, r, c a column."""
    rule = {"l": "---", "r": "--:", "c": ":-:"}
    return [_row(titles), "|" + "|".join(rule[side] for side in sides) + "|", *map(_row, rows)]


def _row(row: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "/") for text in row) + " |"


def number(value: float | None, digits: int | None = None) -> str:
    """Three digits or so, or ``digits`` after the point."""
    if value is None:
        return "—"
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 0) -> str:
    return "—" if value is None else f"{100 * value:.{digits}f} %"


def _si(value: float, unit: str) -> str:
    prefix, size = next(((prefix, size) for prefix, size in (("T", 1e12), ("G", 1e9)) if value >= size), ("", 1.0))
    return f"{value / size:.3g} {prefix}{unit}"
