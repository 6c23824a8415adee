"""Which units ``work list`` shows when it is told what they are like."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import Any

import click

from meshctl.output import print_warning
from meshctl.selection import Age, moment

STATES = ("Pending", "Running", "Succeeded", "Failed", "Canceled")
"""Names of the states of a unit (reference section 8)."""


@dataclass(frozen=True, slots=True)
class UnitFilter:
    """What units must be like to be listed.

    Attributes:
        states: names of states; empty for any.
        types: work types, on whichever node the units run; empty for any.
        since: the longest time since they were made; None for any.
    """

    states: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    since: timedelta | None = None

    def choose(self, units: Mapping[str, dict[str, Any]], now: datetime) -> dict[str, Any]:
        """Return the units that are so, in the order given."""
        chosen = {
            unit: status
            for unit, status in units.items()
            if (not self.states or status.get("StateName") in self.states)
            and (not self.types or work_type(status) in self.types)
        }
        if self.since is None:
            return chosen
        made = {unit: moment(status, "Created") for unit, status in chosen.items()}
        if unknown := [unit for unit, when in made.items() if when is None]:
            # A receptor node says of no unit when it was made.
            print_warning(f"the node does not say when these were made: {' '.join(unknown)}")
        earliest = now - self.since
        return {u: chosen[u] for u, when in made.items() if when is not None and when >= earliest}


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose what is listed; the command gets a ``wanted`` filter."""

    @wraps(command)
    def choose(
        *args: Any,
        states: tuple[str, ...],
        types: tuple[str, ...],
        since: timedelta | None,
        **kwargs: Any,
    ) -> None:
        wanted = UnitFilter(frozenset(states), frozenset(types), since)
        return command(*args, wanted=wanted, **kwargs)

    for option in reversed(
        (
            click.option(
                "--state",
                "states",
                multiple=True,
                type=click.Choice(STATES, case_sensitive=False),
                help="Only units in this state; may be repeated.",
            ),
            click.option(
                "--type",
                "types",
                multiple=True,
                metavar="WORKTYPE",
                help="Only units of this work type; may be repeated.",
            ),
            click.option("--since", type=Age(), help="Only units made in the last, e.g., 2h."),
        )
    ):
        choose = option(choose)
    return choose


def remote_part(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a status says of the node that the unit runs on; nothing for a local unit."""
    extra = status.get("ExtraData")
    return extra if isinstance(extra, dict) and extra.get("RemoteNode") else {}


def work_type(status: Mapping[str, Any]) -> str:
    """Return the type of the work itself, wherever it runs."""
    return str(remote_part(status).get("RemoteWorkType") or status.get("WorkType", ""))
