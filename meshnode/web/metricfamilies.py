"""Every metric that a node has: its name, what kind it is, what it says, and its labels.

The names follow the conventions of Prometheus: a prefix, base units, ``_total`` for what only
grows. docs/metrics.md has the same table for people, and a test compares the two. What the metrics
of a kind are read from is in :mod:`.meshmetrics`, :mod:`.workmetrics` and :mod:`.nodemetrics`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """What may be done with the numbers of a metric."""

    GAUGE = "gauge"
    """It goes up and down."""
    COUNTER = "counter"
    """It only grows, until the node, or the link that it is about, begins anew."""
    HISTOGRAM = "histogram"
    """It counts values by ranges."""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One metric, of which there is a series for each combination of its labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(f"meshnode_{name}", Kind.GAUGE, text, labels)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(f"meshnode_{name}_total", Kind.COUNTER, text, labels)


def _histogram(name: str, text: str, *labels: str) -> Family:
    return Family(f"meshnode_{name}", Kind.HISTOGRAM, text, labels)


# --- the node ------------------------------------------------------------------------------------

BUILD_INFO: Final = _gauge(
    "build_info",
    "Always 1; its labels say which node and build this is.",
    "node",
    "version",
    "python",
)
START_TIME: Final = _gauge("start_time_seconds", "When the node started, in Unix time.")
LOOP_DELAY: Final = _histogram(
    "event_loop_delay_seconds",
    "For how long the event loop was busy in one go, so that everybody else waited.",
)
SESSIONS: Final = _gauge(
    "sessions",
    "Sessions of the control service and connections of HTTP services now.",
    "service",
    "way",
)
SESSIONS_OPENED: Final = _counter(
    "sessions_opened", "Such sessions and connections that were let in.", "service", "way"
)
SESSIONS_REFUSED: Final = _counter(
    "sessions_refused",
    "Such sessions and connections for which there was no place.",
    "service",
    "way",
)
HTTP_RESPONSES: Final = _counter(
    "http_responses", "Responses of HTTP services, by their status.", "status"
)
TLS_REFUSALS: Final = _counter(
    "tls_refusals",
    "Clients of these services that were refused for their TLS, or refused ours.",
    "service",
    "reason",
)
SIGNATURE_REFUSALS: Final = _counter(
    "signature_refusals", "Requests that were refused for their signature.", "reason"
)
ACCESS_REFUSALS: Final = _counter(
    "access_refusals", "Requests that were refused since their client may not have that.", "reason"
)
AUDIT_WAITING: Final = _gauge(
    "audit_waiting_lines", "Lines of the audit log that wait for the disk."
)
AUDIT_LOST: Final = _counter("audit_lost_lines", "Lines of the audit log that were lost.")
CERTIFICATE_END: Final = _gauge(
    "certificate_end_timestamp_seconds",
    "When a certificate that this node shows ends, in Unix time.",
    "directive",
    "name",
)

# --- the mesh ------------------------------------------------------------------------------------

_LINK: Final = ("peer", "kind")

LINK_UP: Final = _gauge(
    "link_up", "Whether there is a link to a node; 0 for an hour after it was lost.", *_LINK
)
LINK_SINCE: Final = _gauge(
    "link_established_timestamp_seconds", "When the link came up, in Unix time.", *_LINK
)
LINK_COST: Final = _gauge("link_cost", "What the link costs.", *_LINK)
LINK_ROUND_TRIP: Final = _gauge(
    "link_round_trip_seconds", "Time to the peer and back, as measured last.", *_LINK
)
LINK_SENT_BYTES: Final = _counter("link_sent_bytes", "Bytes that were sent on the link.", *_LINK)
LINK_RECEIVED_BYTES: Final = _counter(
    "link_received_bytes", "Bytes that were received on the link.", *_LINK
)
LINK_SENT: Final = _counter("link_sent_messages", "Messages that were sent on the link.", *_LINK)
LINK_RECEIVED: Final = _counter(
    "link_received_messages", "Messages that were received on the link.", *_LINK
)
LINK_DROPPED: Final = _counter(
    "link_dropped_messages", "Data messages that found the queue of the link full.", *_LINK
)
LINK_REFUSED: Final = _counter(
    "link_refused_messages", "Malformed updates and advertisements that came by the link.", *_LINK
)
LINKS_MADE: Final = _counter("links_established", "Links that came up.")
LINKS_LOST: Final = _counter("links_lost", "Links that ended.")
LINKS_WAITING: Final = _gauge("link_queue_bytes", "Bytes that wait to be sent on all links.")
PEER_UP: Final = _gauge(
    "configured_peer_up", "Whether a peer of the configuration has a link.", "directive", "address"
)
LISTENER_UP: Final = _gauge(
    "listener_up", "Whether a listener of the configuration has its port.", "directive", "address"
)
LISTENER_LINKS: Final = _gauge(
    "listener_links", "Links that are up of a listener.", "directive", "address"
)
REJECTED: Final = _gauge("rejected_peers", "Nodes that this one rejected in the last hour.")
ROUTES: Final = _gauge("routes", "Nodes that can be reached.")
KNOWN_NODES: Final = _gauge("known_nodes", "Other nodes that were heard of, reachable or not.")
ROUTE_COMPUTATIONS: Final = _counter("route_computations", "Computations of routes.")
ROUTE_CHANGES: Final = _counter("route_changes", "Computations after which routes were others.")
FORWARDED: Final = _counter("forwarded_messages", "Messages that were passed on to other nodes.")
DROPPED: Final = _counter("dropped_messages", "Messages that went no further here.", "reason")
STREAM_CONNECTIONS: Final = _gauge("stream_connections", "QUIC connections with other nodes.")

# --- work ----------------------------------------------------------------------------------------

_TYPE: Final = ("runner", "type")

UNITS: Final = _gauge("units", "Units that are there.", *_TYPE, "state")
UNITS_SUBMITTED: Final = _counter("units_submitted", "Units that were submitted here.", *_TYPE)
UNITS_ENDED: Final = _counter("units_ended", "Units that have ended.", *_TYPE, "state")
START_DELAY: Final = _histogram(
    "unit_start_delay_seconds", "Time from submissions to the starts of their units.", *_TYPE
)
RUN_TIME: Final = _histogram("unit_run_seconds", "Time from starts of units to their ends.", *_TYPE)
PAYLOAD_BYTES: Final = _counter("unit_payload_bytes", "Bytes of input that were taken in.", *_TYPE)
RESULT_BYTES: Final = _counter(
    "unit_result_bytes", "Bytes of output that were sent to clients.", *_TYPE
)
QUEUE_LENGTH: Final = _gauge("queue_length", "Units that wait in the queue for their turn.", "type")
QUEUE_RUNNING: Final = _gauge("queue_running", "Units that have a place to run.", "type")
QUEUE_TYPE_LIMIT: Final = _gauge(
    "queue_type_limit", "Most units of a type that run at once (maxconcurrent).", "type"
)
QUEUE_NODE_LIMIT: Final = _gauge(
    "queue_node_limit", "Most units of all types that run at once (maxrunning)."
)
STARTS_WAITING: Final = _gauge(
    "starts_waiting", "Units whose turn has come and that wait for what the machine lacks."
)
SUPERVISORS: Final = _gauge("supervisors", "Supervisors of running commands.")
BATCHES: Final = _gauge("batches", "Batches that are there.", "state")
DISK_FREE: Final = _gauge("disk_free_bytes", "Bytes left on the disk of the units.")
DISK_SIZE: Final = _gauge("disk_size_bytes", "Bytes that the disk of the units has in all.")
DISK_INODES: Final = _gauge("disk_free_inodes", "Files for which the disk of the units has room.")
REFUSED_WRITES: Final = _counter(
    "store_refused_writes", "Times that the disk did not take a unit or a status."
)
SLOW_OPERATIONS: Final = _counter(
    "store_slow_operations", "Operations of the units' disk that took longer than 0.1 s."
)

FAMILIES: Final = tuple(value for value in tuple(vars().values()) if isinstance(value, Family))
"""All of them, in this order."""
