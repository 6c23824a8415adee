"""What receptor's users have reported, each as the user meets it: on nodes that run."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from harness import Cluster, Node, bash, free_port, wait_until
from marks import kill_marked

WORK = {
    "endless": "echo started; exec sleep 1000",
    "ledger": "echo ran >> $LEDGER; cat",
    # A child in a session of its own, and one that ignores every polite signal.
    "stubborn": bash("setsid sleep 1000 & (trap '' INT TERM; echo up; exec sleep 1000) & wait")
    | {"grace": "500ms"},
    "daemon": "setsid sleep 1000 & echo gone",
}

HALF = """
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
r = s.makefile("rb")
r.readline()
s.sendall(b"work submit " + sys.argv[2].encode() + b"\\n")
line = r.readline()
s.sendall(b"half a payload")
print(line.split(b"ID ")[1][:8].decode(), flush=True)
time.sleep(1000)
"""
"""A client of no kind of ours that is killed while it still has payload to send."""


def processes_of(cluster: Cluster, unit: str) -> list[int]:
    """Return the PIDs that have this unit in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if f"MESHNODE_UNIT_ID={unit}".encode() in environment:
                found.append(int(entry.name))
    return found


def one_node(cluster: Cluster) -> Node:
    cluster.environment["LEDGER"] = str(cluster.directory / "ledger")
    return cluster.node("foo", work=WORK)


def two_nodes(cluster: Cluster, *, start: bool = True) -> tuple[Node, Node]:
    cluster.environment["LEDGER"] = str(cluster.directory / "ledger")
    port = free_port()
    foo = cluster.node("foo", listen=port)
    bar = cluster.node("bar", peers=[port], work=WORK, start=start)
    if start:
        foo.wait_service("bar")
    return foo, bar


def test_work_is_not_running_for_ever_after_its_machine_failed(cluster: Cluster) -> None:
    """Receptor issue 711."""
    foo, bar = two_nodes(cluster)
    unit = foo.submit("endless", "--node", "bar", "--no-payload")
    foo.wait_output(unit, b"started\n")
    foo.wait_unit(unit, "Running")
    # As by a power cut: whatever bar had running is gone in the same moment.
    bar.kill()
    for there in bar.units.glob("[!.]*"):
        # The supervisor first: it would record the end of a command that it sees die.
        os.kill(bar.stored_status(there.name)["Supervisor"]["Pid"], signal.SIGKILL)
        for pid in processes_of(cluster, there.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    bar.start()
    status = foo.wait_unit(unit, "Failed")
    assert status["Detail"].startswith("lost: its supervisor")
    assert foo.results(unit) == b"started\n"


def test_a_unit_that_never_started_is_released_at_once(cluster: Cluster) -> None:
    """Receptor issue 363."""
    foo = one_node(cluster)
    unit = foo.submit("endless", "--node", "nowhere", "--no-payload")
    assert foo.unit_status(unit)["StateName"] == "Pending"
    assert foo.meshctl("work", "release", unit).decode() == f"Released:\n({unit}, released)\n"
    assert foo.ask("work list") == {}


def test_a_submission_that_waits_for_its_node_survives_restarts_of_the_submitter(
    cluster: Cluster,
) -> None:
    """Receptor's "remote work had not previously started"."""
    foo, bar = two_nodes(cluster, start=False)
    unit = foo.submit("ledger", "--node", "bar", "-l", "hello")
    for _ in range(2):
        foo.kill()
        foo.start()
        assert foo.unit_status(unit)["StateName"] == "Pending"
    bar.start()
    assert foo.results(unit) == b"hello\n"
    assert foo.wait_unit(unit, "Succeeded")
    assert (cluster.directory / "ledger").read_text() == "ran\n"


def test_nothing_of_a_canceled_unit_goes_on(cluster: Cluster) -> None:
    foo, bar = two_nodes(cluster)
    unit = foo.submit("stubborn", "--node", "bar", "--no-payload")
    foo.wait_output(unit, b"up\n")
    (there,) = (entry.name for entry in bar.units.glob("[!.]*"))
    wait_until(lambda: len(processes_of(cluster, there)) >= 3, what="all that it starts")
    foo.meshctl("work", "cancel", unit)
    assert foo.wait_unit(unit, "Canceled")["Detail"] == "Canceled"
    assert processes_of(cluster, there) == []


def test_a_command_leaves_no_orphans(cluster: Cluster) -> None:
    foo = one_node(cluster)
    unit = foo.submit("daemon", "--no-payload")
    assert foo.results(unit) == b"gone\n"
    foo.wait_unit(unit, "Succeeded")
    assert processes_of(cluster, unit) == []


def test_a_killed_node_leaves_no_orphans_of_units_whose_supervisor_died_too(
    cluster: Cluster,
) -> None:
    foo = one_node(cluster)
    unit = foo.submit("stubborn", "--no-payload")
    foo.wait_output(unit, b"up\n")
    foo.wait_unit(unit, "Running")
    supervisor = foo.stored_status(unit)["Supervisor"]["Pid"]
    foo.kill()
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: processes_of(cluster, unit), what="what survives a supervisor")
    foo.start()
    assert foo.wait_unit(unit, "Failed")["Detail"].startswith("lost")
    assert processes_of(cluster, unit) == []


def test_a_status_file_is_whole_whenever_it_is_read(cluster: Cluster) -> None:
    foo = one_node(cluster)
    seen = set()

    def look(unit: str) -> bool:
        status = json.loads((foo.units / unit / "status").read_text())
        seen.add(status["State"])
        return status["State"] > 1

    for _ in range(10):
        unit = foo.submit("ledger", "-l", "hello")
        wait_until(lambda unit=unit: look(unit), watch=[foo.units / unit], what="its end")
    assert 2 in seen


def test_half_a_payload_of_a_killed_client_is_never_run(cluster: Cluster) -> None:
    """receptor runs the truncated payload."""
    foo, bar = two_nodes(cluster)
    for target in ("localhost ledger", "bar ledger"):
        node = bar if target.startswith("localhost") else foo
        client = subprocess.Popen(
            [sys.executable, "-c", HALF, str(node.socket), target], stdout=subprocess.PIPE
        )
        assert client.stdout is not None
        with client.stdout as says:
            assert select.select([says], [], [], 60)[0]
            unit = says.readline().decode().strip()
        client.kill()
        client.wait()
        status = node.wait_unit(unit, "Failed")
        assert status["Detail"] == "Error reading input data: the client closed its connection"
    assert not (cluster.directory / "ledger").exists()


def test_after_everything_was_killed_at_once_no_unit_is_in_doubt(cluster: Cluster) -> None:
    foo = one_node(cluster)
    units = [foo.submit("endless", "--no-payload") for _ in range(3)]
    done = foo.submit("ledger", "-l", "hello")
    foo.wait_unit(done, "Succeeded")
    for unit in units:
        foo.wait_unit(unit, "Running")
    kill_marked(cluster.mark)
    foo.wait()
    foo.start()
    for unit in units:
        assert foo.wait_unit(unit, "Failed")["Detail"].startswith("lost: its supervisor")
    assert foo.results(done) == b"hello\n"
