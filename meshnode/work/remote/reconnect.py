"""Reaches a node that comes and goes: dials it, checks who answers, says when to try again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from meshnode.logs import SubjectLogger
from meshnode.mesh.streams.layer import MANY_STREAMS
from meshnode.protocol.control import CONTROL_SERVICE, STREAMS, TAKES_TAG, greeting
from meshnode.work.placement.nodes import MeshView
from meshnode.work.remote.client import RemoteControl, Sign
from meshnode.work.remote.failures import (
    NO_ROUTE,
    RemoteUnavailable,
    printable,
    translated,
)
from meshnode.work.remote.outage import Outage
from meshnode.work.remote.replies import LongLines, ReplyLines

if TYPE_CHECKING:
    from meshnode.security.tls import TlsSource

    FindTls = Callable[[], TlsSource]
    """Returns where to get the settings of a ``tls-client``, or raises NoTlsClient."""

GREETING_TIMEOUT = 10.0
"""Seconds for the greeting once the stream is open: twice receptor's, for busy nodes."""

MAX_GREETING = 1024
"""Bytes of the greeting, which holds a node ID of at most 255."""

TYPES_SHOWN = 8
"""Work types that an error names; ``status`` has them all."""

FIRST_DELAY = 0.1
DELAY_GROWTH = 1.5
LONGEST_DELAY = 20.0
"""Seconds between tries of a node that is there and refuses: short at first, since a service may be
starting, and at most receptor's redial. An unreachable node costs no tries."""

REST = 10.0
"""A pause is at least so many times as long as the try before: a payload for which the other node
has no room is not sent over and over."""

SETTLE = 1.0
"""Seconds from a change of routes until it is looked at: most ways that are lost are replaced."""


class Dialer(MeshView, Protocol):
    """What remote work asks of the mesh; ``meshnode.mesh.mesh.Mesh`` has this shape."""

    async def dial(
        self, node: str, service: str, tls: "TlsSource | None" = None
    ) -> trio.abc.HalfCloseableStream:
        """Open a stream; ``tls`` has its settings. Raises MeshError."""
        ...

    def is_reachable(self, node: str) -> bool:
        """Whether a route to the node is known."""
        ...

    async def wait_reachable(self, node: str) -> None:
        """Return as soon as a route to the node is known."""
        ...

    async def wait_routes_changed(self) -> None:
        """Return when other nodes can be reached than before, or by other ways."""
        ...


def is_meshnode(dialer: Dialer, node: str) -> bool:
    """Whether ``node`` advertises its control service as a meshnode's.

    A receptor node would take the additional keys of a submission for parameters of the work.
    """
    tag, value = MANY_STREAMS
    return _tag(dialer, node, tag) == value


def taken_keys(dialer: Dialer, node: str) -> frozenset[str]:
    """Return the keys of requests that ``node`` advertises to know beyond those of any meshnode."""
    return frozenset(_tag(dialer, node, TAKES_TAG).split(","))


def _tag(dialer: Dialer, node: str, tag: str) -> str:
    advert = dialer.find_service(node, CONTROL_SERVICE)
    return "" if advert is None else (advert.tags or {}).get(tag, "")


async def open_talk(
    dialer: Dialer,
    node: str,
    long_lines: trio.CapacityLimiter,
    *,
    sign: Sign | None = None,
    tls: "TlsSource | None" = None,
) -> RemoteControl:
    """Open a conversation with a node, once it has shown its name.

    Raises:
        RemoteUnavailable: it cannot be reached now, or another node answers for it.
        RemoteDistrusted: it, or this node, does not take the other's certificate.
    """
    with translated(dialer.node_id):
        stream = await dialer.dial(node, CONTROL_SERVICE, tls)
    with_meshnode = is_meshnode(dialer, node)
    lines = ReplyLines(stream, long_lines)
    try:
        line = await lines.line(GREETING_TIMEOUT, MAX_GREETING)
        if line.startswith("ERROR: "):
            raise RemoteUnavailable(f"refused: {printable(line.removeprefix('ERROR: '), 80)}")
        if line.encode() + b"\n" != greeting(node):
            raise RemoteUnavailable(
                f"while expecting node ID {node}, got message: {printable(line, 80)}"
            )
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    takes = taken_keys(dialer, node) if with_meshnode else frozenset()
    # An advertisement that has not come yet, as after a restart, says nothing.
    is_told = dialer.find_service(node, CONTROL_SERVICE) is not None
    return RemoteControl(
        stream,
        lines,
        node,
        sign,
        with_meshnode=with_meshnode,
        takes=takes,
        has_streams=STREAMS in takes or not is_told,
        is_advertised=is_told,
    )


class Reconnector:
    """Opens conversations with one node, and waits between tries.

    With ``sign``, each command that may need a signature has one. ``find_tls`` finds the settings
    that are to be dialed with. ``outage`` shows the unit's clients what keeps the node away.
    """

    def __init__(
        self,
        dialer: Dialer,
        node: str,
        log: SubjectLogger,
        long_lines: LongLines,
        outage: Outage,
        *,
        sign: Sign | None = None,
        find_tls: "FindTls | None" = None,
    ) -> None:
        self.outage = outage
        self._find_tls = find_tls
        self._dialer = dialer
        self._all_long_lines = long_lines
        self._long_lines = long_lines.of(node)
        self._sign = sign
        self._node = node
        self._log = log
        self._delay = FIRST_DELAY
        self._told = ""
        self._talk: RemoteControl | None = None
        """The last conversation."""
        self._recovers = False
        """Whether the last one has failed, and there is no other yet."""

    def another(self) -> "Reconnector":
        """Return one for conversations of another purpose, with pauses of its own."""
        return Reconnector(
            self._dialer,
            self._node,
            self._log,
            self._all_long_lines,
            self.outage,
            sign=self._sign,
            find_tls=self._find_tls,
        )

    async def open(self) -> RemoteControl:
        """Open a conversation with the node, once it has shown its name.

        Raises:
            RemoteUnavailable: it cannot be reached now, or another node answers for it.
            RemoteDistrusted: it, or this node, does not take the other's certificate.
        """
        self._talk = await open_talk(
            self._dialer,
            self._node,
            self._long_lines,
            sign=self._sign,
            tls=None if self._find_tls is None else self._find_tls(),
        )
        self._recovers = False
        return self._talk

    def instead_of(self, work_type: str) -> str:
        """Return what the node offers where it advertises no such type; else nothing."""
        advert = self._dialer.find_service(self._node, CONTROL_SERVICE)
        offered = sorted(known.name for known in (advert and advert.work_types) or ())
        if not offered or work_type in offered:
            return ""
        more = f" and {len(offered) - TYPES_SHOWN} more" if len(offered) > TYPES_SHOWN else ""
        return f"; it offers {', '.join(offered[:TYPES_SHOWN])}{more}"

    def succeeded(self) -> None:
        """Begin anew with short pauses: a conversation did what it was for."""
        self._delay = FIRST_DELAY
        self._told = ""
        self.outage.end()

    def show(self, error: RemoteUnavailable) -> None:
        """Show the unit's clients why the node is not reached now."""
        if self._talk is not None:
            self.outage.heard(self._talk.heard_at)
        # Whatever broke first, from here on it is the way that is missing.
        reason = str(error) if self._dialer.is_reachable(self._node) else NO_ROUTE
        self.outage.show(reason, error.meant if reason == NO_ROUTE else "")

    def route_changed(self) -> None:
        """Take the news that the way to the node is lost, or there again, during a conversation."""
        if self._recovers:
            return  # and what that finds out is newer
        if self._dialer.is_reachable(self._node):
            self.outage.end()
        else:
            self.show(RemoteUnavailable(NO_ROUTE))

    async def recover(self, error: RemoteUnavailable, spent: float = 0.0) -> None:
        """Return when another try makes sense: after a pause, and once the node is reachable.

        ``spent`` is for how many seconds the try that failed kept both nodes busy.
        """
        self._recovers = True
        # An outage is one line in the log, however many tries it takes.
        is_known = str(error) == self._told
        (self._log.debug if is_known else self._log.info)(
            "node %s: %s; trying again", self._node, error
        )
        is_first, self._told = not self._told, str(error)
        has_route = self._dialer.is_reachable(self._node)
        if not has_route:
            self._delay = FIRST_DELAY
        # No event announces that the service of a reachable node will answer.
        await trio.sleep(max(self._delay, spent * REST))
        self._delay = min(self._delay * DELAY_GROWTH, LONGEST_DELAY)
        if not is_first or not self._dialer.is_reachable(self._node):
            # What the next try mends is not worth a word.
            self.show(error)
        while True:
            with trio.move_on_after(self.outage.holds_for) as day:
                await self._dialer.wait_reachable(self._node)
            if not day.cancelled_caught:
                return
            self.show(error)


class LostRoutes:
    """Tells those that talk with a node when the way to it is lost, and when it is there again.

    A stream whose way is lost only falls silent, and is given up after half a minute. The routes
    tell at once. One task looks at them for all units, when they have changed: a unit whose way
    stays is not woken, and a conversation that outlives the loss goes on as if nothing had been.
    """

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._talking: dict[str, set[Reconnector]] = {}
        self._lost: set[str] = set()

    @contextmanager
    def told(self, node: str, reconnector: Reconnector) -> Iterator[None]:
        """Tell ``reconnector`` of the way to a node while the context lasts."""
        talking = self._talking.setdefault(node, set())
        talking.add(reconnector)
        try:
            yield
        finally:
            talking.remove(reconnector)
            if not talking:
                del self._talking[node]
                self._lost.discard(node)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Look at the routes whenever they have changed."""
        task_status.started()
        while True:
            await self._dialer.wait_routes_changed()
            await trio.sleep(SETTLE)
            self._look()

    def _look(self) -> None:
        for node, talking in self._talking.items():
            is_lost = not self._dialer.is_reachable(node)
            if is_lost == (node in self._lost):
                continue
            (self._lost.add if is_lost else self._lost.remove)(node)
            for reconnector in talking:
                reconnector.route_changed()
