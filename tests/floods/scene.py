"""A small honest mesh, one node of which is flooded, and what is measured meanwhile.

``left`` and ``right`` are linked to the victim, ``behind`` to right. Left pings behind, through the
victim; it has the victim run ``echo``; and ``joiner`` comes new to the victim and is pinged from
behind.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness import PATIENCE, Cluster, free_port
from hostile import der
from hostile.forge import PRIVATE

from bench.processes import forget_peak, peak, resident
from floods.attack import Sent, Target
from floods.catalogue import Flood
from floods.probes import Joining, Tally, echo, in_threads, operator, ping, repeat

TESTS = Path(__file__).parents[1]

ATTACKER_PATIENCE = 60.0
"""Seconds that an attacker may take beyond its time, as when its victim stands still."""

RECOVERY = 60.0
"""Seconds within which the memory must have been given back."""

GIVEN_BACK = 32 << 20
"""Bytes above idle that may stay: what a node remembers within its budgets until it forgets."""

RESULTS = 32 << 20
"""Bytes of results that the victim takes of one unit of another node (``remote-maxoutput``)."""

LOOK = 0.25
"""Seconds between two looks at the memory that is being given back."""

_LOST = re.compile(r"closed \((left|right|behind|victim)\)")
"""How a node logs that a link which was up is gone."""


@dataclass(slots=True)
class Measured:
    """What one flood came to; memory in bytes, times in seconds."""

    flood: Flood
    seconds: float
    idle: int = 0
    peak: int = 0
    after: int = 0
    behind_idle: int = 0
    behind_peak: int = 0
    sent: Sent = field(default_factory=Sent)
    pings: Tally = field(default_factory=Tally)
    echoes: Tally = field(default_factory=Tally)
    operator: Tally = field(default_factory=Tally)
    joined: float | None = None
    """From the newcomer's start until it was reached; None if it never was."""
    newcomer_failure: str = ""
    lost: int = 0
    logged: float = 0.0
    """Bytes of log a second."""
    stored: int = 0
    """Bytes below the victim's directory of units, at the end of the flood."""
    alive: bool = True
    broken: str = ""
    """Why nothing could be measured."""


class Scene:
    """The nodes of one flood; a ``small`` one has no others than victim and left."""

    def __init__(self, cluster: Cluster, joins: str = "tcp", *, small: bool = False) -> None:
        self.cluster = cluster
        ports = {
            kind: free_port() for kind in ("tcp", "ws", "udp", "tls", "control", "private", "right")
        }
        work = {"echo": {"command": "cat"}}
        address = {"bindaddr": "127.0.0.1"}
        quiet = {"level": "info", "start": False}
        serves = {"name": "s", "requireclientcert": True, **_files(cluster, "victim", "clientcas")}
        self.victim = cluster.node(
            "victim",
            listen=ports["tcp"],
            work=work,
            settings={"remote-maxoutput": str(RESULTS)},
            more=[
                {"ws-listener": {"port": ports["ws"], **address}},
                {"udp-listener": {"port": ports["udp"], **address}},
                {"tls-server": serves},
                {"tcp-listener": {"port": ports["tls"], "tls": "s", **address}},
                {
                    "control-service": {
                        "service": PRIVATE,
                        "tls": "s",
                        "tcplisten": f"127.0.0.1:{ports['private']}",
                        "tcptls": "s",
                    }
                },
                {
                    "control-service": {
                        "service": "control2",
                        "tcplisten": f"127.0.0.1:{ports['control']}",
                    }
                },
            ],
            **quiet,
        )
        self.left = cluster.node("left", peers=[ports["tcp"]], **quiet)
        self.right = cluster.node("right", listen=ports["right"], peers=[ports["tcp"]], **quiet)
        self.behind = cluster.node("behind", peers=[ports["right"]], work=work, **quiet)
        self.joiner = cluster.node("joiner", more=_joins(cluster, joins, ports[joins]), **quiet)
        self.honest = (self.left,) if small else (self.left, self.right, self.behind)
        self.target = Target(
            tcp=ports["tcp"],
            ws=ports["ws"],
            udp=ports["udp"],
            control_port=ports["control"],
            control_socket=str(self.victim.socket),
            tls=ports["tls"],
            tls_control=ports["private"],
        )

    def start(self) -> None:
        """Start all nodes but the joiner, and do once what will be done during the flood."""
        self.victim.start()
        for node in self.honest:
            node.start()
        far = "behind" if self.behind in self.honest else "victim"
        self.left.wait_knows(far)
        self.left.wait_service("victim")
        if far == "behind":
            self.behind.wait_knows("left")
        ping(self.left, far, PATIENCE)
        echo(self.left, "victim", PATIENCE)

    @contextmanager
    def attacked(self, flood: Flood, seconds: float, few: bool) -> Iterator["Attacker"]:
        """Run the attacker's process while the context lasts; it ends by itself."""
        order = {
            "name": flood.name,
            "target": asdict(self.target),
            "seconds": seconds,
            "most": flood.few if few else None,
        }
        with subprocess.Popen(
            [sys.executable, "-m", "floods.attacker", json.dumps(order)],
            env=self.cluster.environment | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as process:
            try:
                yield Attacker(process, seconds)
            finally:
                process.kill()

    def stored(self) -> int:
        """Return the bytes below the victim's directory of units."""
        found = self.victim.units.rglob("*")
        return sum(path.stat().st_size for path in found if path.is_file())

    def links_lost(self) -> int:
        """Return how often honest nodes have lost links to each other, as they have logged."""
        return sum(
            len(_LOST.findall(node.log.read_text("utf-8", "replace"))) for node in self.honest
        )


class Attacker:
    """The process that floods."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._process = process
        self._seconds = seconds

    def wait(self) -> Sent:
        """Wait for its end and return what it has sent."""
        output, _ = self._process.communicate(timeout=self._seconds + ATTACKER_PATIENCE)
        assert self._process.returncode == 0, "the attacker failed"
        return Sent(**json.loads(output))


def _joins(cluster: Cluster, kind: str, port: int) -> list[dict[str, object]]:
    """Return the directives of a node that joins by a link of that kind."""
    if kind == "ws":
        return [{"ws-peer": {"address": f"ws://127.0.0.1:{port}/"}}]
    if kind == "tls":
        dials = {"name": "c", **_files(cluster, "joiner", "rootcas")}
        peer = {"address": f"127.0.0.1:{port}", "tls": "c"}
        return [{"tls-client": dials}, {"tcp-peer": peer}]
    return [{f"{kind}-peer": {"address": f"127.0.0.1:{port}"}}]


def _files(cluster: Cluster, node: str, cas: str) -> dict[str, str]:
    files = der.write_files(cluster.directory, node)
    return {"cert": str(files.cert), "key": str(files.key), cas: str(files.ca)}


def measure(cluster: Cluster, flood: Flood, seconds: float) -> Measured:
    """Flood a fresh mesh for so long, and return what came of it."""
    scene = Scene(cluster, flood.joins)
    scene.start()
    found = Measured(flood, seconds)
    victim, behind = scene.victim.pid, scene.behind.pid
    found.idle, found.behind_idle = resident(victim), resident(behind)
    for pid in (victim, behind):
        forget_peak(pid)
    logged = scene.victim.log.stat().st_size
    joining = Joining(scene.joiner, scene.behind)
    way = scene.victim.socket if flood.operator == "unix" else scene.target.control_port
    with scene.attacked(flood, seconds, few=False) as attacker:
        with in_threads(
            lambda stop: repeat(lambda: ping(scene.left, "behind"), found.pings, stop),
            lambda stop: repeat(lambda: echo(scene.left, "victim"), found.echoes, stop),
            lambda stop: repeat(lambda: operator(way), found.operator, stop),
            lambda stop: stop.wait(seconds / 4) or joining.run(stop),
        ):
            found.sent = attacker.wait()
        found.logged = (scene.victim.log.stat().st_size - logged) / seconds
    found.joined, found.newcomer_failure = joining.seconds, joining.failure
    found.lost = scene.links_lost()
    assert scene.victim.process is not None
    found.alive = scene.victim.process.poll() is None
    if found.alive:
        found.stored = scene.stored()
        found.peak, found.behind_peak = peak(victim), peak(behind)
        found.after = _settle(victim, found.idle)
    return found


def _settle(pid: int, idle: int) -> int:
    """Return the memory of a process once it has given back what it will, within RECOVERY."""
    end = time.monotonic() + RECOVERY
    while (now := resident(pid)) > idle + GIVEN_BACK and time.monotonic() < end:
        time.sleep(LOOK)
    return now


def run_floods(floods: Sequence[Flood], seconds: float) -> Iterator[Measured]:
    """Measure these floods one after the other, each on a mesh of its own."""
    for flood in floods:
        cluster = Cluster()
        try:
            yield measure(cluster, flood, seconds)
        except (AssertionError, OSError, subprocess.SubprocessError) as exc:
            # The other floods are still worth their time.
            yield Measured(flood, seconds, broken=f"{type(exc).__name__}: {exc}")
        finally:
            cluster.close()
