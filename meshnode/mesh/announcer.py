"""What this node says of its own services (reference section 6)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from meshnode.mesh.stamps import nanoseconds_of, timestamp
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.messages import ServiceAdvertisement, WorkType

ADVERTISE_INTERVAL = 60.0
"""Seconds between advertisements of a service that does not change (reference section 6)."""


@dataclass(frozen=True, slots=True)
class LocalService:
    """A service that this node advertises."""

    name: str
    conn_type: int
    tags: Mapping[str, str] | None
    work_types: tuple[WorkType, ...] | None


class Announcer:
    """Announces services when they start and end, and in between again and again."""

    def __init__(
        self, own_id: str, table: AdvertisementTable, flood: Callable[[bytes], None]
    ) -> None:
        self._own_id = own_id
        self._table = table
        self._flood = flood
        self._services: dict[str, LocalService] = {}
        self._newest = 0
        """Unix time in nanoseconds of the last advertisement."""

    async def run(self) -> None:
        """Repeat what is offered, for ever."""
        while True:
            await trio.sleep(ADVERTISE_INTERVAL)
            self.announce_all()

    def add(self, service: LocalService) -> None:
        """Advertise a service from now on."""
        self._services[service.name] = service
        self._announce(service)

    def remove(self, name: str) -> None:
        """Withdraw a service."""
        service = self._services.pop(name, None)
        if service is not None:
            self._announce(service, cancel=True)

    def announce_all(self) -> None:
        """Advertise all services once more."""
        for service in self._services.values():
            self._announce(service)

    def outdo(self, advert: ServiceAdvertisement) -> None:
        """Make what we say from now on newer than an advertisement that bears our ID.

        It is an own one that came round; or one of a life of this node before its clock was set
        back, and while ours are older than that, the mesh ignores them.
        """
        self._newest = max(self._newest, nanoseconds_of(advert.time) or 0)

    def _announce(self, service: LocalService, cancel: bool = False) -> None:
        # Strictly newer than the one before, whatever the clock does: the newer time wins.
        self._newest = max(time.time_ns(), self._newest + 1)
        advert = ServiceAdvertisement(
            node_id=self._own_id,
            service=service.name,
            time=timestamp(self._newest),
            conn_type=service.conn_type,
            tags=service.tags,
            work_types=service.work_types,
            cancel=cancel,
        )
        message = advert.encode()
        self._table.apply(advert, trio.current_time(), message)
        self._flood(message)
