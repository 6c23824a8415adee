"""The ``firewallrules`` of a node, in receptor's notation."""

from collections.abc import Callable
from dataclasses import dataclass

import yaml

from meshnode.config.kinds import Kind, choice, scalar_text
from meshnode.config.names import RESERVED_SERVICES, Wrong, check_node_id, check_service
from meshnode.config.records import records_of
from meshnode.patterns import SLASH, NamePattern

ACTIONS = ("accept", "reject", "drop")


@dataclass(frozen=True, slots=True)
class FirewallRule:
    """One rule: ``action`` is one of ACTIONS; a pattern that is not given matches every name."""

    action: str
    fromnode: NamePattern | None = None
    tonode: NamePattern | None = None
    fromservice: NamePattern | None = None
    toservice: NamePattern | None = None


def _pattern(label: str, check: Callable[[str], str]) -> Kind[NamePattern]:
    """A literal name that passes ``check``, or a regular expression between slashes."""

    def read(node: yaml.Node) -> NamePattern:
        value = scalar_text(node, label)
        if not value:
            # For receptor that matches every name, which is not what an empty variable of a
            # template was meant to say.
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


def firewall_rules() -> Kind[tuple[FirewallRule, ...]]:
    """A list of rules, of which the first that matches a message decides."""
    node = _pattern("node ID or /regular expression/", check_node_id)
    service = _pattern("service name or /regular expression/", _check_any_service)
    return records_of(
        "rule",
        FirewallRule,
        {"action": choice(ACTIONS)},
        fromnode=node,
        tonode=node,
        fromservice=service,
        toservice=service,
    )
