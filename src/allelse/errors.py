"""What can go wrong through no fault of allelse, as exceptions whose text is the whole message for the user.

    AllelseError                 exit code 2; one line: what, where, what is allowed, what to do
    ├── StudyError               a study file, a recipe value or a --set is not valid
    │   └── RecipeError          a value of a recipe cannot be had: it does not fit the data, or another value
    │       └── PartError        a part of the user's own cannot be found, or must not be trusted
    ├── DataError                a data set is missing, damaged or does not fit
    ├── StoreError               the output folder cannot be used as asked
    ├── DeviceError              the device asked for is not there
    └── MachineError             the workers or the cluster asked for are not there

A failure *inside* a run (it diverged, a worker died) is no exception of these: it is recorded as the run's status.
"""

import re
import shlex
from collections.abc import Sequence

MOST_LETTERS = 2_000
"""of a message; what is longer carries a user's whole value along, and loses its middle"""

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def inert(text: str) -> str:
    """A text in which no terminal and no reader finds anything to obey, and that any file can hold.

    Control characters but line breaks and tabs, marks that turn the direction of writing, and bytes that are no UTF-8 are
    written as Python does: ``\\x1b``.
    """
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(error: object) -> str:
    """The text of an error without line breaks or runs of blanks."""
    return " ".join(str(error).split())


def command(*words: object) -> str:
    """``'allelse report DIR'`` as a message has it; without marks around it where a word needs marks of its own."""
    line = shlex.join(["allelse", *map(str, words)])
    return line if "'" in line else f"'{line}'"


def counted(number: int, one: str, several: str = "") -> str:
    """``1 run``, ``2 runs``; ``several`` where that is not ``one`` with an s."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """``a, b and 2 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


class AllelseError(Exception):
    """Base of every error that a user can cause and mend; ``str(error)`` is one line, and shown as it stands."""

    def __str__(self) -> str:
        line = inert(re.sub(r"\s*[\n\r\t]\s*", " ", super().__str__()))
        return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS // 2]} … {line[-MOST_LETTERS // 2 :]}"


class StudyError(AllelseError):
    """A study file, one of its values, or a ``--set`` is not valid."""


class RecipeError(StudyError):
    """A value of a recipe cannot be had, which shows only with the data: whoever knows the study file says where it stands."""

    def __init__(self, reason: str, path: tuple[str, ...] = ()) -> None:
        """
        Arguments:
            reason: what is wrong, what is allowed, what to do.
            path: the keys of the recipe under which it stands, where that is known.
        """
        super().__init__(": ".join([".".join(("recipe", *path))] * bool(path) + [reason]))
        self.reason = reason
        self.path = path


class PartError(RecipeError):
    """A part of the user's own (``python:module:Name``) cannot be imported or made, or would not be exact in a pack."""


class DataError(AllelseError):
    """A data set is missing, damaged, or does not fit what the study asks of it."""


class StoreError(AllelseError):
    """The output folder holds something else, is in use, or cannot be written."""


class DeviceError(AllelseError):
    """The device that was asked for is not there."""


class MachineError(AllelseError):
    """The workers or the cluster that were asked for are not there."""


class Terminated(SystemExit):
    """SIGTERM, with which clusters announce that they take a machine back; passes through whatever is under way."""

    def __init__(self) -> None:
        super().__init__(143)


def did_you_mean(given: object, allowed: list[str] | tuple[str, ...]) -> str:
    """The close of a message about an unknown name: the nearest allowed one, then all of them."""
    from difflib import get_close_matches

    if not allowed:
        return "there is none to name"
    near = get_close_matches(str(given), allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(allowed)}"
