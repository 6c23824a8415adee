"""Which services the mesh offers (reference section 6)."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from meshnode.protocol.messages import ServiceAdvertisement

MAX_ADVERTISEMENTS = 50_000
"""Advertisements kept at most: five services each on the largest mesh that we accept."""

ADVERTISEMENT_LIFETIME = 210.0
"""Seconds after which an advertisement that was not repeated is dropped: its node says it again
every 60 s, so three were missed. A withdrawal that was lost on the way is made good by this."""


@dataclass(slots=True)
class _Entry:
    advert: ServiceAdvertisement
    raw: bytes
    heard: float


class AdvertisementTable:
    """The newest advertisement of every service of every node."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._raw: set[bytes] = set()

    def is_known(self, raw: bytes) -> bool:
        """Whether exactly this message is the newest about its service: most copies are."""
        return raw in self._raw

    def apply(
        self, advert: ServiceAdvertisement, now: float = 0.0, raw: bytes | None = None
    ) -> bool:
        """Take in an advertisement; True means that it was news, to be flooded on.

        A withdrawal is remembered until its node is forgotten, so that an older advertisement
        which took a longer way does not bring the service back.

        Args:
            advert: what was received.
            now: a clock in seconds.
            raw: the whole message that it came in; it is passed on unchanged.
        """
        key = (advert.node_id, advert.service)
        current = self._entries.get(key)
        if current is None:
            if len(self._entries) >= MAX_ADVERTISEMENTS:
                return False
        elif not advert.is_newer_than(current.advert):
            return False
        self._drop(key)
        message = advert.encode() if raw is None else raw
        self._entries[key] = _Entry(advert, message, now)
        self._raw.add(message)
        return True

    def find(self, node_id: str, service: str) -> ServiceAdvertisement | None:
        """Return a service's advertisement, if there is one."""
        entry = self._entries.get((node_id, service))
        return entry.advert if entry is not None and not entry.advert.cancel else None

    def nodes(self) -> set[str]:
        """Return the nodes that anything is remembered of, be it a withdrawal."""
        return {node for node, _ in self._entries}

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """Yield the node and the whole message of every service that is offered."""
        for entry in self._entries.values():
            if not entry.advert.cancel:
                yield entry.advert.node_id, entry.raw

    def forget_node(self, node: str) -> None:
        """Forget what a node advertised and withdrew: it is gone, or has begun a new life."""
        for key in [k for k in self._entries if k[0] == node]:
            self._drop(key)

    def keep_nodes(self, nodes: Collection[str]) -> None:
        """Forget what nodes outside ``nodes`` advertised: they are gone."""
        for node in self.nodes() - set(nodes):
            self.forget_node(node)

    def expire(self, now: float) -> None:
        """Forget the services that were not repeated for ADVERTISEMENT_LIFETIME."""
        oldest = now - ADVERTISEMENT_LIFETIME
        for key, entry in list(self._entries.items()):
            if entry.heard <= oldest and not entry.advert.cancel:
                self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._raw.discard(entry.raw)

    def __iter__(self) -> Iterator[ServiceAdvertisement]:
        return (e.advert for e in self._entries.values() if not e.advert.cancel)

    def __len__(self) -> int:
        return sum(not e.advert.cancel for e in self._entries.values())
