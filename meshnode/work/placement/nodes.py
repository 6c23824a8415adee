"""The nodes that work can be placed on, as they advertise themselves, each read once."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import trio

from meshnode.protocol.control import CONTROL_SERVICE, TAKES_TAG
from meshnode.protocol.routing import ServiceAdvertisement
from meshnode.work.placement.choice import Candidate
from meshnode.work.placement.load import LABELS_TAG, LOAD_TAG, Load, read_labels, read_load
from meshnode.work.units.unit import Unit


class MeshView(Protocol):
    """What placement asks of a mesh."""

    @property
    def node_id(self) -> str:
        """This node's ID."""
        ...

    @property
    def link_costs(self) -> Mapping[str, float]:
        """The nodes that this one is linked to, and what the links cost."""
        ...

    @property
    def changes(self) -> int:
        """A number that is another one after each change of links, routes or services."""
        ...

    def service_stamps(self, service: str) -> Mapping[str, int]:
        """Return which nodes that can be reached (this one too) advertise a service, and when each
        did so last: a number that is another one for each advertisement."""
        ...

    def find_service(self, node: str, service: str) -> ServiceAdvertisement | None:
        """Return how a node that can be reached advertises a service, if it does."""
        ...

    async def wait_changed(self) -> None:
        """Return when routes or the services of other nodes have changed."""
        ...


@dataclass(frozen=True, slots=True)
class _Advertised:
    """What one advertisement says."""

    stamp: int
    work_types: frozenset[str]
    labels: Mapping[str, str]
    load: Load | None
    takes: frozenset[str]


@dataclass(slots=True)
class _Placed:
    """The units of one type that this node has placed on another one."""

    unfinished: int = 0
    stamp: int = 0
    """The advertisement since which ``since`` counts."""
    since: int = 0


@dataclass(slots=True, eq=False)
class NodeDirectory:
    """What the nodes of a mesh say of themselves, and what this one has placed there."""

    mesh: MeshView
    _known: dict[str, _Advertised] = field(default_factory=dict)
    _placed: dict[tuple[str, str], _Placed] = field(default_factory=dict)
    _units: "dict[str, _PlacedUnit]" = field(default_factory=dict)
    _looked: tuple[int, int] = (-1, -1)
    """When the nodes were last looked at: see :meth:`moment`."""

    def moment(self) -> tuple[int, int]:
        """Return what is another value whenever nodes may be others, or say something else.

        It is in any case a second later: an advertisement that was not repeated goes unnoticed.
        """
        return self.mesh.changes, int(trio.current_time())

    def candidates(self, work_type: str) -> list[Candidate]:
        """Return the nodes that there are at this moment, as far as units of a type go."""
        self._look()
        costs = self.mesh.link_costs
        found = []
        for node, said in self._known.items():
            placed = self._placed.get((node, work_type)) or _Placed()
            found.append(
                Candidate(
                    node=node,
                    work_types=said.work_types,
                    labels=said.labels,
                    load=said.load,
                    takes=said.takes,
                    # Beyond the next node all are far.
                    cost=0.0 if node == self.mesh.node_id else costs.get(node, math.inf),
                    own=placed.unfinished,
                    placed=placed.since if placed.stamp == said.stamp else 0,
                )
            )
        return found

    @property
    def names(self) -> Iterable[str]:
        """The nodes that there are."""
        self._look()
        return self._known.keys()

    def _look(self) -> None:
        moment = self.moment()
        if moment == self._looked:
            return
        self._looked = moment
        stamps = self.mesh.service_stamps(CONTROL_SERVICE)
        for node in self._known.keys() - stamps.keys():
            del self._known[node]
        for node, stamp in stamps.items():
            known = self._known.get(node)
            if known is None or known.stamp != stamp:
                advert = self.mesh.find_service(node, CONTROL_SERVICE)
                if advert is not None:
                    self._known[node] = _read(advert, stamp)

    def count(self, unit: Unit, node: str) -> None:
        """Count a unit on the node that was chosen for it, until it is final or released."""
        key = (node, unit.remote.work_type)
        known = self._units.get(unit.unit_id)
        if known is not None and known.key == key:
            return
        if known is not None:
            known.leave()
        placed = self._placed.setdefault(key, _Placed())
        placed.unfinished += 1
        stamp = self._known[key[0]].stamp if key[0] in self._known else 0
        placed.since = placed.since + 1 if placed.stamp == stamp else 1
        placed.stamp = stamp
        self._units[unit.unit_id] = one = _PlacedUnit(self, unit, key)
        unit.add_listener(one.changed)

    def uncount(self, unit: Unit) -> None:
        """Count a unit on no node: it goes to none."""
        if one := self._units.get(unit.unit_id):
            one.leave()

    def forget(self, one: "_PlacedUnit") -> None:
        """Count a unit no more."""
        del self._units[one.unit.unit_id]
        placed = self._placed[one.key]
        placed.unfinished -= 1
        if not placed.unfinished:
            del self._placed[one.key]


@dataclass(frozen=True, slots=True, eq=False)
class _PlacedUnit:
    """A unit that counts on a node."""

    directory: NodeDirectory
    unit: Unit
    key: tuple[str, str]

    def changed(self) -> None:
        """Count it no more once it is final; called after each change."""
        if self.unit.is_final:
            self.leave()

    def leave(self) -> None:
        """Count it no more."""
        self.unit.remove_listener(self.changed)
        self.directory.forget(self)


def _read(advert: ServiceAdvertisement, stamp: int) -> _Advertised:
    tags = advert.tags or {}
    return _Advertised(
        stamp,
        frozenset(known.name for known in advert.work_types or ()),
        read_labels(tags.get(LABELS_TAG)),
        read_load(tags.get(LOAD_TAG)),
        frozenset(tags.get(TAKES_TAG, "").split(",")),
    )
