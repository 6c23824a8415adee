"""The options of ``meshnode cert``, and how their values are read: as a directive's parameters."""

import datetime
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click
import yaml

from meshnode.certs.issuing import days_after
from meshnode.certs.outputs import Writer
from meshnode.config.cert_directives import BITS, COMMON_NAME, DNS_NAME, IP_ADDRESS, MOMENT, NODE_ID
from meshnode.config.kinds import STANDARD, Kind, path, whole
from meshnode.config.names import Wrong

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

MOST_DAYS: Final = 36500
"""Days of ``--days``: a hundred years."""

FORCE: Final = "--force"


class Command(click.Command):
    """A command whose options are given once, unless they may be repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options. Raises click.UsageError."""
        given = list(args)
        # click would take the last one, which may not be the one that is meant.
        _, _, order = self.make_parser(ctx).parse_args(args=given)
        for parameter, times in Counter(order).items():
            if isinstance(parameter, click.Option) and not parameter.multiple and times > 1:
                raise click.UsageError(f"{parameter.opts[0]} is given {times} times", ctx)
        return super().parse_args(ctx, args)


class Of(click.ParamType):
    """An option's value that is read as a directive's parameter of the same kind."""

    def __init__(self, kind: Kind[Any], name: str) -> None:
        self._kind = kind
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the typed value; raises click.BadParameter."""
        if not isinstance(value, str):
            return value
        try:
            return self._kind.read(yaml.ScalarNode(STANDARD + "str", value))
        except Wrong as wrong:
            self.fail(str(wrong), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        """Have a shell at TAB complete what is a file."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell needs it

        return [CompletionItem("", type=self._kind.on_disk)] if self._kind.on_disk else []


FILE = Of(path("file"), "FILE")
DIRECTORY = Of(path(), "DIR")
NODE = Of(NODE_ID, "ID")
NAME = Of(COMMON_NAME, "NAME")
HOST = Of(DNS_NAME, "NAME")
ADDRESS = Of(IP_ADDRESS, "ADDRESS")
DAYS = Of(whole(1, MOST_DAYS), "N")
PORT = Of(whole(1, 65535), "PORT")


def option(*names: str, **more: Any) -> Callable[[F], F]:
    """Declare an option whose default its help tells."""
    return click.option(*names, show_default=more.get("default") is not None, **more)


def key_options(command: F) -> F:
    """Give a command the options of a new key."""
    text = "Make an RSA key of so many bits.  [default: ECDSA P-256]"
    return option("--bits", type=Of(BITS, "BITS"), help=text)(command)


def date_options(otherwise: str) -> Callable[[F], F]:
    """Give a command the options of how long a certificate holds."""

    def declare(command: F) -> F:
        moment = Of(MOMENT, "TIME")
        for declared in (
            option("--not-after", type=moment, help=f"When it ends.  [default: {otherwise}]"),
            option(
                "--not-before",
                type=moment,
                help="When it begins, as 2027-01-31T00:00:00Z.  [default: now]",
            ),
            option(
                "--days",
                type=DAYS,
                help="In place of --not-after: it holds for so many days.",
            ),
        ):
            command = declared(command)
        return command

    return declare


def force_option(command: F) -> F:
    """Give a command the option to replace files."""
    text = "Replace files that are there already."
    return option(FORCE, is_flag=True, help=text)(command)


def writer_for(force: bool) -> Writer:
    """Return how a command writes its files."""
    return Writer(force, f"name another file, or replace it by {FORCE}")


def dates_of(
    now: datetime.datetime,
    days: int | None,
    not_before: datetime.datetime | None,
    not_after: datetime.datetime | None,
) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    """Return the first and the last moment that options gave. Raises click.UsageError."""
    if days is not None:
        if not_after is not None:
            wrong("--days and --not-after both say when it ends; give one of them")
        return not_before, days_after(not_before or now, days)
    if not_before and not_after and not_after <= not_before:
        wrong("--not-after is not after --not-before: it would never hold")
    return not_before, not_after


def wrong(text: str) -> NoReturn:
    """Refuse the command line."""
    raise click.UsageError(text, click.get_current_context())
