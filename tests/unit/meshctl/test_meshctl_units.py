"""A unit is named by its ID, by the beginning of that where it is unique, or as ``last``."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_node import CANCELED, as_text

from meshctl.commands import units
from meshctl.commands.options import Invocation
from meshctl.commands.units import find_units
from meshctl.render.output import ExitCode, Failure

ME = {"Kind": "unix", "Uid": os.getuid()}
ANOTHER = {"Kind": "unix", "Uid": os.getuid() + 1}
FROM_AFAR = {"Kind": "mesh", "Node": "bar", "Service": "x", "Claim": ME}


def at(minute, **status):
    return {"Created": f"2026-11-02T03:{minute:02}:00.000000Z", **status}


@pytest.fixture(params=["receptor", "meshnode"])
def three(node, request):
    node.chooses = request.param == "meshnode"
    node.add_unit("abcd0001", b"first", **at(1))
    node.add_unit("abce0002", b"second", **at(3))
    node.add_unit("xyz00003", b"third", **at(2))
    return node


COMMANDS = [
    ["work", "status"],
    ["work", "status", "--watch"],
    ["work", "results"],
    ["work", "wait"],
    ["work", "cancel"],
    ["work", "release"],
    ["work", "list", "--unit-id"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("word", ["abce0002", "abce", "last"])
def test_each_command_takes_an_id_its_beginning_and_last(meshctl, three, command, word):
    assert meshctl(*command, word).exit_code == 0
    asked = [line for line in three.lines if as_text(line) != "work list"]
    assert asked
    assert all(line.split()[2] == "abce0002" for line in asked)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_beginning_of_several_ids_names_them_and_does_nothing(meshctl, three, command):
    result = meshctl(*command, "abc")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert result.stderr.endswith("'abc' may be any of 2 units: abcd0001, abce0002\n")
    assert three.lines == ["work list"]
    assert len(three.units) == 3


def test_of_many_candidates_some_are_named_in_one_line(meshctl, node):
    for number in range(1000):
        node.add_unit(f"a{number:07}")
    result = meshctl("work", "status", "a")
    assert result.stderr.count("\n") == 1
    assert "any of 1000 units: a0000000, a0000001, " in result.stderr
    assert len(result.stderr) < 200


def test_no_unit_is_ended_where_one_word_of_several_is_not_clear(meshctl, three):
    result = meshctl("work", "release", "xyz", "abc")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert len(three.units) == 3


@pytest.mark.parametrize("word", ["q", "", " "])
def test_what_begins_no_id_is_left_to_the_node(meshctl, three, word):
    result = meshctl("work", "release", word)
    assert result.exit_code != 0
    assert len(three.units) == 3


@pytest.mark.parametrize(
    "command",
    [
        ["work", "status"],
        ["work", "status", "--watch"],
        ["work", "logs"],
        ["work", "stop"],
        ["work", "list", "--unit-id"],
    ],
)
def test_a_batch_where_a_unit_is_meant_is_told_with_what_shows_it(meshctl, three, command):
    asked = len(three.lines)
    result = meshctl(*command, "b-1234abcd")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert result.stdout == ""
    assert result.stderr == (
        "ERROR: b-1234abcd is a batch, and no unit. See: "
        f"meshctl --socket {three.address} work batch status b-1234abcd\n"
    )
    assert len(three.lines) == asked


def test_a_whole_id_costs_no_further_question(meshctl, three):
    meshctl("work", "status", "abce0002")
    assert three.lines == ["work status abce0002"]


def test_several_beginnings_cost_one_question(meshctl, three):
    assert meshctl("work", "wait", "abcd", "abce", "xyz").exit_code == 0
    assert three.lines.count("work list") == 1


def test_last_is_the_last_that_this_user_submitted_on_this_node(meshctl, node):
    node.add_unit("mine0001", **at(1, SubmittedBy=ME))
    node.add_unit("mine0002", **at(2, SubmittedBy=ME))
    node.add_unit("another3", **at(3, SubmittedBy=ANOTHER))
    node.add_unit("fromfar4", **at(4, SubmittedBy=FROM_AFAR))
    node.add_unit("tcp00005", **at(5, SubmittedBy={"Kind": "tcp", "Address": "[::1]:7"}))
    node.units["mine0002"].status |= CANCELED
    assert "mine0002" in meshctl("work", "wait", "last").stderr
    assert meshctl("work", "release", "last").stdout == "Released:\n(mine0002, released)\n"


def test_over_tcp_last_is_the_last_that_no_other_node_submitted(tcp_node, meshctl):
    tcp_node.add_unit("mine0001", **at(1, SubmittedBy={"Kind": "tcp", "Address": "[::1]:7"}))
    tcp_node.add_unit("fromfar4", **at(4, SubmittedBy=FROM_AFAR))
    result = meshctl("work", "release", "last", socket=tcp_node.address)
    assert result.stdout == "Released:\n(mine0001, released)\n"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({}, "the node does not say when units were made: give an ID"),
        (at(1, SubmittedBy=ANOTHER), "there is no last unit: the node has none of yours"),
    ],
)
def test_where_nothing_tells_which_is_the_last_nothing_is_done(meshctl, node, status, told):
    node.add_unit("abcd0001", **status)
    result = meshctl("work", "release", "last")
    assert (result.exit_code, result.stdout) == (ExitCode.REFUSED, "")
    assert result.stderr == f"ERROR: {told}\n"
    assert node.units


IDS = st.text("ab1", min_size=8, max_size=8)


class Listing:
    def __init__(self, units):
        self.units = units

    def work_list(self):
        return self.units


@given(st.sets(IDS, max_size=8), st.text("ab1", max_size=8))
def test_a_word_means_a_unit_that_it_names_or_begins_alone_or_nothing_else(ids, word):
    listing = Listing({unit_id: {} for unit_id in ids})
    invocation = Invocation("/x", "", "", "", "", "", False)
    beginning = {unit_id for unit_id in ids if word and unit_id.startswith(word)}
    try:
        (found,) = find_units(invocation, listing, [word])
    except Failure:
        assert len(beginning) > 1
    else:
        assert found == (beginning.pop() if len(beginning) == 1 else word)
        assert len(beginning) <= 1


def test_the_word_for_the_last_is_no_whole_id():
    assert len(units.LAST) < units.ID_LENGTH


def test_the_last_of_mine_is_found_behind_any_number_of_others(meshctl, node, monkeypatch):
    monkeypatch.setattr(units, "NEWEST", 2)
    node.chooses = True
    node.add_unit("mine0001", **at(1, SubmittedBy=ME))
    node.add_unit("mine0002", **at(2, SubmittedBy=ME))
    for minute in range(3, 8):
        node.add_unit(f"another{minute}", **at(minute, SubmittedBy=ANOTHER))
    assert meshctl("work", "release", "last").stdout == "Released:\n(mine0002, released)\n"
    assert [json.loads(line)["limit"] for line in node.lines[:-1]] == [2, 2, 2]


# --- list --last ------------------------------------------------------------------------------


def test_the_newest_units_are_listed_with_the_newest_last(meshctl, three):
    assert meshctl("work", "list", "-q", "--last", "2").stdout == "xyz00003\nabce0002\n"
    assert meshctl("work", "list", "-q", "--last", "9").stdout.count("\n") == 3
    shown = json.loads(meshctl("work", "list", "--last", "1").stdout)
    assert list(shown) == ["abce0002"]


def test_the_newest_are_those_of_the_units_that_match(meshctl, three):
    three.units["abce0002"].status |= CANCELED
    result = meshctl("work", "list", "-q", "--last", "1", "--state", "succeeded")
    assert result.stdout == "xyz00003\n"


def test_units_without_a_time_are_not_among_the_newest_and_are_named(meshctl, three):
    three.add_unit("receptor")
    result = meshctl("work", "list", "-q", "--last", "9")
    assert result.stdout.count("\n") == 3
    assert "does not say when these were made: receptor" in result.stderr


@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_a_count_of_the_newest_is_at_least_one(meshctl, three, count):
    assert meshctl("work", "list", "--last", count).exit_code == ExitCode.WRONG_USAGE
