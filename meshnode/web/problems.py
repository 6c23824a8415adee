"""What went wrong, as problem+json (RFC 9457): a kind, a status, and the command's own line."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from starlette.responses import Response

from meshnode.errors import (
    AccessRefused,
    BadQuery,
    CannotSign,
    CommandError,
    MeshError,
    MeshnodeError,
    MeshTimeout,
    NotAudited,
    ReloadRefused,
    SecurityError,
    UnknownUnit,
    WorkError,
)

MEDIA_TYPE: Final = "application/problem+json"

Fields = Mapping[str, str | tuple[str, ...]]
"""Headers of a response; several may have one name."""

NO_HEADERS: Final[Fields] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem; ``slug`` ends its address."""

    slug: str
    status: HTTPStatus
    title: str


MALFORMED: Final = Kind("malformed", HTTPStatus.BAD_REQUEST, "The request cannot be read")
UNPROVED: Final = Kind("unauthenticated", HTTPStatus.UNAUTHORIZED, "It is not known who asks")
FORBIDDEN: Final = Kind("forbidden", HTTPStatus.FORBIDDEN, "Who asks may not do this")
FOREIGN: Final = Kind("foreign-page", HTTPStatus.FORBIDDEN, "Another web page may not ask for this")
WRONG_HOST: Final = Kind(
    "wrong-host", HTTPStatus.MISDIRECTED_REQUEST, "The request is for another host"
)
UNKNOWN: Final = Kind("not-found", HTTPStatus.NOT_FOUND, "There is no such thing")
WRONG_METHOD: Final = Kind(
    "wrong-method", HTTPStatus.METHOD_NOT_ALLOWED, "This address takes other methods"
)
CONFLICT: Final = Kind("conflict", HTTPStatus.CONFLICT, "It contradicts what is there")
TOO_LARGE: Final = Kind(
    "too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is larger than allowed"
)
LONG_HEAD: Final = Kind(
    "too-large", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request is larger than allowed"
)
WRONG_TYPE: Final = Kind(
    "wrong-type", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body is of another kind"
)
REFUSED: Final = Kind(
    "refused", HTTPStatus.UNPROCESSABLE_ENTITY, "The node does not do what was asked"
)
UPGRADE: Final = Kind(
    "upgrade", HTTPStatus.UPGRADE_REQUIRED, "Another protocol is spoken at this address"
)
TOO_MANY: Final = Kind("too-many", HTTPStatus.TOO_MANY_REQUESTS, "It is too much at a time")
SLOW: Final = Kind("slow", HTTPStatus.REQUEST_TIMEOUT, "The request took too long to come")
INTERNAL: Final = Kind("internal", HTTPStatus.INTERNAL_SERVER_ERROR, "The node has a fault")
UNAVAILABLE: Final = Kind(
    "unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "The node cannot do this now"
)

BOUNDS: Final = frozenset({TOO_LARGE, TOO_MANY, SLOW})
"""What a client is told that has met a bound of ours."""

_KINDS: Final[tuple[tuple[type[MeshnodeError], Kind], ...]] = (
    (UnknownUnit, UNKNOWN),
    (BadQuery, MALFORMED),
    (AccessRefused, FORBIDDEN),
    (CannotSign, REFUSED),
    (SecurityError, FORBIDDEN),
    (CommandError, REFUSED),
    (NotAudited, UNAVAILABLE),
    (MeshTimeout, UNAVAILABLE),
    (MeshError, UNAVAILABLE),
    (ReloadRefused, REFUSED),
    (WorkError, UNAVAILABLE),
    (MeshnodeError, REFUSED),
)
"""What errors of commands are here; the first that fits."""


class Problem(MeshnodeError):
    """A request that is refused here; ``str()`` is the line for a person."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        headers: Fields = NO_HEADERS,
        **members: object,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.headers = headers
        self.members = members


def fault() -> Problem:
    """Return what a client is told of a fault of ours."""
    return Problem(INTERNAL, "internal error; the log of the node says more")


def problem_of(error: MeshnodeError) -> Problem:
    """Return what a client is told of an error of a command."""
    if isinstance(error, Problem):
        return error
    kind = next(kind for cls, kind in _KINDS if isinstance(error, cls))
    return Problem(kind, str(error))


def encode(problem: Problem, status: HTTPStatus) -> bytes:
    """Return the body that tells of a problem."""
    kind = problem.kind
    body: dict[str, Any] = {
        "type": f"/problems/{kind.slug}",
        "title": kind.title,
        "status": int(status),
        "detail": str(problem),
        **problem.members,
    }
    return json.dumps(body).encode() + b"\n"


def to_response(problem: Problem) -> Response:
    """Return the response that tells of a problem."""
    status = problem.kind.status
    content = encode(problem, status)
    response = Response(content, status, media_type=MEDIA_TYPE)
    for name, said in problem.headers.items():
        for value in (said,) if isinstance(said, str) else said:
            response.headers.append(name, value)
    return response
