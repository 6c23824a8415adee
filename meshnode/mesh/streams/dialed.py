"""The dialer's end of a connection: it waits for the handshake, and opens the streams."""

from typing import TYPE_CHECKING

import trio
from aioquic.quic.packet import QuicFrameType

from meshnode.errors import HandshakeRefused, MeshTimeout
from meshnode.mesh.streams.connection import Connection
from meshnode.mesh.streams.ends import BAD_CERTIFICATE
from meshnode.mesh.streams.quicsettings import MAX_STREAMS
from meshnode.mesh.streams.stream import MeshStream
from meshnode.mesh.streams.streamtable import STREAM_PREFIX
from meshnode.mesh.streams.timers import HANDSHAKE_TIMEOUT, NO_HANDSHAKE
from meshnode.protocol.messages import show_service

if TYPE_CHECKING:
    from meshnode.security.tls import TlsSettings

INSECURE = "insecure connection to secure service"


class Dialed(Connection):
    """A connection that this node dialed. Several dials may share it."""

    _is_client = True
    tls: "TlsSettings | None" = None
    """What it was dialed with."""
    _waiting = 0
    """Dials that wait for the handshake, each with a stream to open."""

    @property
    def has_place(self) -> bool:
        """Whether another stream may be opened, as far as is known now."""
        if self._over or self._failure is not None or self._liveness:
            return False
        if self._ready.is_set() and not (self._quic.takes_many_streams and self._quic.may_open):
            return False
        return self._streams.in_use + self._waiting < MAX_STREAMS

    @property
    def is_wanted(self) -> bool:
        """Whether a dial waits for the handshake, or a stream was opened."""
        return self._waiting > 0 or self._timers.was_used

    @property
    def takes_many_streams(self) -> bool:
        """Whether the listener said in the handshake that it does."""
        return self._quic.takes_many_streams

    async def wait_ready(self) -> None:
        """Wait for the handshake.

        Raises:
            MeshError: it failed; which error says why.
            MeshTimeout: it took longer than HANDSHAKE_TIMEOUT.
        """
        self._waiting += 1
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                await self._ready.wait()
        except trio.TooSlowError:
            raise self._too_late() from None
        finally:
            self._waiting -= 1
        if isinstance(self._failure, MeshTimeout):
            raise self._too_late()
        if isinstance(self._failure, HandshakeRefused):
            raise HandshakeRefused(f"{self._target}: {self._failure}")
        if self._failure is not None:
            raise self._failure

    @property
    def _target(self) -> str:
        return f"service {show_service(self.peer[1])} of node {self._peer_node}"

    def _too_late(self) -> MeshTimeout:
        return MeshTimeout(
            f"{NO_HANDSHAKE}: {self._target} does not answer, or the way there drops too much"
        )

    def open_stream(self) -> MeshStream | None:
        """Open a stream to the listener; None if it takes one, and that is opened already.

        Raises:
            MeshError: the connection is over.
        """
        if not self._quic.takes_many_streams:
            if self._timers.was_used:
                return None
            self._timers.idle = 0
        stream_id = self._quic.get_next_available_stream_id()
        self.write(stream_id, STREAM_PREFIX, False)
        if self._failure is not None:
            raise self._failure
        return self._streams.open(stream_id, self._make_stream(stream_id))

    def _check_certificate(self) -> None:
        if self._quic.judge is None and not self._quic.has_insecure_certificate():
            # As the engine says what it finds itself: the listener cannot read more as yet.
            self._quic.close(BAD_CERTIFICATE, QuicFrameType.CRYPTO, INSECURE)
            self._failure = HandshakeRefused(INSECURE)
