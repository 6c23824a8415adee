"""Mistakes in a configuration: what is wrong, where, and how a person is told.

Every fault is one line, e.g. ``foo.yml:12: tcp-listener: port: 70000 is out of range; …``.
All faults of a configuration are collected, so that one run shows them all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from meshnode.errors import ConfigError

COMMAND_LINE = "command line"
"""The source named by faults in directives that were given as arguments."""

MAX_QUOTED = 60
"""Characters of the user's own text that a fault repeats."""

LAST = 1 << 62
"""The line by which faults of a whole source are sorted: behind those that have one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was said: a file as the user named it and a line (from 1), where known."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        source = printable(self.source)
        return source if self.line is None else f"{source}:{self.line}"

    def seen_from(self, other: "Place") -> str:
        """Name this place to a reader who looks at ``other``: ``on line 3`` within one file."""
        if self.line is not None and self.source == other.source:
            return f"on line {self.line}"
        return f"at {self}" if self.line is not None else f"on the {self}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake: where, in what (directive, then parameter), and what to do about it.

    ``receptors_words`` are what receptor says of it, where tools look for that.
    """

    place: Place
    subject: tuple[str, ...]
    text: str
    receptors_words: str = ""

    def __str__(self) -> str:
        return ": ".join((str(self.place), *map(printable, self.subject), self.text))

    def as_warning(self) -> str:
        """Return the line for a reader who also sees faults that stop a start."""
        return str(replace(self, subject=("warning", *self.subject)))


class ConfigFaults(ConfigError):
    """The configuration has these faults; ``str()`` has one line for each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


class Unavailable(ConfigFaults):
    """What the configuration asks for cannot be had now, such as a port: a later start may."""


class FaultLog:
    """Collects faults while a configuration is read."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._warnings: list[Fault] = []

    def __bool__(self) -> bool:
        return bool(self._faults)

    def add(self, place: Place, *subject: str, text: str, receptors_words: str = "") -> None:
        """Note one fault."""
        self._faults.append(Fault(place, subject, text, receptors_words))

    def warn(self, place: Place, *subject: str, text: str) -> None:
        """Note what is no mistake, but may not be what was meant."""
        self._warnings.append(Fault(place, subject, text))

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """What was warned of, in the order in which it was noted."""
        return tuple(self._warnings)

    def raise_if_any(self) -> None:
        """Raise the collected faults: source by source, in each by line.

        Raises:
            ConfigFaults: at least one fault was noted.
        """
        if self._faults:
            raise ConfigFaults(in_order(self._faults))


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Sort faults: source by source, in each by line."""
    found = list(faults)
    sources = list(dict.fromkeys(fault.place.source for fault in found))

    def position(fault: Fault) -> tuple[int, int]:
        return sources.index(fault.place.source), fault.place.line or LAST

    return sorted(found, key=position)


def printable(text: str) -> str:
    """Escape what would break the line or the terminal: control characters, lone surrogates."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def quote(text: str) -> str:
    """Repeat the user's own text in quotes, printable and not longer than ``MAX_QUOTED``."""
    shown = text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…"
    return f'"{printable(shown)}"'


def suggestion(name: str, valid: Iterable[str], otherwise: str) -> str:
    """Return ``did you mean "x"?`` for the valid name nearest to ``name``, or ``otherwise``."""
    import difflib  # noqa: PLC0415  # most files have no fault

    near = difflib.get_close_matches(name.lower(), sorted(valid), n=1)
    return f'did you mean "{near[0]}"?' if near else otherwise
