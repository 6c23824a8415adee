"""Connections with TLS settings: what this end shows, and whether the other end is who it must be.

Who dials checks that the listener's certificate names the node that it dialed. A listener that
requires certificates checks that the dialer's names the node that the data come from; one that only
checks those it is shown checks who signed them (protocol section 9).

Imported with the first connection of this kind: it loads OpenSSL, which others need not wait for.
"""

import datetime
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from cryptography import x509

from meshnode.errors import TlsProblem, TlsRefused
from meshnode.mesh.streams.identity import INSECURE_NAME, Identity
from meshnode.security.certificates import Certificate, Usage
from meshnode.security.tls import Demand, OwnCertificate, TlsSettings
from meshnode.security.verification import Expected, decode_shown, verify_chain

MAX_TOLD: Final = 250
"""Bytes of what the other end is told of a refusal: three times that fits one datagram, since the
engine says it in packets of three kinds."""

KEPT: Final = 8
"""Certificates of this node that are in memory once for all connections that show them."""


class Judge:
    """Judges the other end of one connection; the engine asks it (``PeerJudge``)."""

    def __init__(self, settings: TlsSettings, node: str) -> None:
        """``node`` is the one at the other end."""
        self.shows = None if settings.own is None else _identity(settings.own)
        self.asks = settings.usage is Usage.SERVER and settings.demand is not Demand.NONE
        self.certificate: Certificate | None = None
        self.refusal: TlsRefused | None = None
        self._may_lack = settings.demand is Demand.CHECKED
        names_node = settings.usage is Usage.CLIENT or settings.demand is Demand.REQUIRED
        self._expected = replace(settings.expected, node=node if names_node else "")

    def judge(self, ders: Sequence[bytes]) -> None:
        """Take the chain that the other end showed and proved to be its own. Raises TlsRefused."""
        if not ders and self._may_lack:
            return
        try:
            self.certificate = _verify(ders, self._expected)
        except TlsRefused as refusal:
            self.refusal = refusal
            raise

    def told(self, refusal: TlsRefused) -> str:
        """Return what the other end may know of a refusal: no path of this machine."""
        text, trust = str(refusal), self._expected.trust
        if trust is not None:
            text = text.replace(trust.words, "a CA that is trusted here")
        return text.encode()[:MAX_TOLD].decode(errors="ignore")


def _verify(ders: Sequence[bytes], expected: Expected) -> Certificate:
    if ders and expected.usage is Usage.SERVER and expected.trust is not None:
        _check_has_tls(decode_shown(ders[0], expected))
    return verify_chain(ders, expected, datetime.datetime.now(datetime.UTC))


def _check_has_tls(shown: Certificate) -> None:
    """Refuse a service without TLS settings, which anybody could be. Raises TlsRefused."""
    if shown.subject == f"CN={INSECURE_NAME}":
        text = "secure connection to insecure service: it has no tls-server"
        raise TlsRefused(TlsProblem.NOT_TLS, text)


@lru_cache(maxsize=KEPT)
def _identity(own: OwnCertificate) -> Identity:
    leaf, *others = (x509.load_der_x509_certificate(one.der) for one in own.chain)
    return Identity(leaf, own.key, tuple(others))
