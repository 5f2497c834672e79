"""Loading: a packaged name or a TOML file, with what the command line changes, in; a checked ``Study`` out.

Everything a study says is checked here, before anything is trained: unknown keys, wrong types, impossible values, claims
about arms that are not there. Each mistake is one ``StudyError`` line with file, line, key, the value given, what is allowed.
What the file declares is held against its own levels, not those that ``[quick]``, ``[scaled]`` or ``--set`` leave: a claim or
an exclusion whose levels these take away is passed over.
"""

from __future__ import annotations

import copy
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from allelse import own
from allelse.design import Level, arm_text, condition_text, matches
from allelse.errors import StudyError, did_you_mean, one_line
from allelse.messages import Path as Stands
from allelse.messages import Place
from allelse.recipe import Recipe
from allelse.study.arms import Arm, Builder, placed
from allelse.study.changes import covers, dotted, give_way, merge, outer_first, parse_change, put
from allelse.study.declared import check_declared, check_measured, is_excluded
from allelse.study.factors import (
    Factor,
    check_condition,
    check_when,
    combinations,
    levels_instead,
    read_factors,
    replaced_levels,
)
from allelse.study.file import MOST_FIRST_SEED, Adjust, StudyFile, Tune, Version, parsed, read
from allelse.study.tuning import check_tuning, read_tune
from allelse.study.whole import Study

MOST_RUNS = 1_000_000
"""of one study: each is planned, stored and shown by itself"""
MOST_NAMED = 6
"""excluded combinations that a note names one by one"""


EVERY_ARM = "every arm"
VERSIONS = ("quick", "scaled")
"""tables of the study file that make a smaller study of it"""


def load(
    name_or_path: str | Path,
    *,
    quick: bool = False,
    scaled: bool = False,
    seeds: int | None = None,
    first_seed: int | None = None,
    changes: Sequence[str] = (),
) -> Study:
    """Read and check a study.

    Arguments:
        name_or_path: a packaged study's name, or a TOML file.
        quick: put in what the file's ``[quick]`` table changes.
        scaled: put in what the file's ``[scaled]`` table changes.
        seeds: number of seeds of every arm instead of the file's.
        first_seed: the first of them instead of the file's, so that several machines may each train seeds of their own.
        changes: ``key=value`` as with ``--set``: a recipe key, a factor whose levels it replaces, or a key of ``[tune]``.

    Raises:
        StudyError: the file is not there or not valid, or a change is not.
    """
    source, text = read(str(name_or_path))
    place = parsed(source, text)
    raw = dict(place.raw)
    version = _asked_version(source, raw, quick, scaled)
    for name in VERSIONS:
        if name in raw:
            raw[name] = _version_table(name, raw[name], place)
    with place.named():
        file = StudyFile.model_validate(raw)
    own_factors = read_factors(file.factors, place)
    check_declared(file, own_factors, place)

    put_in = getattr(file, version) if version else Version()
    factors = _with_levels_of(version, own_factors, put_in, place)
    recipe = copy.deepcopy(file.recipe)
    give_way(recipe, put_in.recipe)
    for key, value in outer_first(put_in.recipe):
        with placed(place, (version, key)):
            merge(recipe, {key: value})
    for change in changes:
        _make_change(change, recipe, factors)
    _check_undone(changes)
    all_seeds = _seeds(file, put_in, seeds, first_seed)

    combined = combinations(factors, place)
    if len(combined) * len(all_seeds) > MOST_RUNS:  # before so many arms are built
        raise _too_many(f"{source}: {len(combined)} arms × {len(all_seeds)} seeds", "ask for fewer with --seeds")
    exclude = file.exclude if put_in.exclude is None else put_in.exclude
    excluded = [levels for levels in combined if is_excluded(exclude, levels)]
    adjust = _adjust(file, version, put_in, keep_seeds=seeds is None)
    build = Builder(recipe, factors, adjust, all_seeds, place, changes, [(version, key) for key in put_in.recipe]).build
    built = [build(levels) for levels in combined if not is_excluded(exclude, levels)]
    if not built:
        option = f"--{version}" if version else "the exclusion"
        raise StudyError(f"{source}: exclude: no arm is left; leave out {option} or the --set that takes the others away")
    arms = tuple(arm for arm, _ in built)
    if (runs := sum(len(arm.seeds) for arm in arms)) > MOST_RUNS:
        raise _too_many(f"{source}: {runs} runs", "ask for fewer seeds in [[adjust]]")
    if any(arm.recipe.own_parts() for arm in arms):
        own.search(Path(name_or_path).expanduser().parent)
    tune = read_tune(file, version, put_in, changes, source)
    for name in (tune.per or ()) if tune else ():
        if name not in factors:
            raise StudyError(f"{source}: tune.per: there is no factor {name!r}; {did_you_mean(name, list(factors))}")
    if tune and (runs := len(arms) * len(tune.values) * tune.seeds) > MOST_RUNS:
        raise _too_many(f"{source}: {runs} tuning runs", "ask for fewer values or seeds in [tune]")
    _check_take_effect(changes, factors, [moved for _, moved in built])
    if not changes:  # else arms may be left out that keep it
        _check_version_takes_effect(version, put_in, tune, [moved for _, moved in built], place)
    if not version and not changes:  # else a claim may be one that is not asked in this run
        check_measured(file.claims, arms, place)
    study = Study(
        name="-".join(filter(None, (file.study.name, version))),
        question=file.study.question,
        seeds=all_seeds,
        first_seed=file.study.first_seed,
        alpha=file.study.alpha,
        factors=_levels_there(factors, arms),
        arms=arms,
        excluded=tuple(excluded),
        tune=tune,
        claims=file.claims,
        references=file.references,
        notes=(*_conditions(factors, arms), *_exclusions(excluded, len(combined)), *_adjustments(adjust, arms)),
        quick=quick,
        scaled=scaled,
        command=_command(name_or_path, version, seeds, first_seed, changes),
    )
    return check_tuning(study, [moved for _, moved in built], changes, place)


def _make_change(change: str, recipe: dict[str, Any], factors: dict[str, Factor]) -> None:
    """One ``--set``, in place; one of ``[tune]`` is left to ``read_tune``."""
    key, value = parse_change(change)
    if key in factors:
        factors[key] = replaced_levels(change, key, value, factors[key])
    elif key in ("seeds", "first_seed") or covers("study", key):
        allowed = "recipe keys; --seeds N and --first-seed N for seeds"
        raise StudyError(one_line(f"--set {change}: [study] stands in the file; allowed: {allowed}"))
    elif not covers("tune", key):
        if not _is_of_recipe(key) and (
            near := get_close_matches(key, [name for name in factors if not _is_of_recipe(name)], 1)
        ):
            raise StudyError(one_line(f"--set {change}: {key}: unknown key; did you mean the factor {near[0]!r}?"))
        give_way(recipe, [key])
        with placed(Place(f"--set {change}", "", {}), (key,)):
            for inner, one in dotted({key: value}).items():
                put(recipe, inner, one)


def _is_of_recipe(key: str) -> bool:
    return key.partition(".")[0] in Recipe.model_fields


def _seeds(file: StudyFile, put_in: Version, seeds: int | None, first_seed: int | None) -> tuple[int, ...]:
    count = seeds if seeds is not None else put_in.seeds or file.study.seeds
    if not 1 <= count <= 10_000:
        raise StudyError(f"--seeds {count}: allowed: 1 to 10000")
    first = file.study.first_seed if first_seed is None else first_seed
    if not 0 <= first <= MOST_FIRST_SEED:
        raise StudyError(f"--first-seed {first}: allowed: 0 to {MOST_FIRST_SEED}")
    return tuple(range(first, first + count))


def _too_many(what: str, remedy: str) -> StudyError:
    return StudyError(f"{what}; allowed: {MOST_RUNS} runs; {remedy}")


def versions(name_or_path: str | Path) -> list[str]:
    """Which of ``VERSIONS`` a study that can be loaded has."""
    raw = tomllib.loads(read(str(name_or_path))[1])
    return [name for name in VERSIONS if name in raw]


def _command(name_or_path: str | Path, version: str, seeds: int | None, first_seed: int | None, changes: Sequence[str]) -> str:
    options = [f"--{version}"] if version else []
    options += ["--seeds", str(seeds)] if seeds is not None else []
    options += ["--first-seed", str(first_seed)] if first_seed is not None else []
    options += [word for change in changes for word in ("--set", change)]
    return shlex.join(["allelse", "run", str(name_or_path), *options])


# ── what --quick, --scaled and --set change ───────────────────────────────────────────────────────────────────────────────────


def _asked_version(source: str, raw: Mapping[str, Any], quick: bool, scaled: bool) -> str:
    """The name of the table to put in; empty for the study as it stands."""
    asked = [name for name, wanted in zip(VERSIONS, (quick, scaled)) if wanted]
    if len(asked) > 1:
        raise StudyError(f"{source}: --quick and --scaled are two versions of a study; give one of them")
    for name in asked:
        if name not in raw:
            raise StudyError(
                f"{source}: has no [{name}] table, so --{name} has nothing to change; add one or leave --{name} out"
            )
    return "".join(asked)


def _version_table(name: str, raw: Any, place: Place) -> Any:
    """``[quick]`` and ``[scaled]`` hold recipe keys beside those of their own; sort them apart."""
    if not isinstance(raw, dict):
        return raw
    allowed = [*(key for key in Version.model_fields if key != "recipe"), *Recipe.model_fields]
    for key in raw:
        if key.partition(".")[0] not in allowed:
            raise place.error((name, key), f"unknown key; {did_you_mean(key, allowed)}")
    own = {key: raw[key] for key in Version.model_fields if key in raw}
    return {**own, "recipe": {key: value for key, value in raw.items() if key not in own}}


def _with_levels_of(version: str, own: Mapping[str, Factor], put_in: Version, place: Place) -> dict[str, Factor]:
    """The factors with the levels of ``[quick.factors]``, say; a factor that only some arms have stays one."""
    factors = dict(own)
    for name, factor in read_factors(put_in.factors, place, under=f"{version}.factors").items():
        check_when(name, factor, factors, place)
        factors[name] = levels_instead(name, put_in.factors[name], factor, own[name], place) if name in own else factor
    for number, adjust in enumerate(put_in.adjust or ()):
        check_condition(adjust.where, factors, (version, "adjust", number, "where"), place)
    for number, condition in enumerate(put_in.exclude or ()):
        check_condition(condition, factors, (version, "exclude", number), place)
    return factors


def _adjust(file: StudyFile, version: str, put_in: Version, *, keep_seeds: bool) -> list[tuple[Stands, Adjust]]:
    """The adjustments that hold; a number of seeds for all arms, from ``--seeds`` or the version, goes before their own."""
    if put_in.adjust is not None:
        found: list[tuple[Stands, Adjust]] = [((version, "adjust", number), each) for number, each in enumerate(put_in.adjust)]
    else:
        found = [(("adjust", number), each) for number, each in enumerate(file.adjust)]
        keep_seeds = keep_seeds and put_in.seeds is None
    return found if keep_seeds else [(stands, each.model_copy(update={"seeds": None})) for stands, each in found]


def _check_undone(changes: Sequence[str]) -> None:
    """Refuse a change that takes back what an earlier one set inside it."""
    for number, change in enumerate(changes):
        key, value = parse_change(change)
        for earlier in changes[:number]:
            inner = parse_change(earlier)[0]
            if inner != key and any(covers(moved, inner) for moved in dotted({key: value})):
                remedy = "leave one of them out" if covers(inner, key) else "give it first"
                raise StudyError(one_line(f"--set {change}: would undo --set {earlier}; {remedy}"))


def _check_take_effect(changes: Sequence[str], factors: Mapping[str, Factor], moved: Sequence[Mapping[str, Stands]]) -> None:
    """Refuse a change of what every arm sets anew: it would be passed over in silence."""
    for change in changes:
        key, value = parse_change(change)
        for inner in dotted({key: value}) if key not in factors else ():
            if who := _who_sets_anew(inner, moved):
                raise StudyError(one_line(f"--set {change}: {who} sets {inner}, so this would change nothing"))


def _check_version_takes_effect(
    version: str, put_in: Version, tune: Tune | None, moved: Sequence[Mapping[str, Stands]], place: Place
) -> None:
    """The same, of what ``[quick]`` or ``[scaled]`` says."""
    for path in _leaves(put_in.recipe):
        key = ".".join(path)
        if who := _who_sets_anew(key, moved):
            instead = f"[[{version}.adjust]]" if who == EVERY_ARM else f"[{version}.factors]"
            raise place.error((version, *path), f"{who} sets {key}, so this changes nothing; leave it out, or use {instead}")
        if tune and covers(tune.key, key):
            raise place.error(
                (version, *path), f"[tune] chooses {key}, so this changes nothing; leave it out, or add tune = false"
            )


def _leaves(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of values in nested tables; a part with a name is a value."""
    for key, value in table.items():
        if isinstance(value, Mapping) and "name" not in value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _who_sets_anew(key: str, moved: Sequence[Mapping[str, Stands]]) -> str:
    """What in the file sets ``key`` in every arm; empty where there is an arm that keeps it."""
    movers = [next((stands for other, stands in keys.items() if covers(other, key)), None) for keys in moved]
    if not all(movers):
        return ""
    one, *more = dict.fromkeys(movers)
    return f"every level of the factor {one[-1]!r}" if one and not more and "factors" in one else EVERY_ARM


# ── which arms there are ────────────────────────────────────────────────────────────────────────────────────────────


def _levels_there(factors: Mapping[str, Factor], arms: Sequence[Arm]) -> dict[str, tuple[Level, ...]]:
    """The labels that some arm has, by factor, without the factors that no arm has."""
    there = {name: {arm.levels[name] for arm in arms if name in arm.levels} for name in factors}
    return {name: tuple(label for label in factors[name].levels if label in labels) for name, labels in there.items() if labels}


def _conditions(factors: Mapping[str, Factor], arms: Sequence[Arm]) -> list[str]:
    there = _levels_there(factors, arms)
    return [f"{name}: only where {condition_text(factors[name].when)}" for name in there if factors[name].when]


def _exclusions(excluded: Sequence[Mapping[str, Level]], combined: int) -> list[str]:
    if not excluded:
        return []
    named = "; ".join(map(arm_text, excluded[:MOST_NAMED]))
    more = f"; and {len(excluded) - MOST_NAMED} more" if len(excluded) > MOST_NAMED else ""
    return [f"excluded: {len(excluded)} of {combined} combinations: {named}{more}"]


def _adjustments(adjust: Sequence[tuple[Stands, Adjust]], arms: Sequence[Arm]) -> list[str]:
    notes = []
    for _, each in adjust:
        count = sum(matches(each.where, arm.levels) for arm in arms)
        what = [f"{key} = {value}" for key, value in each.set.items()]
        what += [f"{each.seeds} seeds"] if each.seeds is not None else []
        if count and what:
            where = f"where {condition_text(each.where)}" if each.where else "in all arms"
            notes.append(f"{where}: {', '.join(what)} ({count} arm{'s' if count > 1 else ''})")
    return notes
