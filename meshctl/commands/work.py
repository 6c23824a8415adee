"""``meshctl work …``: submit units of work, watch them, end them."""

import click

from meshctl.api.listing import first_page
from meshctl.commands.completion import units
from meshctl.commands.grammar import Commands, StrictGroup
from meshctl.commands.options import (
    Invocation,
    UnitFilter,
    filter_options,
    json_option,
    now,
    pass_invocation_at,
)
from meshctl.commands.units import find_unit
from meshctl.render.output import (
    Failure,
    print_json,
    print_line,
    stdout_is_terminal,
    terminal_width,
)

ELSEWHERE = {
    "submit": "meshctl.commands.submit:submit",
    "submit-batch": "meshctl.commands.arrays:submit_batch",
    "batch": "meshctl.commands.batch:batch",
    "types": "meshctl.commands.types:types",
    "describe": "meshctl.commands.types:describe",
    "adopt": "meshctl.commands.adopt:adopt",
    "wait": "meshctl.commands.wait:wait",
    "results": "meshctl.commands.results:results",
    "fetch": "meshctl.commands.fetch:fetch",
    "logs": "meshctl.commands.logs:logs",
    "stop": "meshctl.commands.stop:stop",
    "cancel": "meshctl.commands.ending:cancel",
    "release": "meshctl.commands.ending:release",
    "force-release": "meshctl.commands.ending:force_release",
}
"""The commands that have a module of their own: it is loaded when one of them is needed."""


@click.group(cls=StrictGroup, commands=Commands(ELSEWHERE))
def work() -> None:
    """Submit units of work, watch them, end them."""


@work.command("list")
@click.option("--quiet", "-q", is_flag=True, help="Only the unit IDs.")
@click.option("--unit_id", "--unit-id", default="", shell_complete=units(), help="Only this unit.")
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
    at = now()
    with invocation.client() as client:
        if wanted and not unit_id:
            known = first_page(client, wanted.query(at)).units
        else:
            known = client.work_list(unit_id and find_unit(invocation, client, unit_id))
    units = wanted.choose(known, at)
    if quiet and as_json:
        print_json(list(units))
    elif quiet:
        for known_id in units:
            print_line(known_id)
    elif as_table or (stdout_is_terminal() and not as_json):
        from meshctl.render.tables import laid_out, unit_table  # noqa: PLC0415 - rarely needed

        for line in laid_out(lambda: unit_table(units, now(), terminal_width())):
            print_line(line)
    else:
        print_json(units)


@work.command("status")
@click.argument("unit_id", shell_complete=units())
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
            from meshctl.commands.wait import show_changes  # noqa: PLC0415 - rarely needed

            lines = as_json or not stdout_is_terminal()
            show_changes(invocation, client, unit_id, as_json=lines)
            return
        reply = client.work_status(unit_id)
    if as_json or not stdout_is_terminal():
        print_json(reply)
        return
    from meshctl.render.tables import laid_out, unit_lines  # noqa: PLC0415 - rarely needed

    for line in laid_out(lambda: unit_lines(unit_id, reply, now())):
        print_line(line)
