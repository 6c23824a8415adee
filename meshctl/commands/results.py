"""``meshctl work results``: a unit's stdout, all of it or a part, as it comes or as it is."""

from typing import TYPE_CHECKING, Any

import click

from meshctl.api.states import UNFINISHED
from meshctl.commands.follow import deliver, deliver_until, report_end
from meshctl.commands.invocation import Invocation, pass_invocation
from meshctl.render.output import Failure, json_line, print_note

# --- Where the last lines of a unit's stdout begin, found without reading all of it

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

BLOCK_BYTES = 64 * 1024
"""Bytes that are read of the end at first; most tails are shorter."""

LARGEST_BLOCK_BYTES = 4 * 1024 * 1024
"""Bytes that are read at once at most, each block being twice the last: few sessions for many
lines, and never much memory."""


def start_of_last_lines(client: "ControlClient", unit_id: str, size: int, count: int) -> int:
    """Return the position where the last ``count`` lines of the first ``size`` bytes begin.

    As for ``tail -n``, bytes after the last newline are a line too. No lines begin at ``size``.

    Raises:
        ControlError: stdout could not be read.
    """
    if count == 0:
        return size
    end, block = size, BLOCK_BYTES
    missing = count
    while end > 0:
        start = max(end - block, 0)
        data = _read(client, unit_id, start, end)
        # A newline at the very end closes the last line and begins none.
        searched = len(data) - 1 if end == size else len(data)
        while (searched := data.rfind(b"\n", 0, searched)) >= 0:
            missing -= 1
            if missing == 0:
                return start + searched + 1
        end, block = start, min(2 * block, LARGEST_BLOCK_BYTES)
    return 0


def _read(client: "ControlClient", unit_id: str, start: int, end: int) -> bytes:
    """Return the bytes from ``start`` to ``end``, fewer if stdout has fewer."""
    data = bytearray()
    with client.results(unit_id, start) as pieces:
        for piece in pieces:
            data += piece
            if len(data) >= end - start:
                break
    return bytes(data[: end - start])


pass  # SELFIMPORT

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient


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
