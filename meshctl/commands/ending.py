"""``meshctl work cancel``, ``release`` and ``force-release``: end units, and delete their files."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from meshctl.api.batch import end_batch, is_batch
from meshctl.api.errors import CommandRefused
from meshctl.api.listing import first_page
from meshctl.api.status import ENDED
from meshctl.commands.completion import UNDER_WAY, units
from meshctl.commands.options import (
    ALL,
    Invocation,
    Selection,
    check_one_way,
    json_option,
    now,
    pass_invocation_at,
    selection_options,
)
from meshctl.commands.units import find_units
from meshctl.render.output import (
    ExitCode,
    Failure,
    print_error,
    print_json,
    print_line,
    print_warning,
)

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient


remote_option = click.option(
    "--remote", is_flag=True, help="Release adopted units also on the nodes where they are."
)


@click.command()
@click.argument("unit_ids", nargs=-1, shell_complete=units(only=UNDER_WAY))
@json_option
@pass_invocation_at
def cancel(invocation: Invocation, unit_ids: tuple[str, ...], as_json: bool) -> None:
    """Stop units of work."""
    _end_units(invocation, "cancel", unit_ids, as_json=as_json)


@click.command()
@click.option("--force", is_flag=True, help="Delete here even if the unit's node is unreachable.")
@remote_option
@selection_options
@click.argument("unit_ids", nargs=-1, shell_complete=units(first=ENDED))
@json_option
@pass_invocation_at
def release(
    invocation: Invocation,
    force: bool,
    remote: bool,
    everything: bool,
    selection: Selection,
    unit_ids: tuple[str, ...],
    as_json: bool,
) -> None:
    """Stop units of work and delete their files.

    --failed, --succeeded, --older-than and --label choose among the units that have ended.
    """
    check_one_way(unit_ids, everything, selection)
    operation = "force_release" if force else "release"
    chosen = selection or (ALL if everything else unit_ids)
    _end_units(invocation, operation, chosen, remote=remote, as_json=as_json)


@click.command("force-release")
@remote_option
@selection_options
@click.argument("unit_ids", nargs=-1, shell_complete=units(first=ENDED))
@json_option
@pass_invocation_at
def force_release(
    invocation: Invocation,
    remote: bool,
    everything: bool,
    selection: Selection,
    unit_ids: tuple[str, ...],
    as_json: bool,
) -> None:
    """As release --force."""
    check_one_way(unit_ids, everything, selection)
    chosen = selection or (ALL if everything else unit_ids)
    _end_units(invocation, "force_release", chosen, remote=remote, as_json=as_json)


def _end_units(
    invocation: Invocation,
    operation: str,
    chosen: Sequence[str] | Selection,
    *,
    remote: bool = False,
    as_json: bool,
) -> None:
    """Cancel or release each unit; one that fails does not keep the others.

    ``operation`` is the name of the client's method, ``remote`` whether adopted units are released
    on their nodes as well.
    """
    if not chosen:
        print_warning("No unit ID is given; nothing to do.")
        return
    heading = "Cancelled:" if operation == "cancel" else "Released:"
    outcomes: dict[str, str] = {}
    failed = False
    try:
        with invocation.client() as client:
            for unit_id in _ids(invocation, client, chosen):
                try:
                    end = getattr(client, operation)
                    if is_batch(unit_id):
                        action = "cancel" if operation == "cancel" else "release"
                        end = partial(end_batch, client, action)
                    elif remote:
                        end = partial(end, remote=True)
                    outcomes[unit_id] = end_unit(invocation, end, operation, unit_id)
                except CommandRefused as error:
                    text = str(error)
                    print_error(text if unit_id in text else f"{unit_id}: {text}")
                    failed = True
                else:
                    if not as_json:
                        if len(outcomes) == 1:
                            print_line(heading)
                        print_line(f"({unit_id}, {outcomes[unit_id]})")
    finally:
        # Also where a break keeps the rest: what was done is done.
        if as_json:
            print_json(outcomes)
    if failed:
        raise Failure("", ExitCode.REFUSED)


def _ids(
    invocation: Invocation, client: "ControlClient", chosen: Sequence[str] | Selection
) -> Sequence[str]:
    if not isinstance(chosen, Selection):
        return find_units(invocation, client, chosen, takes_batches=True)
    unit_ids = chosen.choose(first_page(client, chosen.query()).units, now())
    if not unit_ids:
        print_warning("No unit matches the selection; nothing to do.")
    return unit_ids


def end_unit(
    invocation: Invocation, end: Callable[[str], str], operation: str, unit_id: str
) -> str:
    """Cancel or release one unit; Ctrl-C ends only our waiting for it, and says so."""
    try:
        return end(unit_id)
    except KeyboardInterrupt as error:
        doing = "cancelling" if operation == "cancel" else "releasing"
        command = invocation.shell_command("work", "status", unit_id)
        raise Failure(
            f"interrupted: the node goes on {doing} unit {unit_id}. See: {command}",
            ExitCode.INTERRUPTED,
        ) from error
