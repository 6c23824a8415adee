"""A unit's output to its end, over as many sessions as that takes: a node may restart meanwhile."""

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from meshctl.api.errors import AWAY, ControlError, SessionLost
from meshctl.api.logindex import STDOUT
from meshctl.api.status import ASK_INTERVAL, NODE_RETURNS, UNFINISHED, Absence, size_of
from meshctl.render.output import print_warning, sentence

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

SHORT_TRIES = 5
"""Sessions in a row that end as those that are done do, without a byte, although an ended unit is
said to have more: a node that restarts needs one of them or two."""


class NothingMore(SessionLost):
    """The node sends less of an ended unit than it says there is, however often it is asked."""


def tell_away(reason: str) -> None:
    """Say that a node is away, and that the command waits."""
    print_warning(f"{sentence(reason)} Waiting for the node.")


class Following:
    """One reading of one file of a unit's output.

    Args:
        client: Whom to ask.
        unit_id: The unit.
        startpos: First byte wanted.
        stream: The file.
        end: The byte to stop before; None for the unit's end.
        is_known: Whether the unit is known to exist: then even the first session may take a while.
        on_break: Called when a session breaks off, once until bytes come again; with the reason.

    Attributes:
        position: the byte after the last that was yielded.
        status: the unit's final status, once its end has come.
        began: whether a session has brought the results, or the unit is known to exist.
    """

    def __init__(
        self,
        client: "ControlClient",
        unit_id: str,
        startpos: int = 0,
        *,
        stream: str = STDOUT,
        end: int | None = None,
        is_known: bool = False,
        on_break: Callable[[str], object],
    ) -> None:
        self._client = client
        self._unit_id = unit_id
        self._stream = stream
        self._end = end
        self._absence = Absence(on_break)
        self._short_sessions = 0
        """Those in a row that brought nothing of an ended unit that is said to have more."""
        self.position = startpos
        self.status: dict[str, Any] = {}
        self.began = is_known

    def pieces(self) -> Generator[bytes]:
        """Yield the bytes as they come, each once.

        Raises:
            SessionLost, CannotReach, ProtocolMismatch: the node stays away; or it was never there.
            NothingMore: the node has lost what is missing, or never had it.
            CommandRefused: there is no such unit, or not any more.
        """
        while self._end is None or self.position < self._end:
            try:
                yield from self._of_one_session()
                if self._end is None:
                    self.status = self._client.work_status(self._unit_id)
                if (reason := self._what_is_missing()) is None:
                    return
                self._check_short()
                raise SessionLost(reason)
            except NothingMore:
                raise
            except AWAY as error:
                self._check_away(error)
            time.sleep(ASK_INTERVAL)

    def _of_one_session(self) -> Generator[bytes]:
        with self._client.results(self._unit_id, self.position, self._stream) as pieces:
            self.began = True
            for piece in pieces:
                wanted = piece if self._end is None else piece[: self._end - self.position]
                self.position += len(wanted)
                self._absence.ends()
                self._short_sessions = 0
                yield wanted
                if self.position == self._end:
                    return

    def _what_is_missing(self) -> str | None:
        """Return why the end of a session is not the end of the results, None where it is."""
        if self._end is not None:
            return None if self.position >= self._end else f"there are {self._end} bytes"
        # A node that ends closes its sessions as one that is done does: only the status tells.
        if self.status.get("State") in UNFINISHED:
            return f"the unit is still {self.status.get('StateName', 'not finished')}"
        size = size_of(self.status, self._stream) or 0
        return None if self.position >= size else f"there are {size} bytes"

    def _check_short(self) -> None:
        """Count a session that is done and has not brought all. Raises NothingMore."""
        if self._end is not None or self.status.get("State") in UNFINISHED:
            return
        self._short_sessions += 1
        if self._short_sessions > SHORT_TRIES:
            size = size_of(self.status, self._stream)
            raise NothingMore(f"the unit has ended with {size} bytes, but the node sends no more")

    def _check_away(self, error: ControlError) -> None:
        """Pass an error over where the node may come back, raise it where it is too late."""
        if not (self.began and self._absence.lasts(str(error), NODE_RETURNS)):
            raise error
