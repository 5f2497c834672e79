"""The frozen records that pass between rooms; nothing but the standard library.

A ``RunSpec`` says what is to be trained, a ``Pack`` which runs are trained together, a ``RunResult`` what came of one run.
Recipes travel here as plain JSON values, so that a record can be stored, hashed and sent anywhere; ``recipe.Recipe`` gives
them their types back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

METRICS: dict[str, str] = {
    "accuracy": "percent of the test split, last epoch",  # the headline
    "accuracy_best_epoch": "percent of the test split, best epoch, chosen on the test split itself: optimistic",
    "accuracy_median_last_five": "percent of the test split, median of the last five epochs (of all where there are fewer)",
    "accuracy_raw": "percent of the test split, last epoch, of the trained weights, where an average of them is evaluated",
    "accuracy_running": "percent, BatchNorm evaluated with its running statistics",
    "accuracy_recalibrated": "percent, BatchNorm evaluated with statistics recalibrated over the augmented training split",
    "accuracy_batch": "percent, BatchNorm evaluated with the statistics of each test batch",
    "statistics_gap": "percentage points, accuracy_recalibrated − accuracy_running",
    "loss_raw": "nats a test image, last epoch, of the trained weights, where an average of them is evaluated",
    "loss_running": "nats a test image",
    "loss_recalibrated": "nats a test image",
    "loss_batch": "nats a test image",
    "train_accuracy": "percent of the last epoch's training batches; of mixed images, by what they show most of",
    "train_loss": "a training image's, last epoch, as minimised: between other losses, smoothings or mixtures no comparison",
    "test_accuracy": "percent of the test split, last epoch",
    "test_loss": "nats a test image, last epoch",
    "validation_accuracy": "percent of the validation split, last epoch",
    "validation_loss": "nats a validation image, last epoch",
    "gradient_decades_start": "log10 of gradient over weight norm, last block over first, first step; above 0: vanishing",
    "gradient_decades_end": "log10 of gradient over weight norm, last block over first, last step; above 0: vanishing",
    "saturated": "share of activation inputs where the slope is under 0.05, last step, mean over layers",
    "dead": "share of channels saturated for the whole batch, last step, mean over layers",
    "effective_rank": "participation ratio of the last block's output channels, last step; 0 where it is constant",
    "mean_distance": "of BatchNorm's running means from the training split's, in its standard deviations, mean over layers",
    "variance_distance": "|ln| of BatchNorm's running variances over the training split's, mean over layers",
    "batch_noise": "scatter of training batches' means in standard deviations of the training split, mean over layers",
}
"""What claims can speak of and ``results --metric`` can show, by name, with unit."""

THREE_WAYS = ("statistics_gap", *(name for name in METRICS if name.endswith(("_running", "_recalibrated", "_batch"))))
"""The metrics of networks that are evaluated three ways."""
ACCURACIES = tuple(name for name, unit in METRICS.items() if unit.startswith(("percent ", "percent,")))
"""The metrics that a published accuracy can be of."""
LOSSES = frozenset(name for name in METRICS if "loss" in name)
"""The metrics of which less is better."""
OF_BATCH_NORM = frozenset({"mean_distance", "variance_distance", "batch_noise"})
"""The metrics that only networks with BatchNorm have."""
CHOSEN_ON_TEST = frozenset({"accuracy_best_epoch"})
"""Metrics that look at the test split to choose what they report; wherever one is shown, that is said."""

Status = Literal["done", "diverged", "failed"]


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, shortest float form. NaN and infinities become null."""
    return json.dumps(finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def flattened(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in tables within tables, each under its dotted key, in order; an empty table is a value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flattened(inner, f"{above}.{key}" if above else str(key))
    else:
        yield above, value


def finite(value: Any) -> Any:
    """Plain values with None for numbers that are not finite."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


def digest(value: Any, length: int = 12) -> str:
    """The first ``length`` hex digits of the SHA-256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()[:length]


@dataclass(frozen=True)
class RunSpec:
    """One arm with one seed: one network to be trained."""

    arm: Mapping[str, Any]
    """level by factor, as shown in tables"""
    recipe: Mapping[str, Any]
    """the recipe of this arm as plain JSON values: what differs from the defaults (``recipe.Part.plain``)"""
    seed: int
    """the replication; the same seed in two arms is a pair"""

    @property
    def id(self) -> str:
        """Twelve hex digits that depend on the arm, its recipe and the seed, and on nothing else."""
        return digest({"arm": self.arm, "recipe": self.recipe, "seed": self.seed})


Convolution = Literal["grouped", "im2col", "branches"]


@dataclass(frozen=True)
class Way:
    """How a pack is computed. All ways do the same mathematics; which is fastest depends on device, batch and shapes."""

    convolution: Convolution = "grouped"
    """``grouped``: one convolution with R groups; ``im2col``: patches and one batched matrix product, with its own backward;
    ``branches``: each replica a network of its own, side by side"""
    graph: bool = False
    """whether whole training steps are recorded as CUDA graphs and replayed"""

    def in_words(self, replicas: int) -> str:
        """For tables: 'serial', 'grouped', 'im2col + graph'."""
        return ("serial" if replicas == 1 else self.convolution) + (" + graph" if self.graph else "")


@dataclass(frozen=True)
class Pack:
    """Runs that are trained together as one network with a replica dimension R = ``len(runs)``."""

    runs: tuple[RunSpec, ...]
    """one a replica, in this order: of one arm, or of arms that differ in numbers that replicas may have of their own"""
    way: Way = Way()

    @property
    def id(self) -> str:
        """Twelve hex digits that depend on the runs and their order."""
        return digest([run.id for run in self.runs])

    @property
    def recipe(self) -> Mapping[str, Any]:
        return self.runs[0].recipe

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)


@dataclass(frozen=True)
class Provenance:
    """Where a run was made."""

    allelse: str
    torch: str
    python: str
    device: str
    """the device's own name, e.g. 'NVIDIA H200' or 'AMD EPYC'"""
    precision: str
    """what the convolutions and products were computed in: 'bf16', 'fp32' or 'fp64'"""
    threads: int
    """CPU threads that torch used within one operation"""
    host: str
    started: str
    """UTC, ISO 8601"""
    commit: str | None = None
    """of allelse's own repository, with ``+`` where files of the package were changed; None where it was not run from one"""

    @property
    def device_text(self) -> str:
        """The device's name, in one form: earlier runs say "(1 threads)"."""
        return self.device.replace("(1 threads)", "(1 thread)")


@dataclass(frozen=True)
class RunResult:
    """What came of one run; ``metrics`` and ``epochs`` are the same for every execution of the same plan, ``timing`` is not."""

    run: str
    """the ``RunSpec.id``"""
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    """final figures by name; accuracies in percent, losses in nats; ``accuracy`` is the headline"""
    epochs: Sequence[Mapping[str, float]] = ()
    """one mapping an epoch, in order: ``train_loss``, ``train_accuracy``, ``test_loss``, ``test_accuracy``, ``lr``; where
    weights are averaged, test is of the average once there is one, and ``loss_raw``, ``accuracy_raw`` of the trained weights"""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """digests of what this run was given: ``data``, ``subset``, ``order``, ``augmentation``, and ``init NAME SHAPE`` a layer"""
    probes: Sequence[Mapping[str, Any]] = ()
    """measurements of mechanism, one mapping a layer and step; ``engine.probes`` says which"""
    timing: Mapping[str, float] = field(default_factory=dict)
    """seconds: ``train``, ``evaluate``; and ``images_per_second`` of this run's share of its pack"""
    provenance: Provenance | None = None
    error: str | None = None
    """one line, when ``status`` is not ``done``"""

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunResult:
        provenance = values.get("provenance")
        return cls(**{**values, "provenance": Provenance(**provenance) if provenance else None})
