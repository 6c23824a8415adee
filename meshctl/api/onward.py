"""From a session with one node to the services of others: ``connect``, and what is said after it.

A control service that is reached so is spoken to as any other: a :class:`NodeConnection` is a
session with it. Its errors name the node, since the node in between has errors of its own.
"""

from meshctl.api.connection import Connection, ControlStream, FramedStream
from meshctl.api.errors import (
    BadSettings,
    CannotReach,
    CommandRefused,
    ProtocolMismatch,
    SessionLost,
)
from meshctl.api.requests import connecting
from meshctl.api.submission import LOCAL_NODE

CONTROL_SERVICE = "control"
"""The service under which a node can be asked over the mesh, as receptor's submitters expect."""

_FRAMED = "Connecting framed"


def connect_on(
    session: Connection, node: str, service: str, tls_client: str, *, framed: bool
) -> ControlStream:
    """Turn a session into a stream to ``service`` on ``node``; the words are checked before.

    With ``framed``, in frames if the node of the session knows them: a receptor node ignores that
    and sends plain bytes, whose end looks like their loss.

    Raises:
        CommandRefused: the mesh said why not.
        SessionLost, ProtocolMismatch
    """
    session.send_line(connecting(node, service, tls_client, framed=framed))
    line = session.read_line()
    if not line.startswith("Connecting"):
        raise ProtocolMismatch(f"the node's reply is not one to connect: {line[:60]!r}")
    return FramedStream(session) if line == _FRAMED else ControlStream(session)


def open_at_node(
    session: Connection, node: str, tls_client: str, greeting_timeout: float
) -> Connection:
    """Return a session with the control service of ``node``, which uses ``session`` up.

    That is ``session`` itself where ``node`` is the node that it is with.

    Args:
        session: A session with the node that leads there.
        node: Whose control service to speak to.
        tls_client: Name of a ``tls-client`` of the node in between.
        greeting_timeout: Seconds to wait for the greeting once the stream is open.

    Raises:
        CannotReach: there is no way to that service.
        ProtocolMismatch: it is no control service.
        SessionLost: the session with the node in between broke.
    """
    if node in {session.node_id, ""} or node.lower() == LOCAL_NODE:
        return session
    try:
        stream = connect_on(session, node, CONTROL_SERVICE, tls_client, framed=True)
    except CommandRefused as error:
        raise CannotReach(f"node {node}", str(error)) from error
    far = NodeConnection(StreamTransport(session, stream), node)
    session.set_timeout(greeting_timeout)
    far.read_greeting(f"service {CONTROL_SERVICE} of {node}")
    session.set_timeout(None)
    return far


class StreamTransport:
    """A stream of the mesh as the transport of a session (``transport.Transport``)."""

    def __init__(self, session: Connection, stream: ControlStream) -> None:
        """``session`` is what carries ``stream``."""
        self._session = session
        self._stream = stream

    def send_all(self, data: bytes | memoryview) -> None:
        """Send everything. Raises OSError."""
        try:
            self._stream.send(bytes(data))
        except SessionLost as error:
            raise _as_os_error(error) from error

    def receive(self, max_bytes: int) -> bytes:
        """Return what is there, waiting for at least a byte; ``b""`` at the end. Raises OSError."""
        try:
            return self._stream.receive(max_bytes)
        except SessionLost as error:
            raise _as_os_error(error) from error

    def receive_line_guarded(self, max_bytes: int) -> bytes:
        """Return the next line without its newline. Frames need no guard: they have an end.

        Raises:
            BadSettings: the bytes are plain, so that a loss would look like the payload's end.
            OSError
        """
        if not isinstance(self._stream, FramedStream):
            raise BadSettings(
                "plain bytes do not tell whether a payload is whole: submit on the node in between"
            )
        line = b""
        while len(line) < max_bytes and (byte := self.receive(1)) not in {b"", b"\n"}:
            line += byte
        return line

    def drop_guard(self) -> None:
        """Nothing stands in the way of the end."""

    def send_eof(self) -> None:
        """End our half; the other goes on. Raises OSError."""
        try:
            self._stream.send_eof()
        except SessionLost as error:
            raise _as_os_error(error) from error

    def is_idle(self) -> bool:
        """Whether the stream is up with nothing received and unread."""
        return self._stream.is_idle()

    def set_timeout(self, seconds: float | None) -> None:
        """Bound each later wait for the other side."""
        self._session.set_timeout(seconds)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._stream.fileno()

    def interrupt(self) -> None:
        """Make a receive in another thread return, and every later call fail."""
        self._stream.interrupt()

    def close(self) -> None:
        """Close at once; never raises."""
        self._stream.close()


class NodeConnection(Connection):
    """A session with the control service of another node, through the mesh."""

    def __init__(self, transport: StreamTransport, node: str) -> None:
        super().__init__(transport)
        self._node = node

    def read_line(self) -> str:
        """Return the next line, stripped. Raises SessionLost, CommandRefused, naming the node."""
        try:
            return super().read_line()
        except CommandRefused as error:
            raise CommandRefused(f"node {self._node}: {error}", error.unit_id) from error
        except SessionLost as error:
            raise self._lost(error) from error.__cause__

    def receive(self, max_bytes: int = 0) -> bytes:
        """Return raw bytes as they come, ``b""`` at the end. Raises SessionLost."""
        try:
            return super().receive(max_bytes) if max_bytes else super().receive()
        except SessionLost as error:
            raise self._lost(error) from error.__cause__

    def _lost(self, error: SessionLost) -> SessionLost:
        return SessionLost(f"node {self._node}: {error}")


def _as_os_error(error: SessionLost) -> OSError:
    """What a session's transport raises; a time-out stays one, which callers tell apart."""
    cause = error.__cause__
    return cause if isinstance(cause, TimeoutError) else ConnectionError(str(error))
