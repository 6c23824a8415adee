"""Makes typed directives of what was written, and one configuration of the directives."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from meshnode.config.access_directives import AccessRuleDirective, check_rules
from meshnode.config.directives import (
    CERT_NAMES,
    DIRECTIVES,
    IGNORED_DIRECTIVES,
    NodeConfig,
    singular,
)
from meshnode.config.doubts import note_doubts
from meshnode.config.faults import COMMAND_LINE, FaultLog, Place, quote, suggestion
from meshnode.config.http_directives import HttpService, check_http
from meshnode.config.isolation_directives import check_isolation
from meshnode.config.job_arguments import check_templates
from meshnode.config.kinds import STANDARD, WrongPart
from meshnode.config.link_directives import ListenerDirective, PeerDirective, check_schemes
from meshnode.config.names import Address, Wrong
from meshnode.config.node_directives import (
    AuditLogDirective,
    ControlService,
    LocalOnly,
    LogLevel,
    Node,
)
from meshnode.config.schema import Directive, DirectiveInfo, Origin, ParameterInfo
from meshnode.config.service_directives import ServiceDirective
from meshnode.config.signing_directives import WorkSigning, WorkVerification, check_verifiable
from meshnode.config.sources import RawDirective, RawParameter, place_of
from meshnode.config.ssh_directives import WorkSsh, check_ssh
from meshnode.config.tls_directives import TlsClient, TlsServer, check_tls
from meshnode.config.work_directives import WorkDirective, WorkKubernetes

if TYPE_CHECKING:
    from meshnode.config.cert_directives import CertDirective

D = TypeVar("D", bound=Directive)

OPTIONS = ("config", "help", "version")
"""Options that a mistyped directive on the command line may have been meant to be."""


def build(
    raws: Iterable[RawDirective], whole: Place, faults: FaultLog, *, for_reload: bool = False
) -> NodeConfig:
    """Return the configuration that the directives make.

    Args:
        raws: the directives in the order in which they were given.
        whole: named by faults that concern no single directive.
        faults: where the faults of reading went, and where more may go.
        for_reload: whether a node that runs takes it over. It may lose its last link so.

    Raises:
        ConfigFaults: anything at all is wrong; it has every fault found.
    """
    typed = _singled(_typed(list(raws), DIRECTIVES, faults), faults)
    _check_claims(typed, faults)
    # Only once each directive is right: a mistyped listener is not also a missing one.
    if not faults:
        _check_links(typed, None if for_reload else whole, faults)
        check_verifiable(typed, faults)
        check_ssh(typed, faults)
        check_isolation(typed, faults)
        check_tls(typed, faults)
        check_http(typed, faults)
        check_schemes(typed, faults)
        check_rules(typed, faults)
        check_templates(typed, faults)
        note_doubts(typed, faults)
    node = _only(typed, Node) or _default_node(whole, faults)
    faults.raise_if_any()
    assert node is not None
    return NodeConfig(
        node=node,
        log_level=_only(typed, LogLevel) or LogLevel(),
        listeners=_all(typed, ListenerDirective),
        peers=_all(typed, PeerDirective),
        control_services=_all(typed, ControlService),
        http_services=_all(typed, HttpService),
        access_rules=_all(typed, AccessRuleDirective),
        audit_log=_only(typed, AuditLogDirective),
        services=_all(typed, ServiceDirective),
        tls_servers=_all(typed, TlsServer),
        tls_clients=_all(typed, TlsClient),
        work_types=_all(typed, WorkDirective),
        kubernetes_types=_all(typed, WorkKubernetes),
        ssh_types=_all(typed, WorkSsh),
        work_signing=_only(typed, WorkSigning),
        work_verifications=_all(typed, WorkVerification),
        local_only=_alone(typed) is not None and not _links(typed),
        warnings=faults.warnings,
    )


def are_errands(raws: Iterable[RawDirective]) -> bool:
    """Whether files of certificates are to be made, and no node is to be started."""
    return any(raw.name.lower() in CERT_NAMES for raw in raws)


def build_errands(raws: Iterable[RawDirective], faults: FaultLog) -> "tuple[CertDirective, ...]":
    """Return the directives that make files of certificates, in the order in which they are done.

    Raises:
        ConfigFaults: anything at all is wrong, or there are directives of a node.
    """
    from meshnode.config.cert_directives import CERT_DIRECTIVES, check_errands  # noqa: PLC0415

    errands = _typed(list(raws), CERT_DIRECTIVES, faults)
    check_errands(errands, faults)
    faults.raise_if_any()
    return tuple(sorted(errands, key=lambda errand: CERT_DIRECTIVES.index(type(errand))))


# --- One directive ----------------------------------------------------------------------------


def _typed(
    raws: Sequence[RawDirective], directives: Iterable[type[D]], faults: FaultLog
) -> list[D]:
    known = {cls.INFO.name: cls for cls in directives}
    typed = []
    for raw in raws:
        name = raw.name.lower()
        cls = known.get(name)
        if name in IGNORED_DIRECTIVES:
            faults.warn(raw.place, name, text=f"has no effect here; {IGNORED_DIRECTIVES[name]}")
        elif cls is None:
            _note_unknown(raw, faults)
        else:
            made = _make(cls, raw, faults)
            typed += [made] if made else []
    return typed


def _note_unknown(raw: RawDirective, faults: FaultLog) -> None:
    known = [cls.INFO.name for cls in DIRECTIVES]
    if raw.name.lower() in known:
        text = "cannot stand beside directives that make certificates: they start no node"
        faults.add(raw.place, raw.name, text=text)
        return
    if raw.name.lower() in CERT_NAMES:
        text = "makes certificates once and by itself; it cannot stand beside a node's directives"
        faults.add(raw.place, raw.name, text=text)
        return
    if one := singular(raw.name.lower()):
        faults.add(raw.place, raw.name, text=f'unknown directive; did you mean "{one}"?')
        return
    valid = [*known, *CERT_NAMES, *IGNORED_DIRECTIVES]
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
            sound &= _note_other_parameter(info, candidate, faults)
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


def _note_other_parameter(info: DirectiveInfo, given: RawParameter, faults: FaultLog) -> bool:
    """Note a parameter that is not used, and return whether the directive stands without it."""
    name = given.name.lower()
    if name in info.ignored:
        faults.warn(given.place, info.name, name, text="has no effect here")
        return True
    names = [p.name for p in info.parameters]
    takes = f"{info.name} takes {', '.join(names) or 'no parameters'}"
    hint = suggestion(given.name, [*names, *info.ignored], otherwise=takes)
    faults.add(given.place, info.name, given.name, text=f"unknown parameter; {hint}")
    return False


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
        words = wrong.receptors_words
        faults.add(place, info.name, parameter.name, text=str(wrong), receptors_words=words)
        return False
    return True


# --- All directives ---------------------------------------------------------------------------


def _singled(typed: Sequence[Directive], faults: FaultLog) -> list[Directive]:
    """Keep one of what may be given once; the command line's goes before a file's where it may."""
    kept: list[Directive] = []
    for current in typed:
        info, place = current.INFO, current.origin.place
        first = next((d for d in kept if info.once and d.INFO.name == info.name), None)
        if first is None:
            kept.append(current)
        elif info.overridable and place.source == COMMAND_LINE != first.origin.place.source:
            kept[kept.index(first)] = _overridden(first, current)
        else:
            where = first.origin.place.seen_from(place)
            faults.add(place, info.name, text=f"is given twice; the first is {where}")
    return kept


def _overridden(first: Directive, second: Directive) -> Directive:
    """Return a directive with those parameters replaced that a second one gives."""
    given = second.origin.parameters
    values: dict[str, Any] = {
        p.field: getattr(second, p.field) for p in first.INFO.parameters if p.name in given
    }
    origin = Origin(second.origin.place, {**first.origin.parameters, **given})
    return dataclasses.replace(first, **values, origin=origin)


def _check_claims(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note each directive that asks for what an earlier one has taken."""
    taken: dict[tuple[object, ...], tuple[Directive, str]] = {}
    for current in typed:
        info = current.INFO
        for thing, parameters in info.claims.items():
            name = parameters[-1]
            value = getattr(current, name)
            # Compared with directives that have the two as parameters of their own.
            split = (value.host, value.port) if type(value) is Address else (value,)
            if not split[-1]:
                continue
            key = (thing, *(getattr(current, other) for other in parameters[:-1]), *split)
            first, its_name = taken.setdefault(key, (current, name))
            if first is not current:
                place = current.place_of(name)
                where = first.place_of(its_name).seen_from(place)
                text = f"{quote(str(value))} is already used by the {first.INFO.name} {where}"
                faults.add(place, info.name, name, text=text)


def _check_links(typed: Sequence[Directive], whole: Place | None, faults: FaultLog) -> None:
    """Note at ``whole``, if given, that there are neither links nor ``local-only``."""
    if whole and not _alone(typed) and not _links(typed):
        faults.add(
            whole,
            text="no link is configured; add a tcp-listener or tcp-peer, "
            "or local-only to run without any",
        )


def _links(typed: Iterable[Directive]) -> list[Directive]:
    return [d for d in typed if isinstance(d, (ListenerDirective, PeerDirective))]


def _alone(typed: Iterable[Directive]) -> LocalOnly | None:
    return next((only for only in _all(typed, LocalOnly) if only.local), None)


def _default_node(whole: Place, faults: FaultLog) -> Node | None:
    """Return the node of a configuration without a node directive."""
    if faults:
        return None
    return _make(Node, RawDirective(Node.INFO.name, whole), faults)


def _all(typed: Iterable[Directive], cls: type[D]) -> tuple[D, ...]:
    return tuple(d for d in typed if isinstance(d, cls))


def _only(typed: Iterable[Directive], cls: type[D]) -> D | None:
    return next(iter(_all(typed, cls)), None)
