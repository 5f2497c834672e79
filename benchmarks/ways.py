"""Each way to compute a pack against lone networks in float64: how exact it is, how large its rounding is, how fast it is.

    python -m benchmarks.ways [--device auto] [--out FOLDER] [--seconds 500]

On a GPU these are the checks that nothing else can do. Correctness comes first, then speed. Goes on where it stopped: figures
that ways.json holds for this device are not measured again, what failed is tried again after all others, and none is begun
after ``--seconds``. A CUDA error, after which nothing works in this process, ends it with exit code 1. Writes ways-DEVICE.md.
Needs no data set: the images are noise of CIFAR-10's shape.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import date
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from allelse import data, engine, study
from allelse.blocks.weights import Conv2d
from allelse.engine.loop import Training
from allelse.engine.steps import STEPS_A_REPLAY
from allelse.models import stacked_parameters
from allelse.records import Pack, RunSpec, Way

CPU = torch.device("cpu")
NORMS = {name: f"model.norm={name}" for name in ("batch", "layer", "instance", "none")} | {
    "group": "model.norm={ name = 'group', groups = 4 }"
}
SGD = "optimizer={ name = 'sgd', lr = 0.05, momentum = 0.9 }"
OPTIMIZERS = {"sgd": [SGD], "adam": ["optimizer.lr=0.001"]}
CUT = {"sgd with a squared error and cut gradients": [SGD, "loss=squared-error", "max_grad_norm=0.5"]}
SMALL = ["batch_size=8", "model.width=16", "model.stem={ width = 16 }", "model.depth=2", "augment=['flip', 'crop']"]
FIRST = [(width, batch, replicas) for width in (32, 64) for batch in (2, 32, 128) for replicas in (32, 1)]
"""shapes whose speed tells most"""
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
KERNELS = [(3, 1), (3, 2), (1, 1), (1, 2)]
CHANNELS = [(3, 64, 1), (64, 64, 1), (5, 7, 1), (33, 17, 1), (16, 16, 16)]
"""in, out, groups of the convolutions that are asked whether NaN stays in one network"""
STEPS = 3 * STEPS_A_REPLAY
"""the first replay's steps are run as they are, the second's are recorded, the third is a replay"""


def noise() -> data.Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(10_000) % 10
    return data.Dataset("noise", images, labels, images[:1000], labels[:1000], tuple("0123456789"), "noise")


def runs(seeds: int, *changes: str) -> tuple[RunSpec, ...]:
    one_arm = ["model.activation=relu", *changes]
    return tuple(study.load("sigmoid-vs-relu", seeds=seeds, changes=one_arm).runs())


def after(
    steps: int, pack: Pack, dataset: data.Dataset, device: torch.device, *, rates: type = np.float64
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Each parameter and its last gradient, [R, ...] in float64 on the CPU, after so many training steps.

    A graph keeps learning rates in float32: its reference must have them so, too.
    """
    training = Training(pack, dataset, device)
    training.steps.rates = training.steps.rates.astype(rates).astype(float)
    training.steps.begin(0, training.draw(0))
    while training.steps.done < steps:
        training.steps.advance(steps)
    parameters = [parameter for _, _, _, parameter in stacked_parameters(training.network)]
    gradients = [parameter.grad.double().cpu() for parameter in parameters if parameter.grad is not None]
    return [parameter.detach().double().cpu() for parameter in parameters], gradients


def error(ours: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """‖ours − reference‖ / ‖reference‖ over all parameters."""
    difference = sum((a - b).square().sum() for a, b in zip(ours, reference, strict=True))
    return float((difference / sum(b.square().sum() for b in reference)) ** 0.5)


def checks(dataset: data.Dataset, device: torch.device) -> Iterator[tuple[str, Callable[[], float]]]:
    """Every figure by name, with what measures it."""

    @lru_cache
    def lone_of(steps: int, run: str, rates: type) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return after(steps, Pack((spec_from_id[run],)), dataset, CPU, rates=rates)

    spec_from_id: dict[str, RunSpec] = {}

    def lone(steps: int, run: RunSpec, *, graph: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The reference: a network alone, on the CPU."""
        spec_from_id[run.id] = run
        return lone_of(steps, run.id, np.float32 if graph else np.float64)

    candidates = (
        engine.ways(device) if device.type == "cuda" else tuple(Way(name) for name in ("grouped", "branches", "im2col"))
    )
    eager = tuple(Way(way.convolution) for way in candidates)
    all_ways = dict.fromkeys((*eager, *candidates))  # a graph that cannot be recorded may end the process
    exactly = [*itertools.product(OPTIMIZERS.items(), all_ways, NORMS), *itertools.product(CUT.items(), all_ways, ["batch"])]
    for (name, changes), way, norm in exactly:
        together = runs(3, *SMALL, NORMS[norm], *changes, "precision=fp64")

        def exact(together: tuple[RunSpec, ...] = together, way: Way = way) -> float:
            ours, _ = after(STEPS, Pack(together, way), dataset, device)
            references = [lone(STEPS, run, graph=way.graph)[0] for run in together]
            return max(error([values[r : r + 1] for values in ours], alone) for r, alone in enumerate(references))

        yield f"weights after {STEPS} steps of {name}, fp64 | {way.in_words(3)} | {norm}", exact
    for precision, way, norm in itertools.product(("bf16", "fp32"), eager, NORMS):
        rounded, unrounded = (runs(3, *SMALL, NORMS[norm], f"precision={kind}") for kind in (precision, "fp64"))

        def rounding(
            rounded: tuple[RunSpec, ...] = rounded, unrounded: tuple[RunSpec, ...] = unrounded, way: Way = way
        ) -> float:
            _, ours = after(1, Pack(rounded, way), dataset, device)
            references = [lone(1, run, graph=False)[1] for run in unrounded]
            return max(error([values[r : r + 1] for values in ours], alone) for r, alone in enumerate(references))

        yield f"gradients of the first step, {precision} | {way.in_words(3)} | {norm}", rounding
    for precision, way, (kernel, stride), channels in itertools.product(PRECISIONS, eager, KERNELS, CHANNELS):
        if way.convolution != "branches":  # whose convolutions are of one network each
            entering, leaving, groups = channels
            name = f"{entering} → {leaving}" + (" depthwise" if groups > 1 else "")
            kind = f"numbers of others that NaN reaches, {precision}, {kernel} × {kernel}, stride {stride}"
            count = partial(reached_by_nan, way, PRECISIONS[precision], kernel, stride, channels, device)
            yield f"{kind} | {way.in_words(3)} | {name}", count
    shapes = dict.fromkeys([*FIRST, *itertools.product((32, 64, 256), (2, 8, 32, 128, 512), (1, 4, 10, 32))])
    for width, batch, replicas in () if device.type == "cpu" else shapes:  # what a CPU does is in speed-cpu.md
        together = runs(
            replicas,
            NORMS["batch"],
            "model.depth=4",
            f"batch_size={batch}",
            f"model.width={width}",
            f"model.stem={{ width = {width} }}",
        )
        ways = all_ways if (width, batch, replicas) == FIRST[0] else candidates  # a plan takes no way without a graph
        for way in ways if replicas > 1 else [way for way in ways if way.convolution == "grouped"]:
            name = f"images/s, width {width}, batch {batch}, {replicas} replicas | {way.in_words(replicas)} | batch"
            yield name, partial(engine.images_per_second, Pack(together, way), dataset, device)


def reached_by_nan(
    way: Way, precision: torch.dtype, kernel: int, stride: int, channels: tuple[int, int, int], device: torch.device
) -> float:
    """How many numbers of two networks NaN reaches from the one between them in their pack, forward and backward."""
    entering, leaving, groups = channels
    layer = Conv2d(3, entering, leaving, kernel, True, stride, groups).to(device)
    layer.by_patches = way.convolution == "im2col"
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(8, 3, entering, 16, 16, device=device, dtype=precision)
    x[:, 1] = float("nan")
    x = x.flatten(1, 2).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = layer(x)
    gradient = torch.ones_like(out).unflatten(1, (3, -1))
    gradient[:, 1] = float("nan")
    out.backward(gradient.flatten(1, 2))
    per_network = [value.unflatten(1, (3, -1)).transpose(0, 1) for value in (out.detach(), x.grad) if value is not None]
    per_network += [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    return float(sum(int((~values[[0, 2]].isfinite()).sum()) for values in per_network))


def origin(problem: BaseException) -> BaseException:
    """What spoiled a recording: the error at the recording's end says only that something did."""
    while problem.__context__ and "capture" in str(problem):
        problem = problem.__context__
    return problem


def page(device: str, figures: dict[str, float | str]) -> str:
    """One table a kind of figure: norms along, ways down; or replicas' ways along, shapes down."""
    lines = [f"# Ways to compute a pack on {device}", "", f"{date.today()} · `python -m benchmarks.ways` · images: noise"]
    lines += [
        "",
        "Errors are ‖ours − reference‖ / ‖reference‖ over all parameters of 3 replicas against lone networks in float64",
    ]
    lines += ["on the CPU; figures that are not there were not measured.", ""]
    kinds = dict.fromkeys(name.split(" | ")[0] for name in figures)
    for kind in kinds:
        cells = {tuple(name.split(" | ")[1:]): value for name, value in figures.items() if name.startswith(f"{kind} | ")}
        norms = list(dict.fromkeys(norm for _, norm in cells))
        lines += [f"**{kind}**", "", f"| way | {' | '.join(norms)} |", "|---|" + "--:|" * len(norms)]
        for way in dict.fromkeys(way for way, _ in cells):
            shown = [_figure(cells.get((way, norm), "–")) for norm in norms]
            lines.append(f"| {way} | {' | '.join(shown)} |")
        lines.append("")
    return "\n".join(lines)


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value.replace("|", "/")
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seconds", type=float, default=500)
    asked = parser.parse_args()
    device = engine.find_device(asked.device)
    file = asked.out / "ways.json"
    figures = json.loads(file.read_text()) if file.exists() else {}
    machine = f"{engine.describe_device(device)}, torch {torch.__version__}"
    begun = time.monotonic()
    ours: dict[str, float | str] = figures.setdefault(machine, {})
    todo = [(name, measure) for name, measure in checks(noise(), device) if not isinstance(ours.get(name), float)]
    for name, measure in sorted(todo, key=lambda task: task[0] in ours):
        if time.monotonic() - begun > asked.seconds:
            break
        is_lost = False
        ours[name] = "did not come back"  # stands if this ends the process
        file.write_text(json.dumps(figures, indent=1))
        try:
            ours[name] = float(measure())
        except Exception as problem:  # the rest goes on
            first = origin(problem)
            ours[name] = f"{type(first).__name__}: {' '.join(str(first).split())[:200]}"
            is_lost = "CUDA error" in f"{problem} {first}"
            traceback.print_exc()
        print(name, ours[name], flush=True)
        file.write_text(json.dumps(figures, indent=1))
        (asked.out / f"ways-{device.type}.md").write_text(page(machine, ours))
        if is_lost:
            sys.exit(1)


if __name__ == "__main__":
    main()
