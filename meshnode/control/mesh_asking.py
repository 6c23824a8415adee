"""Asks other nodes what they know of themselves: their version, and how their links fare.

Nodes flood who is linked to whom and what they offer. What changes all the time stays where it is,
and is asked of a node's control service when somebody wants to see it. A receptor node is asked the
same question, ``status``, and tells its version only.

Whatever a node answers is read totally: a field that is not what it should be is left out.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import trio

from meshnode.control.registry import JsonObject
from meshnode.errors import MeshnodeError
from meshnode.mesh.links.base import LinkFigures
from meshnode.mesh.peers.conditions import Moment
from meshnode.protocol.times import SECOND, parse_time
from meshnode.security.identity import shown_text

QUESTION: Mapping[str, Any] = {
    "command": "status",
    "requested_fields": ["Version", "Connections"],
}

AT_ONCE = 8
"""Nodes that are asked at the same time: each takes a stream."""

ANSWER_TIMEOUT = 5.0
"""Seconds for one node to answer: who looks at a mesh does not wait for those that hang."""

ALL_TIMEOUT = 15.0
"""Seconds for all of them."""

KEPT = 5.0
"""Seconds for which an answer is good, also that there was none: many may look at once."""

ANSWERS_BYTES = 2 * 1024 * 1024
"""Bytes of answers that are kept: those of a thousand nodes with some links each."""

MAX_LINKS = 1000
"""Links that are read of an answer."""

LINK_BYTES = 400
"""Bytes that a link takes beside its texts."""

MAX_TEXT = 200
"""Characters of a text of another node."""

MOST = 2**63 - 1
"""No number of bytes or nanoseconds is larger."""

Ask = Callable[[str, Mapping[str, Any]], Awaitable[JsonObject]]
"""Sends a command to a node and returns its reply. Raises MeshnodeError."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node has told of itself; ``error`` is why it has not."""

    asked: Moment
    version: str | None = None
    links: Mapping[str, LinkFigures] | None = None
    """How its links fare, by their peers."""
    error: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it is reckoned to take."""
        links = self.links or {}
        return 2 * LINK_BYTES + sum(LINK_BYTES + 2 * len(peer) for peer in links)


class NodeAsker:
    """Asks nodes, some at once, and keeps what they answer for a moment."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._places = trio.CapacityLimiter(AT_ONCE)
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._bytes = 0
        self._turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    async def answers(self, nodes: Iterable[str]) -> dict[str, Answer]:
        """Return what each of the nodes answers, or why it does not."""
        found: dict[str, Answer] = {}

        async def ask(node: str) -> None:
            found[node] = await self._answer(node)

        self._forget_old()
        wanted = tuple(nodes)
        with trio.move_on_after(ALL_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for node in wanted:
                    nursery.start_soon(ask, node)
        late = Answer(Moment.now(), error=f"no answer within {ALL_TIMEOUT:g} s")
        return {node: found.get(node, late) for node in wanted}

    async def _answer(self, node: str) -> Answer:
        # One question at a time: who asks meanwhile has the answer to it.
        turn = self._turns.get(node)
        if turn is None:
            turn = self._turns[node] = trio.Lock()
        async with turn:
            known = self._answers.get(node)
            if known is not None and known.asked.age < KEPT:
                return known
            async with self._places:
                answer = await self._ask_now(node)
            self._keep(node, answer)
            return answer

    async def _ask_now(self, node: str) -> Answer:
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                reply = await self._ask(node, QUESTION)
        except trio.TooSlowError:
            error = f"no answer within {ANSWER_TIMEOUT:g} s"
        except MeshnodeError as problem:
            error = shown_text(str(problem), MAX_TEXT)
        else:
            return read_answer(reply)
        return Answer(Moment.now(), error=error)

    def _keep(self, node: str, answer: Answer) -> None:
        self._forget(node)
        self._answers[node] = answer
        self._bytes += answer.size
        while self._bytes > ANSWERS_BYTES:
            self._forget(next(iter(self._answers)))

    def _forget(self, node: str) -> None:
        answer = self._answers.pop(node, None)
        if answer is not None:
            self._bytes -= answer.size

    def _forget_old(self) -> None:
        for node, answer in list(self._answers.items()):
            if answer.asked.age < KEPT:
                break
            self._forget(node)


# --- reading what another node says --------------------------------------------------------------


def read_answer(reply: Mapping[str, Any]) -> Answer:
    """Return what a reply tells; any JSON object tells something, if only nothing."""
    version, connections = reply.get("Version"), reply.get("Connections")
    links: dict[str, LinkFigures] = {}
    for one in connections[:MAX_LINKS] if isinstance(connections, list) else ():
        figures = _read_link(one)
        if figures is not None:
            links[one["NodeID"]] = figures
    shown = shown_text(version, MAX_TEXT) if isinstance(version, str) else None
    return Answer(Moment.now(), shown, links)


def _read_link(one: object) -> LinkFigures | None:
    """Return the figures of a link; None of one that has none, as receptor's."""
    if not isinstance(one, dict) or not _is_text(one.get("NodeID")):
        return None
    since = _read_time(one.get("Since"))
    if since is None or not _is_text(one.get("Kind")):
        return None
    address, round_trip = one.get("Address"), _number(one.get("RoundTrip"))
    return LinkFigures(
        kind=shown_text(one["Kind"], MAX_TEXT),
        address=shown_text(address, MAX_TEXT) if isinstance(address, str) else "",
        since=since,
        uptime=(_number(one.get("Uptime")) or 0) / SECOND,
        sent_messages=_number(one.get("SentMessages")) or 0,
        sent_bytes=_number(one.get("SentBytes")) or 0,
        received_messages=_number(one.get("ReceivedMessages")) or 0,
        received_bytes=_number(one.get("ReceivedBytes")) or 0,
        dropped=_number(one.get("Dropped")) or 0,
        refused=_number(one.get("Refused")) or 0,
        round_trip=None if round_trip is None else round_trip / SECOND,
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MOST else None


def _read_time(value: object) -> float | None:
    try:
        return parse_time(value) / SECOND if isinstance(value, str) else None
    except ValueError:
        return None
