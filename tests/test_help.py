"""What the command line says of itself: help, commands and options that are not there, values that an option does not take."""

import pytest
from study_support import allelse, mistake


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_a_command_alone_shows_its_help(arguments):
    ended = allelse(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Usage: ")
    assert "Commands:" in ended.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["results"], "Missing argument 'DIR'"),
        (["run", "sigmoid-vs-relu", "--sed", "3"], "No such option: --sed"),
    ],
)
def test_a_command_that_is_not_there_is_one_line(arguments, expected):
    told = mistake(*arguments)
    assert told.startswith(expected)
    assert told.endswith("; 'allelse --help' lists commands, 'allelse COMMAND --help' their options")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "s.toml", "--workers", "x"], "--workers x: allowed: a whole number"),
        (["run", "s.toml", "--first-seed", "1.5"], "--first-seed 1.5: allowed: a whole number"),
        (["plan", "s.toml", "--engine", "foo"], "--engine foo: allowed: local, ray"),
        (["run", "s.toml", "--engine", "Ray"], "--engine Ray: did you mean 'ray'? allowed: local, ray"),
        (["run", "s.toml", "--on-error", "foo"], "--on-error foo: allowed: continue, stop"),
        (["results", "out", "--format", "jsn"], "--format jsn: did you mean 'json'? allowed: table, csv, json, parquet"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_one_line(arguments, expected):
    assert mistake(*arguments) == expected


def test_help_says_of_each_command_what_it_is_for_in_one_whole_line():
    for words in (["--help"], ["data", "--help"]):
        listed = allelse(*words).out.partition("Commands:")[2].strip().splitlines()
        assert len(listed) >= 3
        assert all(line.endswith(".") and not line.endswith("..") for line in listed)
    assert allelse("plan", "--help").out.splitlines()[2].startswith("  What a study would run: arms, what differs")
