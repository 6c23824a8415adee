"""What only one directive can have, whatever directives ask for it: a port, a socket, a service.

Two directives of one kind that clash are found by ``unique`` in their declarations; this is about
directives of different kinds. Ports that clash only once host names are looked up are found when
the node starts.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from meshnode.config.faults import FaultLog, quote
from meshnode.config.schema import Directive

CLAIMS: Final[Sequence[Mapping[str, tuple[str, ...]]]] = (
    # Service names: the mesh has one namespace of them for each node.
    {
        "control-service": ("service",),
        "tcp-client": ("service",),
        "udp-client": ("service",),
        "unix-socket-client": ("service",),
        "command-service": ("service",),
        "ip-router": ("networkname",),
    },
    # Types of work.
    {
        "work-command": ("worktype",),
        "work-python": ("worktype",),
    },
    # TCP ports.
    {
        "tcp-listener": ("bindaddr", "port"),
        "ws-listener": ("bindaddr", "port"),
        "tcp-server": ("bindaddr", "port"),
    },
    # UDP ports.
    {
        "udp-listener": ("bindaddr", "port"),
        "udp-server": ("bindaddr", "port"),
    },
    # Unix sockets.
    {
        "control-service": ("filename",),
        "unix-socket-server": ("filename",),
    },
)
"""For each thing that is there once: directives that ask for it, and with which parameters."""


def check_claims(typed: Sequence[Directive], faults: FaultLog) -> None:
    """Note what directives of different kinds both ask for."""
    for claim in CLAIMS:
        first: dict[tuple[object, ...], Directive] = {}
        for current in typed:
            names = claim.get(current.INFO.name)
            if names is None:
                continue
            key = tuple(getattr(current, name) for name in names)
            # Empty means "none", and port 0 "any": two of those do not clash.
            if not key[-1]:
                continue
            other = first.setdefault(key, current)
            if other.INFO.name != current.INFO.name:
                _note(current, names[-1], other, claim[other.INFO.name][-1], faults)


def _note(
    current: Directive, name: str, other: Directive, other_name: str, faults: FaultLog
) -> None:
    place = current.place_of(name)
    where = other.place_of(other_name).seen_from(place)
    value = quote(str(getattr(current, name)))
    text = f"{value} is already used by the {other.INFO.name} {where}"
    faults.add(place, current.INFO.name, name, text=text)
