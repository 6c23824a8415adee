"""Real nodes as real processes, from YAML, for the scenarios to drive through the public client."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from bench import processes
from bench.processes import Usage
from meshctl import ControlClient
from meshnode.work.local.cgroups import groups_of
from meshnode.work.local.launcher import tree

PATIENCE = 120.0
"""Seconds after which something that a scenario waits for will not come any more."""

Directive = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Daemon:
    """A program that runs a node from ``-c FILE``: ours, or a receptor to compare with."""

    name: str
    command: tuple[str, ...]


TLS = "mesh"
"""The name of the TLS directives of nodes whose links have TLS."""

MESHNODE = Daemon("meshnode", (sys.executable, "-m", "meshnode"))


class Node:
    """One running node.

    Attributes:
        name: the node ID.
        socket: path of the control socket.
        units: the directory of its units.
        process: the daemon.
    """

    def __init__(self, world: "World", name: str, directives: Sequence[Directive]) -> None:
        self.name = name
        self.socket = str(world.place / f"{name}.sock")
        self.units = world.place / "data" / name
        self.config = world.place / f"{name}.yml"
        self.log = world.place / f"{name}.log"
        self.config.write_text(yaml.safe_dump(list(directives), sort_keys=False))
        self._command = [*world.daemon.command, "-c", str(self.config)]
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start the daemon; return when it takes clients."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_socket(self.socket, self.process)

    def stop(self) -> None:
        """End the daemon; the units that run go on."""
        self.process.terminate()
        self.process.wait(PATIENCE)

    def client(self) -> ControlClient:
        """Return a client of this node; a context manager."""
        return ControlClient(self.socket)

    def wait_for(self, node: str, service: str = "control") -> None:
        """Return when this node has a route to another and has heard of its service."""
        with self.client() as client:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                status = client.status()
                heard = {(a["NodeID"], a["Service"]) for a in status["Advertisements"] or []}
                if node in (status["RoutingTable"] or {}) and (node, service) in heard:
                    return
                time.sleep(0.02)  # receptor tells of no event that one could wait for
        raise TimeoutError(f"{self.name} never heard of {service} on {node}")

    def usage(self) -> list[Usage]:
        """Return what the daemon and its launcher have used."""
        pid = self.process.pid
        own = Usage(self.name, processes.peak(pid), processes.cpu_seconds(pid, with_children=False))
        return [own] + [
            Usage(f"{self.name} launcher", processes.peak(child), processes.cpu_seconds(child))
            for child in processes.children(pid)
        ]

    def forget_peak(self) -> None:
        """Begin new peaks of memory for the daemon and its launcher."""
        for pid in (self.process.pid, *processes.children(self.process.pid)):
            processes.forget_peak(pid)


class World:
    """The nodes of one scenario in a directory of their own; both are gone afterwards."""

    def __init__(self, daemon: Daemon = MESHNODE) -> None:
        self.daemon = daemon
        self.nodes: list[Node] = []
        self.place = Path(tempfile.mkdtemp(prefix="mn-bench-", dir="/tmp"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        started = [
            process
            for node in self.nodes
            for process in map(tree.read_process, processes.descendants(node.process.pid))
            if process is not None
        ]
        for node in self.nodes:
            node.process.terminate()
        for node in self.nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.process.wait(10)
            node.process.kill()
            node.process.wait()
        # Units outlive their node, but not a scenario, however that ended.
        tree.signal_all(started, signal.SIGKILL)
        for node in self.nodes:
            _remove_groups(node.units)
        if error is not None:
            self._show_logs()
        shutil.rmtree(self.place, ignore_errors=True)

    def _show_logs(self) -> None:
        for node in self.nodes:
            tail = node.log.read_text(errors="replace")[-2000:]
            print(f"--- end of the log of {node.name}\n{tail}", file=sys.stderr)

    def node(
        self,
        name: str,
        *,
        listen: int | None = None,
        peers: Sequence[int] = (),
        work: Mapping[str, str] | None = None,
        more: Sequence[Directive] = (),
        with_tls: bool = False,
    ) -> Node:
        """Start a node; ``work`` is work type → command line, ports are TCP on the loopback."""
        tls = {"tls": TLS} if with_tls else {}
        directives: list[Directive] = [
            {"node": {"id": name, "datadir": str(self.place / "data")}},
            {"log-level": {"level": "error"}},
            {"control-service": {"filename": str(self.place / f"{name}.sock")}},
        ]
        if listen is not None:
            directives.append({"tcp-listener": {"port": listen, "bindaddr": "127.0.0.1"} | tls})
        directives += [{"tcp-peer": {"address": f"127.0.0.1:{port}"} | tls} for port in peers]
        if with_tls:
            directives += self._certificates(name)
        if listen is None and not peers:
            directives.append({"local-only": None})
        for worktype, line in (work or {}).items():
            command, _, params = line.partition(" ")
            directives.append(
                {"work-command": {"worktype": worktype, "command": command, "params": params}}
            )
        node = Node(self, name, directives + list(more))
        node.start()
        self.nodes.append(node)
        return node

    def _certificates(self, name: str) -> list[Directive]:
        """Return a node's part of the certificates that :meth:`line` has made."""
        own = {"name": TLS, "cert": str(self.place / f"{name}.crt")}
        own["key"] = str(self.place / f"{name}.key")
        ca = str(self.place / "ca.crt")
        server = own | {"requireclientcert": True, "clientcas": ca}
        return [{"tls-server": server}, {"tls-client": own | {"rootcas": ca}}]

    def line(
        self,
        *names: str,
        work: Mapping[str, str] | None = None,
        more: Sequence[Directive] = (),
        with_tls: bool = False,
    ) -> list[Node]:
        """Start nodes that are linked in a row and wait until the first knows the last.

        Every node has the work types, and the directives of ``more``; ``with_tls`` the links are
        over TLS, and both ends show certificates.
        """
        if with_tls:
            command = [*self.daemon.command, "cert", "mesh", "--out", str(self.place)]
            command += [word for name in names for word in ("--node", f"{name}=127.0.0.1")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        nodes: list[Node] = []
        peers: list[int] = []
        for name in names:
            port = free_port()
            nodes.append(
                self.node(name, listen=port, peers=peers, work=work, more=more, with_tls=with_tls)
            )
            peers = [port]
        for node in nodes[:-1]:
            node.wait_for(names[-1])
        return nodes

    def usage(self) -> list[Usage]:
        """Return what each process has used."""
        return [usage for node in self.nodes for usage in node.usage()]


def _remove_groups(root: Path) -> None:
    """Remove the control groups of a node that has ended, and what is still in them."""
    deadline = time.monotonic() + PATIENCE
    for group in groups_of(root):
        group.kill()
        while not group.remove():
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes of {root} do not end")
            time.sleep(0.002)  # nothing tells that a group of v1 is empty


def free_port() -> int:
    """Return a TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_socket(path: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the node accepts clients; nothing tells of a socket's birth but trying."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ChildProcessError(f"the node of {path} ended with {process.returncode}")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError:
                time.sleep(0.002)
                continue
            return
    raise TimeoutError(f"no node at {path}")


@contextlib.contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Append to the yielded list the seconds that the body took."""
    taken: list[float] = []
    begun = time.perf_counter()
    yield taken
    taken.append(time.perf_counter() - begun)
