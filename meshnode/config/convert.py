"""Writes directives as a YAML list, whichever form of file they were read from.

Values stay as they were written (``0660``, quotes, flow style). Merge keys are replaced by what
they stand for; comments are not kept.
"""

from collections.abc import Iterable

import yaml

from meshnode.config.directives import named
from meshnode.config.faults import FaultLog
from meshnode.config.files import read_file
from meshnode.config.kinds import STANDARD
from meshnode.config.sources import RawDirective

WIDTH = 1 << 20
"""Columns at which long values are folded: never, so that a command stays one line."""


def list_form(path: str) -> str:
    """Return the directives of a file as a YAML list.

    Raises:
        ConfigFaults: the file cannot be read or is no configuration.
    """
    faults = FaultLog()
    raws = read_file(path, faults)
    faults.raise_if_any()
    # One by one: what several of them share is written in each, not as an alias.
    return "---\n" + "".join(map(_written, raws))


def _written(raw: RawDirective) -> str:
    root = yaml.SequenceNode(STANDARD + "seq", [_item(raw)], flow_style=False)
    return str(yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=WIDTH))


def _item(raw: RawDirective) -> yaml.Node:
    info = named(raw.name)
    name = _scalar(info.name if info else raw.name)
    if raw.bare is not None:
        return _map([(name, _own(raw.bare))])
    if not raw.parameters:
        return name
    parameters = [
        (_scalar(parameter.name.lower()), _own(parameter.value)) for parameter in raw.parameters
    ]
    return _map([(name, _map(parameters))])


def _own(node: yaml.Node) -> yaml.Node:
    """Return a scalar of its own, so that one which several maps share is written in each."""
    if not isinstance(node, yaml.ScalarNode):
        return node
    return yaml.ScalarNode(node.tag, node.value, style=node.style)


def _map(pairs: Iterable[tuple[yaml.Node, yaml.Node]]) -> yaml.MappingNode:
    return yaml.MappingNode(STANDARD + "map", list(pairs), flow_style=False)


def _scalar(text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode(STANDARD + "str", text)
