"""Puts the routes of one HTTP service together, and the guard before them.

A module with routes has ``routes(node)``. Those of the API are in ``api/`` and listed in ``API``;
what is asked from elsewhere (health, metrics, the page) stands beside this module and in
``make_app``.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.websockets import WebSocket

from meshnode.config import HttpService
from meshnode.errors import MeshnodeError
from meshnode.web import health, metrics, page, websocket
from meshnode.web.api import (
    batches,
    events,
    mesh,
    meshparts,
    openapi,
    output,
    submit,
    types,
    units,
)
from meshnode.web.guard import App, Guard, log_refusal
from meshnode.web.identity import Identifier, caller_of
from meshnode.web.origins import Origins
from meshnode.web.problems import (
    BOUNDS,
    MALFORMED,
    UNKNOWN,
    WRONG_METHOD,
    Problem,
    fault,
    problem_of,
    to_response,
)
from meshnode.web.routing import Routes, WebNode
from meshnode.web.session import BrokenBody, Receive, Send

if TYPE_CHECKING:  # few nodes have tokens
    from meshnode.security.bearer import TokenStore

API: Final[tuple[Routes, ...]] = (
    mesh.routes,
    meshparts.routes,
    events.routes,
    submit.routes,
    units.routes,
    output.routes,
    types.routes,
    batches.routes,
    openapi.routes,
)
"""What brings the routes below /api/v1."""

_OTHER: Final = {
    HTTPStatus.NOT_FOUND: (UNKNOWN, "there is nothing at this address; see /api/v1"),
    HTTPStatus.METHOD_NOT_ALLOWED: (WRONG_METHOD, "this address does not take this method"),
}
"""What Starlette refuses by itself, in our words."""


def make_app(directive: HttpService, node: WebNode, tokens: "TokenStore | None" = None) -> App:
    """Return the application of one HTTP service."""
    routes = [*health.routes(node), *metrics.routes(node)]
    for bring in API:
        routes += bring(node)
    if node.serve_session is not None:
        routes += websocket.routes(node.serve_session)
    if directive.page:
        routes += page.routes()
    app = Starlette(
        routes=routes,
        exception_handlers={
            MeshnodeError: _refused,
            BrokenBody: _broken,
            HTTPException: _turned_away,
            Exception: _failed,
        },
    )
    app.router.redirect_slashes = False
    app.router.default = _nothing_here
    identifier, origins = Identifier(directive, tokens), Origins(directive.cors)
    return Guard(app, identifier, origins, node.responses)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, MeshnodeError)
    problem = problem_of(error)
    if problem.kind in BOUNDS:
        # Commands log what they refuse; these are met before there is one, or on its way.
        log_refusal(request.scope, caller_of(request).client, problem)
    return to_response(problem)


async def _broken(request: Request, error: Exception) -> Response:
    assert isinstance(error, BrokenBody)
    return await _refused(request, error.problem)


async def _failed(request: Request, error: Exception) -> Response:
    """Return what a fault of ours is answered with; it goes on to the guard, who logs it."""
    return to_response(fault())


async def _turned_away(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind, text = _OTHER.get(HTTPStatus(error.status_code), (MALFORMED, str(error.detail)))
    headers = dict(error.headers or {})
    if kind is WRONG_METHOD:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return to_response(Problem(kind, text, headers))


async def _nothing_here(scope: Any, receive: Receive, send: Send) -> None:
    """Answer what no route takes; a websocket is refused by a whole response, too."""
    if scope["type"] != "websocket":
        raise HTTPException(HTTPStatus.NOT_FOUND)
    problem = Problem(UNKNOWN, f"there is no websocket at this address, only at {websocket.PATH}")
    await WebSocket(scope, receive, send).send_denial_response(to_response(problem))


def _methods(request: Request) -> set[str]:
    """Return what an address takes: each of its methods may have a route of its own."""
    found: set[str] = set()
    for route in request.app.routes:
        matched, _ = route.matches(request.scope)
        if matched is not Match.NONE and isinstance(route, Route):
            found |= route.methods or set()
    return found
