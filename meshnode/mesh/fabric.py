"""The mesh as this node sees it: its sessions, who is linked to whom, which services there are.

Turns what sessions report into routes for the router and floods what others must know (reference
sections 4 and 6). Everything but :meth:`Fabric.run` returns at once.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from meshnode.logs import subject_logger
from meshnode.mesh.announcer import Announcer
from meshnode.mesh.linkprobe import LinkProbe
from meshnode.mesh.ownword import CHANGE_INTERVAL, OwnWord
from meshnode.mesh.router import Router
from meshnode.mesh.sessions import Session
from meshnode.mesh.stamps import epoch_at, new_epoch
from meshnode.protocol.absence import Absences
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.messages import RoutingUpdate, ServiceAdvertisement
from meshnode.protocol.namehash import NameTable
from meshnode.protocol.times import latest_believed
from meshnode.protocol.topology import Topology, Verdict

FORGET_INTERVAL = 60.0
"""Seconds between looks at what may be forgotten."""

CHANGES_LOGGED = 20
"""Routes named in one line of the log when many change at once."""


class Fabric:
    """Sessions, topology, advertisements. Implements ``SessionOwner`` for the sessions."""

    def __init__(self, own_id: str, router: Router, names: NameTable) -> None:
        self.own_id = own_id
        self.topology = Topology(own_id, new_epoch())
        self.adverts = AdvertisementTable()
        self.announcer = Announcer(own_id, self.adverts, self._flood)
        self.routes: dict[str, str] = {}
        self.sessions: dict[str, Session] = {}
        self.own_word = OwnWord(
            self.topology, self.sessions, self._flood_own_word, self.announcer.announce_all
        )
        self._router = router
        self._names = names
        self._probe = LinkProbe(router, names)
        self._absences = Absences()
        self._routed_version = -1
        self._routed_at = float("-inf")
        self._routes_due = trio.Event()
        self._routes_changed = trio.Event()
        self._changed = trio.Event()
        self._doubts = trio.Event()
        self._newcomers: list[Session] = []
        """Sessions whose peers were not told yet what we know."""
        self._complaints: dict[str, RoutingUpdate] = {}
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
            nursery.start_soon(self._compute_routes)
            nursery.start_soon(self._settle_doubts)
            nursery.start_soon(self.announcer.run)
            nursery.start_soon(self._forget_what_is_gone)
            nursery.start_soon(self._probe.run, self.sessions.values())
            await self.own_word.run()

    async def _compute_routes(self) -> None:
        while True:
            await self._routes_due.wait()
            await trio.sleep_until(self._routed_at + CHANGE_INTERVAL)
            self._routes_due = trio.Event()
            self._recompute()

    async def _settle_doubts(self) -> None:
        while True:
            await self._doubts.wait()
            self._doubts = trio.Event()
            while (due := self.topology.settle(trio.current_time())) is not None:
                self._routes_stale()
                await trio.sleep_until(due)
            self._routes_stale()

    async def _forget_what_is_gone(self) -> None:
        while True:
            await trio.sleep(FORGET_INTERVAL)
            now = trio.current_time()
            self.adverts.expire(now)
            self._note_absences(now)
            for node in self._absences.overdue(now):
                self._log.info("forgot %s: it could not be reached for long", node)
                self.topology.forget(node)
                self.adverts.forget_node(node)
                self._names.forget(node)

    def _note_absences(self, now: float) -> None:
        known = {*self.topology.nodes, *self.adverts.nodes} - {self.own_id}
        self._absences.note(known, self.routes, now)

    # --- SessionOwner ------------------------------------------------------------------------

    def connected_peers(self) -> Collection[str]:
        """Return the peers that established sessions exist to."""
        return self.sessions.keys()

    def hello(self) -> bytes:
        """Return an own routing update as a message."""
        return self.own_word.hello()

    def word_to_refused(self, update: RoutingUpdate) -> bytes | None:
        """Have two nodes with one ID, that both link to us, find out about each other.

        The second link is refused, so the newcomer's word would reach nobody and it would dial
        for ever. Its word is passed on to the first owner of the ID, and the complaint that comes
        back is given to the newcomer when it dials again. If the first link is only what a crash
        of the same node has left, no complaint comes.
        """
        node = update.forwarding_node
        known = self.topology.epoch_of(node)
        first = self.sessions.get(node)
        if update.node_id != node or first is None or known is None:
            return None
        complaint = self._complaints.get(node)
        if complaint is not None and complaint.suspected_duplicate == update.epoch:
            return complaint.encode(self.own_id)
        if update.epoch > known:
            first.send_routing(update.encode(self.own_id))
        return None

    def link_up(self, session: Session) -> None:
        """Take a session that was established; its peer is told all that we know at once."""
        self.sessions[session.peer] = session
        self._names.learn(session.peer)
        self.topology.add_link(session.peer, session.cost)
        self._routes_stale()
        # One update for all links that come up at the same moment: each is flooded through the
        # whole mesh.
        self._newcomers.append(session)
        self.own_word.due()
        self.own_word.joined()
        self._probe.link_up()

    def _tell_all(self, session: Session) -> None:
        """Give a new peer what we know of others; the dead are not brought back among the living.

        receptor sends nothing: its peers wait for the next periodic messages.
        """
        now = trio.current_time()
        for node in self.topology.nodes:
            if node != session.peer and not self._absences.is_gone(node, now):
                message = self.topology.message_about(node)
                if message is not None:
                    session.send_routing(message)
        for node, message in self.adverts.messages():
            if not self._absences.is_gone(node, now):
                session.send_routing(message)

    def ask(self, session: Session) -> None:
        """Ping the peer of a session over its link."""
        self._probe.ask(session)

    def link_down(self, session: Session) -> None:
        """Forget a session."""
        if self.sessions.get(session.peer) is session:
            del self.sessions[session.peer]
            self._complaints.pop(session.peer, None)
            self.topology.remove_link(session.peer)
            # At once, whatever was computed just now: messages would go nowhere meanwhile.
            self._recompute()
            self.own_word.due()
            if session.peer not in self.topology.nodes:
                self._names.forget(session.peer)  # it never said a word that counts

    def knows_update(self, key: int) -> bool:
        """Whether :meth:`routing_update` would ignore an update with this key."""
        return self.topology.is_seen(key)

    def routing_update(self, session: Session, update: RoutingUpdate) -> None:
        """Take an update from a peer."""
        latest = epoch_at(latest_believed(time.time_ns()))
        if update.epoch > latest and update.node_id != self.own_id:
            self._log.warning(
                "ignored an update of %s that came via %s: its epoch %d is far in the future",
                update.node_id,
                session.peer,
                update.epoch,
            )
            return
        previous = self.topology.epoch_of(update.node_id)
        verdict = self.topology.apply(update, trio.current_time())
        if update.node_id == self.own_id:
            self.own_word.judge(update, verdict, session.peer)
        elif verdict is Verdict.OUTDATED and update.node_id == session.peer:
            self._show_newer_word(session)
        if verdict not in (Verdict.FORWARD, Verdict.NEW_NODE):
            return
        if update.node_id in self.topology.nodes:
            self._names.learn(update.node_id)
        if update.suspected_duplicate and update.node_id == session.peer:
            self._complaints[session.peer] = update
        if verdict is Verdict.NEW_NODE:
            self.own_word.due()
        elif previous not in (None, self.topology.epoch_of(update.node_id)):
            self.adverts.begin_anew(update.node_id, trio.current_time())
            self._on_restart(update.node_id)
        self._flood(self._as_forwarded(update), session)
        if self.topology.has_doubts:
            self._doubts.set()
        self._routes_stale()

    def _as_forwarded(self, update: RoutingUpdate) -> bytes:
        message = (
            None if update.suspected_duplicate else self.topology.message_about(update.node_id)
        )
        return message or update.encode(self.own_id)

    def _show_newer_word(self, session: Session) -> None:
        """Tell a peer what is known of it and is newer than what it says.

        It would be ignored for long otherwise. That word is of a life of the peer before its clock
        was set back, or was made up by somebody; the peer takes it back.
        """
        message = self.topology.message_about(session.peer)
        if message is not None:
            session.send_routing(message)

    def knows_advertisement(self, raw: bytes) -> bool:
        """Whether :meth:`advertisement` would ignore this message."""
        return self.adverts.is_known(raw)

    def advertisement(self, session: Session, advert: ServiceAdvertisement, raw: bytes) -> None:
        """Take an advertisement from a peer; it is passed on unchanged."""
        if advert.node_id == self.own_id:
            self.announcer.heard(advert)
        elif advert.nanoseconds > latest_believed(time.time_ns()):
            # Nothing could be said after it. If its node's clock shows that, there is no harm but
            # that its services are not listed.
            self._log.warning(
                "ignored what %s says of a service of %s: it is dated %s",
                session.peer,
                advert.node_id,
                advert.time,
            )
        elif self.adverts.apply(advert, trio.current_time(), raw):
            self._flood(raw, session)
            self._note_change()

    def data(self, messages: Sequence[memoryview]) -> None:
        """Take data messages from a peer."""
        self._router.handle(messages)

    # --- routes ------------------------------------------------------------------------------

    def _routes_stale(self) -> None:
        """Bring the routes up to date: at once, or with others' changes if that was just done."""
        if self.topology.version == self._routed_version:
            return
        if trio.current_time() >= self._routed_at + CHANGE_INTERVAL:
            self._recompute()
        else:
            self._routes_due.set()

    def _recompute(self) -> None:
        if self.topology.version == self._routed_version:
            return
        self._routed_version = self.topology.version
        self._routed_at = trio.current_time()
        old, self.routes = self.routes, self.topology.routes(self.routes)
        # The sessions behind unchanged routes may have changed, so the table is always replaced.
        self._router.set_next_hops(
            {node: self.sessions[via] for node, via in self.routes.items() if via in self.sessions}
        )
        self._note_absences(self._routed_at)
        if self.routes != old:
            self._log.info("routes changed: %s", RouteChanges(old, self.routes))
            self._routes_changed.set()
            self._routes_changed = trio.Event()
            self._note_change()

    async def wait_routes_changed(self) -> None:
        """Wait until the routing table is another one."""
        await self._routes_changed.wait()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self) -> None:
        """Wait until the routing table is another one, or another node's service is."""
        await self._changed.wait()

    # --- flooding ----------------------------------------------------------------------------

    def _flood(self, message: bytes, source: Session | None = None) -> None:
        for session in list(self.sessions.values()):
            if session is not source:
                session.send_routing(message)

    def _flood_own_word(self, message: bytes) -> None:
        self._flood(message)
        # After our own word, which says that we list them and that this is a new life.
        newcomers, self._newcomers = self._newcomers, []
        for session in newcomers:
            self._tell_all(session)

    # --- services ----------------------------------------------------------------------------

    def visible_adverts(self) -> Iterable[ServiceAdvertisement]:
        """Return the advertisements of this node and of those that can be reached now."""
        return [a for a in self.adverts if a.node_id == self.own_id or a.node_id in self.routes]


@dataclass(frozen=True, slots=True)
class RouteChanges:
    """The difference of two routing tables; in words (``baz via bar; foo gone``) if asked for."""

    old: Mapping[str, str]
    new: Mapping[str, str]

    def __str__(self) -> str:
        old, new = self.old, self.new
        gained = [f"{node} via {via}" for node, via in sorted(new.items()) if old.get(node) != via]
        changes = gained + [f"{node} gone" for node in sorted(old) if node not in new]
        more = len(changes) - CHANGES_LOGGED
        shown = changes[:CHANGES_LOGGED] + ([f"{more} more"] if more > 0 else [])
        return "; ".join(shown)
