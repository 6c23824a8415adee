"""The mesh as the node sees it, whole and in parts, made of the command ``mesh``.

``/mesh?detail=true`` has other nodes asked as well, ``&node=bar&node=baz`` only these. The parts
are lists that a client filters: ``/links?node=bar``, ``/services?node=bar&service=control``.
"""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.web.problems import MALFORMED, Problem
from meshnode.web.routing import WebNode, json_response, page_of

FLAGS: Final = {"true": True, "1": True, "": False, "false": False, "0": False}
"""What a flag of a query may be."""

Keep = Callable[[JsonObject, str], bool]
"""Whether an item is about what a query names."""


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""

    async def whole(request: Request) -> Response:
        command: JsonObject = {"command": "mesh", "detail": flag(request, "detail")}
        if named := request.query_params.getlist("node"):
            command["nodes"] = named
        return json_response(await node.commands.ask(request, command))

    def part(name: str, **filters: Keep) -> BaseRoute:
        async def items(request: Request) -> Response:
            command = {"command": "mesh", "detail": flag(request, "detail")}
            found = (await node.commands.ask(request, command))[name]
            for parameter, keep in filters.items():
                if wanted := request.query_params.get(parameter):
                    found = [item for item in found if keep(item, wanted)]
            return json_response(page_of(found))

        return Route(f"/api/v1/{name}", items)

    return [
        Route("/api/v1/mesh", whole),
        part("nodes", id=_has("id"), state=_has("state"), kind=_has("kind")),
        part("links", node=lambda link, node: node in {link["a"], link["b"]}),
        part("routes", node=_has("node"), via=_has("via")),
        part("services", node=_has("node"), service=_has("service")),
    ]


def _has(key: str) -> Keep:
    return lambda item, value: bool(item[key] == value)


def flag(request: Request, name: str) -> bool:
    """Return whether a flag of the query is set. Raises Problem."""
    value = request.query_params.get(name, "")
    if value not in FLAGS:
        raise Problem(MALFORMED, f"{name} must be true or false")
    return FLAGS[value]
