"""Study files: a packaged name or a TOML file, with what the command line changes, in; a checked ``Study`` out.

Everything a study says is checked here, before anything is trained: unknown keys, wrong types, impossible values, claims
about arms that are not there. Each mistake is one ``StudyError`` line with file, line, key, the value given, what is allowed.
"""

from __future__ import annotations

import copy
import itertools
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from allelse import own
from allelse.claims import Claim, check_claims, level_key
from allelse.errors import StudyError, did_you_mean
from allelse.messages import Origin, Place, one_line
from allelse.recipe import NAMING, Part, Recipe
from allelse.records import METRICS, RunSpec

Level = str | int | float | bool

COLUMNS = (
    *("run", "arm", "seed", "status", "error", "accuracy"),
    *("n", "mean", "sd", "low", "high", "diverged", "failed", "pending"),
)
"""what the tables call their own columns, so that no factor may have such a name"""


class Header(Part):
    """The ``[study]`` table."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """lower-case letters, digits and hyphens; names the output folder"""
    question: Annotated[str, Field(min_length=1)]
    seeds: Annotated[int, Field(ge=1, le=10_000)]
    """replications of every arm"""
    first_seed: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """the seeds are this one and those that follow"""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """how often a wrong verdict may be reached, over all claims of the study"""


class Reference(Part):
    """A published figure to show beside ours."""

    source: Annotated[str, Field(min_length=1)]
    arm: dict[str, Any]
    """levels by factor, as in ``[factors]``; factors left out stand for all their levels"""
    accuracy: Annotated[float, Field(ge=0, le=100)]
    """percent"""


class Quick(Part):
    """What ``--quick`` changes: recipe keys, and the number of seeds or the levels of factors."""

    seeds: Annotated[int, Field(ge=1)] | None = None
    factors: dict[str, Any] = {}
    recipe: dict[str, Any] = {}


class StudyFile(Part):
    """A whole study file; recipes are checked arm by arm, once the factors have been put in."""

    study: Header
    recipe: dict[str, Any]
    factors: dict[str, Any] = {}
    claims: Annotated[tuple[Claim, ...], Field(strict=False)] = ()
    references: Annotated[tuple[Reference, ...], Field(strict=False)] = ()
    quick: Quick = Quick()


@dataclass(frozen=True)
class Arm:
    """One combination of levels, and the whole recipe that it trains."""

    levels: Mapping[str, Level]
    recipe: Recipe
    mistake: Callable[[Sequence[str], str], StudyError] = field(compare=False, repr=False)
    """for the path of a part of the recipe and a message, the error that says where in the file the part was named"""

    @property
    def name(self) -> str:
        """Levels joined for people: 'sigmoid, depth 8' reads well; keys are shortened to their last part."""
        return ", ".join(f"{factor.rpartition('.')[2]} {level}" for factor, level in self.levels.items()) or "the only arm"


@dataclass(frozen=True)
class Study:
    """A checked study. ``load`` makes one."""

    name: str
    question: str
    seeds: tuple[int, ...]
    alpha: float
    factors: Mapping[str, tuple[Level, ...]]
    """labels of the levels by factor, in the order of the file"""
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    references: tuple[Reference, ...]
    quick: bool
    """whether ``[quick]`` was put in: its figures are no figures of the full study"""
    command: str
    """what runs it again, without the output folder"""

    def runs(self) -> Iterator[RunSpec]:
        """Every run, arm by arm, seed by seed."""
        for arm in self.arms:
            recipe = arm.recipe.plain()
            for seed in self.seeds:
                yield RunSpec(dict(arm.levels), recipe, seed)

    def definition(self) -> dict[str, Any]:
        """All that the results depend on and all that was declared before, as plain values; the store keeps it."""
        return {
            "name": self.name,
            "question": self.question,
            "seeds": list(self.seeds),
            "alpha": self.alpha,
            "factors": {factor: list(labels) for factor, labels in self.factors.items()},
            "arms": [{"levels": dict(arm.levels), "recipe": arm.recipe.plain()} for arm in self.arms],
            "claims": [claim.model_dump(mode="json") for claim in self.claims],
            "references": [reference.model_dump(mode="json") for reference in self.references],
            "quick": self.quick,
            "command": self.command,
        }


# ── finding and reading ─────────────────────────────────────────────────────────────────────────────────────────────


def packaged_studies() -> dict[str, str]:
    """The text of every study file that comes with allelse, by name, in the order of the mission."""
    folder = files("allelse") / "studies"
    texts = {
        entry.name.removesuffix(".toml"): entry.read_text("utf-8") for entry in folder.iterdir() if entry.name.endswith(".toml")
    }
    return dict(sorted(texts.items(), key=lambda item: (not item[0].startswith("sigmoid"), item[0])))


def load(name_or_path: str | Path, *, quick: bool = False, seeds: int | None = None, changes: Sequence[str] = ()) -> Study:
    """Read and check a study.

    Arguments:
        name_or_path: a packaged study's name, or a TOML file.
        quick: put in what the file's ``[quick]`` table changes.
        seeds: number of seeds instead of the file's.
        changes: ``key=value`` as with ``--set``: a recipe key, or a factor whose levels it replaces.

    Raises:
        StudyError: the file is not there or not valid, or a change is not.
    """
    source, text = _read(str(name_or_path))
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: numbers of thousands of digits, deep nesting
        raise StudyError(f"{source}: not valid TOML: {one_line(error)}; mend the file there") from None
    place = Place(source, text, raw)
    if quick and "quick" not in raw:
        raise StudyError(f"{source}: has no [quick] table, so --quick has nothing to change; add one or leave --quick out")
    if quick_table := raw.get("quick"):
        raw["quick"] = _quick_table(quick_table)
    with place.named():
        file = StudyFile.model_validate(raw)
    own_factors = _factors(file.factors, place)
    _check_claims(file.claims, own_factors, place)
    _check_references(file.references, own_factors, place)

    recipe, factors = copy.deepcopy(file.recipe), dict(own_factors)
    if quick:
        for key, value in file.quick.recipe.items():
            with _placed(place, ("quick", key)):
                _merge(recipe, {key: value})
        factors.update(_factors(file.quick.factors, place, under="quick.factors"))
    for change in changes:
        key, value = _parse_change(change)
        if key in factors:
            factors[key] = _replaced_levels(change, key, value, factors[key])
        else:
            _check_takes_effect(change, key, factors)
            with _placed(Place(f"--set {change}", "", {}), (key,)):
                _put(recipe, key, value)
    count = seeds if seeds is not None else file.quick.seeds if quick and file.quick.seeds else file.study.seeds
    if not 1 <= count <= 10_000:
        raise StudyError(f"--seeds {count}: allowed: 1 to 10000")
    arms = tuple(_arms(recipe, factors, place, changes, file.quick if quick else Quick()))
    if any(arm.recipe.own_parts() for arm in arms):
        own.search(Path(name_or_path).expanduser().parent)
    return Study(
        name=file.study.name + ("-quick" if quick else ""),
        question=file.study.question,
        seeds=tuple(range(file.study.first_seed, file.study.first_seed + count)),
        alpha=file.study.alpha,
        factors={factor: tuple(levels) for factor, levels in factors.items()},
        arms=arms,
        claims=file.claims,
        references=file.references,
        quick=quick,
        command=_command(name_or_path, quick, seeds, changes),
    )


def _command(name_or_path: str | Path, quick: bool, seeds: int | None, changes: Sequence[str]) -> str:
    options = ["--quick"] if quick else []
    options += ["--seeds", str(seeds)] if seeds is not None else []
    options += [word for change in changes for word in ("--set", change)]
    return shlex.join(["allelse", "run", str(name_or_path), *options])


def _read(name_or_path: str) -> tuple[str, str]:
    packaged = packaged_studies()
    if name_or_path in packaged:
        return f"{name_or_path} (packaged)", packaged[name_or_path]
    path = Path(name_or_path)
    try:
        path = path.expanduser()
        if not path.exists() and path.suffix != ".toml" and "/" not in name_or_path:
            known = did_you_mean(name_or_path, list(packaged))
            raise StudyError(one_line(f"{name_or_path}: no such study; {known}; or give a .toml file"))
        return str(path), path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file; 'allelse new {path}' writes one to start from") from None
    except (OSError, UnicodeDecodeError, RuntimeError) as error:  # RuntimeError: the home folder of a user who is not there
        raise StudyError(f"{path}: cannot be read as a UTF-8 text file: {one_line(error)}") from None


# ── factors, levels, changes ────────────────────────────────────────────────────────────────────────────────────────


def _factors(raw: Mapping[str, Any], place: Place, under: str = "factors") -> dict[str, dict[Level, dict[str, Any]]]:
    """The changes that each level makes to the recipe, by factor and label."""
    factors: dict[str, dict[Level, dict[str, Any]]] = {}
    for factor, levels in raw.items():
        path = (*under.split("."), factor)
        if factor in COLUMNS:
            raise place.error(path, f"the tables have a column of this name; allowed: any but {', '.join(COLUMNS)}")
        if isinstance(levels, Mapping) and levels and all(isinstance(moved, Mapping) for moved in levels.values()):
            factors[factor] = {label: dict(moved) for label, moved in levels.items()}
        elif isinstance(levels, list) and levels:
            labelled = [(_label(level), {factor: level}) for level in levels]
            if len({label for label, _ in labelled}) < len(labelled):  # 1, 1.0 and true are one level, as in any dict
                raise place.error(path, f"{levels!r} names a level twice; allowed: each level once")
            factors[factor] = dict(labelled)
        else:
            raise place.error(
                path, f"{levels!r}; allowed: a list of levels, or a table of named levels with the keys each one sets"
            )
    return factors


def _replaced_levels(
    change: str, factor: str, value: Any, known: Mapping[Level, dict[str, Any]]
) -> dict[Level, dict[str, Any]]:
    """The levels that ``--set factor=value`` leaves: known ones by their labels, new ones where a level is a value."""
    given = _factors({factor: value if isinstance(value, list) else [value]}, Place(f"--set {change}", "", {}))[factor]
    if any(set(moved) != {factor} for moved in known.values()):  # named levels of several keys: nobody can make up a new one
        for label in given:
            if label not in known:
                raise StudyError(
                    f"--set {change}: {label!r} is no level of {factor!r}; {did_you_mean(label, [*map(str, known)])}"
                )
    return {label: known.get(label, moved) for label, moved in given.items()}


def _label(level: Any) -> Level:
    if isinstance(level, Mapping):
        options = ", ".join(f"{key}={value}" for key, value in level.items() if key not in NAMING)
        name = next((str(level[key]) for key in NAMING if key in level), "")
        return f"{name}({options})" if options or not name else name
    if isinstance(level, list):
        return "-".join(map(str, level)) or "none"
    return level


def _arms(
    recipe: dict[str, Any],
    factors: dict[str, dict[Level, dict[str, Any]]],
    place: Place,
    changes: Sequence[str],
    quick: Quick,
) -> Iterator[Arm]:
    for combination in itertools.product(*(levels.items() for levels in factors.values())):
        levels = {factor: label for factor, (label, _) in zip(factors, combination, strict=True)}
        raw = copy.deepcopy(recipe)
        moved_by = {}
        for factor, (_, moved) in zip(factors, combination, strict=True):
            stands = ("quick", "factors", factor) if factor in quick.factors else ("factors", factor)
            for key, value in moved.items():
                with _placed(place, stands):
                    _put(raw, key, value)
                moved_by[key] = stands
        origin = Origin(raw, changes, moved_by, list(quick.recipe))
        with place.named(origin):
            checked = Recipe.model_validate(raw)
        yield Arm(levels, checked, partial(place.error_in_part, origin))


@contextmanager
def _placed(place: Place, path: Sequence[str]) -> Iterator[None]:
    """Let a ``StudyError`` inside this block say where the value stands."""
    try:
        yield
    except StudyError as error:
        raise place.error(path, str(error)) from None


def _check_takes_effect(change: str, key: str, factors: Mapping[str, Mapping[Level, Mapping[str, Any]]]) -> None:
    """Refuse a change of what every arm sets anew: it would be passed over in silence."""
    for factor, levels in factors.items():
        if all(any(key == moved or key.startswith(f"{moved}.") for moved in level) for level in levels.values()):
            raise StudyError(
                one_line(f"--set {change}: every level of the factor {factor!r} sets {key}, so this would change nothing")
            )


def _put(recipe: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key``; a part given by its name alone becomes a table first."""
    *parents, last = key.split(".")
    node = recipe
    for parent in parents:
        child = node.get(parent, {})
        if isinstance(child, str):
            child = {"name": child}
        if not isinstance(child, dict):
            raise StudyError(f"{parent} is {child!r}, which has no keys of its own; name an existing key of the recipe")
        node[parent] = child
        node = child
    node[last] = copy.deepcopy(value)


def _merge(recipe: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put ``changes`` over ``recipe``, table by table; a table with a ``name`` is a part and replaces what was there."""
    for key, value in changes.items():
        if "." in key:
            _put(recipe, key, value)
        elif isinstance(value, Mapping) and "name" not in value and isinstance(recipe.get(key), dict):
            _merge(recipe[key], value)
        else:
            recipe[key] = copy.deepcopy(value)


def _quick_table(raw: Any) -> Any:
    """``[quick]`` holds recipe keys beside ``seeds`` and ``factors``; sort them apart."""
    if not isinstance(raw, dict):
        return raw
    own = {key: raw[key] for key in ("seeds", "factors") if key in raw}
    return {**own, "recipe": {key: value for key, value in raw.items() if key not in own}}


def _parse_change(change: str) -> tuple[str, Any]:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise StudyError(one_line(f"--set {change}: allowed: key=value, e.g. --set epochs=2 or --set 'model.depth=[1, 2]'"))
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), text.strip()


def _check_claims(claims: Sequence[Claim], factors: Mapping[str, Mapping[Level, Any]], place: Place) -> None:
    levels_from_factor = {factor: list(levels) for factor, levels in factors.items()}
    for number, claim in enumerate(claims):
        if claim.metric not in METRICS:
            raise place.error(("claims", number, "metric"), f"{claim.metric!r}; {did_you_mean(claim.metric, list(METRICS))}")
    for number in range(len(claims)):  # the claims up to this one, so that the first mistake is this one's
        try:
            check_claims(claims[: number + 1], levels_from_factor)
        except StudyError as error:
            raise place.error(("claims", number), str(error)) from None


def _check_references(references: Sequence[Reference], factors: Mapping[str, Mapping[Level, Any]], place: Place) -> None:
    for number, reference in enumerate(references):
        for factor, level in reference.arm.items():
            if factor not in factors:
                raise place.error(
                    ("references", number),
                    f"{reference.source!r} names the factor {factor!r}; {did_you_mean(factor, list(factors))}",
                )
            if level_key(level) not in map(level_key, factors[factor]):
                allowed = [str(label) for label in factors[factor]]
                raise place.error(
                    ("references", number), f"{reference.source!r}: {factor} = {level!r}; {did_you_mean(level, allowed)}"
                )
