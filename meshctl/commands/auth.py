"""``meshctl auth can``: whether something may be done, asked without doing it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.errors import CommandRefused
from meshctl.commands.completion import nodes, parameters, services_of, units, work_types
from meshctl.commands.grammar import StrictGroup
from meshctl.commands.options import Invocation, json_option, pass_invocation, tls_client_option
from meshctl.commands.params import KNOWN, collect_params
from meshctl.commands.units import find_unit
from meshctl.render.output import ExitCode, Failure, print_json, print_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from meshctl.api.client import ControlClient

ON_UNITS = ("results", "list", "status", "cancel", "release")
"""Verbs about units of the node that is asked."""

OPERANDS: Mapping[str, Sequence[str]] = {
    "submit": ("worktype",),
    **dict.fromkeys(ON_UNITS, ("unitid",)),
    "adopt": ("unitid",),
    "connect": ("node", "service"),
    "ping": ("node",),
    "reload": (),
    "mesh-status": (),
}
"""What the words after each verb are."""

UNKNOWN_COMMAND = "Unknown command"
"""What a node answers that knows no such question, as receptor."""


def _operands(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Complete what the verb is asked of; the words before are in WHAT."""
    before: Sequence[str] = context.params.get("what") or ()
    names: Sequence[str] = OPERANDS.get(str(context.params.get("verb")), ())
    match "".join(names[len(before) :][:1]):
        case "worktype":
            return work_types(context, parameter, incomplete)
        case "unitid":
            return units()(context, parameter, incomplete)
        case "node":
            return nodes(context, parameter, incomplete)
        case "service":
            return services_of(context, before[0], incomplete)
        case _:
            return []


@click.group(cls=StrictGroup)
def auth() -> None:
    """Ask what you may do."""


@auth.command()
@click.argument("verb", type=click.Choice(tuple(OPERANDS)), metavar="VERB")
@click.argument("what", nargs=-1, shell_complete=_operands)
@click.option(
    "--node",
    default="",
    shell_complete=nodes,
    help="Of submit and adopt: where the work is. Else: the node to ask.",
)
@tls_client_option
@click.option("--signwork", is_flag=True, help="Of submit and adopt: sign what goes to --node.")
@click.option(
    "--param",
    "-a",
    "params",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=parameters(KNOWN),
    help="Of submit: a further parameter; @FILE is a file's text, @@ a plain @.",
)
@json_option
@pass_invocation
def can(
    invocation: Invocation, /, verb: str, what: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Say whether you may do VERB, without doing it: 0 is yes, 1 is no.

    \b
    VERB and what it is asked of:
      submit TYPE [CMDPARAMS]...
      results, list, status, cancel, release [UNIT_ID]
      adopt UNIT_ID --node NODE
      connect NODE SERVICE
      ping NODE
      reload, mesh-status

    Of work for another node, that node is asked as well. If it does not say, the exit code is 102.
    """
    names = OPERANDS[verb]
    given = dict(zip(names, what, strict=False))
    words = what[len(names) :]
    if words and verb != "submit":
        raise Failure(f"auth can {verb} takes {' '.join(names) or 'nothing'}.")
    if verb not in ON_UNITS and len(given) < len(names):
        raise Failure(f"auth can {verb} needs {' '.join(names)}.")
    reply = _ask(invocation, verb, given, words, **options)
    if as_json:
        print_json(reply)
    _end(reply, as_json=as_json)


def _ask(
    invocation: Invocation,
    verb: str,
    given: dict[str, str],
    words: Sequence[str],
    *,
    node: str,
    tls_client: str,
    signwork: bool,
    params: Sequence[str],
) -> Mapping[str, Any]:
    goes_on = verb in {"submit", "adopt"}
    if not goes_on:
        if signwork or params:
            raise Failure("--signwork and --param are of submit and adopt.")
        invocation = replace(invocation, node=node, node_tls_client=tls_client)
    elif verb == "adopt" and not node:
        raise Failure("auth can adopt needs --node: the node that has the unit.")
    else:
        way = {"node": node, "tlsclient": tls_client, "signwork": "true" if signwork else ""}
        given |= {key: value for key, value in way.items() if value}
    with invocation.client() as client:
        if verb in ON_UNITS and "unitid" in given:
            given["unitid"] = find_unit(invocation, client, given["unitid"])
        from meshctl.api.requests import may_request  # noqa: PLC0415 - loads json

        request = may_request(verb, given, collect_params(params, words))
        return _reply(client, request)


def _reply(client: "ControlClient", request: Mapping[str, object]) -> Mapping[str, Any]:
    try:
        return client.command(request)
    except CommandRefused as error:
        if str(error) == UNKNOWN_COMMAND:
            text = f"node {client.node_id} has no access rules, and does not say what you may do"
            raise Failure(text, ExitCode.REFUSED) from error
        raise


def _end(reply: Mapping[str, Any], *, as_json: bool) -> None:
    allowed, reason = reply.get("Allowed"), str(reply.get("Reason", ""))
    because = f": {reason}" if reason else ""
    if allowed is True:
        answer, code = "yes", ExitCode.OK
    elif allowed is False:
        answer, code = f"no{because}", ExitCode.FAILURE
    else:
        answer, code = f"unknown{because}", ExitCode.UNREACHABLE
    if not as_json:
        print_line(answer)
    if code:
        # The answer is what was asked for: nothing of it is an error.
        raise Failure("", code)
