"""Everything that a storm plays on: nodes, links, what clients know, the ledger, the chronicle."""

import collections
import json
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio
from chronicle import Chronicle
from farhosts import FarHosts
from harness import Cluster, free_port
from ledger import Ledger
from machines import Hit, StormNode, make_machine
from plan import FAULTS, FaultKind, Flavour, Job, Plan
from relay import Relay

from meshnode import files
from meshnode.work.local.launcher.statusfile import MAX_STATUS_BYTES
from meshnode.work.local.processes import ProcessId

Status = dict[str, Any]

RUNNING = 1


APART: dict[str, object] = (
    {"isolation": {"pid": True, "network": "none", "hostname": "job"}} if os.getuid() == 0 else {}
)
"""How units are isolated. The ledger is in /tmp, so that stays the machine's. Ordinary users may
not isolate everywhere."""


BOUND: dict[str, object] = {
    "limits": {"cpu": 2, "memory": "256MiB", "pids": 200, "files": 1024},
    "limits-optional": True,
}
"""How units are limited: no job of a storm needs as much. Not every machine can."""


@dataclass(slots=True)
class Fate:
    """What a job's client knows of it, and what was done to its unit."""

    job: Job
    unit: str = ""
    """The ID that the node gave."""
    store: int = 0
    """Which datadir of the node holds it; 0 is its own."""
    begun: float = 0.0
    """When the node was first asked, in seconds since the epoch."""
    sent: bool = False
    """Whether the node may have seen the end of the payload."""
    answer: str = ""
    """The node's reply to all of it."""
    refusals: list[str] = field(default_factory=list)
    """Errors instead of an ID."""
    unanswered: int = 0
    """How often the node was asked and said no ID: it may have made a unit all the same."""
    hits: list[Hit] = field(default_factory=list)
    """What was done to this very unit: its process killed, itself cancelled."""

    @property
    def accepted(self) -> bool:
        """Whether the node has said that the work is submitted or started."""
        return self.answer.startswith("{")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A unit by its record on a node: where it runs, or where it was submitted."""

    unit: str
    token: str
    state: int
    created: str
    pid: int | None
    supervisor: ProcessId | None


class Scene:
    """Made for one plan. ``links`` are usable once :meth:`start` has been.

    The faults among ``fills`` that fill disks have disks that they can fill.
    """

    def __init__(self, cluster: Cluster, plan: Plan, *, fills: Collection[FaultKind]) -> None:
        self.plan = plan
        self.cluster = cluster
        self.flavour: Flavour = plan.flavour
        self.fates = {job.token: Fate(job) for job in plan.jobs}
        self.ledger = Ledger(cluster.directory / "ledger")
        self.chronicle = Chronicle()
        self.nodes: dict[str, StormNode] = {}
        self.relays: dict[str, Relay] = {}
        self.far = FarHosts(
            cluster.directory / "hosts",
            plan.flavour.hosts,
            self.chronicle,
            mounted="fill host" in fills,
        )
        self.killed_supervisors: dict[ProcessId, Hit] = {}
        self._tokens: dict[tuple[str, str], str] = {}
        self._mounted = "fill disk" in fills

    async def start(self, nursery: trio.Nursery) -> None:
        """Make and start links and nodes, and follow the ledger."""
        await nursery.start(self.ledger.run)
        script = self.cluster.directory / "job.sh"
        shutil.copy(Path(__file__).with_name("job.sh"), script)
        script.chmod(0o700)
        if self.flavour.hosts:
            await trio.to_thread.run_sync(self.far.start)
        ports = {name: free_port() for name in self.flavour.nodes}
        for link in self.flavour.links:
            listener = link.split("-")[0]
            relay = self.relays[link] = Relay(ports[listener])
            await nursery.start(relay.run)
        for name in self.flavour.nodes:
            self._make_node(name, ports[name], script)
        for node in self.nodes.values():
            await node.start()

    def _make_node(self, name: str, port: int, script: Path) -> None:
        listens = any(link.split("-")[0] == name for link in self.flavour.links)
        dials = [
            self.relays[link].port for link in self.flavour.links if link.split("-")[1] == name
        ]
        job = {"command": str(script), "allowruntimeparams": True}
        options: dict[str, object] = {
            "work": {"job": job, "bound": job | BOUND, "apart": job | APART}
        }
        if self.flavour.hosts:
            # The ledger takes the words of a directory for those of a unit of this node.
            options["more"] = [self.far.directive(script, Path("/far") / name / "somewhere")]
        front: list[str] = []
        if name == self.flavour.receptor:
            front = [f"listen:{port}"] * listens + [f"dial:{to}" for to in dials]
        else:
            options |= {"peers": dials} | ({"listen": port} if listens else {})
        machine = make_machine(self.cluster, name, mounted=self._mounted, front=front, **options)
        self.nodes[name] = StormNode(machine)

    def close(self) -> None:
        """End what the cluster does not know of."""
        for node in self.nodes.values():
            node.node.close()
            node.node.disk.close()
        self.far.close()

    def tally(self) -> str:
        """Return how often which kind of fault has hit something, as one line."""
        places = self.chronicle.of([*self.nodes, *self.relays, *self.flavour.hosts])
        counts = collections.Counter(event.text for event in places if event.text in FAULTS)
        counts += collections.Counter(hit.kind for fate in self.fates.values() for hit in fate.hits)
        counts["refused"] = sum(len(fate.refusals) for fate in self.fates.values())
        return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))

    # --- what there is ------------------------------------------------------------------------

    def unit_named(self, fate: Fate, unit: str) -> None:
        """Take note that a node has given a job's unit its ID."""
        fate.unit, fate.store = unit, self.nodes[fate.job.node].store
        self._tokens[fate.job.node, unit] = fate.job.token

    def running(self, name: str) -> list[Recorded]:
        """Return the units that run by the records of a node, the oldest first."""
        names = (directory.name for directory in self.nodes[name].node.units.glob("*"))
        found = [unit for unit in map(partial(self.find, name), names) if unit is not None]
        running = [unit for unit in found if unit.state == RUNNING]
        return sorted(running, key=lambda unit: (unit.created, unit.unit))

    def find(self, name: str, unit: str) -> Recorded | None:
        """Return what the record of a unit on a node says; None if it cannot be read."""
        status = self.record(name, unit)
        if status is None:
            return None
        token = self._token(name, unit, status)
        if token not in self.fates:
            return None
        supervisor = status.get("Supervisor")
        return Recorded(
            unit=unit,
            token=token,
            state=status["State"],
            created=status["Created"] or "",
            pid=status.get("Pid"),
            supervisor=ProcessId(supervisor["Pid"], supervisor["Started"]) if supervisor else None,
        )

    def _token(self, name: str, unit: str, status: Status) -> str:
        words = status.get("Params") or []
        return words[2] if len(words) > 2 else self._tokens.get((name, unit), "")

    def token(self, name: str, unit: str) -> str:
        """Return the job of a unit of a node; empty if nobody can tell."""
        if found := self._tokens.get((name, unit)):
            return found
        if status := self.record(name, unit):
            return self._token(name, unit, status)
        # Its files may be gone; if its command ran, that is written down.
        entries = self.ledger.entries
        return next((e.token for e in entries if (e.node, e.unit) == (name, unit)), "")

    def record(self, name: str, unit: str) -> Status | None:
        """Return what stands on a node's disk of a unit."""
        return read_status(self.nodes[name].node.units / unit)

    def records(self, token: str) -> Iterator[tuple[str, str, Status]]:
        """Yield node, unit and status of each record of a job's that is on a disk."""
        for name, node in self.nodes.items():
            for directory in node.node.disk.seen.glob(f"*/{name}/*"):
                status = read_status(directory)
                if status is not None and self._token(name, directory.name, status) == token:
                    yield f"{name}/{directory.parent.parent.name}", directory.name, status


def read_status(directory: Path) -> Status | None:
    """Return what stands in a unit's status; None if that is none."""
    try:
        # Not its lock: a storm may look when it likes, and the file is always whole.
        status = json.loads(files.read_file(directory / "status", MAX_STATUS_BYTES))
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) and isinstance(status.get("State"), int) else None
