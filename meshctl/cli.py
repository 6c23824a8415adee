"""The ``meshctl`` command: receptorctl's grammar, so that scripts need only a new name."""

import os
import sys
import time
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.errors import CommandRefused
from meshctl.commands.completion import completion, files, nodes, services, tls_clients
from meshctl.commands.grammar import Commands
from meshctl.commands.hints import hint
from meshctl.commands.options import Invocation, json_option, pass_invocation
from meshctl.commands.toplevel import MeshctlGroup, value_or_command
from meshctl.render.output import (
    ExitCode,
    Failure,
    help_epilog,
    json_line,
    print_error,
    print_json,
    print_line,
    print_page,
    stdout_is_terminal,
    terminal_width,
    wants_colour,
)
from meshctl.version import VERSION

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient
    from meshctl.api.connection import ControlStream

COMPLETE = "_MESHCTL_COMPLETE"
"""The variable by which a shell asks for completions (shells.py)."""

MAX_DELAY = 86400.0
"""Seconds between two pings at most: a day. Longer is a mistake, or more than sleep can take."""


ELSEWHERE = {
    "work": "meshctl.commands.work:work",
    "auth": "meshctl.commands.auth:auth",
    "events": "meshctl.commands.events:events",
    "top": "meshctl.commands.top:top",
}
"""Commands, and groups of them, with modules of their own: each is loaded when it is needed."""


def _env(name: str) -> dict[str, Any]:
    """An option's environment variables: our own name, then receptorctl's."""
    return {"envvar": [f"MESHCTL_{name}", f"RECEPTORCTL_{name}"], "show_envvar": True}


@click.group(
    "meshctl",
    cls=MeshctlGroup,
    commands=Commands(ELSEWHERE),
    epilog=help_epilog(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, message="meshctl %(version)s")
@click.option(
    "--socket",
    default="",
    shell_complete=files,
    help="Control socket: a path, unix:PATH, tcp://HOST:PORT, tls://HOST:PORT or https://HOST.",
    **_env("SOCKET"),
)
@click.option(
    "--config",
    "-c",
    default="",
    shell_complete=files,
    help="A node's configuration file that has the --tls-client.",
    **_env("CONFIG"),
)
@click.option(
    "--tls-client",
    default="",
    shell_complete=tls_clients,
    help="Name of the tls-client in --config.",
    **_env("TLSCLIENT"),
)
@click.option(
    "--rootcas",
    default="",
    shell_complete=files,
    help="File of CA certificates instead of the system's.",
)
@click.option("--key", default="", shell_complete=files, help="File of the client's private key.")
@click.option("--cert", default="", shell_complete=files, help="File of the client's certificate.")
@click.option(
    "--token-file",
    default="",
    shell_complete=files,
    help="File with the token that an https:// address is shown.",
    envvar=["MESHCTL_TOKEN_FILE"],
    show_envvar=True,
)
@click.option(
    "--insecureskipverify",
    type=bool,
    default=False,
    shell_complete=value_or_command,
    help="Accept any server certificate; may stand without a value.",
)
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:
    """Ask a meshnode or receptor node for its state, and have it work.

    Each command but top takes --json for output that programs read.
    """
    ctx.obj = Invocation(**options)


@cli.command()
@click.option(
    "--graph", is_flag=True, help="Only the mesh, as a tree: which node is reached through which."
)
@json_option
@pass_invocation
def status(invocation: Invocation, graph: bool, as_json: bool) -> None:
    """Show the node, its connections, routes, services and work types."""
    with invocation.client() as client:
        reply = client.status()
    if as_json:
        print_json(reply)
        return
    # What draws tables is loaded for those who see them.
    from meshctl.render.columns import Terminal  # noqa: PLC0415
    from meshctl.render.graph import graph_lines  # noqa: PLC0415
    from meshctl.render.status import status_lines, status_page  # noqa: PLC0415
    from meshctl.render.tables import laid_out  # noqa: PLC0415

    if stdout_is_terminal():
        terminal = Terminal(terminal_width(), wants_colour(sys.stdout))
        drawn = graph_lines if graph else status_page
        print_page(laid_out(lambda: drawn(reply, terminal)))
        return
    for line in laid_out(lambda: graph_lines(reply, Terminal()) if graph else status_lines(reply)):
        print_line(line)


def _count(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """Check a count of pings: none at all would look like none that failed."""
    if value < 1:
        raise click.BadParameter(f"{value} is not in the range x>=1.", ctx, param)
    return value


def _delay(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Check a delay. click's own range lets "nan" pass."""
    if not 0 <= value <= MAX_DELAY:
        raise click.BadParameter(f"{value} is not in the range 0<=x<={MAX_DELAY:.0f}.", ctx, param)
    return value


@cli.command()
@click.argument("node", shell_complete=nodes)
@click.option(
    "--count",
    default=4,
    callback=_count,
    show_default=True,
    help="How many pings to send.",
)
@click.option(
    "--delay", default=1.0, show_default=True, callback=_delay, help="Seconds between them."
)
@json_option
@pass_invocation
def ping(invocation: Invocation, node: str, count: int, delay: float, as_json: bool) -> None:
    """Ping a node. With --json: one reply a line."""
    failed, instead = False, ""
    with invocation.client() as client:
        for number in range(count):
            if number:
                time.sleep(delay)
            reply = client.ping(node)
            failed |= not reply.get("Success")
            if as_json:
                print_line(json_line(reply))
            elif reply.get("Success"):
                print_line(f"Reply from {reply.get('From')} in {reply.get('TimeStr')}")
            else:
                text = _hop_error(reply)
                instead = instead or hint(client, text, node, "")
                whose = "" if f"node {node}" in text else f"node {node}: "
                print_error(f"{whose}{text}{instead}")
    if failed:
        raise Failure("", ExitCode.PING_FAILED)


@cli.command()
@click.argument("node", shell_complete=nodes)
@json_option
@pass_invocation
def traceroute(invocation: Invocation, node: str, as_json: bool) -> None:
    """Show the nodes on the way to a node."""
    with invocation.client() as client:
        hops = client.traceroute(node)
        failed = "" if as_json or not hops else str(hops[-1].get("Error", ""))
        instead = hint(client, failed, node, "") if failed else ""
    if as_json:
        print_json({str(number): hop for number, hop in enumerate(hops)})
        return
    for number, hop in enumerate(hops):
        if "Error" in hop:
            print_error(f"{number}: Error {_hop_error(hop)}{instead}")
        else:
            print_line(f"{number}: {hop.get('From')} in {hop.get('TimeStr')}")


def _hop_error(reply: dict[str, Any]) -> str:
    text = str(reply.get("Error", "no reason given"))
    if "From" in reply and "TimeStr" in reply:
        text += f" from {reply['From']} in {reply['TimeStr']}"
    return text


def _stream(client: "ControlClient", node: str, service: str, tls_client: str) -> "ControlStream":
    try:
        return client.connect_stream(node, service, tls_client)
    except CommandRefused as error:
        reason = str(error)
        # A meshnode names what it speaks of, a receptor node nothing.
        whose = "" if f"node {node}" in reason else f" of node {node}"
        what = "" if f"service {service}" in reason else f" to service {service}{whose}"
        instead = hint(client, reason, node, service)
        raise Failure(f"cannot connect{what}: {reason}{instead}", ExitCode.REFUSED) from error


@cli.command()
@click.argument("node", shell_complete=nodes)
@click.argument("service", shell_complete=services)
@click.option("--raw", "-r", is_flag=True, help="Put the terminal into raw mode.")
@click.option("--tls-client", default="", help="tls-client of our node for the way to NODE.")
@click.option("--json", "as_json", is_flag=True, help="No effect: a stream is raw bytes.")
@pass_invocation
def connect(
    invocation: Invocation, node: str, service: str, raw: bool, tls_client: str, as_json: bool
) -> None:
    """Connect standard input and output to a service on a node.

    Fit for pipes: ssh -o ProxyCommand="meshctl connect NODE SERVICE" HOST
    """
    del as_json
    # Terminals, threads and sockets: only this command pays for them.
    from meshctl.commands.bridge import (  # noqa: PLC0415
        BridgeError,
        bridge,
        raw_terminal,
        stdin_descriptor,
    )

    stdin = stdin_descriptor()
    with invocation.client() as client, _stream(client, node, service, tls_client) as stream:
        try:
            with raw_terminal(stdin, raw=raw):
                bridge(stream, stdin, sys.stdout.fileno())
        except BridgeError as error:
            raise Failure(str(error), ExitCode.LOCAL_IO) from error


@cli.command()
@json_option
@pass_invocation
def reload(invocation: Invocation, as_json: bool) -> None:
    """Have the node read its configuration again."""
    with invocation.client() as client:
        reply = client.reload()
    if as_json:
        print_json(reply)
    elif reply.get("Success"):
        print_line("Reload successful")
    if reply.get("Success"):
        return
    text = str(reply.get("Error", "no reason given"))
    raise Failure("" if as_json else text, _reload_exit(reply.get("ErrorCode"), text))


def _reload_exit(code: object, text: str) -> ExitCode:
    """What a refused reload means; a receptor node has the number only in its text."""
    for exit_code in (ExitCode.RELOAD_NEEDS_RESTART, ExitCode.RELOAD_UNPARSABLE):
        if code == exit_code or (code is None and f"ERRORCODE {exit_code:d}" in text):
            return exit_code
    return ExitCode.RELOAD_FAILED


@cli.command()
@json_option
@pass_invocation
def version(invocation: Invocation, as_json: bool) -> None:
    """Show the versions of meshctl and of the node."""
    if not as_json:
        print_line(f"meshctl  {VERSION}")
    with invocation.client() as client:
        node = client.status(["Version"]).get("Version", "unknown")
    if as_json:
        print_json({"meshctl": VERSION, "node": node})
    else:
        print_line(f"node     {node}")


cli.add_command(completion)


def main() -> None:
    """Entry point of the ``meshctl`` script."""
    if instruction := os.environ.get(COMPLETE):
        from meshctl.shells import answer, of_click  # noqa: PLC0415 - only a shell at TAB needs it

        sys.exit(answer(instruction, "meshctl", of_click(cli, "meshctl")))
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal without "µ" gets "\xb5": a name or a duration is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    cli.main()
