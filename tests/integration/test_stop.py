"""A node may stop, or be killed, at any time: its units run on, and the next start knows them."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Cluster, Node, free_port, wait_until

WORK = {"gated": 'echo started; read -r word < "$GATE"; echo $word', "quick": "echo done; exit 3"}


class Gate:
    """A named pipe: a ``gated`` unit waits at it until the test opens it with a word."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self, word: bytes) -> None:
        """Let the waiting unit go on; blocks until it is there to read."""
        self.path.write_bytes(word + b"\n")


@pytest.fixture
def gate(cluster: Cluster) -> Gate:
    """Return the gate that units of this cluster find in their environment."""
    gate = Gate(cluster.directory / "gate")
    cluster.environment["GATE"] = str(gate.path)
    return gate


def command_pid(node: Node, unit: str) -> int:
    """Return the PID of a running unit's command, from its receptor-style detail."""
    detail = node.unit_status(unit)["Detail"]
    assert detail.startswith("Running: PID ")
    return int(detail.removeprefix("Running: PID "))


def terminate(node: Node) -> None:
    assert node.stop(signal.SIGTERM) == 0


def interrupt(node: Node) -> None:
    assert node.stop(signal.SIGINT) == 0


ENDS = [terminate, interrupt, Node.kill]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_node_cleanly_and_removes_its_socket(
    cluster: Cluster, signal_number: signal.Signals
) -> None:
    node = cluster.node("foo", listen=free_port())
    assert node.stop(signal_number) == 0
    assert not node.socket.exists()
    assert "Traceback" not in node.log.read_text()


@pytest.mark.parametrize("end", ENDS)
def test_a_unit_runs_on_when_its_node_ends_and_is_adopted_by_the_next(
    cluster: Cluster, gate: Gate, end: Callable[[Node], None]
) -> None:
    node = cluster.node("foo", work=WORK)
    unit = node.submit("gated", "--no-payload")
    node.wait_output(unit, b"started\n")
    node.wait_unit(unit, "Running")
    pid = command_pid(node, unit)
    end(node)
    os.kill(pid, 0)
    node.start()
    assert node.unit_status(unit)["StateName"] == "Running"
    assert command_pid(node, unit) == pid
    gate.open(b"adopted")
    assert node.results(unit) == b"started\nadopted\n"
    status = node.wait_unit(unit, "Succeeded")
    assert (status["Detail"], status["StdoutSize"]) == ("exit status 0", 16)


@pytest.mark.parametrize("end", ENDS)
def test_an_end_that_the_node_missed_is_known_after_its_restart(
    cluster: Cluster, gate: Gate, end: Callable[[Node], None]
) -> None:
    node = cluster.node("foo", work=WORK)
    unit = node.submit("gated", "--no-payload")
    node.wait_output(unit, b"started\n")
    end(node)
    gate.open(b"unseen")
    wait_until(
        lambda: node.stored_status(unit)["State"] == 2,
        watch=[node.units / unit],
        what="the supervisor to record the end",
    )
    node.start()
    assert node.unit_status(unit)["StateName"] == "Succeeded"
    assert node.results(unit) == b"started\nunseen\n"


@pytest.mark.parametrize("end", ENDS)
def test_finished_units_are_listed_after_a_restart(
    cluster: Cluster, end: Callable[[Node], None]
) -> None:
    node = cluster.node("foo", work=WORK)
    unit = node.submit("quick", "--no-payload")
    assert node.results(unit) == b"done\n"
    before = node.wait_unit(unit, "Failed")
    end(node)
    node.start()
    assert node.ask("work list") == {unit: before}
    assert node.results(unit) == b"done\n"


def test_an_adopted_unit_can_be_canceled(cluster: Cluster, gate: Gate) -> None:
    node = cluster.node("foo", work=WORK)
    unit = node.submit("gated", "--no-payload")
    node.wait_output(unit, b"started\n")
    node.wait_unit(unit, "Running")
    node.kill()
    node.start()
    node.meshctl("work", "cancel", unit)
    assert node.wait_unit(unit, "Canceled")["State"] == 4
    assert node.results(unit) == b"started\n"


def test_remote_work_survives_the_restart_of_either_node_and_runs_once(
    cluster: Cluster, gate: Gate
) -> None:
    port = free_port()
    foo = cluster.node("foo", listen=port)
    bar = cluster.node("bar", peers=[port], work=WORK)
    foo.wait_knows("bar")
    unit = foo.submit("gated", "--node", "bar", "--no-payload")
    foo.wait_output(unit, b"started\n")
    foo.kill()
    bar.kill()
    bar.start()
    foo.start()
    gate.open(b"after all that")
    assert foo.results(unit) == b"started\nafter all that\n"
    assert foo.wait_unit(unit, "Succeeded")["Detail"] == "exit status 0"
    assert len(bar.ask("work list")) == 1


def test_a_unit_whose_supervisor_is_killed_is_failed_and_what_is_left_of_it_is_ended(
    cluster: Cluster, gate: Gate
) -> None:
    node = cluster.node("foo", work=WORK)
    unit = node.submit("gated", "--no-payload")
    node.wait_output(unit, b"started\n")
    node.wait_unit(unit, "Running")
    pid = command_pid(node, unit)
    os.kill(node.stored_status(unit)["Supervisor"]["Pid"], signal.SIGKILL)
    assert node.wait_unit(unit, "Failed")["Detail"].startswith("lost")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the command")
    assert node.results(unit) == b"started\n"
