"""``events``: what changes at this node, one line of JSON each, for as long as the client listens.

Who may not be told of something is told nothing: of units, those that the client may list; of the
mesh, whoever may have its status. That is asked anew for each batch, so that a reload of the rules
holds at once.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import trio

from meshnode.control.events import Batch, EventHub, Listener, Topic
from meshnode.control.registry import (
    Asking,
    Command,
    CommandRegistry,
    ControlSession,
    Handler,
    JsonObject,
    while_client_is_there,
)
from meshnode.errors import CommandError
from meshnode.permissions import Verb
from meshnode.protocol.control import encode_reply
from meshnode.protocol.times import format_time
from meshnode.security.access import MAX_SHOWN
from meshnode.security.identity import shown_text

BATCH_BYTES = 256 * 1024
"""Bytes of one batch, but for its last line: a slow reader costs no more."""

PAUSE = 0.05
"""Seconds between two batches for one client: what changes meanwhile goes into the next."""

MESH_TOPICS = (Topic.LINK, Topic.ROUTE, Topic.SERVICE)
"""What is known to whoever may have the status of the mesh."""

NAMES: Mapping[str, tuple[Topic, ...]] = {
    "units": (Topic.UNIT,),
    "links": (Topic.LINK,),
    "routes": (Topic.ROUTE,),
    "services": (Topic.SERVICE,),
    "mesh": MESH_TOPICS,
}
"""What clients call topics when they ask for them."""

MAX_SEQ = 2**63 - 1
"""No number of an event is larger."""

Shows = Callable[[object], bool]
"""Whether a client may be told of what an event is about."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Who may be told of a topic."""

    require: Callable[[ControlSession], None]
    """Raises NotAllowed if there is nothing that the client may be told of."""
    viewer: Callable[[ControlSession], Shows | None]
    """Returns what the client may be told of at this moment; None is nothing at all. Nobody is
    told that this was asked."""


def mesh_audiences(registry: CommandRegistry) -> dict[Topic, Audience]:
    """Return who may be told of the mesh: whoever may have its status."""

    def viewer(session: ControlSession) -> Shows | None:
        return _shows_all if registry.may(session, Verb.MESH) else None

    audience = Audience(lambda session: registry.require(session, Verb.MESH), viewer)
    return dict.fromkeys(MESH_TOPICS, audience)


def _shows_all(about: object) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class EventsRequest:
    """What a client asks for; without ``topics`` all that it may have."""

    topics: frozenset[Topic] | None = None
    since: int | None = None


def events_command(hub: EventHub, audiences: Mapping[Topic, Audience]) -> Command:
    """Return the command that tells clients what changes."""
    command = EventsCommand(hub, audiences)
    return Command(
        "events",
        parse_text=lambda words: command.handler(parse_text(words)),
        parse_json=lambda data: command.handler(parse_json(data)),
    )


class EventsCommand:
    """Tells clients what changes."""

    def __init__(self, hub: EventHub, audiences: Mapping[Topic, Audience]) -> None:
        self._hub = hub
        self._audiences = audiences

    def handler(self, request: EventsRequest) -> Handler:
        """Return what serves a request."""

        async def run(session: ControlSession) -> None:
            topics = self._topics(request, session)
            # Before the client knows of it: what it asks for next is not older.
            with self._hub.listen(topics, request.since) as listener:
                await session.send(b"Streaming events\n")
                session.finish()
                await session.send(_start(listener, topics))
                await while_client_is_there(session, lambda: self._stream(listener, session))

        return Asking(run, None)

    def _topics(self, request: EventsRequest, session: ControlSession) -> list[Topic]:
        """Return what a client gets. Raises NotAllowed: it may not have what it asks for."""
        if request.topics is not None:
            for topic in sorted(request.topics):
                self._audiences[topic].require(session)
            return sorted(request.topics)
        audiences = sorted(self._audiences.items(), key=lambda one: one[0])
        found = [topic for topic, one in audiences if one.viewer(session) is not None]
        if not found:
            for _, one in audiences:
                one.require(session)  # the first refuses, and tells whoever keeps account
        return found

    async def _stream(self, listener: Listener, session: ControlSession) -> None:
        while True:
            await listener.wait()
            async with session.turn():
                batch = listener.take()
                lines = b"" if batch is None else self._lines(batch, listener, session)
            if lines:
                await session.send(lines)
            await trio.sleep(PAUSE)

    def _lines(self, batch: Batch, listener: Listener, session: ControlSession) -> bytes:
        if batch.is_lost:
            return _own_line(listener.seq, "lost", {"missed": batch.missed})
        topics = {entry.topic for entry in batch.entries}
        shows = {topic: self._audiences[topic].viewer(session) for topic in topics}
        lines = bytearray()
        for entry in batch.entries:
            may = shows[entry.topic]
            if may is not None and may(entry.about):
                lines += self._hub.line(entry, batch.after)
            if len(lines) >= BATCH_BYTES:
                listener.put_back(entry)
                break
        return bytes(lines)


def _start(listener: Listener, topics: Iterable[Topic]) -> bytes:
    """Return the line that says after which event the stream begins, and what it is about."""
    return _own_line(listener.seq, "start", {"topics": list(topics)})


def _own_line(seq: int, topic: str, more: JsonObject) -> bytes:
    told = {"seq": seq, "time": format_time(time.time_ns()), "topic": topic}
    return encode_reply({**told, **more})


# --- reading requests ----------------------------------------------------------------------------


def parse_text(words: str) -> EventsRequest:
    """Read what stands after ``events ``: topics with commas, and a number. Raises CommandError."""
    topics, _, since = words.partition(" ")
    if since and not (since.isascii() and since.isdecimal() and len(since) < 20):
        raise CommandError("events takes topics and the number of an event: events units,links 17")
    data: JsonObject = {"topics": topics.split(",")} if topics else {}
    return parse_json(data | {"since": int(since)} if since else data)


def parse_json(data: JsonObject) -> EventsRequest:
    """Read a whole JSON object. Raises CommandError."""
    since = data.get("since")
    if since is not None and (type(since) is not int or not 0 <= since <= MAX_SEQ):
        raise CommandError("field since must be the number (seq) of an event")
    if data.get("topics") is None:
        return EventsRequest(None, since)
    names = data["topics"]
    if not isinstance(names, list) or not names:
        raise CommandError("field topics must be a list of topics")
    return EventsRequest(frozenset(_topics_of(names)), since)


def _topics_of(names: Iterable[object]) -> Iterable[Topic]:
    for name in names:
        topics = NAMES.get(name.lower()) if isinstance(name, str) else None
        if topics is None:
            named = shown_text(name if isinstance(name, str) else repr(name), MAX_SHOWN)
            raise CommandError(f"unknown topic {named}; topics are {', '.join(NAMES)}")
        yield from topics
