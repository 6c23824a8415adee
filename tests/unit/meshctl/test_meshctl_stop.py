"""``work stop``: a unit is canceled, and what it printed and how it ended come in one go."""

import json

import pytest
from interrupting import interrupt
from scripted_node import CANCELED, FAILED, SUCCEEDED

from meshctl.commands import following
from meshctl.render.output import ExitCode

ANN = {"Kind": "unix", "Uid": 1000, "Pid": 7, "User": "ann"}
STOPPED = {
    **CANCELED,
    "Signal": "SIGTERM",
    "EndedBy": {"Cause": "cancel", "By": ANN},
    "Started": "2026-11-26T08:00:00.000000Z",
    "Finished": "2026-11-26T08:03:02.500000Z",
}


@pytest.fixture
def running(node):
    """A unit that prints its last words when it is canceled."""
    node.add_unit("one", b"first\n", ended=False)

    def cancel(session, line):
        unit_id = line.split()[2]
        node.change(unit_id, STOPPED, node.units[unit_id].stdout + b"last\n")
        session.send({"cancelled": unit_id})
        return True

    node.handlers["work cancel"] = cancel
    return node


def test_a_stopped_unit_shows_its_output_and_its_end_in_one_go(meshctl, running):
    result = meshctl("work", "stop", "one")
    assert result.stdout == "first\nlast\n"
    assert result.stderr == (
        "unit one was canceled by ann (uid 1000, pid 7), with SIGTERM, after 3m2s\n"
    )
    assert result.exit_code == ExitCode.UNIT_CANCELED


def test_the_code_of_the_command_may_be_passed_on(meshctl, running):
    assert meshctl("work", "stop", "one", "--propagate").exit_code == 128 + 15


@pytest.mark.parametrize(
    ("status", "code", "end"),
    [
        (SUCCEEDED, 0, "unit one has succeeded: exit status 0\n"),
        (FAILED, 1, "unit one failed: exit status 7\n"),
        (CANCELED, 6, "unit one was canceled\n"),
    ],
)
def test_a_unit_that_has_ended_shows_its_output_and_its_end(meshctl, node, status, code, end):
    node.add_unit("one", b"all\n", **status)
    result = meshctl("work", "stop", "one")
    assert (result.stdout, result.stderr, result.exit_code) == ("all\n", end, code)


def test_of_several_all_are_canceled_before_the_first_results_come(meshctl, running):
    running.add_unit("two", b"of two\n", ended=False)
    result = meshctl("work", "stop", "one", "two")
    assert result.stdout == "first\nlast\nof two\nlast\n"
    assert [line for line in result.stderr.splitlines() if line.startswith("==>")] == [
        "==> unit one",
        "==> unit two",
    ]
    asked = [line.split()[1] for line in running.lines if line.split()[1] != "list"]
    assert asked.index("results") > max(i for i, word in enumerate(asked) if word == "cancel")


def test_one_that_the_node_refuses_does_not_keep_the_others(meshctl, running):
    running.units.pop("one")
    running.add_unit("two", b"of two\n", ended=False)
    refuse = running.handlers["work cancel"]

    def cancel(session, line):
        if line.split()[2] == "two":
            return refuse(session, line)
        session.send(b"ERROR: unknown work unit nosuch\n")
        return True

    running.handlers["work cancel"] = cancel
    result = meshctl("work", "stop", "nosuch", "two")
    assert result.stdout == "of two\nlast\n"
    assert "ERROR: unknown work unit nosuch\n" in result.stderr
    assert result.exit_code == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("states", "code"),
    [((CANCELED, FAILED, SUCCEEDED), 1), ((SUCCEEDED, CANCELED), 6), ((SUCCEEDED, SUCCEEDED), 0)],
)
def test_of_several_ends_the_gravest_is_the_exit_code(meshctl, node, states, code):
    for number, status in enumerate(states):
        node.add_unit(f"unit000{number}", **status)
    assert meshctl("work", "stop", *node.units).exit_code == code


def test_several_units_have_no_one_code_to_pass_on(meshctl, node):
    result = meshctl("work", "stop", "one", "two", "--propagate")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert node.sessions == 0


def test_rm_releases_a_unit_whose_results_are_written(meshctl, running):
    result = meshctl("work", "stop", "one", "--rm")
    assert result.stdout == "first\nlast\n"
    assert result.stderr.endswith("\n(one, released)\n")
    assert running.units == {}


def test_json_has_the_final_status_of_each_on_a_line_of_stderr(meshctl, running):
    result = meshctl("work", "stop", "one", "--json")
    assert result.stdout == "first\nlast\n"
    (line,) = result.stderr.splitlines()
    assert (json.loads(line)["unitid"], json.loads(line)["Signal"]) == ("one", "SIGTERM")


def test_a_cancel_that_waits_for_the_units_node_is_told_and_the_end_is_waited_for(
    node, start_process
):
    node.add_unit("one", b"first\n", ended=False)
    node.handlers["work cancel"] = lambda session, line: (
        session.send({"cancel pending": "one"}) or True
    )
    process = start_process("--socket", node.address, "work", "stop", "one")
    assert node.results_began.wait(60)
    node.change("one", STOPPED)
    stdout, stderr = process.communicate()
    assert stdout == b"first\n"
    told, end = stderr.decode().splitlines()
    assert told == "unit one: cancel pending, its node is not reached now"
    assert end.startswith("unit one was canceled")


def test_ctrl_c_amid_the_results_names_the_command_that_follows_again(node, start_process):
    node.add_unit("one", b"first\n", ended=False)
    process = start_process("--socket", node.address, "work", "stop", "one", "--rm")
    assert node.results_began.wait(60)
    _, stderr = interrupt(process)
    assert b"interrupted: unit one goes on and is not released" in stderr
    assert process.returncode == ExitCode.INTERRUPTED
    assert list(node.units) == ["one"]


def test_results_that_break_off_release_nothing(meshctl, running, impatient, monkeypatch):
    monkeypatch.setattr(following.time, "sleep", lambda seconds: None)

    def cut(session, line):
        session.send(b"Streaming results for work unit one\nfi")
        return False

    running.handlers["work results"] = cut
    result = meshctl("work", "stop", "one", "--rm")
    assert (result.exit_code, result.stdout) == (ExitCode.UNREACHABLE, "fi")
    assert list(running.units) == ["one"]


def test_no_unit_at_all_is_wrong_usage(meshctl, node):
    assert meshctl("work", "stop").exit_code == ExitCode.WRONG_USAGE
