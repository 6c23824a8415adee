"""A node without processes or a network that has something to say of every metric."""

import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
from prometheus_client import ProcessCollector

from meshnode.control.places import Bounds, Places
from meshnode.errors import TlsProblem
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.peers.conditions import (
    ConfiguredListener,
    ConfiguredPeer,
    LinksReport,
    ListenerCondition,
    ListenerState,
    Moment,
    PeerCondition,
    PeerState,
)
from meshnode.security.access import AccessRules
from meshnode.security.audit import AuditLog
from meshnode.web.meshmetrics import MeshReader
from meshnode.web.metricfamilies import FAMILIES, Kind
from meshnode.web.metrics import Metrics
from meshnode.web.nodemetrics import NodeReader
from meshnode.web.workmetrics import WorkReader
from meshnode.work.units.queue import QueueBounds
from meshnode.work.units.signatures import Signatures
from tests.unit.mesh.mesh_helpers import line
from tests.unit.work.work_fakes import FakeMesh, FakeNode

SCRAPED = ("instance", "job")
"""Labels that Prometheus adds to each series."""


def report() -> LinksReport:
    now = Moment.now()
    states = (PeerState.UP, PeerState.WAITING)
    peers = [
        ConfiguredPeer("tcp-peer", f"{state.value}:1", PeerCondition(state, "", now, 1, None, None))
        for state in states
    ]
    listener = ListenerCondition(ListenerState.LISTENING, now, links=3)
    return LinksReport(tuple(peers), (ConfiguredListener("tcp-listener", "*:1", listener),))


def certificates() -> list[Any]:
    end = SimpleNamespace(not_after=datetime(2027, 1, 1, tzinfo=UTC))
    return [SimpleNamespace(directive="tls-server", name="web", certificate=end)]


class Scene:
    """A node, its mesh, and the metrics of both."""

    def __init__(self, node: FakeNode, mesh: Mesh) -> None:
        self.node = node
        self.mesh = mesh
        self.rules = AccessRules()
        self.signatures = Signatures()
        self.audit = AuditLog("foo")
        reader = NodeReader("foo", self.rules, self.signatures, self.audit, certificates)
        self.places = Places(Bounds(2, 2))
        self.tls_refusals = Counter[TlsProblem]()
        reader.watch("control", {"unix": self.places}, self.tls_refusals)
        assert node.units is not None
        self.metrics = Metrics(
            reader,
            MeshReader(mesh),
            WorkReader(node.units, node.batches, node.commands, node.work_types),
            node.units.store,
            report,
        )

    async def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return what is read now: a number by name and labels."""
        found = {}
        for metric in self.metrics.read(await self.metrics.room()).collect():
            for sample in metric.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in found
                found[key] = sample.value
        return found

    async def value(self, name: str, **labels: str) -> float | None:
        """Return the value of one series now; None if there is none."""
        return (await self.samples()).get((f"meshnode_{name}", frozenset(labels.items())))


@asynccontextmanager
async def scene(root: Path) -> AsyncIterator[Scene]:
    """Open a node that is linked to another one, and has a unit of each state."""
    node = FakeNode(FakeMesh(), "foo", root)
    node.queue_bounds = QueueBounds(50, {"wait": 3})
    async with line("foo", "mid", "bar") as (foo, _, _), node.running():
        while foo.figures().links[0].figures.round_trip is None:
            await trio.sleep(0.1)
        await node.submit("foo", "cat", b"12345")
        await node.submit("foo", "wait")
        await node.submit("bar", "cat", ttl="1h")
        yield Scene(node, foo)


def names_and_labels() -> Mapping[str, frozenset[str]]:
    """Return the labels of each name that a query may have."""
    known: dict[str, frozenset[str]] = {"up": frozenset(SCRAPED)}
    for family in FAMILIES:
        labels = frozenset((*family.labels, *SCRAPED))
        if family.kind is Kind.HISTOGRAM:
            known[f"{family.name}_bucket"] = labels | {"le"}
            known[f"{family.name}_sum"] = known[f"{family.name}_count"] = labels
        else:
            known[family.name] = labels
    for metric in ProcessCollector(registry=None).collect():
        for sample in metric.samples:
            known[sample.name] = frozenset((*sample.labels, *SCRAPED))
    return known


def find_promtool() -> str | None:
    """Return Prometheus' own tool: the system's, or the one that ``make test`` has fetched."""
    return shutil.which("promtool") or shutil.which("promtool", path=Path(sys.executable).parent)
