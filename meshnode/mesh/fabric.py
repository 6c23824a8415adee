"""The mesh as this node sees it: its sessions, who is linked to whom, which services there are.

Turns what sessions report into routes for the router and floods what others must know (reference
sections 4 and 6). Everything but :meth:`Fabric.run` returns at once.
"""

import random
import secrets
import string
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import trio

from meshnode.errors import DuplicateNode
from meshnode.logs import subject_logger
from meshnode.mesh.router import Router
from meshnode.mesh.sessions import Session
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.messages import RoutingUpdate, ServiceAdvertisement, WorkType
from meshnode.protocol.namehash import NameTable
from meshnode.protocol.topology import Topology, Verdict

UPDATE_INTERVAL = 10.0
"""Seconds between own updates when nothing changes (reference section 4)."""

CHANGE_INTERVAL = 0.1
"""Seconds between own updates, and between route computations, while things change: the first
follows its cause at once, a burst is joined (reference section 4)."""

ADVERTISE_INTERVAL = 60.0
"""Seconds between advertisements of a service that does not change (reference section 6)."""

ID_ALPHABET = string.digits + string.ascii_letters
ID_LENGTH = 8
"""Update IDs and the service names of dialers are 8 of these (reference sections 4 and 7)."""


def random_id() -> str:
    """Return a new random identifier."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))


def new_epoch() -> int:
    """Return the epoch of a node that starts now (reference section 4)."""
    return (int(time.time()) << 24) + random.randrange(1 << 24)


def timestamp(nanoseconds: int) -> str:
    """Return Unix time as RFC 3339 text in UTC with nanoseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


@dataclass(frozen=True, slots=True)
class LocalService:
    """A service that this node advertises."""

    name: str
    conn_type: int
    tags: Mapping[str, str] | None
    work_types: tuple[WorkType, ...] | None


class Fabric:
    """Sessions, topology, advertisements. Implements ``SessionOwner`` for the sessions."""

    def __init__(self, own_id: str, router: Router, names: NameTable) -> None:
        self.own_id = own_id
        self.topology = Topology(own_id, new_epoch())
        self.adverts = AdvertisementTable()
        self.routes: dict[str, str] = {}
        self.sessions: dict[str, Session] = {}
        self._router = router
        self._names = names
        self._services: dict[str, LocalService] = {}
        self._routed_version = -1
        self._update_due = trio.Event()
        self._routes_due = trio.Event()
        self._routes_changed = trio.Event()
        self._duplicate = trio.Event()
        self._last_advert = 0
        self._log = subject_logger("mesh")
        self._on_restart: Callable[[str], None] = lambda node: None

    def when_restarted(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` with each node that is seen to have begun a new life."""
        self._on_restart = callback

    # --- background --------------------------------------------------------------------------

    async def run(self) -> None:
        """Send updates and advertisements when they are due.

        Raises:
            DuplicateNode: another node had our ID first.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_updates)
            nursery.start_soon(self._compute_routes)
            nursery.start_soon(self._advertise)
            await self._duplicate.wait()
            raise DuplicateNode(
                f"another node of this mesh already uses the ID {self.own_id}: "
                "give this one another ID (node: id)"
            )

    async def _send_updates(self) -> None:
        while True:
            with trio.move_on_after(UPDATE_INTERVAL):
                await self._update_due.wait()
            self._update_due = trio.Event()
            self._flood_own_update()
            await trio.sleep(CHANGE_INTERVAL)

    async def _compute_routes(self) -> None:
        while True:
            await self._routes_due.wait()
            self._routes_due = trio.Event()
            self._recompute()
            await trio.sleep(CHANGE_INTERVAL)

    async def _advertise(self) -> None:
        while True:
            await trio.sleep(ADVERTISE_INTERVAL)
            for service in self._services.values():
                self._flood_advert(service)

    # --- SessionOwner ------------------------------------------------------------------------

    def connected_peers(self) -> Collection[str]:
        """Return the peers that established sessions exist to."""
        return self.sessions.keys()

    def hello(self) -> bytes:
        """Return an own routing update as a message."""
        return self.topology.own_update(random_id()).encode()

    def link_up(self, session: Session) -> None:
        """Take a session that was established, and tell its peer all that we know at once."""
        self.sessions[session.peer] = session
        self._names.learn(session.peer)
        self.topology.add_link(session.peer, session.cost)
        self._recompute()
        self._flood_own_update()
        for update in self.topology.updates_for_new_peer(session.peer):
            session.send_routing(update.encode())
        for advert in self.adverts:
            session.send_routing(advert.encode())

    def link_down(self, session: Session) -> None:
        """Forget a session."""
        if self.sessions.get(session.peer) is session:
            del self.sessions[session.peer]
            self.topology.remove_link(session.peer)
            self._recompute()
            self._update_due.set()

    def routing_update(self, session: Session, update: RoutingUpdate) -> None:
        """Take an update from a peer."""
        previous = self.topology.epoch_of(update.node_id)
        verdict = self.topology.apply(update, trio.current_time())
        if verdict is Verdict.WE_ARE_DUPLICATE:
            self._duplicate.set()
        elif verdict is Verdict.DUPLICATE_SEEN:
            self._log.error(
                "another node with our ID %s appeared via %s", self.own_id, session.peer
            )
            self._flood(self.topology.own_update(random_id(), update.epoch).encode())
        if verdict not in (Verdict.FORWARD, Verdict.NEW_NODE):
            return
        self._names.learn(update.node_id)
        if verdict is Verdict.NEW_NODE:
            self._update_due.set()
        elif previous is not None and self.topology.epoch_of(update.node_id) != previous:
            self._on_restart(update.node_id)
        self._flood(replace(update, forwarding_node=self.own_id).encode(), session)
        if self.topology.version != self._routed_version:
            self._routes_due.set()

    def advertisement(self, session: Session, advert: ServiceAdvertisement, raw: bytes) -> None:
        """Take an advertisement from a peer; it is passed on unchanged."""
        if advert.node_id != self.own_id and self.adverts.apply(advert):
            self._flood(raw, session)

    def data(self, message: memoryview) -> None:
        """Take a data message from a peer."""
        self._router.handle(message)

    # --- routes ------------------------------------------------------------------------------

    def _recompute(self) -> None:
        if self.topology.version == self._routed_version:
            return
        self._routed_version = self.topology.version
        old, self.routes = self.routes, self.topology.routes()
        # The sessions behind unchanged routes may have changed, so the table is always replaced.
        self._router.set_next_hops(
            {node: self.sessions[via] for node, via in self.routes.items() if via in self.sessions}
        )
        if self.routes != old:
            self._log.info("routes changed: %s", describe_changes(old, self.routes))
            self._routes_changed.set()
            self._routes_changed = trio.Event()

    async def wait_routes_changed(self) -> None:
        """Wait until the routing table is another one."""
        await self._routes_changed.wait()

    # --- flooding ----------------------------------------------------------------------------

    def _flood(self, message: bytes, source: Session | None = None) -> None:
        for session in list(self.sessions.values()):
            if session is not source:
                session.send_routing(message)

    def _flood_own_update(self) -> None:
        if self.sessions:
            self._flood(self.hello())

    # --- own services ------------------------------------------------------------------------

    def add_service(self, service: LocalService) -> None:
        """Advertise a service of this node from now on."""
        self._services[service.name] = service
        self._flood_advert(service)

    def remove_service(self, name: str) -> None:
        """Withdraw a service."""
        service = self._services.pop(name, None)
        if service is not None:
            self._flood_advert(service, cancel=True)

    def _flood_advert(self, service: LocalService, cancel: bool = False) -> None:
        # Strictly newer than the one before, whatever the clock does: the newer time wins.
        self._last_advert = max(time.time_ns(), self._last_advert + 1)
        advert = ServiceAdvertisement(
            node_id=self.own_id,
            service=service.name,
            time=timestamp(self._last_advert),
            conn_type=service.conn_type,
            tags=service.tags,
            work_types=service.work_types,
            cancel=cancel,
        )
        self.adverts.apply(advert)
        self._flood(advert.encode())

    def visible_adverts(self) -> Iterable[ServiceAdvertisement]:
        """Return the advertisements of this node and of those that can be reached now."""
        return [a for a in self.adverts if a.node_id == self.own_id or a.node_id in self.routes]


def describe_changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Return the difference of two routing tables in words, e.g. ``baz via bar; foo gone``."""
    gained = [f"{node} via {via}" for node, via in sorted(new.items()) if old.get(node) != via]
    lost = [f"{node} gone" for node in sorted(old) if node not in new]
    return "; ".join(gained + lost)
