"""The engine's header protection (RFC 9001, section 5.4) without its copies of whole packets.

What is protected are five bytes of a header. For them aioquic copies each packet three times on its
way out and once on its way in, which with large datagrams is a tenth of the engine's time.
"""

from aioquic._crypto import (
    PACKET_NUMBER_LENGTH_MAX,
    SAMPLE_LENGTH,
    CryptoError,
    HeaderProtection,
)


class LeanHeaderProtection(HeaderProtection):
    """Protects as another does, with its keys."""

    def __init__(self, other: HeaderProtection) -> None:
        self._encryptor = other._encryptor
        self._is_chacha20 = other._is_chacha20

    def apply(self, plain_header: bytes, protected_payload: bytes) -> bytes:
        """Return the packet with its header protected."""
        number_length = (plain_header[0] & 0x03) + 1
        sample = PACKET_NUMBER_LENGTH_MAX - number_length
        mask = self._mask(protected_payload[sample : sample + SAMPLE_LENGTH])
        header = bytearray(plain_header)
        _protect(header, mask, len(header) - number_length, number_length)
        return bytes(header) + protected_payload

    def remove(self, packet: bytes, pn_offset: int) -> tuple[bytes, int]:
        """Return a packet's plain header, and the packet number in it."""
        sample = pn_offset + PACKET_NUMBER_LENGTH_MAX
        if sample + SAMPLE_LENGTH > len(packet):
            raise CryptoError("Packet is too short to sample")
        mask = self._mask(packet[sample : sample + SAMPLE_LENGTH])
        header = bytearray(packet[:sample])
        # The length of the packet number is protected, too.
        number_length = ((header[0] ^ mask[0]) & 0x03) + 1
        _protect(header, mask, pn_offset, number_length)
        plain = bytes(header[: pn_offset + number_length])
        return plain, int.from_bytes(plain[pn_offset:], "big")


def _protect(header: bytearray, mask: bytes, offset: int, number_length: int) -> None:
    header[0] ^= mask[0] & (0x0F if header[0] & 0x80 else 0x1F)
    for i in range(number_length):
        header[offset + i] ^= mask[1 + i]
