"""What another node says of a unit, as values: every field is read and bounded where it comes in.

Another node is believed about its own unit, and about nothing else. Whatever it sends, what gets
past this module can be stored, shown, logged and read again.
"""

import binascii
import contextlib
import json
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

import trio

from meshnode.errors import MeshError, NoRoute, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.jsonreader import MAX_SIZE, JsonObject
from meshnode.work.units.keys import Mark, Trace
from meshnode.work.units.status import EXIT_CODES, format_time

# --- The lines that another node's control service sends, and the raw bytes after them
#
# A far node may send half a line and go on later, or never; or a line without end. What waits
# here of a line is small, but for a few places for long ones, which all conversations with a node
# share.

REPLY_TIMEOUT = 60.0
"""Seconds for a reply. The slowest is that of a cancel: grace, kill, sync; and a submit's, when the
other node has a payload to store first. Longer than it matters little: nothing else waits."""

SHORT_LINE = 16 * 1024
"""Bytes that any conversation may leave waiting: a status without the words of a command has some
600, and there may be a conversation for each of thousands of units."""

MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line: a status repeats parameters, of which a command line may hold 1 MiB, and
JSON's escapes can make the sixfold of a part of them."""

LONG_LINES = 4
"""Lines longer than SHORT_LINE that wait of one node at a time, each for REPLY_TIMEOUT at most."""

CHUNK = 1024 * 1024
"""Bytes of payload or results in memory at a time. Each is a hop to a thread, which costs as much
as copying half of it."""

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class RemoteUnavailable(WorkError):
    """The other node could not be talked to, or the talk broke off: worth another try."""

    def __init__(self, text: str, *, no_route: bool = False) -> None:
        super().__init__(text)
        self.no_route = no_route


class LongLines:
    """The places for long lines, by node."""

    def __init__(self) -> None:
        self._places: WeakValueDictionary[str, trio.CapacityLimiter] = WeakValueDictionary()

    def of(self, node: str) -> trio.CapacityLimiter:
        """Return the places of a node, which all who talk to it share."""
        places = self._places.get(node)
        if places is None:
            places = self._places[node] = trio.CapacityLimiter(LONG_LINES)
        return places


class FarLines:
    """What comes by one stream."""

    def __init__(self, stream: trio.abc.ReceiveStream, long_lines: trio.CapacityLimiter) -> None:
        self._stream = stream
        self._long_lines = long_lines
        self._buffer = bytearray()
        self._searched = 0

    async def line(self, seconds: float | None, most: int = MAX_LINE) -> str:
        """Return the next line without its end; one cut off by the end of the stream is none.

        Raises:
            RemoteUnavailable: there is none of at most so many bytes within so many seconds.
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
            return bytes(await self._stream.receive_some(CHUNK))

    async def _line(self, most: int) -> bytes | None:
        """Return the next line, None if it is longer than that."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if self._searched > most:
                return None
            data = await self._stream.receive_some(most)
            if not data:
                raise RemoteUnavailable("the node closed the control session")
            self._buffer += data
        if end > most:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Say in one way that the other node cannot be talked to now."""
    try:
        yield
    except NoRoute as error:
        raise RemoteUnavailable(str(error), no_route=True) from error
    except MeshError as error:
        raise RemoteUnavailable(str(error)) from error
    except trio.TooSlowError as error:
        raise RemoteUnavailable(f"no answer within {REPLY_TIMEOUT:g} s") from error
    except _GONE as error:
        raise RemoteUnavailable(f"the stream broke: {error}") from error


pass  # SELFIMPORT

MAX_TEXT = 4096
"""Characters of a text of another node that are kept: a Detail names a fault, and the longest are
errors that repeat a command's words. Every status of the unit repeats it."""

MAX_SIGNAL = 32
"""Characters of a signal's name; the longest that Linux has is 9."""

AHEAD = timedelta(days=1)
"""How far another node's clock may be ahead of ours for its times to be shown."""

INLINE_LIMIT = 64 * 1024
"""Bytes of output that may come along with a status: sixteen times what we send ourselves."""


ALREADY_SUBMITTED = "already submitted as unit"
"""How a meshnode refuses a submission whose key it has seen; the unit's ID follows."""

_UNIT_ID = r"([a-zA-Z0-9]{1,64})"
_IS_ID = re.compile(_UNIT_ID)
_KNOWN_AS = re.compile(rf"{ALREADY_SUBMITTED} {_UNIT_ID}(?![a-zA-Z0-9])")
_UNIT_CREATED = re.compile(rf"with ID {_UNIT_ID}\.")


class RemoteRefused(WorkError):
    """The other node answered ``ERROR: <text>``; ``reason`` is that text."""

    def __init__(self, reason: str, *, told: str = "") -> None:
        self.reason = printable(reason)
        super().__init__(told + self.reason)

    @property
    def unit_unknown(self) -> bool:
        """Whether the node says that it has no such unit."""
        return self.reason.startswith("unknown work unit")


class AlreadySubmitted(RemoteRefused):
    """The other node has a unit of that submission key: ``unit_id``."""

    def __init__(self, reason: str, unit_id: str) -> None:
        super().__init__(reason)
        self.unit_id = unit_id


@dataclass(frozen=True, slots=True)
class Created:
    """A unit that the other node has made; ``mark`` is None where it knows no keys."""

    unit_id: str
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class FarTrace:
    """What the other node knows of a submission."""

    mark: Mark
    """Of this moment: of what there is now, the store cannot have forgotten an end before it."""
    trace: Trace
    unit_id: str = ""
    work: str = ""
    """Digest of the work under that key, where there is a unit."""
    never_ran: bool = False
    state: UnitState | None = None
    """How a unit that is gone had ended."""

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> "FarTrace":
        """Read the reply to ``work submitted``.

        Raises:
            RemoteUnavailable: it is none.
        """
        told, trace = reply.get("Mark"), reply.get("Trace")
        mark = Mark.find(told) if isinstance(told, str) else None
        unit_id, state = reply.get("UnitID"), reply.get("State")
        if mark is None or trace not in tuple(Trace):
            raise RemoteUnavailable("the node did not say what it knows of the submission")
        if trace == Trace.UNIT and not (isinstance(unit_id, str) and _IS_ID.fullmatch(unit_id)):
            raise RemoteUnavailable("the node did not say which unit the submission is")
        return cls(
            mark=mark,
            trace=Trace(trace),
            unit_id=unit_id if isinstance(unit_id, str) else "",
            work=str(reply.get("Work", "")),
            never_ran=reply.get("NeverRan") is True,
            state=None if state is None else _state_or_none(state),
        )


class NoStatus(WorkError):
    """What came is not the status of a unit."""


@dataclass(frozen=True, slots=True)
class FarStatus:
    """What the other node says of the unit."""

    state: UnitState
    detail: str
    stdout_size: int
    started: str | None = None
    finished: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    stdout: bytes = b""
    """All of stdout, where it came along."""

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any], now: datetime) -> "FarStatus":
        """Read a status reply; our own keys are missing in receptor's.

        State and size must be right, or nothing is known of the unit. Of the rest, what makes no
        sense is left out.

        Raises:
            NoStatus: it is none.
        """
        return cls(
            state=_state(reply.get("State")),
            detail=_detail(reply.get("Detail")),
            stdout_size=_size(reply.get("StdoutSize")),
            started=_time(reply.get("Started"), now),
            finished=_time(reply.get("Finished"), now),
            exit_code=_exit_code(reply.get("ExitCode")),
            signal=_signal(reply.get("Signal")),
            stdout=_inline(reply.get("Stdout")),
        )


def read_created(line: str) -> Created:
    """Return what the other node tells of the unit that it has made.

    Raises:
        AlreadySubmitted, RemoteRefused
    """
    if line.startswith("ERROR") and (known := _KNOWN_AS.search(line)):
        raise AlreadySubmitted(line.removeprefix("ERROR: "), known[1])
    created = _UNIT_CREATED.search(line)
    if line.startswith("ERROR") or created is None:
        reason = line.removeprefix("ERROR: ")
        error = line[: len(line) - len(reason)]
        raise RemoteRefused(reason, told=f"could not parse response: {error}")
    return Created(created[1], Mark.find(line[created.end() :]))


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


def printable(text: str, most: int = MAX_TEXT) -> str:
    """Return a text of another node fit for one line of a person's: escaped, and cut if long."""
    if len(text) <= most and text.isprintable():
        return text  # as good as always
    # Cut before as well, since an escape is up to ten characters long.
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _whole(value: object) -> int | None:
    # In Python a bool is an int.
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _state(value: object) -> UnitState:
    number = _whole(value)
    try:
        return UnitState(-1 if number is None else number)
    except ValueError:
        raise NoStatus(f"State is {_shown(value)}") from None


def _state_or_none(value: object) -> UnitState | None:
    try:
        return _state(value)
    except NoStatus:
        return None


def _size(value: object) -> int:
    number = _whole(value)
    if number is None or not 0 <= number <= MAX_SIZE:
        raise NoStatus(f"StdoutSize is {_shown(value)}")
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
    """Return a time in our own form, None if it cannot be one of that unit."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    if moment.timestamp() < 0 or moment - now > AHEAD:
        return None
    return format_time(moment)


def _exit_code(value: object) -> int | None:
    number = _whole(value)
    return number if number is not None and number in EXIT_CODES else None


def _signal(value: object) -> str | None:
    is_name = isinstance(value, str) and len(value) <= MAX_SIGNAL and value.isprintable()
    return value if isinstance(value, str) and is_name else None


def _inline(value: object) -> bytes:
    """Return output that came along; what is damaged is asked for like that which did not come."""
    if not isinstance(value, str) or len(value) > INLINE_LIMIT * 4 // 3 + 4:
        return b""
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""
