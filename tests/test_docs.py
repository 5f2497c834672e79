"""The reference of the study file says what the code takes, its files load; and what the page of promises names is there."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from allelse import study
from allelse.claims import Best, Higher, Monotone, Stable, Trend, Within
from allelse.recipe import MLP, ConvNet, Head, Model, Part, Recipe, Stem
from allelse.records import METRICS
from allelse.study.file import Adjust, Header, Reference, StudyFile, Tune, Version

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "study-file.md"
TEXT = PAGE.read_text("utf-8")
SECTION_FROM_TABLE = {
    Header: "study",
    Recipe: "recipe",
    ConvNet: "model",
    MLP: "model",
    Stem: "stem",
    Head: "head",
    Adjust: "adjust",
    Tune: "tune",
    Reference: "references",
    Version: "quick",
}
"""parts that have one row a key"""
SECTION_FROM_CATALOGUE = {
    "norm": "norms",
    "activation": "activations",
    "init": "initialisation",
    "optimizer": "optimisers",
    "schedule": "schedules",
    "augment": "augmentations",
    "loss": "losses",
    "averaging": "averages of weights",
}
"""parts that have one row each, by the key that holds them"""
CLAIMS = (Higher, Within, Trend, Monotone, Stable, Best)
HELD_ELSEWHERE = {
    Version: {"recipe"},  # stands for the recipe's own keys
    MLP: {"family", "block"},  # see test_an_mlp_has_what_the_page_says
}

BASE = {
    "study": '[study]\nname = "snippet"\nquestion = "Does it load?"\nseeds = 2\n',
    "recipe": '[recipe]\ndataset = "digits"\noptimizer = "adam"\n',
    "factors": '[factors]\n"model.activation" = ["relu", "gelu"]\n"model.depth" = [1, 2, 4]\n',
}
"""what a snippet that is no whole study is completed with"""


def section(title: str) -> str:
    found = re.search(rf"^##+ {title}\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no section {title!r}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of every row of a section's tables."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def spans(cells: list[str]) -> list[str]:
    return re.findall(r"`([^`]+)`", " ".join(cells))


def parts_in(annotation: object) -> list[type[Part]]:
    """The recipe parts that a field may hold."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, Part) else []
    return list(dict.fromkeys(part for inner in get_args(annotation) for part in parts_in(inner)))


def catalogue() -> list[tuple[str, type[Part], str]]:
    """Section, part and name of everything that a recipe can name; a part of the user's own has no name here."""
    fields = {**Recipe.model_fields, **ConvNet.model_fields}
    return [
        (title, part, name)
        for key, title in SECTION_FROM_CATALOGUE.items()
        for part in parts_in(fields[key].annotation)
        if get_origin(part.model_fields["name"].annotation) is Literal
        for name in get_args(part.model_fields["name"].annotation)
    ]


def plain(value: object) -> object:
    if isinstance(value, Part):
        named = value.plain()
        return named["name"] if list(named) == ["name"] else named
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def says(shown: list[str], part: type[Part], key: str) -> bool:
    """Whether ``key = default`` is among these code spans, or ``key`` alone where it has none or none but "left out"."""
    field = part.model_fields[key]
    default = None if field.is_required() else plain(field.get_default(call_default_factory=True))
    if default is None:
        return key in shown
    found = [tomllib.loads(text)[key] for text in shown if re.match(rf"{key} = ", text)]
    return any(value == (pytest.approx(default, rel=1e-5) if isinstance(default, float) else default) for value in found)


def test_every_part_has_its_place_on_the_page():
    listed = {*SECTION_FROM_TABLE, *CLAIMS, StudyFile, *(part for _, part, _ in catalogue())}
    seen: set[type[Part]] = set()
    waiting = [StudyFile, Recipe, *parts_in(Model)]
    while waiting:
        part = waiting.pop()
        if part not in seen:
            seen.add(part)
            waiting += [inner for field in part.model_fields.values() for inner in parts_in(field.annotation)]
    own = {part for part in seen if part.model_config.get("extra") == "allow"}  # docs/own-parts.md
    assert len(seen) > 50
    assert all(map(section, StudyFile.model_fields)), "each table has a section"
    assert seen - own == listed


@pytest.mark.parametrize(("part", "title"), SECTION_FROM_TABLE.items(), ids=lambda value: getattr(value, "__name__", None))
def test_every_key_of_a_table_stands_with_its_default(part, title):
    first_cells = [text for cells in rows(title) for text in spans(cells[:1])]
    for key in part.model_fields:
        assert key in HELD_ELSEWHERE.get(part, ()) or says(first_cells, part, key), f"{title}: {key}"


def test_every_key_on_the_page_is_one():
    for part, title in SECTION_FROM_TABLE.items():
        if part is not MLP:
            named = {span.partition(" = ")[0] for cells in rows(title) for span in spans(cells[:1])}
            assert named <= set(part.model_fields), title


def test_an_mlp_has_what_the_page_says():
    left_out = set(ConvNet.model_fields) - set(MLP.model_fields)
    [row] = [cells for cells in rows("model") if cells[0].startswith("`family")]
    assert left_out == set(re.findall(r"`(\w+)`", row[1].split("without")[1]))
    [row] = [cells for cells in rows("model") if cells[0].startswith("`block")]
    assert f"`{MLP.model_fields['block'].default}`" in row[1]


@pytest.mark.parametrize(("title", "part", "name"), catalogue(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_name_stands_with_its_keys_and_their_defaults(title, part, name):
    [row] = [cells for cells in rows(title) if name in spans(cells[:1]) and len(cells) == 3]
    of_all = [text for cells in rows(title) if len(cells) == 2 for text in spans(cells[:1])]
    for key in part.model_fields:
        if key != "name":
            assert says(spans(row[1:2]), part, key) or says(of_all, part, key), key
    named = {span.partition(" = ")[0] for span in spans(row[1:2])} - {"batch"}
    assert named <= set(part.model_fields)


def test_every_name_on_the_page_is_one():
    for title in SECTION_FROM_CATALOGUE.values():
        named = {name for cells in rows(title) if len(cells) == 3 for name in spans(cells[:1])}
        assert named == {name for found, _, name in catalogue() if found == title}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_every_kind_of_claim_stands_with_its_keys(claim):
    [kind] = get_args(claim.model_fields["kind"].annotation)
    [row] = [cells for cells in rows("claims") if spans(cells[:1]) == [kind]]
    of_all = [text for cells in rows("claims") if len(cells) == 2 for text in spans(cells[:1])]
    for key in claim.model_fields:
        assert says(spans(row[1:2]), claim, key) or says(of_all, claim, key), key
    assert {span.partition(" = ")[0] for span in spans(row[1:2])} <= set(claim.model_fields)


def test_every_metric_stands_with_its_unit():
    shown = {spans(cells[:1])[0]: cells[1].replace("\\|", "|") for cells in rows("metrics") if spans(cells[:1])}
    assert shown == METRICS


def snippets() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def completed(snippet: str) -> str:
    there = tomllib.loads(snippet)
    return "\n".join([*(text for table, text in BASE.items() if table not in there), snippet])


@pytest.mark.parametrize("number", range(len(snippets())))
def test_every_snippet_loads_as_a_study(number, tmp_path):
    snippet = snippets()[number]
    file = tmp_path / "snippet.toml"
    file.write_text(completed(snippet), "utf-8")
    loaded = study.load(file)
    assert len(loaded.arms) > 1
    if "[quick]" in snippet:
        assert study.load(file, quick=True).quick
    if "[scaled]" in snippet:
        assert study.load(file, scaled=True).scaled


def test_levels_are_called_as_the_page_says(tmp_path):
    file = tmp_path / "snippet.toml"
    levels = '[factors]\n"model.norm" = ["batch", { name = "group", groups = 8 }]\n"model.pool" = [[], [1, 2]]\n'
    file.write_text(completed(levels), "utf-8")
    loaded = study.load(file)
    assert loaded.factors == {"model.norm": ("batch", "group(groups=8)"), "model.pool": ("none", "1-2")}
    assert all(text in section("factors") for text in ('"group(groups=8)"', '`"1-2"`', '`"none"`'))


def test_links_between_sections_lead_somewhere():
    titles = {title.replace(" ", "-") for title in re.findall(r"^##+ (.+)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= titles


def with_choices(text: str) -> str:
    """The template with every commented key and table."""
    return re.sub(r'^# (?=\[|"?[a-z_. ]+"? +=)', "", text, flags=re.MULTILINE)


def test_every_choice_of_the_template_loads(tmp_path):
    template = (ROOT / "src" / "allelse" / "studies" / "template.toml.txt").read_text("utf-8")
    before, claims_and_more = template.split("[[claims]]")
    claims, after = claims_and_more.split("[quick]")
    file = tmp_path / "my-study.toml"
    file.write_text(f"{with_choices(before)}[quick]{after}", "utf-8")
    loaded = study.load(file)
    assert set(loaded.factors) == {"model.activation", "model.norm", "order", "model.norm.eps"}
    assert len(loaded.arms) == 12
    assert loaded.tune
    assert loaded.excluded
    assert {len(arm.seeds) for arm in loaded.arms} == {5, 10}
    assert study.load(file, quick=True).quick

    file.write_text(f"{before}[[claims]]{with_choices(claims).replace('for_each', '# for_each')}[quick]{after}", "utf-8")
    assert study.load(file).references[0].sd == 0.3


def test_the_template_says_where_its_keys_are_explained():
    template = (ROOT / "src" / "allelse" / "studies" / "template.toml.txt").read_text("utf-8")
    assert "docs/study-file.md" in template
    assert PAGE.exists()


# ── promises ────────────────────────────────────────────────────────────────────────────────────────────────────────

PROMISES = (ROOT / "docs" / "promises.md").read_text("utf-8")


def test_every_test_that_holds_a_promise_is_there():
    named = re.findall(r"(test_\w+\.py)::(\w+)", PROMISES)
    assert len(named) > 150
    assert len(named) == PROMISES.count("::"), "one that is not read is not checked"
    tests_from_file = {
        path.name: {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}
        for path in (ROOT / "tests").glob("test_*.py")
    }
    assert [f"{file}::{test}" for file, test in named if test not in tests_from_file.get(file, ())] == []


def test_every_promise_has_a_test_or_says_that_it_has_none():
    promises = [line for line in PROMISES.splitlines() if line.startswith("| ") and not line.startswith("| promise |")]
    assert len(promises) > 90
    for line in promises:
        _, promise, tests, beyond, _ = re.split(r"(?<!\\)\|", line)
        assert "::test_" in tests or "not tested" in beyond, promise


def test_every_page_that_measures_a_promise_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", PROMISES)
    assert links
    scripts = re.findall(r"`(benchmarks/\w+\.py)`", PROMISES)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    assert [script for script in scripts if not (ROOT / script).exists()] == []
