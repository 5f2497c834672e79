"""The frozen records that pass between rooms; nothing but the standard library.

A ``RunSpec`` says what is to be trained, a ``Pack`` which runs are trained together, a ``RunResult`` what came of one run.
Recipes travel here as plain JSON values, so that a record can be stored, hashed and sent anywhere; ``recipe.Recipe`` gives
them their types back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["done", "diverged", "failed"]


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, shortest float form. NaN and infinities become null."""
    return json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def digest(value: Any, length: int = 12) -> str:
    """The first ``length`` hex digits of the SHA-256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


@dataclass(frozen=True)
class RunSpec:
    """One arm with one seed: one network to be trained."""

    arm: Mapping[str, Any]
    """level by factor, as shown in tables"""
    recipe: Mapping[str, Any]
    """the whole recipe of this arm, as plain JSON values"""
    seed: int
    """the replication; the same seed in two arms is a pair"""

    @property
    def id(self) -> str:
        """Twelve hex digits that depend on the arm, its recipe and the seed, and on nothing else."""
        return digest({"arm": self.arm, "recipe": self.recipe, "seed": self.seed})


@dataclass(frozen=True)
class Pack:
    """Runs that are trained together as one network with a replica dimension R = ``len(runs)``."""

    runs: tuple[RunSpec, ...]
    """runs of one arm, one a replica, in this order"""

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


@dataclass(frozen=True)
class RunResult:
    """What came of one run; ``metrics`` and ``epochs`` are the same for every execution of the same plan, ``timing`` is not."""

    run: str
    """the ``RunSpec.id``"""
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    """final figures by name; accuracies in percent, losses in nats; ``accuracy`` is the headline"""
    epochs: Sequence[Mapping[str, float]] = ()
    """one mapping an epoch, in order: ``train_loss``, ``train_accuracy``, ``test_loss``, ``test_accuracy``, ``lr``"""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """digests of what this run was given: ``data``, ``subset``, ``order``, ``augmentation``, and ``init NAME SHAPE`` a layer"""
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
