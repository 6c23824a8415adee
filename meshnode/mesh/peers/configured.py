"""The links that the configuration asks for, and how they become those of another configuration.

A reload opens first and closes last:

1. Open the listeners that are new. If a port is taken, close them again; nothing has changed.
2. A port may be held by a listener that is to go. Close that one and open the new one instead.
   If that fails, open the old one again: its links are disturbed, and the refusal says so.
3. Only now close what the new configuration lacks, change what stays with another policy, and start
   the new listeners and dialers.

Directives that both configurations have keep their sockets, dialers and links.
"""

import dataclasses
import errno
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import trio

from meshnode.config import ListenerDirective, PeerDirective
from meshnode.errors import ConfigError
from meshnode.logs import subject_logger
from meshnode.mesh.links import registry
from meshnode.mesh.links.base import LinkListener
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.peers.conditions import (
    ConfiguredListener,
    ConfiguredPeer,
    LinksReport,
    ListenerCondition,
    ListenerState,
    Moment,
    Rejected,
    Trouble,
)
from meshnode.mesh.peers.endpoints import Dialing, Listening
from meshnode.net.addresses import format_address
from meshnode.net.faults import in_words
from meshnode.security.tlsstore import NO_TLS, TlsStore

NOT_CONFIGURED = "this link is no longer configured"
CHANGED = "the configuration of this link changed"

D = TypeVar("D", ListenerDirective, PeerDirective)


@dataclass(slots=True)
class _Accepting:
    """A listener directive and its open listeners: one for each address that it means."""

    directive: ListenerDirective
    handles: list[Listening]


@dataclass(slots=True)
class _Dialed:
    """A peer directive and its dialer."""

    directive: PeerDirective
    handle: Dialing


class LinksRefused(ConfigError):
    """A configuration's links cannot be opened; those from before were restored.

    ``disturbed`` has a sentence for each listener that was closed meanwhile.
    """

    def __init__(self, text: str, disturbed: Sequence[str]) -> None:
        super().__init__(text)
        self.disturbed = tuple(disturbed)


Opened = list[tuple[ListenerDirective, list[LinkListener]]]
"""Listeners that have their ports, and accept nothing yet."""


class ConfiguredLinks:
    """Owns the mesh's configured listeners and dialers, by directive."""

    def __init__(self, mesh: Mesh, tls: TlsStore = NO_TLS) -> None:
        """``tls`` has the settings of TLS that directives name."""
        self._mesh = mesh
        self._tls = tls
        self._accepting: list[_Accepting] = []
        self._dialed: list[_Dialed] = []
        self._missing: list[ConfiguredListener] = []
        """Listeners that reloads could not open; none since the last one that succeeded."""
        self._log = subject_logger("links")

    def report(self) -> LinksReport:
        """Return how each configured link fares, and whom this node rejected."""
        peers = [
            ConfiguredPeer(*_name_and_address(d.directive), d.handle.condition())
            for d in self._dialed
        ]
        listeners = [
            ConfiguredListener(
                *_name_and_address(a.directive),
                reduce(ListenerCondition.with_socket, (h.condition() for h in a.handles)),
            )
            for a in self._accepting
        ]
        listeners += self._missing
        return LinksReport(tuple(peers), tuple(listeners), self._rejected())

    def _rejected(self) -> tuple[Rejected, ...]:
        """Return whom this node rejected and has not linked with since: what was mended is past."""
        linked = {
            (session.peer, session.holder): session.confirmed_at.monotonic
            for session in self._mesh.sessions
            if session.confirmed_at is not None
        }
        return tuple(
            entry
            for entry in self._mesh.rejections.listed()
            if linked.get((entry.node, entry.address), -math.inf) <= entry.last.monotonic
        )

    async def apply(
        self, listeners: Sequence[ListenerDirective], peers: Sequence[PeerDirective]
    ) -> bool:
        """Replace the running links by those of these directives; return whether any changed.

        Raises:
            ConfigError: a port is taken; nothing was changed.
            LinksRefused: a port is taken; links were disturbed meanwhile.
        """
        new_listeners, old_listeners = _difference(listeners, self._accepting)
        new_peers, old_peers = _difference(peers, self._dialed)
        changes = bool(new_listeners or old_listeners or new_peers or old_peers)
        taken_over = _take_over(new_listeners, old_listeners)
        opened, blocked = await self._open(new_listeners, old_listeners)
        # Shielded: a client that leaves now, perhaps since its link is closed here, must not leave
        # half of each configuration behind.
        with trio.CancelScope(shield=True):
            opened += await self._open_blocked(blocked, opened, old_listeners)
            await self._close(old_listeners, old_peers)
            for accepting, directive in taken_over:
                await self._change(accepting, directive)
            self._start(opened, new_peers)
            self._missing.clear()
        return changes

    # --- opening -----------------------------------------------------------------------------

    async def _open(
        self, wanted: Sequence[ListenerDirective], leaving: Sequence[_Accepting]
    ) -> tuple[Opened, list[ListenerDirective]]:
        """Open listeners; return also those whose port a leaving listener still has."""
        opened: Opened = []
        blocked: list[ListenerDirective] = []
        try:
            for directive in wanted:
                try:
                    opened.append((directive, await registry.open_listeners(directive, self._tls)))
                except ConfigError as exc:
                    if not (_is_taken(exc) and _holders(directive, leaving)):
                        self._note_missing(directive, exc)
                        raise
                    blocked.append(directive)
        except BaseException:
            await _close_opened(opened)
            raise
        return opened, blocked

    async def _open_blocked(
        self,
        blocked: Sequence[ListenerDirective],
        others: Opened,
        leaving: list[_Accepting],
    ) -> Opened:
        """Open listeners in the place of leaving ones, which are restored if that fails."""
        freed = [a for a in leaving if any(_holders(d, [a]) for d in blocked)]
        for accepting in freed:
            await self._close_accepting(accepting, CHANGED)
        try:
            opened, _ = await self._open(blocked, [])
        except ConfigError as exc:
            await _close_opened(others)
            disturbed = [await self._restore(accepting.directive) for accepting in freed]
            raise LinksRefused(str(exc), disturbed) from exc
        for accepting in freed:
            leaving.remove(accepting)
        return opened

    async def _restore(self, directive: ListenerDirective) -> str:
        """Open a listener again that was closed in vain; return what that did to its links."""
        name = describe(directive)
        try:
            self._start([(directive, await registry.open_listeners(directive, self._tls))], [])
        except ConfigError as exc:
            # Another program has taken the port meanwhile.
            self._note_missing(directive, exc)
            self._log.error("lost a listener: %s", exc)
            return f"{name} was closed and cannot be opened again: {exc}"
        return f"the links of {name} were dropped, and may be dialled again"

    def _note_missing(self, directive: ListenerDirective, error: ConfigError) -> None:
        """Keep in mind that a listener is not there although the file asks for it."""
        name, address = _name_and_address(directive)
        cause = error.__cause__
        text = f"cannot listen: {in_words(cause)}" if isinstance(cause, OSError) else str(error)
        now = Moment.now()
        trouble = Trouble(text, now)
        condition = ListenerCondition(ListenerState.CLOSED, now, trouble=trouble)
        missing = ConfiguredListener(name, address, condition)
        self._missing = [m for m in self._missing if (m.directive, m.address) != (name, address)]
        self._missing.append(missing)

    def _start(self, opened: Opened, peers: Sequence[PeerDirective]) -> None:
        for directive, listeners in opened:
            policy = directive.policy
            handles = [self._mesh.add_listener(listener, policy) for listener in listeners]
            self._accepting.append(_Accepting(directive, handles))
        for peer in peers:
            dialing = self._mesh.add_dialer(
                registry.make_dialer(peer, self._tls), peer.policy, redial=peer.redial
            )
            self._dialed.append(_Dialed(peer, dialing))
            self._log.info("dialing %s", describe(peer))

    # --- closing and changing ----------------------------------------------------------------

    async def _close(self, listeners: Sequence[_Accepting], peers: Sequence[_Dialed]) -> None:
        async with trio.open_nursery() as nursery:
            for accepting in listeners:
                nursery.start_soon(self._close_accepting, accepting, NOT_CONFIGURED)
            for dialed in peers:
                nursery.start_soon(self._close_dialed, dialed)

    async def _close_accepting(self, accepting: _Accepting, reason: str) -> None:
        self._accepting.remove(accepting)
        for handle in accepting.handles:
            await handle.aclose(reason)
        self._log.info("closed %s", describe(accepting.directive))

    async def _close_dialed(self, dialed: _Dialed) -> None:
        self._dialed.remove(dialed)
        await dialed.handle.aclose(NOT_CONFIGURED)
        self._log.info("closed %s", describe(dialed.directive))

    async def _change(self, accepting: _Accepting, directive: ListenerDirective) -> None:
        accepting.directive = directive
        for handle in accepting.handles:
            await handle.set_policy(directive.policy, CHANGED)
        self._log.info("changed %s: its links are opened again", describe(directive))


def describe(directive: ListenerDirective | PeerDirective) -> str:
    """Name a directive and its address: ``tcp-listener *:2222``."""
    return " ".join(_name_and_address(directive))


def _name_and_address(directive: ListenerDirective | PeerDirective) -> tuple[str, str]:
    if isinstance(directive, PeerDirective):
        return directive.INFO.name, str(directive.address)
    where = format_address((directive.bindaddr or "*", directive.port))
    return directive.INFO.name, where


R = TypeVar("R", _Accepting, _Dialed)


def _difference(wanted: Iterable[D], running: Sequence[R]) -> tuple[list[D], list[R]]:
    """Return the directives that are not running, and the running ones that are not wanted.

    Equal directives may occur more than once (port 0), so each is taken once.
    """
    new: list[D] = []
    old = list(running)
    for directive in wanted:
        same = next((r for r in old if r.directive == directive), None)
        if same is None:
            new.append(directive)
        else:
            old.remove(same)
    return new, old


def _take_over(
    new: list[ListenerDirective], old: list[_Accepting]
) -> list[tuple[_Accepting, ListenerDirective]]:
    """Pair running listeners with new directives that differ in nothing but the policy.

    Such a listener keeps its socket. Both are taken out of the given lists.
    """
    pairs: list[tuple[_Accepting, ListenerDirective]] = []
    for directive in list(new):
        place = _without_policy(directive)
        same = next((a for a in old if _without_policy(a.directive) == place), None)
        if same is not None:
            pairs.append((same, directive))
            new.remove(directive)
            old.remove(same)
    return pairs


def _without_policy(directive: ListenerDirective) -> ListenerDirective:
    return dataclasses.replace(directive, cost=1.0, nodecost={}, allowedpeers=None)


def _holders(directive: ListenerDirective, accepting: Sequence[_Accepting]) -> list[_Accepting]:
    """Return the listeners that may have the port that a directive asks for."""
    return [a for a in accepting if a.directive.port == directive.port]


def _is_taken(error: ConfigError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE


async def _close_opened(opened: Opened) -> None:
    with trio.CancelScope(shield=True):
        for _, listeners in opened:
            for listener in listeners:
                await listener.aclose()
