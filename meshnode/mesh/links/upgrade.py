"""How an HTTP request becomes a websocket: the handshake of either side, and whom it refuses."""

import http
from collections.abc import Sequence
from typing import NoReturn
from urllib.parse import urlsplit

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, Event, RejectConnection, Request
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from meshnode.config import WsUrl
from meshnode.errors import ProtocolError
from meshnode.protocol.framing import SPEAKS_TLS, begins_as_frame, name_stranger

HANDSHAKE_READ = 4096
"""Bytes asked for in one read of the handshake; the HTTP parser bounds the whole at 16 KiB."""


# --- a client's request --------------------------------------------------------------------------


async def accept_upgrade(stream: trio.abc.Stream, path: str) -> Connection:
    """Return the websocket that a client asks for under a path.

    Raises:
        ProtocolError: it does not ask for one, or may not have it; it was told.
        trio.BrokenResourceError: the connection is gone.
    """
    handshake = H11Handshake(ConnectionType.SERVER)
    try:
        request = await _read_request(stream, handshake)
    except RemoteProtocolError as exc:
        hint = exc.event_hint
        status = hint.status_code if isinstance(hint, RejectConnection) else 400
        await _refuse(stream, status, str(exc))
    except UnicodeError:
        await _refuse(stream, 400, "Header that is not ASCII")
    else:
        if not _matches(request.target, path):
            await _refuse(stream, 404, "No websocket here")
        if not _same_origin(request):
            await _refuse(stream, 403, "Origin and Host differ")
        if _is_from_browser(request):
            await _refuse(stream, 403, "A browser is no node")
        await stream.send_all(handshake.send(AcceptConnection()))
    assert handshake.connection is not None
    return handshake.connection


async def _read_request(stream: trio.abc.Stream, handshake: H11Handshake) -> Request:
    while True:
        data = await stream.receive_some(HANDSHAKE_READ)
        if not data:
            raise ProtocolError("the client left before it asked for a websocket")
        if begins_as_frame(data):
            text = "A link over TCP; a ws-listener is dialed with ws-peer"
            await _refuse(stream, 400, text)
        if name_stranger(bytes(data)) == SPEAKS_TLS:
            await _refuse(stream, 400, "TLS, and this listener has none")
        handshake.receive_data(bytes(data))
        for event in handshake.events():
            assert isinstance(event, Request)
            return event


async def _refuse(stream: trio.abc.Stream, status: int, text: str) -> NoReturn:
    # By hand: the parser sends no answer to what it could not parse.
    head = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        "Connection: close",
        "Content-Type: text/plain",
        f"Content-Length: {len(text) + 1}",
    ]
    if status == http.HTTPStatus.UPGRADE_REQUIRED:
        head += ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    await stream.send_all(("\r\n".join([*head, "", text]) + "\n").encode("ascii"))
    raise ProtocolError(f"no websocket handshake, answered {status}: {text}")


def _matches(target: str, path: str) -> bool:
    """Whether a request is for a listener's path; one that ends in / has all below it too."""
    asked = target.partition("?")[0]
    return asked == path or (path.endswith("/") and asked.startswith(path))


def _same_origin(request: Request) -> bool:
    """Whether the request does not come from a page of another site in somebody's browser.

    A receptor node refuses those, too; its dialers and ours send the right Origin.
    """
    origins = [value for name, value in request.extra_headers if name.lower() == b"origin"]
    try:
        hosts = [urlsplit(origin.decode("ascii")).netloc for origin in origins]
    except ValueError:
        return False
    return all(host.lower() == request.host.lower() for host in hosts)


def _is_from_browser(request: Request) -> bool:
    """Whether a browser asks: a page may have its own name, as Origin and Host, lead to us.

    All browsers call themselves Mozilla, and no page can change that.
    """
    agents = [value for name, value in request.extra_headers if name.lower() == b"user-agent"]
    return any(agent.startswith(b"Mozilla/") for agent in agents)


# --- our own request -----------------------------------------------------------------------------


async def ask_upgrade(
    stream: trio.abc.Stream, url: WsUrl, headers: Sequence[tuple[bytes, bytes]]
) -> Connection:
    """Ask a server for a websocket and return it.

    Raises:
        OSError: the server gives none; the text says why.
        wsproto.utilities.ProtocolError: it does not answer as HTTP does.
        trio.BrokenResourceError: the connection is gone.
    """
    handshake = H11Handshake(ConnectionType.CLIENT)
    request = Request(host=url.host_and_port, target=url.target, extra_headers=list(headers))
    await stream.send_all(handshake.send(request))
    answer = b""
    while handshake.connection is None:
        data = await stream.receive_some(HANDSHAKE_READ)
        if not data:
            raise OSError(
                "the other end closed the connection during the handshake, as a tcp-listener "
                "does, which is dialed with tcp-peer"
            )
        answer += data
        if not answer.startswith(b"HTTP/") and (stranger := name_stranger(answer)) is not None:
            raise OSError(stranger)
        handshake.receive_data(bytes(data))
        for event in handshake.events():
            _check_accepted(event)
    return handshake.connection


def _check_accepted(event: Event) -> None:
    if isinstance(event, RejectConnection):
        raise OSError(f"the other end answered {event.status_code} to the websocket handshake")
