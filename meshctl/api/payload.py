"""The payload of a submission: read piece by piece, and known to be whole at its end."""

import io
import os
import select
import stat
from collections.abc import Iterator
from typing import BinaryIO, Final, Protocol

from meshctl.api.errors import BadSettings

CHUNK_BYTES = 256 * 1024
"""Bytes read at once."""

DEPS_SIZE_KEY = "depssize"
"""Key of a submission whose payload begins with a tar: its bytes."""

SCRIPT_KEY = "jobscript"
"""Key of a submission with the name of the file in that tar that is to be run."""

_BYTES: Final = (bytes, bytearray, memoryview)


class Sendable(Protocol):
    """What is sent after a submission; see :class:`Payload`."""

    size: int | None
    announced: dict[str, str]

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes in pieces, once. Raises PayloadError."""
        ...


class PayloadError(Exception):
    """The payload could not be read to its end; ``str()`` says why."""


class Payload:
    """A payload about to be sent.

    A regular file is what it was when this object was made: one that is cut meanwhile is not a
    smaller payload, it is a broken one, and what is appended meanwhile is not sent.

    Attributes:
        size: how many bytes it has; None if only sending it will tell.
        announced: what a node can check the payload against, as fields of the submission; empty
            if only sending it will tell (a pipe, an object that only reads).

    Raises:
        BadSettings: the source is text, or nothing that has bytes.
    """

    def __init__(self, source: bytes | BinaryIO | None) -> None:
        # Checked before anything is sent: a unit that exists already would be left failed.
        if isinstance(source, (str, io.TextIOBase)):
            raise BadSettings("the payload is text; give bytes, or a file that is open as bytes")
        if not (
            source is None or isinstance(source, _BYTES) or callable(getattr(source, "read", None))
        ):
            raise BadSettings(f"the payload is neither bytes nor a file, but {type(source)!r}")
        self._source = source
        self.size: int | None = 0 if source is None else None
        self.announced: dict[str, str] = {}
        known = _measure(source)
        if known is not None:
            self.size, digest = known
            self.announced = {"stdinsize": str(self.size), "stdinsha256": digest}

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes in pieces, once.

        Raises:
            PayloadError: reading failed, or came to an early end.
        """
        if self._source is None:
            return
        if isinstance(self._source, _BYTES):
            yield memoryview(self._source)
            return
        done = 0
        for chunk in _read(self._source):
            piece = chunk if self.size is None else chunk[: self.size - done]
            done += len(piece)
            yield piece
            if len(piece) < len(chunk):
                break
        if self.size is not None and done < self.size:
            raise PayloadError(f"the payload ended after {done} of its {self.size} bytes")


def _read(file: BinaryIO) -> Iterator[memoryview]:
    while True:
        try:
            # A raw file may give None, and an untyped caller's file anything.
            chunk: object = file.read(CHUNK_BYTES)
            if chunk is None:
                # A raw file whose descriptor somebody made non-blocking; this is no end of file.
                select.select([file], [], [])
                continue
        except Exception as error:
            # The file is the caller's, who may unpack or decrypt in it: whatever it raises, the
            # payload is not whole.
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise PayloadError(f"the payload cannot be read ({reason})") from error
        if not isinstance(chunk, (bytes, bytearray)):
            raise PayloadError("the payload's file is not open as bytes")
        if not chunk:
            return
        yield memoryview(chunk)


def _measure(source: bytes | BinaryIO | None) -> tuple[int, str] | None:
    """Return size and SHA-256 of what is yet to be read, None where only reading it would tell."""
    if source is None:
        return None
    import hashlib  # noqa: PLC0415 - most commands of meshctl send no payload, and start faster

    if isinstance(source, _BYTES):
        return len(source), hashlib.sha256(source).hexdigest()
    try:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            return None
        start, size, digest = source.tell(), 0, hashlib.sha256()
        for chunk in _read(source):
            size += len(chunk)
            digest.update(chunk)
        source.seek(start)
    except (AttributeError, OSError, ValueError, PayloadError):
        return None  # no real file, or one whose fault will show when it is sent
    return size, digest.hexdigest()
