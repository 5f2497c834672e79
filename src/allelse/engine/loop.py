"""The training loop, one page read top to bottom: a pack and a data set in, one ``RunResult`` a run out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allelse import data, recipe
from allelse.engine.averaging import Averaged
from allelse.engine.batches import EVALUATION_BATCH, TrainingBatches, feed_of
from allelse.engine.checkpoint import CannotSave, Position, load_checkpoint, save_checkpoint
from allelse.engine.device import compute_dtype, settle
from allelse.engine.draws import Draws, draw_epoch
from allelse.engine.evaluate import (
    Score,
    asks_for_recalibration,
    evaluate,
    evaluate_three_ways,
    moments,
    recalibrate,
    recalibrated,
    scatter_of_batch_means,
)
from allelse.engine.fingerprints import Fingerprints
from allelse.engine.graphs import Recorded
from allelse.engine.losses import loss_of
from allelse.engine.optim import build_optimizer, counts_on_its_device, learning_rates
from allelse.engine.own import acts_on_whole_tensors, can_be_recorded
from allelse.engine.probes import BATCHES_FOR_NOISE, Probe, probe_steps, summarise
from allelse.engine.progress import Doing, Progress
from allelse.engine.provenance import provenance
from allelse.engine.rows import row_networks
from allelse.engine.scores import final_scores
from allelse.engine.steps import Steps
from allelse.engine.ways import compute_by
from allelse.models import Network, build_network, initialise
from allelse.records import Pack, RunResult
from allelse.seeds import stream

log = logging.getLogger("allelse")

SECONDS_BETWEEN_CHECKPOINTS = 20.0


def train_pack(
    pack: Pack,
    dataset: data.Dataset,
    device: torch.device,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[RunResult]:
    """Train every run of ``pack`` as one network.

    Arguments:
        pack: runs whose recipes differ in nothing but their optimisers' learning rates and weight decays.
        dataset: what ``pack.recipe`` names, loaded.
        device: where to train.
        checkpoint: a file to go on from if it is there, and to write at the end of an epoch when the last write is more
            than ``SECONDS_BETWEEN_CHECKPOINTS`` ago. Going on from it ends with the same bits as never having stopped. Where it
            cannot be written, the log says so once, and the training goes on.
        on_progress: called as the training goes on.

    Returns:
        one result a run, in the pack's order; a run whose loss or weights are no longer finite is ``diverged``, and its record
        ends with the epoch in which that came.
    """
    on_progress(Progress(0.0, 0, 0, "preparing"))
    training = Training(pack, dataset, device)
    if checkpoint is not None:
        training.resume(checkpoint)
    on_progress(training.progress("preparing"))
    saved, warned = time.monotonic(), False
    while training.epoch < training.epochs and not training.diverged.all():
        training.run_epoch(on_progress)
        if checkpoint is not None and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            try:
                training.save(checkpoint)
            except CannotSave as error:
                if not warned:
                    log.warning("pack %s goes on without a checkpoint, which cannot be written: %s", pack.id, error)
                warned = True
            saved = time.monotonic()
    results = training.results()
    on_progress(replace(training.progress("evaluating"), share=1.0))  # a pack that diverged has nothing left to do either
    return results


class Training:
    """The state of one pack between epochs."""

    def __init__(self, pack: Pack, dataset: data.Dataset, device: torch.device) -> None:
        settle()
        self.pack = pack
        self.device = device
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        recipes = [recipe.Recipe.model_validate(run.recipe) for run in pack.runs]
        self.recipe = recipes[0]
        self.dtype = compute_dtype(self.recipe.precision, device)
        weights_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32

        image_shape = dataset.train_images.shape[1:]
        self.image_shape: tuple[int, int, int] = (image_shape[0], image_shape[1], image_shape[2])
        build = partial(build_network, self.recipe.model, self.image_shape, len(dataset.classes))
        self.network: Network = build(len(pack.runs))
        initialise(self.network.to(weights_dtype), pack.seeds)
        compute_by(self.network.to(device), pack.way)

        splits = [
            data.split(
                dataset,
                train_per_class=self.recipe.train_per_class,
                validation_per_class=self.recipe.validation_per_class,
                seed=seed,
            )
            for seed in pack.seeds
        ]
        self.subsets = [train for train, _ in splits]
        self.steps_per_epoch = len(self.subsets[0]) // self.recipe.batch_size
        assert self.steps_per_epoch > 0, "the plan holds every batch size against its data"
        self.updates, self.epochs = self.recipe.length(len(self.subsets[0]))
        self.work = recipe.Work(self.recipe, len(self.subsets[0]), len(splits[0][1]), len(dataset.test_labels))
        crop, cutout = self.recipe.augmentation(recipe.Crop), self.recipe.augmentation(recipe.Cutout)
        padding = crop.padding if crop else 0
        self.train_feed = feed_of(dataset, "train", padding, weights_dtype, device, self.recipe.standardize)
        self.test_feed = feed_of(dataset, "test", 0, weights_dtype, device, self.recipe.standardize)
        self.train_index = _shuffled(np.stack(self.subsets, axis=1))
        self.test_index = torch.from_numpy(_shuffled(np.arange(len(dataset.test_labels))[:, None])).to(device)
        self.validation_index = torch.from_numpy(_shuffled(splits[0][1][:, None])).to(device)

        parts = [each.optimizer for each in recipes]
        alone, branches = len(set(parts)) > 1 or acts_on_whole_tensors(parts[0]), pack.way.convolution == "branches"
        rows = row_networks(self.network, partial(build, 1)) if alone or branches else []
        self.optimizers, self.rates = self._optimised(
            list(zip(rows, parts, strict=True)) if alone else [(self.network, parts[0])]
        )
        self.averaged: Averaged | None = None
        if self.recipe.averaging:
            averages = build(len(pack.runs)).to(device, weights_dtype)
            compute_by(averages, pack.way)
            self.averaged = Averaged(self.network, averages, self.recipe.averaging)
        self.batches = TrainingBatches(self.train_feed, self.recipe.batch_size, self.dtype, cutout.size if cutout else 0)
        self.steps = Steps(
            self.network,
            rows if branches else [],
            self.optimizers,
            self.batches,
            self.rates,
            loss_of(self.recipe.loss, self.recipe.label_smoothing, len(dataset.classes), device, weights_dtype),
            pack.way.graph,
            self.averaged,
            self.recipe.max_grad_norm,
        )
        self.score_test: Recorded[Score] = Recorded(pack.way.graph)
        self.draws: list[Draws] | None = None

        self.probe = Probe(self.network)
        self.probe_steps = probe_steps(self.updates / self.steps_per_epoch, self.steps_per_epoch)
        self.epoch = 0
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self.diverged = np.zeros(len(pack.runs), dtype=bool)
        self.history: list[list[dict[str, float]]] = [[] for _ in pack.runs]
        self.fingerprints = Fingerprints(self.recipe, dataset, self.subsets, self.network)

    def _optimised(
        self, networks: Sequence[tuple[Network, recipe.Optimizer]]
    ) -> tuple[list[torch.optim.Optimizer], np.ndarray]:
        """An optimiser for each, and the learning rates of every step, [steps, optimisers]."""
        name, graph = networks[0][1].name, self.pack.way.graph
        if graph and not can_be_recorded(networks[0][1]):
            raise ValueError(f"{name} has no argument 'capturable', so that no CUDA graph may hold its steps")
        peaks = [part.scaled_lr(self.recipe.batch_size) for _, part in networks]
        optimizers = [build_optimizer(network, part, peak) for (network, part), peak in zip(networks, peaks, strict=True)]
        if graph and self.device.type == "cuda" and not all(map(counts_on_its_device, optimizers)):
            raise ValueError(f"this torch counts the steps of {name} on the CPU, so that no CUDA graph may hold them")
        epochs = self.updates / self.steps_per_epoch
        rates = [learning_rates(self.recipe.schedule, peak, epochs, self.steps_per_epoch) for peak in peaks]
        return optimizers, np.array(rates).T

    def steps_of(self, epoch: int) -> int:
        """How many steps this epoch has, counted from 0: the last may be cut short."""
        return min(self.steps_per_epoch, self.updates - epoch * self.steps_per_epoch)

    def progress(self, doing: Doing, steps: int = 0, *, scored: bool = True) -> Progress:
        """Where this pack is: so many steps beyond its last whole epoch, which may still have to be ``scored``."""
        done = min(self.epoch * self.steps_per_epoch, self.updates) + steps
        work = done * self.recipe.batch_size + self.work.evaluations(self.epoch - (not scored))
        share = self.work.evaluation / self.work.whole
        return Progress(work / self.work.whole, self.epoch, self.epochs, doing, share)

    @property
    def evaluated(self) -> Network:
        """The network that the scores are of: with averaged weights, once there are some."""
        return self.averaged.network if self.averaged and self.averaged.has_begun(self.epoch) else self.network

    def run_epoch(self, on_progress: Callable[[Progress], None]) -> None:
        """One pass over every replica's subset, then the evaluation."""
        begun = reported = time.perf_counter()
        draws = self.draws or self.draw(self.epoch)
        self.fingerprints.add_epoch(draws, ~self.diverged)
        first, steps, until = self.epoch * self.steps_per_epoch, self.steps, self.steps_of(self.epoch)
        steps.begin(first, draws)
        if self.averaged:
            self.averaged.begin_epoch(self.epoch + 1)
        probed = sorted(step - first for step in self.probe_steps if first <= step < first + until)
        while steps.done < until:
            if steps.done in probed:
                step = first + steps.done
                with self.probe.watching(step, step / self.steps_per_epoch) as look:
                    steps.alone(look)
            else:
                steps.advance(next((place for place in probed if place > steps.done), until))
            if time.perf_counter() - reported > 0.2:
                on_progress(self.progress("training", steps.done))
                reported = time.perf_counter()
        # A GPU is still at work here: what the next epoch draws is drawn meanwhile.
        self.draws = self.draw(self.epoch + 1) if self.epoch + 1 < self.epochs else None

        train, trained_on = Score(*steps.score()), np.flatnonzero(~self.diverged).tolist()
        self.diverged |= ~np.isfinite(train.loss.cpu().numpy()) | ~self._weights_are_finite()
        self.epoch += 1
        trained = time.perf_counter()
        on_progress(self.progress("training", scored=False))
        scores = {"train_{}": train, **self._evaluate()}
        rates = self.rates[first + steps.done - 1]
        for replica in trained_on:
            history = self.history[replica]
            history.append({"lr": float(rates[replica if len(rates) > 1 else 0])})
            for name, score in scores.items():
                history[-1][name.format("loss")], history[-1][name.format("accuracy")] = score.of(replica)
        self.seconds["train"] += trained - begun
        self.seconds["evaluate"] += time.perf_counter() - trained
        on_progress(self.progress("evaluating"))

    def _evaluate(self) -> dict[str, Score]:
        """The scores that an epoch ends with, by the form of their names, under the statistics that the recipe asks for."""
        scores: dict[str, Score] = {}
        averaged = self.averaged if self.averaged and self.averaged.has_begun(self.epoch) else None
        if averaged:
            with self._asked_statistics(self.network):
                scores["{}_raw"] = self.score_test(self._score_test)
            averaged.end_epoch(self.epoch)
            if averaged.needs_recalibration:
                recalibrate(self.evaluated, self.training_images())
        measured = averaged is not None and averaged.needs_recalibration
        with nullcontext() if measured else self._asked_statistics(self.evaluated):
            test = (self.test_feed, self.test_index, self.dtype)
            scores["test_{}"] = evaluate(self.evaluated, *test) if averaged else self.score_test(self._score_test)
            if len(self.validation_index):
                scores["validation_{}"] = evaluate(self.evaluated, self.train_feed, self.validation_index, self.dtype)
        return scores

    def _asked_statistics(self, network: Network) -> AbstractContextManager[object]:
        return recalibrated(network, self.training_images()) if asks_for_recalibration(network) else nullcontext()

    def training_images(self, batch_size: int = EVALUATION_BATCH, batches: int | None = None) -> Iterator[Tensor]:
        """Every replica's subset as the next epoch would show it, in large batches: what statistics are recalibrated over."""
        if batches is not None:
            batches = min(batches, len(self.train_index) // batch_size)  # whole ones, as in training
        index_nR = self.train_index if batches is None else self.train_index[: batches * batch_size]
        return self.batches.once(self.draws or self.draw(self.epoch), index_nR, batch_size)

    def _score_test(self) -> Score:
        return evaluate(self.network, self.test_feed, self.test_index, self.dtype)

    def _last_test_score(self) -> Score:
        values = torch.tensor(
            [[epochs[-1][f"test_{name}"] for epochs in self.history] for name in ("loss", "accuracy")], dtype=torch.float64
        )
        return Score(*values)

    def _weights_are_finite(self) -> np.ndarray:
        """For each replica. The loss cannot tell after the last step: it was computed before it."""
        finite = [torch.isfinite(one.detach()).reshape(len(one), -1).all(1) for one in self.network.parameters()]
        return torch.stack(finite).all(0).cpu().numpy()

    def draw(self, epoch: int) -> list[Draws]:
        """What each seed draws for this epoch, counted from 0."""
        side = self.image_shape[:2]
        return [
            draw_epoch(seed, epoch, subset, len(self.train_feed), side, self.recipe)
            for seed, subset in zip(self.pack.seeds, self.subsets, strict=True)
        ]

    def results(self) -> list[RunResult]:
        """The final scores, three ways, of every run."""
        begun = time.perf_counter()
        test, last = (self.test_feed, self.test_index), self._last_test_score()
        spoilt = ~self.diverged & ~np.isfinite(last.loss.numpy())  # the last step may leave weights that no image survives
        scores, population = evaluate_three_ways(self.evaluated, self.training_images(), test, self.dtype, last)
        place = {"step": len(self.rates), "epoch": self.epoch}
        noise = scatter_of_batch_means(self.evaluated, self.training_images(self.recipe.batch_size, BATCHES_FOR_NOISE))
        self.probe.add_statistics(place, moments(self.evaluated), population, noise)
        self.seconds["evaluate"] += time.perf_counter() - begun
        images = min(self.epoch * self.steps_per_epoch, self.updates) * self.recipe.batch_size
        timing = {**self.seconds, "images_per_second": images / self.seconds["train"]}
        return [self._result(replica, scores, timing, bool(spoilt[replica])) for replica in range(len(self.pack.runs))]

    def _result(self, replica: int, scores: dict[str, Score], timing: dict[str, float], spoilt: bool) -> RunResult:
        history, probes, error = self.history[replica], self.probe.rows[replica], None
        if spoilt or self.diverged[replica]:
            what = "weights were" if math.isfinite(history[-1]["train_loss"]) else "training loss was"
            error = f"the {'test loss was' if spoilt else what} no longer finite in epoch {len(history)}"
            probes = [row for row in probes if row["step"] < len(history) * self.steps_per_epoch]
        return RunResult(
            run=self.pack.runs[replica].id,
            status="diverged" if error else "done",
            metrics={} if error else self._metrics(replica, scores),
            epochs=history,
            fingerprints=self.fingerprints.named(replica, len(history)),
            probes=probes,
            timing=timing,
            provenance=provenance(self.device, self.dtype, self.started),
            error=error,
        )

    def _metrics(self, replica: int, scores: dict[str, Score]) -> dict[str, float]:
        history = self.history[replica]
        metrics = {name: value for name, value in history[-1].items() if name != "lr"} | final_scores(history)
        for way, score in scores.items():
            metrics[f"loss_{way}"], metrics[f"accuracy_{way}"] = score.of(replica)
        if scores:
            metrics["statistics_gap"] = metrics["accuracy_recalibrated"] - metrics["accuracy_running"]
        return metrics | summarise(self.probe.rows[replica])

    def _networks(self) -> dict[str, Network]:
        return {"network": self.network, **({"averaged": self.averaged.network} if self.averaged else {})}

    def save(self, checkpoint: Path) -> None:
        """Everything that the next epoch depends on, into one file that appears whole or not at all."""
        position: Position = {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "diverged": self.diverged.tolist(),
            "history": self.history,
            "probes": self.probe.rows,
            "fingerprints": self.fingerprints.plain,
        }
        save_checkpoint(checkpoint, self.pack.id, self._networks(), self.optimizers, position)

    def resume(self, checkpoint: Path) -> None:
        """Go on from ``checkpoint``; a file that is damaged or of another pack is passed over, and the pack starts anew."""
        position = load_checkpoint(checkpoint, self.pack.id, self._networks(), self.optimizers)
        if position is not None:
            self.epoch = position["epoch"]
            self.seconds = position["seconds"]
            self.diverged = np.array(position["diverged"], dtype=bool)
            self.history = position["history"]
            self.probe.rows = position["probes"]
            self.fingerprints.plain = position["fingerprints"]


def _shuffled(index_nR: np.ndarray) -> np.ndarray:
    # Splits may be stored sorted by class; batches of one class would make the batch statistics meaningless.
    return index_nR[stream(0, "evaluate").permutation(len(index_nR))]
