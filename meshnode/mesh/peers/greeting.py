"""What this node says to somebody to whom there is no link yet, and hears from them."""

import math
from collections.abc import Callable
from dataclasses import replace

import trio

from meshnode.mesh.dataplane import random_id
from meshnode.mesh.links.base import Message
from meshnode.mesh.peers.boundary import Ended
from meshnode.mesh.router import Router
from meshnode.protocol.messages import (
    PING_SERVICE,
    WIRE_HOPS,
    DataHeader,
    ServiceKey,
    Unreachable,
)
from meshnode.protocol.namehash import name_hash
from meshnode.protocol.topology import Topology


class MeshGreeter:
    """A ``Greeter`` for the listeners of one node."""

    def __init__(self, router: Router, topology: Topology) -> None:
        self._router = router
        self._topology = topology

    def hello(self) -> bytes:
        """Return a routing update that names no links.

        Whoever has no link to us takes nothing from it but who we are.
        """
        return replace(self._topology.own.next_update(random_id()), connections={}).encode()

    def ping(self, peer: str, service: ServiceKey) -> bytes:
        """Return a ping of that node, whatever the routes say."""
        # Names that strangers claim are not remembered.
        destination = name_hash(peer)
        own = self._router.own_hash
        return DataHeader(WIRE_HOPS, own, destination, service, PING_SERVICE).encode()

    def free_service(self) -> ServiceKey:
        """Return a random name that no service here has."""
        return self._router.free_service()

    def expect(self, service: ServiceKey, heard: Callable[[], None]) -> None:
        """Call ``heard`` when something arrives for a service, by whatever link."""
        self._router.bind(service, _Ear(heard))

    def expect_no_more(self, service: ServiceKey) -> None:
        """Take that back."""
        self._router.unbind(service)


class _Ear:
    """A ``Receiver`` that only tells that something came."""

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Tell of an answer."""
        self._heard()

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """Tell of a refusal by the peer's firewall, which it can only send if it has the ping."""
        self._heard()


# --- Whether a peer has really said what ends its link, where anybody may speak in its name

ASKED_EVERY = 0.5
"""Seconds between two pings of a peer that is said to have left: one may get lost."""

BELIEVED_AFTER = 3.0
"""Seconds of silence after which it is believed. A peer that lives answers within a round trip."""


class Goodbyes:
    """What a forgeable link does about words that end it.

    A peer that has said them says nothing more, so it is asked. Whatever else comes from it then
    shows that it is still there, and that somebody else has spoken.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        """``ask`` sends the peer something that it must answer."""
        self._ask = ask
        self._asked_at = -math.inf
        self._word: Ended | None = None
        self._begun = trio.Event()
        self._denied = trio.Event()

    def said(self, word: Ended) -> None:
        """Note that something was said which would end the link."""
        if self._word is None:
            self._word = word
            self._denied = trio.Event()
            self._begun.set()

    def denied(self) -> None:
        """Note that the peer has said something else."""
        if self._word is not None:
            self._word = None
            self._begun = trio.Event()
            self._denied.set()

    async def run(self) -> None:
        """Look into each word; raises it when the peer says nothing else."""
        while True:
            await self._begun.wait()
            word = self._word
            with trio.move_on_after(BELIEVED_AFTER):
                while not self._denied.is_set():
                    await trio.sleep_until(self._asked_at + ASKED_EVERY)
                    self._asked_at = trio.current_time()
                    self._ask()
                    with trio.move_on_after(ASKED_EVERY):
                        await self._denied.wait()
            if word is not None and not self._denied.is_set():
                raise word
