"""The payload of a unit on its way to disk: all of it, or none that anything is started with."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from meshnode.errors import CommandError
from meshnode.work.store import UnitFile

RECEIVE = 64 * 1024
"""Bytes asked of a client at a time."""

WRITE = 256 * 1024
"""Bytes of payload gathered before a write, which is a hop to a thread; all that a payload of any
size takes of memory."""

Receive = Callable[[int], Awaitable[bytes]]


class WrongInput(CommandError):
    """The payload that came is not the one that was announced."""


@dataclass(frozen=True, slots=True)
class Input:
    """A payload: what a client announces of one, or what is known of one that is here."""

    size: int | None = None
    """Bytes."""

    sha256: str = ""
    """Digest in lower-case hexadecimal; empty where nobody knows it."""

    def check_size(self, size: int) -> None:
        """Refuse more bytes than were announced. Raises WrongInput."""
        if self.size is not None and size > self.size:
            raise WrongInput(f"more than the {self.size} bytes that were announced")

    def check(self, received: "Input") -> None:
        """Refuse what is not as announced. Raises WrongInput."""
        if self.size is not None and received.size != self.size:
            raise WrongInput(f"{received.size} of the {self.size} bytes that were announced")
        if self.sha256 and received.sha256 != self.sha256:
            raise WrongInput("its SHA-256 is not the one that was announced")


async def take_input(
    receive: Receive, file: UnitFile, announced: Input, *, keep: bool = False
) -> Input:
    """Write a whole payload to ``file`` and return what it is.

    With ``keep``, it is on disk for good on return, and its digest is known: somebody will be told
    that it was accepted, and it is sent on later.

    Raises:
        OSError: the disk refuses.
        WrongInput: it is not as announced.
        trio.BrokenResourceError: the client is gone.
    """
    intake = _Intake(file, hashes=keep or bool(announced.sha256))
    gathered = bytearray()
    while data := await receive(RECEIVE):
        gathered += data
        announced.check_size(file.size + len(gathered))
        if len(gathered) >= WRITE:
            await trio.to_thread.run_sync(intake.write, gathered)
            gathered = bytearray()
    if gathered or keep:
        await trio.to_thread.run_sync(intake.finish, gathered, keep)
    received = Input(file.size, intake.digest)
    announced.check(received)
    return received


class _Intake:
    """What is done to each piece, in a thread."""

    def __init__(self, file: UnitFile, *, hashes: bool) -> None:
        self._file = file
        self._hash = hashlib.sha256() if hashes else None

    @property
    def digest(self) -> str:
        return self._hash.hexdigest() if self._hash is not None else ""

    def write(self, data: bytearray) -> None:
        if self._hash is not None:
            self._hash.update(data)
        self._file.write(data)

    def finish(self, rest: bytearray, keep: bool) -> None:
        self.write(rest)
        if keep:
            self._file.sync()
