"""Short trainings in packs against the same ones alone: test accuracy by seed in the precision that users get.

    python -m benchmarks.packed_accuracy [STUDY] [--arm N] [--seeds 12] [--replicas 2] [--set KEY=VALUE …] [--workers 2]

In float64 a pack is exactly its networks (``ways.py``). In bf16 sums round differently in a pack, so two trainings of one seed
drift apart as two seeds do; neither way may be the better one. The packaged studies are taken in their scaled version.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from allelse import data, engine, stats, study
from allelse.records import Pack


def trained(pack: Pack) -> list[float]:
    torch.set_num_threads(1)
    results = engine.train_pack(pack, data.load(str(pack.recipe["dataset"])), torch.device("cpu"))
    return [result.metrics["accuracy"] for result in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", default="conv-activation-norm-position")
    parser.add_argument("--arm", type=int, default=0, help="its place in the study")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    loaded = study.load(asked.study, scaled=True, seeds=asked.seeds, first_seed=100, changes=asked.changes)  # no study's seeds
    arm = loaded.arms[asked.arm].levels
    runs = [run for run in loaded.runs() if run.arm == arm]
    packs = [Pack((run,)) for run in runs]
    packs += [Pack(tuple(runs[first : first + asked.replicas])) for first in range(0, len(runs), asked.replicas)]
    with ProcessPoolExecutor(asked.workers, get_context("spawn")) as pool:
        accuracies = [accuracy for pack in pool.map(trained, packs) for accuracy in pack]
    alone, packed = (np.array(part) for part in np.split(np.array(accuracies), 2))
    print("| seed | alone | packed |\n|--:|--:|--:|")
    for run, one, other in zip(runs, alone, packed, strict=True):
        print(f"| {run.seed} | {one:.2f} | {other:.2f} |")
    low, high = stats.t_interval(packed - alone)
    print(
        f"\n{loaded.name}, {', '.join(map(str, arm.values()))}{''.join(f', {change}' for change in asked.changes)}: packs of "
        f"{asked.replicas} minus alone {np.mean(packed - alone):+.2f} points (95 % t interval {low:+.2f} to {high:+.2f}, "
        f"n = {len(runs)} seeds), {engine.describe_device(torch.device('cpu'))}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
