"""The real receptorctl from PyPI, command and class, against our sockets."""

import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from harness import Node, wait_until
from receptorctl.socket_interface import ReceptorControl

FooBar = tuple[Node, Node]

REMOTE = pytest.mark.parametrize("node", [None, "bar"], ids=["local", "remote"])
"""Each test with work runs it on the node that it talks to, and on the other one."""

VERSIONS_DIFFER = "receptorctl and receptor are different versions"
"""receptorctl compares the node's version with its own and warns; nothing else is on stderr."""


def receptorctl(node: Node, *arguments: str, stdin: bytes = b"") -> str:
    """Run receptorctl's command; return its stdout."""
    done = node.cluster.run("receptorctl", "--socket", node.socket, *arguments, stdin=stdin)
    assert all(VERSIONS_DIFFER in line for line in done.stderr.decode().splitlines())
    return done.stdout.decode()


def submit(node: Node, *arguments: str, target: str | None, stdin: bytes = b"") -> str:
    """Submit with receptorctl's command; return the unit ID."""
    options = ["--node", target] if target else []
    output = receptorctl(node, "work", "submit", *options, *arguments, stdin=stdin)
    found = re.fullmatch(r"Result: Job (?:Started|Submitted)\nUnit ID: (\w{8})\n", output)
    assert found
    return found.group(1)


@pytest.fixture
def control(foo_bar: FooBar) -> Iterator[ReceptorControl]:
    """Yield receptorctl's class, connected to foo."""
    control = ReceptorControl(str(foo_bar[0].socket))
    yield control
    control.close()


# --- The command -------------------------------------------------------------------------------


def test_status_shows_the_mesh(foo_bar: FooBar) -> None:
    foo, _ = foo_bar
    text = receptorctl(foo, "status")
    assert text.startswith("Node ID: foo\n")
    assert re.search(r"^bar +1", text, re.MULTILINE), "the connection and its cost"
    assert re.search(r"^bar +bar$", text, re.MULTILINE), "the route"
    assert re.search(r"^bar +control +Stream ", text, re.MULTILINE), "the service"
    assert re.search(r"^bar .*echopayload", text, re.MULTILINE), "the work types"
    assert "Additional data" not in text
    assert json.loads(receptorctl(foo, "status", "--json"))["NodeID"] == "foo"


def test_ping_and_traceroute_reach_the_other_node(foo_bar: FooBar) -> None:
    foo, _ = foo_bar
    replies = receptorctl(foo, "ping", "bar", "--count", "2", "--delay", "0").splitlines()
    assert len(replies) == 2
    assert all(reply.startswith("Reply from bar in ") for reply in replies)
    hops = receptorctl(foo, "traceroute", "bar").splitlines()
    assert re.fullmatch(r"1: bar in \S+", hops[-1])


def test_ping_of_an_unknown_node_is_an_error(foo_bar: FooBar) -> None:
    foo, _ = foo_bar
    done = foo.cluster.run(
        *("receptorctl", "--socket", foo.socket, "ping", "nosuch", "--count", "1"), check=False
    )
    assert done.returncode == 2
    assert "no route to node" in done.stderr.decode()


def test_version_names_both_programs(foo_bar: FooBar) -> None:
    text = receptorctl(foo_bar[0], "version")
    assert re.fullmatch(r"receptorctl +1\.6\.9\nreceptor +\S+\n", text)


@REMOTE
def test_submitted_work_gives_its_results(foo_bar: FooBar, node: str | None) -> None:
    foo, _ = foo_bar
    unit = submit(foo, "echopayload", "-p", "-", target=node, stdin=b"some words\n")
    assert receptorctl(foo, "work", "results", unit) == "SOME WORDS\n"


@REMOTE
def test_submit_follows_and_releases(foo_bar: FooBar, node: str | None) -> None:
    foo, bar = foo_bar
    options = ["--node", node] if node else []
    output = receptorctl(foo, "work", "submit", *options, "echopayload", "-l", "hush", "-f", "--rm")
    assert output.startswith("HUSH\n")
    assert foo.ask("work list") == {}
    wait_until(lambda: bar.ask("work list") == {}, what="bar to release its unit")


@REMOTE
def test_runtime_parameters_pass(foo_bar: FooBar, node: str | None) -> None:
    foo, _ = foo_bar
    unit = submit(
        foo, "listcontents", "-n", "-a", "params=-d", str(foo.directory), "/", target=node
    )
    assert receptorctl(foo, "work", "results", unit).split() == sorted(["/", str(foo.directory)])


@REMOTE
def test_work_list_shows_the_unit(foo_bar: FooBar, node: str | None) -> None:
    foo, _ = foo_bar
    unit = submit(foo, "echoint", "-n", target=node)
    receptorctl(foo, "work", "results", unit)
    listed = json.loads(receptorctl(foo, "work", "list"))
    assert listed[unit]["StateName"] == "Succeeded"
    assert listed[unit]["WorkType"] == ("remote" if node else "echoint")
    assert json.loads(receptorctl(foo, "work", "list", "--unit_id", unit)) == listed
    assert receptorctl(foo, "work", "list", "-q") == f"{unit}\n"


def test_work_list_of_another_node_goes_through_the_mesh(foo_bar: FooBar) -> None:
    foo, bar = foo_bar
    unit = submit(foo, "echoint", "-n", target="bar")
    receptorctl(foo, "work", "results", unit)
    listed = json.loads(receptorctl(foo, "work", "list", "--node", "bar"))
    assert listed == bar.ask("work list")
    assert len(listed) == 1


@REMOTE
def test_cancel_and_release_end_the_unit_and_delete_it(foo_bar: FooBar, node: str | None) -> None:
    foo, bar = foo_bar
    unit = submit(foo, "lasting", "-n", target=node)
    foo.wait_unit(unit, "Running")
    assert receptorctl(foo, "work", "cancel", unit) == f"Cancelled:\n({unit}, cancelled)\n"
    foo.wait_unit(unit, "Canceled")
    assert receptorctl(foo, "work", "release", unit) == f"Released:\n({unit}, released)\n"
    assert foo.ask("work list") == {}
    assert not (foo.units / unit).exists()
    assert bar.ask("work list") == {}


def test_force_release_of_all_units_leaves_none(foo_bar: FooBar) -> None:
    foo, _ = foo_bar
    units = {submit(foo, "lasting", "-n", target=target) for target in (None, "bar")}
    output = receptorctl(foo, "work", "release", "--force", "--all")
    assert all(unit in output for unit in units)
    assert foo.ask("work list") == {}


@REMOTE
def test_following_a_unit_that_fails_tells_so(foo_bar: FooBar, node: str | None) -> None:
    foo, _ = foo_bar
    unit = submit(foo, "fail", "-n", target=node)
    done: subprocess.CompletedProcess[bytes] = foo.cluster.run(
        "receptorctl", "--socket", foo.socket, "work", "results", unit, check=False
    )
    assert done.returncode == 1
    assert done.stdout == b"before\n"
    assert "exit status 7" in done.stderr.decode()


# --- The class ---------------------------------------------------------------------------------


def test_the_class_asks_simple_commands(control: ReceptorControl) -> None:
    assert control.simple_command("status")["NodeID"] == "foo"
    assert control.simple_command("ping bar")["Success"] is True
    fields = control.simple_command('{"command":"status","requested_fields":["NodeID"]}')
    assert fields == {"NodeID": "foo"}


@REMOTE
def test_the_class_submits_bytes_and_reads_them_back(
    foo_bar: FooBar, control: ReceptorControl, node: str | None
) -> None:
    payload = bytes(range(256)) * 1000
    answer = control.submit_work("cat", payload, node=node)
    assert set(answer) == {"unitid", "result"}
    with control.get_work_results(answer["unitid"]) as results:
        assert results.read() == payload
    with control.get_work_results(answer["unitid"], startpos=255_999) as results:
        assert results.read() == b"\xff"
    control.connect()
    assert control.simple_command(f"work status {answer['unitid']}")["State"] == 2
    assert control.simple_command(f"work release {answer['unitid']}") == {
        "released": answer["unitid"]
    }


def test_the_class_reaches_a_service_of_another_node(control: ReceptorControl) -> None:
    control.connect_to_service("bar", "control", "")
    control.handshake()
    assert control.simple_command("status")["NodeID"] == "bar"


def test_the_class_raises_what_the_node_refuses(control: ReceptorControl) -> None:
    with pytest.raises(RuntimeError, match="unknown work unit nosuch"):
        control.simple_command("work status nosuch")
    assert control.simple_command("status")["NodeID"] == "foo"
    with pytest.raises(RuntimeError, match="Failed to start work unit"):
        control.submit_work("nosuch", b"")
