"""A directive as it was written, before anything is known of it: names, values, places.

Files (yaml_source.py) and arguments (argv_source.py) both end here, so that everything after is
written once.
"""

from dataclasses import dataclass

import yaml

from meshnode.config.faults import Place


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
