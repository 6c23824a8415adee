"""What is a command line of meshctl: nearly receptorctl's, but for what can only be a mistake.

A mistyped name is answered with the nearest one, wherever that stands. An option that has one
value is given once: click would take the last, and a unit would run on a node that was not meant.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from importlib import import_module

import click

OTHER_WORDS = {
    **dict.fromkeys(("ls", "ps", "units", "jobs"), "list"),
    **dict.fromkeys(("output", "stdout", "tail", "follow"), "results"),
    **dict.fromkeys(("run", "start", "exec"), "submit"),
    **dict.fromkeys(("kill", "abort"), "cancel"),
    **dict.fromkeys(("rm", "remove", "delete"), "release"),
    **dict.fromkeys(("show", "inspect", "info"), "status"),
    "trace": "traceroute",
}
"""What other programs call our commands: a hint only, the grammar is receptorctl's."""


class Commands(MutableMapping[str, click.Command]):
    """The commands of a group by name, each loaded when it is asked for.

    Every run of meshctl needs one command, and what all of them import takes half of its start.

    Args:
        homes: Where each is: ``module:name``.
    """

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._homes = dict(homes)
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module, _, attribute = self._homes[name].partition(":")
            self._loaded[name] = getattr(import_module(module), attribute)
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._homes[name] = ""
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._homes[name]
        self._loaded.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._homes

    def __iter__(self) -> Iterator[str]:
        # Those that the group defines itself come first, also where mistakes are answered.
        return iter(sorted(self._homes, key=lambda name: self._homes[name] != ""))

    def __len__(self) -> int:
        return len(self._homes)


class StrictGroup(click.Group):
    """A group whose commands, and those of the groups in it, are read strictly."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options of the group itself."""
        if not ctx.resilient_parsing:
            check_repeats(self, ctx, args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names; its options are looked at, too.

        Raises:
            click.UsageError: there is none, or an option is given twice.
        """
        name = args[0]
        if ctx.resilient_parsing:
            # At TAB the line is not whole, and not to be judged.
            return super().resolve_command(ctx, args)
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = nearest_commands(ctx, name)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command '{name}'.{hint}")
        found = super().resolve_command(ctx, args)
        command, rest = found[1:]
        if command is not None and not isinstance(command, click.Group):
            check_repeats(command, click.Context(command, ctx, name), rest)
        return found


def check_repeats(command: click.Command, ctx: click.Context, args: Sequence[str]) -> None:
    """Refuse an option that has one value and is given twice.

    Raises:
        click.UsageError: there is such an option, or ``args`` are wrong in another way.
    """
    if not args:
        return
    try:
        _, _, order = command.make_parser(ctx).parse_args(args=list(args))
    except click.UsageError as error:
        error.ctx = error.ctx or ctx
        raise
    for parameter, times in Counter(order).items():
        is_single = isinstance(parameter, click.Option) and not (
            parameter.multiple or parameter.is_flag or parameter.count
        )
        if is_single and times > 1:
            name = max(parameter.opts, key=len)
            raise click.UsageError(f"{name} is given {_times(times)}; it has one value.", ctx)


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"


def nearest_commands(ctx: click.Context, name: str) -> list[str]:
    """Return the command lines that a mistyped command may have meant, as one can type them.

    Those of the same group come first; a command that stands elsewhere under just that name is
    named with its way there.
    """
    import difflib  # noqa: PLC0415 - a command line is mostly right

    name = OTHER_WORDS.get(name.lower(), name.lower())
    here = dict(_paths(ctx.command, "")) if ctx.parent is None else _own(ctx)
    exact = [path for path, last in here.items() if last == name]
    if exact:
        return exact
    near = difflib.get_close_matches(name, set(here.values()), 1)
    return [path for path, last in here.items() if near and last == near[0]]


def _own(ctx: click.Context) -> dict[str, str]:
    """Commands of the group first; then those of meshctl itself, which are typed from there."""
    assert isinstance(ctx.command, click.Group)
    root = ctx.find_root()
    others = {f"{root.info_name} {path}": last for path, last in _paths(root.command, "")}
    own = {last: last for last in ctx.command.commands}
    return own | {path: last for path, last in others.items() if last not in own}


def _paths(command: click.Command, before: str) -> Iterator[tuple[str, str]]:
    """Yield each command below a group with the words that lead there."""
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield f"{before}{name}", name
            yield from _paths(sub, f"{before}{name} ")


def unknown_option(error: click.NoSuchOption) -> str:
    """Return what to say of an option that is none: where it belongs, or which is near."""
    text = f"No such option: {error.option_name}."
    ctx = error.ctx
    if ctx is not None and ctx.parent and _has(ctx.find_root().command, error.option_name):
        return f"{text} It stands before the command."
    if ctx is not None and any(_has(leaf, error.option_name) for leaf in _leaves(ctx.command)):
        return f"{text} It stands after the command."
    *others, last = error.possibilities or [""]
    near = f"{', '.join(others)} or {last}" if others else last
    return f"{text} Did you mean {near}?" if near else text


def _has(command: click.Command, option: str) -> bool:
    return any(option in parameter.opts for parameter in command.params)


def _leaves(command: click.Command) -> Iterator[click.Command]:
    """Yield the commands below a group that are none themselves; none for a command."""
    if not isinstance(command, click.Group):
        return
    for sub in command.commands.values():
        if isinstance(sub, click.Group):
            yield from _leaves(sub)
        else:
            yield sub
