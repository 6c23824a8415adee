"""One client of the control service: reads its command lines, runs them, answers.

Whatever a client sends, and whatever a command does, costs at most this one session.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial

import trio

from meshnode.control.budgets import FREE, HeldLine, SessionBudgets
from meshnode.control.input import CHUNK, ClientInput, NoRoom, SessionOver
from meshnode.control.places import Place
from meshnode.control.registry import CommandRegistry, Handler, SessionKind
from meshnode.errors import MeshError, MeshnodeError, leaves_of
from meshnode.logs import SubjectLogger
from meshnode.net.pump import has_hung_up, wait_hung_up
from meshnode.net.sendfile import BareSocket, read_part
from meshnode.protocol.control import (
    NOT_NOW,
    UNKNOWN_COMMAND,
    LineTooLong,
    MalformedRequest,
    NotText,
    encode_error,
    encode_reply,
    greeting,
    is_header,
    is_http,
    parse_line,
)
from meshnode.security.identity import Identity, MeshClient, UnknownClient
from meshnode.shares import Holder

SEND_CHUNK = 256 * 1024
"""Bytes given to a stream at a time. A stream of the mesh sends more datagrams in one write if it
has more."""

SEND_TIMEOUT = 600.0
"""Seconds in which a client must take the next SEND_CHUNK: people stop output with a pager."""

SMALL_READ = 16 * 1024
"""Bytes read of a file at a time for clients of a holder that has its share of READS already."""

MAX_MISTAKES = 32
"""Lines in a row that are no command after which a session on the network ends: its client speaks
another protocol."""

FAREWELL_TIMEOUT = 2.0
"""Seconds for a client to take the line that says why its session ends."""

LINGER_TIMEOUT = 2.0
"""Seconds for which a closing session reads and drops what the client sends. Closing a socket with
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
        client: Identity | None = None,
        place: Place | None = None,
        budgets: SessionBudgets | None = None,
    ) -> None:
        """Without a ``place`` and ``budgets`` the session shares nothing with others.

        Without a ``client`` only a node is known, by its name.
        """
        place = place or Place(Holder(peer))
        budgets = budgets or SessionBudgets()
        self.kind = kind
        self.peer = peer
        self.client = client or (MeshClient(peer) if kind == "mesh" else UnknownClient())
        self.node_id = node_id
        self.rule = ""
        self._stream = stream
        self._registry = registry
        self._log = log
        self._place = place
        self._replies = budgets.replies
        self._reads = budgets.reads
        self._lock = budgets.lock
        self._input = ClientInput(self._receive, kind, place, HeldLine(budgets.lines, place.holder))
        self._mistakes = 0
        """Lines in a row that were no command."""
        self._is_first = True
        """Whether no line was read yet."""
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
        finally:
            self._input.close()
        self._log.debug("closed")

    async def send(self, data: bytes) -> None:
        """Send bytes to the client; see ControlSession."""
        with self._noticing_loss():
            sent = self._bare.send_now(data) if self._bare is not None else 0
            rest = len(data) - sent
            if rest <= FREE or self._finished:
                await self._send_rest(memoryview(data)[sent:])
                return
            with self._replies.sending(self._place.holder, rest) as reply:
                for start in range(sent, len(data), SEND_CHUNK):
                    await self._send_rest(memoryview(data)[start : start + SEND_CHUNK])
                    self._replies.progress(reply)
            if reply.scope.cancelled_caught:
                raise trio.TooSlowError("the client did not read, and others need the room")

    async def _send_rest(self, data: memoryview) -> None:
        for start in range(0, len(data), SEND_CHUNK):
            with trio.fail_after(SEND_TIMEOUT):
                await self._stream.send_all(data[start : start + SEND_CHUNK])

    async def send_file(self, descriptor: int, position: int, size: int) -> int:
        """Send a part of a file to the client; see ControlSession."""
        if self._bare is not None:
            with self._noticing_loss():
                sent = await self._bare.send_file(descriptor, position, size)
            if sent is not None:
                return sent
        holder = self._place.holder
        if not self._reads.has_room(holder):
            size = min(size, SMALL_READ)
        data = await read_part(descriptor, position, size)
        self._reads.change(holder, len(data))
        try:
            await self.send(data)
        finally:
            self._reads.change(holder, -len(data))
        await trio.lowlevel.checkpoint()
        return len(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return raw bytes that follow the command line; see ControlSession."""
        was_at_end = self._input.at_end
        with self._noticing_loss():
            data = await self._input.receive_some(max_bytes, is_payload=not self._finished)
            if not (data or was_at_end) and has_hung_up(self._stream):
                raise trio.BrokenResourceError("the client closed its connection")
        return data

    async def wait_lost(self) -> None:
        """Return when the client is known to be gone; see ControlSession."""
        await wait_hung_up(self._stream)
        self._gone = True

    async def send_eof(self) -> None:
        """End our side of the stream; see ControlSession."""
        with self._noticing_loss():
            await self._stream.send_eof()

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait until the client may take up the node; see ControlSession."""
        return self._lock.turn(self._place.holder)

    def finish(self) -> None:
        """Close the session after the running command; see ControlSession."""
        self._finished = True

    async def _serve(self) -> None:
        await self.send(greeting(self.node_id))
        try:
            # Cancelled only while it waits for a command: for too long, or for the place's next
            # holder.
            with self._place.scope as scope:
                while not (self._finished or self._gone) and await self._input.wait_line():
                    if not self._replies.has_room(self._place.holder):
                        await self._replies.wait_room(self._place.holder)
                    await self._execute_line()
            if scope.cancelled_caught:
                self._input.check_place()
        except (SessionOver, LineTooLong) as error:
            # A node whose submission has no room here is to try again.
            marks = self.kind == "mesh" and isinstance(error, NoRoom)
            await self._say_why(f"{NOT_NOW if marks else ''}{error}")

    async def _say_why(self, text: str) -> None:
        """Tell the client in a line why its session ends."""
        self._log.info("ended (%s): %s", self.peer, text)
        if not self._place.is_told:
            self._gone = True
            return
        with trio.move_on_after(FAREWELL_TIMEOUT) as farewell:
            await self.send(encode_error(text))
        self._gone = farewell.cancelled_caught

    async def _receive(self, max_bytes: int) -> bytes:
        with self._noticing_loss():
            if self._bare is not None:
                return await self._bare.receive_some(max_bytes)
            return bytes(await self._stream.receive_some(max_bytes))

    # --- commands -----------------------------------------------------------------------------

    async def _execute_line(self) -> None:
        answer = await self._run_command()
        if answer and not self._gone:
            await self.send(answer)

    async def _run_command(self) -> bytes:
        """Run the command of the next line; return its answer, if that was not sent already."""
        found = self._read_command()
        if isinstance(found, bytes):
            return found
        name, parse = found
        answer = b""
        try:
            handler = parse()
            self.rule = self._registry.check(name, handler, self)
            # What a client has sent is not kept while the command runs, which may be for days: only
            # what the command has made of it.
            del found, parse
            reply = await handler(self)
            answer = b"" if reply is None else encode_reply(reply)
        except* Exception as group:  # noqa: BLE001 - a command's boundary: logged and answered
            answer = self._answer_failure(name, group)
        return answer

    def _read_command(self) -> "tuple[str, Callable[[], Handler]] | bytes":
        """Take the next line; return its command and how it is read, or what answers it.

        Raises:
            SessionOver: the client speaks another protocol.
        """
        line = self._input.next_line()
        if is_http(line):
            raise SessionOver("this is a control service; it does not speak HTTP")
        is_first, self._is_first = self._is_first, False
        try:
            request = parse_line(line)
        except MalformedRequest as error:
            if is_first and isinstance(error, NotText) and not line.startswith(b"{"):
                # A third party may have written what follows, as in a request of a browser.
                self.finish()
            return self._mistaken(encode_error(str(error)) + encode_error(UNKNOWN_COMMAND))
        command = self._registry.find(request.name)
        if command is None:
            if is_header(line):
                raise SessionOver("this is a control service; it takes no headers")
            return self._mistaken(encode_error(UNKNOWN_COMMAND))
        self._mistakes = 0
        if isinstance(request.body, str):
            return command.name, partial(command.parse_text, request.body)
        return command.name, partial(command.parse_json, request.body)

    def _mistaken(self, answer: bytes) -> bytes:
        """Count a line that is no command, and return its answer. Raises SessionOver."""
        self._mistakes += 1
        if self._mistakes >= MAX_MISTAKES and self.kind != "unix":
            raise SessionOver(f"{MAX_MISTAKES} lines in a row were no command")
        return answer

    def _answer_failure(self, name: str, group: BaseExceptionGroup[Exception]) -> bytes:
        """Log what a command raised, and return the line that answers it where one can."""
        leaves = list(leaves_of(group))
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
            # The client reads raw bytes by now, and would not know a line of ours from them. So
            # the stream is broken off.
            self._gone = True
        return answer

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """Remember that the client is gone, and raise the same error for every kind of stream."""
        try:
            yield
        except trio.TooSlowError as error:
            self._gone = True
            text = str(error) or f"the client has read nothing for {SEND_TIMEOUT:g} s"
            raise trio.BrokenResourceError(text) from None
        except (*_GONE, MeshError) as error:
            self._gone = True
            raise trio.BrokenResourceError(_how_lost(error)) from error

    async def _close(self) -> None:
        # It may be as much as the longest line, and the client may stay for LINGER_TIMEOUT.
        self._input.drop()
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
            while not self._input.at_end and await self._stream.receive_some(CHUNK):
                pass


def _how_lost(error: Exception) -> str:
    """Say how a client was lost; a unit's Detail ends with it."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        # trio's text also has the number of the error.
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return str(error)
