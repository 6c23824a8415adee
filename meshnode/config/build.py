"""Makes typed directives of what was written, and one configuration of the directives."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import yaml

from meshnode.config.directives import (
    DIRECTIVES,
    ControlService,
    LocalOnly,
    LogLevel,
    Node,
    NodeConfig,
)
from meshnode.config.faults import COMMAND_LINE, FaultLog, Place, quote, suggestion
from meshnode.config.kinds import STANDARD, WrongPart
from meshnode.config.link_directives import ListenerDirective, PeerDirective
from meshnode.config.names import Wrong
from meshnode.config.schema import Directive, DirectiveInfo, Origin, ParameterInfo
from meshnode.config.service_directives import ServiceDirective
from meshnode.config.sources import RawDirective, RawParameter, place_of
from meshnode.config.work_directives import (
    WorkDirective,
    WorkSigning,
    WorkVerification,
    check_verifiable,
)

# --- What only one directive can have, whatever directives ask for it: a port, a socket, a
# service
#
# Two directives of one kind that clash are found by ``unique`` in their declarations; this is
# about directives of different kinds. Ports that clash only once host names are looked up are
# found when the node starts.

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


# --- Directives that receptor has, or that are planned, and that meshnode does not support yet
#
# They are refused by name: a configuration that asks for TLS and silently gets none would be
# worse than one that does not start.

LATER_DIRECTIVES: Final = (
    "tls-server",
    "tls-client",
    "work-kubernetes",
    "trace",
    "cert-init",
    "cert-makereq",
    "cert-signreq",
)
"""Every directive of receptor that is not in directives.py."""


pass  # SELFIMPORT
pass  # SELFIMPORT

D = TypeVar("D", bound=Directive)

OPTIONS = ("config", "help", "version")
"""What a mistyped directive on the command line may have been meant to be as well."""


def build(raws: Iterable[RawDirective], whole: Place, faults: FaultLog) -> NodeConfig:
    """Return the configuration that the directives make.

    Args:
        raws: the directives in the order in which they were given.
        whole: named by faults that concern no single directive.
        faults: where the faults of reading went, and where more may go.

    Raises:
        ConfigFaults: anything at all is wrong; it has every fault found.
    """
    typed = _singled(_typed(list(raws), faults), faults)
    for cls in DIRECTIVES:
        _check_unique([d for d in typed if isinstance(d, cls)], cls.INFO, faults)
    # Only once each directive is right: a mistyped listener is not also a missing one.
    check_claims(typed, faults)
    if not faults:
        _check_links(typed, whole, faults)
        check_verifiable(typed, faults)
    node = _only(typed, Node) or _default_node(whole, faults)
    faults.raise_if_any()
    assert node is not None
    return NodeConfig(
        node=node,
        log_level=_only(typed, LogLevel) or LogLevel(),
        listeners=_all(typed, ListenerDirective),
        peers=_all(typed, PeerDirective),
        control_services=_all(typed, ControlService),
        services=_all(typed, ServiceDirective),
        work_types=_all(typed, WorkDirective),
        work_signing=_only(typed, WorkSigning),
        work_verification=_only(typed, WorkVerification),
        local_only=bool(_all(typed, LocalOnly)),
    )


# --- One directive ----------------------------------------------------------------------------


def _typed(raws: Sequence[RawDirective], faults: FaultLog) -> list[Directive]:
    known = {cls.INFO.name: cls for cls in DIRECTIVES}
    typed = []
    for raw in raws:
        cls = known.get(raw.name.lower())
        if cls is None:
            _note_unknown(raw, known, faults)
        else:
            made = _make(cls, raw, faults)
            typed += [made] if made else []
    return typed


def _note_unknown(raw: RawDirective, known: Iterable[str], faults: FaultLog) -> None:
    if raw.name.lower() in LATER_DIRECTIVES:
        faults.add(raw.place, raw.name, text="not supported yet")
        return
    valid = [*known, *LATER_DIRECTIVES]
    if raw.place.source == COMMAND_LINE:
        valid += OPTIONS
    hint = suggestion(raw.name, valid, otherwise="meshnode --help lists all directives")
    faults.add(raw.place, raw.name, text=f"unknown directive; {hint}")


def _make(cls: type[D], raw: RawDirective, faults: FaultLog) -> D | None:
    """Return the typed directive, or None if a fault of it was noted."""
    info = cls.INFO
    given, matched = _matched(info, raw, faults)
    values: dict[str, Any] = {}
    sound = matched
    for parameter in info.parameters:
        if parameter.name in given:
            sound &= _read(info, parameter, given[parameter.name], values, faults)
        elif parameter.required and matched:  # else it is likely the one that was mistyped
            faults.add(raw.place, info.name, parameter.name, text=_missing(parameter))
            sound = False
    if not sound:
        return None
    origin = Origin(raw.place, {name: found.place for name, found in given.items()})
    try:
        return cls(**values, origin=origin)
    except Wrong as wrong:  # a default that depends on the machine: the host name as node ID
        bare = info.bare
        faults.add(raw.place, info.name, *([bare.name] if bare else []), text=str(wrong))
        return None


def _missing(parameter: ParameterInfo) -> str:
    return f"is missing: {parameter.meaning} ({parameter.kind.label})"


def _matched(
    info: DirectiveInfo, raw: RawDirective, faults: FaultLog
) -> tuple[dict[str, RawParameter], bool]:
    """Match what was given to the directive's parameters, and say whether all of it matched."""
    given: dict[str, RawParameter] = {}
    sound = True
    candidates = list(raw.parameters)
    if raw.bare is not None:
        if info.bare is None:
            faults.add(raw.place, info.name, text=_no_bare(info))
            sound = False
        else:
            candidates.insert(0, RawParameter(info.bare.name, raw.place, raw.bare))
    for candidate in candidates:
        parameter = info.find(candidate.name)
        if parameter is None:
            _note_unknown_parameter(info, candidate, faults)
            sound = False
        elif parameter.name not in given:
            given[parameter.name] = candidate
        elif parameter.kind.repeatable and candidate.place.source == COMMAND_LINE:
            given[parameter.name] = _joined(given[parameter.name], candidate)
        else:
            first = given[parameter.name].place.seen_from(candidate.place)
            text = f"is given twice; the first is {first}"
            faults.add(candidate.place, info.name, parameter.name, text=text)
            sound = False
    return given, sound


def _no_bare(info: DirectiveInfo) -> str:
    if not info.parameters:
        return "takes no value"
    names = ", ".join(p.name for p in info.parameters)
    return f"takes no bare value; name the parameter it is for: {names}"


def _note_unknown_parameter(info: DirectiveInfo, given: RawParameter, faults: FaultLog) -> None:
    if given.name.lower() in info.later:
        faults.add(given.place, info.name, given.name, text="not supported yet")
        return
    names = [p.name for p in info.parameters]
    takes = f"{info.name} takes {', '.join(names) or 'no parameters'}"
    hint = suggestion(given.name, [*names, *info.later], otherwise=takes)
    faults.add(given.place, info.name, given.name, text=f"unknown parameter; {hint}")


def _joined(first: RawParameter, second: RawParameter) -> RawParameter:
    """Join arguments of the same name to one list: ``allowedpeers=a allowedpeers=b``."""
    values = first.value.value if isinstance(first.value, yaml.SequenceNode) else [first.value]
    node = yaml.SequenceNode(tag=STANDARD + "seq", value=[*values, second.value])
    return RawParameter(first.name, first.place, node)


def _read(
    info: DirectiveInfo,
    parameter: ParameterInfo,
    given: RawParameter,
    values: dict[str, Any],
    faults: FaultLog,
) -> bool:
    try:
        values[parameter.field] = parameter.kind.read(given.value)
    except Wrong as wrong:
        place = given.place
        if isinstance(wrong, WrongPart):
            place = place_of(wrong.node, place)
        faults.add(place, info.name, parameter.name, text=str(wrong))
        return False
    return True


# --- All directives ---------------------------------------------------------------------------


def _singled(typed: Sequence[Directive], faults: FaultLog) -> list[Directive]:
    """Note second ones of what may be given once; let the command line override where it may."""
    kept: list[Directive] = []
    for current in typed:
        info, place = current.INFO, current.origin.place
        first = next((d for d in kept if info.once and d.INFO.name == info.name), None)
        if first is None:
            kept.append(current)
        elif info.overridable and place.source == COMMAND_LINE != first.origin.place.source:
            kept[kept.index(first)] = current
        else:
            where = first.origin.place.seen_from(place)
            faults.add(place, info.name, text=f"is given twice; the first is {where}")
    return kept


def _check_unique(alike: Sequence[Directive], info: DirectiveInfo, faults: FaultLog) -> None:
    for names in info.unique:
        seen: dict[tuple[Any, ...], Directive] = {}
        for current in alike:
            key = tuple(getattr(current, name) for name in names)
            # Empty means "none", and port 0 "any": two of those do not clash.
            if not key[-1]:
                continue
            first = seen.setdefault(key, current)
            if first is not current:
                place = current.place_of(names[-1])
                where = first.place_of(names[-1]).seen_from(place)
                text = f"{quote(str(key[-1]))} is already used by the {info.name} {where}"
                faults.add(place, info.name, names[-1], text=text)


def _check_links(typed: Sequence[Directive], whole: Place, faults: FaultLog) -> None:
    links = [d for d in typed if isinstance(d, (ListenerDirective, PeerDirective))]
    alone = _only(typed, LocalOnly)
    if alone and links:
        first = links[0]
        where = first.origin.place.seen_from(alone.origin.place)
        text = f"contradicts the {first.INFO.name} {where}; remove one of them"
        faults.add(alone.origin.place, alone.INFO.name, text=text)
    if not alone and not links:
        faults.add(
            whole,
            text="no link is configured; add a tcp-listener or tcp-peer, "
            "or local-only to run without any",
        )


def _default_node(whole: Place, faults: FaultLog) -> Node | None:
    """Return the node of a configuration without a node directive."""
    if faults:
        return None
    return _make(Node, RawDirective(Node.INFO.name, whole), faults)


def _all(typed: Iterable[Directive], cls: type[D]) -> tuple[D, ...]:
    return tuple(d for d in typed if isinstance(d, cls))


def _only(typed: Iterable[Directive], cls: type[D]) -> D | None:
    return next(iter(_all(typed, cls)), None)
