"""How a meshnode shows over UDP that it reads at the address that its datagrams bear.

Anybody may write any source address into a datagram. So whoever dials asks for a cookie first,
which costs the other end no memory and fewer bytes than it has read, and sends it along with the
first messages. A receptor node takes these datagrams for messages of an unknown type, which it
ignores while a link is opening.
"""

import hashlib
import hmac
import secrets
from typing import Final

REQUEST_TYPE: Final = 0x80
CHALLENGE_TYPE: Final = 0x81
ANSWER_TYPE: Final = 0x82
"""First bytes, where messages have their type (reference section 2 ends with 3)."""

COOKIE_LENGTH = 8
"""Bytes of a cookie: nobody guesses one of 2^64 by sending datagrams."""

PREFIX_LENGTH = 1 + COOKIE_LENGTH
"""Bytes before the message in an answer."""

LIFETIME = 30.0
"""Seconds for which a cookie is good, at least; at most twice as long."""

REQUEST: Final = bytes([REQUEST_TYPE]) + bytes(COOKIE_LENGTH)
"""Asks for a cookie; as long as the answer, so that nobody makes us send more than was sent."""


def read_challenge(datagram: bytes | bytearray) -> bytes | None:
    """Return the cookie, if this datagram gives one."""
    if len(datagram) == PREFIX_LENGTH and datagram[0] == CHALLENGE_TYPE:
        return bytes(datagram[1:])
    return None


def answer(cookie: bytes, message: bytes | bytearray | memoryview) -> bytes:
    """Return a message that says with a cookie who sends it."""
    return b"".join((bytes([ANSWER_TYPE]), cookie, message))


class CookieJar:
    """Makes and knows the cookies of one listener, and remembers none."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def challenge(self, address: object, now: float) -> bytes:
        """Return the datagram that gives an address its cookie."""
        return bytes([CHALLENGE_TYPE]) + self._cookie(address, int(now // LIFETIME))

    def accepts(self, datagram: bytes | bytearray, address: object, now: float) -> bool:
        """Whether this is an answer with a cookie of the address that it came from."""
        if len(datagram) < PREFIX_LENGTH or datagram[0] != ANSWER_TYPE:
            return False
        given = bytes(datagram[1:PREFIX_LENGTH])
        period = int(now // LIFETIME)
        return any(
            hmac.compare_digest(given, self._cookie(address, p)) for p in (period, period - 1)
        )

    def _cookie(self, address: object, period: int) -> bytes:
        text = f"{address}|{period}".encode()
        return hashlib.blake2s(text, key=self._secret, digest_size=COOKIE_LENGTH).digest()
