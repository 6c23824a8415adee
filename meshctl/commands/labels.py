"""Labels: ``--label NAME=VALUE`` gives a unit one, and chooses units that have it.

What a label may be is the node's business. Here is only told apart what is name and what value:
``--label nightly`` is a label without a value where it is given, and one of any value where it is
looked for.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from meshctl.commands.completion import labels as completed_labels

Command = TypeVar("Command", bound=Callable[..., Any])

Wanted = tuple[tuple[str, str | None], ...]
"""Labels that units must have: names, and values where not any will do."""


def _split(text: str) -> tuple[str, str | None]:
    name, separator, value = text.partition("=")
    if not name:
        raise click.BadParameter(f"{text!r}: write NAME=VALUE, or NAME alone")
    return name, value if separator else None


def given_labels(texts: Sequence[str]) -> Mapping[str, str]:
    """Return the labels that a unit is given.

    Raises:
        click.BadParameter: one has no name, or two values.
    """
    labels: dict[str, str] = {}
    for name, value in map(_split, texts):
        if labels.setdefault(name, value or "") != (value or ""):
            raise click.BadParameter(f"{name} is given twice, with different values")
    return labels


def _wanted(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> Wanted:
    return tuple(map(_split, texts))


def wanted_labels_option(command: Command) -> Command:
    """Add the option that chooses units by labels; the command gets ``labels`` as Wanted."""
    return click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="NAME[=VALUE]",
        callback=_wanted,
        shell_complete=completed_labels,
        help="Only units with this label; with several options, those that have all.",
    )(command)


def has_labels(status: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether a unit has all of the labels; a receptor node tells of none."""
    labels = status.get("Labels")
    if not isinstance(labels, Mapping):
        return not wanted
    return all(
        name in labels and (value is None or labels[name] == value) for name, value in wanted
    )
