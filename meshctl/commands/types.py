"""``meshctl work types`` and ``describe``: what work a node does, and what each type takes."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from meshctl.api import JsonObject
from meshctl.api.errors import CommandRefused
from meshctl.commands.completion import nodes, work_types
from meshctl.commands.exits import code_of
from meshctl.commands.hints import as_table, hint, types_of
from meshctl.commands.jobs import BAD_COMMAND
from meshctl.commands.options import (
    Invocation,
    json_option,
    pass_invocation,
    tls_client_option,
)
from meshctl.render.output import ExitCode, Failure, print_json, print_line
from meshctl.render.tables import laid_out

node_option = click.option(
    "--node",
    default="",
    shell_complete=nodes,
    help="Node whose types are meant; default: the local one.",
)


@click.command()
@node_option
@tls_client_option
@json_option
@pass_invocation
def types(invocation: Invocation, node: str, tls_client: str, as_json: bool) -> None:
    """List the types of work of a node, as far as we may submit them."""
    with invocation.client() as client:
        try:
            reply = client.command(_request("types", node=node, tlsclient=tls_client))
        except CommandRefused as error:
            if str(error) != BAD_COMMAND:
                raise Failure(str(error), code_of(error)) from error
            # A receptor node, or an older meshnode: its advertisements have the names at least.
            status = client.status(["NodeID", "Advertisements"])
            told = {
                str(one.get("WorkType", "")): {"VerifySignature": one.get("Secure") is True}
                for one in types_of(status, node)
            }
            reply = {"Node": node or client.node_id, "Types": told, "Advertised": True}
    if as_json:
        print_json(reply)
        return
    for line in laid_out(lambda: _type_lines(reply)):
        print_line(line)


@click.command()
@click.argument("worktype", shell_complete=work_types)
@node_option
@tls_client_option
@json_option
@pass_invocation
def describe(
    invocation: Invocation, worktype: str, node: str, tls_client: str, as_json: bool
) -> None:
    """Show what a type of work takes, and what bounds it."""
    with invocation.client() as client:
        request = _request("describe", worktype=worktype, node=node, tlsclient=tls_client)
        try:
            reply = client.command(request)
        except CommandRefused as error:
            if str(error) == BAD_COMMAND:
                raise Failure(
                    f"node {client.node_id} does not describe its types of work: it is receptor's, "
                    "or an older meshnode",
                    ExitCode.REFUSED,
                ) from error
            instead = hint(client, str(error), node, worktype)
            raise Failure(f"{error}{instead}", code_of(error)) from error
    if as_json:
        print_json(reply)
        return
    for line in laid_out(lambda: _description_lines(reply)):
        print_line(line)


def _request(subcommand: str, **options: str) -> JsonObject:
    given = {key: value for key, value in options.items() if value}
    return {"command": "work", "subcommand": subcommand, **given}


def _type_lines(reply: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each type: its name, what it does, whether it must be signed."""
    told = as_table(reply.get("Types"))
    width = max(map(len, told), default=0)
    for name, one in sorted(told.items()):
        signed = " (must be signed)" if as_table(one).get("VerifySignature") is True else ""
        yield f"{name:<{width}}  {as_table(one).get('Help', '')}{signed}".rstrip()


_FILES = (("Files", "--dep"), ("Scripts", "--script"), ("Output", "--output"))
"""Which options of a submission may name files, by the keys of a description."""


def _description_lines(reply: Mapping[str, Any]) -> Iterator[str]:
    yield f"Type:        {reply['WorkType']} ({reply['Kind']}) of node {reply['Node']}"
    if reply.get("Help"):
        yield f"Does:        {reply['Help']}"
    yield f"Usage:       {reply['Usage']}"
    for one in reply.get("Arguments") or ():
        yield f"Argument:    {_argument(one)}"
    more = (
        ("Parameters:", "clients may add some" if reply.get("RuntimeParams") else ""),
        ("Variables:", ", ".join(reply.get("RuntimeEnv") or ())),
        ("Directories:", ", ".join(reply.get("RuntimeCwd") or ())),
        ("Files:", ", ".join(option for key, option in _FILES if reply.get(key) is True)),
        ("Signature:", "must be signed" if reply.get("VerifySignature") else ""),
        ("Timeout:", _number(reply.get("Timeout"), " s")),
        ("Output:", ", ".join(_output(reply))),
        ("Limits:", _pairs(reply.get("Limits"))),
        ("Isolation:", _pairs(reply.get("Isolation"))),
        ("Grace:", _number(reply.get("Grace"), " s")),
    )
    for label, text in more:
        if text:
            yield f"{label:<12} {text}"


def _argument(one: Mapping[str, Any]) -> str:
    parts = [str(one["Type"])]
    if one.get("Required"):
        parts.append("required")
    if one.get("Default") is not None:
        parts.append(f"default {one['Default']}")
    for key, word in (("Min", "at least"), ("Max", "at most"), ("Pattern", "matches")):
        if one.get(key) is not None:
            parts.append(f"{word} {one[key]}")
    if one.get("Choices"):
        parts.append("one of " + ", ".join(map(str, one["Choices"])))
    about = f"  {one['Help']}" if one.get("Help") else ""
    return f"{one['Name']} ({', '.join(parts)}){about}"


def _output(reply: Mapping[str, Any]) -> Iterator[str]:
    if reply.get("MaxOutput") is not None:
        yield f"at most {reply['MaxOutput']} bytes"
    if reply.get("Stderr") == "separate":
        yield "errors apart"
    if reply.get("Timestamps"):
        yield "with times"


def _pairs(told: object) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(as_table(told).items()))


def _number(value: object, unit: str) -> str:
    return f"{value:g}{unit}" if isinstance(value, int | float) else ""
