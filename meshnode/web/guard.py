"""Stands before every route: who asks, from which page, and what each response says of itself.

A browser carries requests of any page that its user looks at, and reaches what only this machine
should. So a request that nobody has signed in for must name this machine as its host, and one that
changes something must come from no other page, or from one that the operator has named.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from starlette.datastructures import Headers, MutableHeaders

from meshnode.logs import subject_logger
from meshnode.web.identity import CALLER, CONNECTION, Connection, Identifier
from meshnode.web.problems import INTERNAL, Problem, to_response
from meshnode.web.session import Message, Receive, Send

App = Callable[[Any, Receive, Send], Awaitable[None]]
"""An ASGI application."""

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser may do for a page of ours: load what comes from here, and nothing else."""

SAFE_HEADERS: Final = (
    ("content-security-policy", CONTENT_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)
"""Headers of each response."""


class Guard:
    """An ASGI application that lets requests through to another one."""

    def __init__(self, app: App, identifier: Identifier) -> None:
        self._app = app
        self._identifier = identifier
        self._log = subject_logger("http")

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            return
        connection: Connection = scope["state"][CONNECTION]
        answer = _Answer(send)
        with connection.serving():
            try:
                headers = Headers(scope=scope)
                scope["state"][CALLER] = await self._identifier.identify(connection, headers)
                await self._app(scope, receive, answer.send)
            except Problem as problem:
                await to_response(problem)(scope, receive, answer.send)
            except trio.BrokenResourceError as error:
                self._log.debug("client lost: %s", error)
            except Exception:  # noqa: BLE001 - a request's boundary: a fault costs only this one
                self._log.exception("%s %s failed", scope.get("method", ""), scope["path"])
                if not answer.has_begun:
                    fault = Problem(INTERNAL, "internal error; the log of the node says more")
                    await to_response(fault)(scope, receive, answer.send)


class _Answer:
    """Adds to a response what each one has."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in SAFE_HEADERS:
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await self._send(message)
