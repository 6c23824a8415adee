"""Listeners and dialers at work: what makes a mesh's links, and may be taken away again."""

from collections.abc import Iterator
from typing import Protocol

import trio

from meshnode.logs import subject_logger
from meshnode.mesh.accepting import Acceptor
from meshnode.mesh.links.base import Greeter, Link, LinkDialer, LinkListener
from meshnode.mesh.redial import redial_delay
from meshnode.mesh.sessions import Session
from meshnode.protocol.peering import LinkPolicy

MAX_OPENING = 512
"""Links that may be in their opening at once; more are closed unheard. Each holds a descriptor for
up to 10 s, so this bounds what a flood of silent connections can take."""


class SessionGroup:
    """Sessions that run; a session in a group is in its parent too."""

    def __init__(self, parent: "SessionGroup | None" = None) -> None:
        self._parent = parent
        self._sessions: set[Session] = set()
        self._one_ended = trio.Event()

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions)

    def add(self, session: Session) -> None:
        """Take a session in that :meth:`run` is about to run, so that it can be closed already."""
        self._sessions.add(session)
        if self._parent is not None:
            self._parent.add(session)

    def _discard(self, session: Session) -> None:
        self._sessions.discard(session)
        self._one_ended.set()
        self._one_ended = trio.Event()
        if self._parent is not None:
            self._parent._discard(session)

    async def run(self, session: Session) -> bool:
        """Run a session to its end; True means that it was established at some time."""
        self.add(session)
        try:
            await session.run()
        finally:
            self._discard(session)
        return session.was_established

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
    greeter: Greeter

    @property
    def is_closing(self) -> bool:
        """Whether the mesh takes leave: no new links."""
        ...

    def make_session(self, link: Link, policy: LinkPolicy) -> Session:
        """Return a session that is not running yet."""
        ...

    def start_session(self, group: SessionGroup, session: Session) -> None:
        """Run a session in the background."""
        ...


class Listening:
    """A listener at work, and the links that it accepted. Made by ``Mesh.add_listener``."""

    def __init__(self, host: LinkHost, listener: LinkListener, policy: LinkPolicy) -> None:
        self.name = listener.name
        self._host = host
        self._listener = listener
        self._policy = policy
        self._sessions = SessionGroup(host.sessions)
        self._closed = False
        self._log = subject_logger("listener", listener.name)

    async def run(self) -> None:
        """Accept links until the listener is closed."""
        self._log.info("listening")
        self._listener.greet_by(self._host.greeter)
        try:
            acceptor = Acceptor(self._listener.accept, self._log)
            while (link := await acceptor.next()) is not None:
                await self._take(link)
        finally:
            with trio.CancelScope(shield=True):
                await self._listener.aclose()

    async def _take(self, link: Link) -> None:
        if self._closed or self._host.is_closing:
            await link.aclose()
        elif sum(not s.was_established for s in self._host.sessions) >= MAX_OPENING:
            self._log.warning("closed %s unheard: %d links are opening", link.name, MAX_OPENING)
            await link.aclose()
        else:
            session = self._host.make_session(link, self._policy)
            self._sessions.add(session)
            self._host.start_session(self._sessions, session)

    async def set_policy(self, policy: LinkPolicy, reason: str) -> None:
        """Hold new links to another policy; those of the old one are ended."""
        self._policy = policy
        await self._sessions.close(reason)

    async def aclose(self, reason: str = "its listener was closed") -> None:
        """Stop listening, and end the links that were accepted."""
        self._closed = True
        await self._listener.aclose()
        await self._sessions.close(reason)


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
        self._log = subject_logger("peer", dialer.name)

    async def run(self) -> None:
        """Keep the link until it is given up or :meth:`aclose` is called."""
        try:
            with self._scope:
                await self._keep_dialing()
        finally:
            self._ended.set()

    async def _keep_dialing(self) -> None:
        failures = 0
        complaint = failure = ""
        while True:
            try:
                link = await self._dialer.dial()
            except OSError as exc:
                text = str(exc.strerror or exc)
                # A peer that is away for a day is one event, not four thousand.
                (self._log.debug if text == complaint else self._log.warning)(
                    "cannot connect: %s", text
                )
                complaint = text
            else:
                complaint = ""
                session = self._host.make_session(link, self._policy)
                session.failure = failure
                if await self._sessions.run(session):
                    failures = 0
                failure = session.failure
            if not self._redial or self._closed or self._host.is_closing:
                return
            failures += 1
            await trio.sleep(redial_delay(failures))

    async def aclose(self, reason: str = "its dialer was closed") -> None:
        """Dial no more, and end the link."""
        self._closed = True
        await self._sessions.close(reason)
        self._scope.cancel()
        await self._ended.wait()
