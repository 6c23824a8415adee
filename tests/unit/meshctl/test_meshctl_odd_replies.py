"""Replies that are JSON and yet no answer: another node of the mesh may say anything at all."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scripted_node import SUCCEEDED

from meshctl.api.client import OUTCOMES
from meshctl.api.status import STATES
from meshctl.render.columns import columns_of
from meshctl.render.output import ExitCode, printable
from meshctl.render.tables import table

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=8), some),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=8), ANYTHING, max_size=3)
NO_STATES = ANYTHING.filter(lambda state: type(state) is not int or state not in range(len(STATES)))

each_on_one_node = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def saying(reply):
    data = json.dumps(reply).encode() + b"\n"
    return lambda session, line: session.send(data) or True


@each_on_one_node
@given(units=st.dictionaries(st.text(max_size=8), ANYTHING.filter(lambda v: type(v) is not dict)))
@example({"AAAAAAAA": []})
@example({"a": float("nan")})
@pytest.mark.parametrize(
    "command", [["list", "--table"], ["list", "--last", "1"], ["list", "--label", "a"], ["list"]]
)
def test_a_list_of_what_are_no_units_is_told_in_one_line(meshctl, node, command, units):
    units = {"first": 1, **units}
    node.handlers["work list"] = saying(units)
    result = meshctl("work", *command)
    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stderr.startswith("ERROR: the node's reply ")
    assert result.stderr.count("\n") == 1


@each_on_one_node
@given(unit=OBJECTS, state=NO_STATES)
@example({}, "x")
@example({}, None)
@example({}, 1e308)
@example({}, True)
@example({}, 5)
@pytest.mark.parametrize("command", [["wait"], ["status", "--watch"], ["status"], ["results"]])
def test_a_state_that_is_none_is_no_success(meshctl, node, impatient, command, unit, state):
    said = saying({**unit, "State": state})
    node.handlers = {"work status": said, "work watch": said}
    node.add_unit("AAAAAAAA")
    result = meshctl("work", *command, "AAAAAAAA")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "the node's reply is no status of a unit" in result.stderr


@each_on_one_node
@given(reply=OBJECTS.filter(lambda reply: not reply.keys() & set(OUTCOMES)))
@example(dict(SUCCEEDED))
@pytest.mark.parametrize("command", ["cancel", "release", "force-release"])
def test_a_reply_that_names_no_outcome_is_no_success(meshctl, node, command, reply):
    node.handlers[f"work {command}"] = saying(reply)
    result = meshctl("work", command, "AAAAAAAA")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stderr.startswith("ERROR: the node's reply ")


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4))
@example([("\x1b]0;pwn\x07", "\u202e"), ("日本", "e\u0301")])
def test_columns_stand_below_each_other_whatever_is_in_them(rows):
    heading, *lines = table(("One", "Two"), rows)
    start = heading.index("Two")
    for (one, two), line in zip(rows, lines, strict=True):
        first = printable(one)
        assert line == (first + " " * (start - columns_of(first)) + printable(two)).rstrip()


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4), st.integers(30, 80))
@example([("\x1b" * 30, "\x1b" * 30)], 40)
def test_a_line_is_no_wider_than_its_terminal_or_what_must_be_seen(rows, width):
    lines = table(("One", "Two"), rows, width)
    first = max(columns_of(printable(cell)) for cell, _ in [*rows, ("One", "")])
    assert all(columns_of(line) <= max(width, first + 2 + 20) for line in lines)
