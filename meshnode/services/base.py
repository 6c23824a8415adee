"""What every service has in common: how it is run, how it listens, what it logs."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import trio

from meshnode.errors import MeshnodeError
from meshnode.logs import SubjectLogger
from meshnode.mesh.datagrams import DatagramSocket
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.streams.stream import MeshStream
from meshnode.net.sockets import CannotListen

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.security.tls import TlsSource


class Service(Protocol):
    """One service of a node, for as long as :meth:`run` runs."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; ``started`` tells that clients are accepted.

        What goes wrong with one client costs that client.

        Raises:
            CannotListen: what the directive asks for cannot be had; only before ``started``.
        """
        ...


async def listen_on_mesh(
    mesh: Mesh, service: str, tags: Mapping[str, str], tls: "TlsSource | None" = None
) -> trio.abc.Listener[MeshStream]:
    """Open a stream service for a directive; ``tls`` has its settings.

    Raises:
        CannotListen: the name is taken on this node.
    """
    try:
        return await mesh.listen(service, tags=tags, tls=tls)
    except MeshnodeError as exc:
        raise CannotListen("service", service, str(exc)) from exc


def open_datagrams(
    mesh: Mesh, service: str, tags: Mapping[str, str], parameter: str = "service"
) -> DatagramSocket:
    """Open a datagram service for a directive.

    Raises:
        CannotListen: the name is taken on this node.
    """
    try:
        return mesh.open_datagrams(service, tags=tags)
    except MeshnodeError as exc:
        raise CannotListen(parameter, service, str(exc)) from exc


MOST_REASONS = 32
"""Reasons that are counted apart. Ours are fewer, but some texts come from other nodes."""

OTHER_REASONS = "other reasons"


class DropCount:
    """Counts what a datagram service had to drop, and why, in few lines of log."""

    def __init__(self, log: SubjectLogger) -> None:
        self._log = log
        self.counts: Counter[str] = Counter()

    def note_quietly(self, reason: str) -> None:
        """Count one that is nobody's loss."""
        self.counts[self._kind(reason)] += 1

    def _kind(self, reason: str) -> str:
        is_new = reason not in self.counts and len(self.counts) >= MOST_REASONS
        return OTHER_REASONS if is_new else reason

    def note(self, reason: str) -> None:
        """Count one; the first of its kind, and each power of ten of them, is logged."""
        reason = self._kind(reason)
        self.counts[reason] += 1
        count = self.counts[reason]
        if str(count).strip("0") == "1":
            what = "a datagram" if count == 1 else f"{count} datagrams so far"
            self._log.warning("dropped %s: %s", what, reason)
