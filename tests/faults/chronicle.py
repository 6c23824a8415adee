"""What happened in a storm, when, and to whom: a failure is told as the story of its unit."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ledger import Entry

AROUND = 1.0
"""Seconds before a unit's first event from which what happened to its nodes is told, too."""

LONGEST_LINE = 300
"""Characters of an event that are shown."""

_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (.*)")


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """One thing that happened."""

    at: float
    """Seconds since the epoch."""
    who: str
    text: str


class Chronicle:
    """Everything that the storm itself did and saw; the rest is in the ledger and the logs."""

    def __init__(self) -> None:
        self.begun = time.time()
        self._events: list[Event] = []

    def note(self, who: str, text: str) -> None:
        """Take note of what has just happened to a job, a node or a link."""
        self._events.append(Event(time.time(), who, text))

    def of(self, names: Iterable[str]) -> list[Event]:
        """Return what happened to these."""
        wanted = set(names)
        return [event for event in self._events if event.who in wanted]

    def story(self, own: Iterable[Event], places: Iterable[str]) -> str:
        """Tell the events of a unit, and those of its nodes and links in its time."""
        events = sorted(own)
        if not events:
            return "  (nothing is known of it)"
        begin, end = events[0].at - AROUND, events[-1].at
        events += [event for event in self.of(places) if begin <= event.at <= end]
        lines = (f"{e.at - self.begun:10.3f}  {e.who:10} {e.text}" for e in sorted(events))
        return "\n".join(line[:LONGEST_LINE] for line in lines)


def from_ledger(entries: Iterable[Entry]) -> list[Event]:
    """Return the lines of commands as events."""
    return [
        Event(entry.at, f"{entry.node}/command", f"{entry.what} of unit {entry.unit}")
        for entry in entries
    ]


def from_log(name: str, log: Path, units: Iterable[str]) -> Iterator[Event]:
    """Yield the lines of a node's log that name one of these units."""
    wanted = tuple(units)
    for line in log.read_text(errors="replace").splitlines():
        found = _LOG_LINE.match(line)
        if found and any(unit in line for unit in wanted):
            moment = datetime.fromisoformat(found[1]).timestamp()
            yield Event(moment, f"{name}/log", found[2])
