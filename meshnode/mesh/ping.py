"""Ping and traceroute (protocol section 3)."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import trio

from meshnode.errors import MeshError, MeshTimeout, NoRoute, Unreachable
from meshnode.mesh.links.base import Message
from meshnode.mesh.router import Router
from meshnode.protocol import messages
from meshnode.protocol.messages import (
    MAX_HOPS,
    PING_SERVICE,
    PROBLEM_EXPIRED,
    WIRE_HOPS,
    DataHeader,
    ServiceKey,
)
from meshnode.protocol.namehash import NameTable

PING_TIMEOUT = 10.0
"""Seconds to wait for the answer to a ping (protocol section 8)."""

PING_AGAIN = 1.0
"""Seconds after which an unanswered ping is sent again: messages are lost while routes change. That
must not look like a node that does not answer."""


NO_ROUTE = "no route to node"
"""What a hop says of a node without a route: receptor's words, without the node's name."""


@dataclass(frozen=True, slots=True)
class PingReply:
    """The answer to a ping: from which node, after how many seconds."""

    from_node: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TraceHop:
    """One line of a traceroute; ``error`` is set on the last one when the node was not reached."""

    from_node: str
    seconds: float
    error: str | None = None


class Pinger:
    """Sends pings from short-lived services of one node."""

    def __init__(self, router: Router, names: NameTable) -> None:
        self._own_id = router.own_id
        self._router = router
        self._names = names

    async def ping(self, node: str, hops: int = MAX_HOPS) -> PingReply:
        """Ping a node until it answers, and say how long the answered ping took.

        ``hops`` is how many links it may take.

        Raises:
            NoRoute: no path to the node is known.
            Unreachable: a node on the way said why the ping went no further.
            MeshTimeout: nothing came back within PING_TIMEOUT.
        """
        echo = _Echo(self._names, self._router.resolve(node))
        service = self._router.free_service()
        self._router.bind(service, echo)
        try:
            return await self._await(echo, service, node, hops)
        finally:
            self._router.unbind(service)

    async def _await(self, echo: "_Echo", service: ServiceKey, node: str, hops: int) -> PingReply:
        now = trio.current_time()
        timeout = now + PING_TIMEOUT
        while now < timeout:
            start = now
            destination = self._router.resolve(node)
            header = DataHeader(
                min(hops - 1, WIRE_HOPS),
                self._router.own_hash,
                destination,
                service,
                PING_SERVICE,
            )
            self._router.send(destination, header.encode(), at_once=True)
            with trio.move_on_at(min(start + PING_AGAIN, timeout)):
                await echo.heard.wait()
            now = trio.current_time()
            if echo.node is not None:
                return PingReply(echo.node, now - start)
            if echo.problem is not None:
                raise echo.problem
        raise MeshTimeout("timeout")

    async def traceroute(self, node: str) -> AsyncGenerator[TraceHop, None]:
        """Yield every node on the way to ``node``, this one first."""
        start = trio.current_time()
        await trio.lowlevel.checkpoint()
        yield TraceHop(self._own_id, trio.current_time() - start)
        if node == self._own_id or node.lower() == "localhost":
            return
        for hops in range(1, MAX_HOPS + 1):
            start = trio.current_time()
            try:
                reply = await self.ping(node, hops)
            except Unreachable as exc:
                error = None if exc.problem == PROBLEM_EXPIRED else exc.problem
                yield TraceHop(exc.reporter, trio.current_time() - start, error)
                if error is not None:
                    return
            except MeshError as exc:
                is_here = isinstance(exc, NoRoute)
                hop = trio.current_time() - start
                yield TraceHop(
                    self._own_id if is_here else "", hop, NO_ROUTE if is_here else str(exc)
                )
                return
            else:
                yield TraceHop(reply.from_node, reply.seconds)
                return


class _Echo:
    """The ``Receiver`` of one ping of ``target``: the first answer or notice counts."""

    def __init__(self, names: NameTable, target: bytes) -> None:
        self._names = names
        self._target = target
        self.heard = trio.Event()
        self.node: str | None = None
        self.problem: Unreachable | None = None

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Take the answer from the router."""
        node = self._names.name(source)
        is_answer = source == self._target and source_service == PING_SERVICE
        if is_answer and node is not None and not self.heard.is_set():
            self.node = node
            self.heard.set()

    def on_unreachable(self, notice: messages.Unreachable, reporter: str) -> None:
        """Take the notice that the ping went no further from the router."""
        about = (self._names.learn(notice.to_node), notice.to_service)
        if about == (self._target, PING_SERVICE) and not self.heard.is_set():
            self.problem = Unreachable(notice.problem, reporter)
            self.heard.set()
