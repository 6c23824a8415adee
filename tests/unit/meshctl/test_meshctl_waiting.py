"""A command that waits for a unit says what the unit waits for, on stderr, once a reason."""

import json
import threading

import pytest
from scripted_node import RUNNING, SUCCEEDED

from meshctl import ControlClient
from meshctl.commands import waiting

NO_ROUTE = "waiting for node n9: no route since 12:04:31"
BLOCKED = "waiting for node n9: blocked by a firewall rule at n2 since 12:05:00"
STALE = "last heard from n9 at 12:06:00: no route"


def pending(detail="Starting Worker", **more):
    return {"State": 0, "StateName": "Pending", "Detail": detail, **more}


def remote(detail="Starting Worker", node="n9"):
    """A unit for another node, as receptor shows it."""
    return pending(detail, ExtraData={"RemoteNode": node, "RemoteWorkType": "cat"})


@pytest.fixture
def told(monkeypatch):
    """What is told, and what happens after the first of it, the second and so on."""
    lines, deeds = [], []
    say = waiting.print_note

    def print_note(text):
        say(text)
        lines.append(text)
        if deeds:
            deeds.pop(0)()

    monkeypatch.setattr(waiting, "print_note", print_note)
    monkeypatch.setattr(waiting, "FIRST_LOOK", 0.0)
    return lines, deeds


def following(command):
    return {
        "results": ["work", "results", "one"],
        "wait": ["work", "wait", "one"],
    }[command]


@pytest.mark.parametrize("command", ["results", "wait"])
def test_each_reason_is_told_once_on_stderr(node, meshctl, told, command):
    _, deeds = told
    node.add_unit("one", b"output", ended=False, **pending(NO_ROUTE, Waiting=NO_ROUTE))

    def another_change_and_another_reason():
        node.change("one", pending(NO_ROUTE, Waiting=NO_ROUTE, StdinSize=7))
        node.change("one", pending(BLOCKED, Waiting=BLOCKED))

    def run_and_lose_it():
        node.change("one", RUNNING)
        node.change("one", {**RUNNING, "Detail": f"Running: PID 42; {STALE}", "Waiting": STALE})

    deeds += [
        another_change_and_another_reason,
        run_and_lose_it,
        lambda: node.change("one", SUCCEEDED),
    ]
    result = meshctl(*following(command))
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"unit one: {NO_ROUTE}",
        f"unit one: {BLOCKED}",
        f"unit one: {STALE}",
    ]
    assert result.stdout == ("output" if command == "results" else "(one, Succeeded)\n")


@pytest.mark.parametrize("options", [["--follow"], ["--wait"], ["--rm"]])
def test_a_submission_that_is_waited_for_tells_what_it_waits_for(node, meshctl, told, options):
    _, deeds = told
    node.unit_status = RUNNING
    node.handlers["work watch"] = lambda session, line: watch(session)

    def watch(session):
        session.send(pending(NO_ROUTE, Waiting=NO_ROUTE))
        ended.wait()
        session.send(SUCCEEDED)
        return False

    ended = threading.Event()
    deeds.append(lambda: (node.change("Unit0001", SUCCEEDED), ended.set()))
    result = meshctl("work", "submit", "cat", "--node", "n9", "-l", "x", *options)
    assert f"unit Unit0001: {NO_ROUTE}" in result.stderr.splitlines()
    assert result.exit_code == 0


@pytest.mark.parametrize("detail", ["Waiting to be started: no process", "Queued: 3rd of 7"])
def test_a_unit_of_the_node_itself_tells_what_it_waits_for(node, meshctl, told, detail):
    lines, deeds = told
    node.add_unit("one", ended=False, **pending(detail))
    deeds.append(lambda: node.change("one", SUCCEEDED))
    assert meshctl("work", "wait", "one").exit_code == 0
    assert lines == [f"unit one: {detail}"]


def test_a_receptor_node_does_not_say_why_and_its_routes_are_looked_at(node, meshctl, told):
    lines, deeds = told
    node.receptors()
    node.add_unit("one", ended=False, **remote(node="n9"))
    deeds.append(lambda: node.change("one", SUCCEEDED))
    assert meshctl("work", "results", "one").exit_code == 0
    assert lines == ["unit one: waiting for node n9: no route"]


@pytest.mark.parametrize("usual", sorted(waiting.USUAL))
def test_a_unit_that_only_begins_is_no_news(node, usual):
    statuses = [pending(usual), remote(usual, node="bar"), RUNNING, SUCCEEDED]
    with ControlClient(node.address) as client:
        assert [waiting._reason(client, status) for status in statuses] == [""] * 4


def test_a_unit_that_goes_on_soon_costs_no_session(node, meshctl):
    node.add_unit("one", b"output")
    assert meshctl("work", "results", "one").stdout == "output"
    assert not any("watch" in line for line in node.lines)


def test_nothing_is_told_once_the_command_is_done(node, monkeypatch):
    """Also where the watch is still open then: it is broken off, and ends by itself."""
    node.add_unit("one", ended=False, **pending(NO_ROUTE, Waiting=NO_ROUTE))
    watches = []
    watching = ControlClient.watching

    def remembered(self, unit_id):
        watches.append(watching(self, unit_id))
        return watches[0]

    monkeypatch.setattr(ControlClient, "watching", remembered)
    monkeypatch.setattr(waiting, "FIRST_LOOK", 0.0)
    said = []
    monkeypatch.setattr(waiting, "print_note", said.append)

    class Invocation:
        def client(self):
            return ControlClient(node.address)

    before = set(threading.enumerate())
    with waiting.waits_told(Invocation(), "one"):
        (teller,) = [t for t in set(threading.enumerate()) - before if t.name.startswith("waits")]
        node.watch_began.wait()
    node.change("one", pending(BLOCKED, Waiting=BLOCKED))
    teller.join()
    assert set(said) <= {f"unit one: {NO_ROUTE}"}
    assert json.dumps(said).count(NO_ROUTE) <= 1
