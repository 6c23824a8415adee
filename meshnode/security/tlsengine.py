"""One TLS connection without input and output: ciphertext in and out, and what it says between.

OpenSSL does the work. This adds what people need to know when it fails: each failure becomes a
:class:`TlsRefused`, which says why, and for whom.
"""

import datetime
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from OpenSSL import SSL

from meshnode.errors import TlsProblem, TlsRefused
from meshnode.security.certificates import MAX_SHOWN, Certificate, Usage
from meshnode.security.identity import shown_text
from meshnode.security.tls import Demand, TlsSettings
from meshnode.security.verification import Expected, Verdict, verify_chain, without_root

HANDSHAKE_RECORD: Final = 0x16
ALERT_RECORD: Final = 0x15
"""First bytes of the records that begin a connection (RFC 8446, section 5.1)."""

NOT_TLS_ALERT: Final = bytes([ALERT_RECORD, 3, 3, 0, 2, 2, 10])
"""The fatal alert "unexpected message", for a client that does not speak TLS: it can see by that
what is spoken here."""

MOST_OUT: Final = 256 * 1024
"""Bytes of ciphertext that are taken out at once."""

ALERT_WORDS: Final = {
    "unknown ca": "it does not trust the CA that signed our certificate",
    "certificate expired": "our certificate has expired; check the clocks",
    "bad certificate": "our certificate is not yet valid, malformed, or has another name",
    "unsupported certificate": "our certificate may not be used for this",
    "certificate unknown": "our certificate lacks the name, or the fingerprint, that it expects",
    # What OpenSSL says of a certificate that only our own rules refuse.
    "internal error": "our certificate lacks the name, or the fingerprint, that it expects",
    "certificate revoked": "our certificate is revoked",
    "certificate required": "it requires a certificate, and we show none",
    "handshake failure": "there is no way in common, or it requires a certificate that we lack",
    "protocol version": "there is no version of TLS in common (mintls13)",
    "unexpected message": "it does not take what we send for TLS",
    "insufficient security": "it asks for a stronger cipher",
    "access denied": "we may not connect",
}
"""What alerts mean for whoever gets one, by their names."""

_NO_COMMON_WAY: Final = frozenset(
    {
        "unsupported protocol",
        "no shared cipher",
        "no shared groups",
        "no suitable key share",
        "no suitable signature algorithm",
        "no protocols available",
        "no ciphers available",
        "version too low",
        "wrong ssl version",
        "wrong signature type",
        "unknown protocol",
    }
)
"""OpenSSL's reasons for that the ends have nothing in common."""


class TlsEngine:
    """A connection's TLS. Failures are TlsRefused; what is left to send then tells the other end.

    Each call may leave ciphertext to send: see :meth:`outgoing`.
    """

    def __init__(
        self,
        settings: TlsSettings,
        expected: Expected | None = None,
        protocols: Sequence[bytes] = (),
    ) -> None:
        """``expected`` is that of the settings, or more: the host that a client dials.

        ``protocols`` are what a server speaks over it, best first.
        """
        self._usage = settings.usage
        self._verdict = Verdict(settings.expected if expected is None else expected, protocols)
        self._connection = SSL.Connection(settings.context, None)
        self._connection.set_app_data(self._verdict)
        self._is_tls = False
        self._plain_alert = b""
        self.is_done = False
        """Whether the handshake is done."""
        if settings.usage is Usage.SERVER:
            self._connection.set_accept_state()
        else:
            host = self._verdict.expected.host
            if _is_name(host):
                self._connection.set_tlsext_host_name(host.encode("ascii"))
            self._connection.set_connect_state()

    @property
    def certificate(self) -> Certificate | None:
        """The other end's certificate, verified; None if it showed none."""
        return self._verdict.certificate if self.is_done else None

    @property
    def protocol(self) -> bytes:
        """The protocol that was agreed on; empty if it was not talked about."""
        return self._connection.get_alpn_proto_negotiated()

    @property
    def version(self) -> str:
        """The version that was agreed on: ``TLSv1.3``."""
        return self._connection.get_protocol_version_name()

    @property
    def cipher(self) -> str:
        """The cipher that was agreed on."""
        return self._connection.get_cipher_name() or ""

    def judge_again(self, settings: TlsSettings) -> None:
        """Judge the other end's certificate by settings that came after the handshake.

        Raises:
            TlsRefused: a handshake that begins now would be refused.
        """
        chain = self._connection.get_verified_chain() or []
        if chain or settings.demand is Demand.REQUIRED:
            now = datetime.datetime.now(datetime.UTC)
            verify_chain(without_root(chain, settings.expected), settings.expected, now)

    def feed(self, data: bytes) -> None:
        """Take ciphertext. Raises TlsRefused if the other end does not speak TLS at all."""
        if not data:
            return
        if not self._is_tls:
            self._look_at(data)
        self._connection.bio_write(data)

    def outgoing(self) -> bytes:
        """Take out ciphertext that is to be sent; empty if there is none."""
        if self._plain_alert:
            data, self._plain_alert = self._plain_alert, b""
            return data
        try:
            return self._connection.bio_read(MOST_OUT)
        except SSL.WantReadError:
            return b""

    def handshake(self) -> bool:
        """Go on with the handshake; return whether it is done. Raises TlsRefused."""
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise self._refused(error) from error
        self._judge_unseen()
        self.is_done = True
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt; all of it waits to be sent. Raises TlsRefused."""
        rest = memoryview(data)
        try:
            while rest:
                # A record at a time: pyOpenSSL asks for partial writes.
                rest = rest[self._connection.send(rest) :]
        except SSL.Error as error:
            raise self._refused(error) from error

    def read(self, size: int) -> bytes | None:
        """Return decrypted bytes; none at the other end's goodbye; None if more must be fed.

        Raises:
            TlsRefused: what came is no TLS any more, or the other end refuses us.
        """
        try:
            return self._connection.recv(size)
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise self._refused(error) from error

    def end(self) -> None:
        """Say goodbye: nothing more is written; what the other end sends can still be read."""
        with suppress(SSL.Error):  # it may be broken already, and has nothing to say then
            self._connection.shutdown()

    def lost(self) -> TlsRefused:
        """Return the refusal for a connection that ends during the handshake."""
        if self._usage is Usage.CLIENT and not self._is_tls:
            text = "the other end closed the connection without a word of TLS; it may be a port "
            return TlsRefused(TlsProblem.BROKEN, f"{text}without TLS")
        text = f"the {self._verdict.expected.usage.value} left during the TLS handshake"
        return TlsRefused(TlsProblem.BROKEN, text)

    def turn_away(self) -> None:
        """Say that TLS is spoken here, to a client that has said nothing: it may wait for us."""
        if not self._is_tls and self._usage is Usage.SERVER:
            self._plain_alert = NOT_TLS_ALERT

    def _look_at(self, data: bytes) -> None:
        """Look at the first bytes, before OpenSSL does. Raises TlsRefused."""
        first = data[0]
        if self._usage is Usage.SERVER and first != HANDSHAKE_RECORD:
            self._plain_alert = NOT_TLS_ALERT
            text = "the client does not speak TLS, and this port asks for it"
            raise TlsRefused(TlsProblem.NOT_TLS, text)
        if first not in (HANDSHAKE_RECORD, ALERT_RECORD):
            text = "the other end does not speak TLS; it may be a port without"
            raise TlsRefused(TlsProblem.NOT_TLS, text)
        self._is_tls = True

    def _judge_unseen(self) -> None:
        """Judge a certificate that OpenSSL did not ask about: that of an unverified chain."""
        if self._verdict.certificate is not None:
            return
        shown = self._connection.get_peer_certificate()
        if shown is not None:
            self._verdict.judge(shown)

    def _refused(self, error: SSL.Error) -> TlsRefused:
        """Return what an error of OpenSSL's means."""
        if self._verdict.refusal is not None:
            return self._verdict.refusal
        expected = self._verdict.expected
        if isinstance(error, SSL.SysCallError):
            return self.lost()
        reasons = [str(entry[-1]) for entry in (error.args[0] if error.args else [])]
        for reason in reasons:
            _, alert, name = reason.rpartition("alert ")
            if alert:
                words = ALERT_WORDS.get(name, "")
                told = f"{words} (alert: {name})" if words else f"alert: {name}"
                text = f"the {expected.usage.value} refuses us: {told}; its log may say more"
                return TlsRefused(TlsProblem.REFUSED_THERE, text)
            if "did not return a certificate" in reason:
                text = f"the {expected.usage.value} showed no certificate, and one is required"
                return TlsRefused(TlsProblem.MISSING, text)
            if reason in _NO_COMMON_WAY:
                text = f"no version or cipher of TLS in common with the {expected.usage.value}"
                return TlsRefused(TlsProblem.NO_COMMON_WAY, f"{text}: {reason}")
        why = shown_text(", ".join(reasons) or type(error).__name__, MAX_SHOWN)
        return TlsRefused(TlsProblem.BROKEN, f"what came is no TLS: {why}")


def _is_name(host: str) -> bool:
    """Whether a host may be told as the server's name: addresses may not (RFC 6066)."""
    return bool(host) and host.isascii() and not host.replace(".", "").isdigit() and ":" not in host
