"""Planning: a study, its data and a way to measure speed in; packs, what differs between arms, and the estimated time out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil, prod
from typing import Any

from allelse import data
from allelse.errors import StudyError
from allelse.models import Layer, layer_table
from allelse.recipe import MLP
from allelse.records import Pack, RunSpec, canonical_json
from allelse.study import Arm, Study

Measure = Callable[[Pack], float | None]
"""Images a second at which a pack would train, over all its replicas; ``None`` when it cannot take a step."""

GAIN_TO_PACK_MORE = 1.03
"""A larger pack is taken when it is measured to be at least this much faster: less than that is within the noise."""

CLEARLY_SLOWER = 0.85
MEASURED_STEPS = 5
MEASURING_SHARE = 0.03
MEASURING_SECONDS = 0.3
"""Trying a larger pack may cost this share of an arm's training, and always this long."""

FORWARD_SHARE = 1 / 3
"""What evaluating an image costs against training on it: one pass forward against one forward and two back."""


@dataclass(frozen=True)
class PlannedPack:
    """A pack with the speed that it was measured at."""

    pack: Pack
    images_per_second: float | None
    seconds: float
    """estimated: training and evaluation of the whole pack; 0 when it could not be measured"""


@dataclass(frozen=True)
class Plan:
    """What will be run, in this order."""

    packs: tuple[PlannedPack, ...]

    @property
    def seconds(self) -> float:
        return sum(planned.seconds for planned in self.packs)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes back with the study."""
        return {
            "packs": [
                {
                    "runs": [run.id for run in planned.pack.runs],
                    "images_per_second": planned.images_per_second,
                    "seconds": planned.seconds,
                }
                for planned in self.packs
            ]
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], study: Study) -> Plan:
        run_from_id = {run.id: run for run in study.runs()}
        return cls(
            tuple(
                PlannedPack(
                    Pack(tuple(run_from_id[run] for run in packed["runs"])), packed["images_per_second"], packed["seconds"]
                )
                for packed in values["packs"]
            )
        )


def make_plan(study: Study, dataset_from_arm: Callable[[Arm], data.Dataset], measure: Measure) -> Plan:
    """Group the runs of each arm into packs of the size that is fastest on this device.

    Raises:
        StudyError, DataError: an arm does not fit its data.
    """
    runs_from_arm = _runs_by_arm(study)
    planned = []
    choice_from_work: dict[str, tuple[int, float | None]] = {}
    for arm, runs in zip(study.arms, runs_from_arm, strict=True):
        dataset = dataset_from_arm(arm)
        check_arm(arm, dataset)
        # Arms that do the same work share one choice, so that pairs are packed alike and equal networks are equal to the bit.
        work = _work(arm, dataset)
        if work not in choice_from_work:
            choice_from_work[work] = choose_replicas(
                len(runs),
                partial(_measure_first, measure, runs),
                partial(_most_worth_measuring, arm, dataset, len(runs)),
            )
        replicas, rate = choice_from_work[work]
        # What an arm has beyond the study's seeds is packed by itself, so that pairs are packed alike there too.
        for part in (runs[: len(study.seeds)], runs[len(study.seeds) :]):
            for pack in _cut(part, ceil(len(part) / replicas)):
                planned.append(PlannedPack(pack, rate, _seconds(arm, dataset, len(pack.runs), rate)))
    return Plan(tuple(planned))


def _work(arm: Arm, dataset: data.Dataset) -> str:
    """What an arm computes in a step, but for the order and the kind of its activation."""
    recipe = arm.recipe.model_dump(mode="json")
    kept = {
        key: recipe[key] for key in ("dataset", "image_size", "batch_size", "augment", "precision", "epochs", "train_per_class")
    }
    shapes = [[layer.name, layer.shape] for layer in layers(arm, dataset)]
    return canonical_json([kept, recipe["model"]["norm"], recipe["optimizer"]["name"], shapes])


def _measure_first(measure: Measure, runs: tuple[RunSpec, ...], size: int) -> float | None:
    return measure(Pack(runs[:size]))


def _most_worth_measuring(arm: Arm, dataset: data.Dataset, runs: int, rate: float) -> float:
    """The largest pack whose few timed steps take no more than their share of the arm's whole training."""
    seconds_a_replica = MEASURED_STEPS * arm.recipe.batch_size / rate
    return max(MEASURING_SHARE * _seconds(arm, dataset, runs, rate), MEASURING_SECONDS) / seconds_a_replica


def check_arm(arm: Arm, dataset: data.Dataset) -> None:
    """Hold an arm against its data before anything is trained.

    Raises:
        DataError: there are fewer images a class than the recipe asks for.
        StudyError: the batch is larger than the training subset, or the images are too small for the model.
    """
    recipe = arm.recipe
    train, _ = data.split(
        dataset, train_per_class=recipe.train_per_class, validation_per_class=recipe.validation_per_class, seed=0
    )
    if recipe.batch_size > len(train):
        raise StudyError(
            f"arm {arm.name}: batch_size = {recipe.batch_size} is larger than its training data of {len(train)} images; "
            f"allowed: 1 to {len(train)}"
        )
    layers(arm, dataset)
    if recipe.batch_size == 1 and recipe.model.norm.name == "batch" and isinstance(recipe.model, MLP):
        raise StudyError(
            f"arm {arm.name}: batch_size = 1 gives BatchNorm one value a feature and no variance; allowed: at least 2"
        )


def layers(arm: Arm, dataset: data.Dataset) -> tuple[Layer, ...]:
    """The parameters of one network of this arm."""
    height, width, channels = dataset.train_images.shape[1:]
    return layer_table(arm.recipe.model, (height, width, channels), len(dataset.classes))


def parameters(arm: Arm, dataset: data.Dataset) -> int:
    """How many numbers one network of this arm learns."""
    return sum(prod(layer.shape) for layer in layers(arm, dataset))


def choose_replicas(
    seeds: int, rate_of: Callable[[int], float | None], most: Callable[[float], float]
) -> tuple[int, float | None]:
    """The pack size that trains most images a second, and that rate.

    Sizes about double from 1; the search ends with the first that is clearly slower than the best so far.

    Arguments:
        seeds: runs to share out.
        rate_of: images a second of a pack of this size, or ``None`` when it cannot be measured.
        most: from the rate of a pack of one, the largest size that is worth measuring.
    """
    alone = rate_of(1)
    if alone is None:
        return 1, None
    best, best_rate = 1, alone
    for size in _sizes(seeds):
        rate = rate_of(size) if size <= most(alone) else None
        if rate is None or rate < best_rate * CLEARLY_SLOWER:
            break
        if rate >= best_rate * GAIN_TO_PACK_MORE:
            best, best_rate = size, rate
    return best, best_rate


def _sizes(seeds: int) -> Iterator[int]:
    """Pack sizes above 1 that share ``seeds`` out evenly, each at least twice the one before, and all of them together."""
    size = 1
    for packs in range(seeds, 0, -1):
        even = ceil(seeds / packs)
        if even >= 2 * size or (packs == 1 and even > size):
            yield even
            size = even


def _cut(runs: tuple[RunSpec, ...], packs: int) -> Iterator[Pack]:
    for number in range(packs):
        yield Pack(runs[number * len(runs) // packs : (number + 1) * len(runs) // packs])


def _runs_by_arm(study: Study) -> list[tuple[RunSpec, ...]]:
    runs = study.runs()
    return [tuple(islice(runs, len(arm.seeds))) for arm in study.arms]


def _seconds(arm: Arm, dataset: data.Dataset, replicas: int, rate: float | None) -> float:
    if rate is None:
        return 0.0
    recipe = arm.recipe
    train, validation = data.split(
        dataset, train_per_class=recipe.train_per_class, validation_per_class=recipe.validation_per_class, seed=0
    )
    evaluated = len(dataset.test_labels) + len(validation)
    each_epoch = len(train) + FORWARD_SHARE * evaluated
    at_the_end = FORWARD_SHARE * (len(train) + 3 * len(dataset.test_labels))
    return replicas * (recipe.epochs * each_epoch + at_the_end) / rate


# ── what is equal and what is not ───────────────────────────────────────────────────────────────────────────────────


def differing_keys(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """Every recipe key that is not the same in all arms, with its value in each arm in order."""
    flat = [dict(_flatten(arm.recipe.model_dump(mode="json"))) for arm in arms]
    keys = dict.fromkeys(key for values in flat for key in values)
    missing = object()
    columns = {key: [values.get(key, missing) for values in flat] for key in keys}
    return {
        key: [None if value is missing else value for value in column]
        for key, column in columns.items()
        if any(value is missing or value != column[0] for value in column)
    }


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value
