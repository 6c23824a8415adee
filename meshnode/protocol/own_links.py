"""This node's own links: how many fit its update, what the update says, and who speaks in its name.

Pure values in, decisions out; the caller owns the links and the flooding (protocol section 4).
"""

import enum
from collections.abc import Mapping

from meshnode.protocol.routing import RoutingUpdate, plain_number

LINKS_BYTES = 62_000
"""Bytes of our update that all links may take: 2,400 links to names of 20 bytes. A message has
65,535 bytes; the rest is for the names of this node and of the forwarding one, however escaped."""

LINKS_FOR_ANYBODY = LINKS_BYTES * 7 // 8
"""Bytes that unexpected links may fill; the rest is kept for peers that the configuration names."""

LONG_NAME = 64
LINKS_OF_LONG_NAMES = LINKS_BYTES // 2
"""A name of this many bytes is long, and gets a link only while all links take less than this: 200
of the longest names must not keep out ordinary ones."""

REMEMBERED_UPDATES = 100
"""Own updates whose IDs are remembered, to know them from forged ones: those of 10 s at most."""


class OwnVerdict(enum.Enum):
    """What an update with our own node ID means."""

    IGNORE = "ignore"
    """Our own update came round, or one of a former life that no other node takes."""
    WE_ARE_DUPLICATE = "we are the duplicate"
    """A node says that our ID was another node's before."""
    NEWER_THAN_OURS = "newer than ours"
    """It counts as newer than our updates: flood a claim of its epoch, then an own update."""
    NOT_OURS = "not ours"
    """Somebody spoke in our name, but our next update is newer."""


class OwnLinks:
    """The links of this node and the updates that say so."""

    def __init__(self, own_id: str, epoch: int) -> None:
        self.own_id = own_id
        self.epoch = epoch
        self.sequence = 0
        """That of the last own update."""
        self.version = 0
        """Counts up with each change of the links."""
        self._costs: dict[str, float] = {}
        self._bytes = 0
        """What the links take of our update."""
        self._update_ids: dict[int, str] = {}
        """Of the last own updates, by sequence."""

    @property
    def costs(self) -> Mapping[str, float]:
        """Peer to cost."""
        return self._costs

    def has_place(self, peer: str, cost: float, expected: bool) -> bool:
        """Whether our update has room for one more link.

        An update that is too long could not be sent, and all peers would close their links.
        ``expected`` says that the configuration asks for the link.
        """
        if expected:
            most = LINKS_BYTES
        elif len(peer.encode()) < LONG_NAME:
            most = LINKS_FOR_ANYBODY
        else:
            most = LINKS_OF_LONG_NAMES
        return self._bytes + _link_bytes(peer, cost) <= most

    def add(self, peer: str, cost: float) -> None:
        """Note that the link to ``peer`` is up."""
        self.remove(peer)
        self._costs[peer] = cost
        self._bytes += _link_bytes(peer, cost)

    def remove(self, peer: str) -> None:
        """Note that the link to ``peer`` is gone."""
        cost = self._costs.pop(peer, None)
        if cost is not None:
            self._bytes -= _link_bytes(peer, cost)
        self.version += 1

    def next_update(self, update_id: str, suspected_duplicate: int = 0) -> RoutingUpdate:
        """Return the next update about ourselves; each call counts the sequence up.

        With ``suspected_duplicate`` it is a claim: every node that knows our ID with that epoch
        goes back to our present one, receptor nodes too. The epoch may be another node's, one of
        ours from before our clock was set back, or the present one with a forged sequence.
        """
        self.sequence += 1
        self._update_ids[self.sequence] = update_id
        self._update_ids.pop(self.sequence - REMEMBERED_UPDATES, None)
        return RoutingUpdate(
            node_id=self.own_id,
            update_id=update_id,
            epoch=self.epoch,
            sequence=self.sequence,
            connections=dict(sorted(self._costs.items())),
            forwarding_node=self.own_id,
            suspected_duplicate=suspected_duplicate,
        )

    def judge(self, update: RoutingUpdate) -> OwnVerdict:
        """Judge an update with our ID that a peer brought."""
        same_life = update.epoch == self.epoch
        if same_life and (
            update.sequence <= self.sequence - REMEMBERED_UPDATES
            or self._update_ids.get(update.sequence) == update.update_id
        ):
            return OwnVerdict.IGNORE
        # Before the comparison: the first owner of an ID has the older epoch.
        if update.suspected_duplicate == self.epoch and not same_life:
            return OwnVerdict.WE_ARE_DUPLICATE
        if update.order > (self.epoch, self.sequence):
            return OwnVerdict.NEWER_THAN_OURS
        if same_life or update.suspected_duplicate:
            return OwnVerdict.NOT_OURS
        return OwnVerdict.IGNORE


def _link_bytes(peer: str, cost: float) -> int:
    """Return the bytes that a link to ``peer`` may take in an update, whoever encodes it.

    Go writes the characters that are special in HTML, and two line separators, as six bytes each.
    """
    longer = sum(peer.count(c) for c in '<>&"\\\u2028\u2029')
    return len(peer.encode()) + 5 * longer + len(f'"":{plain_number(cost)!r},')
