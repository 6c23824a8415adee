"""The control service: a unix socket, TCP and the mesh, and a session for each of their clients."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

from meshnode import resources
from meshnode.config import Address
from meshnode.control.budgets import SessionBudgets
from meshnode.control.places import MAX_LEAVING, Bounds, Places
from meshnode.control.registry import CommandRegistry, SessionKind
from meshnode.control.session import Session
from meshnode.control.usernames import UserNames
from meshnode.errors import ConfigError, MeshnodeError, TlsProblem, TlsRefused
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.mesh.mesh import Mesh
from meshnode.net.accept import serve
from meshnode.net.sockets import (
    UNKNOWN_HOLDER,
    CannotListen,
    holder_of,
    identify,
    names_in,
    open_tcp_listeners,
)
from meshnode.net.unix_listener import UnixListener
from meshnode.protocol.control import TAKEN_KEYS, TAKES_TAG, encode_error
from meshnode.protocol.routing import WorkType
from meshnode.security.identity import Identity, MeshClient, TcpClient, UnixClient
from meshnode.shares import Holder

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.net.tls import TlsStream
    from meshnode.security.tls import TlsSettings, TlsSource

SERVICE_TAGS = {"type": "Control Service", TAKES_TAG: ",".join(sorted(TAKEN_KEYS))}
"""Tags that the service is advertised with (protocol section 6)."""


KEPT_BACK: Final[dict[SessionKind, int | None]] = {
    "unix": resources.KEPT_FROM_OPERATORS,
    "tcp": resources.KEPT_BACK,
    "mesh": None,
}
"""Descriptors that clients of each kind leave to the rest of the node; those on the mesh take
none."""

REFUSAL_TIMEOUT = 2.0
"""Seconds for telling a client that there is no place for its session."""

IDLE_CHECK = 30.0
"""Seconds between two looks for sessions that have waited for too long. Time-outs are minutes at
least; a timer for each session would cost each command more than reading it."""


@dataclass(frozen=True, slots=True)
class ControlListener:
    """An open listener and what its clients are to the service."""

    kind: SessionKind
    address: str
    listener: trio.abc.Listener[trio.abc.HalfCloseableStream]
    tls: "TlsSource | None" = None

    def __str__(self) -> str:
        return f"{self.kind} {self.address}"


async def open_listeners(
    *,
    service: str,
    filename: str,
    permissions: int,
    tcplisten: Address | None,
    mesh: Mesh,
    work_types: Sequence[WorkType],
    tcptls: "TlsSource | None" = None,
    tls: "TlsSource | None" = None,
) -> list[ControlListener]:
    """Open what a ``control-service`` directive names; an empty text or None names nothing.

    ``tcptls`` has the settings for TLS at the TCP port, ``tls`` those on the mesh. The mesh comes
    last: nobody hears of a service that then fails to start.

    Raises:
        ConfigError: something cannot be opened, or nothing is named. Nothing stays open.
    """
    opened: list[ControlListener] = []
    try:
        if filename:
            opened.append(
                ControlListener("unix", filename, UnixListener.open(filename, permissions))
            )
        if tcplisten:
            opened += [
                ControlListener("tcp", str(tcplisten), tcp, tcptls)
                for tcp in await open_tcp(tcplisten)
            ]
        if service:
            opened.append(
                ControlListener("mesh", service, await _listen(mesh, service, work_types, tls))
            )
    except BaseException:
        with trio.CancelScope(shield=True):
            for source in opened:
                await trio.aclose_forcefully(source.listener)
        raise
    if not opened:
        raise ConfigError(
            "control-service: nobody could reach it; give a service, filename or tcplisten"
        )
    return opened


async def _listen(
    mesh: Mesh, service: str, work_types: Sequence[WorkType], tls: "TlsSource | None"
) -> trio.abc.Listener[trio.abc.HalfCloseableStream]:
    try:
        return await mesh.listen(service, tags=SERVICE_TAGS, work_types=work_types or None, tls=tls)
    except MeshnodeError as error:
        raise CannotListen("service", service, str(error)) from error


async def open_tcp(address: Address) -> list[trio.SocketListener]:
    """Listen on a TCP address.

    Raises:
        CannotListen: the address is not free, or its host cannot be looked up.
    """
    try:
        return await open_tcp_listeners(address.host, address.port)
    except (OSError, ValueError) as error:  # ValueError: a name that DNS cannot hold
        reason = getattr(error, "strerror", None) or error
        raise CannotListen("tcplisten", str(address), str(reason)) from error


class ControlService:
    """The sessions of one node, whatever listeners their clients come by."""

    def __init__(
        self,
        node_id: str,
        registry: CommandRegistry,
        bounds: Callable[[SessionKind], Bounds] = Bounds.of,
        budgets: SessionBudgets | None = None,
    ) -> None:
        """Without ``budgets`` its sessions share nothing with those of other faces."""
        self._node_id = node_id
        self._registry = registry
        self._bounds = bounds
        self._numbers = count(1)
        self._places: dict[SessionKind, Places] = {}
        self._sources: list[ControlListener] = []
        self._budgets = budgets or SessionBudgets()
        self._users = UserNames()
        self.tls_refusals = Counter[TlsProblem]()
        """Handshakes over TCP that failed, by the reason."""

    async def run(
        self,
        listeners: Sequence[ControlListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve clients until cancelled; then close the listeners.

        Several calls at once share one node's sessions and their bounds.
        """
        self._sources += listeners
        try:
            async with trio.open_nursery() as watch:
                watch.start_soon(self._end_idle)
                async with trio.open_nursery() as nursery:
                    for source in listeners:
                        log = subject_logger("control", str(source))
                        log.info("listening")
                        nursery.start_soon(self._serve_source, source, log)
                    task_status.started()
                watch.cancel_scope.cancel()
        finally:
            for source in listeners:
                self._sources.remove(source)

    def restore_sockets(self) -> None:
        """Make unix sockets again whose files somebody has deleted; others are as they were."""
        for source in self._sources:
            if isinstance(source.listener, UnixListener):
                source.listener.restore(subject_logger("control", str(source)))

    async def serve(
        self,
        stream: trio.abc.HalfCloseableStream,
        kind: SessionKind,
        peer: str = "",
        client: Identity | None = None,
        tls: "TlsSource | None" = None,
        known: Holder | None = None,
    ) -> None:
        """Serve one client to its end and close its stream; raises nothing but cancellation.

        ``peer`` names a ``client`` of whom nothing else is known; ``tls`` is what it must speak;
        ``known`` is on whose account it is, if the stream does not say it.
        """
        log = subject_logger("session", f"{kind}#{next(self._numbers)}")
        known = known or holder_of(stream)
        name = peer if known is UNKNOWN_HOLDER else known.name
        # Nodes choose their names: none is another kind of client's.
        holder = Holder(f"{kind} {name}", known.branch, known.is_near, known.is_owner)
        places = self._places_of(kind)
        place = places.take(holder)
        if place is None:
            await _refuse(stream, places, log, peer)
            return
        try:
            if tls is not None:
                # With a place: handshakes that nobody ends take no more of them than sessions do.
                secured = await secure(stream, tls(), log, peer, self.tls_refusals)
                if secured is None:
                    return
                stream = secured
                if isinstance(client, TcpClient) and secured.certificate is not None:
                    client = TcpClient(client.address, names_in(secured.certificate))
            session = Session(
                stream,
                kind=kind,
                peer=peer,
                node_id=self._node_id,
                registry=self._registry,
                log=log,
                client=client,
                place=place,
                budgets=self._budgets,
            )
            await session.run()
        finally:
            places.leave(place)

    @property
    def places(self) -> Mapping[SessionKind, Places]:
        """The places of its sessions, by what clients came by; of no kind before its first."""
        return self._places

    def _places_of(self, kind: SessionKind) -> Places:
        places = self._places.get(kind)
        if places is None:
            places = self._places[kind] = Places(self._bounds(kind))
        return places

    async def _end_idle(self) -> None:
        while True:
            await trio.sleep(IDLE_CHECK)
            for places in self._places.values():
                places.end_idle()

    async def _serve_source(self, source: ControlListener, log: SubjectLogger) -> None:
        async def serve_client(stream: trio.abc.HalfCloseableStream) -> None:
            client = await self._identify(stream)
            peer = client.node if isinstance(client, MeshClient) else str(client)
            await self.serve(stream, source.kind, peer, client, source.tls)

        await serve([source.listener], log, serve_client, kept_back=KEPT_BACK[source.kind])

    async def _identify(self, stream: trio.abc.HalfCloseableStream) -> Identity:
        """Return who a client is; of a user also the name, if that is known soon."""
        client = identify(stream)
        if not isinstance(client, UnixClient):
            return client
        try:
            user = await self._users.name_of(client.uid)
        except trio.Cancelled:
            await trio.aclose_forcefully(stream)
            raise
        return UnixClient.of(client.uid, client.gid, client.pid, user)


async def secure(
    stream: trio.abc.AsyncResource,
    settings: "TlsSettings",
    log: SubjectLogger,
    peer: str,
    refusals: Counter[TlsProblem],
    protocols: Sequence[bytes] = (),
) -> "TlsStream | None":
    """Shake hands with a client and return the stream; None if that fails, and all is closed.

    ``refusals`` counts what was refused, by the reason; ``protocols`` are what is spoken over it,
    best first.
    """
    from meshnode.net.tls import TlsStream  # noqa: PLC0415 - only where TLS is asked for

    assert isinstance(stream, trio.SocketStream)
    secured = TlsStream(stream, settings, protocols=protocols)
    try:
        await secured.shake_hands()
    except TlsRefused as refusal:
        refusals[refusal.problem] += 1
        log.warning("refused %s: %s", peer, refusal)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        log.debug("client lost: %s", error)
    except Exception:
        # A client's boundary: a fault of ours costs only this one.
        log.exception("cannot shake hands with %s", peer)
    else:
        return secured
    finally:
        if not secured.is_open:
            await trio.aclose_forcefully(stream)
    return None


async def _refuse(
    stream: trio.abc.HalfCloseableStream, places: Places, log: SubjectLogger, peer: str
) -> None:
    log.warning("refused %s: %d sessions are open", peer, places.taken)
    places.leaving += 1
    try:
        if places.leaving > MAX_LEAVING:
            await trio.aclose_forcefully(stream)
            return
        async with stream:
            with trio.move_on_after(REFUSAL_TIMEOUT):
                await stream.send_all(encode_error("too many sessions; try again later"))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        log.debug("client lost: %s", error)
    except Exception:
        # A client's boundary: a fault of ours costs only this one.
        log.exception("cannot close %s", peer)
    finally:
        places.leaving -= 1
