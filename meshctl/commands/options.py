"""What the options say that several commands have: which node, and which units."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.listing import Query
from meshctl.api.status import ENDED, STATES, moment, newest_first, state_name, work_type
from meshctl.commands.completion import nodes, types_of_units
from meshctl.commands.labels import Wanted, has_labels, wanted_labels_option
from meshctl.render.output import Failure, print_warning

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

# --- Which node ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invocation:
    """The global options of one run of meshctl, as given or taken from the environment.

    Attributes:
        node: another node whose control service is to be asked, through that at the socket.
        node_tls_client: the tls-client of the node at the socket, for the way there.
    """

    socket: str
    config: str
    tls_client: str
    rootcas: str
    key: str
    cert: str
    insecureskipverify: bool
    token_file: str = ""
    node: str = ""
    node_tls_client: str = ""

    def client(self) -> "ControlClient":
        """Make the client that these options describe; nothing is opened yet.

        Raises:
            Failure: no socket is given.
            ControlError: the options do not go together.
        """
        # Imported here: help and usage errors must not wait for sockets.
        from meshctl.api.client import ControlClient  # noqa: PLC0415
        from meshctl.api.settings import (  # noqa: PLC0415
            TlsSettings,
            UnixAddress,
            choose_tls,
            parse_address,
            read_token,
        )

        if not self.socket:
            raise Failure("no control socket given: use --socket, or set MESHCTL_SOCKET")
        address = parse_address(self.socket)
        tls = choose_tls(
            self.config,
            self.tls_client,
            TlsSettings(self.rootcas, self.key, self.cert, self.insecureskipverify),
            read=not isinstance(address, UnixAddress) and address.tls,
        )
        return ControlClient(
            self.socket,
            tls=tls,
            node=self.node,
            tls_client=self.node_tls_client,
            token=read_token(self.token_file) if self.token_file else "",
        )

    def at(self, node: str, tls_client: str) -> "Invocation":
        """Return the same with another node to be asked, and the tls-client for the way there."""
        return replace(self, node=node, node_tls_client=tls_client)

    def shell_command(self, *words: str) -> str:
        """Return the line that a person can paste to run ``meshctl`` on the same node."""
        import shlex  # noqa: PLC0415 - rarely needed

        options = {
            "--socket": self.socket,
            "--config": self.config,
            "--tls-client": self.tls_client,
            "--rootcas": self.rootcas,
            "--key": self.key,
            "--cert": self.cert,
            "--token-file": self.token_file,
            "--insecureskipverify": "true" if self.insecureskipverify else "",
        }
        there = {"--node": self.node, "--tls-client": self.node_tls_client}
        given, also = (
            [part for name, value in group.items() if value for part in (name, value)]
            for group in (options, there)
        )
        return shlex.join(["meshctl", *given, *words[:2], *also, *words[2:]])


pass_invocation = click.make_pass_decorator(Invocation)

tls_client_option = click.option(
    "--tls-client", default="", help="tls-client of our node for the way to --node."
)


def pass_invocation_at(command: Callable[..., None]) -> Callable[..., None]:
    """As ``pass_invocation``, with the options that choose the node whose units are meant."""

    @click.option(
        "--node",
        default="",
        shell_complete=nodes,
        help="Node whose units are meant; default: the local one.",
    )
    @tls_client_option
    @pass_invocation
    @wraps(command)
    def at_node(
        invocation: Invocation, /, *args: Any, node: str, tls_client: str, **kwargs: Any
    ) -> None:
        return command(invocation.at(node, tls_client), *args, **kwargs)

    return at_node


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def refuse_empty(lacks: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return the callback of an option that refuses an empty value, and says what that ``lacks``.

    A variable of a script that is not set must not mean that the option was not given.
    """

    def check(context: click.Context, option: click.Parameter, value: Any) -> Any:
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise click.BadParameter(f"it {lacks}: its value is empty")
        return value

    return check


class WholeNumber(click.IntRange):
    """A whole number within bounds; an error calls it that."""

    name = "whole number"


# --- Which units ---------------------------------------------------------------------------------

_SECONDS = {
    **{"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3},
    **{"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800},
}
_TERM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([nuµμm]s|[smhdw])")
"""A term of a duration as Go writes it, and days and weeks."""

LONGEST_SECONDS = 365_000 * 86400
"""A thousand years: what is longer is a typing error, and dates cannot hold it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What units must be like.

    Attributes:
        states: their states, in receptor's names; empty for any that a unit does not leave.
        older_than: the least time since their end; None for any.
        labels: labels that they have, all of them.
        everything: all units, whatever they are like.
    """

    states: frozenset[str] = frozenset()
    older_than: timedelta | None = None
    labels: Wanted = ()
    everything: bool = False

    def __bool__(self) -> bool:
        is_limited = bool(self.states or self.labels) or self.older_than is not None
        return self.everything or is_limited

    def query(self) -> Query:
        """Return what a node can choose by: those units, and perhaps more."""
        return Query(states=() if self.everything else self.states or ENDED, labels=self.labels)

    def choose(self, units: Mapping[str, Mapping[str, Any]], now: datetime) -> Sequence[str]:
        """Return the IDs of the units that match, in the order given."""
        if self.everything:
            return list(units)
        states = self.states or ENDED
        ended = {
            unit: status
            for unit, status in units.items()
            if state_name(status) in states and has_labels(status, self.labels)
        }
        if self.older_than is None:
            return list(ended)
        ends = {unit: moment(status, "Finished") for unit, status in ended.items()}
        if unknown := [unit for unit, end in ends.items() if end is None]:
            # A receptor node says of no unit when it ended.
            print_warning(f"the node does not say when these ended: {' '.join(unknown)}")
        earliest = now - self.older_than
        return [unit for unit, end in ends.items() if end is not None and end <= earliest]


ALL = Selection(everything=True)


SHORT_TIMES = "30s, 5m or 1h30m"
"""Examples of how long something may run or be waited for."""


class Age(click.ParamType):
    """A span of time as an option: ``7d``, ``1h30m``, ``2w``; ``examples`` are what it may be."""

    name = "age"

    def __init__(self, examples: str = "7d, 12h or 1h30m") -> None:
        self._examples = examples

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Read the text. Fails as click's types do."""
        if isinstance(value, timedelta):
            return value
        terms = _TERM.findall(value)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in terms)
        if "".join(number + unit for number, unit in terms) != value or not terms:
            self.fail(f"{value!r} is not a time such as {self._examples}", param, ctx)
        if seconds > LONGEST_SECONDS:
            self.fail(f"{value} is longer than a thousand years", param, ctx)
        return timedelta(seconds=seconds)


def selection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose units by what they are."""

    @wraps(command)
    def choose(
        *args: Any,
        failed: bool,
        succeeded: bool,
        older_than: timedelta | None,
        labels: Wanted,
        **kwargs: Any,
    ) -> None:
        named = {"Failed": failed, "Succeeded": succeeded}
        states = frozenset(name for name, wanted in named.items() if wanted)
        return command(*args, selection=Selection(states, older_than, labels), **kwargs)

    for option in reversed(
        (
            click.option("--all", "everything", is_flag=True, help="All units."),
            click.option("--failed", is_flag=True, help="Those that have failed."),
            click.option("--succeeded", is_flag=True, help="Those that have succeeded."),
            click.option(
                "--older-than", type=Age(), help="Those that ended so long ago, e.g. 7d or 12h."
            ),
            wanted_labels_option,
        )
    ):
        choose = option(choose)
    return choose


def check_one_way(unit_ids: Sequence[str], everything: bool, selection: Selection) -> None:
    """Refuse what could mean two things. Raises Failure."""
    if selection and (unit_ids or everything):
        given = "--all" if everything else "unit IDs"
        options = "--failed, --succeeded, --older-than or --label"
        raise Failure(f"Cannot combine {given} with {options}.")


def now() -> datetime:
    """Return the time, as nodes write it: in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class UnitFilter:
    """What units must be like to be listed.

    Attributes:
        states: names of states; empty for any.
        types: work types, on whichever node the units run; empty for any.
        since: the longest time since they were made; None for any.
        labels: labels that they have, all of them.
        last: how many, of those that match the newest; None for all.
    """

    states: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    since: timedelta | None = None
    labels: Wanted = ()
    last: int | None = None

    def __bool__(self) -> bool:
        return self != UnitFilter()

    def query(self, now: datetime) -> Query:
        """Return what a node can choose by: those units, and perhaps more."""
        since = None if self.since is None else now - self.since
        return Query(self.states, self.types, self.labels, since, self.last)

    def choose(self, units: Mapping[str, Mapping[str, Any]], now: datetime) -> dict[str, Any]:
        """Return the units that match, in the order given; with ``last``, the newest last."""
        chosen = {
            unit: status
            for unit, status in units.items()
            if (not self.states or state_name(status) in self.states)
            and (not self.types or work_type(status) in self.types)
            and has_labels(status, self.labels)
        }
        if self.since is None and self.last is None:
            return chosen
        made = {unit: moment(status, "Created") for unit, status in chosen.items()}
        if unknown := [unit for unit, when in made.items() if when is None]:
            # A receptor node says of no unit when it was made.
            print_warning(f"the node does not say when these were made: {' '.join(unknown)}")
        if self.since is not None:
            earliest = now - self.since
            chosen = {u: chosen[u] for u, at in made.items() if at is not None and at >= earliest}
        if self.last is None:
            return chosen
        return {unit: chosen[unit] for unit in reversed(newest_first(chosen)[: self.last])}


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose what is listed; the command gets a ``wanted`` filter."""

    @wraps(command)
    def choose(
        *args: Any,
        states: tuple[str, ...],
        types: tuple[str, ...],
        since: timedelta | None,
        labels: Wanted,
        last: int | None,
        **kwargs: Any,
    ) -> None:
        wanted = UnitFilter(frozenset(states), frozenset(types), since, labels, last)
        return command(*args, wanted=wanted, **kwargs)

    for option in reversed(
        (
            click.option(
                "--state",
                "states",
                multiple=True,
                type=click.Choice(STATES, case_sensitive=False),
                help="Only units in this state; may be repeated.",
            ),
            click.option(
                "--type",
                "types",
                multiple=True,
                metavar="WORKTYPE",
                shell_complete=types_of_units,
                help="Only units of this work type; may be repeated.",
            ),
            click.option("--since", type=Age(), help="Only units made in the last, e.g., 2h."),
            wanted_labels_option,
            click.option(
                "--last",
                type=WholeNumber(min=1),
                metavar="N",
                help="Only the newest N of these units.",
            ),
        )
    ):
        choose = option(choose)
    return choose
