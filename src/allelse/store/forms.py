"""Forms: texts as a store holds them in; checked plain values, or one ``StoreError`` line, out.

Nothing that stands in a store is trusted: it may be cut, flipped or forged. Everything that is read passes here, so that the
rooms above may take keys and types for granted. Texts come out without control characters, which a terminal would obey.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from allelse.errors import OBEYED, StoreError, inert
from allelse.records import ACCURACIES, Provenance, RunResult

Level = str | int | float | bool
Number = float | None
"""None stands for NaN and infinities, which JSON does not have"""
Seed = Annotated[int, Field(ge=0, le=4_000_000_000)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Finite = ConfigDict(strict=True, allow_inf_nan=False)
AsItIs = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")

STATUSES = ("pending", "done", "diverged", "failed")


@with_config(AsItIs)
class NamedForm(TypedDict):
    name: str


@with_config(AsItIs)
class RecipeForm(TypedDict):
    model: NotRequired[dict[str, Any]]
    augment: NotRequired[list[NamedForm]]


@with_config(AsItIs)
class ArmForm(TypedDict):
    levels: dict[str, Level]
    recipe: RecipeForm
    seeds: NotRequired[Count]


@with_config(AsItIs)
class ClaimForm(TypedDict):
    id: str
    says: str
    kind: str
    metric: NotRequired[str]


@with_config(AsItIs)
class ReferenceForm(TypedDict):
    source: str
    arm: dict[str, Level]
    accuracy: Annotated[float, Field(ge=0, le=100)]
    sd: NotRequired[Annotated[float, Field(ge=0, le=100)] | None]
    n: NotRequired[Annotated[int, Field(ge=1, le=1_000_000)] | None]
    metric: NotRequired[str]
    note: NotRequired[str | None]


@with_config(AsItIs)
class TuneForm(TypedDict):
    key: str
    metric: str
    per: list[str]
    values: list[float]


OwnPartsForm = TypedDict("OwnPartsForm", {"own parts": NotRequired[dict[str, str]]})  # a key with a space


@with_config(AsItIs)
class DefinitionForm(OwnPartsForm):
    """``Study.definition``."""

    name: str
    question: str
    seeds: list[Seed]
    alpha: NotRequired[Annotated[float, Field(gt=0, lt=1)]]
    factors: dict[str, list[Level]]
    arms: list[ArmForm]
    claims: list[ClaimForm]
    references: list[ReferenceForm]
    quick: bool
    command: NotRequired[str]
    notes: NotRequired[list[str]]
    tune: NotRequired[TuneForm]
    data: NotRequired[dict[str, str]]
    excluded: NotRequired[list[dict[str, Level]]]


@with_config(Finite)
class WayForm(TypedDict):
    convolution: Literal["grouped", "im2col", "branches"]
    graph: bool


@with_config(Finite)
class PackForm(TypedDict):
    runs: Annotated[list[str], Field(min_length=1)]
    way: NotRequired[WayForm]
    images_per_second: Number
    seconds: Annotated[float, Field(ge=0, le=1e12)]


@with_config(Finite)
class MachineForm(TypedDict):
    device: str
    torch: str


@with_config(Finite)
class ComputingForm(TypedDict):
    pack: bool
    graph: bool


@with_config(AsItIs)
class PlanForm(TypedDict):
    """``Plan.to_json`` with the machine and the options that it was made with."""

    packs: list[PackForm]
    machine: NotRequired[MachineForm]
    computing: NotRequired[ComputingForm]
    threads: NotRequired[Annotated[int, Field(ge=1, le=65_536)]]


@with_config(Finite)
class TriedForm(TypedDict):
    value: int | float
    mean: Number
    n: Count
    diverged: Count


@with_config(Finite)
class ChoiceForm(TypedDict):
    levels: dict[str, Level]
    value: int | float
    at_edge: Literal["", "lowest", "highest"]
    tried: Annotated[list[TriedForm], Field(min_length=1)]


@with_config(Finite)
class TuningForm(TypedDict):
    """``tuning.Tuning.to_json``."""

    key: str
    metric: str
    per: list[str]
    runs: Count
    seeds: Count
    epochs: Count
    images: Count
    choices: Annotated[list[ChoiceForm], Field(min_length=1)]


@with_config(Finite)
class ProvenanceForm(TypedDict):
    allelse: str
    torch: str
    python: str
    device: str
    precision: str
    threads: Count
    host: str
    started: str
    commit: NotRequired[str | None]


@with_config(AsItIs)
class PartForm(TypedDict):
    """One of the folders that a folder was united from; early versions kept no command."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    command: NotRequired[str | None]


@with_config(Finite)
class DetailsForm(TypedDict):
    """What is long in a result, and stands apart from it."""

    epochs: NotRequired[list[dict[str, Number]]]
    probes: NotRequired[list[dict[str, int | float | str | None]]]


@with_config(Finite)
class ResultForm(DetailsForm):
    """``RunResult.to_json``. Keys that this version does not know are passed over, and early versions had no probes."""

    run: str
    status: Literal["done", "diverged", "failed"]
    metrics: dict[str, Number]
    fingerprints: NotRequired[dict[str, str]]
    timing: NotRequired[dict[str, Number]]
    provenance: NotRequired[ProvenanceForm | None]
    error: NotRequired[str | None]


FORM_FROM_KEY: dict[str, Any] = {
    "definition": DefinitionForm,
    "plan": PlanForm,
    "tuning plan": PlanForm,
    "tuning": TuningForm,
    "parts": list[PartForm],
    "levels": dict[str, Level],
    "result": ResultForm,
    "details": DetailsForm,
}
UNKNOWN_MACHINE = {"device": "an unknown device", "torch": "of unknown version"}


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    return TypeAdapter(FORM_FROM_KEY[key])


def parsed(key: str, text: object, where: str) -> Any:
    """The value that ``text`` holds under one of the keys above.

    Raises:
        StoreError: it is no such thing; ``where`` says which part of which folder is damaged.
    """
    try:
        value = _adapter(key).validate_json(text if isinstance(text, str) else b"")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise damaged(where, f"{place}: {first['msg']}" if place else first["msg"]) from None
    assert isinstance(text, str)
    # Most texts are ASCII without any escape, which is seen in no time.
    plain = "\\" not in text and "\x7f" not in text and text.isascii()
    return value if plain or not _MAY_HOLD_CONTROLS.search(text) else visible(value)


def definition(text: object, where: str) -> dict[str, Any]:
    """A study's definition, whose arms, claims and figures speak of factors that it has."""
    value: dict[str, Any] = parsed("definition", text, where)
    for number, arm in enumerate(value["arms"], 1):
        if unknown := set(arm["levels"]) - set(value["factors"]):
            raise damaged(where, f"arm {number} has the unknown factor {min(unknown)!r}")
    if not value["seeds"] or not value["arms"]:
        raise damaged(where, "it has no seeds or no arms")
    return value


def plan(text: object, where: str, runs: Mapping[str, object]) -> dict[str, Any]:
    """A plan, each of whose runs is stored and is in one pack; what early versions did not keep is filled in."""
    value: dict[str, Any] = parsed("plan", text, where)
    planned = [run for pack in value["packs"] for run in pack["runs"]]
    if unknown := set(planned) - set(runs):
        raise damaged(where, f"it plans the run {min(unknown)[:40]!r}, which is not there")
    if len(set(planned)) < len(planned) or (planned and len(planned) < len(runs)):
        raise damaged(where, "it does not plan each run once")
    for pack in value["packs"]:
        pack.setdefault("way", {"convolution": "grouped", "graph": False})
    value.setdefault("machine", dict(UNKNOWN_MACHINE))
    value.setdefault("computing", {"pack": True, "graph": True})
    return value


def tuning(text: object, where: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    """What tuning chose, with a choice for every arm of the study."""
    value: dict[str, Any] = parsed("tuning", text, where)
    for choice in value["choices"]:
        if choice["value"] not in [tried["value"] for tried in choice["tried"]]:
            raise damaged(where, f"it chose {choice['value']:g}, which was not tried")
    chosen = [choice["levels"] for choice in value["choices"]]
    for arm in definition["arms"]:
        if {factor: arm["levels"][factor] for factor in value["per"] if factor in arm["levels"]} not in chosen:
            raise damaged(where, "an arm has no choice")
    return value


def result(text: object, details: object, run: str, status: str, where: str) -> RunResult | None:
    """What came of a run: one without a final status has nothing, one with has its own; with its details where they are given.

    Raises:
        StoreError: it does not fit the run and its status.
    """
    if status == "pending" and text is None:
        return None
    value: dict[str, Any] = parsed("result", text, where)
    if value["run"] != run or value["status"] != status:
        raise damaged(where, f"its result is of run {value['run'][:40]!r} with status {value['status']!r}")
    metrics = value["metrics"]
    if status == "done" and not metrics:
        raise damaged(where, "it is done and has no metrics")
    for name in ACCURACIES:
        if not -1e-6 <= (metrics.get(name) or 0) <= 100 + 1e-6:
            raise damaged(where, f"{name} is {metrics[name]:g} percent")
    if details is not None:
        value |= parsed("details", details, where)
        for row in value.get("probes", []):
            if not isinstance(row.get("layer"), str) or not isinstance(row.get("step"), int):
                raise damaged(where, "a probe names no layer and step")
    if provenance := value.get("provenance"):
        value["provenance"] = Provenance(**provenance)
    return RunResult(**value)


def damaged(where: str, what: str) -> StoreError:
    """The line for a part of a store that cannot be what allelse wrote."""
    return StoreError(
        f"{where} is damaged: {' '.join(str(visible(what)).split())[:200]}; put back a copy of the folder, or run the study "
        f"again into a new one with --out"
    )


# ── texts that a terminal would obey ────────────────────────────────────────────────────────────────────────────────

_MAY_HOLD_CONTROLS = re.compile(rf"\\[bfru]|{OBEYED.pattern}")


def visible(value: Any) -> Any:
    """Plain values with every control character in their texts written out, as ``\\x1b``."""
    if isinstance(value, str):
        return inert(value)
    if isinstance(value, Mapping):
        return {visible(key): visible(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [visible(inner) for inner in value]
    return value
