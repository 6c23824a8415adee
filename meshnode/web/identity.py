"""Finds out who sends a request, by its connection and by what the request shows."""

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from meshnode.config import HttpService
from meshnode.control.places import Place
from meshnode.control.registry import SessionKind
from meshnode.security.identity import Identity, TcpClient, TokenClient, UnixClient
from meshnode.shares import Holder
from meshnode.web.authorization import HOW, loads_page, shown_token, unproved
from meshnode.web.leaving import Leaving
from meshnode.web.problems import UNAVAILABLE, WRONG_HOST, Problem

if TYPE_CHECKING:  # few nodes have tokens
    from meshnode.security.bearer import Token, TokenStore

CONNECTION: Final = "meshnode.connection"
"""Where the state of a request has its connection."""

STREAM: Final = "meshnode.stream"
"""Where it has what carries its response."""

CALLER: Final = "meshnode.caller"
"""Where the state of a request has its caller."""

PASSED_ON: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers of requests that a proxy passes on: whoever sends them is elsewhere."""

IDLE_TIMEOUT: Final = 60.0
"""Seconds for which a connection may wait for its next request, or for the rest of its headers."""


BRIEF: Final = 10.0
"""Seconds for a connection beyond the bounds: enough for a question and its answer."""

FULL: Final = "too many connections are open"

RETRY: Final = {"retry-after": str(int(BRIEF))}


class Proof(StrEnum):
    """By what a client has shown who it is."""

    NOTHING = "nothing"
    SOCKET = "socket"
    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105 - a word, no secret


@dataclass(frozen=True, slots=True)
class Caller:
    """The client of one request."""

    client: Identity
    kind: SessionKind
    proof: Proof
    holder: Holder
    """On whose account its sessions are."""
    token: "Token | None" = None


def caller_of(request: HTTPConnection) -> Caller:
    """Return who sends a request; the guard has found that out before any route is asked."""
    return known_caller(request.scope)


def known_caller(scope: Any) -> Caller:
    """Return the caller of a request's scope."""
    caller = scope["state"][CALLER]
    assert isinstance(caller, Caller)
    return caller


def connection_of(scope: Any) -> "Connection":
    """Return the connection by which a request came."""
    connection = scope["state"][CONNECTION]
    assert isinstance(connection, Connection)
    return connection


class ResponseStream(Protocol):
    """What carries the response of one request, as the server sees it."""

    @property
    def is_over(self) -> bool:
        """Whether the client is gone, or wants no more of it."""
        ...

    async def reset(self) -> None:
        """Break off a response that is not whole, so that the client can tell."""
        ...


@dataclass(slots=True, eq=False)
class Connection:
    """What is known of a connection, and how many of its requests are being served."""

    client: Identity
    place: Place
    leaving: Leaving = field(default_factory=Leaving)
    """Of its service: whether the node stops."""
    abort: Callable[[], None] = lambda: None
    """Breaks it off."""
    requests: int = 0
    served: int = 0
    """How many requests have begun, ever."""
    is_over: bool = False
    """Whether no more requests come."""
    whole: int = 0
    """How many of its requests had all come when they began."""
    _finished: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def check_lasts(self) -> None:
        """Return if it is one for what has no end of its own. Raises Problem."""
        if self.place.is_brief:
            text = f"{FULL} here: what is short is answered, and this would last; try again later"
            raise Problem(UNAVAILABLE, text, RETRY)

    @property
    def is_ending(self) -> bool:
        """Whether no more requests are taken when those that run have ended."""
        return self.place.is_brief or self.leaving.begun.is_set()

    def end(self) -> None:
        """Break it off when its requests have ended: no more of them come."""
        self.is_over = True
        if not self.requests:
            self.abort()

    async def finish(self) -> None:
        """Return when no request is served any more of which all had come."""
        # One begins a moment after its last byte was read.
        await trio.lowlevel.checkpoint()
        while self.whole:
            await self._finished.park()

    @contextmanager
    def serving(self, *, is_whole: bool = False) -> Iterator[None]:
        """Count a request for as long as it is served: the connection does not wait meanwhile.

        ``is_whole`` says that all of it has come.
        """
        self.requests += 1
        self.served += 1
        self.whole += is_whole
        self.place.works()
        try:
            yield
        finally:
            self.requests -= 1
            self.whole -= is_whole
            self._finished.unpark_all()
            if not self.requests:
                self.place.waits(IDLE_TIMEOUT)
                if self.is_over:
                    self.abort()


class Identifier:
    """Says who sends requests to one HTTP service."""

    def __init__(self, directive: HttpService, tokens: "TokenStore | None" = None) -> None:
        self._directive = directive
        self._tokens = tokens

    async def identify(self, connection: Connection, headers: Headers) -> Caller:
        """Return who sends a request.

        A token says more than the connection: whoever passes requests on for others shows theirs.

        Raises:
            Problem: nobody knows, and such requests are not served.
        """
        await trio.lowlevel.checkpoint()
        client, holder = connection.client, connection.place.holder
        certificate = client.certificate if isinstance(client, TcpClient) else None
        is_near_user = isinstance(client, UnixClient)
        if self._directive.requireclientcert and certificate is None and not is_near_user:
            raise unproved("show a certificate: this port requires one")
        if "authorization" in headers:
            token = self._find_token(headers)
            known = TokenClient(token.name, _address_of(client))
            return Caller(known, "tcp", Proof.TOKEN, holder, token)
        if is_near_user:
            return Caller(client, "unix", Proof.SOCKET, holder)
        if certificate is not None:
            return Caller(client, "tcp", Proof.CERTIFICATE, holder)
        self._admit(client, headers)
        return Caller(client, "tcp", Proof.NOTHING, holder)

    def while_known(self, caller: Caller) -> AbstractContextManager[trio.CancelScope | None]:
        """Run something for a caller until its token is taken away."""
        if caller.token is None or self._tokens is None:
            return nullcontext()
        return self._tokens.using(caller.token)

    def _find_token(self, headers: Headers) -> "Token":
        """Return the token that a request shows. Raises Problem."""
        asks_user = self._asks_user(headers)
        try:
            shown = shown_token(headers)
        except ValueError:
            raise unproved(HOW, asks_user=asks_user) from None
        file = self._directive.tokens
        if file is None or self._tokens is None:
            raise unproved("this service takes no tokens: its http-service names no file of them")
        token = self._tokens.find(file, shown.token)
        if token is None:
            text = "the token is not known here, or not any more"
            raise unproved(text, error="invalid_token", asks_user=asks_user)
        if shown.name not in ("", token.name):
            text = "the token has another name than the user's; leave the user's empty"
            raise unproved(text, error="invalid_token", asks_user=asks_user)
        return token

    def _asks_user(self, headers: Headers) -> bool:
        """Whether a browser is to ask its user for a token."""
        return self._directive.tokens is not None and loads_page(headers)

    def _admit(self, client: Identity, headers: Headers) -> None:
        """Let a client in of whom nothing is known. Raises Problem."""
        allows = self._directive.allowanonymous
        if allows:
            return
        if allows is None and is_near(client):
            if any(name in headers for name in PASSED_ON):
                text = "a proxy has passed this on and shows no token of who asks"
                raise unproved(text, asks_user=self._asks_user(headers))
            _check_host(headers.get("host", ""))
            return
        ways = ["a certificate"] if self._directive.tls else []
        if self._directive.tokens:
            ways.append("a token (Authorization: Bearer …, or as a password)")
        remedy = (
            f"show {' or '.join(ways)}"
            if ways
            else ("this service knows nobody: give its http-service tokens, or tls with clientcas")
        )
        raise unproved(remedy, asks_user=self._asks_user(headers))


def _address_of(client: Identity) -> str:
    """Return from where a client with a token comes."""
    return client.address if isinstance(client, TcpClient) else client.brief


def is_near(client: Identity) -> bool:
    """Whether a client is on this machine."""
    if not isinstance(client, TcpClient):
        return False
    host = client.address.rpartition(":")[0].strip("[]").partition("%")[0]
    return _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _check_host(host: str) -> None:
    """Refuse requests for a name that somebody else has led to this machine. Raises Problem."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower()
    if name != "localhost" and not _is_loopback(name):
        raise Problem(
            WRONG_HOST, "clients that show nothing call this machine localhost or by its address"
        )
