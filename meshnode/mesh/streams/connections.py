"""What all QUIC connections of one node have in common.

The QUIC engine and its cryptography take as long to import as everything else that a node needs to
start, and a node without links never needs them. So what imports them is imported when the first
connection is made, or before by :func:`load_engine`.
"""

# Annotations name what is not imported yet.
from __future__ import annotations

import functools
import math
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import trio

from meshnode import files
from meshnode.errors import HandshakeRefused, NoEngine
from meshnode.logs import SubjectLogger
from meshnode.mesh.router import Router
from meshnode.mesh.streams.flowcontrol import Credit, CreditPool, SendBudget
from meshnode.protocol.namehash import NameTable
from meshnode.resources import MemoryTrimmer

if TYPE_CHECKING:
    from meshnode.mesh.streams.admission import Admission
    from meshnode.mesh.streams.certified import Judge
    from meshnode.mesh.streams.connection import Connection
    from meshnode.mesh.streams.identity import Identity
    from meshnode.mesh.streams.qlog import Qlog
    from meshnode.security.tls import TlsSettings

QLOGDIR = "QLOGDIR"
"""Environment variable that names the directory of logs in qlog, as for receptor."""

REPEATED_AFTER = 3600.0
"""Seconds after which a refusal that lasts is logged again."""

REMEMBERED = 256
"""Refusals that are remembered as logged."""

CONNECTION_BYTES = 50 * 1024
"""What a connection takes of memory, about."""

Spawn = Callable[[Callable[[], Awaitable[None]]], None]
"""Starts a connection's driver in the nursery of the mesh."""


def load_engine() -> None:
    """Import what streams need, so that the first one does not wait for it; for any thread.

    Raises:
        NoEngine: the machine lacks what that takes.
    """
    try:
        _import_engine()
    except (OSError, ImportError) as exc:
        if not _is_lack(exc):
            raise
        raise NoEngine(f"cannot load what streams need: {exc}") from exc


def judge_of(tls: TlsSettings | None, node: str) -> Judge | None:
    """Return who judges whether a connection's other end is a node; None without TLS settings."""
    if tls is None:
        return None
    from meshnode.mesh.streams.certified import Judge  # noqa: PLC0415

    return Judge(tls, node)


def _import_engine() -> None:
    from meshnode.mesh.streams import admission, dialed  # noqa: F401, PLC0415


def _is_lack(error: OSError | ImportError) -> bool:
    """Whether an import may succeed later. A library that cannot be loaded says why as text."""
    if isinstance(error, OSError):
        return files.is_passing(error)
    return any(os.strerror(lack) in str(error) for lack in files.PASSING)


def _open_qlog(spawn: Spawn) -> Qlog | None:
    if not os.environ.get(QLOGDIR):
        return None
    from meshnode.mesh.streams.qlog import open_qlog  # noqa: PLC0415

    return open_qlog(os.environ[QLOGDIR], spawn)


class Connections:
    """The QUIC connections of one node, and what they share."""

    def __init__(self, router: Router, names: NameTable, spawn: Spawn) -> None:
        self.router = router
        self.names = names
        self._spawn = spawn
        self.qlog = _open_qlog(spawn)
        """What logs the connections of this node in qlog, if it is told to."""
        self._running: set[Connection] = set()
        self._credit = CreditPool()
        self._memory = MemoryTrimmer(spawn)
        self._budgets: WeakValueDictionary[bytes, SendBudget] = WeakValueDictionary()
        """By node. Weak: a budget lives for as long as a connection with the node uses it."""
        self._branch_budgets: WeakValueDictionary[str, SendBudget] = WeakValueDictionary()
        """By branch. Weak: a budget lives for as long as one of a node of the branch."""
        self._refusals: dict[tuple[str, str], float] = {}
        """When handshakes with which nodes were refused for what; the last one is at the end."""

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Connection]:
        """Yield all connections that there are now; they may end meanwhile."""
        return iter(list(self._running))

    @functools.cached_property
    def identity(self) -> Identity:
        """What the listeners of this node present."""
        from meshnode.mesh.streams.identity import make_insecure_identity  # noqa: PLC0415

        return make_insecure_identity()

    @functools.cached_property
    def admission(self) -> Admission:
        """Who may begin a connection with the services of this node."""
        from meshnode.mesh.streams.admission import Admission  # noqa: PLC0415

        return Admission()

    def new_credit(self, node: bytes) -> Credit:
        """Return what another connection with a node may promise."""
        return Credit(self._credit, self.router.holder_of(node))

    def send_budget(self, node: bytes) -> SendBudget:
        """Return what may wait to be sent to a node, on all connections with it."""
        found = self._budgets.get(node)
        if found is None:
            branch = self._branch_budget(self.router.holder_of(node).branch)
            found = self._budgets[node] = SendBudget.of_node(branch)
        return found

    def _branch_budget(self, branch: str) -> SendBudget | None:
        if not branch:
            return None
        found = self._branch_budgets.get(branch)
        if found is None:
            found = self._branch_budgets[branch] = SendBudget.of_branch()
        return found

    def note_refusal(self, node: str, error: HandshakeRefused, log: SubjectLogger) -> None:
        """Log that an end was refused: once while it lasts, however often it is tried again."""
        now, kind = trio.current_time(), (node, error.kind)
        is_news = now >= self._refusals.get(kind, -math.inf) + REPEATED_AFTER
        if not is_news:
            log.debug("%s", error)
            return
        log.warning("%s", error)
        self._refusals.pop(kind, None)
        self._refusals[kind] = now
        if len(self._refusals) > REMEMBERED:
            del self._refusals[next(iter(self._refusals))]

    def note_trust(self, node: str) -> None:
        """Forget what was refused of a node, now that each end has shown to be who it should be."""
        for kind in [kind for kind in self._refusals if kind[0] == node]:
            del self._refusals[kind]

    def start(self, connection: Connection) -> None:
        """Drive a connection until it is over."""
        self._running.add(connection)
        self._spawn(connection.run)

    def ended(self, connection: Connection) -> None:
        """Forget a connection."""
        self._running.discard(connection)
        self._memory.freed(CONNECTION_BYTES)
