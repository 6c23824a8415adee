"""A payload on its way to a node: read piece by piece, and known to be whole at its end."""

import os
import select
import stat
from collections.abc import Iterator
from typing import BinaryIO

CHUNK_BYTES = 256 * 1024
"""Bytes read at once."""


class PayloadError(Exception):
    """The payload could not be read to its end; ``str()`` says why."""


def payload_chunks(payload: bytes | BinaryIO | None) -> Iterator[memoryview]:
    """Yield the bytes of ``payload`` in pieces.

    A regular file must give at least the bytes it had when the reading began: one that is cut
    meanwhile is not a smaller payload, it is a broken one. One that grows is read to its new end.

    Raises:
        PayloadError: reading failed, or came to an early end.
    """
    if payload is None:
        return
    if isinstance(payload, (bytes, bytearray, memoryview)):
        yield memoryview(payload)
        return
    expected = _remaining(payload)
    done = 0
    while True:
        try:
            # A raw file may give None, and an untyped caller's file anything.
            chunk: object = payload.read(CHUNK_BYTES)
            if chunk is None:
                # A raw file whose descriptor somebody made non-blocking; this is no end of file.
                select.select([payload], [], [])
                continue
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PayloadError(f"the payload cannot be read ({reason})") from error
        if not isinstance(chunk, (bytes, bytearray)):
            raise PayloadError("the payload's file is not open as bytes")
        if not chunk:
            break
        done += len(chunk)
        yield memoryview(chunk)
    if done < expected:
        raise PayloadError(f"the payload ended after {done} of its {expected} bytes")


def _remaining(payload: BinaryIO) -> int:
    """Bytes that a regular file still has to give; 0 where that cannot be known."""
    try:
        info = os.fstat(payload.fileno())
        if not stat.S_ISREG(info.st_mode):
            return 0
        return max(0, info.st_size - payload.tell())
    except (AttributeError, OSError, ValueError):
        return 0  # no real file: an object that only reads
