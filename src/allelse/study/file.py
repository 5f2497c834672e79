"""The study file: what its tables may say, as frozen pydantic models; a packaged name or a path in, the file's text out."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from allelse.claims import Claim
from allelse.errors import StudyError, command, did_you_mean, one_line
from allelse.messages import Place
from allelse.recipe import Part
from allelse.recipe.base import Listed
from allelse.records import ACCURACIES
from allelse.study.values import misfit

MOST_FIRST_SEED = 1_000_000_000
MOST_BYTES = 1 << 20
"""of a study file"""

Seeds = Annotated[int, Field(ge=1, le=10_000)]


class Header(Part):
    """The ``[study]`` table."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)]
    """lower-case letters, digits and hyphens; names the output folder"""
    question: Annotated[str, Field(min_length=1)]
    seeds: Seeds
    """replications of every arm"""
    first_seed: Annotated[int, Field(ge=0, le=MOST_FIRST_SEED)] = 0
    """the seeds are this one and those that follow"""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """how often a wrong verdict may be reached, over all claims of the study"""


class Reference(Part):
    """A published figure to show beside ours: one run, or a mean of ``n`` runs. With ``sd`` and ``n`` it can be tested."""

    source: Annotated[str, Field(min_length=1)]
    arm: dict[str, Any]
    """levels by factor, as in ``[factors]``; factors left out stand for all their levels"""
    accuracy: Annotated[float, Field(ge=0, le=100)]
    """percent; the mean where it is of several runs"""
    sd: Annotated[float, Field(ge=0, le=100)] | None = None
    """their standard deviation over runs, in percentage points; a standard error times √n"""
    n: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """their runs; left out where it is not known"""
    metric: str = "accuracy"
    """which of our accuracies it is to stand beside: the last epoch's where left out"""
    note: str | None = None

    @model_validator(mode="after")
    def _can_be_compared(self) -> Reference:
        if self.metric not in ACCURACIES:
            raise ValueError(f"metric {self.metric!r} is no accuracy; {did_you_mean(self.metric, ACCURACIES)}")
        if 0 < self.accuracy < 1:
            raise ValueError(
                f"accuracy is {self.accuracy:g}, less than one percent; give percent, as in {100 * self.accuracy:g}"
            )
        if self.sd is not None and (self.n is None or self.n < 2):
            raise ValueError("sd is a spread over runs and needs n, their number, of at least 2; add it, or leave sd out")
        return self


class Adjust(Part):
    """One ``[[adjust]]``: what is set otherwise, or how many seeds there are, for the arms with certain levels."""

    where: dict[str, Any] = {}
    """a level or a list of levels by factor; all arms when left out"""
    set: dict[str, Any] = {}
    """recipe keys"""
    seeds: Seeds | None = None
    """the arm's number of seeds: the study's first ones, and more that follow on them"""

    @model_validator(mode="after")
    def _does_something(self) -> Adjust:
        if not self.set and self.seeds is None:
            raise ValueError("set or seeds is missing; say what is otherwise for these arms")
        return self


def _check_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError("allowed: a finite number")
    return value


def _check_distinct(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(values)) < len(values):
        raise ValueError("allowed: each value once")
    return values


class Tune(Part):
    """The ``[tune]`` table: one number of the recipe is chosen on the validation split, arm by arm, before the comparison."""

    key: Annotated[str, Field(min_length=1)]
    """the recipe key of the number, e.g. ``optimizer.lr``"""
    values: Annotated[
        tuple[Annotated[Any, PlainValidator(_check_number)], ...],
        Field(strict=False, min_length=2, max_length=100),
        AfterValidator(_check_distinct),
    ]
    """what is tried"""
    seeds: Annotated[int, Field(ge=1, le=1_000)] = 3
    """replications of every value, with seeds that the comparison never has"""
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """of a tuning run; as many as the arm has when left out"""
    metric: Literal["validation_accuracy", "validation_loss"] = "validation_accuracy"
    """of the last epoch, mean over seeds: the highest accuracy or the lowest loss is chosen"""
    per: Annotated[tuple[str, ...], Listed] | None = None
    """factors: arms with the same levels of these share one choice; every arm has its own when left out"""

    @model_validator(mode="after")
    def _epochs_once(self) -> Tune:
        if self.key == "epochs" and self.epochs is not None:
            raise ValueError("epochs is the number that is tuned; leave epochs out")
        return self


class Version(Part):
    """What ``--quick`` or ``--scaled`` changes: recipe keys, the number of seeds, levels, the tables for some arms."""

    seeds: Seeds | None = None
    factors: dict[str, Any] = {}
    exclude: Annotated[tuple[dict[str, Any], ...], Listed] | None = None
    """instead of the file's"""
    adjust: Annotated[tuple[Adjust, ...], Listed] | None = None
    """instead of the file's"""
    tune: dict[str, Any] | Literal[False] | None = None
    """keys of ``[tune]`` that change; or false: nothing is tuned"""
    recipe: dict[str, Any] = {}


class StudyFile(Part):
    """A whole study file; recipes are checked arm by arm, once the factors have been put in."""

    study: Header
    recipe: dict[str, Any]
    factors: dict[str, Any] = {}
    exclude: Annotated[tuple[dict[str, Any], ...], Listed] = ()
    """combinations of levels that are no arms: a level or a list of levels by factor"""
    adjust: Annotated[tuple[Adjust, ...], Listed] = ()
    tune: Tune | None = None
    claims: Annotated[tuple[Claim, ...], Listed] = ()
    references: Annotated[tuple[Reference, ...], Listed] = ()
    quick: Version = Version()
    """on data that come with allelse, in a minute"""
    scaled: Version = Version()
    """the study's own data, and what a machine without a GPU can do of it"""


class ClaimsFile(Part):
    """A file of claims alone, about a study that has run."""

    claims: Annotated[tuple[Claim, ...], Listed, Field(min_length=1)]


def packaged_studies() -> dict[str, str]:
    """The text of every study file that comes with allelse, by name, in the order of the mission."""
    folder = files("allelse") / "studies"
    texts = {
        entry.name.removesuffix(".toml"): entry.read_text("utf-8") for entry in folder.iterdir() if entry.name.endswith(".toml")
    }
    return dict(sorted(texts.items(), key=lambda item: (not item[0].startswith("sigmoid"), item[0])))


def read(name_or_path: str) -> tuple[str, str]:
    """What to call the file in messages, and its text.

    Raises:
        StudyError: there is no such study or file, or it is no text.
    """
    packaged = packaged_studies()
    if name_or_path in packaged:
        return f"{name_or_path} (packaged)", packaged[name_or_path]
    path = Path(name_or_path)
    try:
        path = path.expanduser()
        if not path.exists() and path.suffix != ".toml" and "/" not in name_or_path:
            known = did_you_mean(name_or_path, list(packaged))
            raise StudyError(one_line(f"{name_or_path}: no such study; {known}; or give a .toml file"))
        if path.is_dir():
            raise StudyError(f"{path}: is a folder; name a study file; {command('status', path)} looks at what was run there")
        if path.exists() and not path.is_file():
            raise StudyError(f"{path}: is a pipe or a device; write the study into a file and name that")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise StudyError(f"{path}: has more than {MOST_BYTES:,} bytes; allowed: a study file, which is a short text")
        return str(path), content.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file; {command('new', path)} writes one to start from") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: is no UTF-8 text; save it as UTF-8, or name a study file") from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: the home folder of a user who is not there
        raise StudyError(f"{path}: cannot be read as a UTF-8 text file: {one_line(error)}") from None


QUOTATION_MARKS = dict.fromkeys("“”„‟«»「」『』", '"') | dict.fromkeys("‘’‚‛`´", "'")
"""what is taken for the only two that TOML knows"""


def parsed(source: str, text: str) -> Place:
    """The raw values of a file's text, in what says where each stands.

    Raises:
        StudyError: it is no TOML, is empty, or has a value that no study can use.
    """
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: numbers of thousands of digits, deep nesting
        raise StudyError(f"{source}: not valid TOML: {one_line(error)}; {_remedy(text, str(error))}") from None
    if not raw:
        raise StudyError(f"{source}: is empty; 'allelse new FILE' writes a study file to start from")
    place = Place(source, text, raw)
    if found := misfit(raw):
        raise place.error(*found)
    return place


def _remedy(text: str, error: str) -> str:
    """What to write where TOML cannot be read: for what keyboards and word processors put in the place of plain signs."""
    if "overwrite a value" in error or "Duplicate inline table key" in error:
        return "something is given twice there; keep one of the two"
    if twice := re.search(r"Cannot declare \((.*)\) twice", error):
        names = re.findall(r"'([^']*)'", twice[1])
        table = ".".join(f'"{name}"' if "." in name else name for name in names)
        if table in ("exclude", "adjust", "claims", "references"):
            return f"write [[{table}]] for each"
        return f"[{table}] stands further up too; put its keys together there"
    if not (place := re.search(r"at line (\d+), column (\d+)", error)):
        return "mend the file there"
    rest = text.split("\n")[int(place[1]) - 1][int(place[2]) - 1 :]
    sign, word = rest[:1], re.match(r"\w*", rest)
    plain = QUOTATION_MARKS.get(sign) or unicodedata.normalize("NFKC", sign)
    if sign and plain != sign and plain.isascii():
        return f"write {plain} for {sign}" if plain.strip() else "write a plain blank for the other kind that stands there"
    if word and word[0]:
        return (
            f"write {word[0].lower()}" if word[0] in ("True", "False") else f'a name or a text there needs marks: "{word[0]}"'
        )
    return "mend the file there"
