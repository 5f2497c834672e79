"""Whatever stands in a study file or a change, it is taken or told in one line."""

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_support import TINY, write_study

from allelse import study
from allelse.errors import StudyError

# ── mutations ───────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def sources() -> list[str]:
    return [*study.packaged_studies().values(), TINY, RICH]


RICH = """\
exclude = [{ "model.norm" = "none", batch_size = [10, 20] }]
[study]
name     = "rich"
question = "Everything that a study file may say of its arms?"
seeds    = 2
[recipe]
dataset              = "digits"
validation_per_class = 10
optimizer            = { name = "sgd", lr = 0.1 }
schedule             = "constant"
[recipe.model]
width = 4
[factors]
"model.norm"        = ["batch", "group", "none"]
"model.norm.groups" = { when = { "model.norm" = "group" }, levels = [1, 2] }
"batch_size"        = [10, 20, 50]
[factors.size]
when = { "model.norm" = ["batch", "none"], batch_size = 50 }
[factors.size.levels]
1    = { "model.depth" = 1, "model.kernel" = 5 }
deep = { "model.depth" = 4 }
[[adjust]]
where = { batch_size = 10 }
set   = { epochs = 3, "schedule.warmup_epochs" = 1.0 }
seeds = 4
[tune]
key    = "optimizer.lr"
values = [0.1, 0.2]
epochs = 1
per    = ["model.norm", "size"]
[[claims]]
id       = "above"
says     = "Two groups are above none"
kind     = "higher"
a        = { "model.norm" = "group", "model.norm.groups" = 2 }
b        = { "model.norm" = "batch", size = 1 }
for_each = "batch_size"
[quick]
tune = { seeds = 1 }
adjust = [{ set = { epochs = 1 } }]
factors = { "model.norm.groups" = [1] }
"""


VALUES = st.sampled_from(
    [
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "true",
        '""',
        '"a\\nb"',
        '"relu"',
        "[]",
        "[[]]",
        "[1, 1.0]",
        "{}",
        "1979-05-27",
        '{ name = "group" }',
        "{ name = 3 }",
        '["relu", 1979-05-27]',
        "9" * 30,
        "{ a = { b = 1 } }",
        "'''x\ny'''",
        "[{}, {}]",
    ]
)
KEYS = st.sampled_from(
    [
        "seeds",
        '"a\\nb"',
        '"model.norm.x"',
        "model.depth",
        "kind",
        "claims",
        "quick",
        "factors",
        '""',
        "arm",
        "tune",
        "when",
        "levels",
        "where",
    ]
)
MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("value"), st.integers(0, 200), VALUES),
        st.tuples(st.just("key"), st.integers(0, 200), KEYS),
        st.tuples(st.just("drop"), st.integers(0, 200), st.just("")),
        st.tuples(st.just("repeat"), st.integers(0, 200), st.just("")),
        st.tuples(st.just("junk"), st.integers(0, 200), st.text("[]{}=\"'.,# \n\t\\\x00é1a", max_size=8)),
    ),
    min_size=1,
    max_size=4,
)


def mutated(text: str, mutations: list[tuple[str, int, str]]) -> str:
    lines = text.split("\n")
    for kind, place, new in mutations:
        at = place % len(lines)
        key, equals, value = lines[at].partition("=")
        if kind == "value" and equals:
            lines[at] = f"{key}= {new}"
        elif kind == "key" and equals:
            lines[at] = f"{new} ={value}"
        elif kind == "drop":
            lines[at] = ""
        elif kind == "repeat":
            lines.append(lines[at])
        elif kind == "junk":
            lines[at] += new
    return "\n".join(lines)


def complaint(file, **options) -> str | None:
    """The text of the ``StudyError``, or nothing where the study loads and each of its runs has an id of its own."""
    try:
        loaded = study.load(file, **options)
    except StudyError as error:
        return str(error)
    assert len({run.id for run in loaded.runs()}) == sum(len(arm.seeds) for arm in loaded.arms)
    return None


@pytest.mark.parametrize("quick", [False, True])
def test_the_studies_that_are_mutated_load(tmp_path, quick):
    for text in sources():
        assert complaint(write_study(tmp_path, text), quick=quick) is None


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(source=st.integers(0, 5), mutations=MUTATIONS, quick=st.booleans())
def test_whatever_a_study_file_holds_it_loads_or_is_told_in_one_line(tmp_path, source, mutations, quick):
    path = write_study(tmp_path, mutated(sources()[source], mutations))
    said = complaint(path, quick=quick)
    assert said is None or (said.startswith(str(path)) and len(said.splitlines()) == 1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(key=st.one_of(KEYS, st.text(max_size=6)), value=st.one_of(VALUES, st.text(max_size=10)))
def test_whatever_a_change_holds_it_is_taken_or_told_in_one_line(key, value):
    said = complaint("sigmoid-vs-relu", changes=[f"{key}={value}"])
    assert said is None or len(said.splitlines()) == 1
