"""Everything that waits for a GPU, in one go: correctness first, then speed. Goes on where it stopped.

    python benchmarks/gpu_checks.py [--device cuda] [--out FOLDER] [--seconds 500]

Writes gpu_checks.json after every figure; a figure that it holds is not measured again, and no new one is begun after
``--seconds``. Needs no data set: the images are noise of CIFAR-10's shape.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from allelse import data, engine, study
from allelse.engine.loop import Training
from allelse.engine.measure import images_per_second
from allelse.engine.optim import OPTIMIZERS
from allelse.models import stacked_parameters
from allelse.records import Pack, RunSpec

NORMS = ["batch", "group", "layer", "instance", "none"]
STEPS = 5


def noise() -> data.Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(10_000) % 10
    return data.Dataset("noise", images, labels, images[:1000], labels[:1000], tuple("0123456789"), "noise")


def runs(seeds: int, *changes: str) -> tuple[RunSpec, ...]:
    one_arm = ["model.activation=relu", "model.depth=4", "model.norm=batch", *changes]
    return tuple(study.load("sigmoid-vs-relu", seeds=seeds, changes=one_arm).runs())


def after_steps(pack: Pack, dataset: data.Dataset, device: torch.device) -> list[torch.Tensor]:
    """Each parameter, [R, ...] in float64 on the CPU, after a few training steps."""
    training = Training(pack, dataset, device)
    batches = training.train_feed.training_batches(
        training.draw(), training.recipe.batch_size, training.dtype, training.cutout_size
    )
    for x, labels in itertools.islice(batches, STEPS):
        training.train_step(x, labels, lr=1e-3)
    return [parameter.detach().double().cpu() for _, _, _, parameter in stacked_parameters(training.network)]


def error(ours: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """‖ours − reference‖ / ‖reference‖ over all parameters."""
    difference = sum((a - b).square().sum() for a, b in zip(ours, reference, strict=True))
    return float((difference / sum(b.square().sum() for b in reference)) ** 0.5)


def checks(dataset: data.Dataset, device: torch.device) -> Iterator[tuple[str, Callable[[], float]]]:
    """Every figure by name, with what measures it."""
    small = ["batch_size=16", "model.width=32", "model.stem={ width = 32 }"]
    for norm in NORMS:
        exact = runs(3, *small, f"model.norm={norm}", "precision=fp64")

        def pack_against_lone(exact: tuple[RunSpec, ...] = exact) -> float:
            together = after_steps(Pack(exact), dataset, device)
            alone = [after_steps(Pack((run,)), dataset, device) for run in exact]
            return max(error([values[r : r + 1] for values in together], lone) for r, lone in enumerate(alone))

        yield f"{norm}: pack against lone runs, float64", pack_against_lone
        for precision in ("fp64", "fp32", "bf16"):
            packs = [Pack(runs(3, *small, f"model.norm={norm}", f"precision={kind}")) for kind in (precision, "fp64")]

            def device_against_cpu(packs: list[Pack] = packs) -> float:
                return error(after_steps(packs[0], dataset, device), after_steps(packs[1], dataset, torch.device("cpu")))

            yield f"{norm}: {precision} on this device against float64 on the CPU", device_against_cpu
    for name in OPTIMIZERS:  # without biases, whose gradient before a norm is nothing but rounding
        changes = (*small, "model.bias=false", "precision=fp64", f"optimizer={{ name = '{name}', lr = 1e-3 }}")
        exact = runs(3, *changes)

        def optimizer_against_cpu(exact: tuple[RunSpec, ...] = exact) -> float:
            return error(*(after_steps(Pack(exact), dataset, where) for where in (device, torch.device("cpu"))))

        yield f"{name}: float64 on this device against the CPU", optimizer_against_cpu
    for batch, replicas, width in itertools.product((2, 8, 32, 128, 512), (1, 4, 10, 32), (32, 64, 256)):
        pack = Pack(runs(replicas, f"batch_size={batch}", f"model.width={width}", f"model.stem={{ width = {width} }}"))
        name = f"images/s at batch {batch}, {replicas} replicas, width {width}"
        yield name, lambda pack=pack: images_per_second(pack, dataset, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seconds", type=float, default=500)
    asked = parser.parse_args()
    device = engine.find_device(asked.device)
    file = asked.out / "gpu_checks.json"
    figures = json.loads(file.read_text()) if file.exists() else {}
    machine = f"{engine.describe_device(device)}, torch {torch.__version__}"
    begun = time.monotonic()
    for name, measure in checks(noise(), device):
        if name in figures.setdefault(machine, {}) or time.monotonic() - begun > asked.seconds:
            continue
        try:
            figures[machine][name] = measure()
        except Exception as problem:  # the rest goes on
            figures[machine][name] = f"{type(problem).__name__}: {problem}"
        print(name, figures[machine][name], flush=True)
        file.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
