"""The floors of the design: who may import whom, what never loads torch, how long a file may be, which projects are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SOURCE = Path(__file__).parents[1] / "src" / "allelse"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS_FROM_FLOOR = {
    0: {"records", "errors"},
    1: {
        "seeds",
        "own",
        "recipe",
        "design",
        "claims",
        "messages",
        "blocks",
        "models",
        "data",
        "store",
        "progress",
        "stats",
        "tuning",
        "report",
    },
    2: {"study", "fit", "plan", "engine", "explanation"},
    3: {"launch"},
    4: {"cli", "api", "__init__", "__main__"},
}
FLOOR = {room: floor for floor, rooms in ROOMS_FROM_FLOOR.items() for room in rooms}
SAME_FLOOR = {  # importing room: rooms of its own floor that it needs
    "blocks": {"own", "recipe", "seeds"},
    "claims": {"design", "recipe"},
    "data": {"seeds"},
    "explanation": {"engine", "plan", "study"},
    "models": {"blocks", "recipe", "seeds"},
    "fit": {"study"},
    "plan": {"study", "fit"},
    "report": {"claims", "design", "stats", "store", "tuning"},
    "stats": {"claims", "design"},
    "store": {"design", "progress"},
    "tuning": {"design", "store"},
}
WITHOUT_TORCH = {
    *("records", "errors", "own", "seeds", "recipe", "design", "claims", "messages", "data"),
    *("store", "progress", "stats", "tuning", "report", "study"),
}
NEVER_FROM_ENGINE = {"study", "fit", "plan", "store", "launch", "cli", "explanation"}


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere in a file, inside functions too, with dots."""
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            modules |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return modules


def rooms_imported(file: Path) -> set[str]:
    """The rooms of allelse that a file imports, without its own; the bare package is ``__init__``."""
    rooms = set()
    for module in imported_modules(ast.parse(file.read_text())):
        parts = module.split(".")
        if parts[0] == "allelse":
            room = parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"
            rooms.add(room)
    return rooms - {room_of(file)}


def only_the_version(file: Path) -> bool:
    """Whether a file that imports the package itself asks it for ``__version__`` and nothing else."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "allelse":
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "allelse":
            names |= {alias.name for alias in node.names} - set(FLOOR)
    return names <= {"__version__"}


def test_every_file_belongs_to_a_room_that_has_a_floor():
    assert len(FILES) > 30
    rooms = {room_of(file) for file in FILES}
    assert rooms <= set(FLOOR), f"give {rooms - set(FLOOR)} a floor here and in CONTRIBUTING.md"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_imports_go_down_only(file):
    room = room_of(file)
    for other in rooms_imported(file):
        if other == "__init__" and FLOOR[room] < 4:
            assert only_the_version(file), f"{file.name} may ask the package for its version only"
        elif FLOOR[other] == FLOOR[room] < 4:
            assert other in SAME_FLOOR.get(room, set()), f"{room} and {other} are on one floor"
        else:
            assert FLOOR[other] <= FLOOR[room], f"{room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})"


def test_what_is_allowed_on_one_floor_is_needed():
    needed: dict[str, set[str]] = {}
    for file in FILES:
        for other in rooms_imported(file):
            if FLOOR[other] == FLOOR[room_of(file)]:
                needed.setdefault(room_of(file), set()).add(other)
    assert {
        room: others - needed.get(room, set()) for room, others in SAME_FLOOR.items() if others - needed.get(room, set())
    } == {}


def test_rooms_on_one_floor_do_not_import_each_other_in_a_circle():
    done: set[str] = set()
    while len(done) < len(SAME_FLOOR):
        ready = {room for room, others in SAME_FLOOR.items() if room not in done and others & set(SAME_FLOOR) <= done}
        assert ready, f"a circle among {set(SAME_FLOOR) - done}"
        done |= ready


@pytest.mark.parametrize("room", sorted(ROOMS_FROM_FLOOR[0]))
def test_the_lowest_floor_needs_the_standard_library_only(room):
    roots = {module.split(".")[0] for module in imported_modules(ast.parse((SOURCE / f"{room}.py").read_text()))}
    assert roots <= set(sys.stdlib_module_names) | {"__future__"}


def test_the_engine_knows_nothing_of_studies_plans_and_stores():
    for file in (SOURCE / "engine").glob("*.py"):
        assert not rooms_imported(file) & NEVER_FROM_ENGINE, file.name


def loaded_by(imports: str) -> set[str]:
    """The modules that are there after ``imports`` in a fresh interpreter."""
    code = f"import sys\n{imports}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_itself_loads_next_to_nothing():
    assert not loaded_by("import allelse") & {"torch", "numpy", "pandas", "scipy", "pydantic", "typer"}


def test_rooms_of_evidence_never_load_torch_not_even_indirectly():
    names = []
    for file in FILES:
        module = file.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        if room_of(file) in WITHOUT_TORCH:
            names.append(f"import allelse.{module}")
    assert len(names) > 10
    assert "torch" not in loaded_by("\n".join(names))
    assert "torch" in loaded_by("import allelse.models"), "the test can see torch where it is"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_files_are_nouns_of_at_most_400_lines(file):
    assert len(file.read_text().splitlines()) <= 400
    assert file.stem not in {"utils", "util", "helpers", "common", "misc"}


# ── other projects ──────────────────────────────────────────────────────────────────────────────────────────────────

ROOT = SOURCE.parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DECLARED = {canonicalize_name(one.name): one for one in map(Requirement, PROJECT["dependencies"])}
OPTIONAL = {canonicalize_name(one.name): one for one in map(Requirement, PROJECT["optional-dependencies"]["ray"])}
FILE_FROM_OPTIONAL = {"ray": "cluster.py"}
NEVER_IMPORTED = {"pyarrow", "scikit-learn"}
"""pandas writes Parquet with the former; of the latter the file of digits is read"""


installed_packages = cache(packages_distributions)
"""It reads the whole environment each time."""


def projects_imported(file: Path) -> set[str]:
    """The names, as an index of packages has them, of the projects that a file imports from."""
    roots = {module.split(".")[0] for module in imported_modules(ast.parse(file.read_text()))}
    roots -= {*sys.stdlib_module_names, "__future__", "allelse"}
    known = installed_packages()
    return {canonicalize_name(known[root][0] if root in known else root) for root in roots}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_every_project_that_is_imported_is_declared(file):
    optional = {name for name, only in FILE_FROM_OPTIONAL.items() if file.name == only}
    assert projects_imported(file) - optional - set(DECLARED) == set()


def test_every_project_that_is_declared_is_needed():
    needed = {name for file in FILES for name in projects_imported(file)} | NEVER_IMPORTED
    assert {*DECLARED, *OPTIONAL} - needed == set()


def test_the_versions_that_were_tested_are_pinned_and_allowed():
    lines = [line for name in ("requirements.txt", "requirements-dev.txt") for line in (ROOT / name).read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line and line[0].isalpha()]
    pinned = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in pins}
    assert all(str(one.specifier).startswith("==") for one in pins)
    for name, wanted in {**DECLARED, **OPTIONAL}.items():
        assert name in pinned, f"{name} is declared and not pinned"
        assert wanted.specifier.contains(pinned[name]), f"{name} {pinned[name]} is not what pyproject.toml allows"
