"""What there is to say about one link: for ``status``."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkFigures:
    """One link at one moment.

    ``kind`` and ``address`` are the link's (``tcp``, ``10.0.0.7:41532``); ``since`` is the Unix
    time at which it was established and ``uptime`` the seconds from then to now by a clock that
    nobody sets; messages and bytes are those of links, hellos and routing included; ``dropped``
    counts data messages that a full queue refused; ``refused`` counts updates and advertisements
    that were not what they must be, written by the peer or somebody beyond it; ``round_trip`` is in
    seconds, None while the peer has not answered.
    """

    kind: str
    address: str
    since: float
    uptime: float
    sent_messages: int
    sent_bytes: int
    received_messages: int
    received_bytes: int
    dropped: int
    refused: int
    round_trip: float | None
