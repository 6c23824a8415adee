"""Node names as the 8 bytes that data messages carry (protocol section 3).

HighwayHash-64 with the all-zero key. Written here because PyPI's wrapper of the C library is long
unmaintained, and a name is hashed once: :class:`NameTable` remembers.
"""

_MASK64 = 0xFFFF_FFFF_FFFF_FFFF
_MASK32 = 0xFFFF_FFFF

# The initial state is part of the algorithm: digits of pi, as in Google's reference.
_INIT0 = (0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3)
_INIT1 = (0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377)

NAME_HASH_LENGTH = 8
"""Bytes of a name hash on the wire."""


def _swap_halves(x: int) -> int:
    return ((x >> 32) | (x << 32)) & _MASK64


def _rotate_halves(x: int, count: int) -> int:
    """Rotate each 32-bit half left by ``count`` (0 to 31)."""
    low, high = x & _MASK32, x >> 32
    low = ((low << count) | (low >> (32 - count))) & _MASK32
    high = ((high << count) | (high >> (32 - count))) & _MASK32
    return high << 32 | low


def _zipper_merge(v1: int, v0: int) -> tuple[int, int]:
    """Return what the byte shuffle of two lanes adds to the (upper, lower) lane."""
    lower = (
        (((v0 & 0xFF000000) | (v1 & 0xFF00000000)) >> 24)
        | (((v0 & 0xFF0000000000) | (v1 & 0xFF000000000000)) >> 16)
        | (v0 & 0xFF0000)
        | ((v0 & 0xFF00) << 32)
        | ((v1 & 0xFF00000000000000) >> 8)
        | ((v0 << 56) & _MASK64)
    )
    upper = (
        (((v1 & 0xFF000000) | (v0 & 0xFF00000000)) >> 24)
        | (v1 & 0xFF0000)
        | ((v1 & 0xFF0000000000) >> 16)
        | ((v1 & 0xFF00) << 24)
        | ((v0 & 0xFF000000000000) >> 8)
        | ((v1 & 0xFF) << 48)
        | (v0 & 0xFF00000000000000)
    )
    return upper, lower


class _State:
    """The four vectors of four 64-bit lanes that HighwayHash mixes."""

    def __init__(self) -> None:
        self.v0 = list(_INIT0)
        self.v1 = list(_INIT1)
        self.mul0 = list(_INIT0)
        self.mul1 = list(_INIT1)

    def update(self, lanes: list[int]) -> None:
        v0, v1, mul0, mul1 = self.v0, self.v1, self.mul0, self.mul1
        for i in range(4):
            v1[i] = (v1[i] + mul0[i] + lanes[i]) & _MASK64
            mul0[i] ^= (v1[i] & _MASK32) * (v0[i] >> 32)
            v0[i] = (v0[i] + mul1[i]) & _MASK64
            mul1[i] ^= (v0[i] & _MASK32) * (v1[i] >> 32)
        for target, source in ((v0, v1), (v1, v0)):
            for i in (0, 2):
                upper, lower = _zipper_merge(source[i + 1], source[i])
                target[i] = (target[i] + lower) & _MASK64
                target[i + 1] = (target[i + 1] + upper) & _MASK64

    def update_packet(self, packet: bytes) -> None:
        self.update([int.from_bytes(packet[i : i + 8], "little") for i in (0, 8, 16, 24)])

    def update_remainder(self, rest: bytes) -> None:
        """Mix in the last 1 to 31 bytes, padded as the algorithm says."""
        size = len(rest)
        self.v0 = [(x + (size << 32) + size) & _MASK64 for x in self.v0]
        self.v1 = [_rotate_halves(x, size) for x in self.v1]
        whole, tail = size & ~3, size & 3
        packet = bytearray(32)
        packet[:whole] = rest[:whole]
        if size & 16:
            packet[28:32] = rest[size - 4 : size]
        elif tail:
            packet[16] = rest[whole]
            packet[17] = rest[whole + (tail >> 1)]
            packet[18] = rest[whole + tail - 1]
        self.update_packet(bytes(packet))

    def finish(self) -> int:
        for _ in range(4):
            v0 = self.v0
            self.update([_swap_halves(v0[i]) for i in (2, 3, 0, 1)])
        return (self.v0[0] + self.v1[0] + self.mul0[0] + self.mul1[0]) & _MASK64


def name_hash(name: str) -> bytes:
    """Return the 8 bytes that stand for ``name`` in data messages."""
    data = name.encode()
    state = _State()
    whole = len(data) & ~31
    for start in range(0, whole, 32):
        state.update_packet(data[start : start + 32])
    if whole != len(data):
        state.update_remainder(data[whole:])
    return state.finish().to_bytes(NAME_HASH_LENGTH, "big")


class NameTable:
    """Node names ↔ hashes, learnt from own ID, peers and routing updates (protocol section 3)."""

    def __init__(self) -> None:
        self._hashes: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}

    def learn(self, name: str) -> bytes:
        """Remember ``name`` and return its hash."""
        known = self._hashes.get(name)
        if known is None:
            known = self._hashes[name] = name_hash(name)
            self._names[known] = name
        return known

    def forget(self, name: str) -> None:
        """Drop a name whose node is gone."""
        known = self._hashes.pop(name, None)
        if known is not None:
            self._names.pop(known, None)

    def name(self, hashed: bytes) -> str | None:
        """Return the name behind a hash, or None if it was never learnt."""
        return self._names.get(hashed)

    def __contains__(self, name: object) -> bool:
        return name in self._hashes
