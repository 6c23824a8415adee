"""A disk that is full: the unit that filled it says so, the others and the node go on."""

import contextlib
import subprocess
from typing import Any

import pytest
import yaml
from harness import Cluster, ControlConnection, Node, wait_until

DISK = "2m"
"""Size of the disk that the tests fill."""


def can_mount() -> bool:
    """Whether an ordinary user may mount a file system of its own here."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not can_mount(), reason="needs user namespaces to mount a tmpfs")

WORK = {
    "fill": "cat /dev/zero",
    "gated": 'read -r word < $GATE; echo "$word"',
    "cat": {"command": "cat"},
    "limited": {"command": "cat", "params": "/dev/zero", "maxoutput": "1GiB"},
}


class SmallNode(Node):
    """A node whose data directory is a small disk that only its processes see."""

    @classmethod
    def of(cls, plain: Node) -> "SmallNode":
        """Return a node in the place of one that was not started."""
        small = cls(plain.cluster, plain.name, yaml.safe_load(plain.config.read_text()))
        plain.cluster.nodes[plain.name] = small
        return small

    def start(self) -> "SmallNode":
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        script = f'mount -t tmpfs -o size={DISK} none {data} && exec meshnode -c "{self.config}"'
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "-rm", "sh", "-c", script],
                env=self.cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._greets, watch=[self.directory, self.log], what="the small node to greet")
        return self


@pytest.fixture
def node(cluster: Cluster) -> SmallNode:
    cluster.environment["GATE"] = str(cluster.directory / "gate")
    subprocess.run(["mkfifo", cluster.environment["GATE"]], check=True)
    plain = cluster.node("foo", work=WORK, start=False)
    return SmallNode.of(plain).start()


def wait_final(node: Node, unit: str) -> dict[str, Any]:
    def final() -> dict[str, Any] | None:
        status = node.unit_status(unit)
        return status if status["State"] > 1 else None

    return wait_until(final, what=f"the end of unit {unit}")


def test_the_unit_that_fills_the_disk_fails_and_says_so_and_the_others_end_well(
    cluster: Cluster, node: SmallNode
) -> None:
    waiting = node.submit("gated", "--no-payload")
    before = node.submit("cat", "-l", "before")
    assert wait_final(node, before)["StateName"] == "Succeeded"
    full = node.submit("fill", "--no-payload")
    status = wait_final(node, full)
    assert status["StateName"] == "Failed"
    assert status["Detail"] == "exit status 1; no space left on the disk of its output"
    assert "has 0 MiB left of 2 MiB" in node.status()["Warnings"][0]
    # The end of one that was running is recorded all the same.
    (cluster.directory / "gate").write_bytes(b"let go\n")
    assert wait_final(node, waiting)["State"] in {2, 3}
    assert node.meshctl("work", "release", full)
    assert "Warnings" not in node.status()
    after = node.submit("cat", "-l", "after")
    assert wait_final(node, after)["StateName"] == "Succeeded"
    assert node.results(after) == b"after\n"
    assert node.results(before) == b"before\n"


def test_a_payload_that_does_not_fit_fails_its_unit_with_the_reason(node: SmallNode) -> None:
    with ControlConnection(node.socket) as connection:
        created = connection.ask("work submit localhost cat")
        unit = created.split("ID ")[1][:8]
        # The node drops what it does not want for a moment, then closes.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.socket.sendall(bytes(64 << 20))
        refusal = connection.read_line()
        assert refusal == "ERROR: Error reading input data: No space left on device"
    status = wait_final(node, unit)
    assert status["Detail"] == "Error reading input data: No space left on device"
    # Its room is free again, though the unit is still there to say what became of it.
    assert "Warnings" not in node.status()
    after = node.submit("cat", "-l", "after")
    assert wait_final(node, after)["StateName"] == "Succeeded"
    assert node.meshctl("work", "release", unit)


def test_a_command_with_a_limit_is_stopped_when_the_disk_is_full_before_that(
    node: SmallNode,
) -> None:
    unit = node.submit("limited", "--no-payload")
    status = wait_final(node, unit)
    assert status["StateName"] == "Failed"
    assert status["Detail"] == "stopped: no space left on the disk of its output"
