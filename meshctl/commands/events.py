"""``meshctl events``: what changes at a node, live; a line each."""

from contextlib import closing

import click

from meshctl.api.errors import CommandRefused
from meshctl.api.events import TOPICS, NodeEvents
from meshctl.commands.completion import Values, offered
from meshctl.commands.following import tell_away
from meshctl.commands.options import Invocation, WholeNumber, pass_invocation_at
from meshctl.render.events import event_line
from meshctl.render.output import ExitCode, Failure, json_line, print_line, sentence

_UNKNOWN = "unknown command"
"""How a node refuses a command that it does not have."""


def _topics(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return the topics of a text with commas. Fails as click's types do."""
    topics = tuple(value.split(",")) if value else ()
    for topic in topics:
        if topic not in TOPICS:
            raise click.BadParameter(f"{topic!r} is none of {', '.join(TOPICS)}.", ctx, param)
    return topics


def _next_topic(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete the last one of several topics."""
    before = "".join(incomplete.rpartition(",")[:2])
    return offered(((f"{before}{topic}", "") for topic in TOPICS), incomplete)


@click.command(short_help="Watch what changes at a node, a line each.")
@click.option(
    "--topics",
    callback=_topics,
    shell_complete=_next_topic,
    help=f"Some of {', '.join(TOPICS)}; default: all.",
)
@click.option(
    "--since", type=WholeNumber(0), metavar="SEQ", help="Go on after the event of this number."
)
@click.option("--json", "as_json", is_flag=True, help="Each event as a JSON object.")
@pass_invocation_at
def events(
    invocation: Invocation, topics: tuple[str, ...], since: int | None, as_json: bool
) -> None:
    """Watch what changes at a node, a line each: units, links, routes, services.

    It goes on until Ctrl-C. A node that goes away has 30 s to come back.
    """
    with invocation.client() as client:
        told = NodeEvents(client.take, topics, since, tell_away)
        with closing(told.events()) as stream:
            try:
                for event in stream:
                    line = json_line(event) if as_json else event_line(event)
                    if line:
                        print_line(line)
            except CommandRefused as error:
                raise _refused(str(error)) from error
            except KeyboardInterrupt as error:
                raise Failure("", ExitCode.INTERRUPTED) from error


def _refused(reason: str) -> Failure:
    if _UNKNOWN in reason.lower():
        text = f"{sentence(reason)} The node is receptor's, or an older meshnode."
        return Failure(text, ExitCode.REFUSED)
    return Failure(reason, ExitCode.REFUSED)
