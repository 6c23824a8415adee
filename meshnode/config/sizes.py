"""Sizes in bytes as people write them: ``100MiB``, ``2GB``, ``4096``."""

import re

import yaml

from meshnode.config.faults import quote
from meshnode.config.kinds import Kind, scalar_text
from meshnode.config.names import Wrong

UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
"""Bytes in each unit, whose letters may be of any case."""

_SIZE = re.compile(r"([0-9]{1,15})\s*([a-zA-Z]*)")


def size() -> Kind[int]:
    """Return the kind of a number of bytes, at least 1."""
    label = "size such as 4096, 100MiB or 2GB"

    def read(node: yaml.Node) -> int:
        value = scalar_text(node, label)
        match = _SIZE.fullmatch(value.strip())
        unit = UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise Wrong(f"{quote(value)} is not a {label}")
        if int(match[1]) == 0:
            raise Wrong(f"{quote(value)} is too small; it must be at least 1 byte")
        return int(match[1]) * unit

    return Kind(label, read)
