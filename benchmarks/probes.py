"""What the probes cost: one arm of the first study's quick version, trained with and without them in turn, in one run.

    python benchmarks/probes.py

Prints the training seconds of each turn and the median ratio; writes nothing.
"""

import statistics

import torch

from allelse import data, study
from allelse.engine.loop import Training
from allelse.records import Pack

TURNS = 7


def seconds(pack: Pack, dataset: data.Dataset, probed: bool) -> float:
    training = Training(pack, dataset, torch.device("cpu"))
    if not probed:
        training.probe_steps = frozenset()
    while training.epoch < training.epochs:
        training.run_epoch(lambda progress: None)
    return training.seconds["train"]


def main() -> None:
    loaded = study.load("sigmoid-vs-relu", quick=True, changes=["model.activation=relu", "model.depth=4"])
    pack, dataset = Pack(tuple(loaded.runs())), data.load("digits")
    seconds(pack, dataset, True)
    turns = [(seconds(pack, dataset, True), seconds(pack, dataset, False)) for _ in range(TURNS)]
    for with_probes, without in turns:
        print(f"with {with_probes:.3f} s, without {without:.3f} s, ratio {with_probes / without:.3f}")
    print(f"median ratio {statistics.median(a / b for a, b in turns):.3f} (n = {TURNS} turns)")


if __name__ == "__main__":
    main()
