"""Who or what ended a unit that did not end by itself.

Whoever asks for a cancel or a release is noted before anything is stopped. Of a command the
supervisor records the end, and gets what to say of it in a file beside the status: so it is one
record, whatever becomes of the node meanwhile.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import (
    IDS,
    MAX_NODE,
    PIDS,
    Identity,
    UnknownClient,
    identity_from_json,
    shown_text,
)


class Cause(StrEnum):
    """What ended a unit."""

    CANCEL = "cancel"
    """A client asked for it."""
    RELEASE = "release"
    """A client had it released before its end."""
    SIGNAL = "signal"
    """A signal that nobody sent by way of the node."""
    TIMEOUT = "timeout"
    """The time was over that its work type gives, or that its ttl gave it to start."""
    MEMORY = "memory"
    """It needed more memory than its limits allow."""
    LIMIT = "limit"
    """One of its limits could not be set."""
    OUTPUT = "output"
    """It printed more than its work type or the disk allows."""
    NODE = "node"
    """Its node ended before the work was started."""


CANCELED = "Canceled"
"""The detail of a unit that was canceled on request: receptor's, which its clients compare."""

ASKED = frozenset({Cause.CANCEL, Cause.RELEASE})
"""Causes that are noted before the unit has ended; it may end by itself meanwhile."""


@dataclass(frozen=True, slots=True)
class EndedBy:
    """The cause, and what is known of whoever it was."""

    cause: Cause
    by: Identity | None = None
    """The client that asked."""
    node: str = ""
    """The other node that it happened on; empty for this one."""
    pid: int | None = None
    """The process that sent a signal, as the kernel names it; it may be gone."""
    uid: int | None = None
    """The user of that process."""

    @property
    def in_words(self) -> str:
        """What the log says of a unit that was canceled on request."""
        is_known = self.by is not None and not isinstance(self.by, UnknownClient)
        who = f" by {self.by.brief}" if self.by is not None and is_known else ""
        if self.cause is Cause.RELEASE:
            who = f" by a release{who}"
        return f"{CANCELED}{who}{self._where}"

    @property
    def _where(self) -> str:
        return f" on node {shown_text(self.node, MAX_NODE)}" if self.node else ""

    def to_json(self) -> dict[str, Any]:
        """Return the object that :func:`ended_by_from_json` reads."""
        data: dict[str, Any] = {"Cause": str(self.cause)}
        if self.by is not None:
            data["By"] = self.by.to_json()
        more = {"Node": self.node or None, "Pid": self.pid, "Uid": self.uid}
        return data | {key: value for key, value in more.items() if value is not None}

    def to_supervisor(self) -> bytes:
        """Return what a supervisor that cancels the unit adds to its record."""
        return json.dumps({"Detail": CANCELED, "EndedBy": self.to_json()}).encode()


_TOLD_BY: Mapping[str, Cause] = {
    "signal: ": Cause.SIGNAL,
    "timed out after ": Cause.TIMEOUT,
    "lost: its supervisor": Cause.SIGNAL,
    "Work unit expired": Cause.TIMEOUT,
    "lost: the node ended": Cause.NODE,
    "lost: the machine went down": Cause.NODE,
}
"""How details of failed units begin that name a cause."""


def what_ended(noted: EndedBy | None, state: UnitState, detail: str) -> EndedBy | None:
    """Return what has ended a unit; None if it goes on, or has ended by itself.

    ``noted`` is what its record says, which may be who has asked for an end that is yet to come.
    """
    if not state.is_final:
        return None
    if noted is None and state is UnitState.FAILED:
        # What nobody noted shows in how it ended, also in records of older versions.
        told = (cause for text, cause in _TOLD_BY.items() if detail.startswith(text))
        return next((EndedBy(cause) for cause in told), None)
    # Somebody asked, and it ended by itself before that was done.
    is_late = noted is not None and noted.cause in ASKED and state is not UnitState.CANCELED
    return None if is_late else noted


def ended_by_from_json(data: object) -> EndedBy | None:
    """Return what an object says, None if it is none that this version understands. Total."""
    if not isinstance(data, Mapping):
        return None
    cause, node = data.get("Cause"), data.get("Node", "")
    if not isinstance(cause, str) or cause not in tuple(Cause):
        return None
    if not isinstance(node, str) or shown_text(node, MAX_NODE) != node:
        return None
    return EndedBy(
        Cause(cause),
        identity_from_json(data.get("By")),
        node,
        _number(data.get("Pid"), PIDS),
        _number(data.get("Uid"), IDS),
    )


def taken_over(asked: EndedBy | None, told: EndedBy | None, node: str) -> EndedBy | None:
    """Return who ended a unit on another node: who asked for it here, or whom that node names."""
    if told is None or (asked is not None and told.cause in ASKED):
        return asked
    return replace(told, node=told.node or node)


def _number(value: object, allowed: range) -> int | None:
    return value if type(value) is int and value in allowed else None
