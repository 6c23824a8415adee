"""One client of the control service: reads its command lines, runs them, answers.

Whatever a client sends, and whatever a command does, costs at most this one session.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from meshnode.control.baresocket import BareSocket, read_part
from meshnode.control.hangup import has_hung_up, wait_hung_up
from meshnode.control.registry import CommandRegistry, SessionKind
from meshnode.errors import MeshError, MeshnodeError
from meshnode.logs import SubjectLogger
from meshnode.protocol.control import (
    UNKNOWN_COMMAND,
    LineReader,
    LineTooLong,
    MalformedRequest,
    encode_error,
    encode_reply,
    greeting,
    parse_line,
)

CHUNK = 64 * 1024
"""Bytes asked of a stream at a time: a pipe's or socket buffer's usual size."""

SEND_CHUNK = 256 * 1024
"""Bytes given to a stream at a time: the more a stream of the mesh has, the more datagrams leave in
one write."""

SEND_TIMEOUT = 600.0
"""Seconds in which a client must take the next SEND_CHUNK. People stop output with Ctrl-S or a
pager, so minutes are fair; but a session that nobody reads must not stay for ever."""

LINGER_TIMEOUT = 2.0
"""Seconds for which a closing session still drops what the client sends. Closing a socket with
unread bytes resets it, and the client would lose the last reply."""

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Session:
    """A client's session; what commands see of it is ``registry.ControlSession``."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        kind: SessionKind,
        peer: str,
        node_id: str,
        registry: CommandRegistry,
        log: SubjectLogger,
    ) -> None:
        self.kind = kind
        self.peer = peer
        self.node_id = node_id
        self._stream = stream
        self._registry = registry
        self._log = log
        self._reader = LineReader()
        self._finished = False
        self._gone = False
        self._bare = BareSocket.of(stream, SEND_TIMEOUT)

    async def run(self) -> None:
        """Serve the client until it, or a command, ends the session; then close its stream.

        Raises nothing but trio's cancellation.
        """
        self._log.debug("connected: %s", self.peer)
        try:
            try:
                await self._serve()
            finally:
                await self._close()
        except _GONE as error:
            self._log.debug("client lost: %s", error)
        except Exception:  # noqa: BLE001 - a session's boundary: a fault of ours costs only this one
            self._log.exception("session failed")
        self._log.debug("closed")

    async def send(self, data: bytes) -> None:
        """Send bytes to the client; see ControlSession."""
        with self._noticing_loss():
            sent = self._bare.send_now(data) if self._bare is not None else 0
            view = memoryview(data)
            for start in range(sent, len(view), SEND_CHUNK):
                with trio.fail_after(SEND_TIMEOUT):
                    await self._stream.send_all(view[start : start + SEND_CHUNK])

    async def send_file(self, descriptor: int, position: int, size: int) -> int:
        """Send a part of a file to the client; see ControlSession."""
        if self._bare is not None:
            with self._noticing_loss():
                sent = await self._bare.send_file(descriptor, position, size)
            if sent is not None:
                return sent
        data = await read_part(descriptor, position, size)
        await self.send(data)
        await trio.lowlevel.checkpoint()
        return len(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return raw bytes that follow the command line; see ControlSession."""
        if self._reader.at_end:
            await trio.lowlevel.checkpoint()
            return b""
        if data := self._reader.take(max_bytes):
            await trio.lowlevel.checkpoint()
            return data
        with self._noticing_loss():
            data = await self._receive(max_bytes)
            if not data and has_hung_up(self._stream):
                raise trio.BrokenResourceError("the client closed its connection")
        if not data:
            self._reader.feed(b"")
        return data

    async def wait_lost(self) -> None:
        """Return when the client is known to be gone; see ControlSession."""
        await wait_hung_up(self._stream)
        self._gone = True

    async def send_eof(self) -> None:
        """End our side of the stream; see ControlSession."""
        with self._noticing_loss():
            await self._stream.send_eof()

    def finish(self) -> None:
        """Close the session after the running command; see ControlSession."""
        self._finished = True

    async def _serve(self) -> None:
        await self.send(greeting(self.node_id))
        while not (self._finished or self._gone):
            try:
                line = await self._next_line()
            except LineTooLong as error:
                await self.send(encode_error(str(error)))
                return
            if line is None:
                return
            await self._execute(line)

    async def _next_line(self) -> bytes | None:
        while (line := self._reader.next_line()) is None and not self._reader.at_end:
            with self._noticing_loss():
                self._reader.feed(await self._receive(CHUNK))
        return line

    async def _receive(self, max_bytes: int) -> bytes:
        if self._bare is not None:
            return await self._bare.receive_some(max_bytes)
        return bytes(await self._stream.receive_some(max_bytes))

    async def _execute(self, line: bytes) -> None:
        try:
            request = parse_line(line)
        except MalformedRequest as error:
            await self.send(encode_error(str(error)) + encode_error(UNKNOWN_COMMAND))
            return
        command = self._registry.find(request.name)
        if command is None:
            await self.send(encode_error(UNKNOWN_COMMAND))
            return
        answer = b""
        try:
            if isinstance(request.body, str):
                handler = command.parse_text(request.body)
            else:
                handler = command.parse_json(request.body)
            reply = await handler(self)
            answer = b"" if reply is None else encode_reply(reply)
        except* Exception as group:  # noqa: BLE001 - a command's boundary: logged and answered
            answer = self._answer_failure(request.name, group)
        if answer and not self._gone:
            await self.send(answer)

    def _answer_failure(self, name: str, group: BaseExceptionGroup[Exception]) -> bytes:
        """Log what a command raised, and return the line that answers it where one can."""
        leaves = list(_leaves(group))
        is_raw = self._finished
        fault = next((leaf for leaf in leaves if not isinstance(leaf, MeshnodeError)), None)
        if fault is None:
            self._log.log(logging.WARNING if is_raw else logging.DEBUG, "%s: %s", name, leaves[0])
            answer = encode_error(str(leaves[0]))
        elif (is_raw or self._gone) and all(
            isinstance(leaf, (*_GONE, MeshError)) for leaf in leaves
        ):
            self._log.debug("%s ended early: %s", name, fault)
            answer = b""
        else:
            self._log.error("%s failed", name, exc_info=leaves[0] if len(leaves) == 1 else group)
            answer = encode_error(f"internal error: {type(fault).__name__}")
            self.finish()
        if is_raw:
            # No line can tell anything to a client that reads raw bytes by now; the stream is
            # broken off instead.
            self._gone = True
        return answer

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """Remember that the client is gone, and say so in one way whatever its stream is."""
        try:
            yield
        except trio.TooSlowError:
            self._gone = True
            raise trio.BrokenResourceError(
                f"the client has read nothing for {SEND_TIMEOUT:g} s"
            ) from None
        except (*_GONE, MeshError) as error:
            self._gone = True
            raise trio.BrokenResourceError(_how_lost(error)) from error

    async def _close(self) -> None:
        if self._gone:
            # On the mesh this resets the stream: half of an answer must not look like all of it.
            await trio.aclose_forcefully(self._stream)
            return
        try:
            await self._linger()
        finally:
            await self._stream.aclose()

    async def _linger(self) -> None:
        with trio.move_on_after(LINGER_TIMEOUT), self._noticing_loss():
            await self._stream.send_eof()
            while not self._reader.at_end and await self._stream.receive_some(CHUNK):
                pass


def _how_lost(error: Exception) -> str:
    """Say how a client was lost; a unit's Detail ends with it."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        # trio's text has the number of the error in it, which is for nobody.
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return str(error)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
