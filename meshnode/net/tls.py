"""TLS over a TCP stream: the handshake with its bounds, a stream for tasks, and sends at once.

The engine (security/tlsengine.py) knows no sockets; this moves its ciphertext. Ciphertext waits in
one buffer and is sent in its order, whoever wrote it: the task that sends, or the one that reads,
since TLS answers some of what it reads by itself.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import trio

from meshnode.errors import TlsProblem, TlsRefused
from meshnode.net.sockets import OverSocket
from meshnode.security.certificates import Certificate
from meshnode.security.tls import TlsSettings
from meshnode.security.tlsengine import TlsEngine
from meshnode.security.verification import Expected

HANDSHAKE_TIMEOUT = 8.0
"""Seconds for a handshake: it takes two round trips, and a packet may be lost twice. A client that
says nothing is gone within ten."""

READ_SIZE = 64 * 1024
"""Bytes of ciphertext that are read at once: four records."""

RECORD = 16 * 1024
"""Bytes of plain text in the largest record (RFC 8446, section 5.1)."""

MOST_OWED = 64 * 1024
"""Bytes of answers that TLS itself may owe to an end that does not read them."""

FAREWELL_TIMEOUT = 0.5
"""Seconds to tell a refused client why, and to read what it still sends: a connection that is
closed with bytes unread is reset, and the client never sees why."""


class TlsStream(trio.abc.HalfCloseableStream, OverSocket):
    """TLS over a TCP stream; :meth:`shake_hands` comes first."""

    def __init__(
        self,
        transport: trio.SocketStream,
        settings: TlsSettings,
        expected: Expected | None = None,
        protocols: Sequence[bytes] = (),
    ) -> None:
        """``expected`` is that of the settings, or more: the host that is dialed.

        ``protocols`` are what a server speaks over it, best first.
        """
        self.transport = transport
        self._socket = transport.socket
        self._engine = TlsEngine(settings, expected, protocols)
        self._unsent = memoryview(b"")
        self._owed = 0
        """Bytes that TLS wrote by itself since all was sent."""
        self._ended = False
        """Whether the other end said goodbye."""
        self.has_more = False
        """Whether bytes may be there for the next read although nothing arrives."""
        self._writing = trio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done."""
        return self._engine.is_done

    @property
    def certificate(self) -> Certificate | None:
        """The other end's certificate, verified; None if it showed none."""
        return self._engine.certificate

    @property
    def protocol(self) -> bytes:
        """The protocol that was agreed on in the handshake; empty if it was not talked about."""
        return self._engine.protocol

    def judge_again(self, settings: TlsSettings) -> None:
        """Judge the other end by settings that came after the handshake. Raises TlsRefused."""
        self._engine.judge_again(settings)

    # --- the handshake -----------------------------------------------------------------------

    async def shake_hands(self) -> None:
        """Do the handshake; a refusal is told to the other end, and the stream is to be closed.

        Raises:
            TlsRefused: the text says why.
            trio.BrokenResourceError: the connection is gone.
        """
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                await self._shake_hands()
        except TlsRefused:
            await self._say_why()
            raise
        except trio.TooSlowError:
            self._engine.turn_away()
            await self._say_why()
            text = f"no TLS handshake within {HANDSHAKE_TIMEOUT:g} s"
            raise TlsRefused(TlsProblem.SILENT, text) from None

    async def _shake_hands(self) -> None:
        while True:
            is_done = self._engine.handshake()
            self._take_out()
            await self._flush()
            if is_done:
                # What came behind the handshake may be there already.
                self.has_more = True
                return
            data = await self._receive()
            if not data:
                raise self._engine.lost()
            self._engine.feed(data)

    async def _say_why(self) -> None:
        with trio.move_on_after(FAREWELL_TIMEOUT), suppress(trio.BrokenResourceError):
            self._take_out()
            await self._flush()
            await self.transport.send_eof()
            while await self._receive():
                pass

    # --- for tasks ---------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        async with self._writing:
            self._check_open()
            for start in range(0, len(data), READ_SIZE):
                try:
                    self.write(memoryview(data)[start : start + READ_SIZE])
                except TlsRefused as refusal:
                    raise trio.BrokenResourceError(str(refusal)) from refusal
                await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes something."""
        await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more is sent; what the other end sends can still be read."""
        async with self._writing:
            self._check_open()
            self._engine.end()
            self._take_out()
            await self._flush()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what is there, waiting for at least a byte; ``b""`` at the other end's goodbye.

        Raises:
            trio.BrokenResourceError: the connection ended without a goodbye, the other end refuses
                us, or what came is no TLS any more.
        """
        await trio.lowlevel.checkpoint()
        space = memoryview(bytearray(max_bytes or READ_SIZE))
        while True:
            self._check_open()
            try:
                return bytes(space[: self.read_now(space)])
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            except TlsRefused as refusal:
                raise trio.BrokenResourceError(str(refusal)) from refusal
            except OSError as error:
                raise self._lost() from error

    async def aclose(self) -> None:
        """Close the connection, with a goodbye if that can be sent at once."""
        if self._socket.fileno() >= 0 and not self._unsent:
            self._engine.end()
            self._take_out()
            with suppress(OSError):
                self.flush_now()
        await self.transport.aclose()

    # --- at once -----------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt; :meth:`flush_now` sends it.

        Raises:
            TlsRefused: the connection is broken.
            trio.ClosedResourceError: this end closed it.
        """
        self._check_open()
        self._engine.write(data)
        self._take_out()

    def flush_now(self) -> bool:
        """Send ciphertext as far as the socket takes it; True if it took all. Raises OSError."""
        try:
            while self._unsent:
                sent = os.write(self._socket.fileno(), self._unsent)
                self._unsent = self._unsent[sent:]
        except BlockingIOError:
            return False
        self._owed = 0
        return True

    def read_now(self, space: memoryview) -> int:
        """Fill a space with what is there; return the bytes, 0 at the other end's goodbye.

        Raises:
            BlockingIOError: nothing is there.
            TlsRefused: the other end refuses us, or what came is no TLS any more.
            OSError: the connection is gone.
        """
        filled = 0
        self.has_more = False
        while filled < len(space) and not self._ended:
            data = self._engine.read(min(RECORD, len(space) - filled))
            if data:
                space[filled : filled + len(data)] = data
                filled += len(data)
            elif data is None:
                self._answer()
                if filled:
                    break
                self._feed_now()
            else:
                self._ended = True
        else:
            self.has_more = True
        return filled

    def _feed_now(self) -> None:
        """Read ciphertext once. Raises OSError."""
        data = os.read(self._socket.fileno(), READ_SIZE)
        if not data:
            # Not the end of what the other end says: anybody on the way can forge that.
            raise ConnectionResetError(errno.ECONNRESET, "the connection ended without a goodbye")
        self._engine.feed(data)

    def _answer(self) -> None:
        """Send what TLS answers by itself to what was read. Raises OSError."""
        answered = self._take_out()
        if not answered:
            return
        self._owed += answered
        if self._owed > MOST_OWED:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the other end reads nothing")
        self.flush_now()

    def _take_out(self) -> int:
        """Take ciphertext out of the engine, to be sent behind the rest; return its bytes.

        All of it, whenever there may be some: what is there after a read is then TLS's own answer.
        """
        pieces = []
        while piece := self._engine.outgoing():
            pieces.append(piece)
        if not pieces:
            return 0
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._unsent = memoryview(bytes(self._unsent) + taken if self._unsent else taken)
        return len(taken)

    # --- the socket --------------------------------------------------------------------------

    async def _flush(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while not self.flush_now():
                await trio.lowlevel.wait_writable(self._socket)
        except OSError as error:
            raise self._lost() from error

    async def _receive(self) -> bytes:
        try:
            return await self.transport.receive_some(READ_SIZE)
        except OSError as error:
            raise self._lost() from error

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError

    def _lost(self) -> trio.ClosedResourceError | trio.BrokenResourceError:
        closed = self._socket.fileno() < 0
        return trio.ClosedResourceError() if closed else trio.BrokenResourceError()


async def dial_tls(transport: trio.SocketStream, settings: TlsSettings, host: str) -> TlsStream:
    """Speak TLS on a stream that was dialed: its other end must be ``host``, unless it is skipped.

    Raises:
        OSError: it is refused, here or there, or broke; the text says why. The stream is closed.
    """
    stream = TlsStream(transport, settings, replace(settings.expected, host=host))
    try:
        await stream.shake_hands()
    except BaseException as error:
        await trio.aclose_forcefully(transport)
        if isinstance(error, TlsRefused):
            raise OSError(str(error)) from error
        if isinstance(error, trio.BrokenResourceError):
            raise OSError("the connection broke during the TLS handshake") from error
        raise
    return stream
