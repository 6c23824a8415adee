"""What this node says of its own services, and how it answers advertisements in its name.

Everybody with a link can advertise and withdraw services in our name. This node cannot keep them
from it. But it answers with a newer advertisement or withdrawal (protocol section 6).
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import trio

from meshnode.logs import subject_logger
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.fields import MAX_ADVERTISEMENT, TAG_NAME, TAG_VALUE, presentable
from meshnode.protocol.routing import ConnType, ServiceAdvertisement, WorkType
from meshnode.protocol.times import format_time, latest_believed

ADVERTISE_INTERVAL = 60.0
"""Seconds between advertisements of a service that does not change (protocol section 6)."""

ANSWER_INTERVAL = 1.0
"""Seconds between two rounds of answers to forged advertisements: the first follows at once, and a
forger gets the mesh to flood no more than this."""

WITHDRAWN_AT_ONCE = 5
"""Forged services withdrawn in one round. Names are easily invented; other nodes drop the rest when
they are not repeated."""


@dataclass(frozen=True, slots=True)
class LocalService:
    """A service that this node advertises."""

    name: str
    conn_type: int
    tags: Mapping[str, str] | None = None
    work_types: tuple[WorkType, ...] | None = None


class Announcer:
    """Advertises services when they start, withdraws them when they end, and repeats meanwhile."""

    def __init__(
        self, own_id: str, table: AdvertisementTable, flood: Callable[[bytes], None]
    ) -> None:
        self._own_id = own_id
        self._table = table
        self._flood = flood
        self._services: dict[str, LocalService] = {}
        self._forged: dict[str, int] = {}
        """Forged advertisements that were not answered yet: service, and time."""
        self._due = trio.Event()
        self._log = subject_logger("mesh")

    async def run(self) -> None:
        """Repeat advertisements, and answer forged ones, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._repeat)
            nursery.start_soon(self._answer)

    async def _repeat(self) -> None:
        while True:
            await trio.sleep(ADVERTISE_INTERVAL)
            self.announce_all()

    async def _answer(self) -> None:
        while True:
            await self._due.wait()
            self._due = trio.Event()
            forged, self._forged = self._forged, {}
            for name, when in forged.items():
                service = self._services.get(name, LocalService(name, ConnType.DATAGRAM))
                self._announce(service, cancel=name not in self._services, after=when)
            await trio.sleep(ANSWER_INTERVAL)

    def add(self, service: LocalService) -> None:
        """Advertise a service from now on, with as many tags as an advertisement may have."""
        fitting = self._fitting(service)
        self._services[service.name] = fitting
        self._announce(fitting)

    def set_work_types(self, name: str, work_types: tuple[WorkType, ...] | None) -> None:
        """Advertise a service with other types of work; one that has ended stays withdrawn."""
        service = self._services.get(name)
        if service is not None:
            self.add(replace(service, work_types=work_types))

    def set_tags(self, name: str, tags: Mapping[str, str]) -> None:
        """Advertise a service with these tags as well; one that has ended stays withdrawn.

        A tag with an empty value is left out from now on.
        """
        service = self._services.get(name)
        if service is not None:
            all_tags = {**(service.tags or {}), **tags}
            kept = {tag: value for tag, value in all_tags.items() if value}
            self.add(replace(service, tags=kept))

    def remove(self, name: str) -> None:
        """Withdraw a service."""
        service = self._services.pop(name, None)
        if service is not None:
            self._announce(service, cancel=True)

    def announce_all(self) -> None:
        """Advertise all services once more."""
        for service in self._services.values():
            self._announce(service)

    def heard(self, advert: ServiceAdvertisement) -> None:
        """Take an advertisement with our ID that is not the newest that we know.

        It may be an own one that came round. If it is newer than ours it is forged, or from before
        our clock was set back; in both cases the mesh ignores ours until they are newer still.
        """
        own = self._table.newest(self._own_id, advert.service)
        if own is not None and advert.nanoseconds < own.nanoseconds:
            return
        if advert.cancel and advert.service not in self._services:
            return
        # Every node ignores such a time, and would ignore ours after it.
        if advert.nanoseconds > latest_believed(time.time_ns()):
            return
        former = self._forged.get(advert.service)
        invented = self._forged.keys() - self._services.keys()
        if (
            former is not None
            or advert.service in self._services
            or len(invented) < WITHDRAWN_AT_ONCE
        ):
            self._forged[advert.service] = max(former or 0, advert.nanoseconds)
            self._due.set()

    def _fitting(self, service: LocalService) -> LocalService:
        """Return a service with as many work types and tags as fit one message; log the others."""
        if service.tags is not None:
            tags = [
                (presentable(name, TAG_NAME), presentable(value, TAG_VALUE))
                for name, value in service.tags.items()
            ]
            service = replace(service, tags=dict(tags))
        # Tags are the last to go: they say what kind of service it is.
        types, tags = service.work_types or (), list((service.tags or {}).items())
        kept_types = self._how_many(len(types), lambda n: replace(service, work_types=types[:n]))
        if kept_types < len(types):
            self._log_left_out(service, len(types) - kept_types, len(types), "work types")
            service = replace(service, work_types=types[:kept_types])
        kept_tags = self._how_many(len(tags), lambda n: replace(service, tags=dict(tags[:n])))
        if kept_tags < len(tags):
            self._log_left_out(service, len(tags) - kept_tags, len(tags), "tags")
            service = replace(service, tags=dict(tags[:kept_tags]))
        return service

    def _how_many(self, most: int, having: Callable[[int], LocalService]) -> int:
        """Return how many items a service may have for its advertisement to fit."""

        def size(count: int) -> int:
            return len(
                self._advert(having(count), format_time(time.time_ns()), cancel=False).encode()
            )

        if size(most) <= MAX_ADVERTISEMENT:
            return most
        return max(0, bisect_right(range(most), MAX_ADVERTISEMENT, key=size) - 1)

    def _log_left_out(self, service: LocalService, left: int, of: int, what: str) -> None:
        self._log.warning(
            "%d of %d %s of service %s are not advertised: an advertisement has %d bytes at most",
            left,
            of,
            what,
            service.name,
            MAX_ADVERTISEMENT,
        )

    def _announce(self, service: LocalService, *, cancel: bool = False, after: int = 0) -> None:
        """Flood an advertisement that is newer than the last one, whatever the clock does."""
        last = self._table.newest(self._own_id, service.name)
        newest = max(after, last.nanoseconds if last is not None else 0)
        advert = self._advert(service, format_time(max(time.time_ns(), newest + 1)), cancel=cancel)
        message = advert.encode()
        self._table.apply(advert, trio.current_time(), message)
        self._flood(message)

    def _advert(self, service: LocalService, when: str, *, cancel: bool) -> ServiceAdvertisement:
        return ServiceAdvertisement(
            node_id=self._own_id,
            service=service.name,
            time=when,
            conn_type=service.conn_type,
            tags=service.tags,
            work_types=service.work_types,
            cancel=cancel,
        )
