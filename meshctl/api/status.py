"""A unit's status: what it says, and how it changes.

A meshnode pushes each change to a client that asks for ``work watch``. A receptor node refuses that
(``bad command``), and so does a meshnode for work that must be signed. Both answer ``work status``,
so there the client polls.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Any

from meshctl.api import JsonObject
from meshctl.api.errors import (
    AWAY,
    CommandRefused,
    ControlError,
    ProtocolMismatch,
    SessionLost,
    WaitTimedOut,
)
from meshctl.api.logindex import FILES, INDEX, STDERR, STDOUT

if TYPE_CHECKING:  # the commands need what is here before they need sockets
    from meshctl.api.connection import Connection

STATES = ("Pending", "Running", "Succeeded", "Failed", "Canceled")
"""Names of the states of a unit, by their numbers (protocol section 8)."""

UNFINISHED = frozenset({0, 1})
"""Pending and Running."""

FAILED, CANCELED = 3, 4
"""The states of a unit that ended badly."""

SIZE_KEYS = {STDOUT: "StdoutSize", STDERR: "StderrSize", INDEX: "IndexSize", FILES: "FilesSize"}
"""Where a status has the bytes of each file of a unit's output: it lacks the key of a file that the
unit does not have."""

LONGEST_STATE = 40
"""Characters of what is no state that are told."""

ENDED = frozenset(STATES[2:])
"""Names of the states that a unit does not leave."""

ASK_INTERVAL = 1.0
"""Seconds between two polls, and between two attempts to reach a node that is away: soon enough for
a person, and rare enough for thousands of waiting scripts."""

NODE_RETURNS = 30.0
"""Seconds that a node may be away during a watch: it may be restarting."""

FIRST_STATUS = 10.0
"""Seconds to wait for the first status, even if the time-out is shorter: WaitTimedOut needs it."""


def unit_status(reply: JsonObject) -> JsonObject:
    """Return a reply that is a unit's status: its state is one that can be acted on.

    Raises:
        ProtocolMismatch: it is none; a script must not take it for success.
    """
    state = reply.get("State")
    if type(state) is not int or state not in range(len(STATES)):
        shown = repr(state)[:LONGEST_STATE]
        raise ProtocolMismatch(f"the node's reply is no status of a unit: its State is {shown}")
    return reply


def moment(status: Mapping[str, Any], key: str) -> datetime | None:
    """Return a time that a status tells, None where it tells none (a receptor node never does)."""
    text = status.get(key)
    try:
        told = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return told if told is None or told.tzinfo else told.replace(tzinfo=UTC)


def newest_first(units: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the IDs of the units whose node says when they were made, the newest first."""
    made = {unit_id: moment(status, "Created") for unit_id, status in units.items()}
    known = [(when, unit_id) for unit_id, when in made.items() if when is not None]
    return [unit_id for _, unit_id in sorted(known, reverse=True)]


def state_name(status: Mapping[str, Any]) -> str:
    """Return the name of the state that a status tells; empty where it tells none."""
    return str(status.get("StateName", ""))


def remote_part(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a status says of the node that the unit runs on; nothing for a local unit."""
    extra = status.get("ExtraData")
    return extra if isinstance(extra, dict) and extra.get("RemoteNode") else {}


def size_of(status: Mapping[str, Any], stream: str) -> int | None:
    """Return the bytes of a file of a unit's output, None where the unit has no such file."""
    size = status.get(SIZE_KEYS[stream])
    if isinstance(size, int):
        return size
    return 0 if stream == STDOUT else None


def outputs_known(status: Mapping[str, Any]) -> bool:
    """Whether a status tells which files of output a unit has.

    Of work on another node it does so once that node has told.
    """
    is_waiting = status.get("State") == STATES.index("Pending") and bool(remote_part(status))
    return not is_waiting or SIZE_KEYS[INDEX] in status


def work_type(status: Mapping[str, Any]) -> str:
    """Return the type of the work itself, wherever it runs."""
    return str(remote_part(status).get("RemoteWorkType") or status.get("WorkType", ""))


class Absence:
    """For how long a node is away: it may be restarting, and is worth waiting for.

    ``on_away`` is called with the reason, once for each time that it goes away.
    """

    def __init__(self, on_away: Callable[[str], object] | None = None) -> None:
        self._on_away = on_away
        self._since: float | None = None

    def ends(self) -> None:
        """Note that the node is there."""
        self._since = None

    def lasts(self, reason: str, seconds: float) -> bool:
        """Note that the node is away; return whether that may still last, of so many seconds."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            if self._on_away is not None:
                self._on_away(reason)
        return now - self._since < seconds


class Watch:
    """One watch of one unit.

    Args:
        take: Returns an exclusive session.
        ask: Returns the unit's status now.
        unit_id: The unit, checked to be one word.
        timeout: Seconds until :meth:`statuses` gives up; None for never.
        on_away: Called with the reason when the node goes away, once until it is back.
        is_known: Whether the unit is known to exist: then even the first status may take a while.
    """

    def __init__(
        self,
        take: "Callable[[], Connection]",
        ask: Callable[[str], JsonObject],
        unit_id: str,
        timeout: float | None = None,
        on_away: Callable[[str], object] | None = None,
        *,
        is_known: bool = False,
    ) -> None:
        self._take = take
        self._ask = ask
        self._unit_id = unit_id
        self._timeout = timeout
        self._is_known = is_known
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._last: JsonObject | None = None
        self._changes = 0
        self._absence = Absence(on_away)
        self._session: Connection | None = None
        self._stopped = Event()

    def stop(self) -> None:
        """End :meth:`statuses` in another thread, after a pause of its own at the latest."""
        self._stopped.set()
        if (session := self._session) is not None:
            with suppress(OSError):  # it is being closed
                session.interrupt()

    def statuses(self) -> Iterator[JsonObject]:
        """Yield the status now and after each change, the final one last; growth is no change.

        Raises:
            WaitTimedOut: the unit has not ended in time.
            CommandRefused: there is no such unit, or not any more.
            SessionLost, CannotReach, ProtocolMismatch: the node is away, and stays so.
        """
        for status in self._received():
            is_new = self._last is None or _but_growth(status) != _but_growth(self._last)
            self._last = status
            self._absence.ends()
            if is_new:
                self._changes += 1
                yield status
            if status.get("State") not in UNFINISHED:
                return

    def _received(self) -> Iterator[JsonObject]:
        """Yield every status that comes, over as many sessions as it takes."""
        source = self._told
        while not self._stopped.is_set():
            before = self._changes
            try:
                yield from source()
            except CommandRefused:
                if source == self._asked:
                    raise
                source = self._asked
                continue
            except AWAY as error:
                if self._stopped.is_set():
                    return
                self._check_away(error)
            # A node that is shutting down ends sessions without news: asking at once would spin.
            if source == self._asked or self._changes == before:
                self._pause()

    def _told(self) -> Iterator[JsonObject]:
        session = self._session = self._take()
        try:
            if self._stopped.is_set():
                return
            session.send_line(f"work watch {self._unit_id}")
            while True:
                session.set_timeout(self._patience())
                yield unit_status(session.read_json())
        finally:
            self._session = None
            session.close()

    def _asked(self) -> Iterator[JsonObject]:
        yield self._ask(self._unit_id)

    def _patience(self) -> float | None:
        """Seconds to wait for the next status. Raises WaitTimedOut."""
        remaining = self._remaining()
        if remaining is None or self._last is not None:
            return remaining
        return max(remaining, FIRST_STATUS)

    def _remaining(self) -> float | None:
        if self._deadline is None:
            return None
        remaining = self._deadline - time.monotonic()
        if remaining <= 0 and self._last is not None:
            raise self._timed_out(self._last)
        return remaining

    def _pause(self) -> None:
        remaining = self._remaining()
        time.sleep(ASK_INTERVAL if remaining is None else min(ASK_INTERVAL, max(remaining, 0)))

    def _check_away(self, error: ControlError) -> None:
        """Pass an error over where the node may come back; raise it, or what it means."""
        self._remaining()
        too_late = isinstance(error, SessionLost) and isinstance(error.__cause__, TimeoutError)
        if too_late and self._last is None:
            raise SessionLost(
                f"the node did not tell the status of unit {self._unit_id} in time"
            ) from error
        if not (self._began and self._absence.lasts(str(error), NODE_RETURNS)):
            raise error

    @property
    def _began(self) -> bool:
        """Whether there is a unit for which a node that is away is worth waiting."""
        return self._is_known or self._last is not None

    def _timed_out(self, status: JsonObject) -> WaitTimedOut:
        return WaitTimedOut(self._unit_id, self._timeout or 0.0, status)


def _but_growth(status: JsonObject) -> JsonObject:
    return {key: value for key, value in status.items() if key not in SIZE_KEYS.values()}
