"""The mesh as the node sees it, whole and in parts, and how it fared in the last hours.

``/mesh?detail=true`` has other nodes asked as well, ``&node=bar&node=baz`` only these. The parts
are lists that a client filters: ``/links?node=bar``, ``/services?node=bar&service=control``.
"""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.web.api.queries import check_names, flag, whole_number
from meshnode.web.routing import WebNode, json_response, page_of

DETAIL = "detail"
"""The flag that has other nodes asked."""

Keep = Callable[[JsonObject, str], bool]
"""Whether an item is about what a query names."""


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""

    async def whole(request: Request) -> Response:
        check_names(request, DETAIL, several=("node",))
        command = _mesh(request)
        if named := request.query_params.getlist("node"):
            command["nodes"] = named
        return json_response(await node.commands.ask(request, command))

    def part(name: str, **filters: Keep) -> BaseRoute:
        async def items(request: Request) -> Response:
            check_names(request, DETAIL, *filters)
            found = (await node.commands.ask(request, _mesh(request)))[name]
            for parameter, keep in filters.items():
                if wanted := request.query_params.get(parameter):
                    found = [item for item in found if keep(item, wanted)]
            return json_response(page_of(found))

        return Route(f"/api/v1/{name}", items)

    async def history(request: Request) -> Response:
        check_names(request, "seconds")
        command: JsonObject = {"command": "history"}
        if seconds := whole_number(request, "seconds", 0):
            command["seconds"] = seconds
        return json_response(await node.commands.ask(request, command))

    return [
        Route("/api/v1/mesh", whole),
        part("nodes", id=_has("id"), state=_has("state"), kind=_has("kind")),
        part("links", node=lambda link, node: node in {link["a"], link["b"]}),
        part("routes", node=_has("node"), via=_has("via")),
        part("services", node=_has("node"), service=_has("service")),
        Route("/api/v1/history", history),
    ]


def _has(key: str) -> Keep:
    return lambda item, value: bool(item[key] == value)


def _mesh(request: Request) -> JsonObject:
    return {"command": "mesh", DETAIL: flag(request, DETAIL, default=False)}
