"""Directives as they were written (names, values, places), and how arguments are read into them.

Arguments are ``--directive [parameter=value …] …``; files.py reads files. Values stay YAML nodes,
which know their lines. build.py makes typed directives of both.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

from meshnode.config.directives import CERT_NAMES, DIRECTIVES
from meshnode.config.faults import COMMAND_LINE, FaultLog, Place, quote, suggestion
from meshnode.config.kinds import STANDARD


@dataclass(frozen=True, slots=True)
class RawParameter:
    """One parameter; ``name`` as it was written."""

    name: str
    place: Place
    value: yaml.Node


@dataclass(frozen=True, slots=True)
class RawDirective:
    """One directive; ``bare`` is a value that was given without a parameter's name."""

    name: str
    place: Place
    bare: yaml.Node | None = None
    parameters: tuple[RawParameter, ...] = ()


def place_of(node: yaml.Node, otherwise: Place) -> Place:
    """Return the place of a node in the source of ``otherwise``, which serves if it has no line."""
    if node.start_mark is None:
        return otherwise
    return Place(otherwise.source, node.start_mark.line + 1)


# --- Arguments

HERE = Place(COMMAND_LINE)

CONFIG_OPTIONS = ("--config", "-c")

NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)=(.*)", re.DOTALL)
"""``parameter=value``; any other word is a bare value."""


@dataclass(slots=True)
class Arguments:
    """What the command line asks for."""

    files: list[str] = field(default_factory=list)
    directives: list[RawDirective] = field(default_factory=list)


def read_arguments(argv: Sequence[str], faults: FaultLog) -> Arguments:
    """Return the files and directives that are named; what is wrong goes to ``faults``."""
    result = Arguments()
    for option, words in _grouped(argv, faults):
        name, equals, inline = option.partition("=")
        values = [inline, *words] if equals else words
        if name.lower() in CONFIG_OPTIONS:
            _take_files(name, values, result, faults)
        elif name.startswith("--") and len(name) > 2:
            result.directives.append(_directive(name[2:], values, faults))
        else:
            names = (*(d.INFO.name for d in DIRECTIVES), *CERT_NAMES)
            valid = [*CONFIG_OPTIONS, *(f"--{name}" for name in names)]
            hint = suggestion("-" + name, valid, otherwise="see meshnode --help")
            faults.add(HERE, text=f"unknown option {quote(name)}; {hint}")
    return result


def _grouped(argv: Sequence[str], faults: FaultLog) -> list[tuple[str, list[str]]]:
    """Split the arguments before each option; a word before the first is a fault."""
    groups: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("-"):
            groups.append((word, []))
        elif groups:
            groups[-1][1].append(word)
        else:
            faults.add(
                HERE,
                text=f"{quote(word)} is not an option; directives begin with --, "
                "and a file is named by --config FILE",
            )
    return groups


def _take_files(option: str, values: list[str], result: Arguments, faults: FaultLog) -> None:
    if len(values) == 1 and values[0]:
        result.files.append(values[0])
    elif not values or not values[0]:
        faults.add(HERE, text=f"{option}: the name of a file is missing")
    else:
        faults.add(HERE, text=f"{option}: takes one file; what is {quote(values[1])}?")


def _directive(name: str, values: list[str], faults: FaultLog) -> RawDirective:
    bare: yaml.Node | None = None
    parameters = []
    for value in values:
        match = NAMED.fullmatch(value)
        if match:
            parameters.append(RawParameter(match[1], HERE, _node(match[2])))
        elif bare is None:
            bare = _node(value)
        else:
            faults.add(HERE, name, text=f"takes one value; what is {quote(value)}?")
    return RawDirective(name, HERE, bare, tuple(parameters))


def _node(text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode(tag=STANDARD + "str", value=text)
