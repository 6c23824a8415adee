"""What another node says of a submission: which unit it has made of it, and what became of that.

Within the bounds of :mod:`meshnode.work.remote.replies`, and believed as little.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.remote.failures import (
    AlreadySubmitted,
    NoAnswer,
    RemoteRefused,
    RemoteUnavailable,
)
from meshnode.work.remote.replies import state_or_none
from meshnode.work.units.keys import ALREADY_SUBMITTED, KeyState, Receipt

_UNIT_ID = r"([a-zA-Z0-9]{1,64})"
_IS_ID = re.compile(_UNIT_ID)
_KNOWN_AS = re.compile(rf"{ALREADY_SUBMITTED} {_UNIT_ID}(?![a-zA-Z0-9])")
_FROM_BYTE = r"( Send stdin data from byte ([0-9]{1,18}) and)?"
_UNIT_CREATED = re.compile(rf"with ID {_UNIT_ID}\.{_FROM_BYTE}")


@dataclass(frozen=True, slots=True)
class Created:
    """A unit that the other node has made; ``receipt`` is None if it supports no keys."""

    unit_id: str
    receipt: Receipt | None
    position: int = 0
    """From which byte on it wants the payload."""


@dataclass(frozen=True, slots=True)
class RemoteSubmission:
    """What the other node knows of a submission."""

    receipt: Receipt
    """Receipt of this moment: the store remembers all submissions that it takes from now on."""
    key_state: KeyState
    unit_id: str = ""
    work: str = ""
    """Digest of the unit's work."""
    never_ran: bool = False
    state: UnitState | None = None
    """The state of a released unit."""
    awaits_rest: bool = False
    """Whether the rest of its payload may be sent."""

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> "RemoteSubmission":
        """Read the reply to ``work submitted``.

        Raises:
            RemoteUnavailable: it is none.
        """
        told, known = reply.get("Mark"), reply.get("Trace")
        receipt = Receipt.find(told) if isinstance(told, str) else None
        unit_id, state = reply.get("UnitID"), reply.get("State")
        if receipt is None or known not in tuple(KeyState):
            raise RemoteUnavailable("the node did not say what became of the submission")
        if known == KeyState.UNIT and not (isinstance(unit_id, str) and _IS_ID.fullmatch(unit_id)):
            raise RemoteUnavailable("the node did not say which unit the submission made")
        return cls(
            receipt=receipt,
            key_state=KeyState(known),
            unit_id=unit_id if isinstance(unit_id, str) else "",
            work=str(reply.get("Work", "")),
            never_ran=reply.get("NeverRan") is True,
            state=None if state is None else state_or_none(state),
            awaits_rest="Received" in reply,
        )


def read_created(line: str) -> Created:
    """Return the unit that the other node has made, from its reply to a submission.

    Raises:
        AlreadySubmitted, RemoteRefused
    """
    if line.startswith("ERROR") and (known := _KNOWN_AS.search(line)):
        raise AlreadySubmitted(line.removeprefix("ERROR: "), known[1])
    created = _UNIT_CREATED.search(line)
    if line.startswith("ERROR"):
        raise RemoteRefused(line.removeprefix("ERROR: "))
    if created is None:
        raise NoAnswer(line)
    return Created(created[1], Receipt.find(line[created.end() :]), int(created[3] or 0))
