"""Output folders of made-up studies to be united."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_support import MADE, definition, result

from allelse import store
from allelse.errors import StoreError
from allelse.records import RunSpec

FACTORS = {"model.activation": ["sigmoid", "relu"]}


def fill(folder, seeds, *, final=None, pack=2, made=MADE, accuracy=lambda spec: 50.0 + spec.seed, factors=FACTORS, **changes):
    """A folder of two arms whose runs with a seed of ``final`` are done; packs of ``pack`` seeds of one arm."""
    described = definition(**{"factors": factors, "claims": [], "seeds": list(seeds), **changes})
    specs = [RunSpec(arm["levels"], arm["recipe"], seed) for arm in described["arms"] for seed in seeds[: arm.get("seeds")]]
    ids = [spec.id for spec in specs]
    way = {"convolution": "grouped", "graph": False}
    packs = [
        {"runs": ids[first : first + pack], "way": way, "images_per_second": 9.0, "seconds": 1.0 * pack}
        for first in range(0, len(ids), pack)
    ]
    plan = {"packs": packs, "machine": {"device": made.device, "torch": made.torch}, "computing": {"pack": True, "graph": True}}
    with store.write(folder, described) as opened:
        opened.begin(plan, [(spec.id, spec.arm, spec.seed) for spec in specs])
        opened.record(
            [
                replace(result(spec, accuracy(spec), probes=False), provenance=made)
                for spec in specs
                if spec.seed in (seeds if final is None else final)
            ]
        )
    return folder


def content(folder):
    """Every byte of a folder, by path."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def of_seeds(folder):
    """Status by arm and seed, in the order of the table, and the seeds of the definition."""
    with store.read(folder) as opened:
        runs = [(run.arm["model.activation"], run.seed, run.status) for run in opened.runs()]
        return runs, opened.definition["seeds"]


def refused(out, *folders):
    with pytest.raises(StoreError) as caught:
        store.merge(out, folders)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def some(*activations):
    """What makes ``fill`` a folder of these arms alone."""
    return {"factors": {"model.activation": list(activations)}}
