"""``work adopt`` with three real nodes: baz submits to bar and dies, foo takes the unit over."""

import json
import signal

import pytest
from harness import Cluster, ControlConnection, Node, free_port, wait_until

WORK = {
    # Prints at once, and more when the test asks for it; ends when told.
    "talking": "echo begun; while [ ! -e end ]; do sleep 0.05; done; echo over",
    "lasting": "echo begun; exec sleep 1000",
}


@pytest.fixture
def three(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Return foo, bar and baz, all linked by bar, which runs the work."""
    port = free_port()
    work = {
        name: {"command": "bash", "params": f'-c "{script}"', "cwd": str(cluster.directory)}
        for name, script in WORK.items()
    }
    bar = cluster.node("bar", listen=port, work=work)
    foo = cluster.node("foo", peers=[port])
    baz = cluster.node("baz", peers=[port])
    for node in (foo, baz):
        node.wait_knows("bar")
        node.wait_service("bar")
    return foo, bar, baz


def orphan(bar: Node, baz: Node, kind: str) -> str:
    """Have baz submit a unit to bar and die; return the unit's ID on bar."""
    unit = baz.submit(kind, "--node", "bar", "--no-payload")
    baz.wait_output(unit, b"begun\n")
    baz.kill()
    (far,) = bar.ask("work list")
    return str(far)


def adopt(node: Node, far: str, *options: str) -> str:
    reply = json.loads(node.meshctl("work", "adopt", "--node", "bar", far, "--json", *options))
    assert reply["result"] == "Adopted"
    return str(reply["unitid"])


def refused(node: Node, *words: str) -> str:
    done = node.cluster.run("meshctl", "--socket", node.socket, "work", *words, check=False)
    assert done.returncode == 104
    return done.stderr.decode()


def test_a_unit_of_a_dead_submitter_is_followed_to_its_end_across_kills_of_both_nodes(
    three: tuple[Node, Node, Node],
) -> None:
    foo, bar, baz = three
    far = orphan(bar, baz, "talking")
    unit = adopt(foo, far)
    status = foo.wait_unit(unit, "Running")
    assert status["ExtraData"]["Adopted"] is status["ExtraData"]["RemoteStarted"] is True
    assert status["ExtraData"]["RemoteWorkType"] == "talking"
    assert foo.stored_status(unit)["ExtraData"]["Adopted"] is True
    foo.wait_output(unit, b"begun\n")
    assert f"was adopted here already: it is unit {unit}" in refused(
        foo, "adopt", "--node", "bar", far
    )
    foo.kill()
    bar.kill()
    foo.start()
    bar.start()
    (foo.directory / "end").touch()
    assert foo.results(unit) == b"begun\nover\n"
    assert foo.wait_unit(unit, "Succeeded")["ExitCode"] == 0
    foo.meshctl("work", "release", unit)
    assert foo.ask("work list") == {}
    assert list(bar.ask("work list")) == [far]


def test_follow_and_rm_bring_all_of_the_output_and_leave_the_unit_there(
    three: tuple[Node, Node, Node],
) -> None:
    foo, bar, baz = three
    far = orphan(bar, baz, "talking")
    (foo.directory / "end").touch()
    out = foo.meshctl("work", "adopt", "--node", "bar", far, "--follow", "--rm")
    assert out == b"begun\nover\n"
    assert (foo.ask("work list"), list(bar.ask("work list"))) == ({}, [far])


def test_a_cancel_reaches_the_command_and_a_remote_release_leaves_nothing(
    three: tuple[Node, Node, Node],
) -> None:
    foo, bar, baz = three
    far = orphan(bar, baz, "lasting")
    unit = adopt(foo, far)
    assert foo.meshctl("work", "cancel", unit) == f"Cancelled:\n({unit}, cancelled)\n".encode()
    assert bar.unit_status(far)["StateName"] == "Canceled"
    out = foo.meshctl("work", "release", "--remote", unit)
    assert out == f"Released:\n({unit}, released)\n".encode()
    assert foo.ask("work list") == bar.ask("work list") == {}


def test_a_unit_that_is_released_there_while_nobody_can_tell_ends_here_with_the_reason(
    three: tuple[Node, Node, Node],
) -> None:
    foo, bar, baz = three
    far = orphan(bar, baz, "lasting")
    unit = adopt(foo, far)
    foo.wait_unit(unit, "Running")
    foo.stop(signal.SIGTERM)
    bar.meshctl("work", "release", far)
    foo.start()
    status = foo.wait_unit(unit, "Failed")
    assert status["Detail"] == "Remote work unit is gone: it was released on node bar"


def test_another_directory_of_the_units_node_ends_the_unit_here_with_the_reason(
    three: tuple[Node, Node, Node],
) -> None:
    foo, bar, baz = three
    far = orphan(bar, baz, "talking")
    unit = adopt(foo, far)
    foo.wait_unit(unit, "Running")
    bar.kill()
    bar.units.rename(bar.units.with_name("bar.old"))
    bar.start()
    status = foo.wait_unit(unit, "Failed")
    assert "node bar has another directory of units" in status["Detail"]
    (foo.directory / "end").touch()


def test_an_unknown_unit_is_refused_and_one_of_a_node_that_is_away_is_waited_for(
    three: tuple[Node, Node, Node],
) -> None:
    foo, bar, baz = three
    far = orphan(bar, baz, "talking")
    stderr = refused(foo, "adopt", "--node", "bar", "nosuch12")
    assert "node bar refused: unknown work unit nosuch12" in stderr
    assert foo.ask("work list") == {}
    bar.kill()
    foo.wait_status(lambda status: not status["RoutingTable"], what="to have lost its only link")
    with ControlConnection(foo.socket) as control:
        unit = json.loads(control.ask(f"work adopt bar {far}"))["unitid"]
    assert foo.unit_status(unit)["StateName"] == "Pending"
    bar.start()
    (foo.directory / "end").touch()
    assert foo.results(unit) == b"begun\nover\n"
    wait_until(lambda: foo.unit_status(unit)["StateName"] == "Succeeded", what=f"the end of {unit}")
