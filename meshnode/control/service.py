"""The control service: serves every client that its listeners accept, each in its own session."""

import resource
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count

import trio

from meshnode.control.listeners import ControlListener
from meshnode.control.registry import CommandRegistry, SessionKind
from meshnode.control.session import Session
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.mesh.accepting import Acceptor
from meshnode.mesh.sockets import peer_name
from meshnode.protocol.control import encode_error

MAX_SESSIONS = 2048
"""Sessions at a time of one kind (unix, tcp, mesh). Each remote unit that a node runs for another
holds two mesh sessions and each costs some tens of KiB. Counted by kind, so that clients of the
network cannot take the operator's own socket away."""

DESCRIPTORS_SHARE = 3
"""One in so many of the process's file descriptors is for sessions of one kind of socket: those on
TCP may take theirs, and those on the unix socket theirs, and the links still have the rest."""

REFUSAL_TIMEOUT = 2.0
"""Seconds for telling a client that it is one too many."""

CLOSE_TIMEOUT = 1.0
"""Seconds for a listener to close although its node ends: one on the mesh withdraws its
advertisement."""


class ControlService:
    """The sessions of one node, whatever listeners their clients come by."""

    def __init__(self, node_id: str, registry: CommandRegistry) -> None:
        self._node_id = node_id
        self._registry = registry
        self._numbers = count(1)
        self._open: Counter[SessionKind] = Counter()

    async def run(
        self,
        listeners: Sequence[ControlListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve clients until cancelled; then close the listeners.

        Several calls at once share one node's sessions and their bounds.
        """
        async with AsyncExitStack() as closing:
            for source in listeners:
                closing.push_async_callback(_close, source)
            nursery = await closing.enter_async_context(trio.open_nursery())
            for source in listeners:
                nursery.start_soon(self._accept, source)
            task_status.started()

    async def serve(
        self, stream: trio.abc.HalfCloseableStream, kind: SessionKind, peer: str
    ) -> None:
        """Serve one client to its end and close its stream; raises nothing but cancellation."""
        name = f"{kind}#{next(self._numbers)}"
        log = subject_logger("session", name)
        bound = _most(kind)
        if self._open[kind] >= bound:
            await _refuse(stream, bound, log)
            return
        self._open[kind] += 1
        try:
            session = Session(
                stream,
                kind=kind,
                peer=peer,
                node_id=self._node_id,
                registry=self._registry,
                log=log,
            )
            await session.run()
        finally:
            self._open[kind] -= 1

    async def _accept(self, source: ControlListener) -> None:
        log = subject_logger("control", str(source))
        log.info("listening")
        accept = source.listener.accept
        acceptor = Acceptor(accept, log, takes_descriptor=source.kind != "mesh")
        async with trio.open_nursery() as sessions:
            while (stream := await acceptor.next()) is not None:
                sessions.start_soon(self.serve, stream, source.kind, peer_name(stream))


async def _close(source: ControlListener) -> None:
    with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
        await source.listener.aclose()


def _most(kind: SessionKind) -> int:
    """Return how many sessions of a kind may be open; those on the mesh need no descriptor."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if kind == "mesh" or limit == resource.RLIM_INFINITY:
        return MAX_SESSIONS
    return min(MAX_SESSIONS, limit // DESCRIPTORS_SHARE)


async def _refuse(stream: trio.abc.HalfCloseableStream, bound: int, log: SubjectLogger) -> None:
    log.warning("refused: %d sessions are open", bound)
    try:
        async with stream:
            with trio.move_on_after(REFUSAL_TIMEOUT):
                await stream.send_all(encode_error("too many sessions; try again later"))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        log.debug("client lost: %s", error)
