"""What ``status`` says of configured peers and listeners, of rejected nodes, and of certificates.

These keys are ours; receptor's clients show them as additional. Times are RFC 3339 by this node's
clock. Beside each stands a span in nanoseconds, for clients whose clock is another one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meshnode.control.registry import JsonObject
from meshnode.mesh.peers.conditions import (
    ConfiguredListener,
    ConfiguredPeer,
    LinksReport,
    Moment,
    Rejected,
    Trouble,
)
from meshnode.protocol.times import SECOND, format_time
from meshnode.security.tlsstore import ShownCertificate

Links = Callable[[], LinksReport]
"""Returns how each configured link fares."""


Certificates = Callable[[], Sequence[ShownCertificate]]
"""Returns the certificates that this node shows."""


def no_certificates() -> Sequence[ShownCertificate]:
    """Return none."""
    return ()


def certificate_fields(shown: Sequence[ShownCertificate]) -> list[JsonObject]:
    """Return the field ``Certificates`` of ``status``."""
    return [_certificate(one) for one in shown]


def _certificate(shown: ShownCertificate) -> JsonObject:
    found = shown.certificate
    return {
        "Directive": shown.directive,
        "Name": shown.name,
        "File": str(shown.file),
        "Subject": found.subject,
        "NodeIDs": list(found.node_ids),
        "Hosts": [*found.dns_names, *found.addresses],
        "NotBefore": format_time(int(found.not_before.timestamp()) * SECOND),
        "NotAfter": format_time(int(found.not_after.timestamp()) * SECOND),
        "EndsIn": int((found.not_after.timestamp() - time.time()) * SECOND),
    }


def _time(moment: Moment | None) -> str | None:
    return None if moment is None else format_time(int(moment.unix * SECOND))


def _age(moment: Moment | None) -> int | None:
    return None if moment is None else max(0, int(moment.age * SECOND))


def _last_error(trouble: Trouble | None) -> JsonObject:
    at = None if trouble is None else trouble.at
    return {
        "LastError": None if trouble is None else trouble.text,
        "LastErrorTime": _time(at),
        "LastErrorAge": _age(at),
    }


def _peer(peer: ConfiguredPeer) -> JsonObject:
    condition = peer.condition
    ahead = condition.next_try
    return {
        "Directive": peer.directive,
        "Address": peer.address,
        "State": condition.state.value,
        "NodeID": condition.node or None,
        "Since": _time(condition.since),
        "Age": _age(condition.since),
        "Attempts": condition.attempts,
        **_last_error(condition.trouble),
        "NextTry": _time(ahead),
        "NextTryIn": None if ahead is None else max(0, int(-ahead.age * SECOND)),
    }


def _listener(listener: ConfiguredListener) -> JsonObject:
    condition = listener.condition
    return {
        "Directive": listener.directive,
        "Address": listener.address,
        "State": condition.state.value,
        "Since": _time(condition.since),
        "Age": _age(condition.since),
        "Links": condition.links,
        "Opening": condition.opening,
        **_last_error(condition.trouble),
    }


def _rejected(rejected: Rejected) -> JsonObject:
    return {
        "NodeID": rejected.node,
        "Address": rejected.address,
        "Via": rejected.via,
        "Reason": rejected.reason,
        "Count": rejected.count,
        "First": _time(rejected.first),
        "Last": _time(rejected.last),
        "LastAge": _age(rejected.last),
    }


LINK_FIELDS: Mapping[str, Callable[[LinksReport], list[Any]]] = {
    "Peers": lambda report: [_peer(peer) for peer in report.peers],
    "Listeners": lambda report: [_listener(listener) for listener in report.listeners],
    "Rejected": lambda report: [_rejected(rejected) for rejected in report.rejected],
}
"""The fields of ``status`` about configured links. They are left out while they are empty."""
