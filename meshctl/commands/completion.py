"""Completion at TAB: what an option or an argument can be, as the node knows it.

A node that is not there, or not in time, is no reason to hold up a person who types: nothing is
offered then, and nothing said. click calls the functions here with the command line as far as it
is typed (``shell_complete=``); how shells ask is shells.py's.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from meshctl.api import PLACEMENTS
from meshctl.api.errors import ControlError
from meshctl.api.status import ENDED, STATES, newest_first, remote_part, state_name, work_type
from meshctl.commands.hints import advertisements, as_table, types_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from meshctl.api.client import ControlClient

ANSWER_WITHIN = 0.18
"""Seconds that a node has for its answer, from the first try to reach it. Python and meshctl take a
tenth of a second to start; more than 0.3 s in all, and who types waits."""

PATIENCE_VARIABLE = "MESHCTL_COMPLETION_SECONDS"
"""The variable that gives another time, for a node that is far."""

MOST_PATIENCE = 60.0
"""Seconds that can be given at most: what is longer is a mistake, since the shell waits."""

UNDER_WAY = frozenset(STATES) - ENDED
"""Names of the states that a unit leaves."""

LAST = "last"
"""What may stand for the unit that was submitted last (units.py)."""

Answer = TypeVar("Answer")
Values = list["CompletionItem"]
Complete = Callable[[click.Context, click.Parameter, str], Values]
Units = Mapping[str, Mapping[str, Any]]


class Asker(Protocol):
    """What the context of a command line has while it is completed: whom to ask."""

    def client(self) -> "ControlClient":
        """Make a client of the node."""

    def at(self, node: str, tls_client: str) -> "Asker":
        """Return who asks another node through this one."""


def patience() -> float:
    """Return the seconds that a node has for its answer."""
    try:
        seconds = float(os.environ.get(PATIENCE_VARIABLE, ""))
    except ValueError:
        return ANSWER_WITHIN
    return seconds if 0 <= seconds <= MOST_PATIENCE else ANSWER_WITHIN


def in_time(asker: Asker, question: Callable[["ControlClient"], Answer]) -> Answer | None:
    """Return what a node answers; None if it does not answer in time, or refuses.

    A thread asks, since looking up the name of a host cannot be given a time.
    """
    from threading import Thread  # noqa: PLC0415 - only completion needs it

    answers: list[Answer] = []

    def ask() -> None:
        with suppress(ControlError, click.ClickException, OSError), asker.client() as client:
            answers.append(question(client))

    # Nobody waits for it at the end of the process.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience())
    return answers[0] if answers else None


def offered(values: Iterable[tuple[str, str]], incomplete: str) -> Values:
    """Return those of the values, each with its description, that go on as the word began.

    What begins with ``-`` would be taken for an option.
    """
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only completion needs it

    return [
        CompletionItem(value, help=description)
        for value, description in values
        if value.startswith(incomplete) and value and not value.startswith("-")
    ]


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Have the shell complete the path of a file."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only completion needs it

    return [CompletionItem("", type="file")]


# --- What the status of a node tells --------------------------------------------------------------


def _status(context: click.Context) -> Mapping[str, Any]:
    fields = ["NodeID", "RoutingTable", "Advertisements"]
    return in_time(context.obj, lambda client: client.status(fields)) or {}


def places(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete the ID of a node, or what stands for one where a node chooses."""
    told = ((rule, "the node that you ask chooses") for rule in sorted(PLACEMENTS))
    rules = offered(told, incomplete)
    return [*nodes(context, parameter, incomplete), *rules]


def nodes(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete the ID of a node of the mesh."""
    status = _status(context)
    routes = as_table(status.get("RoutingTable"))
    known = {node: "linked" if hop == node else f"by way of {hop}" for node, hop in routes.items()}
    known[str(status.get("NodeID", ""))] = "the node itself"
    return offered(sorted(known.items()), incomplete)


def services(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete the name of a service of the NODE that stands before it."""
    return services_of(context, str(context.params.get("node") or ""), incomplete)


def services_of(context: click.Context, node: str, incomplete: str) -> Values:
    """Complete the name of a service of a node that can be connected to."""
    known = {
        str(advertised.get("Service", "")): str(as_table(advertised.get("Tags")).get("type", ""))
        for advertised in advertisements(_status(context), node)
        if advertised.get("ConnType") != 0  # datagrams are nothing to connect to
    }
    return offered(sorted(known.items()), incomplete)


def work_types(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete a work type of the node that is to do the work."""
    node = str(context.params.get("node") or "")
    known = {
        str(command.get("WorkType", "")): "must be signed" if command.get("Secure") else ""
        for command in types_of(_status(context), node)
    }
    return offered(sorted(known.items()), incomplete)


def _type_described(context: click.Context) -> Mapping[str, Any]:
    """Return what the type of work takes that stands before; empty if nobody tells."""
    given = {key: str(context.params.get(key) or "") for key in ("worktype", "node")}
    if not given["worktype"] and context.args:
        # The option that is being completed has no value yet, so click has sorted no words.
        given["worktype"] = context.args[0]
    if not given["worktype"]:
        return {}
    request = {"command": "work", "subcommand": "describe"}
    request |= {key: value for key, value in given.items() if value}
    return in_time(context.obj, lambda client: client.command(request)) or {}


def job_arguments(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete an argument of the type of work: its name, and of a choice its values."""
    told = _type_described(context).get("Arguments")
    known: dict[str, str] = {}
    for one in map(as_table, told if isinstance(told, list) else ()):
        name, choices = str(one.get("Name", "")), one.get("Choices")
        values = choices if isinstance(choices, list) and choices else [""]
        known |= {f"{name}={value}": str(one.get("Help") or "") for value in values}
    return offered(sorted(known.items()), incomplete)


def variables(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete the name of a variable that the type of work takes."""
    told = _type_described(context).get("RuntimeEnv")
    names = [str(name).removesuffix("*") for name in (told if isinstance(told, list) else ())]
    return offered([(name, "") for name in sorted(names) if name], incomplete)


# --- Units ----------------------------------------------------------------------------------------


def _units(context: click.Context) -> Units:
    asker: Asker = context.obj
    if node := context.params.get("node"):
        asker = asker.at(str(node), str(context.params.get("tls_client") or ""))
    return in_time(asker, lambda client: client.work_list()) or {}


def units(*, only: frozenset[str] = frozenset(), first: frozenset[str] = frozenset()) -> Complete:
    """Return what completes the ID of a unit, the newest first.

    Args:
        only: Names of the states of those that are meant; empty for any.
        first: Names of the states of those that come first.
    """

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
        known = _units(context)
        given = context.params.get(parameter.name or "")
        named = set(given) if isinstance(given, (list, tuple)) else set()
        wanted = {
            unit: status
            for unit, status in known.items()
            if unit not in named and (not only or state_name(status) in only)
        }
        # A receptor node says of no unit when it was made.
        newest = dict.fromkeys([*newest_first(wanted), *wanted])
        ordered = sorted(newest, key=lambda unit: state_name(wanted[unit]) not in first)
        values = [(unit, _described(wanted[unit])) for unit in ordered]
        if incomplete and known:
            values.append((LAST, "the unit that was submitted last"))
        return offered(values, incomplete)

    return complete


def _described(status: Mapping[str, Any]) -> str:
    node = remote_part(status).get("RemoteNode")
    where = f" on {node}" if node else ""
    return f"{work_type(status)}{where}, {state_name(status)}"


def types_of_units(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete a work type that a unit of the node has."""
    return offered(
        ((name, "") for name in sorted(set(map(work_type, _statuses(context))))), incomplete
    )


def labels(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete a label that a unit of the node has."""
    known = {
        f"{name}={value}" if value else str(name)
        for status in _statuses(context)
        for name, value in as_table(status.get("Labels")).items()
    }
    return offered(((label, "") for label in sorted(known)), incomplete)


def _statuses(context: click.Context) -> Iterator[Mapping[str, Any]]:
    yield from _units(context).values()


def batches(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete the ID of a batch of the node."""
    request = {"command": "work", "subcommand": "batch", "action": "list"}
    known = in_time(context.obj, lambda client: client.command(request)) or {}
    described = {
        batch: f"{as_table(status).get('Work', '')}, {as_table(status).get('StateName', '')}"
        for batch, status in known.items()
    }
    return offered(sorted(described.items()), incomplete)


# --- What no node is asked for --------------------------------------------------------------------


def parameters(names: Sequence[str]) -> Complete:
    """Return what completes ``KEY=VALUE`` and ``KEY=@FILE``, of keys that are known."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
        from click.shell_completion import CompletionItem  # noqa: PLC0415

        key, at, _ = incomplete.partition("=@")
        if at:
            return [CompletionItem("", type="file", before=key + at)]
        return offered(((f"{name}=", "") for name in names), incomplete)

    return complete


def tls_clients(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    """Complete the name of a ``tls-client`` of the file that --config names."""
    from meshctl.api.settings import tls_client_names  # noqa: PLC0415 - no other command needs it

    try:
        names = tls_client_names(os.path.expanduser(str(context.params.get("config") or "")))
    except ControlError:
        return []
    return offered(((name, "") for name in names), incomplete)


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")), metavar="bash|zsh|fish")
@click.option("--json", "as_json", is_flag=True, help="No effect: a script is for a shell.")
def completion(shell: str, as_json: bool) -> None:
    """Print what has a shell complete meshctl's arguments at TAB.

    Commands, options, nodes, work types, services, labels and unit IDs: as the node tells them that
    the options before the command, or MESHCTL_SOCKET, name. If it does not at once, none are shown.

    \b
    For yourself, a line in the file that your shell reads at its start:
      ~/.bashrc                   eval "$(meshctl completion bash)"
      ~/.zshrc, below compinit    eval "$(meshctl completion zsh)"
      ~/.config/fish/config.fish  meshctl completion fish | source

    \b
    For all users, as a file that a shell reads when it is needed (Debian's package has them):
      /usr/share/bash-completion/completions/meshctl   with the package bash-completion
      /usr/share/zsh/vendor-completions/_meshctl       on Debian; else a directory of zsh's fpath
      /usr/share/fish/vendor_completions.d/meshctl.fish

    The same for meshnode: meshnode completion bash|zsh|fish.
    """
    del as_json
    from meshctl.shells import script  # noqa: PLC0415 - no other command needs it

    click.echo(script("meshctl", shell), nl=False)
