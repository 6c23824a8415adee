"""What a node says of itself in its advertisement: its labels, and how much it has to do.

Both are tags of its control service, which receptor ignores. What other nodes say is read totally:
any text gives labels and a load, or none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from meshnode.work.units.jsonreader import NOTHING
from meshnode.work.units.labels import recorded_labels

LABELS_TAG: Final = "labels"
LOAD_TAG: Final = "load"

MOST_TYPES = 64
"""Work types whose units are counted in a load: those with the most. An advertisement has room for
hundreds of work types besides."""

MOST_COUNTED = 10**9
"""A number of units beyond that is none."""

MOST_BYTES = 2**63 - 1
"""Bytes of memory beyond that no machine has."""

MAX_TEXT = 8192
"""Characters of a tag that is read."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much a node has to do.

    Attributes:
        running: units that run, by work type.
        queued: units that wait in its queue, by work type.
        free: units that may still be started before others wait; None is any number.
        processors: how many it has.
        average: processes that run or want to, of the last minute (loadavg).
        memory: bytes that processes can still have.
    """

    running: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    queued: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    free: int | None = None
    processors: int = 1
    average: float = 0.0
    memory: int = 0

    def of(self, work_type: str) -> int:
        """Return how many units of a type run or wait there."""
        return self.running.get(work_type, 0) + self.queued.get(work_type, 0)

    @property
    def per_processor(self) -> float:
        """How busy its processors are: 1 is as many processes as processors."""
        return self.average / self.processors

    @property
    def counts(self) -> tuple[Mapping[str, int], Mapping[str, int], int | None]:
        """What others must hear of at once when it changes."""
        return self.running, self.queued, self.free

    def to_tag(self) -> str:
        """Return the value of the tag ``load``."""
        names = sorted({*self.running, *self.queued}, key=self.of, reverse=True)[:MOST_TYPES]
        body: dict[str, Any] = {
            "units": {n: [self.running.get(n, 0), self.queued.get(n, 0)] for n in names},
            "cpus": self.processors,
            "avg": round(self.average, 2),
            "mem": self.memory,
        }
        if self.free is not None:
            body["free"] = self.free
        return json.dumps(body, separators=(",", ":"))


def read_load(text: str | None) -> Load | None:
    """Return what a node says of its load; None if it says nothing that can be understood."""
    if not text or len(text) > MAX_TEXT:
        return None
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    units = body.get("units")
    counts = {
        name: pair
        for name, pair in (units.items() if isinstance(units, dict) else ())
        if isinstance(pair, list) and len(pair) == 2 and all(map(_is_count, pair))
    }
    return Load(
        running={name: pair[0] for name, pair in counts.items() if pair[0]},
        queued={name: pair[1] for name, pair in counts.items() if pair[1]},
        free=_count(body.get("free")),
        processors=_count(body.get("cpus")) or 1,
        average=_number(body.get("avg")),
        memory=_count(body.get("mem"), MOST_BYTES) or 0,
    )


def _is_count(value: object) -> bool:
    return _count(value) is not None


def _count(value: object, most: int = MOST_COUNTED) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None


def _number(value: object) -> float:
    if isinstance(value, int | float) and 0 <= value < MOST_COUNTED:
        return float(value)
    return 0.0


def labels_tag(labels: Mapping[str, str]) -> str:
    """Return the value of the tag ``labels``."""
    return json.dumps(dict(labels), separators=(",", ":"))


def describe_tags(tags: Mapping[str, str]) -> tuple[Mapping[str, str], dict[str, Any] | None]:
    """Return the labels that the tags of a control service tell, and the load as JSON."""
    load = read_load(tags.get(LOAD_TAG))
    if load is None:
        return read_labels(tags.get(LABELS_TAG)), None
    told = {
        "running": dict(load.running),
        "queued": dict(load.queued),
        "free": load.free,
        "processors": load.processors,
        "average": load.average,
        "memory": load.memory,
    }
    return read_labels(tags.get(LABELS_TAG)), told


def read_labels(text: str | None) -> Mapping[str, str]:
    """Return the labels that a node says it has; what is none says nothing."""
    if not text or len(text) > MAX_TEXT:
        return NOTHING
    try:
        return recorded_labels(json.loads(text))
    except (ValueError, RecursionError):
        return NOTHING
