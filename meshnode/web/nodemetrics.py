"""What metrics say of the node itself: its build, its event loop, who was let in and who not."""

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from meshnode.control.places import Places
from meshnode.control.registry import WAYS, SessionKind
from meshnode.errors import SignatureProblem, TlsProblem
from meshnode.histogram import LOOP_SECONDS, Histogram
from meshnode.security.access import AccessRules, Grounds
from meshnode.security.audit import AuditLog
from meshnode.security.tlsstore import ShownCertificate
from meshnode.version import VERSION
from meshnode.web import metricfamilies as families
from meshnode.web.readings import Readings
from meshnode.work.units.signatures import Signatures

PlacesByKind = Mapping[SessionKind, Places]
"""The places of a service's sessions, by what their clients came by."""


EXPECTED: Final = (200, 401, 403, 429, 500, 503)
"""Statuses that are told before the first response has one: alerts are about them."""


class LoopDelay(trio.abc.Instrument):
    """Measures for how long the event loop is busy before it looks for events again.

    Whatever becomes due meanwhile waits that long at most. Every turn of the loop is measured, so
    no stall is missed; a task that sleeps and looks how late it wakes would see few of them. Trio
    calls this only while it is installed.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.delays = Histogram(LOOP_SECONDS)
        self._clock = clock
        self._begun: float | None = None

    def after_io_wait(self, timeout: float) -> None:
        """Note that a turn of the loop begins."""
        self._begun = self._clock()

    def before_io_wait(self, timeout: float) -> None:
        """Note that it is over."""
        if self._begun is not None:
            self.delays.note(self._clock() - self._begun)


class NodeReader:
    """Reads what a node is and whom it lets in, for metrics."""

    def __init__(
        self,
        node_id: str,
        rules: AccessRules,
        signatures: Signatures,
        audit: AuditLog,
        certificates: Callable[[], Sequence[ShownCertificate]],
    ) -> None:
        self.loop = LoopDelay()
        self.responses: Counter[int] = Counter()
        """What HTTP services have answered, by its status."""
        self._node_id = node_id
        self._started = time.time()
        self._rules = rules
        self._signatures = signatures
        self._audit = audit
        self._certificates = certificates
        self._services: list[tuple[str, PlacesByKind]] = []
        self._handshakes: list[tuple[str, Mapping[TlsProblem, int]]] = []

    def watch(
        self, service: str, places: PlacesByKind, tls_refusals: Mapping[TlsProblem, int]
    ) -> None:
        """Read a service's sessions as well; several may have one name, and are added up.

        ``tls_refusals`` are the clients that it refused for their TLS, by the reason.
        """
        self._services.append((service, places))
        self._handshakes.append((service, tls_refusals))

    def read(self, into: Readings) -> None:
        """Read all of that as it is now."""
        into.add(families.BUILD_INFO, 1, self._node_id, VERSION, platform.python_version())
        into.add(families.START_TIME, self._started)
        into.distribute(families.LOOP_DELAY, self.loop.delays.distribution())
        self._read_sessions(into)
        for service, refusals in self._handshakes:
            for reason in TlsProblem:
                count = refusals.get(reason, 0)
                into.add(families.TLS_REFUSALS, count, service, reason.value)
        for status in {*EXPECTED, *self.responses}:
            into.add(families.HTTP_RESPONSES, self.responses[status], str(int(status)))
        for problem in SignatureProblem:
            count = self._signatures.refusals[problem]
            into.add(families.SIGNATURE_REFUSALS, count, problem.value)
        for grounds in Grounds:
            into.add(families.ACCESS_REFUSALS, 0, grounds)
        for (_, grounds), count in self._rules.refusals.items():
            into.add(families.ACCESS_REFUSALS, count, grounds)
        into.add(families.AUDIT_WAITING, self._audit.waiting_lines)
        into.add(families.AUDIT_LOST, self._audit.lost_lines)
        # A renewed certificate may stand beside the one that it replaces: the first end counts.
        ends: dict[tuple[str, str], float] = {}
        for shown in self._certificates():
            end, name = shown.certificate.not_after.timestamp(), (shown.directive, shown.name)
            ends[name] = min(end, ends.get(name, end))
        for name, end in ends.items():
            into.add(families.CERTIFICATE_END, end, *name)

    def _read_sessions(self, into: Readings) -> None:
        for service, by_kind in self._services:
            for kind, places in by_kind.items():
                way = WAYS[kind].value
                into.add(families.SESSIONS, places.taken, service, way)
                into.add(families.SESSIONS_OPENED, places.opened, service, way)
                into.add(families.SESSIONS_REFUSED, places.refused, service, way)
