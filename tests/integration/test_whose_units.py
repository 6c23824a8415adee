"""Whose a unit is and who ended it, on real nodes: in status, list and log, at both ends."""

import getpass
import json
import os
import re
import signal

import pytest
from harness import Cluster, ControlConnection, Node, Status, bash, free_port

UID = os.getuid()
"""The user who runs the tests, and so meshctl."""


def named(client: Status) -> str:
    """Return this user as the log names it; a busy machine may not find the name in time."""
    assert client["Uid"] == UID
    return f"{client['User']} (uid {UID})" if "User" in client else f"uid {UID}"


WORK = {
    "endless": "echo started; exec sleep 1000",
    "polite": bash("trap 'read -r < $GO; exit' INT; echo up; while :; do sleep 0.1; done")
    | {"grace": "10m"},
    "daemons": bash("for i in 1 2 3; do setsid sleep 1000 & done; echo gone"),
    "brief": bash("sleep 1000") | {"timeout": "100ms"},
    "cat": {"command": "cat", "allowruntimeparams": True},
}


@pytest.fixture
def nodes(cluster: Cluster) -> tuple[Node, Node]:
    os.mkfifo(cluster.directory / "go")
    cluster.environment["GO"] = str(cluster.directory / "go")
    port = free_port()
    foo = cluster.node("foo", listen=port)
    bar = cluster.node("bar", peers=[port], work=WORK)
    foo.wait_knows("bar")
    foo.wait_service("bar")
    return foo, bar


def remote_id(foo: Node, unit: str) -> str:
    extra = foo.unit_status(unit)["ExtraData"]
    return str(extra["RemoteUnitID"])


def test_both_halves_of_a_unit_say_who_submitted_it_and_who_canceled_it(
    nodes: tuple[Node, Node],
) -> None:
    foo, bar = nodes
    unit = foo.submit("endless", "--no-payload", "--node", "bar")
    foo.wait_output(unit, b"started\n")
    there = remote_id(foo, unit)
    by = foo.unit_status(unit)["SubmittedBy"]
    assert (by["Kind"], by["Uid"]) == ("unix", UID)
    assert by.get("User") in {None, getpass.getuser()}
    by = bar.unit_status(there)["SubmittedBy"]
    assert (by["Kind"], by["Node"]) == ("mesh", "foo")
    assert (by["Claim"]["Kind"], by["Claim"]["Uid"]) == ("unix", UID)
    listed = json.loads(bar.meshctl("work", "list", "--json"))
    assert listed[there]["SubmittedBy"] == by
    foo.meshctl("work", "cancel", unit)

    end = foo.wait_unit(unit, "Canceled")
    assert end["EndedBy"]["Cause"] == "cancel"
    assert end["Detail"] == "Canceled"
    foo.wait_log(rf"unit {unit}: Canceled by {re.escape(named(end['EndedBy']['By']))}")
    end = bar.wait_unit(there, "Canceled")
    claim = end["EndedBy"]["By"]["Claim"]
    assert end["Detail"] == "Canceled"
    assert (claim["Kind"], claim["Uid"]) == ("unix", UID)
    # On disk as well: the supervisor has recorded it.
    assert bar.stored_status(there)["EndedBy"] == end["EndedBy"]
    asked = rf"by node foo, which says for .*uid {UID}"
    bar.wait_log(rf"unit {there}: created: endless, {asked}")
    bar.wait_log(rf"unit {there}: Canceled {asked}")

    foo.meshctl("work", "release", unit)
    foo.wait_log(rf"unit {unit}: released by .*uid {UID}, pid \d+\)")
    bar.wait_log(rf"unit {there}: released by node foo")


def test_who_canceled_a_unit_is_known_although_its_node_was_killed_meanwhile(
    nodes: tuple[Node, Node], cluster: Cluster
) -> None:
    _, bar = nodes
    unit = bar.submit("polite", "--no-payload")
    bar.wait_output(unit, b"up\n")
    with ControlConnection(bar.socket) as control:
        control.socket.sendall(f"work cancel {unit}\n".encode())
        # The command has got its SIGINT: it opens the pipe.
        with (cluster.directory / "go").open("w") as go:
            bar.kill()
            go.write("go\n")
    bar.start()
    end = bar.wait_unit(unit, "Canceled")
    assert end["Detail"] == "Canceled"
    assert end["EndedBy"]["By"]["Pid"] == os.getpid()


def test_a_command_that_leaves_processes_behind_says_how_many_in_detail_and_log(
    nodes: tuple[Node, Node],
) -> None:
    foo, bar = nodes
    unit = foo.submit("daemons", "--no-payload", "--node", "bar")
    detail = "exit status 0; ended 3 processes that it left behind"
    assert foo.wait_unit(unit, "Succeeded")["Detail"] == detail
    for node, known in ((foo, unit), (bar, remote_id(foo, unit))):
        node.wait_log(rf"unit {known}: Succeeded: {detail}")


def test_a_unit_that_nobody_asked_to_end_says_what_ended_it(nodes: tuple[Node, Node]) -> None:
    foo, bar = nodes
    unit = foo.submit("brief", "--no-payload", "--node", "bar")
    end = foo.wait_unit(unit, "Failed")
    assert end["EndedBy"] == {"Cause": "timeout", "Node": "bar"}

    unit = bar.submit("endless", "--no-payload")
    bar.wait_output(unit, b"started\n")
    os.kill(bar.unit_status(unit)["ExtraData"]["Pid"], signal.SIGKILL)
    end = bar.wait_unit(unit, "Failed")
    assert (end["Detail"], end["EndedBy"]) == ("signal: killed", {"Cause": "signal"})

    unit = bar.submit("endless", "--no-payload")
    bar.wait_output(unit, b"started\n")
    os.kill(bar.stored_status(unit)["Supervisor"]["Pid"], signal.SIGTERM)
    end = bar.wait_unit(unit, "Canceled")
    assert end["EndedBy"] == {"Cause": "signal", "Pid": os.getpid(), "Uid": UID}


def test_parameters_are_shown_and_secrets_are_in_no_file_list_or_log(
    nodes: tuple[Node, Node],
) -> None:
    _, bar = nodes
    options = ("-a", "params=/dev/null", "-a", "secret_word=hush-hush")
    unit = bar.submit("cat", "--payload", "-", *options, stdin=b"hush-payload")
    status = bar.wait_unit(unit, "Succeeded")
    assert status["SubmittedParams"] == "/dev/null"
    listed = bar.meshctl("work", "list", "--table").decode()
    assert any(who in listed for who in (getpass.getuser(), f"uid {UID}"))
    assert "/dev/null" in listed
    bar.wait_log(rf"unit {unit}: created: cat, by .*: /dev/null")
    everything = listed + json.dumps(status) + json.dumps(bar.stored_status(unit))
    assert "hush" not in everything
    assert bar.find_log("hush") is None
