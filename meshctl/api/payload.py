"""The payload of a submission: read piece by piece, and known to be whole at its end.

What can be read again is sent again from any byte on, as the same bytes: a node that has a part of
it is sent the rest.
"""

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

DEPS_SHA256_KEY = "depssha256"
"""Key of a submission with the digest of that tar."""

SCRIPT_KEY = "jobscript"
"""Key of a submission with the name of the file in that tar that is to be run."""

EMPTY_SHA256: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""Of no bytes at all."""

_BYTES: Final = (bytes, bytearray, memoryview)


class Sendable(Protocol):
    """What is sent after a submission; see :class:`Payload`."""

    size: int | None
    announced: dict[str, str]

    def chunks(self, start: int = 0) -> Iterator[memoryview]:
        """Yield the bytes from one on in pieces, once if they cannot be read again.

        Raises:
            PayloadError: they cannot be read.
        """
        ...

    def in_parts(self) -> dict[str, str] | None:
        """Return sizes and digests of all of it, as fields of a submission.

        A node must know them to take it in parts. None if it cannot be read again, or not now.
        """
        ...

    def is_unchanged(self) -> bool:
        """Whether it still is what it was when it was measured."""
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
        self._begin = 0
        """Where a file stood."""
        if _can_be_read_again(source):
            known = _measure(source)
            if known is not None:
                self._begin, self.size, digest = known
                self.announced = _announcement(self.size, digest)

    def chunks(self, start: int = 0) -> Iterator[memoryview]:
        """Yield the bytes from one on in pieces, once if the source has only them.

        Raises:
            PayloadError: reading failed, or came to an early end.
        """
        if self._source is None:
            return
        if isinstance(self._source, _BYTES):
            yield memoryview(self._source)[start:]
            return
        if self.announced:
            self._seek(start)
        done = start
        for chunk in _read(self._source):
            piece = chunk if self.size is None else chunk[: self.size - done]
            done += len(piece)
            yield piece
            if len(piece) < len(chunk):
                break
        if self.size is not None and done < self.size:
            raise PayloadError(f"the payload ended after {done} of its {self.size} bytes")

    def in_parts(self) -> dict[str, str] | None:
        """Return its size and digest; None if it cannot be read again."""
        if self._source is None:
            return _announcement(0, EMPTY_SHA256)
        return self.announced or None

    def is_unchanged(self) -> bool:
        """Whether a file still has the bytes that it had; it is read to its end."""
        if self._source is None or isinstance(self._source, _BYTES):
            return True
        try:
            self._seek(0)
        except PayloadError:
            return False
        known = _measure(self._source, self.size)
        return known is not None and _announcement(*known[1:]) == self.announced

    def _seek(self, position: int) -> None:
        assert self._source is not None
        assert not isinstance(self._source, _BYTES)
        try:
            self._source.seek(self._begin + position)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PayloadError(f"the payload cannot be read again ({reason})") from error


def _announcement(size: int, digest: str) -> dict[str, str]:
    return {"stdinsize": str(size), "stdinsha256": digest}


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


def _can_be_read_again(source: bytes | BinaryIO | None) -> bool:
    """Whether all of a payload is there now, and will be later: a pipe has what comes once."""
    if source is None:
        return False
    if isinstance(source, (*_BYTES, io.BytesIO)):
        return True
    try:
        return stat.S_ISREG(os.fstat(source.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False  # no real file


def _measure(
    source: bytes | BinaryIO | None, most: int | None = None
) -> tuple[int, int, str] | None:
    """Return where a payload begins, its size and its SHA-256, of ``most`` bytes of it.

    None where only reading it would tell, or where its fault will show when it is sent.
    """
    import hashlib  # noqa: PLC0415 - most commands of meshctl send no payload, and start faster

    if source is None:
        return None
    if isinstance(source, _BYTES):
        return 0, len(source), hashlib.sha256(source).hexdigest()
    try:
        begin, size, digest = source.tell(), 0, hashlib.sha256()
        for chunk in _read(source):
            piece = chunk if most is None else chunk[: most - size]
            size += len(piece)
            digest.update(piece)
            if size == most:
                break
        source.seek(begin)
    except (AttributeError, OSError, ValueError, PayloadError):
        return None
    return begin, size, digest.hexdigest()
