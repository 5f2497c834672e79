"""The training loop, one page read top to bottom: a pack and a data set in, one ``RunResult`` a run out.

The losses of the replicas are summed, never averaged, and no operation mixes replicas, so each one is trained exactly as it
would be alone (invariant 2).
"""

from __future__ import annotations

import hashlib
import math
import platform
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import allelse
from allelse import data, recipe
from allelse.blocks import Conv2d, Linear
from allelse.engine.batches import Draws, ImageFeed, draw_epoch, scale_of
from allelse.engine.checkpoint import load_checkpoint, save_checkpoint
from allelse.engine.device import compute_dtype, describe_device, sum_dtype
from allelse.engine.evaluate import Score, evaluate, evaluate_three_ways, moments, scatter_of_batch_means
from allelse.engine.optim import build_optimizer, learning_rates
from allelse.engine.probes import BATCHES_FOR_NOISE, Probe, probe_steps, summarise
from allelse.engine.scores import final_scores
from allelse.models import Network, build_network, initialise, stacked_parameters
from allelse.records import Pack, Provenance, RunResult
from allelse.seeds import stream

SECONDS_BETWEEN_CHECKPOINTS = 20.0


@dataclass(frozen=True)
class Progress:
    """Where a pack is; handed to ``on_progress`` at most a few times a second and at each epoch's end."""

    share: float
    """of all training steps that are done, 0 to 1"""
    epoch: int
    """epochs done"""
    epochs: int


def train_pack(
    pack: Pack,
    dataset: data.Dataset,
    device: torch.device,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[RunResult]:
    """Train every run of ``pack`` as one network.

    Arguments:
        pack: runs of one arm.
        dataset: what ``pack.recipe`` names, loaded.
        device: where to train.
        checkpoint: a file to go on from if it is there, and to write at the end of an epoch when the last write is more
            than ``SECONDS_BETWEEN_CHECKPOINTS`` ago. Going on from it ends with the same bits as never having stopped.
        on_progress: called as the training goes on.

    Returns:
        one result a run, in the pack's order; a run whose loss is no longer finite is ``diverged``.
    """
    training = Training(pack, dataset, device)
    if checkpoint is not None and checkpoint.exists():
        training.resume(checkpoint)
    saved = time.monotonic()
    while training.epoch < training.recipe.epochs and not training.diverged.all():
        training.run_epoch(on_progress)
        if checkpoint is not None and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            training.save(checkpoint)
            saved = time.monotonic()
    return training.results()


class Training:
    """The state of one pack between epochs."""

    def __init__(self, pack: Pack, dataset: data.Dataset, device: torch.device) -> None:
        self.pack = pack
        self.device = device
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.recipe = recipe.Recipe.model_validate(pack.recipe)
        self.dtype = compute_dtype(self.recipe.precision, device)
        weights_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32

        image_shape = dataset.train_images.shape[1:]
        self.image_shape: tuple[int, int, int] = (image_shape[0], image_shape[1], image_shape[2])
        self.network: Network = build_network(self.recipe.model, self.image_shape, len(dataset.classes), len(pack.runs))
        initialise(self.network.to(weights_dtype), pack.seeds)
        self.network.to(device)

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
        crop, cutout = self.recipe.augmentation(recipe.Crop), self.recipe.augmentation(recipe.Cutout)
        padding = crop.padding if crop else 0
        self.cutout_size = cutout.size if cutout else 0
        scale = scale_of(dataset, weights_dtype)
        self.train_feed = ImageFeed(dataset.train_images, dataset.train_labels, padding, scale, device)
        self.test_feed = ImageFeed(dataset.test_images, dataset.test_labels, 0, scale, device)
        self.train_index = self._shuffled(np.stack(self.subsets, axis=1))
        self.test_index = self._shuffled(np.arange(len(dataset.test_labels))[:, None])
        self.validation_index = self._shuffled(splits[0][1][:, None])

        lr = self.recipe.optimizer.scaled_lr(self.recipe.batch_size)
        self.rates = learning_rates(self.recipe.schedule, lr, self.recipe.epochs, self.steps_per_epoch)
        self.optimizer = build_optimizer(self.network, self.recipe.optimizer, lr)

        self.probe = Probe(self.network)
        self.probe_steps = probe_steps(self.recipe.epochs, self.steps_per_epoch)
        self.epoch = 0
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self.diverged = np.zeros(len(pack.runs), dtype=bool)
        self.history: list[list[dict[str, float]]] = [[] for _ in pack.runs]
        self.fingerprints = [
            {"data": dataset.fingerprint, "subset": hashlib.sha256(subset.tobytes()).hexdigest()[:16]}
            for subset in self.subsets
        ]
        for full_name, module, name, parameter in stacked_parameters(self.network):
            shape = "x".join(map(str, parameter.shape[1:]))
            if name == "bias" and isinstance(module, (Conv2d, Linear)):  # its range follows from its layer's inputs
                shape += " of " + "x".join(map(str, module.weight.shape[1:]))
            for fingerprint, values in zip(self.fingerprints, parameter.detach().cpu().numpy(), strict=True):
                fingerprint[f"init {full_name} {shape}"] = hashlib.sha256(values.tobytes()).hexdigest()[:16]

    def _shuffled(self, index_nR: np.ndarray) -> Tensor:
        # Splits may be stored sorted by class; batches of one class would make the batch statistics meaningless.
        return torch.from_numpy(index_nR[stream(0, "evaluate").permutation(len(index_nR))]).to(self.device)

    def run_epoch(self, on_progress: Callable[[Progress], None]) -> None:
        """One pass over every replica's subset, then the evaluation."""
        begun = time.perf_counter()
        replicas, batch_size = len(self.pack.runs), self.recipe.batch_size
        draws = self.draw()
        self._fingerprint(draws)
        loss_R = torch.zeros(replicas, dtype=sum_dtype(self.device), device=self.device)
        correct_R = torch.zeros(replicas, dtype=torch.int64, device=self.device)
        first_step = self.epoch * self.steps_per_epoch
        reported = begun
        batches = self.train_feed.training_batches(draws, batch_size, self.dtype, self.cutout_size)
        for step, (x, labels_RB) in enumerate(batches, start=first_step):
            with self.probe.watching(step, step / self.steps_per_epoch) if step in self.probe_steps else nullcontext():
                batch_loss_R, logits_RBK = self.train_step(x, labels_RB, self.rates[step])
            loss_R += batch_loss_R
            correct_R += (logits_RBK.argmax(2) == labels_RB).sum(1)
            if time.perf_counter() - reported > 0.2:
                on_progress(Progress((step + 1) / len(self.rates), self.epoch, self.recipe.epochs))
                reported = time.perf_counter()

        train = Score(loss_R / self.steps_per_epoch, 100 * correct_R / (self.steps_per_epoch * batch_size))
        self.diverged |= ~np.isfinite(train.loss.cpu().numpy()) | ~self._weights_are_finite()
        trained = time.perf_counter()
        test = evaluate(self.network, self.test_feed, self.test_index, self.dtype)
        scores = {"train": train, "test": test}
        if len(self.validation_index):
            scores["validation"] = evaluate(self.network, self.train_feed, self.validation_index, self.dtype)
        for name, score in scores.items():
            for replica, history in enumerate(self.history):
                if name == "train":
                    history.append({"lr": self.rates[step]})
                history[-1][f"{name}_loss"] = float(score.loss[replica])
                history[-1][f"{name}_accuracy"] = float(score.accuracy[replica])
        self.seconds["train"] += trained - begun
        self.seconds["evaluate"] += time.perf_counter() - trained
        self.epoch += 1
        on_progress(Progress(self.epoch / self.recipe.epochs, self.epoch, self.recipe.epochs))

    def _last_test_score(self) -> Score:
        values = torch.tensor(
            [[epochs[-1][f"test_{name}"] for epochs in self.history] for name in ("loss", "accuracy")], dtype=torch.float64
        )
        return Score(*values)

    def _weights_are_finite(self) -> np.ndarray:
        """For each replica. The loss cannot tell after the last step: it was computed before it."""
        finite = [torch.isfinite(parameter.detach()).flatten(1).all(1) for parameter in self.network.parameters()]
        return torch.stack(finite).all(0).cpu().numpy()

    def train_step(self, x: Tensor, labels_RB: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """One optimiser step of every replica; its loss on the batch [R] and its logits [R, B, K]."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        logits_RBK = self.network(x)
        losses_RB = F.cross_entropy(
            logits_RBK.transpose(1, 2), labels_RB, reduction="none", label_smoothing=self.recipe.label_smoothing
        )
        loss_R = losses_RB.mean(1)
        self.optimizer.zero_grad(set_to_none=True)
        loss_R.sum().backward()
        self.optimizer.step()
        return loss_R.detach(), logits_RBK.detach()

    def draw(self) -> list[Draws]:
        """What each seed draws for the current epoch."""
        side = self.image_shape[:2]
        return [
            draw_epoch(seed, self.epoch, subset, len(self.train_feed), side, self.recipe)
            for seed, subset in zip(self.pack.seeds, self.subsets, strict=True)
        ]

    def _fingerprint(self, draws: list[Draws]) -> None:
        for fingerprint, drawn in zip(self.fingerprints, draws, strict=True):
            for name, epoch_digest in zip(("order", "augmentation"), drawn.digests(), strict=True):
                chained = fingerprint.get(name, "") + epoch_digest
                fingerprint[name] = hashlib.sha256(chained.encode()).hexdigest()[:16]

    def results(self) -> list[RunResult]:
        """The final scores, three ways, of every run."""
        begun = time.perf_counter()
        train, test = (self.train_feed, self.train_index), (self.test_feed, self.test_index)
        scores, population = evaluate_three_ways(self.network, train, test, self.dtype, self._last_test_score())
        place = {"step": len(self.rates), "epoch": self.epoch}
        noise = scatter_of_batch_means(self.network, *train, self.recipe.batch_size, BATCHES_FOR_NOISE, self.dtype)
        self.probe.add_statistics(place, moments(self.network), population, noise)
        self.seconds["evaluate"] += time.perf_counter() - begun
        images = self.epoch * self.steps_per_epoch * self.recipe.batch_size
        timing = {**self.seconds, "images_per_second": images / self.seconds["train"]}
        return [self._result(replica, scores, timing) for replica in range(len(self.pack.runs))]

    def _result(self, replica: int, scores: dict[str, Score], timing: dict[str, float]) -> RunResult:
        last = self.history[replica][-1]
        metrics = {name: value for name, value in last.items() if name != "lr"}
        metrics.update(final_scores(self.history[replica]))
        for way, score in scores.items():
            metrics[f"accuracy_{way}"] = float(score.accuracy[replica])
            metrics[f"loss_{way}"] = float(score.loss[replica])
        metrics["statistics_gap"] = metrics["accuracy_recalibrated"] - metrics["accuracy_running"]
        metrics.update(summarise(self.probe.rows[replica]))
        diverged = bool(self.diverged[replica])
        if diverged:
            finite = [math.isfinite(epoch["train_loss"]) for epoch in self.history[replica]]
            what = "weights were" if all(finite) else "training loss was"
            error = f"the {what} no longer finite in epoch {len(finite) if all(finite) else finite.index(False) + 1}"
        return RunResult(
            run=self.pack.runs[replica].id,
            status="diverged" if diverged else "done",
            metrics={} if diverged else metrics,
            epochs=self.history[replica],
            fingerprints=self._named(self.fingerprints[replica]),
            probes=self.probe.rows[replica],
            timing=timing,
            provenance=self._provenance(),
            error=error if diverged else None,
        )

    def _provenance(self) -> Provenance:
        precision = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}[self.dtype]
        return Provenance(
            allelse=allelse.__version__,
            torch=torch.__version__,
            python=platform.python_version(),
            device=describe_device(self.device),
            precision=precision,
            threads=torch.get_num_threads(),
            host=socket.gethostname(),
            started=self.started,
        )

    def _named(self, fingerprint: dict[str, str]) -> dict[str, str]:
        """The fingerprint under names that say what it depends on, so that only what should be equal has one name."""
        shape = "x".join(map(str, self.image_shape))
        source = f"{self.recipe.dataset} {shape}"
        subset = f"{source}: {len(self.subsets[0])} images"
        parts = "+".join("".join(map(str, part.model_dump().values())) for part in self.recipe.augment) or "none"
        detail_from_name = {
            "data": source,
            "subset": subset,
            "order": f"{subset} {self.epoch} epochs",
            "augmentation": f"{parts} of {len(self.train_feed)} {shape} {self.epoch} epochs",
        }
        return {
            f"{name} {detail_from_name[name]}" if name in detail_from_name else name: value
            for name, value in fingerprint.items()
        }

    def save(self, checkpoint: Path) -> None:
        """Everything that the next epoch depends on, into one file that appears whole or not at all."""
        position = {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "diverged": self.diverged.tolist(),
            "history": self.history,
            "probes": self.probe.rows,
            "fingerprints": self.fingerprints,
        }
        save_checkpoint(checkpoint, self.pack.id, self.network, self.optimizer, position)

    def resume(self, checkpoint: Path) -> None:
        """Go on from ``checkpoint``; a file that is damaged or of another pack is passed over, and the pack starts anew."""
        position = load_checkpoint(checkpoint, self.pack.id, self.network, self.optimizer)
        if position is not None:
            self.epoch = position["epoch"]
            self.seconds = position["seconds"]
            self.diverged = np.array(position["diverged"], dtype=bool)
            self.history = position["history"]
            self.probe.rows = position["probes"]
            self.fingerprints = position["fingerprints"]
