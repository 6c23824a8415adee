"""A control session through an ``http-service``: a websocket whose bytes are those of a socket.

Binary messages carry the bytes, an empty one ends its direction. A websocket that closes without
one has broken off, so half a payload never starts a unit, whatever happens to this process: the
guard of other transports is always set here.
"""

import errno
import json
import threading

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
)
from wsproto.utilities import ProtocolError

from meshctl.api.errors import CannotReach, NotTrusted
from meshctl.api.settings import WebAddress
from meshctl.api.transport import Transport

SUBPROTOCOL = "meshnode.control"
"""What both ends say that they speak over the websocket."""

MESSAGE_BYTES = 64 * 1024
"""Bytes of the longest message that is sent."""

RECEIVE_BYTES = 256 * 1024
"""Most bytes taken from the connection at once."""

MAX_REFUSAL = 64 * 1024
"""Bytes that are read of a response which says why there is no session."""

NOT_HTTP = "it does not speak HTTP. Without an http-service write tcp:// or tls://"


class WebTransport:
    """A websocket over an open connection; one thread may send while another receives."""

    def __init__(self, inner: Transport, address: WebAddress, name: str) -> None:
        self._inner = inner
        self._address = address
        self._name = name
        self._websocket = WSConnection(ConnectionType.CLIENT)
        self._sending = threading.Lock()
        self._received = bytearray()
        self._of_message = 0
        """Bytes so far of the message that is coming."""
        self._ended = False

    def shake_hands(self) -> None:
        """Ask for a session. Raises CannotReach, and NotTrusted where it is not for us."""
        headers = []
        if self._address.token:
            headers.append((b"authorization", f"Bearer {self._address.token}".encode()))
        asked = Request(
            host=self._address.authority,
            target=self._address.target,
            subprotocols=[SUBPROTOCOL],
            extra_headers=headers,
        )
        try:
            self._send(asked)
            self._take_answer()
        except ProtocolError as error:
            raise CannotReach(self._name, NOT_HTTP) from error
        except TimeoutError as error:
            raise CannotReach(self._name, "no answer in time. Is it an http-service?") from error
        except OSError as error:
            raise CannotReach(self._name, f"{error.strerror or error}. {NOT_HTTP}") from error

    def _take_answer(self) -> None:
        status, body = 0, bytearray()
        while True:
            data = self._inner.receive(RECEIVE_BYTES)
            if not data:
                raise CannotReach(self._name, f"closed without an answer. {NOT_HTTP}")
            self._websocket.receive_data(data)
            for event in self._websocket.events():
                match event:
                    case AcceptConnection():
                        # What the node says first may have come with it.
                        self._take_events()
                        return
                    case RejectConnection(status_code=code, has_body=has_body):
                        status = code
                        if not has_body:
                            raise _refusal(self._name, status, b"")
                    case RejectData(data=part, body_finished=is_whole):
                        body += part
                        if is_whole or len(body) > MAX_REFUSAL:
                            raise _refusal(self._name, status, bytes(body))

    def send_all(self, data: bytes | memoryview) -> None:
        """Send everything."""
        view = memoryview(data)
        for start in range(0, len(view), MESSAGE_BYTES):
            self._send(BytesMessage(bytes(view[start : start + MESSAGE_BYTES])))

    def receive(self, max_bytes: int) -> bytes:
        """Return what is there, waiting for at least a byte."""
        while not self._received and not self._ended:
            data = self._inner.receive(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the connection broke off")
            try:
                self._websocket.receive_data(data)
                self._take_events()
            except ProtocolError as error:
                text = f"the node sends what is no websocket: {error}"
                raise OSError(errno.EPROTO, text) from error
        found = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        return found

    def receive_line_guarded(self, max_bytes: int) -> bytes:
        """Return the next line; a websocket that closes is guarded as it is."""
        while b"\n" not in self._received and len(self._received) < max_bytes:
            before, self._received = self._received, bytearray()
            data = self.receive(RECEIVE_BYTES)
            self._received = before + data + self._received
            if not data:
                break
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line

    def drop_guard(self) -> None:
        """Do nothing: the end of the payload says by itself that it is whole."""

    def send_eof(self) -> None:
        """End our direction."""
        self._send(BytesMessage(b""))

    def is_idle(self) -> bool:
        """Whether the connection is up with nothing received and unread."""
        return not self._received and not self._ended and self._inner.is_idle()

    def set_timeout(self, seconds: float | None) -> None:
        """Bound each later wait."""
        self._inner.set_timeout(seconds)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._inner.fileno()

    def interrupt(self) -> None:
        """Make a receive in another thread return."""
        self._inner.interrupt()

    def close(self) -> None:
        """Close at once."""
        self._inner.close()

    def _send(self, event: Event) -> None:
        # Held until all is on its way: the other thread may answer a ping meanwhile.
        with self._sending:
            self._inner.send_all(self._websocket.send(event))

    def _take_events(self) -> None:
        """Take what the last bytes have brought. Raises OSError."""
        for event in self._websocket.events():
            match event:
                case BytesMessage(data=data, message_finished=is_whole):
                    self._received += data
                    self._of_message += len(data)
                    if is_whole:
                        self._ended |= not self._of_message
                        self._of_message = 0
                case Ping():
                    self._send(event.response())
                case CloseConnection() if not self._ended:
                    why = f"the node broke off: {event.reason or event.code}"
                    raise ConnectionResetError(errno.ECONNRESET, why)


def _refusal(name: str, status: int, body: bytes) -> CannotReach:
    """Return what a response that is no websocket means: most say it as problem+json."""
    try:
        problem = json.loads(body)
        detail = str(problem["detail"])
    except (ValueError, TypeError, KeyError, RecursionError):
        detail = f"no session there: HTTP status {status}. Is it the http-service of a meshnode?"
    if status == 401:
        return NotTrusted(name, f"{detail}. Give --token-file, or --cert and --key")
    if status == 403:
        return NotTrusted(name, detail)
    return CannotReach(name, detail)


def open_web(inner: Transport, address: WebAddress, name: str) -> WebTransport:
    """Ask for a session over an open connection, which is closed on failure.

    Raises:
        NotTrusted: the node does not know us.
        CannotReach: there is no such service.
    """
    transport = WebTransport(inner, address, name)
    try:
        transport.shake_hands()
    except BaseException:
        inner.close()
        raise
    return transport
