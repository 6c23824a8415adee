"""Real nodes as real processes, for tests: started from YAML files, driven through their sockets.

A :class:`Cluster` owns a directory with a short path (a unix socket's may have 107 bytes) and every
process started in it. Whatever it starts carries a mark in its environment, which units and
their supervisors inherit; at the end the cluster ends whoever still carries it, and nobody else.
"""

import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from inotify_simple import INotify, flags
from marks import MARK, kill_marked

from meshnode.work.local.cgroups import groups_of

COMMANDS = Path(sys.executable).parent
"""Where the console scripts of this environment are."""

PATIENCE = 120.0
"""Seconds until a wait fails. Only what is broken takes so long; a passing test never waits it."""

STOP_PATIENCE = 60.0
"""Seconds that a node has to end when it was told to. Only one that hangs takes so long."""

RECHECK = 0.1
"""Seconds after which a wait looks again if no file event came (not every change makes one)."""

LINK = re.compile(r"^(tcp|ws|udp)-(listener|peer)$")
"""Directives that make links."""

Directive = Mapping[str, Any]
Status = dict[str, Any]


def wait_until(
    condition: Callable[[], Any],
    *,
    watch: Sequence[Path] = (),
    what: str,
    seconds: float = PATIENCE,
) -> Any:
    """Return what ``condition`` returns once that is true; ask again at each change in ``watch``.

    Args:
        condition: asked at once, after each file event, and every ``RECHECK`` seconds.
        watch: existing files and directories whose changes are a reason to ask again.
        what: completes "waited 120 s in vain for …".
        seconds: when to give up.
    """
    deadline = time.monotonic() + seconds
    with INotify() as events:
        for path in watch:
            events.add_watch(str(path), flags.CREATE | flags.MODIFY | flags.MOVED_TO | flags.DELETE)
        while True:
            result = condition()
            if result:
                return result
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
            events.read(timeout=int(RECHECK * 1000))


PORTS = range(10_000, 32_768)
"""Ports that no client is given. One from the system (0) is of the range that outgoing connections
get theirs from, and one of them may have it by the time that a node listens on it."""


def own_ports(worker: str, workers: int) -> range:
    """Return the ports of one of the processes that run the tests (``gw1``), or of the only one.

    No two have a port in common: between being found free and being listened on, none is taken.
    """
    number = int(worker.removeprefix("gw") or 0)
    return PORTS[number::workers]


@cache
def _shuffled_ports() -> Iterator[int]:
    """Return this process's ports, from the beginning again after the last: none twice in a row.

    They are shuffled for others who run tests on this machine.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = own_ports(os.environ.get("PYTEST_XDIST_WORKER", ""), workers)
    return itertools.cycle(random.sample(ports, len(ports)))


def free_port() -> int:
    """Return a port that nobody on this machine has, and that no other test is given."""
    for port in _shuffled_ports():
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        with tcp, udp, suppress(OSError):
            tcp.bind(("", port))
            udp.bind(("", port))
            return port
    raise AssertionError("no port is free")


class ControlConnection:
    """A bare connection to a control socket: what any program that is not ours would do."""

    def __init__(self, path: Path, *, seconds: float = PATIENCE) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(seconds)
            self.socket.connect(str(path))
            self.reader = self.socket.makefile("rb")
            self.greeting = self.read_line()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> "ControlConnection":
        return self

    def __exit__(self, *exc: object) -> None:
        self.reader.close()
        self.socket.close()

    def read_line(self) -> str:
        """Return the next line without its end; empty at the end of the connection."""
        return self.reader.readline().decode().rstrip("\n")

    def ask(self, line: str) -> str:
        """Send one command line, return the reply line."""
        self.socket.sendall(line.encode() + b"\n")
        return self.read_line()


class Node:
    """One node: its configuration file, its process, its log, and a meshctl that talks to it."""

    def __init__(self, cluster: "Cluster", name: str, directives: Sequence[Directive]) -> None:
        self.cluster = cluster
        self.name = name
        self.directory = cluster.directory
        self.config = self.directory / f"{name}.yml"
        self.socket = self.directory / f"{name}.sock"
        self.log = self.directory / f"{name}.log"
        self.units = self.directory / "data" / name
        own = next((one["node"] for one in directives if "node" in one), {})
        self.root = Path(own.get("datadir", self.directory / "data")) / name
        """The node's directory as the node sees it: its control groups are called after it."""
        self.process: subprocess.Popen[bytes] | None = None
        self.prefix: Sequence[str] = ()
        """What the node is started through, setpriv(1) for instance."""
        self.config.write_text(yaml.safe_dump(list(directives), sort_keys=False))
        self.log.touch()

    # --- Its process -----------------------------------------------------------------------

    def start(self) -> "Node":
        """Start the process and wait until its control socket greets."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.cluster.wrapping, COMMANDS / "meshnode", "-c", self.config],
                env=self.cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(
            self._greets,
            watch=[self.directory, self.log],
            what=f"node {self.name} to greet on its control socket",
        )
        return self

    def _greets(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"node {self.name} ended with {self.process.returncode}")
        try:
            with ControlConnection(self.socket) as connection:
                return connection.greeting == f"Receptor Control, node {self.name}"
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    @property
    def pid(self) -> int:
        """The PID of the running node."""
        assert self.process is not None
        return self.process.pid

    def wait(self, seconds: float = STOP_PATIENCE) -> int:
        """Wait for the process to end; return its exit code."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Ask the node to stop and wait for it; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal_number)
        return self.wait()

    def kill(self) -> None:
        """End the node as ``kill -9`` does: it cannot prepare for it."""
        self.stop(signal.SIGKILL)

    def wait_log(self, pattern: str) -> str:
        """Wait for a line in the log that matches; return it."""
        return str(
            wait_until(
                lambda: self.find_log(pattern),
                watch=[self.log],
                what=f"a line matching {pattern!r} in the log of {self.name}",
            )
        )

    def find_log(self, pattern: str) -> str | None:
        """Return the first line of the log that matches."""
        for line in self.log.read_text(errors="replace").splitlines():
            if re.search(pattern, line):
                return line
        return None

    # --- What it knows of the mesh -----------------------------------------------------------

    def ask(self, line: str) -> Any:
        """Send one command over a connection of its own; return the decoded JSON reply."""
        with ControlConnection(self.socket) as connection:
            reply = connection.ask(line)
        assert not reply.startswith("ERROR"), f"{line!r} was answered {reply!r}"
        return json.loads(reply)

    def status(self) -> Status:
        """Return the node's status with the fields of our own, which the line of text has not."""
        status: Status = self.ask('{"command":"status"}')
        return status

    def wait_status(self, condition: Callable[[Status], Any], *, what: str) -> Status:
        """Wait until the node's status meets ``condition``; routing changes appear in the log."""

        def ask() -> Status | None:
            status = self.status()
            return status if condition(status) else None

        found: Status = wait_until(ask, watch=[self.log], what=f"{self.name}: {what}")
        return found

    def wait_knows(self, *others: str) -> Status:
        """Wait until the node has a route to each of ``others``."""
        return self.wait_status(
            lambda status: set(others) <= set(status["RoutingTable"] or {}),
            what=f"a route to {', '.join(others)}",
        )

    def wait_service(self, node: str, service: str = "control") -> Status:
        """Wait until the node has heard of a service on another one."""
        return self.wait_status(
            lambda status: any(
                (advertisement["NodeID"], advertisement["Service"]) == (node, service)
                for advertisement in status["Advertisements"] or []
            ),
            what=f"the advertisement of {service} on {node}",
        )

    # --- Its work ------------------------------------------------------------------------------

    def meshctl(self, *arguments: str | Path, stdin: bytes = b"", check: bool = True) -> bytes:
        """Run the real meshctl at this node's socket; return what it printed to stdout."""
        return self.cluster.run(
            "meshctl", "--socket", self.socket, *arguments, stdin=stdin, check=check
        ).stdout

    def submit(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """Submit work with meshctl, without following it; return the unit ID."""
        output = self.meshctl("work", "submit", *arguments, stdin=stdin).decode()
        found = re.search(r"^Unit ID: (\w{8})$", output, re.MULTILINE)
        assert found, f"no unit ID in {output!r}"
        return found.group(1)

    def results(self, unit: str) -> bytes:
        """Return all that the unit prints, waiting for its end, however it ends."""
        return self.meshctl("work", "results", unit, check=False)

    def unit_status(self, unit: str) -> Status:
        """Return the unit's status as the control service tells it."""
        status: Status = self.ask(f"work status {unit}")
        return status

    def stored_status(self, unit: str) -> Status:
        """Return the unit's status as it is on disk."""
        status: Status = json.loads((self.units / unit / "status").read_text())
        return status

    def wait_unit(self, unit: str, *names: str) -> Status:
        """Wait until the node says that the unit is in one of the named states."""

        def ask() -> Status | None:
            status = self.unit_status(unit)
            return status if status["StateName"] in names else None

        found: Status = wait_until(
            ask, watch=[self.units / unit], what=f"unit {unit} to be {' or '.join(names)}"
        )
        return found

    def wait_output(self, unit: str, data: bytes) -> None:
        """Wait until the unit's stdout on disk begins with ``data``."""
        directory = self.units / unit
        stdout = directory / "stdout"
        wait_until(
            lambda: stdout.exists() and stdout.read_bytes().startswith(data),
            watch=[directory, *([stdout] if stdout.exists() else [])],
            what=f"unit {unit} to print {data!r}",
        )


class Cluster:
    """The nodes of one test, and everything they have started."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mn-", dir="/tmp"))
        self.nodes: dict[str, Node] = {}
        self.mark = uuid.uuid4().hex
        self.wrapping: Sequence[str] = []
        """Words before each command and node, such as those that have another user run it."""
        self.environment = os.environ | {
            MARK: self.mark,
            "PATH": f"{COMMANDS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }

    def node(
        self,
        name: str,
        *,
        listen: int | None = None,
        peers: Sequence[int] = (),
        work: Mapping[str, str | Directive] | None = None,
        more: Sequence[Directive] = (),
        level: str = "debug",
        settings: Mapping[str, Any] | None = None,
        control: Mapping[str, Any] | None = None,
        start: bool = True,
    ) -> Node:
        """Configure a node and start it.

        Args:
            name: the node ID.
            listen: the TCP port of the loopback interface to listen on.
            peers: TCP ports to connect to. Without any link, here or in ``more``, it is local-only.
            work: work type → a script for ``bash -c``, or the directive's parameters.
            more: directives beyond those, as they would stand in the file.
            level: of the log.
            settings: parameters of ``node`` beside its ID and directory.
            control: parameters of ``control-service`` beside its socket.
            start: False leaves the process to be started by ``start()``.
        """
        directives: list[Directive] = [
            {
                "node": {
                    "id": name,
                    "datadir": str(self.directory / "data"),
                    **(settings or {}),
                }
            },
            {"log-level": {"level": level}},
            {
                "control-service": {
                    "filename": str(self.directory / f"{name}.sock"),
                    **(control or {}),
                }
            },
        ]
        if listen is not None:
            directives.append({"tcp-listener": {"port": listen, "bindaddr": "127.0.0.1"}})
        directives += [{"tcp-peer": {"address": f"127.0.0.1:{port}"}} for port in peers]
        others = [kind for directive in more for kind in directive]
        if listen is None and not peers and not any(map(LINK.search, others)):
            # What has no link must say that it means it.
            directives.append({"local-only": None})
        for worktype, script in (work or {}).items():
            parameters = bash(script) if isinstance(script, str) else dict(script)
            directives.append({"work-command": {"worktype": worktype} | parameters})
        node = Node(self, name, directives + list(more))
        self.nodes[name] = node
        return node.start() if start else node

    def run(
        self, *command: str | Path, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end in the cluster's directory, console scripts first in PATH.

        Raises:
            AssertionError: it exits with something else than 0, and ``check`` is true.
        """
        done = subprocess.run(
            [*self.wrapping, *command],
            input=stdin,
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{' '.join(map(str, command))} exited with {done.returncode}:\n"
            + (done.stdout[-2000:] + done.stderr[-2000:]).decode(errors="replace")
        )
        return done

    def logs(self) -> Iterator[tuple[str, str]]:
        """Yield each node's name and its log, for the report of a failed test."""
        for node in self.nodes.values():
            yield node.name, node.log.read_text(errors="replace")

    def close(self) -> None:
        """End every process of this cluster and remove its directory.

        Nodes are killed: how they stop is for tests to look at, and takes its time.
        """
        running = [node.process for node in self.nodes.values() if node.process is not None]
        for process in running:
            process.kill()
        for process in running:
            process.wait()
        deadline = time.monotonic() + PATIENCE
        while kill_marked(self.mark):
            # It has waited for their end, so only what they started meanwhile can be left.
            assert time.monotonic() < deadline, "the cluster starts ever new processes"
        for node in self.nodes.values():
            remove_groups(node.root)
        shutil.rmtree(self.directory, ignore_errors=True)


def remove_groups(root: Path) -> None:
    """End what is in the control groups of a node that has ended, and remove them.

    What hides from its mark is in there still, and a node that was killed has removed nothing.
    """
    for group in groups_of(root):
        group.kill()
        wait_until(group.remove, what=f"the end of the control groups of {root}")


def bash(script: str) -> dict[str, Any]:
    """Return a work-command's parameters that run ``script`` as the guide does.

    The script stands between double quotes in ``params``, which is split as a shell splits words.
    """
    quoted = script.replace("\\", "\\\\").replace('"', '\\"')
    return {"command": "bash", "params": f'-c "{quoted}"'}
