"""Tells the hub of events what becomes of units, and who may be told of which.

Only what a list of units shows is an event. More output is none, nor is where a unit stands in the
queue: both change all the time. An event says how the unit is when it is sent, so of many changes
in a row the first reader has the last one.
"""

from dataclasses import dataclass, replace

from meshnode.control.events import Change, EventHub, Topic
from meshnode.control.events_command import Audience, Shows
from meshnode.control.registry import ControlSession, JsonObject
from meshnode.errors import NotAllowed
from meshnode.permissions import Verb
from meshnode.work.units.access import Caller, UnitAccess
from meshnode.work.units.follow import shown
from meshnode.work.units.jobsettings import NO_SETTINGS
from meshnode.work.units.jsonreader import NOTHING
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.unit import Unit

TOLD = (
    "State",
    "StateName",
    "Detail",
    "WorkType",
    "StdoutSize",
    "Created",
    "Started",
    "Finished",
    "ExitCode",
    "Labels",
)
"""What an event has of what a status shows."""


@dataclass(frozen=True, slots=True)
class UnitNews:
    """A unit that an event is about, for whoever decides who may be told."""

    unit_id: str
    status: UnitStatus


class UnitEvents:
    """Tells the hub of the units of one node."""

    def __init__(self, hub: EventHub, node_id: str) -> None:
        self._hub = hub
        self._node_id = node_id

    def created(self, unit: Unit) -> None:
        """Tell that there is a new unit."""
        if self._hub.is_on:
            self._tell(unit, Change.CREATED)

    def changed(self, unit: Unit, old: UnitStatus) -> None:
        """Tell what has become of a unit; ``old`` is its status before."""
        if not self._hub.is_on:
            return
        new = unit.status
        if unit.released:
            self._tell_released(unit)
        elif new.state.is_final and not old.state.is_final:
            self._tell(unit, Change.ENDED)
        # The same status is told again when what the unit awaits is another thing.
        elif new is old or _in_list(new) != _in_list(old):
            self._tell(unit, Change.CHANGED)

    def _tell(self, unit: Unit, change: Change) -> None:
        about = UnitNews(unit.unit_id, unit.status)
        key = (unit.unit_id,)
        self._hub.tell(Topic.UNIT, key, change, lambda: {"unit": self._brief(unit)}, about)

    def _tell_released(self, unit: Unit) -> None:
        # The log keeps it when the unit itself is gone, so nothing that may be large stays with it.
        status, unit_id = unit.status, unit.unit_id
        remote = status.remote and replace(status.remote, params=NOTHING)
        about = UnitNews(unit_id, replace(status, params=(), job=NO_SETTINGS, remote=remote))
        gone: JsonObject = {"unit": {"ID": unit_id}}
        self._hub.tell(Topic.UNIT, (unit_id,), Change.RELEASED, lambda: gone, about)

    def _brief(self, unit: Unit) -> JsonObject:
        told, remote = shown(unit), unit.status.remote
        brief = {key: told[key] for key in TOLD if told.get(key) is not None}
        if remote is not None:
            brief["RemoteWorkType"] = remote.work_type
        return {
            "ID": unit.unit_id,
            "Node": self._node_id if remote is None else remote.node,
        } | brief


def _in_list(status: UnitStatus) -> tuple[object, ...]:
    """Return what a list of units shows of one, but for what changes all the time."""
    remote = status.remote
    return status.state, status.detail, remote and remote.node


def unit_audience(access: UnitAccess) -> Audience:
    """Return who may be told of units: of each, whoever may see it in a list."""

    def require(session: ControlSession) -> None:
        access.check(Verb.LIST, None, Caller.of(session))

    def viewer(session: ControlSession) -> Shows | None:
        caller = Caller.of(session)
        try:
            access.rehearsal().check(Verb.LIST, None, caller)
        except NotAllowed:
            return None
        shows = access.lister(caller)
        return lambda news: isinstance(news, UnitNews) and shows(news.unit_id, news.status)

    return Audience(require, viewer)
