"""The files of requests that are on their way to units: how much of the disk they may take.

They lie there twice for a moment, once here and once with their unit, and nobody has to be known as
the submitter of a unit to send them. So they have a bound for each client and for all together, and
leave the disk the room below which it is short: that is for units which are accepted.
"""

from pathlib import Path
from typing import Final

from meshnode.shares import Holder, Shares
from meshnode.web.problems import TOO_MANY, UNAVAILABLE, Problem
from meshnode.work.units.shortage import FREE_SIZE, has_room, is_low

IN_ALL: Final = 32 * 1024**3
"""Bytes of files of all requests that are on their way. One client may have half of what others
leave of it, so whoever comes later finds room, too."""

LUMP: Final = 1024 * 1024
"""Bytes that are counted at a time. Most jobs have no more, so that much is taken even while the
disk is short of room, as long as it has any to spare."""

RETRY: Final = {"retry-after": "10"}
"""Seconds after which it is worth to try again: files leave when they are with their unit, which
takes no longer than it took to send them."""


class Room:
    """What one request takes of the spool, until it gives all of it back."""

    def __init__(self, directory: Path, holder: Holder, shares: Shares) -> None:
        self.directory = directory
        self._holder = holder
        self._shares = shares
        self._counted = 0

    def count(self, size: int) -> bool:
        """Count so many bytes that are to be there; whether the disk must be looked at first.

        Raises:
            Problem: they are too many.
        """
        if size <= self._counted:
            return False
        more = -(-(size - self._counted) // LUMP) * LUMP
        if not self._shares.take(self._holder, more):
            raise self._refusal()
        self._counted += more
        return True

    def check_disk(self) -> None:
        """Return if the disk has room for what was counted; any thread may ask.

        Raises:
            Problem: it has not.
            OSError: it does not say.
        """
        if self._counted > LUMP:
            is_short = is_low(self.directory)
        else:
            is_short = not has_room(self.directory, FREE_SIZE)
        if is_short:
            text = (
                "the node keeps no more files for now: the disk of its units has too little room "
                "left; release units there, or try again later"
            )
            raise Problem(UNAVAILABLE, text, RETRY)

    def give_back(self) -> None:
        """Count nothing any more: the bytes are gone."""
        self._shares.give_back(self._holder, self._counted)
        self._counted = 0

    def _refusal(self) -> Problem:
        if self._shares.held(self._holder) > self._shares.used // 2:
            held = self._shares.held(self._holder) // LUMP
            text = (
                f"your requests have {held} MiB of files on the way; wait until some of them have"
                " become units, or have meshctl send the files"
            )
            return Problem(TOO_MANY, text, RETRY)
        text = (
            f"requests have {self._shares.used // LUMP} MiB of files on the way; try again later,"
            " or have meshctl send the files"
        )
        return Problem(UNAVAILABLE, text, RETRY)


class Spool:
    """Where files of requests lie, and how much of it each client has."""

    def __init__(self, directory: Path, in_all: int = IN_ALL) -> None:
        """``directory`` is on the disk of the units."""
        self.directory = directory
        self._shares = Shares(in_all, 0)

    @property
    def used(self) -> int:
        """Bytes that are counted for all clients."""
        return self._shares.used

    def room(self, holder: Holder) -> Room:
        """Return what counts the files of one request of a client."""
        return Room(self.directory, holder, self._shares)
