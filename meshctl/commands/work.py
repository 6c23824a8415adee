"""``meshctl work …``: submit units of work, watch them, end them."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.errors import CannotReach, CommandRefused, ControlError
from meshctl.commands.follow import deliver, report_end
from meshctl.commands.invocation import Invocation, json_option, pass_invocation
from meshctl.commands.results import results
from meshctl.commands.select import (
    ALL,
    Age,
    Selection,
    UnitFilter,
    check_one_way,
    filter_options,
    now,
)
from meshctl.commands.submit import SubmissionRequest, chosen_payload, collect_params
from meshctl.commands.wait import show_changes, wait, wait_for_end
from meshctl.render.output import (
    ExitCode,
    Failure,
    print_error,
    print_json,
    print_line,
    print_note,
    print_warning,
    sentence,
    stdout_is_terminal,
)
from meshctl.render.tables import unit_lines, unit_table

if TYPE_CHECKING:
    from datetime import timedelta

    from meshctl.api.client import ControlClient, Submission


def selection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose units by what they are."""

    @wraps(command)
    def choose(
        *args: Any, failed: bool, succeeded: bool, older_than: "timedelta | None", **kwargs: Any
    ) -> None:
        named = {"Failed": failed, "Succeeded": succeeded}
        states = frozenset(name for name, wanted in named.items() if wanted)
        return command(*args, selection=Selection(states, older_than), **kwargs)

    for option in reversed(
        (
            click.option("--all", "everything", is_flag=True, help="All units."),
            click.option("--failed", is_flag=True, help="Those that have failed."),
            click.option("--succeeded", is_flag=True, help="Those that have succeeded."),
            click.option(
                "--older-than", type=Age(), help="Those that ended so long ago, e.g. 7d or 12h."
            ),
        )
    ):
        choose = option(choose)
    return choose


tls_client_option = click.option(
    "--tls-client", default="", help="tls-client of our node for the way to --node."
)


@click.group()
def work() -> None:
    """Submit units of work, watch them, end them."""


@work.command("list")
@click.option("--quiet", "-q", is_flag=True, help="Only the unit IDs.")
@click.option("--node", default="", help="Node whose units to list; default: the local one.")
@click.option("--unit_id", "--unit-id", default="", help="Only this unit.")
@tls_client_option
@filter_options
@click.option("--table", "as_table", is_flag=True, help="A table also where it is no terminal.")
@json_option
@pass_invocation
def list_units(
    invocation: Invocation,
    quiet: bool,
    node: str,
    unit_id: str,
    tls_client: str,
    wanted: UnitFilter,
    as_table: bool,
    as_json: bool,
) -> None:
    """List units of work: a table on a terminal, JSON otherwise."""
    if as_table and (as_json or quiet):
        raise Failure(f"Cannot combine --table with {'--json' if as_json else '--quiet'}.")
    with invocation.client() as client:
        known = client.work_list(unit_id, node=node, tls_client=tls_client)
    units = wanted.choose(known, now())
    if quiet and as_json:
        print_json(list(units))
    elif quiet:
        for known_id in units:
            print_line(known_id)
    elif as_table or (stdout_is_terminal() and not as_json):
        for line in unit_table(units, now()):
            print_line(line)
    else:
        print_json(units)


work.add_command(wait)


@work.command("status")
@click.argument("unit_id")
@click.option("--watch", "-w", is_flag=True, help="A line for each change, until the unit's end.")
@json_option
@pass_invocation
def unit_status(invocation: Invocation, unit_id: str, watch: bool, as_json: bool) -> None:
    """Show the status of a unit: lines on a terminal, JSON otherwise.

    With --watch the exit code says how the unit ended.
    """
    with invocation.client() as client:
        if watch:
            lines = as_json or not stdout_is_terminal()
            show_changes(invocation, client, unit_id, as_json=lines)
            return
        reply = client.work_status(unit_id)
    if as_json or not stdout_is_terminal():
        print_json(reply)
        return
    for line in unit_lines(unit_id, reply):
        print_line(line)


@work.command()
@click.argument("worktype")
@click.option("--node", default="", help="Node to run the work; default: the local one.")
@click.option("--payload", "-p", default="", help="File with the unit's stdin; - for ours.")
@click.option("--payload-literal", "-l", default="", help="A line that is the unit's stdin.")
@click.option("--no-payload", "-n", is_flag=True, help="Give the unit an empty stdin.")
@tls_client_option
@click.option("--ttl", default="", help="Time in which remote work must start, e.g. 1h20m30s.")
@click.option("--signwork", is_flag=True, help="Sign the submission.")
@click.option("--follow", "-f", is_flag=True, help="Write the results to stdout as they come.")
@click.option("--wait", "waits", is_flag=True, help="Wait for the unit's end.")
@click.option("--rm", is_flag=True, help="Wait for the unit's end, then release it.")
@click.option(
    "--param",
    "-a",
    "params",
    multiple=True,
    metavar="KEY=VALUE",
    help="A further parameter; @FILE is a file's text, @@ a plain @.",
)
@click.argument("cmdparams", nargs=-1)
@json_option
@pass_invocation
def submit(
    invocation: Invocation,
    /,
    follow: bool,
    waits: bool,
    rm: bool,
    as_json: bool,
    payload: str,
    payload_literal: str,
    no_payload: bool,
    params: tuple[str, ...],
    cmdparams: tuple[str, ...],
    **options: Any,
) -> None:
    """Submit a unit of work of type WORKTYPE, with CMDPARAMS where that type allows them.

    Exactly one of --payload, --payload-literal and --no-payload must be given.
    """
    with invocation.client() as client:
        with chosen_payload(payload, payload_literal, no_payload) as data:
            if rm and not follow:
                print_warning("using --rm without --follow. Unit results will never be seen.")
            all_params = collect_params(params, cmdparams)
            request = SubmissionRequest(params=all_params, payload=data, **options)
            done = _submit(invocation, client, request, rm=rm)
        if follow:
            _follow(invocation, client, done.unit_id, rm=rm, as_json=as_json)
            return
        _report_start(invocation, client, done, waits=waits, rm=rm, as_json=as_json)


def _report_start(
    invocation: Invocation,
    client: "ControlClient",
    done: "Submission",
    *,
    waits: bool,
    rm: bool,
    as_json: bool,
) -> None:
    """Say what became of a submission, and wait for the unit's end where that is wanted.

    With both JSON and waiting wanted, there is one document, at the end.
    """
    unit_id, status = done.unit_id, None
    if not as_json:
        print_line(f"Result: {done.result}")
        print_line(f"Unit ID: {unit_id}")
    if waits or rm:
        status = wait_for_end(invocation, client, unit_id)
    if as_json:
        more = {} if status is None else {"status": status}
        print_json({"unitid": unit_id, "result": done.result, **more})
    elif waits and status is not None:
        print_line(f"({unit_id}, {status.get('StateName', status.get('State'))})")
    if rm:
        outcome = client.release(unit_id)
        (print_note if as_json else print_line)(f"({unit_id}, {outcome})")
    if status is not None:
        report_end(unit_id, status, as_json=False)


def _submit(
    invocation: Invocation, client: "ControlClient", request: SubmissionRequest, *, rm: bool
) -> "Submission":
    """Submit, with receptorctl's exit code for whatever a submission can fail of.

    With ``rm``, a unit that the node has failed for the reason that it gives is released.
    """
    created: list[str] = []
    try:
        return request.send(client, created.append)
    except CannotReach:
        raise
    except KeyboardInterrupt as error:
        text = "interrupted: nothing was submitted"
        if created:
            command = invocation.shell_command("work", "status", created[0])
            text = f"interrupted: unit {created[0]} exists. See what became of it: {command}"
        raise Failure(text, ExitCode.INTERRUPTED) from error
    except ControlError as error:
        text = str(error)
        if isinstance(error, CommandRefused):
            text = f"Failed to start work unit: {error}"
            if rm and created and _is_released(client, created[0]):
                raise Failure(text, ExitCode.SUBMIT_FAILED) from error
        if created:
            text = f"{sentence(text)} See: {invocation.shell_command('work', 'status', created[0])}"
        raise Failure(text, ExitCode.SUBMIT_FAILED) from error


def _is_released(client: "ControlClient", unit_id: str) -> bool:
    """Release a unit that came to nothing; False if it is still there."""
    try:
        return client.release(unit_id) == "released"
    except ControlError as error:
        print_error(f"unit {unit_id} could not be released: {error}")
        return False


def _follow(
    invocation: Invocation, client: "ControlClient", unit_id: str, *, rm: bool, as_json: bool
) -> None:
    """Deliver the results; release only a unit that has ended and was delivered in full."""
    status = deliver(invocation, client, unit_id, removes=rm)
    if rm:
        # Not on stdout, where receptorctl has it: that is for the unit's own bytes.
        print_note(f"({unit_id}, {client.release(unit_id)})")
    report_end(unit_id, status, as_json=as_json)


work.add_command(results)


@work.command()
@click.argument("unit_ids", nargs=-1)
@json_option
@pass_invocation
def cancel(invocation: Invocation, unit_ids: tuple[str, ...], as_json: bool) -> None:
    """Stop units of work."""
    _end_units(invocation, "cancel", unit_ids, as_json=as_json)


@work.command()
@click.option("--force", is_flag=True, help="Delete here even if the unit's node is unreachable.")
@selection_options
@click.argument("unit_ids", nargs=-1)
@json_option
@pass_invocation
def release(
    invocation: Invocation,
    force: bool,
    everything: bool,
    selection: Selection,
    unit_ids: tuple[str, ...],
    as_json: bool,
) -> None:
    """Stop units of work and delete their files.

    --failed, --succeeded and --older-than choose among the units that have ended.
    """
    check_one_way(unit_ids, everything, selection)
    operation = "force_release" if force else "release"
    chosen = selection or (ALL if everything else unit_ids)
    _end_units(invocation, operation, chosen, as_json=as_json)


@work.command("force-release")
@selection_options
@click.argument("unit_ids", nargs=-1)
@json_option
@pass_invocation
def force_release(
    invocation: Invocation,
    everything: bool,
    selection: Selection,
    unit_ids: tuple[str, ...],
    as_json: bool,
) -> None:
    """As release --force."""
    check_one_way(unit_ids, everything, selection)
    chosen = selection or (ALL if everything else unit_ids)
    _end_units(invocation, "force_release", chosen, as_json=as_json)


def _end_units(
    invocation: Invocation,
    operation: str,
    chosen: Sequence[str] | Selection,
    *,
    as_json: bool,
) -> None:
    """Cancel or release each unit; one that fails does not keep the others.

    ``operation`` is the name of the client's method.
    """
    if not chosen:
        print_warning("No unit IDs supplied: Not doing anything")
        return
    if not as_json:
        print_line("Cancelled:" if operation == "cancel" else "Released:")
    outcomes: dict[str, str] = {}
    failed = False
    try:
        with invocation.client() as client:
            for unit_id in _ids(client, chosen):
                try:
                    outcomes[unit_id] = _end_unit(invocation, client, operation, unit_id)
                except CommandRefused as error:
                    print_error(f"{unit_id}: {error}")
                    failed = True
                else:
                    if not as_json:
                        print_line(f"({unit_id}, {outcomes[unit_id]})")
    finally:
        # Also where a break keeps the rest: what was done is done.
        if as_json:
            print_json(outcomes)
    if failed:
        raise Failure("")


def _ids(client: "ControlClient", chosen: Sequence[str] | Selection) -> Sequence[str]:
    if not isinstance(chosen, Selection):
        return chosen
    unit_ids = chosen.choose(client.work_list(), now())
    if not unit_ids:
        print_warning("No unit is so: Not doing anything")
    return unit_ids


def _end_unit(invocation: Invocation, client: "ControlClient", operation: str, unit_id: str) -> str:
    """Cancel or release one unit; Ctrl-C ends only our waiting for it, and says so."""
    try:
        return str(getattr(client, operation)(unit_id))
    except KeyboardInterrupt as error:
        doing = "cancelling" if operation == "cancel" else "releasing"
        command = invocation.shell_command("work", "status", unit_id)
        raise Failure(
            f"interrupted: the node goes on {doing} unit {unit_id}. See: {command}",
            ExitCode.INTERRUPTED,
        ) from error
