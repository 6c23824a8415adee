"""Waiting for the end of a unit: told by the node, or asked for where the node does not tell."""

import json
import os
import re
import threading

import pytest
from interrupting import interrupt
from scripted_node import CANCELED, FAILED, RUNNING, SUCCEEDED, ScriptedNode, unix_listener

from meshctl import CommandRefused, ControlClient, SessionLost, WaitTimedOut
from meshctl.api import status as unit_status
from meshctl.commands import work
from meshctl.commands.options import Age
from meshctl.render.output import ExitCode
from meshnode.protocol.lifecycle import UnitState

PENDING = {"State": 0, "StateName": "Pending", "Detail": "Waiting"}


@pytest.fixture
def sleeps(monkeypatch):
    """What the client sleeps between questions; it does not, and each sleep may have a deed."""
    lengths, deeds = [], []

    def sleep(seconds):
        lengths.append(seconds)
        if deeds:
            deeds.pop(0)()

    monkeypatch.setattr(unit_status.time, "sleep", sleep)
    return lengths, deeds


def test_the_client_knows_the_states_of_units_and_their_ends_as_the_node_does():
    assert [state.label for state in UnitState] == list(unit_status.STATES)
    assert {*unit_status.UNFINISHED} == {state.value for state in UnitState if not state.is_final}
    assert {*unit_status.ENDED} == {state.label for state in UnitState if state.is_final}
    assert unit_status.FAILED == UnitState.FAILED
    assert unit_status.CANCELED == UnitState.CANCELED


def test_each_change_is_told_and_growth_is_none(node):
    node.add_unit("one", **PENDING)
    states = []
    with ControlClient(node.address) as client:
        for status in client.watch("one"):
            states.append((status["StateName"], status["StdoutSize"]))
            if len(states) == 1:
                node.change("one", RUNNING)
            elif len(states) == 2:
                node.change("one", RUNNING, b"12345")
                node.change("one", SUCCEEDED)
    assert states == [("Pending", 0), ("Running", 0), ("Succeeded", 5)]
    assert node.lines == ["work watch one"]


def test_a_watch_that_is_left_early_leaves_the_client_fit_for_more(node):
    node.add_unit("one", ended=False)
    with ControlClient(node.address) as client:
        watch = client.watch("one")
        assert next(watch)["StateName"] == "Running"
        watch.close()
        assert client.work_status("one")["StateName"] == "Running"


@pytest.mark.parametrize("final", [SUCCEEDED, FAILED, CANCELED], ids=lambda s: s["StateName"])
def test_wait_returns_the_final_status_however_the_unit_ends(node, final):
    node.add_unit("one", ended=False)
    timer = threading.Thread(
        target=lambda: node.watch_began.wait(60) and node.change("one", final, b"out")
    )
    timer.start()
    with ControlClient(node.address) as client:
        status = client.wait("one")
    timer.join()
    assert (status["State"], status["StdoutSize"]) == (final["State"], 3)


def test_a_receptor_node_is_asked_once_a_second(node, sleeps):
    lengths, deeds = sleeps
    node.receptors()
    node.add_unit("one", ended=False)
    deeds += [lambda: None, lambda: node.change("one", SUCCEEDED)]
    with ControlClient(node.address) as client:
        assert [s["StateName"] for s in client.watch("one")] == ["Running", "Succeeded"]
    assert lengths == [1.0, 1.0]
    assert node.lines == ["work watch one", *["work status one"] * 3]


@pytest.mark.parametrize("knows_watch", [True, False])
def test_a_wait_that_takes_too_long_ends_with_the_last_status(node, knows_watch):
    if not knows_watch:
        node.receptors()
    node.add_unit("one", ended=False)
    with ControlClient(node.address) as client:
        with pytest.raises(WaitTimedOut) as caught:
            client.wait("one", 0.05)
        assert client.status()["NodeID"] == "foo"
    assert str(caught.value) == "unit one has not ended within 0.05 s: it is Running"
    assert (caught.value.unit_id, caught.value.status["State"]) == ("one", 1)


def test_no_time_at_all_is_enough_for_a_unit_that_has_ended(node):
    node.add_unit("one")
    with ControlClient(node.address) as client:
        assert client.wait("one", 0)["StateName"] == "Succeeded"


def test_a_node_that_says_nothing_is_not_waited_for_without_end(node, monkeypatch):
    monkeypatch.setattr(unit_status, "FIRST_STATUS", 0.05)
    node.handlers["work watch"] = lambda session, line: session.read_to_end() and False
    with ControlClient(node.address) as client, pytest.raises(SessionLost, match="in time"):
        client.wait("one", 0)


@pytest.mark.parametrize("knows_watch", [True, False])
def test_a_unit_that_is_unknown_is_refused(node, knows_watch):
    if not knows_watch:
        node.receptors()
    with ControlClient(node.address) as client, pytest.raises(CommandRefused, match="nosuch"):
        client.wait("nosuch")


def test_a_unit_that_is_released_meanwhile_is_refused(node, sleeps):
    def release(session, line):
        session.send(node.units.pop("one").to_json())
        del node.handlers["work watch"]
        return False

    node.handlers["work watch"] = release
    node.add_unit("one", ended=False)
    with ControlClient(node.address) as client, pytest.raises(CommandRefused, match="unknown"):
        client.wait("one")


def test_a_node_that_restarts_meanwhile_is_asked_again(node, sleeps, tmp_path):
    _, deeds = sleeps
    again = []

    def die(session, line):
        session.send(node.units["one"].to_json())
        os.unlink(node.address)
        return False

    def come_back():
        again.append(ScriptedNode(unix_listener(tmp_path / "foo.sock"), node.address))
        again[0].add_unit("one", **FAILED)

    node.handlers["work watch"] = die
    node.add_unit("one", ended=False)
    deeds += [lambda: None, come_back]
    try:
        with ControlClient(node.address) as client:
            assert [s["StateName"] for s in client.watch("one")] == ["Running", "Failed"]
    finally:
        again[0].close()


def test_a_wait_says_once_that_it_waits_for_the_node(meshctl, node, sleeps, tmp_path):
    _, deeds = sleeps
    again = []

    def die(session, line):
        session.send(node.units["one"].to_json())
        os.unlink(node.address)
        return False

    def come_back():
        again.append(ScriptedNode(unix_listener(tmp_path / "foo.sock"), node.address))
        again[0].add_unit("one", **SUCCEEDED)

    node.handlers["work watch"] = die
    node.add_unit("one", ended=False)
    deeds += [lambda: None, lambda: None, come_back]
    try:
        result = meshctl("work", "wait", "one")
    finally:
        again[0].close()
    assert (result.exit_code, result.stdout) == (0, "(one, Succeeded)\n")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Warning: the node closed the session")
    assert line.endswith(". Waiting for the node.")


def test_a_node_that_ends_its_sessions_without_news_is_left_in_peace(node, sleeps):
    lengths, deeds = sleeps

    def hang_up(session, line):
        session.send(node.units["one"].to_json())
        return False

    node.handlers["work watch"] = hang_up
    node.add_unit("one", ended=False)
    deeds += [lambda: None, lambda: None, lambda: node.change("one", SUCCEEDED)]
    with ControlClient(node.address) as client:
        assert [s["StateName"] for s in client.watch("one")] == ["Running", "Succeeded"]
    assert lengths == [1.0] * 3


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1m.5s", 60.5), ("2.h", 7200), ("1500000µs", 1.5), ("1d12h", 129_600)],
)
def test_times_are_written_as_go_writes_them_or_in_days(text, seconds):
    assert Age().convert(text, None, None).total_seconds() == seconds


@pytest.mark.parametrize(
    ("units", "code", "said"),
    [
        ({"a": SUCCEEDED, "b": SUCCEEDED}, 0, ""),
        ({"a": SUCCEEDED, "b": CANCELED}, 6, "ERROR: unit b was canceled\n"),
        ({"a": FAILED}, 1, "ERROR: unit a failed: exit status 7\n"),
        (
            {"a": CANCELED, "b": FAILED},
            1,
            "ERROR: unit a was canceled\nERROR: unit b failed: exit status 7\n",
        ),
        (
            {"a": CANCELED, "b": RUNNING},
            7,
            "ERROR: unit a was canceled\nERROR: unit b has not ended within 0.1 s: it is Running\n",
        ),
    ],
)
def test_the_gravest_end_is_the_exit_code_of_work_wait(meshctl, node, units, code, said):
    for unit_id, status in units.items():
        node.add_unit(unit_id, **status)
    result = meshctl("work", "wait", *units, "--timeout", "100ms")
    ended = {unit: s["StateName"] for unit, s in units.items() if s is not RUNNING}
    assert result.stdout == "".join(f"({unit}, {state})\n" for unit, state in ended.items())
    assert (result.exit_code, result.stderr) == (code, said)


def test_a_mistyped_id_is_told_before_the_waiting(meshctl, node):
    node.add_unit("one", ended=False)
    result = meshctl("work", "wait", "one", "nosuch", "--timeout", "0s")
    assert result.exit_code == ExitCode.REFUSED
    assert result.stderr.splitlines() == [
        "ERROR: unknown work unit nosuch",
        "ERROR: unit one has not ended within 0 s: it is Running",
    ]


def test_with_json_wait_prints_every_status_that_is_known(meshctl, node):
    one = node.add_unit("one")
    two = node.add_unit("two", ended=False)
    result = meshctl("work", "wait", "one", "two", "--timeout", "0s", "--json")
    assert json.loads(result.stdout) == {"one": one.to_json(), "two": two.to_json()}
    assert result.exit_code == ExitCode.WAIT_TIMED_OUT == 7


def test_wait_needs_a_unit_and_a_time_that_is_one(meshctl, node):
    assert meshctl("work", "wait").exit_code == ExitCode.WRONG_USAGE
    assert "--timeout" in meshctl("work", "wait", "one", "--timeout", "soon").stderr
    assert node.sessions == 0


def test_ctrl_c_ends_the_waiting_and_says_that_the_unit_goes_on(node, start_process):
    node.add_unit("done")
    node.add_unit("one", ended=False)
    process = start_process("--socket", node.address, "work", "wait", "one", "done")
    assert node.watch_began.wait(60)
    stdout, stderr = interrupt(process)
    assert stdout == b"(done, Succeeded)\n"
    assert stderr.decode() == (
        "ERROR: interrupted: unit one goes on. "
        f"Wait again: meshctl --socket {node.address} work wait one\n"
    )
    assert process.returncode == ExitCode.INTERRUPTED


@pytest.mark.parametrize("breaks", [1, 2, 4])
def test_a_submission_that_waits_outlives_a_node_that_goes_before_its_first_status(
    meshctl, node, sleeps, breaks
):
    left = [None] * breaks

    def broken(session, line):
        if left:
            left.pop()
            return False
        session.send({**SUCCEEDED, "StdoutSize": 0})
        return True

    node.handlers["work status"] = node.handlers["work watch"] = broken
    result = meshctl("work", "submit", "cat", "--no-payload", "--wait")
    assert result.exit_code == 0
    assert result.stdout.endswith(", Succeeded)\n")
    assert not left
    # Of two, the first is the one question before the watch.
    assert result.stderr.count("Waiting for the node.") == (breaks > 1)


def test_a_wait_for_a_unit_of_a_node_that_is_not_there_ends_at_once(node, sleeps):
    node.handlers["work watch"] = lambda session, line: False
    with ControlClient(node.address) as client, pytest.raises(SessionLost):
        list(client.watch("one"))


def test_a_node_that_stays_away_is_told_with_how_to_wait_again(meshctl, node, sleeps, monkeypatch):
    monkeypatch.setattr(unit_status, "NODE_RETURNS", 0.0)

    def die(session, line):
        session.send(RUNNING)
        os.unlink(node.address)
        return False

    node.handlers["work watch"] = die
    node.add_unit("one", ended=False)
    result = meshctl("work", "wait", "one")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "When the node is back, wait again: meshctl" in result.stderr


# --- status --watch -------------------------------------------------------------------------------


def test_status_watch_in_a_pipe_prints_each_change_as_a_line_of_json(node, start_process):
    node.add_unit("one", **PENDING)
    process = start_process("--socket", node.address, "work", "status", "one", "--watch")
    assert json.loads(process.stdout.readline())["StateName"] == "Pending"
    node.change("one", RUNNING)
    assert json.loads(process.stdout.readline())["StateName"] == "Running"
    node.change("one", CANCELED)
    stdout, stderr = process.communicate()
    assert json.loads(stdout)["StateName"] == "Canceled"
    assert stderr == b"ERROR: unit one was canceled\n"
    assert process.returncode == ExitCode.UNIT_CANCELED


def test_status_watch_on_a_terminal_prints_only_what_looks_different(meshctl, node, monkeypatch):
    monkeypatch.setattr(work, "stdout_is_terminal", lambda: True)

    def tell(session, line):
        session.send(PENDING)
        session.send(RUNNING)
        session.send(RUNNING | {"Started": "2026-11-22T03:00:00Z"})
        session.send(SUCCEEDED)
        return False

    node.handlers["work watch"] = tell
    result = meshctl("work", "status", "one", "--watch")
    assert [line[8:] for line in result.stdout.splitlines()] == [
        "  Pending    Waiting",
        "  Running    Running: PID 42",
        "  Succeeded  exit status 0",
    ]
    assert re.match(r"\d\d:\d\d:\d\d  Pending", result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")


def test_status_watch_of_an_unknown_unit_is_refused(meshctl):
    result = meshctl("work", "status", "nosuch", "--watch")
    assert (result.exit_code, result.stderr) == (
        ExitCode.REFUSED,
        "ERROR: unknown work unit nosuch\n",
    )
