"""What a host answers, read totally: it may say anything."""

from collections.abc import Sequence
from dataclasses import dataclass

from meshnode.security.identity import shown_text
from meshnode.work.ssh.record import FarEnd
from meshnode.work.units.jsonreader import MAX_SIZE

MAX_BOOT = 64
"""Characters that are kept of what a host says of its start; Linux has a UUID."""

MAX_PID = 2**31 - 1
"""The highest number that a process can have."""

MAX_STATUS = 255
"""The highest status with which a process ends."""

STATUS_ROOM = len(str(MAX_STATUS)) + 1
"""Bytes in which a status and the end of its line stand."""


@dataclass(frozen=True, slots=True)
class FarState:
    """What a host has of a unit.

    Attributes:
        is_claimed: the command was started, once and for all.
        is_there: the unit has a directory.
        boot: the host's start, as its kernel names it.
        pid: of the command, empty if it is not known.
    """

    is_claimed: bool
    is_there: bool
    boot: str
    pid: str


class MarkedPart:
    """Finds the end of a part of a stream: its mark, and a status."""

    def __init__(self, mark: str) -> None:
        self._mark = f"\n{mark} ".encode()
        self._held = b""
        self.status: int | None = None
        """What stands behind the mark; None until it has come."""

    def feed(self, data: bytes) -> bytes:
        """Return what certainly comes before the mark."""
        held = self._held + data
        at = held.find(self._mark)
        if at < 0:
            at = max(0, len(held) - len(self._mark) + 1)
        else:
            status, is_whole, _ = held[at + len(self._mark) :][:STATUS_ROOM].partition(b"\n")
            if is_whole or len(status) == STATUS_ROOM:
                number = _number(status.decode(errors="replace"), MAX_STATUS)
                self.status = MAX_STATUS if number is None else number
        self._held = held[at:]
        return held[:at]


def far_state(words: Sequence[str]) -> FarState:
    """Read ``state STATE BOOT PID``. Total: a host may say anything."""
    _, state, boot, pid = (*words, *[""] * 4)[:4]
    return FarState(state == "claimed", state != "absent", shown_text(boot, MAX_BOOT), far_pid(pid))


def far_end(words: Sequence[str]) -> FarEnd:
    """Read ``end CODE WHY SIZE``; a star stands for what nobody recorded. Total."""
    _, code, why, size = (*words, *[""] * 4)[:4]
    return FarEnd(
        _number(code, MAX_STATUS),
        why if why in {"cancel", "timeout"} else "",
        _number(size, MAX_SIZE) or 0,
    )


def far_pid(text: str) -> str:
    """Read the number of a process; empty if it is none. Total."""
    number = _number(text, MAX_PID)
    return "" if number is None else str(number)


def _number(text: str, most: int) -> int | None:
    """Return a number that is written in decimal and no larger than ``most``, else None."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    return int(text) if is_number and int(text) <= most else None
