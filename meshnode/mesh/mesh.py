"""The mesh's face: open a node, listen, dial, send. Usable by itself (docs/mesh-api.md)."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from meshnode.mesh.datagrams import DatagramSocket
from meshnode.mesh.dataplane import LOCALHOST, DropCounts, FirewallCounts
from meshnode.mesh.links.base import AddressProbe, Link, LinkDialer, LinkFigures, LinkListener
from meshnode.mesh.peers.conditions import Rejections
from meshnode.mesh.peers.ending import RepeatFilter
from meshnode.mesh.peers.endpoints import Dialing, Listening, SessionGroup
from meshnode.mesh.peers.linkstate import LinkState
from meshnode.mesh.peers.own_services import LocalService
from meshnode.mesh.peers.places import LinkPlaces
from meshnode.mesh.peers.probes import MeshAddressProbe
from meshnode.mesh.peers.sendqueue import LinkSendBudget
from meshnode.mesh.peers.session import FLUSH_TIMEOUT, PeerSession
from meshnode.mesh.ping import Pinger, PingReply, TraceHop
from meshnode.mesh.router import Router
from meshnode.mesh.streams.layer import MANY_STREAMS, StreamLayer
from meshnode.mesh.streams.listener import StreamListener
from meshnode.mesh.streams.stream import MeshStream
from meshnode.policies import LinkPolicy, Rule
from meshnode.protocol.messages import MAX_HOPS, decode_service
from meshnode.protocol.namehash import NameTable
from meshnode.protocol.peering import IDLE_TIMEOUT
from meshnode.protocol.routing import ConnType, ServiceAdvertisement, WorkType
from meshnode.resources import DescriptorReserve, MemoryTrimmer

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.security.tls import TlsSource


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """A link to a peer, its cost, and its figures."""

    peer: str
    cost: float
    figures: LinkFigures


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """What a node knows of its mesh at one moment.

    ``routes`` maps each reachable node to the next hop; ``known_costs`` maps each node to its
    peers and the costs of those links; ``firewall`` is None without rules.
    """

    node_id: str
    connections: tuple[LinkStatus, ...]
    routes: dict[str, str]
    known_costs: dict[str, dict[str, float]]
    advertisements: tuple[ServiceAdvertisement, ...]
    firewall: FirewallCounts | None
    drops: DropCounts


@dataclass(frozen=True, slots=True)
class MeshFigures:
    """How a node's mesh fares at one moment, in numbers; what is counted is counted from its start.

    ``routes`` are nodes that can be reached, ``known_nodes`` those that were heard of; ``waiting``
    are bytes that wait to be sent on all links; ``connections`` are those of streams.
    """

    links: tuple[LinkStatus, ...]
    links_made: int
    links_lost: int
    routes: int
    known_nodes: int
    route_computations: int
    route_changes: int
    waiting: int
    connections: int
    forwarded: int
    expired: int
    unroutable: int
    firewall: FirewallCounts
    drops: DropCounts


class Mesh:
    """One node of a mesh. Make it with :func:`open_mesh`."""

    def __init__(
        self, node_id: str, nursery: trio.Nursery, idle_timeout: float, reserve: DescriptorReserve
    ) -> None:
        self.node_id = node_id
        self._nursery = nursery
        self._idle_timeout = idle_timeout
        self._names = NameTable()
        self._router = Router(node_id, self._names)
        self._link_state = LinkState(node_id, self._router, self._names)
        self._streams = StreamLayer(self._router, self._names, nursery.start_soon)
        self._link_state.when_restarted(self._streams.node_restarted)
        self._pinger = Pinger(self._router, self._names)
        self._send_budget = LinkSendBudget(MemoryTrimmer(nursery.start_soon).freed)
        self.sessions = SessionGroup()
        self.places = LinkPlaces()
        self.rejections = Rejections()
        self.reserve = reserve
        self.address_probe: AddressProbe = MeshAddressProbe(
            self._router, self._link_state.topology.own
        )
        self._closing = False

    # --- the firewall ------------------------------------------------------------------------

    def set_firewall(self, rules: Sequence[Rule]) -> None:
        """Judge every message that passes this node by these rules, the first match first."""
        self._router.set_firewall(rules)

    # --- links -------------------------------------------------------------------------------

    def add_listener(self, listener: LinkListener, policy: LinkPolicy | None = None) -> Listening:
        """Accept links from now on, until what is returned is closed or the mesh is."""
        listening = Listening(self, listener, policy or LinkPolicy())
        self._nursery.start_soon(listening.run)
        return listening

    def add_dialer(
        self, dialer: LinkDialer, policy: LinkPolicy | None = None, *, redial: bool = True
    ) -> Dialing:
        """Keep a link to what ``dialer`` dials; without ``redial`` only one attempt is made."""
        policy = replace(policy or LinkPolicy(), is_dialed=True)
        dialing = Dialing(self, dialer, policy, redial=redial)
        self._nursery.start_soon(dialing.run)
        return dialing

    async def run_link(self, link: Link, policy: LinkPolicy | None = None) -> bool:
        """Run one link to its end; True means that it was established at some time."""
        session = self.make_session(link, policy or LinkPolicy(), RepeatFilter())
        await self.sessions.run(session)
        return session.was_established

    def make_session(self, link: Link, policy: LinkPolicy, repeats: RepeatFilter) -> PeerSession:
        """Return a session over a link, for a :class:`SessionGroup` to run."""
        return PeerSession(
            link,
            policy,
            self._link_state,
            self.node_id,
            self._idle_timeout,
            repeats,
            self._send_budget,
        )

    def start_soon(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run something in the background that raises nothing."""
        self._nursery.start_soon(run)

    @property
    def is_closing(self) -> bool:
        """Whether this node is closing: it makes no new links."""
        return self._closing

    # --- services ----------------------------------------------------------------------------

    def open_datagrams(
        self, service: str = "", *, tags: Mapping[str, str] | None = None
    ) -> DatagramSocket:
        """Open a service that sends and receives datagrams; without a name it gets a random one.

        With ``tags`` it is advertised until it is closed.

        Raises:
            ServiceInUse: the name is taken on this node.
            ProtocolError: the name does not fit 8 bytes.
        """
        socket = DatagramSocket(
            self._router, self._names, service or decode_service(self._router.free_service())
        )
        if tags is not None:
            self._link_state.announcer.add(
                LocalService(socket.service, ConnType.DATAGRAM, tags, None)
            )
            socket.when_closed(lambda: self._link_state.announcer.remove(socket.service))
        return socket

    async def listen(
        self,
        service: str,
        *,
        tags: Mapping[str, str] | None = None,
        work_types: Sequence[WorkType] | None = None,
        tls: "TlsSource | None" = None,
    ) -> StreamListener:
        """Accept streams of a service, and advertise it with these tags; ``tls`` has its settings.

        Raises:
            ServiceInUse: the name is taken on this node.
            ProtocolError: the name does not fit 8 bytes.
        """
        listener = self._streams.listen(service, tls)
        local = LocalService(
            service,
            ConnType.STREAM if tls is None else ConnType.STREAM_TLS,
            dict(tags or {}) | dict([MANY_STREAMS]),
            tuple(work_types) if work_types is not None else None,
        )
        self._link_state.announcer.add(local)
        listener.when_closed(lambda: self._link_state.announcer.remove(service))
        await trio.lowlevel.checkpoint()
        return listener

    def set_work_types(self, service: str, work_types: Sequence[WorkType]) -> None:
        """Advertise a service that :meth:`listen` has opened with these types of work."""
        self._link_state.announcer.set_work_types(service, tuple(work_types) or None)

    def set_tags(self, service: str, tags: Mapping[str, str]) -> None:
        """Advertise a service that :meth:`listen` has opened with these tags as well.

        A tag with an empty value is left out.
        """
        self._link_state.announcer.set_tags(service, tags)

    async def dial(self, node: str, service: str, tls: "TlsSource | None" = None) -> MeshStream:
        """Open a stream to a service of a node (this one is ``localhost`` or its own ID).

        ``tls`` has the settings for a service that has some, too.

        Raises:
            NoRoute: no path to the node is known.
            Unreachable: the node does not have that service, or is behind a firewall.
            MeshTimeout: no handshake in time.
            HandshakeRefused: one end does not take the other's certificate.
            StreamError: the handshake failed.
            ProtocolError: the service name does not fit 8 bytes.
        """
        target = self.node_id if node.lower() == LOCALHOST else node
        advert = self._link_state.adverts.find(target, service)
        tag, value = MANY_STREAMS
        share = advert is not None and advert.tags is not None and advert.tags.get(tag) == value
        settings = None if tls is None else tls()
        return await self._streams.dial(node, service, share=share, tls=settings)

    # --- questions ---------------------------------------------------------------------------

    def status(self) -> MeshStatus:
        """Return what this node knows of its mesh."""
        return MeshStatus(
            node_id=self.node_id,
            connections=self._links(),
            routes=dict(sorted(self._link_state.routes.items())),
            known_costs=self._link_state.topology.known_costs(),
            advertisements=tuple(self._link_state.visible_adverts()),
            firewall=self._router.counts.firewall() if self._router.has_firewall else None,
            drops=self._router.counts.drops(),
        )

    def _links(self) -> tuple[LinkStatus, ...]:
        return tuple(
            LinkStatus(peer, session.cost, session.figures())
            for peer, session in sorted(self._link_state.sessions.items())
        )

    def figures(self) -> MeshFigures:
        """Return how the mesh fares; it takes as long as there are links, however many nodes."""
        state, counts = self._link_state, self._router.counts
        return MeshFigures(
            links=self._links(),
            links_made=state.links_made,
            links_lost=state.links_lost,
            routes=len(state.routes),
            known_nodes=len(state.topology.nodes),
            route_computations=state.routing.computations,
            route_changes=state.routing.changes,
            waiting=self._send_budget.waiting,
            connections=len(self._streams.connections),
            forwarded=counts.forwarded,
            expired=counts.expired,
            unroutable=counts.unroutable,
            firewall=counts.firewall(),
            drops=counts.drops(),
        )

    def find_service(self, node: str, service: str) -> ServiceAdvertisement | None:
        """Return how a node that can be reached (or this one) advertises a service, if it does."""
        return self._link_state.find_service(node, service)

    def service_stamps(self, service: str) -> dict[str, int]:
        """Return which nodes that can be reached (this one too) advertise a service, and when each
        did so last, in nanoseconds."""
        stamps = self._link_state.adverts.stamps(service)
        return {node: stamp for node, stamp in stamps if self.is_reachable(node)}

    @property
    def link_costs(self) -> Mapping[str, float]:
        """The nodes that this one is linked to, and what the links cost."""
        return self._link_state.topology.own.costs

    def concerns(self) -> list[str]:
        """Return lines for a person: what of this mesh should be looked after."""
        return self._link_state.own_updates.concerns()

    async def ping(self, node: str, hops: int = MAX_HOPS) -> PingReply:
        """Send one ping and wait for its answer; see :meth:`Pinger.ping`."""
        return await self._pinger.ping(node, hops)

    def traceroute(self, node: str) -> AsyncGenerator[TraceHop, None]:
        """Yield every node on the way to ``node``, this one first."""
        return self._pinger.traceroute(node)

    async def wait_reachable(self, node: str) -> None:
        """Return when a route to the node is known."""
        while not self.is_reachable(node):
            await self._link_state.routing.wait_changed()
        await trio.lowlevel.checkpoint()

    async def wait_routes_changed(self) -> None:
        """Return when other nodes can be reached than before, or by other ways."""
        await self._link_state.routing.wait_changed()

    def is_reachable(self, node: str) -> bool:
        """Whether a route to the node is known."""
        is_own = node == self.node_id or node.lower() == LOCALHOST
        return is_own or node in self._link_state.routes

    async def wait_changed(self) -> None:
        """Return when routes or the services of other nodes have changed; see :meth:`status`."""
        await self._link_state.wait_changed()

    def epoch_of(self, node: str) -> int | None:
        """Return the epoch of a node's present life, as its updates say (protocol section 4)."""
        topology = self._link_state.topology
        return topology.own.epoch if node == self.node_id else topology.epoch_of(node)

    @property
    def changes(self) -> int:
        """A number that is another one whenever something that :meth:`status` says may be, or how
        a configured link fares."""
        return self._link_state.changes.count

    async def wait_changes(self, seen: int) -> None:
        """Return when :attr:`changes` is another number than ``seen``."""
        await self._link_state.changes.wait(seen)

    def note_condition(self) -> None:
        """Note that a configured link may fare otherwise than before."""
        self._link_state.changes.note()

    # --- life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Flood updates and keep routes, for ever.

        Raises:
            DuplicateNode: another node had our ID first.
        """
        await self._link_state.run()

    async def aclose(self) -> None:
        """Close streams and links, and tell their other ends, for at most FLUSH_TIMEOUT."""
        self._closing = True
        for connection in list(self._streams.connections):
            connection.close()
        with trio.move_on_after(FLUSH_TIMEOUT):
            await self.sessions.close("this node is stopping")


@asynccontextmanager
async def open_mesh(
    node_id: str,
    *,
    idle_timeout: float = IDLE_TIMEOUT,
    reserve: DescriptorReserve | None = None,
) -> AsyncIterator[Mesh]:
    """Open a node of a mesh; leaving the context closes its links and ends all its tasks.

    ``idle_timeout`` is the seconds after which a silent link is dead (protocol section 5);
    ``reserve`` has descriptors for dialing peers when there are no others.

    Raises:
        DuplicateNode: (inside an exception group) another node had our ID first.
    """
    async with trio.open_nursery() as nursery:
        mesh = Mesh(node_id, nursery, idle_timeout, reserve or DescriptorReserve(0))
        nursery.start_soon(mesh.run)
        try:
            yield mesh
        finally:
            with trio.CancelScope(shield=True):
                await mesh.aclose()
            nursery.cancel_scope.cancel()
