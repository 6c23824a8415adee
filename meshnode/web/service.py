"""The HTTP service of a node: its listeners, and a place and an identity for each connection."""

import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

from meshnode.config import HttpService as HttpServiceDirective
from meshnode.config import NodeConfig
from meshnode.control.budgets import SessionBudgets
from meshnode.control.places import Bounds, Places
from meshnode.control.registry import CommandRegistry, SessionKind
from meshnode.control.service import IDLE_CHECK, KEPT_BACK, ControlService, secure
from meshnode.control.usernames import UserNames
from meshnode.errors import TlsProblem, TlsRefused
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.mesh.peers.configured import ConfiguredLinks
from meshnode.net.accept import serve
from meshnode.net.sockets import CannotListen, holder_of, identify, names_in, open_tcp_listeners
from meshnode.net.unix_listener import UnixListener
from meshnode.resources import MemoryTrimmer
from meshnode.security.identity import Identity, TcpClient, UnixClient
from meshnode.security.tlsstore import TlsStore
from meshnode.shares import Holder
from meshnode.version import VERSION
from meshnode.web import health
from meshnode.web.app import make_app
from meshnode.web.commands import Commands
from meshnode.web.identity import BRIEF, FULL, IDLE_TIMEOUT, RETRY, Caller, Connection
from meshnode.web.leaving import Leaving
from meshnode.web.metrics import Metrics
from meshnode.web.problems import UNAVAILABLE, Problem
from meshnode.web.routing import WebNode
from meshnode.web.server import Server
from meshnode.web.spool import Spool
from meshnode.web.wire import CHUNK, PROTOCOLS, last_response
from meshnode.work.configured import ConfiguredWork

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.net.tls import TlsStream
    from meshnode.security.bearer import TokenStore
    from meshnode.security.tls import TlsSettings, TlsSource


Leave = Callable[[], Awaitable[None]]
"""Ends what clients have open while the node is still whole."""

MAX_CONNECTIONS: Final = 512
"""Connections at a time of one kind (unix, tcp) to one HTTP service; each takes COST, of
which most is for what its requests and responses wait in."""

COST: Final = 100 * 1024
"""Bytes that a connection takes and gives back."""

SHARE: Final = 3 / 4
"""Part of these that one user or address may have."""

BRIEF_SHARE: Final = 1 / 8
"""As many connections, as a part of these, are let in beyond the bounds for what is short: whoever
follows events on all places of an address leaves others there a way to ask for something."""

MAX_REFUSALS: Final = 64
"""Clients without a place that are told why at a time; more are only closed."""

REFUSAL_TIMEOUT: Final = 2.0
"""Seconds for that."""

KEPT: Final = 1 / 16
"""Part of the places on a unix socket that only root and the node's own user may take."""

DESCRIPTORS_SHARE: Final = 8
"""The process's descriptors, divided by this, are for connections of one kind."""


def bounds_of(kind: SessionKind) -> Bounds:
    """Return how many connections of a kind there may be in this process."""
    most = MAX_CONNECTIONS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY:
        most = max(1, min(most, limit // DESCRIPTORS_SHARE))
    kept = int(most * KEPT) if kind == "unix" else 0
    return Bounds(most, max(1, int(most * SHARE)), kept, brief=max(2, int(most * BRIEF_SHARE)))


@dataclass(frozen=True, slots=True)
class HttpListener:
    """An open listener and what its clients come by."""

    kind: SessionKind
    address: str
    listener: trio.SocketListener | UnixListener


async def open_listeners(directive: HttpServiceDirective) -> list[HttpListener]:
    """Open what an ``http-service`` directive names.

    Raises:
        CannotListen: something cannot be opened. Nothing stays open.
    """
    opened: list[HttpListener] = []
    if directive.filename:
        unix = UnixListener.open(directive.filename, directive.permissions)
        opened.append(HttpListener("unix", directive.filename, unix))
    if directive.port is not None:
        try:
            for tcp in await open_tcp_listeners(directive.bindaddr, directive.port):
                host, port = tcp.socket.getsockname()[:2]
                opened.append(HttpListener("tcp", f"{host}:{port}", tcp))
        except (OSError, ValueError) as error:  # ValueError: a name that DNS cannot hold
            for one in opened:
                await one.listener.aclose()
            reason = getattr(error, "strerror", None) or str(error)
            raise CannotListen("port", str(directive.port), reason) from error
    return opened


@dataclass(slots=True)
class _Secured:
    """A connection over TLS, and by which settings its client was judged."""

    stream: "TlsStream"
    settings: "TlsSettings"
    log: SubjectLogger


class HttpService:
    """The connections of one ``http-service`` directive."""

    def __init__(
        self,
        directive: HttpServiceDirective,
        node: WebNode,
        tls: "TlsSource | None" = None,
        tokens: "TokenStore | None" = None,
    ) -> None:
        self._server = Server(make_app(directive, node, tokens))
        self._tls = tls
        self._numbers = count(1)
        self._places: dict[SessionKind, Places] = {}
        self._users = UserNames()
        self.tls_refusals = Counter[TlsProblem]()
        """Clients that were refused in the handshake, or later by other settings."""
        self._leaving = Leaving()
        self._secured: dict[Connection, _Secured] = {}
        self._refusing = 0
        """Clients without a place that are being told so."""
        self._listeners: list[HttpListener] = []
        self._nursery: trio.Nursery | None = None

    @property
    def places(self) -> Mapping[SessionKind, Places]:
        """The places of its connections, by what clients came by."""
        return self._places

    async def run(
        self,
        listeners: list[HttpListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve connections until cancelled; then close the listeners."""
        async with trio.open_nursery() as nursery:
            self._nursery, self._listeners = nursery, listeners
            for source in listeners:
                self._places.setdefault(source.kind, Places(bounds_of(source.kind)))
                log = subject_logger("http", f"{source.kind} {source.address}")
                log.info("listening")
                nursery.start_soon(self._serve_source, source, log)
            nursery.start_soon(self._end_idle, MemoryTrimmer(nursery.start_soon))
            task_status.started()

    async def leave(self) -> None:
        """Let nobody new in, and have what is open end, within a time; the service runs."""
        assert self._nursery is not None
        for source in self._listeners:
            await source.listener.aclose()
        await self._server.leave(self._leaving, self._nursery)

    async def _end_idle(self, memory: MemoryTrimmer) -> None:
        before = 0
        while True:
            await trio.sleep(IDLE_CHECK)
            for places in self._places.values():
                places.end_idle()
            # A crowd that is gone leaves what its responses waited in with the C library.
            ended = sum(places.opened - places.taken for places in self._places.values())
            memory.freed((ended - before) * COST)
            before = ended

    async def _serve_source(self, source: HttpListener, log: SubjectLogger) -> None:
        async def serve_client(stream: trio.SocketStream) -> None:
            await self.serve(stream, source.kind)

        await serve([source.listener], log, serve_client, kept_back=KEPT_BACK[source.kind])

    async def serve(self, stream: trio.SocketStream, kind: SessionKind) -> None:
        """Serve one connection to its end and close it; raises nothing but cancellation."""
        log = subject_logger("http", f"{kind}#{next(self._numbers)}")
        try:
            client = await self._identify(stream)
            known = holder_of(stream)
            # On another account than sessions of the control service: neither takes their places.
            holder = Holder(f"http {known.name}", known.branch, known.is_near, known.is_owner)
            places = self._places[kind]
            place = places.take(holder)
            if place is None:
                log.warning("refused %s: %d connections are open", client, places.taken)
                if self._tls is None or kind == "unix":
                    await self._refuse(stream)
                return
            try:
                if place.is_brief:
                    place.scope.deadline = trio.current_time() + BRIEF
                place.waits(IDLE_TIMEOUT)
                with place.scope:
                    connection = Connection(client, place, self._leaving)
                    await self._serve(stream, client, connection, log)
            finally:
                places.leave(place)
        except Exception:
            # A connection's boundary: a fault of ours, or of a library, costs only this one.
            log.exception("connection failed")
        finally:
            await trio.aclose_forcefully(stream)

    async def _refuse(self, stream: trio.SocketStream) -> None:
        """Tell a client that there is no place for its connection, in clear."""
        if self._refusing >= MAX_REFUSALS:
            return
        self._refusing += 1
        problem = Problem(UNAVAILABLE, f"{FULL}; try again later", RETRY)
        try:
            with trio.move_on_after(REFUSAL_TIMEOUT):
                await stream.send_all(last_response(problem, problem.kind.status))
                await stream.send_eof()
                # A socket that is closed with bytes unread is reset, and the response lost.
                while await stream.receive_some(CHUNK):
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it is gone
        finally:
            self._refusing -= 1

    async def _serve(
        self,
        stream: trio.SocketStream,
        client: Identity,
        connection: Connection,
        log: SubjectLogger,
    ) -> None:
        if self._tls is None or isinstance(client, UnixClient):
            await self._server.serve(stream, connection, log)
            return
        settings = self._tls()
        secured = await secure(stream, settings, log, str(client), self.tls_refusals, PROTOCOLS)
        if secured is None:
            return
        if isinstance(client, TcpClient) and secured.certificate is not None:
            connection.client = TcpClient(client.address, names_in(secured.certificate))
        self._secured[connection] = _Secured(secured, settings, log)
        try:
            # Other settings may have come during the handshake.
            if self._is_trusted(connection):
                await self._server.serve(secured, connection, log)
        finally:
            del self._secured[connection]

    def when_renewed(self) -> None:
        """Judge clients again: the service has other TLS settings."""
        if self._nursery is not None and self._tls is not None:
            self._nursery.start_soon(self._judge_again)

    async def _judge_again(self) -> None:
        for connection in list(self._secured):
            if connection in self._secured and not self._is_trusted(connection):
                connection.abort()
            # Each takes about as long as a request.
            await trio.lowlevel.checkpoint()

    def _is_trusted(self, connection: Connection) -> bool:
        """Whether a client's certificate would be taken now, too."""
        assert self._tls is not None
        one, settings = self._secured[connection], self._tls()
        if one.settings is settings:
            return True
        one.settings = settings
        try:
            one.stream.judge_again(settings)
        except TlsRefused as refusal:
            self.tls_refusals[refusal.problem] += 1
            one.log.warning("ended %s: %s", connection.client.brief, refusal)
            return False
        return True

    async def _identify(self, stream: trio.SocketStream) -> Identity:
        """Return who a client is; of a user also the name, if that is known soon."""
        client = identify(stream)
        if not isinstance(client, UnixClient):
            return client
        user = await self._users.name_of(client.uid)
        return UnixClient.of(client.uid, client.gid, client.pid, user)


async def start_web(
    config: NodeConfig,
    registry: CommandRegistry,
    budgets: SessionBudgets,
    control: ControlService,
    links: ConfiguredLinks,
    work: ConfiguredWork,
    tls: TlsStore,
    tokens: "TokenStore | None",
    metrics: Metrics,
    nursery: trio.Nursery,
) -> Leave:
    """Start what ``http-service`` directives say; return what ends it, before the node stops.

    Raises:
        ConfigError: something cannot be opened.
    """
    root = work.units.store.root

    async def shortage() -> str:
        return health.missing_link(links.report()) or await health.unwritable(root)

    async def serve_session(stream: trio.abc.HalfCloseableStream, caller: Caller) -> None:
        peer = str(caller.client)
        await control.serve(stream, caller.kind, peer, caller.client, known=caller.holder)

    registry.register(metrics.command())
    await nursery.start(metrics.run)
    commands = Commands(config.node.id, registry, budgets)
    responses = metrics.node.responses
    node = WebNode(
        config.node.id, VERSION, commands, shortage, Spool(root), serve_session, responses
    )
    services = []
    for directive in config.http_services:
        try:
            listeners = await open_listeners(directive)
        except CannotListen as exc:
            raise directive.unavailable(exc.parameter, exc.problem) from exc
        service = HttpService(directive, node, tls.find_server(directive.tls), tokens)
        metrics.node.watch("http", service.places, service.tls_refusals)
        await nursery.start(service.run, listeners)
        tls.when_renewed(service.when_renewed)
        services.append(service)

    async def leave() -> None:
        async with trio.open_nursery() as leaving:
            for service in services:
                leaving.start_soon(service.leave)

    return leave
