"""What nodes advertise of themselves beside their services: their labels, and what they have to do.

Both are texts that any node may choose: whatever they hold is something to show, or is nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshctl.render.output import size

LABELS, LOAD = "labels", "load"
"""The tags of a control service that hold them."""

MAX_TEXT = 8192
"""Characters of a tag that is read."""


MOST_LOAD = 1e9
"""A load average beyond that is none."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much a node has to do.

    Attributes:
        running, queued: units, of all types together.
        average: processes that want a processor, of the last minute; None where it is not told.
        processors: None where it is not told.
        memory: bytes that processes can still have; None where it is not told.
        free: units that it starts before others wait; None is any number.
    """

    running: int
    queued: int
    average: float | None = None
    processors: int | None = None
    memory: int | None = None
    free: int | None = None

    @property
    def of_processors(self) -> str:
        """How busy the processors are, as ``0.42 of 8``."""
        if self.average is None:
            return "-"
        of = "" if self.processors is None else f" of {self.processors}"
        return f"{self.average:g}{of}"

    def __str__(self) -> str:
        parts = [f"{self.running} running", f"{self.queued} queued"]
        if self.free is not None:
            parts.append(f"{self.free} free")
        if self.average is not None:
            parts.append(f"load {self.of_processors}")
        if self.memory is not None:
            parts.append(f"memory {size(self.memory)}")
        return " ".join(parts)


def load_of(tags: Mapping[str, Any]) -> Load | None:
    """Return the load that a service's tags tell, None if they tell none."""
    body = _object(tags.get(LOAD))
    units = body.get("units")
    if not isinstance(units, dict):
        return None
    pairs = [pair for pair in units.values() if isinstance(pair, list) and len(pair) == 2]
    counted = [(_count(running) or 0, _count(queued) or 0) for running, queued in pairs]
    average: Any = body.get("avg")
    return Load(
        sum(running for running, _ in counted),
        sum(queued for _, queued in counted),
        float(average) if type(average) in (int, float) and 0 <= average < MOST_LOAD else None,
        _count(body.get("cpus")),
        _count(body.get("mem")),
        _count(body.get("free")),
    )


def labels_of(tags: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels that a service's tags tell, by their names."""
    labels = _object(tags.get(LABELS))
    return {name: value for name, value in labels.items() if isinstance(value, str)}


def shown_tag(name: str, value: object, tags: Mapping[str, Any]) -> str:
    """Return one of a service's tags as people read it."""
    if name == LOAD and (load := load_of(tags)) is not None:
        return str(load)
    if name == LABELS and (labels := labels_of(tags)):
        return shown_labels(labels)
    return str(value)


def shown_labels(labels: Mapping[str, str]) -> str:
    """Return labels as people give them: ``gpu=1 zone=a``."""
    return " ".join(f"{name}={value}" if value else name for name, value in labels.items())


def _object(text: object) -> dict[str, Any]:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None
