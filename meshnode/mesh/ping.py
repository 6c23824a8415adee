"""Ping and traceroute (reference section 3)."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import trio

from meshnode.errors import MeshError, MeshTimeout, NoRoute, Unreachable
from meshnode.mesh.datagrams import DatagramSocket
from meshnode.protocol.messages import MAX_HOPS, PING_SERVICE, PROBLEM_EXPIRED

PING_TIMEOUT = 10.0
"""Seconds to wait for the answer to a ping (reference section 8)."""


PING_AGAIN = 1.0
"""Seconds after which an unanswered ping is sent again: datagrams are lost while routes change, and
one that was must not look like a node that does not answer."""


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

    def __init__(self, own_id: str, open_socket: Callable[[], DatagramSocket]) -> None:
        self._own_id = own_id
        self._open_socket = open_socket

    async def ping(self, node: str, hops: int = MAX_HOPS) -> PingReply:
        """Ping a node until it answers, and say how long the answered ping took.

        ``hops`` is how many links it may take.

        Raises:
            NoRoute: no path to the node is known.
            Unreachable: a node on the way said why the ping went no further.
            MeshTimeout: nothing came back within PING_TIMEOUT.
        """
        with self._open_socket() as socket, trio.move_on_after(PING_TIMEOUT):
            while True:
                start = trio.current_time()
                await socket.send_to(node, PING_SERVICE, b"", hops)
                with trio.move_on_after(PING_AGAIN):
                    reply = await socket.receive()
                    return PingReply(reply.node, trio.current_time() - start)
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
                reporter = self._own_id if isinstance(exc, NoRoute) else ""
                yield TraceHop(reporter, trio.current_time() - start, str(exc))
                return
            else:
                yield TraceHop(reply.from_node, reply.seconds)
                return
