"""What one session may take of what all sessions share."""

from dataclasses import dataclass

from meshnode.control.heldbytes import LINES_IN_ALL, LINES_OF_ONE, HeldLine, Ledger, Replies
from meshnode.control.places import Place
from meshnode.mesh.sockets import Origin


@dataclass(frozen=True, slots=True)
class Allowance:
    """A session's place, and its part in what is kept of lines and replies."""

    place: Place
    line: HeldLine
    replies: Replies

    @classmethod
    def unshared(cls, origin: Origin) -> "Allowance":
        """Return that of a session beside which there are no others."""
        lines = Ledger(LINES_OF_ONE, LINES_IN_ALL)
        return cls(Place(origin), HeldLine(lines, origin), Replies())
