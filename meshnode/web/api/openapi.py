"""The OpenAPI 3.1 document of the API: one entry for each route and method that there is."""

import json
from functools import cache
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.version import VERSION
from meshnode.web.api.queries import check_names
from meshnode.web.routing import WebNode

PATH: Final = "/api/v1/openapi.json"


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the route of the document."""

    async def document(request: Request) -> Response:
        check_names(request)
        return Response(as_json(), media_type="application/json")

    return [Route(PATH, document)]


@cache
def as_json() -> bytes:
    """Return the document; it is made when it is first asked for."""
    from meshnode.web.api.operations import PATHS  # noqa: PLC0415 - few clients ask for it
    from meshnode.web.api.schemas import SCHEMAS  # noqa: PLC0415

    return json.dumps(_document(PATHS, SCHEMAS)).encode() + b"\n"


def _document(paths: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "meshnode",
            "version": VERSION,
            "summary": "Units of work on the machines of a mesh, and the mesh itself.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "The control commands of a node over HTTP, with the same identities, "
            "access rules and audit log.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"password": []}, {"certificate": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The token is the password; the user is empty or its name.",
                },
                "certificate": {"type": "mutualTLS"},
            },
            "responses": {
                "Problem": {
                    "description": "It was refused, or failed: the detail says why.",
                    "content": {
                        "application/problem+json": {
                            "schema": {"$ref": "#/components/schemas/Problem"}
                        }
                    },
                }
            },
        },
    }
