"""Where the last lines of a unit's stdout begin, found without reading all of it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshctl.client import ControlClient

BLOCK_BYTES = 64 * 1024
"""Bytes that are read of the end at first; most tails are shorter."""

LARGEST_BLOCK_BYTES = 4 * 1024 * 1024
"""Bytes that are read at once at most, each block being twice the last: few sessions for many
lines, and never much memory."""


def start_of_last_lines(client: "ControlClient", unit_id: str, size: int, count: int) -> int:
    """Return the position where the last ``count`` lines of the first ``size`` bytes begin.

    As for ``tail -n``, bytes after the last newline are a line too. No lines begin at ``size``.

    Raises:
        ControlError: stdout could not be read.
    """
    if count == 0:
        return size
    end, block = size, BLOCK_BYTES
    missing = count
    while end > 0:
        start = max(end - block, 0)
        data = _read(client, unit_id, start, end)
        # A newline at the very end closes the last line and begins none.
        searched = len(data) - 1 if end == size else len(data)
        while (searched := data.rfind(b"\n", 0, searched)) >= 0:
            missing -= 1
            if missing == 0:
                return start + searched + 1
        end, block = start, min(2 * block, LARGEST_BLOCK_BYTES)
    return 0


def _read(client: "ControlClient", unit_id: str, start: int, end: int) -> bytes:
    """Return the bytes from ``start`` to ``end``, fewer if stdout has fewer."""
    data = bytearray()
    with client.results(unit_id, start) as pieces:
        for piece in pieces:
            data += piece
            if len(data) >= end - start:
                break
    return bytes(data[: end - start])
