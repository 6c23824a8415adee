"""Identifiers and epochs as a node chooses them."""

import secrets
import string
import time

from meshnode.protocol.times import SECOND

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
    return epoch_at(time.time_ns())


def epoch_at(nanoseconds: int) -> int:
    """Return the epoch of a node that starts at this Unix time."""
    return (nanoseconds << 24) // SECOND
