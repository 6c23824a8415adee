"""``meshctl top``: work and mesh of a node on a terminal, live."""

import click

from meshctl.commands.options import Invocation, pass_invocation_at
from meshctl.render.output import ExitCode, Failure, stdin_is_terminal, stdout_is_terminal

SHORTEST, LONGEST = 0.2, 3600.0
"""Seconds between two readings."""


@click.command()
@click.option(
    "--interval",
    "-i",
    type=click.FloatRange(SHORTEST, LONGEST),
    default=2.0,
    show_default=True,
    help="Seconds between two readings of the node.",
)
@pass_invocation_at
def top(invocation: Invocation, interval: float) -> None:
    """Watch the units, nodes and links of a node, live.

    Enter shows the output of a unit as it comes, c cancels one, / finds, q leaves.
    Needs the extra: pip install 'meshnode[top]'.
    """
    try:
        from meshctl.top.app import Top  # noqa: PLC0415 - most commands need none of it
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("textual", "rich"):
            raise
        text = f"top needs {error.name}: pip install 'meshnode[top]'"
        raise Failure(text, ExitCode.LOCAL_IO) from error
    with invocation.client() as client:
        client.connect()
    if not (stdout_is_terminal() and stdin_is_terminal()):
        raise Failure("top needs a terminal; for programs there is: meshctl status --json")
    Top(invocation.client, interval).run()
