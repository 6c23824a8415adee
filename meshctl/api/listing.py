"""Lists of units by what they are like: a meshnode chooses, and tells the newest in pages.

A receptor node and an older meshnode do not know what is asked, and tell all of their units. So
what comes may be more than was asked for: who asks chooses among that as well.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING

from meshctl.api import JsonObject
from meshctl.api.errors import ProtocolMismatch
from meshctl.api.status import state_name

if TYPE_CHECKING:  # the commands need what is here before they need sockets
    from meshctl.api.client import ControlClient


@dataclass(frozen=True, slots=True)
class Query:
    """What units must be like; without anything, any.

    Attributes:
        states: names of states; empty for any.
        types: types of the work itself, on whichever node it runs; empty for any.
        labels: labels that they have, all of them: a name, and a value where not any will do.
        since: when they were made at the earliest; it has a time zone.
        limit: how many at most, the newest; None for all.
    """

    states: Collection[str] = ()
    types: Collection[str] = ()
    labels: Collection[tuple[str, str | None]] = ()
    since: datetime | None = None
    limit: int | None = None

    def fields(self) -> JsonObject:
        """Return the part of a request that says so (docs/control-protocol.md)."""
        labels = [name if value is None else f"{name}={value}" for name, value in self.labels]
        return {
            # Sent also when it is empty: a meshnode tells pages to who asks for anything at all.
            "state": sorted(self.states),
            **({"type": sorted(self.types)} if self.types else {}),
            **({"label": labels} if labels else {}),
            **({"since": self.since.isoformat()} if self.since is not None else {}),
            **({"limit": self.limit} if self.limit is not None else {}),
        }


@dataclass(frozen=True, slots=True)
class Page:
    """What a node has told.

    Attributes:
        units: status by unit ID; in the order of IDs, as a meshnode lists all.
        states: how many units there are in each state, by its name, also beyond the page.
        following: what has the next page come; empty where all is told.
        is_all: whether these are all units of a node that does not choose.
    """

    units: Mapping[str, JsonObject]
    states: Mapping[str, int]
    following: str = ""
    is_all: bool = False


def first_page(client: "ControlClient", query: Query) -> Page:
    """Return the units that a query is about, or the newest of them, or all that there are.

    Raises:
        ProtocolMismatch: the reply is no list of units.
        ControlError: as for any command.
    """
    return _page(client, query.fields())


def pages(client: "ControlClient", query: Query) -> Iterator[Page]:
    """Yield the same page by page, as long as somebody wants another; each has ``limit`` units."""
    page = first_page(client, query)
    yield page
    while page.following:
        page = _page(client, {**query.fields(), "cursor": page.following})
        yield page


def _page(client: "ControlClient", fields: JsonObject) -> Page:
    reply = client.command({"command": "work", "subcommand": "list", **fields})
    if type(reply.get("total")) is not int:
        if not all(isinstance(status, dict) for status in reply.values()):
            raise ProtocolMismatch("the node's reply is no list of units")
        return Page(reply, Counter(map(state_name, reply.values())), is_all=True)
    items, states, following = reply.get("items"), reply.get("states"), reply.get("next")
    if not (
        isinstance(items, list)
        and all(isinstance(one, dict) and isinstance(one.get("ID"), str) for one in items)
        and isinstance(states, dict)
        and all(type(count) is int for count in states.values())
        and isinstance(following, str | None)
    ):
        raise ProtocolMismatch("the node's reply is no page of units")
    units = {one.pop("ID"): one for one in sorted(items, key=itemgetter("ID"))}
    return Page(units, states, following or "")
