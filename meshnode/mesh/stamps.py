"""Identifiers and times as they stand on the wire."""

import calendar
import secrets
import string
import time

ID_ALPHABET = string.digits + string.ascii_letters
ID_LENGTH = 8
"""Update IDs and the service names of dialers are 8 of these (reference sections 4 and 7)."""


def random_id() -> str:
    """Return a new random identifier."""
    # One call of the kernel, not one for each letter: those took a tenth of the time of a ping.
    # Of 64 bits the eight remainders favour no identifier by more than a hundred-thousandth.
    number = secrets.randbits(64)
    letters = ""
    for _ in range(ID_LENGTH):
        number, letter = divmod(number, len(ID_ALPHABET))
        letters += ID_ALPHABET[letter]
    return letters


def new_epoch() -> int:
    """Return the epoch of a node that starts now (reference section 4).

    Receptor puts chance below the seconds; the rest of the time there keeps the order of two
    starts within one second, which decides who of two nodes with one ID is the newcomer.
    """
    return (time.time_ns() << 24) // 1_000_000_000


def timestamp(nanoseconds: int) -> str:
    """Return Unix time as RFC 3339 text in UTC with nanoseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def nanoseconds_of(text: str) -> int | None:
    """Return RFC 3339 text in UTC as Unix time in nanoseconds; None if it is not that."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    try:
        seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
        return seconds * 1_000_000_000 + int(f"{fraction[:9]:0<9}")
    except (ValueError, OverflowError):
        return None
