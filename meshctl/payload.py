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


class Payload:
    """A payload about to be sent.

    A regular file must give at least the bytes it had when this object was made: one that is cut
    meanwhile is not a smaller payload, it is a broken one. One that grows is read to its new end.
    """

    def __init__(self, source: bytes | BinaryIO | None) -> None:
        self._source = source
        self._expected = 0 if source is None or isinstance(source, bytes) else _remaining(source)

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes in pieces, once.

        Raises:
            PayloadError: reading failed, or came to an early end.
        """
        if self._source is None:
            return
        if isinstance(self._source, (bytes, bytearray, memoryview)):
            yield memoryview(self._source)
            return
        done = 0
        for chunk in _read(self._source):
            done += len(chunk)
            yield chunk
        if done < self._expected:
            raise PayloadError(f"the payload ended after {done} of its {self._expected} bytes")


def _read(file: BinaryIO) -> Iterator[memoryview]:
    while True:
        try:
            # A raw file may give None, and an untyped caller's file anything.
            chunk: object = file.read(CHUNK_BYTES)
            if chunk is None:
                # A raw file whose descriptor somebody made non-blocking; this is no end of file.
                select.select([file], [], [])
                continue
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PayloadError(f"the payload cannot be read ({reason})") from error
        if not isinstance(chunk, (bytes, bytearray)):
            raise PayloadError("the payload's file is not open as bytes")
        if not chunk:
            return
        yield memoryview(chunk)


def _remaining(file: BinaryIO) -> int:
    """Bytes that a regular file still has to give; 0 where that cannot be known."""
    try:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            return 0
        return max(0, info.st_size - file.tell())
    except (AttributeError, OSError, ValueError):
        return 0  # no real file: an object that only reads
