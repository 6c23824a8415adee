"""Reads a file: a YAML list of directives, kept as nodes, which know their lines."""

import yaml

from meshnode.config.directives import DIRECTIVES
from meshnode.config.faults import FaultLog, Place, printable, quote
from meshnode.config.kinds import NULL_TAG
from meshnode.config.raw import RawDirective, RawParameter, place_of

MAX_FILE_BYTES = 1 << 20
"""A configuration has a few KiB; a mistaken path (a log, a device) must not fill the memory."""


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
        # The parser's own words for the commonest mistakes of all say nothing to a person.
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
