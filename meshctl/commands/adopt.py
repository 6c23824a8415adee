"""``meshctl work adopt``: have our node follow a unit that another one has."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.errors import CommandRefused
from meshctl.commands.completion import nodes, units
from meshctl.commands.exits import propagate_option, report_end
from meshctl.commands.options import (
    Invocation,
    json_option,
    pass_invocation,
    tls_client_option,
)
from meshctl.commands.submit import follow_to_end, report_start
from meshctl.commands.units import find_unit
from meshctl.render.output import ExitCode, Failure

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient
    from meshctl.api.submission import Submission

UNKNOWN_COMMAND = "bad command"
"""What a node answers that knows no ``work adopt``, as receptor 1.5 does not."""


@click.command()
@click.argument("unit_id", shell_complete=units())
@click.option("--node", required=True, shell_complete=nodes, help="Node that has the unit.")
@tls_client_option
@click.option("--signwork", is_flag=True, help="Sign what is asked of the other node.")
@click.option("--follow", "-f", is_flag=True, help="Write the results to stdout as they come.")
@click.option("--wait", "waits", is_flag=True, help="Wait for the unit's end.")
@click.option("--rm", is_flag=True, help="Wait for the unit's end, then release it here.")
@propagate_option
@json_option
@pass_invocation
def adopt(
    invocation: Invocation,
    /,
    follow: bool,
    waits: bool,
    rm: bool,
    propagate: bool,
    as_json: bool,
    **which: Any,
) -> None:
    """Have our node follow unit UNIT_ID of another node, whoever submitted it.

    What is printed is the ID of the unit here, which is like one that was submitted here: its
    results come from their first byte, and a cancel is passed on. A release is not, without
    --remote.
    """
    if propagate and not (follow or waits or rm):
        raise Failure("--propagate needs --follow or --wait: only an end has a code.")
    with invocation.client() as client:
        done = _adopt(invocation, client, **which)
        status: Mapping[str, Any] | None
        if follow:
            status = follow_to_end(invocation, client, done, rm=rm, as_json=as_json)
        else:
            status = report_start(invocation, client, done, waits=waits, rm=rm, as_json=as_json)
        if status is not None:
            shown = follow and as_json
            report_end(done.unit_id, status, as_json=shown, propagate=propagate)


def _adopt(
    invocation: Invocation,
    client: "ControlClient",
    *,
    node: str,
    unit_id: str,
    tls_client: str,
    signwork: bool,
) -> "Submission":
    with client.at(node, tls_client) as there:
        unit_id = find_unit(replace(invocation, node=node), there, unit_id)
    try:
        return client.adopt(node, unit_id, tls_client=tls_client, signwork=signwork)
    except CommandRefused as error:
        if str(error) == UNKNOWN_COMMAND:
            text = f"node {client.node_id} cannot adopt units"
            raise Failure(text, ExitCode.REFUSED) from error
        raise
