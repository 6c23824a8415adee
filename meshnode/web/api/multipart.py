"""Reads a body of several parts (RFC 7578) as it comes, no more of it than is asked for.

A job in parts: ``job`` first, then the files that go along (``dep``, ``script``), the payload last.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from meshnode.web.problems import MALFORMED, TOO_LARGE, Problem

MAX_HEADERS: Final = 8 * 1024
"""Bytes of the headers of one part."""

PIECE: Final = 256 * 1024
"""Bytes of a body taken at a time."""

Receive = Callable[[int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Part:
    """The head of one part: its name, and the name of its file, if it is one."""

    name: str
    filename: str


class Parts:
    """The parts of one body, one after the other.

    Raises:
        Problem: in each method: the body is none of several parts, or a head is too large.
        trio.BrokenResourceError: in each: the client is gone.
    """

    def __init__(self, content_type: str, receive: Receive) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:
            raise Problem(MALFORMED, "multipart/form-data needs a boundary of 1 to 70 characters")
        self._receive = receive
        self._events: deque[Part | bytes | None] = deque()
        """Heads, pieces of content, and None for the end of a part."""
        self._head: dict[str, bytes] = {}
        self._field, self._value = bytearray(), bytearray()
        self._is_whole = False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._take(self._field),
            "on_header_value": self._take(self._value),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_head,
            "on_part_data": lambda data, start, end: self._events.append(data[start:end]),
            "on_part_end": lambda: self._events.append(None),
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    async def next_part(self) -> Part | None:
        """Return the head of the next part, None behind the last; the rest of this one is read."""
        while True:
            event = await self._next_event()
            if event is _OVER:
                return None
            if isinstance(event, Part):
                return event

    async def content(self) -> bytes:
        """Return the next bytes of this part, none at its end."""
        event = await self._next_event()
        if event is None:
            return b""
        if isinstance(event, bytes):
            return event or await self.content()
        raise AssertionError("nothing is between the end of a part and the head of the next")

    async def some(self, max_bytes: int) -> bytes:
        """Return the next bytes of this part, at most a piece of the body; none at its end."""
        return await self.content()

    async def _next_event(self) -> "Part | bytes | _Over | None":
        while not self._events:
            data = await self._receive(PIECE)
            if not data:
                if self._is_whole:
                    return _OVER
                raise Problem(MALFORMED, "the body ends within a part")
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise Problem(MALFORMED, f"the body is not in parts: {error}") from None
        return self._events.popleft()

    # --- what the parser finds -------------------------------------------------------------------

    def _begin(self) -> None:
        self._head = {}

    def _take(self, text: bytearray) -> Callable[[bytes, int, int], None]:
        def take(data: bytes, start: int, end: int) -> None:
            text.extend(data[start:end])
            if len(self._field) + len(self._value) + sum(map(len, self._head)) > MAX_HEADERS:
                raise Problem(TOO_LARGE, f"a part has more than {MAX_HEADERS} bytes of headers")

        return take

    def _end_header(self) -> None:
        self._head[self._field.decode("latin-1").lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _end_head(self) -> None:
        disposition = self._head.get("content-disposition", b"")
        _, options = parse_options_header(disposition)
        name, filename = options.get(b"name", b""), options.get(b"filename", b"")
        self._events.append(
            Part(name.decode("utf-8", "replace"), filename.decode("utf-8", "replace"))
        )

    def _end(self) -> None:
        self._is_whole = True


class _Over:
    """Stands behind the last part."""


_OVER: Final = _Over()
