"""Floods of routing: advertisements, updates and notices about nodes and services that are not."""

import itertools
from collections.abc import Iterator

from hostile import forge
from hostile.peer import unique

from floods.attack import Limit, Messages, Sent, Target, pour

LARGE = 60_000
"""Bytes of filling of the largest messages."""

TAG = 4000
"""Bytes of one tag that is long, and not too long."""

ALLOWED = 15_000
"""Bytes of filling that no bound on one message can refuse: real advertisements are as long."""

LONG_NAME = 255
"""Bytes of the longest node ID."""


def adverts(filling: int) -> Messages:
    """Advertise ever new services, each with so many bytes of tags."""
    services = forge.names("")
    # In pieces: each of them is as long as a tag may be.
    tags = {f"t{number}": "x" * TAG for number in range(filling // TAG)}

    def make(name: str) -> Iterator[bytes]:
        for service in services:
            yield forge.advert(name, service, Tags=tags)

    return make


def strangers_adverts(name: str) -> Iterator[bytes]:
    """Advertise a service each of ever new nodes."""
    for node in forge.names(f"{name}-"[-8:], 20):
        yield forge.advert(node, "control", Tags={"type": "x" * 4000})


def update_ids(length: int) -> Messages:
    """Send ever newer updates of one node, with update IDs of that length."""
    sequence = itertools.count(1)

    def make(name: str) -> Iterator[bytes]:
        for number in sequence:
            update_id = unique().ljust(length, "u")
            yield forge.update(
                "ghost", UpdateID=update_id, UpdateSequence=number, ForwardingNode=name
            )

    return make


def topology(name: str) -> Iterator[bytes]:
    """Invent 2,000 nodes with 4,000 links each, to each other where they exist; again, newer."""
    nodes = [f"g{number:04}" for number in range(4000)]
    for turn in itertools.count(1):
        links = dict.fromkeys(nodes, 1 + turn % 7)
        for node in nodes[:2000]:
            yield forge.update(
                node,
                UpdateID=unique(),
                UpdateSequence=turn,
                Connections=links,
                ForwardingNode=name,
            )


def notices(name: str) -> Iterator[bytes]:
    """Tell the victim's control service of ever new nodes that it cannot reach."""
    for node in forge.names("n", 200):
        yield forge.notice(name, forge.VICTIM, ToNode=node, ToService="x")


def bad_notices(name: str) -> Iterator[bytes]:
    """Send what is no notice where one should be: each is worth a line of log."""
    while True:
        yield forge.data(name, forge.VICTIM, "unreach", "unreach", b"{no JSON")


def invented(name: str) -> Iterator[bytes]:
    """Invent ever new nodes, each linked to us as it says."""
    for node in forge.names("i", 12):
        yield forge.update(node, UpdateID=unique(), Connections={name: 1}, ForwardingNode=name)


def linked(name: str) -> Iterator[bytes]:
    """Invent ever new nodes behind us, so that there is a route to each."""
    known: dict[str, int] = {forge.VICTIM: 1}
    for number, node in enumerate(forge.names("b", 12)):
        yield forge.update(node, UpdateID=unique(), Connections={name: 1}, ForwardingNode=name)
        known[node] = 1
        if number % 100 == 99:
            # An update holds some 3,000 of them; after that the first ones go.
            last = dict(itertools.islice(reversed(known.items()), 2900))
            yield forge.update(
                name,
                UpdateID=unique(),
                UpdateSequence=number,
                Connections={forge.VICTIM: 1, **last},
            )


def withdrawals(name: str) -> Iterator[bytes]:
    """Withdraw 50,000 services that never were, once."""
    for service in itertools.islice(forge.names("w"), 50_000):
        yield forge.advert(name, service, Tags=None, WorkCommands=None, Cancel=True)


def restarts(name: str) -> Iterator[bytes]:
    """Claim without end that the honest neighbour has begun another life."""
    for number in itertools.count(1):
        yield forge.update(
            "left",
            UpdateID=unique(),
            UpdateEpoch=forge.CLAIMED_EPOCH + number,
            Connections={forge.VICTIM: 1},
            ForwardingNode=name,
        )


def pings(name: str) -> Iterator[bytes]:
    """Ping the victim, under ever new services."""
    for service in forge.names("p"):
        yield forge.data(name, forge.VICTIM, service, "ping")


def unknown_services(name: str) -> Iterator[bytes]:
    """Send to services that the victim does not have, in our name and in an honest node's."""
    for number, service in enumerate(forge.names("q")):
        source = "left" if number % 2 else name
        yield forge.data(source, forge.VICTIM, "x", service, bytes(1000))


def poured(messages: Messages, kind: str = "tcp"):
    """Return the attack that pours these messages."""

    def attack(target: Target, limit: Limit) -> Sent:
        return pour(target, limit, messages, kind=kind)

    return attack
