"""Finds out who sends a request, by its connection and by what the request shows."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import trio
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from meshnode.control.places import Place
from meshnode.control.registry import SessionKind
from meshnode.security.identity import Identity, TcpClient, UnixClient
from meshnode.shares import Holder
from meshnode.web.problems import UNPROVED, WRONG_HOST, Problem

CONNECTION: Final = "meshnode.connection"
"""Where the state of a request has its connection."""

CALLER: Final = "meshnode.caller"
"""Where the state of a request has its caller."""

PASSED_ON: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers of requests that a proxy passes on: whoever sends them is elsewhere."""

IDLE_TIMEOUT: Final = 60.0
"""Seconds for which a connection may wait for its next request, or for the rest of its headers."""


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


def caller_of(request: HTTPConnection) -> Caller:
    """Return who sends a request; the guard has found that out before any route is asked."""
    return known_caller(request.scope)


def known_caller(scope: Any) -> Caller:
    """Return the caller of a request's scope."""
    caller = scope["state"][CALLER]
    assert isinstance(caller, Caller)
    return caller


@dataclass(slots=True, eq=False)
class Connection:
    """What is known of a connection, and how many of its requests are being served."""

    client: Identity
    place: Place
    requests: int = 0

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Count a request for as long as it is served: the connection does not wait meanwhile."""
        self.requests += 1
        self.place.works()
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self.place.waits(IDLE_TIMEOUT)


class Identifier:
    """Says who sends requests to one HTTP service."""

    def __init__(self, allow_anonymous: bool | None) -> None:
        """``allow_anonymous`` None lets those of this machine in."""
        self._allow_anonymous = allow_anonymous

    async def identify(self, connection: Connection, headers: Headers) -> Caller:
        """Return who sends a request.

        Raises:
            Problem: nobody knows, and such requests are not served.
        """
        await trio.lowlevel.checkpoint()
        client, holder = connection.client, connection.place.holder
        if isinstance(client, UnixClient):
            return Caller(client, "unix", Proof.SOCKET, holder)
        if isinstance(client, TcpClient) and client.certificate is not None:
            return Caller(client, "tcp", Proof.CERTIFICATE, holder)
        self._admit(client, headers)
        return Caller(client, "tcp", Proof.NOTHING, holder)

    def _admit(self, client: Identity, headers: Headers) -> None:
        """Let a client in of whom nothing is known. Raises Problem."""
        if self._allow_anonymous:
            return
        if self._allow_anonymous is None and is_near(client):
            if any(name in headers for name in PASSED_ON):
                raise Problem(UNPROVED, "a proxy has passed this on without showing who asks")
            _check_host(headers.get("host", ""))
            return
        raise Problem(UNPROVED, "show a certificate, or a token: Authorization: Bearer …")


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
