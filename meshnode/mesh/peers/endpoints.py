"""Listeners and dialers at work: they make a mesh's links, and end them when they are closed."""

import math
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import trio

from meshnode.logs import subject_logger
from meshnode.mesh.links.base import AddressProbe, Link, LinkDialer, LinkListener
from meshnode.mesh.peers.conditions import (
    LONGEST_TEXT,
    DialHistory,
    ListenerCondition,
    ListenerState,
    Moment,
    PeerCondition,
    Rejections,
    Trouble,
)
from meshnode.mesh.peers.ending import Ended, RepeatFilter
from meshnode.mesh.peers.places import LinkPlaces
from meshnode.mesh.peers.session import PeerSession
from meshnode.net.accept import accept
from meshnode.net.faults import in_words
from meshnode.policies import LinkPolicy
from meshnode.resources import DescriptorReserve

REDIAL_FIRST = 0.5
"""Seconds to the first redial. Receptor waits 5; a peer that was only restarted is back sooner."""

REDIAL_MOST = 20.0
"""Seconds between attempts at most, as receptor's."""

REDIAL_GROWTH = 1.5
"""Growth from one pause to the next, as receptor's."""

REDIAL_JITTER = 0.2
"""Share by which a pause is shortened at random: the dialers of a node that was restarted must not
all come at the same moment."""

_MOST_STEPS = math.ceil(math.log(REDIAL_MOST / REDIAL_FIRST, REDIAL_GROWTH))


def redial_delay(failures: int) -> float:
    """Return the seconds to wait after ``failures`` failures in a row (at least 1), jittered."""
    steps = min(failures - 1, _MOST_STEPS)
    pause = min(REDIAL_FIRST * REDIAL_GROWTH**steps, REDIAL_MOST)
    return pause * (1 - REDIAL_JITTER * random.random())


class SessionGroup:
    """Running sessions; a session in a group is in the parent group too."""

    def __init__(self, parent: "SessionGroup | None" = None) -> None:
        self._parent = parent
        self._sessions: set[PeerSession] = set()
        self._one_ended = trio.Event()

    def __iter__(self) -> Iterator[PeerSession]:
        return iter(self._sessions)

    def add(self, session: PeerSession) -> None:
        """Add a session that :meth:`run` is about to run, so that it can be closed already."""
        self._sessions.add(session)
        if self._parent is not None:
            self._parent.add(session)

    def _discard(self, session: PeerSession) -> None:
        self._sessions.discard(session)
        self._one_ended.set()
        self._one_ended = trio.Event()
        if self._parent is not None:
            self._parent._discard(session)

    async def run(self, session: PeerSession) -> None:
        """Run a session to its end."""
        self.add(session)
        try:
            await session.run()
        finally:
            self._discard(session)

    async def close(self, reason: str) -> None:
        """End the sessions that there are now, and wait until they have ended."""
        ending = set(self._sessions)
        for session in ending:
            session.close(reason)
        while self._sessions & ending:
            await self._one_ended.wait()
        await trio.lowlevel.checkpoint()


class LinkHost(Protocol):
    """What listeners and dialers need of the mesh."""

    sessions: SessionGroup
    places: LinkPlaces
    rejections: Rejections
    reserve: DescriptorReserve
    address_probe: AddressProbe

    @property
    def is_closing(self) -> bool:
        """Whether the mesh is closing: no new links."""

    def make_session(self, link: Link, policy: LinkPolicy, repeats: RepeatFilter) -> PeerSession:
        """Return a session that is not running yet."""

    def start_soon(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run something in the background."""

    def note_condition(self) -> None:
        """Note that a configured link may fare otherwise than before."""


class Listening:
    """A listener at work, and the links that it accepted. Made by ``Mesh.add_listener``."""

    def __init__(self, host: LinkHost, listener: LinkListener, policy: LinkPolicy) -> None:
        self.name = listener.name
        self._host = host
        self._listener = listener
        self._policy = policy
        self._sessions = SessionGroup(host.sessions)
        self._repeats = RepeatFilter()
        self._closed = False
        self._since = Moment.now()
        self._trouble: Trouble | None = None
        self._log = subject_logger("listener", listener.name)
        self._log.info("listening")

    def condition(self) -> ListenerCondition:
        """Return how the listener fares now."""
        up = sum(session.confirmed_at is not None for session in self._sessions)
        opening = sum(1 for _ in self._sessions) - up
        return ListenerCondition(ListenerState.LISTENING, self._since, up, opening, self._trouble)

    async def run(self) -> None:
        """Accept links until the listener is closed."""
        self._listener.probe_by(self._host.address_probe)
        try:
            await accept(self._listener, self._log, self._take, when_short=self._note_shortage)
        finally:
            with trio.CancelScope(shield=True):
                await self._listener.aclose()

    def _note_shortage(self, why: str) -> None:
        self._trouble = Trouble(f"cannot accept for now: {why}", Moment.now())

    async def _take(self, link: Link) -> None:
        if self._closed or self._host.is_closing:
            await link.aclose()
            return
        session = self._host.make_session(link, self._policy, self._repeats)

        def give_way(reason: str) -> None:
            self._log.warning("rejected %s: %s", link.name, reason)
            session.close(reason, is_logged=True)

        place = self._host.places.take(link.holder, give_way)
        session.when_established = lambda: self._host.places.established(place)
        self._sessions.add(session)

        async def run() -> None:
            try:
                await self._sessions.run(session)
            finally:
                self._host.places.leave(place, lasted=session.has_lasted)
            self._note_end(session)

        self._host.start_soon(run)

    def _note_end(self, session: PeerSession) -> None:
        end = session.end
        if end is None:
            return
        _note_rejection(self._host, session, self.name)
        if end.rejection is None and session.confirmed_at is None:
            text = f"{session.name}: {end.reason}"
            self._trouble = Trouble(text[:LONGEST_TEXT], Moment.now())

    async def set_policy(self, policy: LinkPolicy, reason: str) -> None:
        """Apply another policy to new links; end those of the old one."""
        self._policy = policy
        await self._sessions.close(reason)

    async def aclose(self, reason: str = "its listener was closed") -> None:
        """Stop listening, and end the links that were accepted."""
        self._closed = True
        await self._listener.aclose()
        await self._sessions.close(reason)


def _note_rejection(host: LinkHost, session: PeerSession, via: str) -> None:
    """Remember whom a session rejected, if it did and not only because one link is enough."""
    end = session.end
    if end is not None and end.rejection is not None and end.rejection.is_fault:
        reason = end.rejection.reason + end.also
        host.rejections.add(end.rejection.peer, session.holder, via, reason[:LONGEST_TEXT])


class Dialing:
    """A dialer at work, and the link that it keeps. Made by ``Mesh.add_dialer``."""

    def __init__(
        self, host: LinkHost, dialer: LinkDialer, policy: LinkPolicy, *, redial: bool
    ) -> None:
        self.name = dialer.name
        self._host = host
        self._dialer = dialer
        self._policy = policy
        self._redial = redial
        self._sessions = SessionGroup(host.sessions)
        self._closed = False
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._history = DialHistory()
        self._log = subject_logger("peer", dialer.name)

    def condition(self) -> PeerCondition:
        """Return how the peer fares now."""
        return self._history.condition()

    async def run(self) -> None:
        """Keep the link until it is given up or :meth:`aclose` is called."""
        try:
            with self._scope:
                await self._keep_dialing()
        finally:
            self._ended.set()

    async def _keep_dialing(self) -> None:
        failures = 0
        repeats = RepeatFilter()
        while True:
            link = await self._dial(repeats)
            if link is not None and await self._run_link(link, repeats):
                failures = 0
                repeats.reset(self.name)
                self._history.begin_anew()
            if not self._redial or self._closed or self._host.is_closing:
                self._history.give_up()
                self._host.note_condition()
                return
            failures += 1
            pause = redial_delay(failures)
            self._history.wait(pause)
            self._host.note_condition()
            await trio.sleep(pause)

    async def _dial(self, repeats: RepeatFilter) -> Link | None:
        self._history.dial()
        try:
            # From the reserve: clients that hold all other descriptors must not cut off peers.
            with self._host.reserve.at_hand():
                return await self._dialer.dial()
        except OSError as exc:
            text = in_words(exc)
            log = self._log.warning if repeats.is_news(self.name, text) else self._log.debug
            log("cannot connect: %s", text)
        except Exception as exc:  # noqa: BLE001 - the boundary of a link that is being dialed
            # Whatever the other end sends, and whatever fault that brings out, must cost no more
            # than this attempt.
            text = f"a fault of this node, which its log has: {type(exc).__name__}"
            if repeats.is_news(self.name, repr(exc)):
                self._log.exception("cannot connect: a fault of this node")
        self._history.fail(text)
        return None

    async def _run_link(self, link: Link, repeats: RepeatFilter) -> bool:
        """Run a link to its end; return whether it has lasted."""
        session = self._host.make_session(link, self._policy, repeats)
        self._history.open(session)
        await self._sessions.run(session)
        if (other := self._other_link(session.end)) is not None:
            self._history.find_linked(other)
        else:
            self._history.fail(session.end.reason if session.end is not None else "closed")
        _note_rejection(self._host, session, self.name)
        return session.has_lasted

    def _other_link(self, end: Ended | None) -> PeerSession | None:
        """Return the link because of which we gave up this one, if that is why."""
        if end is None or end.rejection is None or end.rejection.is_fault:
            return None
        to = end.rejection.peer
        return next((s for s in self._host.sessions if s.peer == to and s.end is None), None)

    async def aclose(self, reason: str = "its dialer was closed") -> None:
        """Dial no more, and end the link."""
        self._closed = True
        await self._sessions.close(reason)
        self._scope.cancel()
        await self._ended.wait()
        self._host.note_condition()
