"""Why one end of a link rejects the other, in words for both ends (protocol section 5).

The reject message of a receptor node says nothing, and receptor reads no byte of ours behind the
first. So a meshnode says why in it: its body is a JSON list of texts, the ground and what belongs
to it, where receptor has the empty list. Whoever is rejected without a ground can only guess.
"""

import enum
import json
import math
from dataclasses import dataclass
from typing import Self

from meshnode.protocol.messages import REJECT_MESSAGE, MessageType

LONGEST = 200
"""Bytes of a reject message that are looked at: a ground and two costs take less than 80."""


class Ground(enum.Enum):
    """Why a link is refused. The values are what the message says."""

    OWN_ID = "own-id"
    NOT_ALLOWED = "not-allowed"
    LINKED = "linked"
    """By another node of that ID, or by an earlier life of the peer."""
    TWICE = "twice"
    """By the peer itself: each end has dialed the other, or one of them by two addresses."""
    NO_PLACE = "no-place"
    OTHER_ID = "other-id"
    UNLISTED = "unlisted"
    COST = "cost"
    CERTIFICATE = "certificate"


_SEEN_BY_BOTH = {Ground.OWN_ID, Ground.LINKED, Ground.TWICE, Ground.COST}

_WE_SAY = {
    Ground.OWN_ID: "it uses our own node ID",
    Ground.NOT_ALLOWED: "{peer} is not in allowedpeers",
    # Receptor's words behind ours: tools look for them.
    Ground.LINKED: "a link to {peer} exists already; it "
    "connected using a node ID we are already connected to",
    Ground.TWICE: "a link to {peer} is up already, and one is enough",
    Ground.NO_PLACE: "an update of this node has no place left for a link to {peer}",
    Ground.OTHER_ID: "its node ID changed to {peer}",
    Ground.UNLISTED: "it no longer lists us as a connection",
    Ground.CERTIFICATE: "its certificate does not name {peer}, but {certified}",
}

_IT_SAYS = {
    Ground.OWN_ID: "it has our node ID; each node needs an ID of its own",
    Ground.NOT_ALLOWED: "we are not in its allowedpeers",
    Ground.LINKED: "our node ID is in use: it has a link to a node of that ID already, which may "
    "be another node, an older link of ours, or another directive for the same node",
    Ground.TWICE: "it has a link to us already, and one is enough",
    Ground.NO_PLACE: "it has no place left for a link",
    Ground.OTHER_ID: "our node ID changed while the link was up",
    Ground.UNLISTED: "we no longer listed it as a connection",
    Ground.CERTIFICATE: "our certificate names other nodes than ours",
}


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a link is refused.

    ``peer`` is the node that is rejected, empty if that is us. Of a disagreement about the cost,
    ``cost`` is this end's and ``other_cost`` that of the other end. ``certified`` are the nodes
    that a certificate names; the peer is not told.
    """

    ground: Ground
    peer: str = ""
    cost: float = 0.0
    other_cost: float = 0.0
    certified: tuple[str, ...] = ()

    @property
    def is_fault(self) -> bool:
        """Whether somebody has to mend something."""
        return self.ground is not Ground.TWICE

    def repeats(self, other: "Rejection") -> bool:
        """Whether the rejection by one end is what the other end has found as well."""
        return self.ground is other.ground and self.ground in _SEEN_BY_BOTH

    @property
    def reason(self) -> str:
        """Why, for whoever looks after this end."""
        if self.ground is Ground.COST:
            here, there = self.cost, self.other_cost
            return f"cost {here:g} here, {there:g} there; both ends must name the same"
        said = _WE_SAY[self.ground] if self.peer else _IT_SAYS[self.ground]
        return said.format(peer=self.peer, certified=", ".join(self.certified))

    def encode(self) -> bytes:
        """Return the whole reject message that tells the peer."""
        said = [self.ground.value]
        if self.ground is Ground.COST:
            said += [repr(self.cost), repr(self.other_cost)]
        return bytes([MessageType.REJECT]) + json.dumps(said, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, message: bytes | bytearray | memoryview) -> Self | None:
        """Return why a whole reject message rejects us; None if it does not say so."""
        if not len(REJECT_MESSAGE) < len(message) <= LONGEST:
            return None
        try:
            said = json.loads(bytes(message[1:]).decode())
            match said:
                case [str(word), str(there), str(here)] if Ground(word) is Ground.COST:
                    costs = float(here), float(there)
                    return cls(Ground.COST, "", *costs) if all(map(_is_cost, costs)) else None
                case [str(word)] if Ground(word) is not Ground.COST:
                    return cls(Ground(word))
        except (ValueError, RecursionError):
            pass  # another node's business, or a later version's: the link ends all the same
        return None


def _is_cost(cost: float) -> bool:
    return 0 < cost < math.inf


def guess(cost: float, listed: bool | None) -> str:
    """Return why a peer may have rejected us that does not say so, as receptor nodes do not.

    ``cost`` is what the link costs here; ``listed`` whether the peer's first update said that it
    has a link to our ID, None if no update came.
    """
    if listed:
        return (
            "it does not say why, but it lists a link to our node ID already: another node with "
            "that ID, or an older link of ours"
        )
    unless_cost = "" if listed is None else f", or the link does not cost {cost:g} there"
    return f"it does not say why: we may not be in its allowedpeers{unless_cost}"
