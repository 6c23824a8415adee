"""The directive of the HTTP service: where it listens, and how clients show who they are."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from meshnode.config import names
from meshnode.config.faults import FaultLog, quote
from meshnode.config.kinds import boolean, list_of, permissions, text
from meshnode.config.names import Wrong
from meshnode.config.schema import TCP_PORT, UNIX_SOCKET, Directive, directive, parameter
from meshnode.config.service_directives import BIND_ADDRESS, PORT
from meshnode.config.tls_directives import SERVER_NAME, TlsServer, optional_file

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


def _check_origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise Wrong(
            f'"{value}" is no origin of a web page; write scheme, host and port, as in '
            "https://ops.example.com:8443"
        )
    return value.lower()


ORIGINS: Final = list_of(text("origin", _check_origin), "list of origins")


@directive(
    "http-service",
    "Let clients use this node over HTTP: an API, metrics, and a page for browsers.",
    section="Control",
    example=(("port", "8043"), ("tokens", "/etc/meshnode/tokens")),
    claims={UNIX_SOCKET: ("filename",), TCP_PORT: ("bindaddr", "port")},
)
class HttpService(Directive):
    """Where clients come, and how they show who they are; it has a port or a filename."""

    port: int | None = parameter(
        PORT, "TCP port to listen on", default=None, default_text="none", bare=True
    )
    bindaddr: str = parameter(
        BIND_ADDRESS,
        "address to listen on",
        default="127.0.0.1",
    )
    filename: str = parameter(
        text("path of at most 107 bytes", names.check_socket_path, on_disk="file"),
        "unix socket to listen on",
        default="",
        default_text="none",
    )
    permissions: int = parameter(
        permissions(), "who may open the unix socket, as for chmod", default=0o600
    )
    tls: str = parameter(
        SERVER_NAME, "tls-server to use at the port", default="", default_text="no TLS"
    )
    requireclientcert: bool = parameter(
        boolean(), "refuse clients that show no certificate, whatever else they show", default=False
    )
    tokens: Path | None = parameter(
        optional_file(),
        "file of the tokens by which clients may show who they are",
        default=None,
        default_text="none",
    )
    cors: tuple[str, ...] = parameter(
        ORIGINS,
        "origins of other web pages that may use the API in a browser",
        default=(),
        default_text="none",
    )
    allowanonymous: bool | None = parameter(
        boolean(),
        "serve clients that show nothing: true does so for everybody, false for nobody",
        default=None,
        default_text="those of this machine",
    )
    page: bool = parameter(boolean(), "serve the page for browsers", default=True)


HTTP_DIRECTIVES: Final[tuple[type[Directive], ...]] = (HttpService,)


def check_http(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note each HTTP service that nobody could use, and what of one has no effect."""
    directives = list(typed)
    for one in directives:
        if not isinstance(one, HttpService):
            continue
        info = one.INFO.name
        if one.port is None and not one.filename:
            text = "nobody could reach it; give a port or a filename"
            faults.add(one.place_of(), info, text=text)
        if one.requireclientcert and (text := _no_certificates(one, directives)):
            name = "requireclientcert"
            faults.add(one.place_of(name), info, name, text=text)
        if one.tls and one.port is None:
            faults.warn(one.place_of("tls"), info, "tls", text="has no effect without a port")


def _no_certificates(service: HttpService, directives: Iterable[Directive]) -> str:
    """Return why no client can show a certificate; empty if one can."""
    servers = [one for one in directives if isinstance(one, TlsServer) and one.name == service.tls]
    if service.port is None:
        return "has no effect without a port: clients of the unix socket are known by their users"
    if not servers:
        return "needs tls: without TLS nobody shows a certificate"
    if not any(one.requireclientcert or one.clientcas for one in servers):
        return f"needs clientcas in the tls-server {quote(service.tls)}: it asks for no certificate"
    return ""
