"""Values that only websocket links have: URLs, paths, an HTTP header."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from meshnode.config.faults import quote
from meshnode.config.kinds import Kind, text
from meshnode.config.names import Wrong, split_address

DEFAULT_PORT = 80
"""The port of ``ws://`` URLs that name none (RFC 6455 section 3)."""

_VISIBLE = re.compile(r"[!-~]+")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~](?:[ \t]*[!-~])*)[ \t]*")

HANDSHAKE_HEADERS = ("host", "upgrade", "connection")
"""Headers that make the handshake what it is, as all that begin with ``sec-websocket-`` do."""


@dataclass(frozen=True, slots=True)
class WsUrl:
    """Where a websocket is: ``host`` without brackets, ``target`` with path and query."""

    host: str
    port: int
    host_and_port: str
    target: str


def split_ws_url(url: str) -> WsUrl:
    """Take ``ws://host:port/path`` apart.

    Raises:
        Wrong: it is not of that form.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are no IPv6 address
        parts = urlsplit("")
    if not _VISIBLE.fullmatch(url) or parts.scheme not in ("ws", "wss") or not parts.netloc:
        raise Wrong(f"{quote(url)} is not a URL of the form ws://host:port/path")
    if parts.scheme == "wss":
        raise Wrong("wss:// is not supported yet; write ws://")
    if "@" in parts.netloc or parts.fragment:
        raise Wrong(f"{quote(url)}: a websocket's URL has no user and no fragment")
    whole = parts.netloc
    if re.search(r":[0-9]*$", whole) is None or whole.endswith("]"):
        whole = f"{whole}:{DEFAULT_PORT}"
    host, port = split_address(whole)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WsUrl(host, port, parts.netloc, target)


def ws_url() -> Kind[str]:
    """A URL that :func:`split_ws_url` takes apart."""

    def check(value: str) -> str:
        split_ws_url(value)
        return value

    return text("ws://host:port/path", check)


def url_path() -> Kind[str]:
    """The path of a URL."""

    def check(value: str) -> str:
        if not value.startswith("/") or not _VISIBLE.fullmatch(value) or set(value) & set("?#"):
            raise Wrong(f"{quote(value)} is not a path that begins with /")
        return value

    return text("path", check)


def http_header() -> Kind[tuple[str, str]]:
    """A header as ``Name: value``; it becomes the pair of both."""
    label = "Name: value"
    inner = text(label)

    def split(value: str) -> tuple[str, str]:
        found = _HEADER.fullmatch(value)
        if found is None:
            raise Wrong(f"{quote(value)} is not a header of the form {label}")
        name = found[1].lower()
        if name in HANDSHAKE_HEADERS or name.startswith("sec-websocket-"):
            raise Wrong(f"{found[1]} belongs to the websocket handshake itself")
        return found[1], found[2]

    return Kind(label, lambda node: split(inner.read(node)), ": ".join)
