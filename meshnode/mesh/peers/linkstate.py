"""The mesh as this node sees it: its sessions, who is linked to whom, which services there are.

Turns what sessions report into routes for the router, and floods what others must know (protocol
sections 4 and 6). Everything but :meth:`LinkState.run` returns at once.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from meshnode.logs import subject_logger
from meshnode.mesh.peers.conditions import Changes
from meshnode.mesh.peers.flooding import BEHIND_BYTES, PeerFeed
from meshnode.mesh.peers.own_services import Announcer
from meshnode.mesh.peers.own_updates import OwnUpdates, epoch_at, new_epoch
from meshnode.mesh.peers.probes import LinkProbe
from meshnode.mesh.peers.routes import Forgetting, Routes
from meshnode.mesh.peers.session import PeerSession
from meshnode.mesh.router import Router
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.intake import Allowances, Intake
from meshnode.protocol.namehash import NameTable
from meshnode.protocol.rates import TokenBucket
from meshnode.protocol.routing import RoutingUpdate, ServiceAdvertisement
from meshnode.protocol.times import latest_believed
from meshnode.protocol.topology import Topology, Verdict

GREETINGS_RATE, GREETINGS_AT_ONCE = 0.5, 5
"""Own updates because a node is new to us, a second and at once: by that a newcomer among receptor
nodes hears of us ten seconds sooner. New names are easily invented."""

SHOWN_RATE, SHOWN_AT_ONCE = 1.0, 3
"""Newer updates of its own that a peer is shown, a second and at once; and updates of newcomers
with its name, whose rejected links cost them nothing."""


@dataclass(slots=True)
class _Peer:
    """An established session, and what goes each way over it."""

    session: PeerSession
    feed: PeerFeed
    intake: Intake
    shown: TokenBucket
    rivals: TokenBucket
    claim: RoutingUpdate | None = None
    """The last update by which the peer claimed the epoch of another node with its ID."""
    exceeded: set[str] = field(default_factory=set)
    """Which bounds it was logged to exceed."""


class LinkState:
    """Sessions, topology, advertisements. Implements ``PeerSessionOwner`` for the sessions."""

    def __init__(self, own_id: str, router: Router, names: NameTable) -> None:
        self.own_id = own_id
        self.topology = Topology(own_id, new_epoch())
        self.adverts = AdvertisementTable()
        self.sessions: dict[str, PeerSession] = {}
        self.links_made = self.links_lost = 0
        """Links that came up since the start, and that ended."""
        self._peers: dict[str, _Peer] = {}
        self.announcer = Announcer(own_id, self.adverts, self._flood_advert)
        self.own_updates = OwnUpdates(
            self.topology, self.sessions, self._flood_own, self.announcer.announce_all
        )
        self.routing = Routes(self.topology, router, self.sessions, self._routes_computed)
        self._forgetting = Forgetting(
            self.topology, self.adverts, names, self.sessions, self.routing
        )
        self._router = router
        self._names = names
        self._probe = LinkProbe(router, names)
        self._allowances = Allowances()
        self._greetings = TokenBucket(GREETINGS_RATE, GREETINGS_AT_ONCE, trio.current_time())
        self._latest_epoch = 0
        """The latest epoch that was believed when the clock was last read."""
        self._waiting = trio.Event()
        self._changed = Changes()
        self.changes = Changes()
        """Counts changes of links, routes and services anywhere, and of configured links here."""
        self._newcomers: list[str] = []
        """Peers that were not told yet what we know."""
        self._log = subject_logger("mesh")
        self._on_restart: Callable[[str], None] = lambda node: None

    def when_restarted(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` with each node that is seen to have begun a new life."""
        self._on_restart = callback

    async def run(self) -> None:
        """Send updates and advertisements when they are due.

        Raises:
            DuplicateNode: another node had our ID first.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.routing.run)
            nursery.start_soon(self.announcer.run)
            nursery.start_soon(self._forgetting.run)
            nursery.start_soon(self._take_delayed_updates)
            nursery.start_soon(self._probe.run, self.sessions.values())
            await self.own_updates.run()

    # --- links -------------------------------------------------------------------------------

    def connected_peers(self) -> Mapping[str, PeerSession]:
        """Return the established sessions by peer."""
        return self.sessions

    def has_place(self, peer: str, cost: float, expected: bool) -> bool:
        """Whether our updates have room for a link to a peer."""
        return self.topology.own.has_place(peer, cost, expected)

    def hello(self) -> bytes:
        """Return an own routing update as a message."""
        return self.own_updates.hello()

    def messages_for_rejected(self, update: RoutingUpdate) -> Sequence[bytes]:
        """Have two nodes with one ID, that both link to us, find out about each other.

        The second one's link is rejected. So its update would reach nobody, and it would dial for
        ever. We forward its update to the first one, which answers with a claim, and give that
        claim to the second one when it dials again. If the first link is only what a crash of the
        same node has left behind, no claim comes.
        """
        node = update.forwarding_node
        known = self.topology.epoch_of(node)
        first = self._peers.get(node)
        if update.node_id != node or first is None or known is None:
            return ()
        claim = first.claim
        if claim is not None and claim.suspected_duplicate == update.epoch:
            # The hello first: a peer takes no update from a node that it does not know.
            return self.hello(), claim.encode(self.own_id)
        if update.epoch > known and first.rivals.take(trio.current_time()):
            first.session.sender.send_routing(update.encode(self.own_id))
        return ()

    def link_up(self, session: PeerSession) -> None:
        """Take a session that was established; its peer is told all that we know at once."""
        now, peer = trio.current_time(), session.peer
        self.links_made += 1
        self.sessions[peer] = session
        self._peers[peer] = _Peer(
            session,
            PeerFeed(peer, session.sender, self.topology, self.adverts),
            Intake(self._allowances.of(session.holder, now)),
            TokenBucket(SHOWN_RATE, SHOWN_AT_ONCE, now),
            TokenBucket(SHOWN_RATE, SHOWN_AT_ONCE, now),
        )
        self._names.learn(peer)
        self.topology.own.add(peer, session.cost)
        self.routing.update()
        # One update for all links that come up at the same moment: the whole mesh floods each.
        self._newcomers.append(peer)
        self.own_updates.link_up()
        self._probe.link_up()

    def _greet(self, peer: str) -> None:
        """Tell a new peer what we know of others, without nodes that are gone.

        receptor sends nothing: its peers wait for the next periodic messages.
        """
        now = trio.current_time()
        known = dict.fromkeys([*self.topology.nodes, self.own_id, *self.adverts.nodes])
        near = [n for n in known if self._is_near(n)]
        far = [n for n in known if not (self._is_near(n) or self._forgetting.is_gone(n, now))]
        # Nodes that it can reach over us come first: nobody has invented those.
        self._peers[peer].feed.tell_all([*near, *far])

    def ping(self, session: PeerSession) -> None:
        """Ping the peer of a session over its link."""
        self._probe.ping(session)

    def link_down(self, session: PeerSession) -> None:
        """Forget a session."""
        self.links_lost += 1
        if self.sessions.get(session.peer) is session:
            del self.sessions[session.peer]
            del self._peers[session.peer]
            self.topology.own.remove(session.peer)
            # At once, even if routes were just computed: messages would be lost meanwhile.
            self.routing.compute()
            self.own_updates.due()
            if session.peer not in self.topology.nodes:
                self._names.forget(session.peer)  # none of its updates was taken

    def link_drained(self, session: PeerSession) -> None:
        """Tell a peer more of what it was not told yet."""
        if self.sessions.get(session.peer) is session:
            self._peers[session.peer].feed.resume()

    # --- what comes over them ----------------------------------------------------------------

    def admits(self, session: PeerSession, size: int) -> bool:
        """Whether a routing message of that size is to be read."""
        peer = self._peers[session.peer]
        return peer.intake.may_read(size, trio.current_time()) or self._exceeds(peer, "read")

    def _exceeds(self, peer: _Peer, what: str) -> bool:
        """Log once that not all that a peer sends is read or taken; always False."""
        if what not in peer.exceeded:
            peer.exceeded.add(what)
            self._log.warning(
                "%s sends more about other nodes than any mesh has to say: not all of it is %s",
                peer.session.peer,
                what,
            )
        return False

    def knows_update(self, key: int) -> bool:
        """Whether :meth:`routing_update` would ignore an update with this key."""
        return self.topology.is_seen(key)

    def routing_update(self, session: PeerSession, update: RoutingUpdate) -> None:
        """Take an update from a peer, if the peer may send it now."""
        peer, node = self._peers[session.peer], update.node_id
        now = trio.current_time()
        if node == self.own_id:
            self.own_updates.judge(update, session.peer)
        elif update.epoch > self._latest_epoch and update.epoch > self._read_clock():
            self._log.warning(
                "ignored an update of %s that came via %s: its epoch %d is far in the future",
                node,
                session.peer,
                update.epoch,
            )
        else:
            leads_there = self.routes.get(node) == session.peer
            if update.suspected_duplicate:
                if peer.intake.may_claim(node, update.size, now, leads_there=leads_there):
                    self._take_update(peer, update)
            elif not self.topology.is_news(update, now):
                if self.topology.apply(update, now) is Verdict.OUTDATED and node == session.peer:
                    self._show_newer_update(peer)
            elif peer.intake.may_update(
                update,
                now,
                known=node == session.peer or node in self.routes,
                leads_there=leads_there,
            ):
                self._take_update(peer, update)
            else:
                self._waiting.set()
                if peer.intake.dropped:
                    self._exceeds(peer, "taken")

    def _read_clock(self) -> int:
        self._latest_epoch = epoch_at(latest_believed(time.time_ns()))
        return self._latest_epoch

    async def _take_delayed_updates(self) -> None:
        """Take the updates that came too soon after others of their node."""
        while True:
            dues = [due for p in self._peers.values() if (due := p.intake.next_due()) is not None]
            with trio.move_on_at(min(dues, default=math.inf)):
                await self._waiting.wait()
            self._waiting = trio.Event()
            for peer in list(self._peers.values()):
                with peer.session.boundary:
                    for update in peer.intake.take_due(trio.current_time()):
                        self._take_update(peer, update)

    def _take_update(self, peer: _Peer, update: RoutingUpdate) -> None:
        now, node = trio.current_time(), update.node_id
        name = peer.session.peer
        former = self.topology.epoch_of(node)
        verdict = self.topology.apply(update, now, name)
        self._forgetting.follow_topology()
        if verdict not in (Verdict.FORWARD, Verdict.NEW_NODE):
            return
        if update.suspected_duplicate and node == name:
            # Nodes ignore the links of a claim.
            peer.claim = replace(update, connections={})
        if verdict is Verdict.NEW_NODE:
            if self._greetings.take(now):
                self.own_updates.due()
        elif former not in (None, self.topology.epoch_of(node)):
            self.adverts.begin_anew(node, now)
            self._on_restart(node)
        self._forward_update(update, name)
        self.routing.update()

    def _forward_update(self, update: RoutingUpdate, source: str) -> None:
        if update.suspected_duplicate:
            claim = update.encode(self.own_id)
            for name, peer in list(self._peers.items()):
                # Not where the link is behind. A claim is made again when it is needed again.
                sender = peer.session.sender
                if name != source and sender.has_routing_room(BEHIND_BYTES):
                    sender.send_routing(claim)
            return
        message = self.topology.message_about(update.node_id)
        if message is not None:
            self._forward(update.node_id, message, source, is_advert=False)

    def _show_newer_update(self, peer: _Peer) -> None:
        """Send a peer the update of its own that is newer than what it says.

        Otherwise its present updates would be ignored for long. The newer one is from before the
        peer's clock was set back, or is forged; the peer claims its ID back.
        """
        message = self.topology.message_about(peer.session.peer)
        if message is not None and peer.shown.take(trio.current_time()):
            peer.session.sender.send_routing(message)

    def knows_advertisement(self, raw: bytes) -> bool:
        """Whether :meth:`advertisement` would ignore this message."""
        return self.adverts.is_known(raw)

    def advertisement(self, session: PeerSession, advert: ServiceAdvertisement, raw: bytes) -> None:
        """Take an advertisement from a peer, if the peer may send it; it is forwarded unchanged."""
        peer, node = self._peers[session.peer], advert.node_id
        now = trio.current_time()
        if node == self.own_id:
            self.announcer.heard(advert)
        elif advert.nanoseconds > latest_believed(time.time_ns()):
            # No advertisement of the service could be newer. If the clock of its node is wrong,
            # the only harm is that its services are not listed.
            self._log.warning(
                "ignored what %s says of a service of %s: it is dated %s",
                session.peer,
                node,
                advert.time,
            )
        elif not self.adverts.is_news(advert):
            pass  # most are: the service is known by another way already
        elif not peer.intake.may_advertise(node, len(raw), now, known=node in self.routes):
            self._exceeds(peer, "taken")
        elif self.adverts.apply(advert, now, raw, session.peer):
            if self.adverts.is_full:
                self.adverts.make_room(self.topology.branches(), node)
            self._forward(node, raw, session.peer, is_advert=True)
            self._note_change()

    def data(self, session: PeerSession, messages: Sequence[memoryview]) -> None:
        """Take data messages from a peer."""
        self._router.handle(messages, session.holder or session.peer)

    # --- what this node sends ----------------------------------------------------------------

    def _forward(self, node: str, message: bytes, source: str, *, is_advert: bool) -> None:
        for name, peer in list(self._peers.items()):
            if name != source:
                peer.feed.forward(node, message, is_advert=is_advert)

    def _flood(self, message: bytes) -> None:
        for session in list(self.sessions.values()):
            session.sender.send_routing(message)

    def _flood_advert(self, message: bytes) -> None:
        self._flood(message)
        self.changes.note()

    def _flood_own(self, message: bytes) -> None:
        self._flood(message)
        # After our own update, which lists the new peer and shows that this is a new life.
        newcomers, self._newcomers = self._newcomers, []
        for peer in newcomers:
            if peer in self._peers:
                self._greet(peer)

    # --- what is known -----------------------------------------------------------------------

    @property
    def routes(self) -> Mapping[str, str]:
        """The next hop to each node that can be reached."""
        return self.routing.table

    def _routes_computed(self, changed: bool) -> None:
        self._forgetting.note_absences(trio.current_time())
        self.changes.note()
        if changed:
            self._note_change()

    def _note_change(self) -> None:
        self.changes.note()
        self._changed.note()

    async def wait_changed(self) -> None:
        """Wait until the routing table is another one, or another node's service is."""
        await self._changed.wait(self._changed.count)

    def visible_adverts(self) -> Iterable[ServiceAdvertisement]:
        """Return the advertisements of this node and of those that can be reached now."""
        return [
            a for node in self.adverts.nodes if self._is_near(node) for a in self.adverts.of(node)
        ]

    def find_service(self, node: str, service: str) -> ServiceAdvertisement | None:
        """Return one of those, if it is among them."""
        return self.adverts.find(node, service) if self._is_near(node) else None

    def _is_near(self, node: str) -> bool:
        return node == self.own_id or node in self.routes
