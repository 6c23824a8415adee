"""Which web pages may ask: browsers carry requests of any page, with what their user has.

A browser says from which page a request comes (``Origin``, ``Sec-Fetch-Site``); other clients say
nothing of that. Pages of this service may ask for everything, and so may those whose origins the
operator has named (CORS). Another page may only lead its reader here, by a link.
"""

from collections.abc import Iterable
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from meshnode.web.problems import FOREIGN, WRONG_TYPE, Problem

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

METHODS: Final = "GET, HEAD, POST, DELETE"
"""What pages elsewhere may use."""

SENT: Final = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Range"
"""Headers that they may send."""

SHOWN: Final = "Location, ETag, Content-Range, X-Unit-State, Retry-After"
"""Headers that they may read."""

REMEMBERED: Final = "600"
"""Seconds for which a browser may keep what it was told of that."""

BODIES: Final = frozenset({"application/json", "multipart/form-data", "application/octet-stream"})
"""Bodies that are taken. A page elsewhere can have a browser send others without asking first."""


class Origins:
    """Judges where requests come from, for one HTTP service."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """``allowed`` are the origins of pages elsewhere that may use the API."""
        self._allowed = frozenset(allowed)

    def preflight(self, method: str, headers: Headers) -> Response | None:
        """Return the answer to a browser that asks what a page may send; None if it does not.

        Raises:
            Problem: the page may nothing.
        """
        origin = headers.get("origin")
        if method != "OPTIONS" or not origin or "access-control-request-method" not in headers:
            return None
        if origin.lower() not in self._allowed:
            raise _foreign(origin)
        told = {
            "access-control-allow-methods": METHODS,
            "access-control-allow-headers": SENT,
            "access-control-max-age": REMEMBERED,
        }
        return Response(status_code=204, headers=told)

    def mark(self, request: Headers, response: MutableHeaders) -> None:
        """Let a page read a response, if it is one that may."""
        if not self._allowed:
            return
        response.add_vary_header("Origin")
        origin = request.get("origin", "")
        if origin.lower() in self._allowed:
            response["access-control-allow-origin"] = origin
            response["access-control-allow-credentials"] = "true"
            response["access-control-expose-headers"] = SHOWN

    def check(self, scope: Any, headers: Headers) -> None:
        """Refuse what another page asks for, and bodies that it could send unasked.

        Raises:
            Problem
        """
        method = scope.get("method", "GET")
        self._check_origin(headers, leads=method == "GET" and scope["type"] == "http")
        if method in SAFE or not _has_body(headers):
            return
        kind = kind_of_body(headers)
        if kind not in BODIES:
            text = f"the body must be JSON: Content-Type: application/json, not {kind or 'nothing'}"
            raise Problem(WRONG_TYPE, text)

    def _check_origin(self, headers: Headers, *, leads: bool) -> None:
        origin = headers.get("origin")
        if origin is not None:
            own = headers.get("host", "").lower()
            # The scheme is not compared: before a node there may be a proxy that speaks TLS.
            if origin.lower().partition("://")[2] != own and origin.lower() not in self._allowed:
                raise _foreign(origin)
            return
        if headers.get("sec-fetch-site", "none") in {"same-origin", "none"}:
            return
        if not (leads and headers.get("sec-fetch-mode") == "navigate"):
            raise _foreign(headers.get("referer", "another site"))


def kind_of_body(headers: Headers) -> str:
    """Return the media type that a request says its body has, without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _foreign(origin: str) -> Problem:
    text = f"a page of {origin} may not ask this node; name its origin in cors if it should"
    return Problem(FOREIGN, text)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
