"""The node, its launcher and supervisors are killed among units with limits: no group stays."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Cluster, ControlConnection, Node, bash, wait_until
from launching import kill, launcher_of, supervisor_of

from meshnode.work.local.cgroups import groups_of
from meshnode.work.local.hierarchies import look
from meshnode.work.local.launcher import tree
from meshnode.work.local.launcher.groups import tree_of

LIMITS = {"cpu": 2, "memory": "64MiB", "pids": 50}
refusal = look().refusal(LIMITS)
pytestmark = pytest.mark.skipif(refusal is not None, reason=str(refusal))

UNITS = 24
"""Units that a client asks for one after the other; it stops where the node is gone."""

KILLED_AFTER = 6
"""Commands that have begun by then: some have ended, some run, some wait."""

WORK = "echo $MESHNODE_UNIT_DIR >> {ledger}; env -i setsid sleep 600 & sleep 0.5"
"""Each leaves a process that hides from everything but its group."""

ENDED = ("Succeeded", "Failed", "Canceled")


class Ledger:
    """A file that each command writes a line to when it begins."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ledger"
        self.path.touch()

    def wait(self, lines: int) -> None:
        wait_until(
            lambda: self.runs().total() >= lines, watch=[self.path], what=f"{lines} commands"
        )

    def runs(self) -> Counter[str]:
        """Return how often the command of each unit began."""
        return Counter(os.path.basename(line) for line in self.path.read_text().splitlines())


def submit_all(node: Node, accepted: list[str]) -> None:
    """Submit until the node is gone; note what it has answered."""
    for _ in range(UNITS):
        try:
            with ControlConnection(node.socket) as connection:
                created = connection.ask(
                    '{"command":"work","subcommand":"submit","node":"foo","worktype":"bound"}'
                )
                connection.socket.shutdown(1)
                if '"result"' in connection.read_line():
                    accepted.append(created.split("with ID ")[1].split(".")[0])
        except (OSError, IndexError):
            return


def groups(node: Node) -> list[str]:
    """Return the groups of units that are there."""
    return [path for base in groups_of(node.root) for path in tree_of(base.path)[1:]]


def processes(node: Node) -> set[int]:
    """Return everything in these groups."""
    return {pid for base in groups_of(node.root) for pid in base.processes()}


def kill_launcher(node: Node) -> None:
    kill(launcher_of(node.pid))


def kill_node(node: Node) -> None:
    node.kill()


def kill_both(node: Node) -> None:
    launcher = launcher_of(node.pid)
    node.kill()
    # It ends without its node, and may have done so already.
    tree.send_signal(launcher.pid, launcher.started, signal.SIGKILL)


def kill_all(node: Node) -> None:
    """Kill the supervisors of what runs as well: its commands go on."""
    kill_both(node)
    for unit in {os.path.basename(path) for path in groups(node)}:
        if (supervisor := supervisor_of(node.units / unit)) is not None:
            # It may have recorded the end of its unit a moment ago.
            tree.send_signal(supervisor.pid, supervisor.started, signal.SIGKILL)


@pytest.mark.parametrize("blow", [kill_launcher, kill_node, kill_both, kill_all])
def test_of_limited_units_none_is_lost_or_runs_twice_and_no_group_is_left_after_the_next_start(
    cluster: Cluster, blow: Callable[[Node], None]
) -> None:
    ledger = Ledger(cluster.directory)
    work = {"bound": bash(WORK.format(ledger=ledger.path)) | {"limits": LIMITS}}
    foo = cluster.node("foo", work=work)
    accepted: list[str] = []
    client = threading.Thread(target=submit_all, args=(foo, accepted))
    client.start()
    try:
        ledger.wait(KILLED_AFTER)
        begun = set(ledger.runs())
        blow(foo)
    finally:
        client.join()
    assert foo.process is not None
    if foo.process.poll() is not None:
        foo.start()
    # The client had an answer for as many, at least: each is made before the next is asked for.
    assert len(accepted) >= KILLED_AFTER - 1
    ends = {unit: foo.wait_unit(unit, *ENDED)["StateName"] for unit in {*accepted, *begun}}
    runs = ledger.runs()
    assert runs.total() == len(runs), "one was started twice"
    assert {unit for unit, end in ends.items() if end == "Succeeded"} <= set(runs)
    if blow is not kill_all:
        # Supervisors outlive the node, and what had begun is not disturbed.
        assert {ends[unit] for unit in begun} == {"Succeeded"}
    for unit in runs:
        foo.wait_unit(unit, *ENDED)
    wait_until(lambda: not groups(foo) and not processes(foo), what="the end of all groups")
    assert foo.stop() == 0
    assert groups_of(foo.root) == []
