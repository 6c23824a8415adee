"""Which services the mesh offers (reference section 6)."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from meshnode.protocol.messages import ServiceAdvertisement

MAX_ADVERTISEMENTS = 50_000
"""Advertisements kept at most: five services each on the largest mesh that we accept."""

ADVERTISEMENT_LIFETIME = 210.0
"""Seconds after which an advertisement that was not repeated is dropped: its node says it again
every 60 s, so three were missed. A withdrawal that was lost on the way is made good by this."""

WITHDRAWAL_LIFETIME = 2 * ADVERTISEMENT_LIFETIME
"""Seconds for which a withdrawal is remembered, so that an older advertisement which comes later
does not bring the service back: by then nobody has an older one, and what was withdrawn in somebody
else's name is not gone for good."""

RENEWED_WITHIN = 70.0
"""Seconds within which a node that has begun a new life has advertised all that it offers: it does
so every 60 s, receptor for the first time after 5."""


@dataclass(slots=True)
class _Entry:
    advert: ServiceAdvertisement
    raw: bytes
    ends: float
    """When it is dropped."""
    outdated: bool = False
    """Its node may have begun a new life since: any word of it counts as a newer one."""


class AdvertisementTable:
    """The newest advertisement of every service of every node."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, _Entry]] = {}
        self._raw: set[bytes] = set()

    def is_known(self, raw: bytes) -> bool:
        """Whether exactly this message is the newest about its service: most copies are."""
        return raw in self._raw

    def apply(
        self, advert: ServiceAdvertisement, now: float = 0.0, raw: bytes | None = None
    ) -> bool:
        """Take in an advertisement; True means that it was news, to be flooded on.

        Args:
            advert: what was received.
            now: a clock in seconds.
            raw: the whole message that it came in; it is passed on unchanged.
        """
        current = self._entry(advert.node_id, advert.service)
        if current is None:
            if len(self._raw) >= MAX_ADVERTISEMENTS:
                return False
        elif not (current.outdated or advert.is_newer_than(current.advert)):
            return False
        else:
            self._drop(advert.node_id, advert.service)
        message = advert.encode() if raw is None else raw
        lifetime = WITHDRAWAL_LIFETIME if advert.cancel else ADVERTISEMENT_LIFETIME
        services = self._nodes.setdefault(advert.node_id, {})
        services[advert.service] = _Entry(advert, message, now + lifetime)
        self._raw.add(message)
        return True

    def _entry(self, node: str, service: str) -> _Entry | None:
        return self._nodes.get(node, {}).get(service)

    def newest(self, node: str, service: str) -> ServiceAdvertisement | None:
        """Return the newest word about a service, be it a withdrawal."""
        entry = self._entry(node, service)
        return entry.advert if entry is not None else None

    def find(self, node_id: str, service: str) -> ServiceAdvertisement | None:
        """Return a service's advertisement, if there is one."""
        advert = self.newest(node_id, service)
        return advert if advert is not None and not advert.cancel else None

    @property
    def nodes(self) -> Collection[str]:
        """The nodes that anything is remembered of, be it a withdrawal."""
        return self._nodes.keys()

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """Yield the node and the whole message of every service that is offered."""
        for entry in self._entries():
            if not entry.advert.cancel:
                yield entry.advert.node_id, entry.raw

    def _entries(self) -> Iterator[_Entry]:
        for services in self._nodes.values():
            yield from services.values()

    # --- what goes ---------------------------------------------------------------------------

    def begin_anew(self, node: str, now: float) -> None:
        """Doubt what a node said: it has begun a new life, or somebody says so.

        What is not advertised again goes; and what is may bear an earlier time, for the node's
        clock may have been set back.
        """
        for entry in self._nodes.get(node, {}).values():
            entry.outdated = True
            entry.ends = min(entry.ends, now + RENEWED_WITHIN)

    def forget_node(self, node: str) -> None:
        """Forget what a node advertised and withdrew: it is gone."""
        for entry in self._nodes.pop(node, {}).values():
            self._raw.discard(entry.raw)

    def expire(self, now: float) -> None:
        """Forget the services that were not repeated for long, and withdrawals of long ago."""
        over = [e.advert for e in self._entries() if e.ends <= now]
        for advert in over:
            self._drop(advert.node_id, advert.service)

    def _drop(self, node: str, service: str) -> None:
        services = self._nodes[node]
        self._raw.discard(services.pop(service).raw)
        if not services:
            del self._nodes[node]

    def __iter__(self) -> Iterator[ServiceAdvertisement]:
        return (e.advert for e in self._entries() if not e.advert.cancel)

    def __len__(self) -> int:
        return sum(not e.advert.cancel for e in self._entries())
