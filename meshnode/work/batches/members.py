"""The members of a batch: how each stands, in a byte, and what the journal says of their ends.

A journal replayed from its beginning gives the same members again. Who is not in it has not ended,
or its end was lost with the machine; the unit's own record, found by its submission key, knows.
"""

import json
from array import array
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import shown_text
from meshnode.work.batches.spec import BatchSpec, caller_from_json
from meshnode.work.units.access import Caller
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.unit import Unit

MAX_DETAIL: Final = 300
"""Characters of what a journal says of a member's end."""


_COUNT_BYTES: Final = array("I").itemsize
"""Bytes of the number of an attempt."""


class MemberState(IntEnum):
    """How a member stands."""

    WAITING = 0
    IN_FLIGHT = 1
    SUCCEEDED = 2
    FAILED = 3
    CANCELED = 4
    REFUSED = 5
    """It could not be submitted."""

    @property
    def label(self) -> str:
        """As clients see it."""
        return self.name.capitalize()


_OF_UNITS: Final = {
    UnitState.SUCCEEDED: MemberState.SUCCEEDED,
    UnitState.FAILED: MemberState.FAILED,
}
_BY_LABEL: Final = {state.label: state for state in MemberState if state > MemberState.IN_FLIGHT}


def state_of(state: int) -> MemberState:
    """Return how a member stands whose unit has ended so, or was released before its end."""
    return _OF_UNITS.get(UnitState(state), MemberState.CANCELED)


def end_of(unit: Unit) -> tuple[MemberState, JsonObject]:
    """Return how a unit has ended, and what a journal says of that."""
    status = unit.status
    told = {
        "UnitID": unit.unit_id,
        "Detail": shown_text(status.detail, MAX_DETAIL),
        "ExitCode": status.exit_code,
        "Started": status.started,
        "Finished": status.finished,
    }
    return state_of(status.state), told


class Members:
    """How each member of a batch stands, by its position in the array."""

    def __init__(self, spec: BatchSpec) -> None:
        self._array = spec.array
        self._states = bytearray(len(spec.array))
        self._retries = 0
        """How often all had to run again that had not succeeded."""
        self._succeeded_in: array[int] | None = None
        """The attempt in which each has succeeded, if any has after a retry."""
        self._first = 0
        """No member before this position waits."""
        self.counts = [0] * len(MemberState)
        self.counts[MemberState.WAITING] = len(self._states)
        self.is_canceled = False
        self.is_released = False
        self.is_begun = False
        """Whether what it waits for has ended well."""
        self.asker: Caller | None = None
        """Who has asked for its cancel or release."""
        self.reason = ""
        """Why it was canceled, if nobody asked for that."""
        self.finished = ""
        """When the last one ended."""

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, position: int) -> MemberState:
        return MemberState(self._states[position])

    def set(self, position: int, state: MemberState) -> None:
        """Have a member stand so."""
        self.counts[self._states[position]] -= 1
        self.counts[state] += 1
        self._states[position] = state
        if state is MemberState.SUCCEEDED and self._retries:
            if self._succeeded_in is None:
                self._succeeded_in = array("I", bytes(_COUNT_BYTES * len(self)))
            self._succeeded_in[position] = self._retries
        if state is MemberState.WAITING:
            self._first = min(self._first, position)

    def next_waiting(self) -> int | None:
        """Return the position of the first member that waits."""
        found = self._states.find(MemberState.WAITING, self._first)
        self._first = len(self._states) if found < 0 else found
        return None if found < 0 else found

    @property
    def all_ended(self) -> bool:
        """Whether nothing waits, and nothing is in flight."""
        return not (self.counts[MemberState.WAITING] or self.counts[MemberState.IN_FLIGHT])

    def attempt(self, position: int) -> int:
        """Return how often a member was begun anew."""
        if self._states[position] != MemberState.SUCCEEDED:
            return self._retries
        return 0 if self._succeeded_in is None else self._succeeded_in[position]

    def keys(self, batch_id: str, position: int) -> Iterator[str]:
        """Yield the submission key of each attempt of a member, the latest first."""
        start = f"{batch_id}:{self._array.index(position)}"
        for attempt in range(self.attempt(position), 0, -1):
            yield f"{start}:{attempt}"
        yield start

    def retry(self) -> int:
        """Have all wait again that have not succeeded; return how many."""
        self.is_canceled, self.reason, self.finished = False, "", ""
        self.asker = None
        self._retries += 1
        for state in MemberState:
            if state is not MemberState.SUCCEEDED:
                self._set_all(state, MemberState.WAITING)
        return self.counts[MemberState.WAITING]

    def _set_all(self, old: MemberState, new: MemberState) -> None:
        """Have all stand in a new way that stand in an old one, however many they are, at once."""
        self._states = self._states.translate(bytes.maketrans(bytes([old]), bytes([new])))
        moved, self.counts[old] = self.counts[old], 0
        self.counts[new] += moved
        self._first = 0

    # --- the journal --------------------------------------------------------------------------

    def line(self, position: int, state: MemberState, told: JsonObject) -> bytes:
        """Return the line that records a member's end."""
        known = {key: value for key, value in told.items() if value not in (None, "")}
        index, attempt = self._array.index(position), self.attempt(position)
        data = {"Index": index, "StateName": state.label, **known}
        return json.dumps(data | ({"Attempt": attempt} if attempt else {})).encode() + b"\n"

    def replay(self, line: bytes) -> bool:
        """Take over what a line says; return False if it says nothing."""
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(data, dict):
            return False
        event = data.get("Event")
        if event is None:
            return self._replay_end(data)
        match event:
            case "cancel":
                self.is_canceled = True
                self.reason = str(data.get("Detail", ""))
                self.asker = _asker(data.get("By"))
            case "begin":
                self.is_begun = True
            case "retry":
                self.retry()
            case "release":
                self.is_released = True
            case "end":
                self._finish(str(data.get("Finished", "")))
            case _:
                return False
        return True

    def _finish(self, finished: str) -> None:
        """Take over that all had ended: who is not on record was never submitted."""
        self.finished = finished
        self._set_all(MemberState.WAITING, MemberState.CANCELED)

    def _replay_end(self, data: dict[str, Any]) -> bool:
        index, state = data.get("Index"), _BY_LABEL.get(str(data.get("StateName")))
        position = self._array.position(index) if type(index) is int else None
        if position is None or state is None:
            return False
        self.set(position, state)
        return True


def _asker(data: Any) -> Caller | None:
    try:
        return None if data is None else caller_from_json(data)
    except (KeyError, TypeError, ValueError):
        return None


def event(name: str, **more: object) -> bytes:
    """Return the line that records something of the whole batch."""
    return json.dumps({"Event": name, **more}).encode() + b"\n"
