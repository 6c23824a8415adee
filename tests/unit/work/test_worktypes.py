"""Parameters are split as ``shlex`` splits them, in time that grows with their length only."""

import os
import shlex
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshnode.errors import CommandError
from meshnode.work.local.launcher.command import DEFAULT_PATH, KEPT_VARIABLES
from meshnode.work.local.worktypes import (
    MAX_ARGUMENT,
    CommandType,
    PythonType,
    split_words,
)

TEXTS = st.text(st.sampled_from("ab '\"\\\n\t#$é\0") | st.characters(), max_size=30)


def outcome(split, text):
    try:
        return list(split(text))
    except ValueError as error:
        return str(error)


@given(TEXTS)
@example("'' \"\" a''b")
@example('"a\\b\\"c\\\\d\\\ne"')
@example("a\\\nb \\ c")
@example('"never closed \\"')
@example("ends in \\")
@example("'one' \"two")
def test_words_are_those_of_shlex(text):
    assert outcome(split_words, text) == outcome(shlex.split, text)


@pytest.mark.parametrize("unit", ["a", "a ", "'a'", '"\\""', "\\a", "''"])
def test_a_megabyte_of_parameters_is_split(unit):
    count = (1 << 20) // len(unit)
    assert len("".join(split_words(unit * count))) >= 0


@pytest.mark.parametrize(
    "text", ['"' + "\\\\" * (1 << 19), "'" + "a" * (1 << 20), "a'b" * (1 << 17) + "'"]
)
def test_a_megabyte_with_a_quote_that_is_never_closed_is_refused(text):
    with pytest.raises(ValueError, match="No closing quotation"):
        split_words(text)


COMMAND = CommandType("echo", allow_runtime_params=True)
PYTHON = PythonType("python", plugin="shouter", function="shout")


@pytest.mark.parametrize("kind", [COMMAND, PYTHON])
def test_an_argument_that_no_command_can_be_given_is_refused(kind):
    with pytest.raises(CommandError, match="longer than the system passes on"):
        kind.argv("x" * MAX_ARGUMENT)


def test_the_longest_argument_of_a_command_is_taken():
    assert len(COMMAND.argv("x" * (MAX_ARGUMENT - 1))[1]) == MAX_ARGUMENT - 1


def test_more_arguments_than_a_command_can_be_given_are_refused(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 100_000)
    assert len(COMMAND.argv("a " * 9_000)) == 9_001
    with pytest.raises(CommandError, match="10001 arguments take"):
        COMMAND.argv("a " * 10_000)


NAMES = st.sampled_from([*KEPT_VARIABLES, "SECRET_TOKEN", "LD_PRELOAD", "PYTHONPATH", "LC_TIME"])
VARIABLES = st.dictionaries(NAMES, st.text("ab:/", max_size=5))


@given(VARIABLES, VARIABLES)
def test_a_clean_environment_has_what_the_work_type_adds_and_of_the_nodes_what_is_documented(
    nodes, own
):
    with mock.patch.dict(os.environ, nodes, clear=True):
        found = CommandType("cat", env=own, clean_env=True).environment()
    kept = {name: value for name, value in nodes.items() if name in KEPT_VARIABLES}
    assert found == {"PATH": DEFAULT_PATH} | kept | own


@given(VARIABLES, VARIABLES)
def test_without_cleanenv_a_command_has_all_of_the_nodes_environment(nodes, own):
    with mock.patch.dict(os.environ, nodes, clear=True):
        found = CommandType("cat", env=own).environment()
    assert found == (nodes | own if own else None)
