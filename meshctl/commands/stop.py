"""``meshctl work stop``: end units, and show what they have printed and how they ended."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.errors import CommandRefused
from meshctl.api.logindex import STDERR
from meshctl.api.status import size_of
from meshctl.commands.completion import UNDER_WAY, units
from meshctl.commands.ending import end_unit
from meshctl.commands.exits import EPILOG, end_in_words, ending, gravest, propagate_option
from meshctl.commands.options import Invocation, pass_invocation_at
from meshctl.commands.results import deliver, deliver_both
from meshctl.commands.submit import release_ended
from meshctl.commands.units import find_units
from meshctl.commands.waiting import waits_told
from meshctl.render.output import ExitCode, Failure, json_line, print_error, print_note

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

CANCELED = "cancelled"
"""What a node says of a cancel that is done; with another word it waits for the unit's node."""


@click.command(short_help="End units; show their output and ends.", epilog=EPILOG)
@click.argument("unit_ids", nargs=-1, required=True, shell_complete=units(first=UNDER_WAY))
@click.option("--rm", is_flag=True, help="Release each unit once its output is written.")
@propagate_option
@click.option("--json", "as_json", is_flag=True, help="The final statuses as JSON on stderr.")
@pass_invocation_at
def stop(
    invocation: Invocation, unit_ids: tuple[str, ...], rm: bool, propagate: bool, as_json: bool
) -> None:
    """Cancel units, and show what each has printed and how it has ended.

    All are canceled first. A unit that has ended before shows the same. The exit code says how the
    units ended; of several, as for work wait.
    """
    if propagate and len(set(unit_ids)) > 1:
        raise Failure("--propagate passes on the code of one unit: give one ID.")
    codes: set[int] = set()
    with invocation.client() as client:
        found = list(dict.fromkeys(find_units(invocation, client, unit_ids)))
        known = _cancel_all(invocation, client, found)
        codes |= {ExitCode.REFUSED} if len(known) < len(found) else set()
        for unit_id in known:
            if len(found) > 1:
                print_note(f"==> unit {unit_id}")
            status = _show(invocation, client, unit_id, rm=rm, as_json=as_json)
            codes.add(ending(unit_id, status, propagate=propagate)[1])
    if code := max(codes) if propagate else gravest(codes):
        raise Failure("", code)


def _cancel_all(
    invocation: Invocation, client: "ControlClient", unit_ids: Sequence[str]
) -> list[str]:
    """Cancel each unit; return those that there are."""
    known = []
    for unit_id in unit_ids:
        try:
            outcome = end_unit(invocation, client.cancel, "cancel", unit_id)
        except CommandRefused as error:
            text = str(error)
            print_error(text if unit_id in text else f"{unit_id}: {text}")
            continue
        known.append(unit_id)
        if outcome != CANCELED:
            print_note(f"unit {unit_id}: {outcome}, its node is not reached now")
    return known


def _show(
    invocation: Invocation, client: "ControlClient", unit_id: str, *, rm: bool, as_json: bool
) -> dict[str, Any]:
    """Write what a unit has printed and how it ended; return its final status."""
    with waits_told(invocation, unit_id):
        known = client.work_status(unit_id)
        if size_of(known, STDERR) is None:
            status = deliver(invocation, client, unit_id, is_submitted=True, removes=rm)
        else:
            status = deliver_both(invocation, client, unit_id, known)
    shown = json_line({"unitid": unit_id, **status}) if as_json else end_in_words(unit_id, status)
    print_note(shown)
    if rm:
        release_ended(invocation, client, unit_id, show=print_note)
    return status
