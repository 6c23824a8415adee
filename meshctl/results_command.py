"""``meshctl work results``: a unit's stdout, all of it or a part, as it comes or as it is."""

from typing import TYPE_CHECKING, Any

import click

from meshctl.follow import deliver, deliver_until, report_end
from meshctl.invocation import Invocation, pass_invocation
from meshctl.output import Failure, json_line, print_note
from meshctl.states import UNFINISHED
from meshctl.tail import start_of_last_lines

if TYPE_CHECKING:
    from meshctl.client import ControlClient


@click.command()
@click.argument("unit_id")
@click.option(
    "--startpos",
    "--from",
    "startpos",
    type=click.IntRange(min=0),
    metavar="BYTE",
    help="First byte wanted.",
)
@click.option(
    "--tail", type=click.IntRange(min=0), metavar="LINES", help="Begin with the last lines."
)
@click.option(
    "--follow/--no-follow",
    default=True,
    help="Go on until the unit has ended (the default), or stop after what there is now.",
)
@click.option("--json", "as_json", is_flag=True, help="The final status as JSON on stderr.")
@pass_invocation
def results(
    invocation: Invocation,
    unit_id: str,
    startpos: int | None,
    tail: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Write a unit's stdout to ours as it comes, until the unit has ended.

    Ctrl-C leaves the unit running.
    """
    if startpos is not None and tail is not None:
        raise Failure("Cannot combine --from (--startpos) with --tail.")
    with invocation.client() as client:
        known = client.work_status(unit_id) if tail is not None or not follow else None
        start = startpos or 0
        if tail is not None:
            start = start_of_last_lines(client, unit_id, _size(known), tail)
        if known is not None and not follow and known.get("State") in UNFINISHED:
            _deliver_present(invocation, client, unit_id, start, known, as_json=as_json)
            return
        status = deliver(invocation, client, unit_id, start)
    report_end(unit_id, status, as_json=as_json)


def _deliver_present(
    invocation: Invocation,
    client: "ControlClient",
    unit_id: str,
    start: int,
    known: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Write what a unit that goes on has printed up to now; it has no end to report."""
    deliver_until(invocation, client, unit_id, start, _size(known))
    if as_json:
        print_note(json_line({"unitid": unit_id, **known}))


def _size(status: dict[str, Any] | None) -> int:
    return int((status or {}).get("StdoutSize") or 0)
