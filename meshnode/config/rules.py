"""The ``firewallrules`` of a node, in receptor's notation."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import yaml

from meshnode.config.faults import quote, suggestion
from meshnode.config.kinds import (
    NULL_TAG,
    Kind,
    WrongPart,
    choice,
    read_part,
    scalar_text,
    unfolded,
)
from meshnode.config.names import RESERVED_SERVICES, Wrong, check_node_id, check_service
from meshnode.policies import SLASH, Action, NamePattern, Rule

T = TypeVar("T")

# --- Lists of maps that all have the same known keys


class WrongKey(Wrong):
    """What one of several keys says does not go with the others."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}: {text}")
        self.key = key


def records_of(
    noun: str, make: Callable[..., T], required: Mapping[str, Kind[Any]], /, **optional: Kind[Any]
) -> Kind[tuple[T, ...]]:
    """A list of maps, or one map; in quotes or as an argument also as JSON.

    Args:
        noun: what one map is; faults count them from 1: ``rule 2: …``.
        make: makes the typed value; gets the keys (lower case) that were given. It may raise
            WrongKey.
        required: the keys that must be given, with the kinds of their values.
        optional: those that may be.
    """
    kinds = {**required, **optional}
    label = f"list of {noun}s, each a map of {', '.join(kinds)}"

    def read_one(node: yaml.Node, which: str) -> T:
        node = unfolded(node, "{")
        if not isinstance(node, yaml.MappingNode):
            raise WrongPart(f"{which} is not a map of {', '.join(kinds)}", node)
        values: dict[str, Any] = {}
        places: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = _known_key(key_node, which, kinds)
            if key in values:
                raise WrongPart(f"{which}: {key} is given twice", key_node)
            values[key] = read_part(kinds[key], value_node, f"{which}: {key}")
            places[key] = value_node
        missing = [key for key in required if key not in values]
        if missing:
            raise WrongPart(
                f"{which}: {missing[0]} is missing ({required[missing[0]].label})", node
            )
        try:
            return make(**values)
        except WrongKey as wrong:
            raise WrongPart(f"{which}: {wrong}", places.get(wrong.key, node)) from None

    def read(node: yaml.Node) -> tuple[T, ...]:
        node = unfolded(node, "[")
        if node.tag == NULL_TAG:
            raise Wrong(f"has no value; expected: {label}")
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return tuple(read_one(part, f"{noun} {number}") for number, part in enumerate(parts, 1))

    return Kind(label, read, repeatable=True)


def _known_key(node: yaml.Node, which: str, kinds: Mapping[str, Kind[Any]]) -> str:
    name = str(node.value) if isinstance(node, yaml.ScalarNode) else "?"
    if name.lower() not in kinds:
        hint = suggestion(name, kinds, otherwise=f"it takes {', '.join(kinds)}")
        raise WrongPart(f"{which}: {quote(name)} is unknown; {hint}", node)
    return name.lower()


# --- Firewall rules

ACTIONS = tuple(action.value for action in Action)


def _pattern(label: str, check: Callable[[str], str]) -> Kind[NamePattern]:
    """A literal name that passes ``check``, or a regular expression between slashes."""

    def read(node: yaml.Node) -> NamePattern:
        value = scalar_text(node, label)
        if not value:
            # receptor takes an empty pattern for every name. An empty variable of a template must
            # not open a firewall.
            raise Wrong("is empty; leave it out to match every name")
        if not value.startswith(SLASH):
            check(value)
        try:
            return NamePattern.parse(value)
        except ValueError as error:
            raise Wrong(str(error)) from None

    return Kind(label, read)


def _check_any_service(value: str) -> str:
    return value if value in RESERVED_SERVICES else check_service(value)


def _rule(
    action: str,
    fromnode: NamePattern | None = None,
    tonode: NamePattern | None = None,
    fromservice: NamePattern | None = None,
    toservice: NamePattern | None = None,
) -> Rule:
    return Rule(Action(action), fromnode, tonode, fromservice, toservice)


def firewall_rules() -> Kind[tuple[Rule, ...]]:
    """A list of rules; the first one that matches a message decides."""
    node = _pattern("node ID or /regular expression/", check_node_id)
    service = _pattern("service name or /regular expression/", _check_any_service)
    return records_of(
        "rule",
        _rule,
        {"action": choice(ACTIONS)},
        fromnode=node,
        tonode=node,
        fromservice=service,
        toservice=service,
    )
