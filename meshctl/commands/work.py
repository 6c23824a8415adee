"""``meshctl work …``: submit units of work, watch them, end them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from meshctl.api.errors import CommandRefused
from meshctl.commands.adopt import adopt
from meshctl.commands.grammar import StrictGroup
from meshctl.commands.options import (
    ALL,
    Invocation,
    Selection,
    UnitFilter,
    check_one_way,
    filter_options,
    json_option,
    now,
    pass_invocation_at,
    selection_options,
)
from meshctl.commands.results import results
from meshctl.commands.submit import submit
from meshctl.commands.units import find_unit, find_units
from meshctl.commands.wait import show_changes, wait
from meshctl.render.output import (
    ExitCode,
    Failure,
    print_error,
    print_json,
    print_line,
    print_warning,
    stdout_is_terminal,
    terminal_width,
)
from meshctl.render.tables import laid_out, unit_lines, unit_table

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient


remote_option = click.option(
    "--remote", is_flag=True, help="Release adopted units also on the nodes where they are."
)


@click.group(cls=StrictGroup)
def work() -> None:
    """Submit units of work, watch them, end them."""


for command in (submit, adopt, wait, results):
    work.add_command(command)


@work.command("list")
@click.option("--quiet", "-q", is_flag=True, help="Only the unit IDs.")
@click.option("--unit_id", "--unit-id", default="", help="Only this unit.")
@filter_options
@click.option("--table", "as_table", is_flag=True, help="A table also where it is no terminal.")
@json_option
@pass_invocation_at
def list_units(
    invocation: Invocation,
    quiet: bool,
    unit_id: str,
    wanted: UnitFilter,
    as_table: bool,
    as_json: bool,
) -> None:
    """List units of work: a table on a terminal, JSON otherwise."""
    if as_table and (as_json or quiet):
        raise Failure(f"Cannot combine --table with {'--json' if as_json else '--quiet'}.")
    with invocation.client() as client:
        known = client.work_list(unit_id and find_unit(invocation, client, unit_id))
    units = wanted.choose(known, now())
    if quiet and as_json:
        print_json(list(units))
    elif quiet:
        for known_id in units:
            print_line(known_id)
    elif as_table or (stdout_is_terminal() and not as_json):
        for line in laid_out(lambda: unit_table(units, now(), terminal_width())):
            print_line(line)
    else:
        print_json(units)


@work.command("status")
@click.argument("unit_id")
@click.option("--watch", "-w", is_flag=True, help="A line for each change, until the unit's end.")
@json_option
@pass_invocation_at
def unit_status(invocation: Invocation, unit_id: str, watch: bool, as_json: bool) -> None:
    """Show the status of a unit: lines on a terminal, JSON otherwise.

    With --watch the exit code says how the unit ended.
    """
    with invocation.client() as client:
        unit_id = find_unit(invocation, client, unit_id)
        if watch:
            lines = as_json or not stdout_is_terminal()
            show_changes(invocation, client, unit_id, as_json=lines)
            return
        reply = client.work_status(unit_id)
    if as_json or not stdout_is_terminal():
        print_json(reply)
        return
    for line in laid_out(lambda: unit_lines(unit_id, reply)):
        print_line(line)


@work.command()
@click.argument("unit_ids", nargs=-1)
@json_option
@pass_invocation_at
def cancel(invocation: Invocation, unit_ids: tuple[str, ...], as_json: bool) -> None:
    """Stop units of work."""
    _end_units(invocation, "cancel", unit_ids, as_json=as_json)


@work.command()
@click.option("--force", is_flag=True, help="Delete here even if the unit's node is unreachable.")
@remote_option
@selection_options
@click.argument("unit_ids", nargs=-1)
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


@work.command("force-release")
@remote_option
@selection_options
@click.argument("unit_ids", nargs=-1)
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
                    if remote:
                        end = partial(end, remote=True)
                    outcomes[unit_id] = _end_unit(invocation, end, operation, unit_id)
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
        return find_units(invocation, client, chosen)
    unit_ids = chosen.choose(client.work_list(), now())
    if not unit_ids:
        print_warning("No unit matches the selection; nothing to do.")
    return unit_ids


def _end_unit(
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
