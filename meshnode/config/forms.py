"""The two forms of a document: a list of directives, or a map from their names.

The map is receptor's "version 2": each value is a directive, or a list of directives of that name,
which may be a plural (``tcp-peers``). Both forms make the same directives.
"""

import yaml

from meshnode.config.access_directives import MUST_NOT_BE_EMPTY
from meshnode.config.directives import named, singular
from meshnode.config.faults import FaultLog, Place, printable, quote
from meshnode.config.kinds import NULL_TAG
from meshnode.config.sources import RawDirective, RawParameter, place_of

VERSION = "version"
"""The key by which a map may say which form it has."""

MAP_VERSION = "2"


def read_document(root: yaml.Node, whole: Place, faults: FaultLog) -> list[RawDirective]:
    """Return the directives of a document; whatever is wrong with it goes to ``faults``."""
    if isinstance(root, yaml.MappingNode):
        return _read_map(root, whole, faults)
    if not isinstance(root, yaml.SequenceNode):
        faults.add(
            place_of(root, whole),
            text="the file is text; it must have a list of directives, or a map",
        )
    elif not root.value:
        faults.add(place_of(root, whole), text="the list of directives is empty")
    else:
        items = (_read_item(item, whole, faults) for item in root.value)
        return [item for item in items if item is not None]
    return []


# --- The map


def _read_map(root: yaml.MappingNode, whole: Place, faults: FaultLog) -> list[RawDirective]:
    first: dict[str, Place] = {}
    raws: list[RawDirective] = []
    for key, value in root.value:
        place = place_of(key, whole)
        if not isinstance(key, yaml.ScalarNode):
            faults.add(place, text="the name of a directive must be text")
            continue
        name = str(key.value)
        earlier = first.setdefault(name.lower(), place)
        if earlier is not place:
            where = earlier.seen_from(place)
            faults.add(place, name, text=f"is given twice; the first is {where}; make it one list")
        elif name.lower() == VERSION:
            _check_version(value, place_of(value, place), faults)
        else:
            raws += _read_entry(name, value, place, faults)
    if not root.value:
        faults.add(place_of(root, whole), text="the map of directives is empty")
    return raws


def _check_version(value: yaml.Node, place: Place, faults: FaultLog) -> None:
    given = str(value.value) if isinstance(value, yaml.ScalarNode) else ""
    if given != MAP_VERSION:
        faults.add(place, VERSION, text=f"{quote(given)} is not {MAP_VERSION}, the only one known")


def _read_entry(name: str, value: yaml.Node, place: Place, faults: FaultLog) -> list[RawDirective]:
    plural_of = singular(name.lower())
    directive = plural_of or name
    is_empty = value.tag == NULL_TAG or (isinstance(value, yaml.SequenceNode) and not value.value)
    if is_empty and directive.lower() in MUST_NOT_BE_EMPTY:
        text = "is empty: nothing would be refused; write a rule, or leave it out"
        faults.add(place, name, text=text)
        return []
    if plural_of and value.tag == NULL_TAG:
        return []  # an empty list, as templates leave one
    if not isinstance(value, yaml.SequenceNode):
        made = _read_directive(directive, place, value, faults)
        return [made] if made else []
    if named(directive) is None:
        return [RawDirective(directive, place)]  # its name is the one fault of all of them
    items = (_read_listed(directive, item, place, faults) for item in value.value)
    return [item for item in items if item is not None]


def _read_listed(name: str, item: yaml.Node, outer: Place, faults: FaultLog) -> RawDirective | None:
    """Read one of several directives that a map has under one name."""
    place = place_of(item, outer)
    if item.tag == NULL_TAG:
        faults.add(place, name, text="a list item is empty; write its parameters")
        return None
    return _read_directive(name, place, item, faults)


# --- The list


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
    info = named(name)
    if info and info.find(second):
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
        if named(name) is None:
            return RawDirective(name, place)  # as a plural: the name is the fault
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
