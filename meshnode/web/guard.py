"""Stands before every route: who asks, from which page, and how a request ends.

A browser carries requests of any page that its user looks at, and reaches what only this machine
should. So a request that nobody has signed in for must name this machine as its host
(``identity.py``), and none may come from a page elsewhere (``origins.py``).
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from starlette.datastructures import Headers, MutableHeaders

from meshnode.errors import leaves_of
from meshnode.logs import subject_logger
from meshnode.security.identity import Identity, shown_text
from meshnode.web.identity import (
    CALLER,
    STREAM,
    Caller,
    Connection,
    Identifier,
    ResponseStream,
    connection_of,
)
from meshnode.web.origins import Origins
from meshnode.web.problems import LONG_HEAD, MALFORMED, WRONG_METHOD, Problem, fault, to_response
from meshnode.web.session import Message, Receive, Send

App = Callable[[Any, Receive, Send], Awaitable[None]]
"""An ASGI application."""

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What a browser may do for a page of ours: load what comes from here, and nothing else. The last
two have it refuse to make markup of a text, which is how names and output would become programs."""

SAFE_HEADERS: Final = (
    ("content-security-policy", CONTENT_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)
"""Headers of each response."""

METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
"""Methods that are looked at; which an address takes, its route says."""

MAX_HEADERS: Final = 32 * 1024
"""Bytes of the request line and headers together."""

TOO_LONG: Final = f"a request has at most {MAX_HEADERS // 1024} KiB of headers"

SEND_TIMEOUT: Final = 600.0
"""Seconds in which a client must take the next part of a response; people stop output with a
pager."""

MAX_AT_ONCE: Final = 200
"""Requests at a time of one connection. HTTP/2 allows 100 that are open, and those that their
client has reset take a moment to end."""

DRAINED: Final = 256 * 1024
"""Bytes of a body that nobody wants which are still read before the response ends, so that a client
which only then reads sees it."""

MAX_SHOWN: Final = 200
"""Characters of a request's address that a line of the log repeats."""

DRAIN_TIMEOUT: Final = 2.0
"""Seconds for that."""


class Guard:
    """An ASGI application that lets requests through to another one."""

    def __init__(
        self,
        app: App,
        identifier: Identifier,
        origins: Origins,
        responses: Counter[int] | None = None,
    ) -> None:
        """``responses`` counts what was answered, by its status."""
        self._responses = Counter[int]() if responses is None else responses
        self._app = app
        self._identifier = identifier
        self._origins = origins
        self._log = subject_logger("http")

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            return
        connection = connection_of(scope)
        exchange = _Exchange(scope, receive, send, self._origins, self._responses)
        asks_whole = exchange.is_whole and scope["type"] == "http"
        with connection.serving(is_whole=asks_whole):
            if connection.requests > MAX_AT_ONCE:
                self._log.warning(
                    "refused %s: %d requests at a time", connection.client, MAX_AT_ONCE
                )
                connection.abort()
                return
            try:
                await self._serve(scope, exchange, connection)
            except* trio.BrokenResourceError as lost:
                self._log.debug("client lost: %s", next(leaves_of(lost)))
            if exchange.has_begun and not exchange.has_ended:
                await exchange.stream.reset()

    async def _serve(self, scope: Any, exchange: "_Exchange", connection: Connection) -> None:
        """Serve it, or say why not. Raises BrokenResourceError for a client that is gone."""
        try:
            await self._let_through(scope, exchange, connection)
        except Problem as problem:
            await self._refuse(scope, exchange, connection, problem)
        except Exception as error:
            # The boundary of a request: a fault costs only this one.
            if all(isinstance(leaf, trio.BrokenResourceError) for leaf in leaves_of(error)):
                raise  # each of the tasks of a request may find that its client is gone
            self._log.exception("%s failed", _shown(scope))
            if not exchange.has_begun:
                await exchange.answer(to_response(fault()))

    async def _let_through(self, scope: Any, exchange: "_Exchange", connection: Connection) -> None:
        headers = exchange.headers
        if scope.get("method", "GET") not in METHODS:
            # Of a tunnel (CONNECT) no response could be made that is not one through it.
            raise Problem(
                WRONG_METHOD, "no address takes this method", {"allow": "GET, POST, DELETE"}
            )
        if _size_of_head(scope) > MAX_HEADERS:
            # What comes in one piece is read whole, however much it is.
            raise Problem(LONG_HEAD, TOO_LONG)
        if "content-length" in headers and "transfer-encoding" in headers:
            # Of a proxy and us one might take for the next request what is a body for the other.
            text = "a body has a length or comes in chunks, not both"
            raise Problem(MALFORMED, text, {"connection": "close"})
        told = self._origins.preflight(scope.get("method", "GET"), headers)
        if told is not None:
            await exchange.answer(told)
            return
        caller = await self._identifier.identify(connection, headers)
        self._origins.check(scope, headers)
        scope["state"][CALLER] = caller
        with self._identifier.while_known(caller) as known:
            await self._app(scope, exchange.receive, exchange.send)
        if known is not None and known.cancelled_caught:
            self._log.info("%s ended: its token was taken away", caller.client.brief)

    async def _refuse(
        self, scope: Any, exchange: "_Exchange", connection: Connection, problem: Problem
    ) -> None:
        """Answer with a problem, and log it: what is refused here has reached no command."""
        caller: Caller | None = scope["state"].get(CALLER)
        who = connection.client if caller is None else caller.client
        log_refusal(scope, who, problem)
        if not exchange.has_begun:
            await exchange.answer(to_response(problem))


def _size_of_head(scope: Any) -> int:
    """Return how many bytes the address and the headers of a request have."""
    named = sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])
    return len(scope["raw_path"]) + len(scope["query_string"]) + named


def log_refusal(scope: Any, client: Identity, problem: Problem) -> None:
    """Note that a request is refused, and to whom."""
    subject_logger("http").warning("refused %s to %s: %s", _shown(scope), client, problem)


def _shown(scope: Any) -> str:
    """Return what is asked for, as one line of the log."""
    return shown_text(f"{scope.get('method', 'websocket')} {scope['path']}", MAX_SHOWN)


class _Exchange:
    """One request and its response: what each response has, and the rest of a body at its end."""

    def __init__(
        self,
        scope: Any,
        receive: Receive,
        send: Send,
        origins: Origins,
        responses: Counter[int],
    ) -> None:
        self._connection = connection_of(scope)
        self.headers = Headers(scope=scope)
        self.has_begun = False
        self.has_ended = False
        self.stream: ResponseStream = scope["state"][STREAM]
        self._scope = scope
        self._receive = receive
        self._send = send
        self._origins = origins
        self._responses = responses
        self._wants_head = scope.get("method") == "HEAD"
        self.is_whole = scope["type"] == "websocket" or (
            scope["http_version"] != "2"
            and self.headers.get("content-length", "0") == "0"
            and "transfer-encoding" not in self.headers
        )
        """Whether all of the request is known to have come."""

    async def answer(self, response: Any) -> None:
        """Send a whole response."""
        await response(self._scope, self.receive, self.send)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_whole = True
        elif message["type"] == "http.request":
            self.is_whole = self.is_whole or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response.

        Raises:
            trio.BrokenResourceError: nobody wants it.
        """
        if self.stream.is_over:
            raise trio.BrokenResourceError("the client is gone")
        if self._wants_head and self.has_ended:
            if message.get("more_body"):
                raise trio.BrokenResourceError("the client wants the head alone")
            await trio.lowlevel.checkpoint()
            return
        await self._pass(message)
        if self._wants_head and message["type"] == "http.response.start":
            # What would follow may go on for as long as the client stays, which waits for this.
            await self._pass({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass(self, message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.http.response.start"}:
            self.has_begun = True
            self._responses[message["status"]] += 1
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in SAFE_HEADERS:
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
            if self._connection.is_ending and self._scope["http_version"] != "2":
                headers["connection"] = "close"
            self._origins.mark(self.headers, headers)
        is_last = message["type"].endswith("response.body") and not message.get("more_body")
        with trio.move_on_after(SEND_TIMEOUT) as sending:
            if is_last and not self.is_whole:
                await self._end(message)
            else:
                await self._send(message)
        if sending.cancelled_caught:
            # A client of HTTP/2 grants room to each stream by itself, or does not.
            raise trio.BrokenResourceError(f"the client has read nothing for {SEND_TIMEOUT:g} s")
        self.has_ended = self.has_ended or is_last or message["type"] == "websocket.close"

    async def _end(self, message: Message) -> None:
        """End the response, and read what still comes of the body.

        Whoever reads for the connection waits until it is rid of that, and the connection ends no
        sooner.
        """
        if message.get("body"):
            await self._send({**message, "more_body": True})
        left = DRAINED
        with trio.move_on_after(DRAIN_TIMEOUT):
            while left > 0 and not self.is_whole:
                left -= len((await self.receive()).get("body", b"")) + 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drop)
            await self._send({"type": message["type"], "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()

    async def _drop(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
