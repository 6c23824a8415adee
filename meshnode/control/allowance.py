"""What one session may take of what all sessions share."""

from dataclasses import dataclass, field

from meshnode.control.heldbytes import (
    LINES_IN_ALL,
    LINES_OF_ONE,
    READS_IN_ALL,
    READS_OF_ONE,
    HeldLine,
    Ledger,
    Replies,
)
from meshnode.control.places import Place
from meshnode.control.turns import Turns
from meshnode.mesh.sockets import Origin


@dataclass(frozen=True, slots=True)
class Holdings:
    """What all sessions of a node keep for their clients, and take turns at."""

    lines: Ledger = field(default_factory=lambda: Ledger(LINES_OF_ONE, LINES_IN_ALL))
    replies: Replies = field(default_factory=Replies)
    reads: Ledger = field(default_factory=lambda: Ledger(READS_OF_ONE, READS_IN_ALL))
    turns: Turns = field(default_factory=Turns)


@dataclass(frozen=True, slots=True)
class Allowance:
    """A session's place, and its part in what is kept."""

    place: Place
    line: HeldLine
    replies: Replies
    reads: Ledger
    turns: Turns

    @classmethod
    def of(cls, place: Place, holdings: Holdings) -> "Allowance":
        """Return that of the session at a place."""
        line = HeldLine(holdings.lines, place.origin)
        return cls(place, line, holdings.replies, holdings.reads, holdings.turns)

    @classmethod
    def unshared(cls, name: str) -> "Allowance":
        """Return that of a session beside which there are no others."""
        return cls.of(Place(Origin(name)), Holdings())
