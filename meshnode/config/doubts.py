"""What a configuration says that is no mistake, but may not do what was meant.

``meshnode check`` warns of it, and so does a start, in its log. What the machine has to do with is
in check.py.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from meshnode.config.access_directives import note_unreached
from meshnode.config.faults import FaultLog, quote
from meshnode.config.link_directives import ListenerDirective, PeerDirective
from meshnode.config.node_directives import ControlService, LocalOnly, Node
from meshnode.config.schema import Directive
from meshnode.config.service_directives import TcpServer, UdpServer, UnixSocketServer
from meshnode.config.tls_directives import TlsServer
from meshnode.config.work_directives import WorkDirective, WorkKubernetes

PORTABLE_ID = re.compile(r"[A-Za-z0-9._@:-]+")
"""Node IDs that receptor takes."""


def note_doubts(typed: Sequence[Directive], faults: FaultLog) -> None:
    """Warn of what directives, each right in itself, do not do."""
    _note_local_only(typed, faults)
    _note_kubernetes(typed, faults)
    _note_odd_ids(typed, faults)
    _note_unused_tls(typed, faults)
    _note_unused_limits(typed, faults)
    note_unreached(typed, faults)


def _note_local_only(typed: Iterable[Directive], faults: FaultLog) -> None:
    directives = list(typed)
    link = next((d for d in directives if isinstance(d, ListenerDirective | PeerDirective)), None)
    for one in directives:
        if link and isinstance(one, LocalOnly) and one.local:
            where = link.origin.place.seen_from(one.origin.place)
            text = f"has no effect beside the {link.INFO.name} {where}"
            faults.warn(one.origin.place, one.INFO.name, text=text)


def _note_kubernetes(typed: Iterable[Directive], faults: FaultLog) -> None:
    for one in typed:
        if isinstance(one, WorkKubernetes):
            text = (
                f"{quote(one.worktype)} cannot be run by this node: it is not advertised, and "
                "submissions of it are refused"
            )
            faults.warn(one.place_of("worktype"), one.INFO.name, "worktype", text=text)


def _note_odd_ids(typed: Iterable[Directive], faults: FaultLog) -> None:
    for one in typed:
        for parameter, name in _ids(one):
            if not PORTABLE_ID.fullmatch(name):
                text = (
                    f"{quote(name)} is no node ID for receptor, which takes A-Z a-z 0-9 . - _ @ :"
                )
                faults.warn(one.place_of(parameter), one.INFO.name, parameter, text=text)


def _note_unused_tls(typed: Iterable[Directive], faults: FaultLog) -> None:
    for one in typed:
        if isinstance(one, ControlService) and one.tcptls and not one.tcplisten:
            text = "has no effect without tcplisten"
            faults.warn(one.place_of("tcptls"), one.INFO.name, "tcptls", text=text)
        if not isinstance(one, TlsServer):
            continue
        if one.pinnedclientcert and not one.requireclientcert:
            text = (
                "checks only the certificates that clients show; with requireclientcert: true "
                "they must show one"
            )
            faults.warn(
                one.place_of("pinnedclientcert"), one.INFO.name, "pinnedclientcert", text=text
            )
        if one.requireclientcert and one.clientcas is None:
            text = "without clientcas lets clients in whose certificate any CA of the system signed"
            faults.warn(
                one.place_of("requireclientcert"), one.INFO.name, "requireclientcert", text=text
            )


def _note_unused_limits(typed: Iterable[Directive], faults: FaultLog) -> None:
    for one in typed:
        if isinstance(one, WorkDirective) and one.limits_optional and not one.limits:
            name = "limits-optional"
            faults.warn(
                one.place_of(name), one.INFO.name, name, text="has no effect without limits"
            )


def _ids(directive: Directive) -> Iterator[tuple[str, str]]:
    """Return the node IDs of a directive, each with the parameter that names it."""
    if isinstance(directive, Node):
        yield "id", directive.id
    if isinstance(directive, ListenerDirective):
        yield from (("nodecost", name) for name in directive.nodecost)
    if isinstance(directive, TcpServer | UdpServer | UnixSocketServer):
        yield "remotenode", directive.remotenode
    if isinstance(directive, ListenerDirective | PeerDirective):
        yield from (("allowedpeers", name) for name in directive.allowedpeers or ())
