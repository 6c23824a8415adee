"""Which services the mesh offers (reference section 6)."""

from collections.abc import Collection, Iterator

from meshnode.protocol.messages import ServiceAdvertisement

MAX_ADVERTISEMENTS = 50_000
"""Advertisements kept at most: five services each on the largest mesh that we accept."""


class AdvertisementTable:
    """The newest advertisement of every service of every node."""

    def __init__(self) -> None:
        self._table: dict[tuple[str, str], ServiceAdvertisement] = {}
        self._withdrawn: dict[tuple[str, str], ServiceAdvertisement] = {}

    def apply(self, advert: ServiceAdvertisement) -> bool:
        """Take in an advertisement; True means that it was news, to be flooded on.

        A withdrawal is remembered until its node is forgotten, so that an older advertisement
        which took a longer way does not bring the service back.
        """
        key = (advert.node_id, advert.service)
        current = self._table.get(key) or self._withdrawn.get(key)
        if current is not None and not advert.is_newer_than(current):
            return False
        if current is None and len(self._table) + len(self._withdrawn) >= MAX_ADVERTISEMENTS:
            return False
        self._table.pop(key, None)
        self._withdrawn.pop(key, None)
        (self._withdrawn if advert.cancel else self._table)[key] = advert
        return True

    def find(self, node_id: str, service: str) -> ServiceAdvertisement | None:
        """Return a service's advertisement, if there is one."""
        return self._table.get((node_id, service))

    def keep_nodes(self, nodes: Collection[str]) -> None:
        """Forget what nodes outside ``nodes`` advertised: they are gone."""
        for table in (self._table, self._withdrawn):
            for key in [k for k in table if k[0] not in nodes]:
                del table[key]

    def __iter__(self) -> Iterator[ServiceAdvertisement]:
        return iter(self._table.values())

    def __len__(self) -> int:
        return len(self._table)
