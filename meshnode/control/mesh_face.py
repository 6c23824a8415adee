"""What the control service asks of the mesh, and nothing more.

``meshnode.mesh.mesh.Mesh`` has this shape; so has the small fake in the tests.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

import trio

from meshnode.mesh.dataplane import DropCounts, FirewallCounts
from meshnode.mesh.peers.linklog import LinkFigures
from meshnode.protocol.routing import ServiceAdvertisement, WorkType


class ConnectionLike(Protocol):
    """A direct link of this node."""

    @property
    def peer(self) -> str: ...  # noqa: D102 - the class says it
    @property
    def cost(self) -> float: ...  # noqa: D102
    @property
    def figures(self) -> LinkFigures | None:
        """How the link fares, where that is known."""
        ...


class StatusLike(Protocol):
    """What this node knows of the mesh."""

    @property
    def node_id(self) -> str: ...  # noqa: D102
    @property
    def connections(self) -> Sequence[ConnectionLike]: ...  # noqa: D102
    @property
    def routes(self) -> Mapping[str, str]:
        """Destination to next hop."""
        ...

    @property
    def known_costs(self) -> Mapping[str, Mapping[str, float]]:
        """Node to peer to cost, of the whole mesh."""
        ...

    @property
    def advertisements(self) -> Sequence[ServiceAdvertisement]: ...  # noqa: D102
    @property
    def firewall(self) -> FirewallCounts | None:
        """What firewall rules have stopped; None without rules."""
        ...

    @property
    def drops(self) -> DropCounts:
        """Messages to this node that came to nothing."""
        ...


class PingReplyLike(Protocol):
    """Who answered a ping, after how many seconds."""

    @property
    def from_node(self) -> str: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102


class TraceHopLike(PingReplyLike, Protocol):
    """One node on a way."""

    @property
    def error(self) -> str | None:
        """Why the way ends here short of its target, if it does."""
        ...


class ControlMesh(Protocol):
    """The mesh as the commands of the control service use it.

    ``localhost``, in any case, is a name of this node to all of it.
    """

    @property
    def node_id(self) -> str:
        """Our own ID."""
        ...

    def status(self) -> StatusLike:
        """Return what this node knows now."""
        ...

    async def ping(self, node: str) -> PingReplyLike:
        """Ask a node for a sign of life, for so long as the mesh waits; raises MeshError."""
        ...

    def traceroute(self, node: str) -> AsyncGenerator[TraceHopLike, None]:
        """Name the nodes on the way, ours first; the last one may carry an error."""
        ...

    async def dial(self, node: str, service: str) -> trio.abc.HalfCloseableStream:
        """Open a stream to a service; raises MeshError."""
        ...


class ListeningMesh(Protocol):
    """The mesh as the listeners of the control service use it."""

    async def listen(
        self,
        service: str,
        *,
        tags: Mapping[str, str] | None,
        work_types: Sequence[WorkType] | None,
    ) -> trio.abc.Listener[trio.abc.HalfCloseableStream]:
        """Open and advertise a stream service; raises ServiceInUse.

        A node without work types advertises none at all (None), as receptor does.
        """
        ...
