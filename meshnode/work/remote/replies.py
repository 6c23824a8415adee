"""What another node sends about a unit: lines, and the values in them, all within bounds.

Another node is believed about its own unit, and about nothing else. Whatever it sends, what this
module returns can be stored, shown, logged and read again.
"""

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.launcher.records import SIZE_KEYS, STDOUT
from meshnode.work.remote.failures import (
    REPLY_TIMEOUT,
    RemoteRefused,
    RemoteUnavailable,
    printable,
    translated,
)
from meshnode.work.units.endedby import EndedBy, ended_by_from_json
from meshnode.work.units.jsonreader import MAX_SIZE, NOTHING, JsonObject, format_datetime
from meshnode.work.units.placement import ChosenHost, host_from_json
from meshnode.work.units.statusfields import EXIT_CODES, SUPERVISORS, numbers_from_json
from meshnode.work.units.submission import MAX_SHOWN

# --- Lines of the control service, and the raw bytes after them
#
# A node may send half a line, or a line without end. Each conversation may keep a short part of a
# line waiting; all conversations with a node share a few places for longer ones.

SHORT_LINE = 16 * 1024
"""Bytes of an unfinished line in each conversation. A status has some 600, and thousands of units
may have a conversation each."""

MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line. A status repeats parameters: a command line takes 1 MiB of them, and JSON's
escapes make a part of that six times as long."""

LONG_LINES = 4
"""Unfinished lines of one node that may be longer than SHORT_LINE, each for REPLY_TIMEOUT."""

CHUNK = 1024 * 1024
"""Bytes of payload or results in memory at a time. Each chunk is a hop to a thread, which costs as
much as copying half of it."""


class LongLines:
    """Limits the long lines that wait, by node."""

    def __init__(self) -> None:
        self._places: WeakValueDictionary[str, trio.CapacityLimiter] = WeakValueDictionary()

    def of(self, node: str) -> trio.CapacityLimiter:
        """Return the limiter that all conversations with a node share."""
        places = self._places.get(node)
        if places is None:
            places = self._places[node] = trio.CapacityLimiter(LONG_LINES)
        return places


class ReplyLines:
    """Reads lines and raw bytes from one stream."""

    def __init__(self, stream: trio.abc.ReceiveStream, long_lines: trio.CapacityLimiter) -> None:
        self._stream = stream
        self._long_lines = long_lines
        self._buffer = bytearray()
        self._searched = 0
        self.heard_at = trio.current_time()
        """When something last came."""

    async def line(self, seconds: float | None, most: int = MAX_LINE) -> str:
        """Return the next line without its end; one that the stream's end cuts off is none.

        Raises:
            RemoteUnavailable: no line of at most ``most`` bytes came within ``seconds``.
        """
        with translated(), trio.CancelScope() as scope:
            if seconds is not None:
                scope.deadline = trio.current_time() + seconds
            line = await self._line(min(most, SHORT_LINE))
            if line is None and most > SHORT_LINE:
                async with self._long_lines:
                    with trio.fail_after(REPLY_TIMEOUT):
                        line = await self._line(most)
            if line is None:
                raise RemoteUnavailable(f"a reply line has more than {most} bytes")
            return line.decode(errors="replace").rstrip("\r")
        raise RemoteUnavailable(f"no reply within {seconds:g} s")

    async def raw(self) -> bytes:
        """Return the next bytes as they are, ``b""`` at their end. Raises RemoteUnavailable."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self._searched = 0
            return data
        with translated():
            data = bytes(await self._stream.receive_some(CHUNK))
        self.heard_at = trio.current_time()
        return data

    async def _line(self, most: int) -> bytes | None:
        """Return the next line, None if it is longer than ``most``."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if self._searched > most:
                return None
            data = await self._stream.receive_some(most)
            if not data:
                raise RemoteUnavailable("the node closed the control session")
            self.heard_at = trio.current_time()
            self._buffer += data
        if end > most:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line


# --- Values in replies
MAX_SIGNAL = 32
"""Characters of a signal's name; Linux's longest has 9."""

AHEAD = timedelta(days=1)
"""Times of another node that are further ahead of this node's clock are not shown."""

INLINE_KEYS = {name: name.capitalize() for name in SIZE_KEYS}
"""The keys of output within a status, by the names of its files."""

INLINE_LIMIT = 64 * 1024
"""Bytes of output within a status: sixteen times what a meshnode sends."""


class NoStatus(WorkError):
    """A reply is not the status of a unit."""


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """The status that the other node gives of its unit."""

    state: UnitState
    detail: str
    sizes: Mapping[str, int]
    """Bytes of each file of output that it has, by name; each has ``stdout``."""
    started: str | None = None
    finished: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    ended_by: EndedBy | None = None
    """Who or what ended it, as that node says."""
    pid: int | None = None
    """The process of its command on that node."""
    limits: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    usage: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    isolation: str = ""
    host: ChosenHost | None = None
    inline: Mapping[str, bytes] = field(default_factory=lambda: NOTHING)
    """What came of these files with the status."""

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any], now: datetime) -> "RemoteStatus":
        """Read a status reply; receptor's lacks most keys.

        State and size must be right, or nothing is known of the unit. Other fields that make no
        sense are left out.

        Raises:
            NoStatus: it is none.
        """
        return cls(
            state=_state(reply.get("State")),
            detail=_detail(reply.get("Detail")),
            sizes=_sizes(reply),
            started=_time(reply.get("Started"), now),
            finished=_time(reply.get("Finished"), now),
            exit_code=_exit_code(reply.get("ExitCode")),
            signal=_signal(reply.get("Signal")),
            ended_by=ended_by_from_json(reply.get("EndedBy")),
            pid=_pid(reply.get("Pid")),
            limits=numbers_from_json(reply.get("Limits")) or NOTHING,
            usage=numbers_from_json(reply.get("Usage")) or NOTHING,
            isolation=_isolation(reply.get("Isolation")),
            host=host_from_json(reply.get("Host")),
            inline={name: _inline(reply[key]) for name, key in INLINE_KEYS.items() if key in reply},
        )

    def of_stdout_only(self) -> "RemoteStatus":
        """Return the status as of a node that knows no other file of output."""
        if len(self.sizes) == 1:
            return self
        inline = {name: data for name, data in self.inline.items() if name == STDOUT}
        return replace(self, sizes={STDOUT: self.sizes[STDOUT]}, inline=inline)


def read_reply(line: str) -> JsonObject:
    """Return the object of a reply line.

    Raises:
        RemoteRefused: it is an error.
        RemoteUnavailable: it is neither.
    """
    if line.startswith("ERROR"):
        raise RemoteRefused(line.removeprefix("ERROR:").strip())
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise RemoteUnavailable(f"the reply is no JSON object: {printable(line, 80)}")
    return reply


def read_status(reply: Mapping[str, Any], now: datetime) -> RemoteStatus:
    """Return the status of a unit from a reply.

    Raises:
        RemoteUnavailable: it is none. A later one may be; until then the state is unknown.
    """
    try:
        return RemoteStatus.from_reply(reply, now)
    except NoStatus as error:
        raise RemoteUnavailable(f"the node sent no unit status: {error}") from error


def _whole(value: object) -> int | None:
    # In Python a bool is an int.
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _state(value: object) -> UnitState:
    number = _whole(value)
    try:
        return UnitState(-1 if number is None else number)
    except ValueError:
        raise NoStatus(f"State is {_shown(value)}") from None


def state_or_none(value: object) -> UnitState | None:
    """Return the state of that number; None if it is none."""
    try:
        return _state(value)
    except NoStatus:
        return None


def _sizes(reply: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of a reply; one that lacks a file's key says that there is no such file."""
    keys = {name: key for name, key in SIZE_KEYS.items() if key in reply or name == STDOUT}
    return {name: _size(key, reply.get(key)) for name, key in keys.items()}


def _size(key: str, value: object) -> int:
    number = _whole(value)
    if number is None or not 0 <= number <= MAX_SIZE:
        raise NoStatus(f"{key} is {_shown(value)}")
    return number


def _detail(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NoStatus(f"Detail is {_shown(value)}")
    return printable(value)


def _shown(value: object) -> str:
    if isinstance(value, str | float) or value is None:
        return printable(repr(value), 40)
    number = _whole(value)
    if number is not None and abs(number) > MAX_SIZE:
        return "a number out of range"
    return str(number) if number is not None else f"of the type {type(value).__name__}"


def _time(value: object, now: datetime) -> str | None:
    """Return a time as this node writes it, None if it is not plausible."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    if moment.timestamp() < 0 or moment - now > AHEAD:
        return None
    return format_datetime(moment)


def _exit_code(value: object) -> int | None:
    number = _whole(value)
    return number if number is not None and number in EXIT_CODES else None


def _pid(value: object) -> int | None:
    number = _whole(value)
    return number if number is not None and number in SUPERVISORS else None


def _isolation(value: object) -> str:
    return printable(value, MAX_SHOWN) if isinstance(value, str) else ""


def _signal(value: object) -> str | None:
    is_name = isinstance(value, str) and len(value) <= MAX_SIGNAL and value.isprintable()
    return value if isinstance(value, str) and is_name else None


def _inline(value: object) -> bytes:
    """Return the output within a status; damaged output counts as none, and is asked for."""
    if not isinstance(value, str) or len(value) > INLINE_LIMIT * 4 // 3 + 4:
        return b""
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""
