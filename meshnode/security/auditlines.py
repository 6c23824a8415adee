"""What stands in the audit log: events, and the one line of JSON that each of them makes."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from meshnode.security.identity import Identity, shown_text

MAX_LINE = 8192
"""Bytes of one line. An ordinary one has some 300; what a client names may be in any script."""

MAX_TEXT = 255
"""Characters of one text of somebody else: a node ID has as many."""

SHORT_TEXT = 32
"""Characters of each text in a line that would be longer than MAX_LINE; an escape has 12 bytes."""


class Kind(StrEnum):
    """What a line is about."""

    SUBMIT = "submit"
    RESUME = "resume"
    """Another session goes on with the payload of a unit."""
    ADOPT = "adopt"
    START = "start"
    END = "end"
    CANCEL = "cancel"
    RELEASE = "release"
    CONNECT = "connect"
    RELOAD = "reload"
    REFUSAL = "refusal"
    """Something that was asked was not done, for whoever asked must not have it."""
    REFUSALS = "refusals"
    """There were so many more refusals of one client that they have no line each."""
    LOST = "lost"
    """Lines are missing here."""
    ON = "audit-on"
    OFF = "audit-off"
    """The node began or ended to write here. One without the other: it was killed meanwhile."""


class Shown(Protocol):
    """Who or what ended a unit."""

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in the unit's status."""
        ...


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """What happened. What does not concern it stays empty, and is not in the line."""

    kind: Kind
    by: Identity | None = None
    """Who asked for it; of a unit that starts or ends, who had submitted it. None is the node."""
    way: str = ""
    """By what they came."""
    asked: str = ""
    """Of a refusal: what was refused."""
    unit: str = ""
    work_type: str = ""
    target: str = ""
    """The other node that it is for."""
    remote_unit: str = ""
    """The ID that the unit has there."""
    service: str = ""
    params: str = ""
    """Parameters, without secrets."""
    key: str = ""
    """Name of the key by which it was signed."""
    rule: str = ""
    """The access rule that has decided."""
    outcome: str = ""
    exit_code: int | None = None
    signal: str = ""
    ended_by: Shown | None = None
    finished: str = ""
    """When a unit has ended: its node may have been down then."""
    lines: int | None = None
    """How many are missing here."""


def encode(event: AuditEvent, node: str, moment: datetime) -> bytes:
    """Return the line of an event, of at most MAX_LINE bytes of ASCII.

    Whatever the texts are, it is one line, and one object.
    """
    line = _dumped(event, node, moment, MAX_TEXT)
    if len(line) > MAX_LINE:
        line = _dumped(event, node, moment, SHORT_TEXT)
    return line


def units_ended(data: bytes) -> frozenset[str]:
    """Return the units whose ends are told in a part of an audit log, whatever else is in it."""
    ended = set()
    for line in data.splitlines():
        if b'"event":"end"' not in line:
            continue
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue  # where the part begins, or where a killed node left off
        unit = said.get("unit") if isinstance(said, dict) else None
        if isinstance(unit, str):
            ended.add(unit)
    return frozenset(ended)


def _dumped(event: AuditEvent, node: str, moment: datetime, most: int) -> bytes:
    values = {
        "node": node,
        "by": event.by and _who(event.by, most),
        "way": event.way,
        "asked": event.asked,
        "unit": event.unit,
        "type": event.work_type,
        "target": event.target,
        "remote_unit": event.remote_unit,
        "service": event.service,
        "params": event.params,
        "key": event.key,
        "rule": event.rule,
        "outcome": event.outcome,
        "exit_code": event.exit_code,
        "signal": event.signal,
        "finished": event.finished,
        "ended_by": event.ended_by and _who(event.ended_by, most),
        "lines": event.lines,
    }
    time = moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    shown = {"time": time, "event": str(event.kind)} | {
        key: shown_text(value, most) if isinstance(value, str) else value
        for key, value in values.items()
        if value is not None and value != ""
    }
    # In ASCII: some readers take other characters for the end of a line.
    return json.dumps(shown, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def _who(shown: Shown, most: int) -> object:
    data = shown.to_json()
    return data if most == MAX_TEXT else shown_text(json.dumps(data), most)
