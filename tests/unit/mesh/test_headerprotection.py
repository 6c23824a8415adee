"""Our header protection does to every packet what aioquic's does."""

import os
import random

import pytest
from aioquic._crypto import CryptoError, HeaderProtection

from meshnode.mesh.streams.packets import LeanHeaderProtection

CIPHERS = [(b"aes-128-ecb", 16), (b"chacha20", 32)]


@pytest.fixture(params=CIPHERS, ids=["aes", "chacha20"])
def both(request):
    cipher, length = request.param
    theirs = HeaderProtection(cipher, os.urandom(length))
    return theirs, LeanHeaderProtection(theirs)


@pytest.mark.parametrize("long_header", [True, False])
def test_both_protect_and_unprotect_alike(both, long_header):
    theirs, ours = both
    chance = random.Random(1)
    for _ in range(200):
        number_length = chance.randint(1, 4)
        first = (0xC0 if long_header else 0x40) | chance.randrange(16) << 2 & 0x1C
        offset = chance.randint(1, 40)
        header = bytes([first | number_length - 1]) + chance.randbytes(offset - 1 + number_length)
        payload = chance.randbytes(chance.randint(20, 1500))
        packet = ours.apply(header, payload)
        assert packet == theirs.apply(header, payload)
        number = int.from_bytes(header[offset:], "big")
        assert ours.remove(packet, offset) == theirs.remove(packet, offset) == (header, number)


def test_a_packet_that_is_too_short_is_refused_as_aioquic_does(both):
    for protection in both:
        with pytest.raises(CryptoError, match="too short"):
            protection.remove(bytes(28), 9)
        protection.remove(bytes(29), 9)
