"""Limits of the processes of one unit of work: names, values, and what lowers them."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import yaml

from meshnode.config.faults import quote, suggestion
from meshnode.config.kinds import (
    NULL_TAG,
    SIZE,
    UNITS_OF_SIZE,
    Kind,
    WrongPart,
    scalar_text,
    unfolded,
)
from meshnode.config.names import Wrong

LEAST_CPUS: Final = 0.01
"""Least share of a processor: the kernel takes no quota below a millisecond in 100."""

MOST_CPUS: Final = 65_536.0
"""More processors than any machine has."""

LEAST_MEMORY: Final = 1024 * 1024
"""Bytes below which hardly a program can be executed."""

LEAST_FILES: Final = 8
"""Open files that a program needs to be executed: three are given to it, and each shared library
that it loads is open for a moment."""

MOST_FILES: Final = 1_073_741_816
"""Most that a kernel lets a process have (fs.nr_open)."""

MOST_PIDS: Final = 4_194_304
"""Most processes that a 64-bit kernel has (PID_MAX_LIMIT)."""

_RATE = re.compile(r"(.*[^\s/])\s*/\s*s(ec(ond)?)?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")


def _cpus(value: str) -> float:
    number = float(value) if _NUMBER.fullmatch(value) else math.nan
    if not LEAST_CPUS <= number <= MOST_CPUS:
        raise Wrong(f"{quote(value)} is not a number of processors from {LEAST_CPUS:g}, as 1.5 is")
    return number


def _bytes(least: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        match = SIZE.fullmatch(value.strip())
        unit = UNITS_OF_SIZE.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise Wrong(f"{quote(value)} is not a size such as 4096, 100MiB or 2GB")
        size = int(match[1]) * unit
        if size < least:
            raise Wrong(f"{quote(value)} is too small; it must be at least {size_text(least)}")
        return size

    return read


def _rate(value: str) -> int:
    match = _RATE.fullmatch(value.strip())
    return _bytes(1)(match[1] if match else value)


def _count(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 16 else -1
        if not least <= number <= most:
            raise Wrong(f"{quote(value)} is not a whole number from {least} to {most}")
        return number

    return read


def size_text(size: int) -> str:
    """Return a number of bytes as a configuration would have it: ``256MiB``."""
    for power, name in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{name}"
    return str(size)


@dataclass(frozen=True, slots=True)
class LimitKind:
    """One kind of limit.

    Attributes:
        read: makes its value of a text; raises Wrong.
        show: writes it as a configuration would have it.
        meaning: what it bounds, for help.
    """

    read: Callable[[str], float]
    show: Callable[[Any], str]
    meaning: str


def _shown_rate(value: int) -> str:
    return f"{size_text(value)}/s"


LIMITS: Final[Mapping[str, LimitKind]] = MappingProxyType(
    {
        "cpu": LimitKind(_cpus, lambda value: f"{value:g}", "processors"),
        "memory": LimitKind(_bytes(LEAST_MEMORY), size_text, "memory"),
        "swap": LimitKind(_bytes(0), size_text, "swap beside the memory; 0 if only that is given"),
        "pids": LimitKind(_count(1, MOST_PIDS), str, "processes and threads"),
        "io-read": LimitKind(_rate, _shown_rate, "bytes a second from each disk"),
        "io-write": LimitKind(_rate, _shown_rate, "bytes a second to each disk"),
        "files": LimitKind(_count(LEAST_FILES, MOST_FILES), str, "open files of each process"),
        "core": LimitKind(_bytes(0), size_text, "size of a core dump"),
    }
)
"""Every limit, by the name that users write, in the order in which they are shown."""

ADDABLE: Final = frozenset({"swap", "files", "core"})
"""Limits that need nothing of a machine, or no more than memory: those of a type that has any may
get them as well."""

_SQUEEZED: Final = {name.replace("-", ""): name for name in LIMITS}


def limit_name(given: str) -> str:
    """Return the limit that a user means: any case, with or without its dash. Raises Wrong."""
    name = _SQUEEZED.get(given.lower().replace("-", "").replace("_", ""))
    if name is None:
        near = suggestion(given, LIMITS, f"there are {', '.join(LIMITS)}")
        raise Wrong(f"{quote(given)} is no limit; {near}")
    return name


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What the processes of a unit may have, all together; what is not named has no limit."""

    values: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, given: Mapping[str, str]) -> "JobLimits":
        """Return limits that were given as texts. Raises Wrong."""
        values: dict[str, float] = {}
        for key, text in given.items():
            name = limit_name(key)
            if name in values:
                raise Wrong(f"{name} is given twice")
            values[name] = _read_one(name, text)
        return cls(values).checked()

    def checked(self) -> "JobLimits":
        """Return these limits. Raises Wrong: one of them says nothing without another."""
        if "swap" in self.values and "memory" not in self.values:
            raise Wrong("swap: is beside the memory; give memory, too")
        return self

    def lowered(self, wanted: "JobLimits") -> "JobLimits":
        """Return these limits with others below them. Raises Wrong: one would be raised."""
        for name, value in wanted.values.items():
            if name not in self.values and name not in ADDABLE:
                raise Wrong(f"{name}: its type has no such limit that could be lowered")
            most = self.values.get(name, math.inf)
            if name == "swap" and "memory" in self.values:
                most = self.values.get(name, 0)
            if value > most:
                show = LIMITS[name].show
                raise Wrong(f"{name}: {show(value)} is more than the {show(most)} of its type")
        return JobLimits({**self.values, **wanted.values}).checked()

    def without(self, name: str) -> "JobLimits":
        """Return these limits without one, and without what says nothing then."""
        gone = {name, "swap"} if name == "memory" else {name}
        return JobLimits({n: value for n, value in self.values.items() if n not in gone})

    def shown(self) -> dict[str, str]:
        """Return each limit as a user would write it, in the usual order."""
        return {
            name: kind.show(self.values[name])
            for name, kind in LIMITS.items()
            if name in self.values
        }

    @property
    def in_words(self) -> str:
        """The limits in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.shown().items())


def _read_one(name: str, text: str) -> float:
    try:
        return LIMITS[name].read(text)
    except Wrong as wrong:
        raise Wrong(f"{name}: {wrong}") from None


def job_limits() -> Kind[JobLimits]:
    """A map of limits; in quotes or as an argument also ``{"memory": "1GiB"}``."""
    label = "map of limits: " + ", ".join(LIMITS)

    def read(node: yaml.Node) -> JobLimits:
        node = unfolded(node, "{")
        if not isinstance(node, yaml.MappingNode) or not node.value:
            raise Wrong(f"takes a {label}")
        values: dict[str, float] = {}
        for key_node, value_node in node.value:
            try:
                name = limit_name(scalar_text(key_node, "name of a limit"))
                if name in values:
                    raise Wrong(f"{name} is given twice")
                values[name] = _read_one(name, _text_of(value_node))
            except Wrong as wrong:
                raise WrongPart(str(wrong), key_node) from None
        return JobLimits(values).checked()

    return Kind(label, read, lambda limits: limits.in_words)


def _text_of(node: yaml.Node) -> str:
    if node.tag == NULL_TAG:
        raise Wrong("has no value")
    return scalar_text(node, "a number or size")
