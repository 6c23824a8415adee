"""TCP links over TLS: the frames of TCP links, in TLS's records."""

from collections.abc import Sequence
from typing import Self

import trio

from meshnode.config import TcpListener as TcpListenerDirective
from meshnode.config import TcpPeer as TcpPeerDirective
from meshnode.mesh.links.base import Message, dialing
from meshnode.mesh.links.tcp import TcpDialer, TcpLink, TcpListener
from meshnode.net.sockets import open_tcp_listeners
from meshnode.net.tls import TlsStream, dial_tls
from meshnode.protocol.framing import ReadSpace, encode_frames
from meshnode.security.tls import TlsSource


class TlsLink(TcpLink):
    """A link over one TLS connection; an accepted one shakes hands when it is opened."""

    def __init__(self, tls: TlsStream, space: ReadSpace) -> None:
        super().__init__(tls.transport, space, kind="tls")
        self._tls = tls
        self._opening = trio.Lock()
        self._certify()

    async def opened(self) -> None:
        """Shake hands with a client, once. Raises TlsRefused, or what :meth:`receive` does."""
        async with self._opening:
            if not self._tls.is_open:
                await self._tls.shake_hands()
                self._certify()

    def _certify(self) -> None:
        certificate = self._tls.certificate
        self.certified = () if certificate is None else certificate.node_ids
        self.has_more = self._tls.has_more

    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages, after what :meth:`send_now` has left."""
        if not self._tls.is_open:
            await self.opened()
        await super().send(messages)

    async def receive(self) -> list[memoryview]:
        """Return all messages that the next read completes."""
        if not self._tls.is_open:
            await self.opened()
        return await super().receive()

    def send_now(self, messages: Sequence[Message]) -> bool:
        """Send messages, encrypted, as far as the socket takes them."""
        self._tls.write(encode_frames(messages))
        try:
            return self._tls.flush_now()
        except OSError as exc:
            raise self._lost() from exc

    def keep_rest(self) -> None:
        """Do nothing: what is encrypted is a copy."""

    def _read_into(self, space: memoryview) -> int:
        try:
            return self._tls.read_now(space)
        finally:
            self.has_more = self._tls.has_more

    async def aclose(self) -> None:
        """Close the connection, with a goodbye if that can be sent at once."""
        await self._tls.aclose()


class TlsListener(TcpListener):
    """Accepts links over TLS; ``tls`` has the settings of a ``tls-server``."""

    def __init__(self, listener: trio.SocketListener, tls: TlsSource) -> None:
        super().__init__(listener, kind="tls")
        self._tls = tls

    @classmethod
    async def open_tls(cls, port: int, bind_address: str, tls: TlsSource) -> list[Self]:
        """Listen as :meth:`open` does."""
        listeners = await open_tcp_listeners(bind_address, port)
        return [cls(listener, tls) for listener in listeners]

    async def accept(self) -> TlsLink:
        """Wait for the next connection; it shakes hands when it is opened."""
        return TlsLink(TlsStream(await self._listener.accept(), self._tls()), self._space)


class TlsDialer(TcpDialer):
    """Dials one host and port; ``tls`` has the settings of a ``tls-client``."""

    def __init__(self, host: str, port: int, tls: TlsSource) -> None:
        super().__init__(host, port, kind="tls")
        self._tls = tls

    async def dial(self) -> TlsLink:
        """Connect, and shake hands with the host."""
        with dialing(self._host):
            stream = await trio.open_tcp_stream(self._host, self._port)
            return TlsLink(await dial_tls(stream, self._tls(), self._host), self._space)


async def listen(directive: TcpListenerDirective, tls: TlsSource) -> list[TlsListener]:
    """Listen as the directive says.

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    return await TlsListener.open_tls(directive.port, directive.bindaddr, tls)


def dialer(directive: TcpPeerDirective, tls: TlsSource) -> TlsDialer:
    """Return what opens the directive's link."""
    return TlsDialer(directive.address.host, directive.address.port, tls)
