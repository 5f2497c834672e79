"""Planning: a study, its data and a way to measure speed in; packs, what differs between arms, and the estimated time out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from math import ceil
from typing import Any

from allelse import data
from allelse.errors import StoreError
from allelse.fit import check_arm, layers
from allelse.recipe import OwnModel, OwnPart, Recipe, Work
from allelse.records import Pack, RunSpec, Way, canonical_json, flattened
from allelse.study import Arm, Study

Measure = Callable[[Pack], float | None]
"""Images a second at which a pack would train, over all its replicas; ``None`` when it cannot take a step."""

GAIN_TO_PACK_MORE = 1.03
"""A larger pack is taken when it is measured to be at least this much faster: less than that is within the noise."""

CLEARLY_SLOWER = 0.85
MEASURED_STEPS = 5
MEASURING_SHARE = 0.03
MEASURING_SECONDS = 0.5
"""Trying larger packs may cost this share of the training that they are for, and always this long."""

NUMBERS = ("optimizer.lr", "optimizer.weight_decay")
"""Recipe keys that may differ between the runs of a pack: each replica then has an optimiser of its own."""


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

    def with_halves(self, planned: PlannedPack, halves: tuple[PlannedPack, PlannedPack]) -> Plan:
        """This plan with one pack cut in two."""
        at = self.packs.index(planned)
        return Plan((*self.packs[:at], *halves, *self.packs[at + 1 :]))

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes back with the study."""
        return {
            "packs": [
                {
                    "runs": [run.id for run in planned.pack.runs],
                    "way": asdict(planned.pack.way),
                    "images_per_second": planned.images_per_second,
                    "seconds": planned.seconds,
                }
                for planned in self.packs
            ]
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], study: Study) -> Plan:
        """The plan of a study's own runs.

        Raises:
            StoreError: it was made of runs that the study does not have.
        """
        run_from_id = {run.id: run for run in study.runs()}
        if strange := [run for packed in values["packs"] for run in packed["runs"] if run not in run_from_id]:
            raise StoreError(
                f"the stored plan has {len(strange)} runs that this version of allelse does not make of this study, as "
                f"{strange[0]}; what is finished can be read; to train it anew, give a new folder with --out"
            )
        return cls(
            tuple(
                PlannedPack(
                    Pack(tuple(run_from_id[run] for run in packed["runs"]), Way(**packed["way"])),
                    packed["images_per_second"],
                    packed["seconds"],
                )
                for packed in values["packs"]
            )
        )


def make_plan(
    study: Study,
    dataset_from_arm: Callable[[Arm], data.Dataset],
    measure: Measure,
    ways: Sequence[Way],
    most: int | None = None,
) -> Plan:
    """Group the runs into packs of the size, and computed in the way, that is fastest on this device.

    Arms that differ only in numbers that replicas may have of their own (``NUMBERS``) share packs.

    Arguments:
        study: what is to be run.
        dataset_from_arm: the data of an arm, loaded.
        measure: how fast a pack trains here.
        ways: the candidates, the one for a lone network first.
        most: runs in a pack at most, when not as many as pay.

    Raises:
        StudyError, DataError: an arm does not fit its data.
    """
    planned = []
    choice_from_work: dict[str, Choice] = {}
    for arm, runs in _runs_of_alike_arms(study):
        with arm.placed():
            dataset = dataset_from_arm(arm)
            check_arm(arm, dataset)
        # Arms that do the same work share one choice, so that pairs are packed alike and equal networks are equal to the bit.
        differ = len({canonical_json(run.recipe.get("optimizer")) for run in runs}) > 1  # then each replica has its own
        work = canonical_json([_work(arm, dataset), len(runs), differ])
        if work not in choice_from_work:
            choice_from_work[work] = choose(
                min(len(runs), most or len(runs)),
                partial(_measure_first, measure, runs),
                partial(_seconds, arm, dataset, len(runs)),
                arm.recipe.batch_size,
                ways,
            )
        choice = choice_from_work[work]
        # What arms have beyond the study's seeds is packed by itself, so that pairs are packed alike there too.
        for part in _by_seed(runs, study.seeds):
            for packed in _cut(part, ceil(len(part) / choice.replicas)):
                pack = Pack(packed, choice.way)
                planned.append(PlannedPack(pack, choice.rate, _seconds(arm, dataset, len(packed), choice.rate)))
    return Plan(tuple(planned))


def halve(planned: PlannedPack) -> tuple[PlannedPack, PlannedPack]:
    """Two packs of half the runs each, for a pack that does not fit in memory."""
    pack = planned.pack

    def half(runs: tuple[RunSpec, ...]) -> PlannedPack:
        share = len(runs) / len(pack.runs)
        return PlannedPack(Pack(runs, pack.way), planned.images_per_second, planned.seconds * share)

    first, second = map(half, _cut(pack.runs, 2))
    return first, second


def _work(arm: Arm, dataset: data.Dataset) -> Any:
    """What an arm computes in a step, but for what hardly changes which pack is fastest: the order, the activation, the
    optimiser's numbers and the loss, where those are of the catalogue, and whether gradients are clipped."""
    recipe = arm.recipe.model_dump(mode="json")
    keys = ("dataset", "image_size", "train_per_class", "batch_size", "augment", "precision", "epochs", "updates", "averaging")
    model = dict(recipe["model"])
    shapes = [[layer.name, layer.shape] for layer in layers(arm, dataset)]
    if not isinstance(arm.recipe.model, OwnModel):
        if not isinstance(arm.recipe.model.activation, OwnPart):
            del model["activation"]
        if isinstance(model["block"], str):
            model["block"] = sorted(model["block"].split("-"))
        model["norm"] = {key: value for key, value in model["norm"].items() if key != "evaluate"}
    loss = recipe["loss"] if isinstance(arm.recipe.loss, OwnPart) else None
    optimizer = recipe["optimizer"] if isinstance(arm.recipe.optimizer, OwnPart) else recipe["optimizer"]["name"]
    return [[recipe.get(key) for key in keys], model, optimizer, loss, shapes]


def _runs_of_alike_arms(study: Study) -> list[tuple[Arm, tuple[RunSpec, ...]]]:
    """The runs of arms whose recipes differ in nothing but ``NUMBERS``, with the first of those arms, in the study's order."""
    alike: dict[str, tuple[Arm, list[RunSpec]]] = {}
    runs = study.runs()
    for arm in study.arms:
        recipe = arm.recipe.model_dump(mode="json")
        for number in NUMBERS:
            part, key = number.split(".")
            recipe[part].pop(key, None)  # not every optimiser has every number
        _, found = alike.setdefault(canonical_json(recipe), (arm, []))
        found.extend(islice(runs, len(arm.seeds)))
    return [(arm, tuple(found)) for arm, found in alike.values()]


def _by_seed(runs: tuple[RunSpec, ...], seeds: Sequence[int]) -> Iterator[tuple[RunSpec, ...]]:
    """The runs with the study's own seeds, and those beyond."""
    for own in (True, False):
        if part := tuple(run for run in runs if (run.seed in seeds) == own):
            yield part


def _measure_first(measure: Measure, runs: tuple[RunSpec, ...], size: int, way: Way) -> float | None:
    return measure(Pack(runs[:size], way))


@dataclass(frozen=True)
class Choice:
    """How runs are packed."""

    replicas: int
    way: Way
    rate: float | None
    """images a second over all replicas, or ``None`` when nothing could be measured"""


def choose(
    runs: int,
    rate_of: Callable[[int, Way], float | None],
    seconds_at: Callable[[float], float],
    batch_size: int,
    ways: Sequence[Way],
) -> Choice:
    """The pack size and the way that train most images a second.

    Sizes about double, and each is tried in every way. Where there is but one way, the search begins with the smallest size
    and ends with one that is clearly slower than the best; where there are several, as on a GPU, where the largest pack that
    fits is hardly ever slower, it begins with the largest and ends with one that is slower than the size before. Either ends
    when it has cost its share of the training.

    Arguments:
        runs: to share out.
        rate_of: images a second of a pack of this size, or ``None`` when it cannot be measured.
        seconds_at: how long all of the training takes at so many images a second.
        batch_size: images a step and replica.
        ways: the candidates, the one for a lone network first.
    """
    lone, alone = ways[0], rate_of(1, ways[0])
    if alone is None and lone != Way():  # a device that cannot record graphs trains without
        ways, lone = (Way(),), Way()
        alone = rate_of(1, lone)
    if alone is None:
        return Choice(1, lone, None)
    best, best_rate = Choice(1, lone, alone), alone
    begun = time.perf_counter()
    largest_first, before = len(ways) > 1, 0.0
    for size in list(_sizes(runs))[:: -1 if largest_first else 1]:
        fastest = 0.0
        for way in (*ways[1:], lone):
            may_cost = max(MEASURING_SHARE * seconds_at(best_rate), MEASURING_SECONDS)
            if time.perf_counter() - begun + MEASURED_STEPS * batch_size * size / alone > may_cost:
                break  # a smaller size may still be within it
            rate = rate_of(size, way) or 0.0
            fastest = max(fastest, rate)
            if rate >= best_rate * GAIN_TO_PACK_MORE:
                best, best_rate = Choice(size, way, rate), rate
        if fastest < (before if largest_first else best_rate * CLEARLY_SLOWER):
            break
        before = fastest
    return best


def _sizes(runs: int) -> Iterator[int]:
    """Pack sizes above 1 that share ``runs`` out evenly, each at least twice the one before, and all of them together."""
    size = 1
    for packs in range(runs, 0, -1):
        even = ceil(runs / packs)
        if even >= 2 * size or (packs == 1 and even > size):
            yield even
            size = even


def _cut(runs: tuple[RunSpec, ...], packs: int) -> Iterator[tuple[RunSpec, ...]]:
    for number in range(packs):
        yield runs[number * len(runs) // packs : (number + 1) * len(runs) // packs]


def _seconds(arm: Arm, dataset: data.Dataset, replicas: int, rate: float | None) -> float:
    if rate is None:
        return 0.0
    recipe = arm.recipe
    train, validation = data.split(
        dataset, train_per_class=recipe.train_per_class, validation_per_class=recipe.validation_per_class, seed=0
    )
    return replicas * Work(recipe, len(train), len(validation), len(dataset.test_labels)).whole / rate


# ── what is equal and what is not ───────────────────────────────────────────────────────────────────────────────────


def differing_keys(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """Every recipe key that is not the same in all arms, with its value in each arm in order."""
    flat = [dict(flattened(arm.recipe.model_dump(mode="json"))) for arm in arms]
    keys = dict.fromkeys(key for values in flat for key in values)
    missing = object()
    columns = {key: [values.get(key, missing) for values in flat] for key in keys}
    return {
        key: [None if value is missing else value for value in column]
        for key, column in columns.items()
        if any(value is missing or value != column[0] for value in column)
    }


def shared_weights(arms: Sequence[Arm], dataset_of: Callable[[Recipe], data.Dataset]) -> tuple[int, list[str]]:
    """How many parameters start from the same values in all arms, and which arms have in one shape and fill otherwise."""
    named = [set(layers(arm, dataset_of(arm.recipe))) for arm in arms]
    ways: dict[tuple[str, tuple[int, ...]], set[str]] = {}
    for layer in set.union(*named):
        ways.setdefault((layer.name, layer.shape), set()).add(layer.way)
    return len(set.intersection(*named)), sorted({name for (name, _), found in ways.items() if len(found) > 1})


def equal_networks(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Arms of one and the same network: no more sets them apart than parts that it is built without."""
    arms_from_network: dict[str, list[Arm]] = {}
    for arm in arms:
        model = arm.recipe.model
        values = arm.recipe.model_dump(mode="json")
        for name in () if isinstance(model, OwnModel) else model.unread():
            del values["model"][name]
        arms_from_network.setdefault(canonical_json(values), []).append(arm)
    return [equal for equal in arms_from_network.values() if len(equal) > 1]
