"""What a client sends: command lines and what follows them, within bounds of time and memory."""

from collections.abc import Awaitable, Callable, Mapping
from math import inf

import trio

from meshnode.control.budgets import HeldLine
from meshnode.control.places import Place
from meshnode.control.registry import SessionKind
from meshnode.protocol.control import TLS_RECORD, LineReader
from meshnode.protocol.framing import begins_as_frame

CHUNK = 64 * 1024
"""Bytes asked of a stream at a time: a pipe's or socket buffer's usual size."""

IDLE_TIMEOUT: Mapping[SessionKind, float] = {"unix": 86400.0, "tcp": 3600.0, "mesh": 1800.0}
"""Seconds for which a session may wait for a command. Programs keep theirs for the next one, and
people type; but a client that vanished from the network must be noticed some day."""

LINE_TIMEOUT = 120.0
"""Seconds for a command line that was begun to be complete: the longest, at 10 KB a second."""

PAYLOAD_TIMEOUT: Mapping[SessionKind, float] = {"unix": inf, "tcp": 3600.0, "mesh": 600.0}
"""Seconds in which more of a payload must come. Nodes send theirs from a file; on this machine a
program may still be writing it."""


class SessionOver(Exception):
    """The session is to end; the text tells the client why."""


class NoRoom(SessionOver):
    """Others need what the session takes; the same command may be sent again later."""


class ClientInput:
    """One client's bytes. ``receive`` returns some, none at their end."""

    def __init__(
        self,
        receive: Callable[[int], Awaitable[bytes]],
        kind: SessionKind,
        place: Place,
        line: HeldLine,
    ) -> None:
        self._receive = receive
        self._kind = kind
        self._place = place
        self._held = line
        self._reader = LineReader()
        self._is_line_begun = False
        self._heard = False
        """Whether the client has sent anything."""

    @property
    def at_end(self) -> bool:
        """Whether the client has sent all that it will ever send and all of it was taken."""
        return self._reader.at_end

    def drop(self) -> None:
        """Keep nothing of what the client has sent any more."""
        self._reader.drop()

    def close(self) -> None:
        """Give back what the client's bytes took of its share."""
        self._held.count(0)

    # --- lines --------------------------------------------------------------------------------

    async def wait_line(self) -> bool:
        """Wait for a whole command line; False if the client has ended instead.

        Raises:
            SessionOver: it has waited, or kept, too much, or speaks another protocol.
            LineTooLong
        """
        reader = self._reader
        if reader.at_end:
            return False
        if reader.pending and reader.has_line():
            # The client sent many lines at once: other sessions run in between.
            await trio.lowlevel.checkpoint()
            return True
        self._is_line_begun = reader.pending > 0
        self._place.waits(LINE_TIMEOUT if self._is_line_begun else IDLE_TIMEOUT[self._kind])
        while True:
            data = await self._receive(CHUNK)
            # Before the bytes are looked at: the place may be another's by now.
            self.check_place()
            self._take(data)
            if reader.has_line() or reader.at_end:
                break
            if not self._is_line_begun and reader.pending:
                self._is_line_begun = True
                self._place.extend_wait(LINE_TIMEOUT)
        self._place.works()
        return not reader.at_end

    def check_place(self) -> None:
        """Raise SessionOver if the session may not wait any more."""
        if self._place.gave_way:
            raise NoRoom("too many sessions; this one has waited longest")
        if self._place.is_over and self._is_line_begun:
            raise SessionOver(f"the command line was not complete within {LINE_TIMEOUT:g} s")
        if self._place.is_over:
            raise SessionOver(f"no command came for {IDLE_TIMEOUT[self._kind]:g} s")

    def _take(self, data: bytes) -> None:
        if not self._heard and data.startswith(TLS_RECORD):
            raise SessionOver("this is a control service without TLS")
        if not self._heard and begins_as_frame(data):
            raise SessionOver("this is a control service; links are for the port of a listener")
        self._heard = True
        self._reader.feed(data)
        self._check_held()

    def _check_held(self) -> None:
        if not self._held.count(self._reader.pending):
            raise NoRoom("your incomplete command lines take too much memory")

    def next_line(self) -> bytes:
        """Return the line that was waited for. Raises SessionOver if too much is kept after it."""
        line = self._reader.next_line()
        assert line is not None, "it was waited for"
        self._check_held()
        return line

    # --- what follows a line ------------------------------------------------------------------

    async def receive_some(self, max_bytes: int, *, is_payload: bool) -> bytes:
        """Return raw bytes that follow the line, none at their end; a payload must go on coming.

        Raises:
            trio.BrokenResourceError: nothing came for too long.
        """
        if self._reader.at_end:
            await trio.lowlevel.checkpoint()
            return b""
        if data := self._reader.take(max_bytes):
            self._held.count(self._reader.pending)
            await trio.lowlevel.checkpoint()
            return data
        data = await self._receive_within(
            max_bytes, PAYLOAD_TIMEOUT[self._kind] if is_payload else inf
        )
        if not data:
            self._reader.feed(b"")
        return data

    async def _receive_within(self, max_bytes: int, seconds: float) -> bytes:
        if seconds == inf:
            return await self._receive(max_bytes)
        with trio.move_on_after(seconds):
            return await self._receive(max_bytes)
        raise trio.BrokenResourceError(f"nothing came for {seconds:g} s")
