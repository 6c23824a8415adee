"""What changes at a node, told to whoever listens: units, links, routes, services.

Theory of operation.

There is one log for each topic, and all listeners read from it. A log has one entry for each thing
that has changed lately: its newest change, at the end. So a listener is no more than a number, that
of the last change which it was told. Whoever reads slowly costs nothing: of what changes a hundred
times meanwhile it is told once, how it is by then. A log is bounded. Who has missed an entry that
fell out of it is told so (``lost``), and asks for everything anew.

Numbers count up through all lives of a node: each begins at the microseconds of the clock. So a
listener that comes back with the last number it was told goes on from there, or is told ``lost``.

Nobody listens most of the time. Then :attr:`EventHub.is_on` is False, and whoever has something to
tell looks at that first. The hub stays on for a while after its last listener, so that one whose
connection broke finds all that it has missed.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import trio

from meshnode.control.registry import JsonObject
from meshnode.protocol.control import encode_reply
from meshnode.protocol.times import format_time

MOST_KEPT = 4096
"""Things whose changes one log remembers: some minutes of a busy node."""

LOG_BYTES = 4 * 1024 * 1024
"""Bytes that the entries of one log may take: what peers advertise of a service may be 64 KiB."""

ENTRY_BYTES = 600
"""Bytes that an entry takes beside its texts."""

STAYS_ON = 300.0
"""Seconds without listeners after which changes are no longer noted."""

MOST_AT_ONCE = 256
"""Events that are taken together: some 100 KiB."""


class Topic(StrEnum):
    """What changes are about."""

    UNIT = "unit"
    LINK = "link"
    ROUTE = "route"
    SERVICE = "service"


class Change(StrEnum):
    """What has become of something."""

    CREATED = "created"
    CHANGED = "changed"
    ENDED = "ended"
    RELEASED = "released"
    """A unit is gone."""
    UP = "up"
    DOWN = "down"
    PEER = "peer"
    """A configured peer fares otherwise than before."""
    ADDED = "added"
    REMOVED = "removed"


COMES = frozenset({Change.CREATED, Change.ADDED, Change.UP})
"""What there was not before."""

GOES = frozenset({Change.RELEASED, Change.REMOVED, Change.DOWN})
"""Nothing is left of what it was."""

Key = tuple[str, ...]
"""What names a thing within its topic: an ID, or two of them."""

Describe = Callable[[], JsonObject]
"""Returns what an event tells of its thing, as that is by now."""


@dataclass(slots=True, eq=False)
class Entry:
    """The newest change of one thing.

    ``about`` is what decides who may be told; ``came`` is how it has come, and ``since`` and
    ``ended`` are the numbers of that change and of its end, 0 if there were none.
    """

    seq: int
    unix: float
    topic: Topic
    key: Key
    last: Change
    describe: Describe
    about: object
    came: Change = Change.CREATED
    since: int = 0
    ended: int = 0
    _body: JsonObject | None = None
    _lines: dict[Change, bytes] = field(default_factory=dict)

    def change_since(self, seq: int) -> Change:
        """Return what has become of it for a listener who knows all changes up to ``seq``."""
        if self.last in GOES:
            return self.last
        if self.ended > seq:
            return Change.ENDED
        return self.came if self.since > seq else self.last

    def line(self, seq: int) -> bytes:
        """Return the line of JSON for such a listener."""
        change = self.change_since(seq)
        line = self._lines.get(change)
        if line is None:
            if self._body is None:
                self._body = self.describe()
            head = {"seq": self.seq, "time": format_time(int(self.unix * 1e9))}
            told = {**head, "topic": self.topic, "id": "/".join(self.key), "change": change}
            line = self._lines[change] = encode_reply({**told, **self._body})
        return line

    @property
    def size(self) -> int:
        """Bytes that it is reckoned to take."""
        # What a line is made of is kept as well.
        return ENTRY_BYTES + sum(map(len, self.key)) + 2 * sum(map(len, self._lines.values()))


class Log:
    """The newest changes of one topic, by what has changed, the oldest first."""

    def __init__(self, most: int) -> None:
        self.floor = 0
        """The number of the newest change that is no longer here."""
        self._most = most
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Put a change in the place of an older one of the same thing."""
        older = self._entries.pop(entry.key, None)
        if older is not None:
            self._bytes -= older.size
            if older.last not in GOES and not entry.since:
                entry.came, entry.since = older.came, older.since
                entry.ended = entry.ended or older.ended
        self._entries[entry.key] = entry
        self._bytes += entry.size
        self._trim()

    def since(self, seq: int) -> list[Entry]:
        """Return the changes after that number, the oldest first."""
        found: list[Entry] = []
        for entry in reversed(self._entries.values()):
            if entry.seq <= seq:
                break
            found.append(entry)
        found.reverse()
        return found

    def line(self, entry: Entry, seq: int) -> bytes:
        """Return the line for a listener who knows all changes up to ``seq``; it is kept."""
        before = entry.size
        line = entry.line(seq)
        if self._entries.get(entry.key) is entry:
            self._bytes += entry.size - before
            self._trim()
        return line

    def clear(self, floor: int) -> None:
        """Forget everything up to that number."""
        self._entries.clear()
        self._bytes, self.floor = 0, floor

    def _trim(self) -> None:
        while len(self._entries) > self._most or self._bytes > LOG_BYTES:
            _, entry = self._entries.popitem(last=False)
            self._bytes -= entry.size
            self.floor = entry.seq


@dataclass(frozen=True, slots=True)
class Batch:
    """What a listener is to be told next: that it has lost something, or what has changed.

    ``after`` is what it was told before: the changes are since then. ``missed`` is how many at
    most, None if nobody knows.
    """

    after: int
    entries: tuple[Entry, ...] = ()
    is_lost: bool = False
    missed: int | None = None


class Listener:
    """One reader of some logs; made by :meth:`EventHub.listen`."""

    def __init__(self, hub: "EventHub", logs: Collection[Log], seq: int, *, is_lost: bool) -> None:
        self.seq = seq
        """The number of the last change that it knows of."""
        self._hub = hub
        self._logs = logs
        self._is_lost = is_lost
        self._news = trio.Event()

    def wake(self) -> None:
        """Note that there is something new."""
        self._news.set()

    async def wait(self) -> None:
        """Return when something may be new since the last :meth:`take`."""
        if not (self._is_lost or any(log.floor > self.seq for log in self._logs)):
            await self._news.wait()

    def take(self, most: int = MOST_AT_ONCE) -> Batch | None:
        """Return what is new, at most so many changes; None if nothing is."""
        self._news = trio.Event()
        after, floor = self.seq, max(log.floor for log in self._logs)
        if self._is_lost or floor > after:
            missed = None if self._is_lost else floor - after
            self._is_lost, self.seq = False, self._hub.seq
            return Batch(after, is_lost=True, missed=missed)
        found = [entry for log in self._logs for entry in log.since(after)]
        if not found:
            return None
        found.sort(key=_seq_of)
        if len(found) > most:
            self._news.set()
        entries = tuple(found[:most])
        self.seq = entries[-1].seq
        return Batch(after, entries)

    def put_back(self, last: Entry) -> None:
        """Have what comes after an entry of the last batch taken again."""
        self.seq = last.seq
        self._news.set()


def _seq_of(entry: Entry) -> int:
    return entry.seq


class EventHub:
    """What changes, and who listens."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = trio.current_time,
        most: int = MOST_KEPT,
    ) -> None:
        """``clock`` is the one that people read; ``most`` bounds each log."""
        self._clock = clock
        self._monotonic = monotonic
        self.seq = int(clock() * 1e6)
        """The number of the last change."""
        self.is_on = False
        """Whether anybody is to be told of changes: look at this before telling of one."""
        self._logs = {topic: Log(most) for topic in Topic}
        self._listeners: dict[Topic, set[Listener]] = {topic: set() for topic in Topic}
        self._stays_on = float("-inf")
        """Until when changes are noted although nobody listens, by trio's clock."""
        self._switched_on = trio.Event()

    def tell(
        self, topic: Topic, key: Key, change: Change, describe: Describe, about: object = None
    ) -> None:
        """Tell listeners that something has changed; ``about`` decides who may know of it."""
        if not self.goes_on():
            return
        self.seq += 1
        entry = Entry(self.seq, self._clock(), topic, key, change, describe, about)
        if change in COMES:
            entry.came, entry.since = change, self.seq
        elif change is Change.ENDED:
            entry.ended = self.seq
        self._logs[topic].add(entry)
        for listener in self._listeners[topic]:
            listener.wake()

    def line(self, entry: Entry, seq: int) -> bytes:
        """Return the line of JSON for a listener who knows all changes up to ``seq``."""
        return self._logs[entry.topic].line(entry, seq)

    def goes_on(self) -> bool:
        """Whether anybody is to be told still; :attr:`is_on` says so from here on."""
        if self.is_on and not any(self._listeners.values()):
            self.is_on = self._monotonic() < self._stays_on
        return self.is_on

    @contextmanager
    def listen(self, topics: Collection[Topic], since: int | None = None) -> Iterator[Listener]:
        """Listen to some topics while the context lasts.

        ``since`` is the number of the last change that the listener has been told before; without
        one it is told of what changes from now on.
        """
        if not self.goes_on():
            self._switch_on()
        logs = [self._logs[topic] for topic in topics]
        known = since is None or max(log.floor for log in logs) <= since <= self.seq
        seq = self.seq if since is None or not known else since
        listener = Listener(self, logs, seq, is_lost=not known)
        # What has changed since is there already.
        listener.wake()
        for topic in topics:
            self._listeners[topic].add(listener)
        try:
            yield listener
        finally:
            for topic in topics:
                self._listeners[topic].discard(listener)
            self._stays_on = self._monotonic() + STAYS_ON

    def _switch_on(self) -> None:
        # Nobody has counted what changed until now: whoever comes back has lost it.
        self.seq += 1
        for log in self._logs.values():
            log.clear(self.seq)
        self.is_on = True
        self._switched_on.set()
        self._switched_on = trio.Event()

    async def wait_on(self) -> None:
        """Return when somebody is to be told of changes."""
        if not self.goes_on():
            await self._switched_on.wait()
