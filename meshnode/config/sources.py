"""Reads files and arguments into directives as they were written: names, values, places.

A file is a YAML list of directives, arguments are ``--directive [parameter=value …] …``. Values
stay YAML nodes, which know their lines. build.py makes typed directives of both.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

from meshnode.config.directives import DIRECTIVES
from meshnode.config.faults import COMMAND_LINE, FaultLog, Place, printable, quote, suggestion
from meshnode.config.kinds import NULL_TAG, STANDARD


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


# --- Files

MAX_FILE_BYTES = 1 << 20
"""Bytes of a file: a configuration has a few KiB, and a mistaken path may name a device."""


def read_file(path: str, faults: FaultLog) -> list[RawDirective]:
    """Return the directives of a file; whatever is wrong with it goes to ``faults``."""
    whole = Place(path)
    text = _read_text(path, whole, faults)
    if text is None:
        return []
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        _note_marked(error, whole, faults)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        faults.add(Place(path, line), text="not valid YAML: it has a control character")
    except RecursionError:
        faults.add(whole, text="not a configuration: it is nested too deeply")
    else:
        return _read_root(root, whole, faults)
    return []


def _read_text(path: str, whole: Place, faults: FaultLog) -> str | None:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: the path has a NUL
        reason = error.strerror if isinstance(error, OSError) else None
        faults.add(whole, text=f"cannot be read: {(reason or str(error)).lower()}")
        return None
    if len(data) > MAX_FILE_BYTES:
        faults.add(whole, text=f"not a configuration: it has more than {MAX_FILE_BYTES} bytes")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.add(Place(path, line), text="not valid YAML: it is not UTF-8 text")
        return None


def _note_marked(error: yaml.MarkedYAMLError, whole: Place, faults: FaultLog) -> None:
    mark = error.problem_mark or error.context_mark
    place = Place(whole.source, mark.line + 1) if mark else whole
    problem = printable(error.problem or error.context or "unreadable")
    context = f", {printable(error.context)}" if error.context and error.problem else ""
    if "<block end>" in problem:
        # The parser's message for the commonest mistakes does not help a person.
        problem = 'this does not belong here; check the indentation, the quotes and the "- "'
        context = ""
    faults.add(place, text=f"not valid YAML: {problem}{context}")


def _read_root(root: yaml.Node | None, whole: Place, faults: FaultLog) -> list[RawDirective]:
    if root is None or root.tag == NULL_TAG:
        faults.add(whole, text="the file is empty; it must be a list of directives")
    elif isinstance(root, yaml.MappingNode):
        faults.add(
            place_of(root, whole),
            text='the file is a map; it must be a list: write "- " before each directive',
        )
    elif not isinstance(root, yaml.SequenceNode):
        faults.add(place_of(root, whole), text="the file is text; it must be a list of directives")
    elif not root.value:
        faults.add(place_of(root, whole), text="the list of directives is empty")
    else:
        items = (_read_item(item, whole, faults) for item in root.value)
        return [item for item in items if item is not None]
    return []


def _read_item(item: yaml.Node, whole: Place, faults: FaultLog) -> RawDirective | None:
    """Read one item of the list: ``name``, or ``name: value``, or ``name: {parameters}``."""
    place = place_of(item, whole)
    if isinstance(item, yaml.ScalarNode) and item.tag != NULL_TAG:
        return RawDirective(str(item.value), place)
    if not isinstance(item, yaml.MappingNode) or not item.value:
        faults.add(place, text='a list item is not a directive; write "- name:" and its parameters')
        return None
    (key, value), *others = item.value
    if not isinstance(key, yaml.ScalarNode):
        faults.add(place, text="the name of a directive must be text")
        return None
    if others:
        _note_others(str(key.value), others[0][0], whole, faults)
        return None
    return _read_directive(str(key.value), place, value, faults)


def _note_others(name: str, other: yaml.Node, whole: Place, faults: FaultLog) -> None:
    """Tell parameters that are not indented from directives without a dash."""
    place = place_of(other, whole)
    second = str(other.value) if isinstance(other, yaml.ScalarNode) else "?"
    info = next((d.INFO for d in DIRECTIVES if d.INFO.name == name.lower()), None)
    if info and (info.find(second) or second.lower() in info.later):
        faults.add(
            place, name, second, text=f"not indented; indent it further than {printable(name)}"
        )
    else:
        faults.add(
            place,
            text=f"{quote(name)} and {quote(second)} are one list item; "
            'write "- " before each directive, and indent parameters further',
        )


def _read_directive(
    name: str, place: Place, value: yaml.Node, faults: FaultLog
) -> RawDirective | None:
    if isinstance(value, yaml.SequenceNode):
        faults.add(place, name, text="has a list; expected: a map of its parameters")
        return None
    if not isinstance(value, yaml.MappingNode):
        return RawDirective(name, place, None if value.tag == NULL_TAG else value)
    parameters = []
    for key, parameter in value.value:
        key_place = place_of(key, place)
        if isinstance(key, yaml.ScalarNode):
            parameters.append(RawParameter(str(key.value), key_place, parameter))
        else:
            faults.add(key_place, name, text="the name of a parameter must be text")
    return RawDirective(name, place, None, tuple(parameters))


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
            valid = [*CONFIG_OPTIONS, *(f"--{d.INFO.name}" for d in DIRECTIVES)]
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
