"""Which units a list is to have, and which page of them: what ``work list`` takes beside a unit.

A list with any of these is ordered: the newest units first. A page ends at a unit, and its cursor
names that unit's place in the order. So whatever comes and goes meanwhile, the next page begins
behind that place: nothing is shown twice, and nothing that was there all the time is left out.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from meshnode.errors import BadQuery
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import Identity
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.labels import BATCH_LABEL
from meshnode.work.units.status import UnitStatus

KEYS: Final = ("state", "type", "node", "label", "submitter", "batch", "since", "limit", "cursor")
"""What a request for a list may have. One with none of them gets all units, as receptor's."""

MOST: Final = 2**53
"""Units of a page at most: beyond that JSON's readers lose the last digits of a number."""

SHOWN: Final = 40
"""Characters of a wrong value that are told."""

STATES: Final[Mapping[str, UnitState]] = {state.name.lower(): state for state in UnitState}

Place = tuple[str, str]
"""Where a unit stands in the order: when it was made, as its status has it, and its ID."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the units of a list are like, and where it begins and ends; without anything, all."""

    states: frozenset[UnitState] = frozenset()
    types: frozenset[str] = frozenset()
    """Types of the work itself, wherever it runs."""
    nodes: frozenset[str] = frozenset()
    """Nodes that run it, or this one."""
    labels: frozenset[tuple[str, str | None]] = frozenset()
    """Labels that a unit must have, all of them; with None whatever their value."""
    submitter: str = ""
    """What stands somewhere in who has submitted it."""
    since: str = ""
    """When it was made at the earliest, as a status has it but for the ``Z``."""
    limit: int | None = None
    after: Place | None = None
    """Behind which place the page begins."""

    def fits(self, status: UnitStatus, here: str) -> bool:
        """Whether a unit is one of them; ``here`` is the node whose unit it is."""
        remote = status.remote
        return (
            (not self.states or status.state in self.states)
            and (not self.types or _type_of(status) in self.types)
            and (not self.nodes or (here if remote is None else remote.node) in self.nodes)
            and all(_has(status.labels, *label) for label in self.labels)
            and (not self.since or (status.created or "") >= self.since)
            and (not self.submitter or _is_in(self.submitter, status.submitted_by))
        )

    @classmethod
    def from_json(cls, data: JsonObject) -> "Wanted | None":
        """Read a request, None if it asks for the list of all units. Raises BadQuery."""
        if all(data.get(key) is None for key in KEYS):
            return None
        batch = _text(data, "batch")
        labels = [_label(text) for text in _texts(data, "label")]
        return cls(
            states=frozenset(map(_state, _texts(data, "state"))),
            types=frozenset(_texts(data, "type")),
            nodes=frozenset(_texts(data, "node")),
            labels=frozenset(labels + ([(BATCH_LABEL, batch)] if batch else [])),
            submitter=_text(data, "submitter"),
            since=_since(_text(data, "since")),
            limit=_limit(data.get("limit")),
            after=_read_cursor(data.get("cursor")),
        )


def _type_of(status: UnitStatus) -> str:
    """Return the type of the work itself, wherever it runs."""
    return (status.remote and status.remote.work_type) or status.work_type


def place_of(unit_id: str, status: UnitStatus) -> Place:
    """Return where a unit stands in the order. One that nobody knows the age of is the oldest."""
    return status.created or "", unit_id


def cursor_of(place: Place) -> str:
    """Return the text that has a list go on behind a place."""
    return urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def _read_cursor(cursor: object) -> Place | None:
    if cursor is None:
        return None
    place: object = None
    if isinstance(cursor, str):
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            place = json.loads(urlsafe_b64decode(padded.encode("ascii")))
        except (ValueError, RecursionError):
            place = None
    match place:
        case [str(created), str(unit_id)]:
            return created, unit_id
    raise BadQuery("cursor must be what an earlier page had as next")


def _texts(data: JsonObject, key: str) -> list[str]:
    """Return the texts of a key that may have one or several."""
    value = data.get(key)
    if value is None:
        return []
    texts = value if isinstance(value, list) else [value]
    if all(isinstance(text, str) for text in texts):
        return texts
    raise BadQuery(f"{key} must be a text or a list of texts")


def _text(data: JsonObject, key: str) -> str:
    value = data.get(key)
    if value is None or isinstance(value, str):
        return value or ""
    raise BadQuery(f"{key} must be a text")


def _state(word: str) -> UnitState:
    if word.lower() in STATES:
        return STATES[word.lower()]
    raise BadQuery(f"state must be of {', '.join(STATES)}, not {word[:SHOWN]!r}")


def _label(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    return name, value if equals else None


def _limit(value: object) -> int | None:
    if value is None or (type(value) is int and 0 <= value <= MOST):
        return value
    raise BadQuery(f"limit must be a whole number from 0 to {MOST}")


def _since(text: str) -> str:
    """Return a time so that it can be compared with those of statuses, whose texts sort as times.

    Those end in ``Z``, which is above any digit: a unit that was made in this microsecond fits.
    """
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
        known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return known.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    except (ValueError, OverflowError):  # a time that has no year in UTC
        example = "2026-11-26T08:00:00Z"
        raise BadQuery(f"since must be a time as {example}, not {text[:SHOWN]!r}") from None


def _has(labels: Mapping[str, str], name: str, value: str | None) -> bool:
    return name in labels and (value is None or labels[name] == value)


def _is_in(part: str, submitter: Identity | None) -> bool:
    return submitter is not None and any(part in text for text in _values(submitter.to_json()))


def _values(data: Any) -> Iterator[str]:
    """Yield the texts and numbers in an object, and in objects and lists within it."""
    match data:
        case dict():
            for value in data.values():
                yield from _values(value)
        case list():
            for value in data:
                yield from _values(value)
        case _:
            yield str(data)
