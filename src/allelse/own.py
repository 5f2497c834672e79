"""Code of the user's own: ``python:module:Name`` in; the object, its file and that file's digest out.

Only what trains or looks at networks asks for it. Study files, stores and reports carry the text ``python:module:Name`` alone,
so that no one's code runs because a folder of results is read.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allelse.errors import PartError, Terminated, did_you_mean, one_line

OURS = Path(__file__).parent

_folders: list[Path] = []
_received: dict[str, Path] = {}
_text_at_import: dict[Path, bytes | None] = {}


@dataclass(frozen=True)
class Source:
    """Where an own part is written."""

    module: str
    """the module that defines it"""
    file: Path
    digest: str
    """SHA-256 of the file, 12 hex digits"""


@dataclass(frozen=True)
class Sources:
    """The user's code beside a study file, as it was imported: to be had in another process, or on another machine."""

    text_from_file: Mapping[Path, bytes] = field(default_factory=dict)
    """by path within ``folder``"""
    folder: Path = Path()
    """where it stands on the machine that sends it"""


def search(folder: Path) -> None:
    """Look for modules in ``folder`` too, the one of a study file: after Python's own places, so that it shadows nothing."""
    folder = folder.resolve()
    if folder not in _folders:
        _folders.append(folder)
        sys.path.append(str(folder))


def find(reference: str) -> Any:
    """What ``python:module:Name`` names.

    Raises:
        PartError: there is no such module or name, it is not callable, importing it fails, or its file was changed since.
    """
    _, module_name, name = reference.split(":")
    found: Any = _imported(reference, module_name)
    for part in name.split("."):
        try:
            has = hasattr(found, part)
        except Exception as error:  # a property or a __getattr__ of theirs
            raise PartError(f"{reference!r}: looking for {part!r} raises {in_words(error)}; mend it there") from None
        if not has:
            names = getattr(found, "__dict__", {}).items()
            there = [key for key, value in names if isinstance(value, type) and key[0] != "_"]
            raise PartError(f"{reference!r}: {_place(module_name)} has no {part!r}; {did_you_mean(part, there)}")
        found = getattr(found, part)
    if not callable(found):
        raise PartError(
            f"{reference!r} is of type {type(found).__name__}; allowed: a class, or a function that makes what one would"
        )
    return found


def source(reference: str) -> Source:
    """The file that defines an own part, as it was when it was imported."""
    defined_in = getattr(find(reference), "__module__", None)
    module = sys.modules[reference.split(":")[1]]
    if isinstance(defined_in, str):
        module = sys.modules.get(defined_in, module)
    file = Path(getattr(module, "__file__", None) or "")
    if _as_imported(file) != (now := _text(file)):
        raise PartError(f"{reference!r}: {file} was changed since it was imported; begin a new Python")
    return Source(module.__name__, file, hashlib.sha256(now).hexdigest()[:12] if now is not None else "built in")


def send() -> list[Sources]:
    """All that was imported so far from the folders of study files: own parts, and what they import from beside them."""
    files = {Path(file).resolve() for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    sent = []
    for folder in _folders:
        # A study may stand beside its virtual environment, whose packages are none of the user's parts.
        beside = [file for file in files if file.is_relative_to(folder) and "site-packages" not in file.parts]
        found = {file.relative_to(folder): _as_imported(file) for file in sorted(beside) if _is_their_source(file)}
        texts = {name: text for name, text in found.items() if text is not None}
        sent += [Sources(texts, folder)] * bool(texts)
    return sent


def _as_imported(file: Path) -> bytes | None:
    """What stood in a module's file at the first look, which is right after it was imported; None where it has none."""
    if file not in _text_at_import:
        _text_at_import[file] = _text(file)
    return _text_at_import[file]


def _is_their_source(file: Path) -> bool:
    return file.suffix == ".py" and file.is_file() and not file.is_relative_to(OURS)


def receive(sent: Sequence[Sources]) -> None:
    """Make what another process sent importable: from its own folder where that holds the very same files, else from a copy."""
    for sources in sent:
        key = str((sources.folder, sorted(sources.text_from_file.items())))
        if key not in _received:
            folder = sources.folder
            if any(_text(folder / name) != text for name, text in sources.text_from_file.items()):
                _forget(folder)  # a child process begins with its parent's places
                folder = Path(tempfile.mkdtemp(prefix="allelse-"))
                atexit.register(shutil.rmtree, folder, ignore_errors=True)
                for name, text in sources.text_from_file.items():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(text)
            _received[key] = folder
        search(_received[key])


def _forget(folder: Path) -> None:
    _folders[:] = [place for place in _folders if place != folder]
    sys.path[:] = [place for place in sys.path if Path(place) != folder]


def _text(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _imported(reference: str, module_name: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            places = ", ".join(map(str, _folders)) or "no folder of a study file"
            raise PartError(
                f"{reference!r}: there is no module {error.name!r} in {places}, and none is installed; "
                "put it beside the study file, or install it"
            ) from None
        raise _failed(reference, module_name, error) from None
    except Terminated:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(reference, module_name, error) from None
    top = module_name.partition(".")[0]
    came_from = Path(getattr(sys.modules[top], "__file__", None) or "").resolve()
    beside = [folder for folder in _folders if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()]
    if beside and not any(came_from.is_relative_to(folder) for folder in beside):
        raise PartError(
            f"{reference!r}: {top!r} is {came_from} here, and not the one in {beside[-1]}; give the latter another name"
        )
    return module


def _failed(reference: str, module_name: str, error: BaseException) -> PartError:
    return PartError(f"{reference!r}: importing {module_name} raises {in_words(error)}; mend it there")


@contextmanager
def refused_where_it_fails(refused: Callable[[str], PartError], when: str) -> Iterator[None]:
    """Around code of the user's: what it raises, ``sys.exit`` too, is a refusal in one line."""
    try:
        yield
    except (PartError, Terminated):
        raise
    except (Exception, SystemExit) as error:
        raise refused(f"raises {in_words(error)} {when}") from None


def in_words(error: BaseException) -> str:
    """An error of the user's code, in one line with the place in a file of theirs where it came up."""
    trace, where = error.__traceback__, ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if not file.is_relative_to(OURS) and any(file.is_relative_to(folder) for folder in _folders):
            where = f" ({file.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    said = one_line(error)
    return f"{type(error).__name__}{': ' if said else ''}{said}{where}"


def _place(module_name: str) -> str:
    return getattr(sys.modules[module_name], "__file__", None) or module_name
