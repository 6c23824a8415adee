"""TLS to a control service, with a half that can be ended alone.

``ssl.SSLSocket`` cannot do that: its ``unwrap`` waits for the other side's goodbye, which comes
only after the reply we still want. So the engine is driven here, from memory, over a plain socket.
"""

import errno
import socket
import ssl
import struct
import threading
from contextlib import suppress

from meshctl.api.errors import BadSettings, CannotReach, NotTrusted, Refused
from meshctl.api.settings import TlsSettings

_RECORD_BYTES = 64 * 1024
"""Most bytes of ciphertext taken at once: a few of TLS's 16-KiB records."""

_ALERTS = {
    "certificate required": "it asks for a certificate: give --cert and --key",
    "certificate expired": "our certificate has expired, or the clocks differ",
    "bad certificate": "our certificate is not yet valid, or malformed",
    "unknown ca": "it does not trust the CA of our certificate",
    "unsupported certificate": "our certificate is not one for clients",
    "certificate unknown": "our certificate is not among those that it takes",
    "internal error": "our certificate is not among those that it takes",
    "handshake failure": "no cipher in common, or it asks for a certificate",
    "protocol version": "no version of TLS in common",
}
"""What alerts of a node mean, by their names in lower case."""

_OF_THE_CLOCK = frozenset({9, 10})
_OF_THE_NAME = frozenset({62, 64})
"""OpenSSL's numbers (X509_V_ERR_…) of certificates out of their time, or of another host."""


class TlsTransport:
    """A TLS session over a connected TCP socket; one thread may send while another receives."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._socket = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._engine_lock = threading.Lock()
        # Held while ciphertext goes from the engine to the socket, so that it stays in order.
        self._wire_lock = threading.Lock()
        self._received = b""
        self._guarded = False

    def handshake(self) -> None:
        """Do the TLS handshake. Raises OSError (``ssl.SSLError`` is one)."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            except ssl.SSLError:
                self._flush()  # the alert tells the server why
                raise
            else:
                self._flush()
                return

    def send_all(self, data: bytes | memoryview) -> None:
        """Send everything."""
        with self._engine_lock:
            self._tls.write(data)
        self._flush()

    def receive(self, max_bytes: int) -> bytes:
        """Return what is there, waiting for at least a byte; the end must be TLS's own goodbye."""
        if self._received:
            data, self._received = self._received[:max_bytes], self._received[max_bytes:]
            return data
        while True:
            try:
                with self._engine_lock:
                    return self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                self._flush()  # the engine may have to answer a change of keys
                self._feed()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise Refused(errno.ECONNABORTED, _why(error)) from error

    def receive_line_guarded(self, max_bytes: int) -> bytes:
        """Return the next line; from now on a closed socket is a reset connection."""
        self._linger(reset=True)
        line = b""
        while len(line) < max_bytes and b"\n" not in line:
            data = self.receive(max_bytes)
            if not data:
                return line
            line += data
        line, _, self._received = line.partition(b"\n")
        return line

    def drop_guard(self) -> None:
        """Let a closed socket be an ordinary one again."""
        self._linger(reset=False)

    def send_eof(self) -> None:
        """Say TLS's goodbye and end our half of the socket; the other half goes on."""
        while self._incoming.pending:  # the engine wants nothing unread when it says goodbye
            try:
                with self._engine_lock:
                    self._received += self._tls.read(_RECORD_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                break
        self._say_goodbye()
        self._flush()
        self._socket.shutdown(socket.SHUT_WR)

    def is_idle(self) -> bool:
        """Whether the connection is up with nothing received and unread."""
        if self._received or self._incoming.pending:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def set_timeout(self, seconds: float | None) -> None:
        """Bound each later wait."""
        self._socket.settimeout(seconds)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def interrupt(self) -> None:
        """Shut both halves of the socket down."""
        with suppress(OSError):  # the other side was first
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close at once, with TLS's goodbye if it can be said without waiting."""
        if not self._guarded and self._wire_lock.acquire(blocking=False):
            with suppress(OSError):
                self._socket.setblocking(False)
                self._say_goodbye()
                self._socket.send(self._outgoing.read())
            self._wire_lock.release()
        self._socket.close()

    def _say_goodbye(self) -> None:
        # Having written ours, the engine would wait for the other side's: that is its WantRead.
        with self._engine_lock, suppress(ssl.SSLWantReadError, ssl.SSLSyscallError):
            self._tls.unwrap()

    def _linger(self, *, reset: bool) -> None:
        # Zero seconds of lingering make Linux reset the connection when its socket is closed.
        self._guarded = reset
        option = struct.pack("ii", int(reset), 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)

    def _flush(self) -> None:
        with self._wire_lock:
            with self._engine_lock:
                data = self._outgoing.read()
            if data:
                self._socket.sendall(data)

    def _feed(self) -> None:
        data = self._socket.recv(_RECORD_BYTES)
        with self._engine_lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()


def open_tls(sock: socket.socket, host: str, name: str, settings: TlsSettings) -> TlsTransport:
    """Do TLS on a connected socket, which is closed on failure.

    Args:
        sock: The connected socket, with its time-out set.
        host: Whose certificate it must be.
        name: The address as the user gave it, for messages.
        settings: Whom to trust, and what to show.

    Raises:
        BadSettings: a file of ``settings`` cannot be used.
        NotTrusted: one side does not trust the other.
        CannotReach: no TLS there, or no answer.
    """
    try:
        transport = TlsTransport(sock, make_context(settings), host)
        transport.handshake()
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise NotTrusted(name, _why_not_verified(error)) from error
    except ssl.SSLError as error:
        sock.close()
        raise _explain(error, name) from error
    except TimeoutError as error:
        sock.close()
        raise CannotReach(name, "no TLS answer in time. Without TLS write tcp://") from error
    except OSError as error:
        sock.close()
        raise CannotReach(name, f"{error.strerror or error} during the TLS handshake") from error
    except BaseException:
        sock.close()
        raise
    return transport


def _explain(error: ssl.SSLError, name: str) -> CannotReach:
    if error.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return CannotReach(name, "it does not speak TLS. Without TLS write tcp://")
    if isinstance(error, ssl.SSLEOFError):
        return CannotReach(name, "closed during the TLS handshake")
    return NotTrusted(name, _why(error))


def _why(error: ssl.SSLError) -> str:
    """Say what an error of OpenSSL's means: of an alert, what the node holds against us."""
    reason = (error.reason or str(error)).replace("_", " ").lower()
    _, is_alert, name = reason.partition("alert ")
    if not is_alert:
        return f"TLS failed: {reason}"
    words = _ALERTS.get(name, "TLS failed")
    return f"the node refuses us: {words} (alert: {name}); its log says more"


def _why_not_verified(error: ssl.SSLCertVerificationError) -> str:
    """Say what is wrong with the node's certificate, and what may help."""
    text = f"certificate refused: {error.verify_message}"
    if error.verify_code in _OF_THE_CLOCK:
        return f"{text}. Renew it, or check the clocks"
    if error.verify_code in _OF_THE_NAME:
        return f"{text}. Write the address with a name that it has"
    return f"{text}. Give the CA with --rootcas"


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """Make the TLS context for ``settings``; TLS 1.2 and up, as receptor's.

    Raises:
        BadSettings: a file is missing, or is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=settings.rootcas or None)
    except OSError as error:
        raise BadSettings(_about_file("--rootcas", settings.rootcas, error)) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As nodes do, and receptor: whatever is in the file is trusted, and what openssl makes by
    # default is good enough.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if bool(settings.key) != bool(settings.cert):
        raise BadSettings("--key and --cert go together")
    if settings.cert:
        try:
            context.load_cert_chain(settings.cert, settings.key)
        except OSError as error:
            files = f"{settings.cert}, {settings.key}"
            raise BadSettings(_about_file("--cert and --key", files, error)) from error
    if settings.insecureskipverify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _about_file(option: str, path: str, error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{option} {path}: not usable PEM ({(error.reason or 'unreadable').lower()})"
    return f"{option} {path}: {error.strerror or error}"
