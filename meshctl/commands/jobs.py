"""What is given to a typed job: ``--arg``, ``--env``, ``--cwd``, and ``--limit NAME=VALUE``.

The node that runs the work checks all of it. meshctl asks for the description of the type first, so
that a mistake is told before anything is made; and a node that knows no descriptions would not know
what is given either, and would run the work without it.
"""

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshctl.api import PLACEMENTS
from meshctl.api.errors import CommandRefused
from meshctl.commands.completion import job_arguments, variables
from meshctl.commands.files import check_files
from meshctl.render.output import Failure

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient
    from meshctl.api.submission import JobSettings

Command = TypeVar("Command", bound=Callable[..., Any])

USAGE = "; usage: "
"""Stands in a refusal before how a submission is written."""

BAD_COMMAND = "bad command"
"""What receptor, and an older meshnode, says to a command that it does not know."""

DESCRIBES_NOT = "does not describe its types of work"
"""What a meshnode says of another node that does not."""

PLACES = ("{index}", "{line}")
"""What stands in the arguments of a batch for what each member has there."""

TRUTHS = frozenset({"true", "yes", "on", "1", "t", "y", "false", "no", "off", "0", "f", "n"})
"""Words for true and false."""


def _named(option: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise click.BadParameter(f"{text!r}: write NAME=VALUE")
    return name, value


def _arguments(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> Mapping[str, str]:
    return _once([_named("--arg", text) for text in texts])


def _variables(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> Mapping[str, str]:
    return _once([_variable(text) for text in texts])


def _limits(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> Mapping[str, str]:
    return _once([_named("--limit", text) for text in texts])


def _variable(text: str) -> tuple[str, str]:
    if "=" in text:
        return _named("--env", text)
    value = os.environ.get(text)
    if value is None:
        raise click.BadParameter(f"{text!r} is not set here; write {text}=VALUE")
    return text, value


def _once(given: list[tuple[str, str]]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, value in given:
        if found.setdefault(name, value) != value:
            raise click.BadParameter(f"{name} is given twice, with different values")
    return found


def job_options(command: Command) -> Callable[..., None]:
    """Add the options; the command gets a ``job`` of settings."""

    @wraps(command)
    def with_job(
        *args: Any,
        arguments: Mapping[str, str],
        variables: Mapping[str, str],
        cwd: str,
        limits: Mapping[str, str],
        **kwargs: Any,
    ) -> None:
        from meshctl.api.submission import JobSettings  # noqa: PLC0415 - help needs none of it

        command(*args, job=JobSettings(arguments, variables, cwd, limits=limits), **kwargs)

    texts: dict[str, Any] = {"multiple": True}
    for option in (
        click.option(
            *("--limit", "limits"),
            metavar="NAME=VALUE",
            callback=_limits,
            help="A lower limit than its type has, e.g. memory=64MiB.",
            **texts,
        ),
        click.option("--cwd", default="", metavar="DIR", help="Directory to start in there."),
        click.option(
            *("--env", "variables"),
            metavar="NAME[=VALUE]",
            callback=_variables,
            shell_complete=variables,
            help="A variable of its environment; NAME alone takes ours.",
            **texts,
        ),
        click.option(
            *("--arg", "arguments"),
            metavar="NAME=VALUE",
            callback=_arguments,
            shell_complete=job_arguments,
            help="An argument of the type: see meshctl work describe.",
            **texts,
        ),
    ):
        with_job = option(with_job)
    return with_job


def check_job(
    client: "ControlClient",
    worktype: str,
    node: str,
    tls_client: str,
    job: "JobSettings",
    *,
    of_members: bool = False,
) -> None:
    """Return if a type takes what is given, or if only the submission will tell.

    ``of_members`` is whether it is what the members of a batch have in common.

    Raises:
        Failure: it does not; nothing was submitted.
    """
    if not job.is_typed or node in PLACEMENTS:
        return
    options = {"worktype": worktype, "node": node, "tlsclient": tls_client}
    try:
        described = client.command(
            {"command": "work", "subcommand": "describe"}
            | {key: value for key, value in options.items() if value}
        )
    except CommandRefused as error:
        if str(error) == BAD_COMMAND:
            raise Failure(
                f"node {client.node_id} takes no --arg, --env, --cwd, --dep or --output: it is "
                "receptor's, or an older meshnode"
            ) from error
        if DESCRIBES_NOT in str(error):
            raise Failure(f"{error}; it takes no --arg, --env, --cwd, --dep or --output") from error
        return  # it is away, or tells us nothing: the submission has its own answer
    if job.limits and not described.get("Limits"):
        raise Failure(f"work type {worktype} has no limits that could be lowered")
    check_files(worktype, job, described)
    if wrong := wrong_arguments(described, job.arguments, of_members=of_members):
        raise Failure(f"{wrong}{USAGE}{described.get('Usage', 'unknown')}")


def check_chain(client: "ControlClient", job: "JobSettings") -> None:
    """Return if the node has units wait for others, where that is asked for.

    Raises:
        Failure: it would start them at once; nothing was submitted.
    """
    if not job.after:
        return
    try:
        client.command({"command": "work", "subcommand": "types"})
    except CommandRefused as error:
        if str(error) == BAD_COMMAND:
            raise Failure(
                f"node {client.node_id} takes no --after: it is receptor's, or an older meshnode"
            ) from error


def wrong_arguments(
    described: Mapping[str, Any], given: Mapping[str, str], *, of_members: bool = False
) -> str:
    """Return what is wrong with the arguments that are given, empty if nothing is seen to be.

    Where they are ``of_members`` of a batch, only the node knows what ``{index}`` stands for.
    """
    told = described.get("Arguments")
    listed = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    known = {str(one.get("Name")): one for one in listed}
    for name, value in given.items():
        if name not in known:
            return f"there is no argument {name}{_instead(name, known)}"
        if of_members and any(place in value for place in PLACES):
            continue
        if wrong := _wrong_value(known[name], value):
            return f"argument {name}: {wrong}"
    for name, one in known.items():
        if one.get("Required") is True and name not in given:
            return f"argument {name} is missing"
    return ""


def _instead(name: str, known: Mapping[str, Any]) -> str:
    import difflib  # noqa: PLC0415 - only for what was mistyped

    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _wrong_value(one: Mapping[str, Any], value: str) -> str:
    kind, choices = one.get("Type"), one.get("Choices")
    if kind == "choice" and isinstance(choices, list) and value not in choices:
        return f"{value!r} is not one of {', '.join(map(str, choices))}"
    if kind == "bool" and value.lower() not in TRUTHS:
        return f"{value!r} is neither true nor false"
    if kind not in {"int", "float"}:
        return ""
    try:
        number = int(value) if kind == "int" else float(value)
    except ValueError:
        return f"{value!r} is not a {'whole ' if kind == 'int' else ''}number"
    least, most = one.get("Min"), one.get("Max")
    if isinstance(least, int | float) and number < least:
        return f"{value} is less than {least}"
    if isinstance(most, int | float) and number > most:
        return f"{value} is more than {most}"
    return ""
