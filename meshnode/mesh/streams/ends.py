"""How a connection ends: what its ends say of that, and what becomes of the engine's own faults."""

from types import TracebackType
from typing import Protocol

from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from meshnode.errors import HandshakeRefused, StreamError
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.mesh.streams.quicsettings import NORMAL_CLOSE
from meshnode.security.identity import shown_text

MAX_REASON = 300
"""Characters of the other end's words why it ends a connection, in a message."""

ALERTS = range(QuicErrorCode.CRYPTO_ERROR, QuicErrorCode.CRYPTO_ERROR + 256)
"""Error codes that are alerts of TLS (RFC 9001, section 4.8)."""

BAD_CERTIFICATE = ALERTS.start + AlertDescription.bad_certificate
"""The error code of who does not take the other end's certificate."""


def describe_end(end: ConnectionTerminated) -> str:
    """Return why a connection ended, for a person."""
    said = shown_text(end.reason_phrase, MAX_REASON)
    if end.error_code == QuicErrorCode.NO_ERROR:
        return said or NORMAL_CLOSE
    if end.error_code not in ALERTS:
        return said or f"QUIC error {end.error_code:#x}"
    number = end.error_code - ALERTS.start
    try:
        alert = AlertDescription(number).name.replace("_", " ")
    except ValueError:
        alert = f"alert {number}"
    return f"TLS: {alert}: {said}" if said else f"TLS: {alert}"


def end_error(quic: MeshQuicConnection, end: ConnectionTerminated) -> StreamError:
    """Return the error that a connection ended with; a refusal says which end refused."""
    text = describe_end(end)
    if end.error_code not in ALERTS:
        return StreamError(text)
    if not quic.has_last_words:
        meaning = "" if end.reason_phrase else _meaning(text.removeprefix("TLS: "))
        return HandshakeRefused(f"the other end refused: {text}{meaning}", f"{end.error_code:#x}")
    own = None if quic.judge is None else quic.judge.refusal
    if own is None:
        return HandshakeRefused(text, f"{end.error_code:#x} here")
    return HandshakeRefused(str(own), own.problem.value)


def _meaning(alert: str) -> str:
    """Return what an alert means for whoever gets one without a reason; receptor gives none."""
    # Rare, and nothing else here needs that module.
    from meshnode.security.tlsengine import ALERT_WORDS  # noqa: PLC0415

    words = ALERT_WORDS.get(alert, "")
    return f": {words}" if words else ""


class EngineUser(Protocol):
    """Who calls the engine of one connection."""

    def engine_failed(self, error: Exception) -> None:
        """End the connection: the engine has failed."""


class Boundary:
    """Ends an exception of the QUIC engine at its connection; it is logged once.

    Whoever calls the engine is no part of the fault: a link, the nursery of all connections, a
    service that closes a stream. So this is the one place where whatever comes is caught.
    """

    __slots__ = ("_user",)

    def __init__(self, user: EngineUser) -> None:
        self._user = user

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception):
            self._user.engine_failed(error)
            return True
        return False
