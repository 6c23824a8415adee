"""Units of work: what there is, what it prints, and its end."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.web.problems import MALFORMED, Problem
from meshnode.web.routing import WebNode, json_response, page_of


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""
    commands = node.commands

    async def listed(request: Request) -> Response:
        reply = await commands.ask(request, {"command": "work", "subcommand": "list"})
        return json_response(page_of([{"ID": unit, **status} for unit, status in reply.items()]))

    async def status(request: Request) -> Response:
        reply = await commands.ask(request, on_unit(request, "status"))
        return json_response({"ID": request.path_params["id"], **reply})

    async def results(request: Request) -> Response:
        command = on_unit(request, "results")
        command["startpos"] = whole_number(request, "from", 0)
        command["stream"] = request.query_params.get("stream", "stdout")
        return commands.stream(request, command)

    async def cancel(request: Request) -> Response:
        reply = await commands.ask(request, on_unit(request, "cancel"))
        return json_response({"result": next(iter(reply))})

    return [
        Route("/api/v1/units", listed),
        Route("/api/v1/units/{id}", status),
        Route("/api/v1/units/{id}/results", results),
        Route("/api/v1/units/{id}/cancel", cancel, methods=["POST"]),
    ]


def on_unit(request: Request, subcommand: str) -> JsonObject:
    """Return the command that does something to the unit of a request's path."""
    return {"command": "work", "subcommand": subcommand, "unitid": request.path_params["id"]}


def whole_number(request: Request, name: str, default: int) -> int:
    """Return a number of the query. Raises Problem."""
    value = request.query_params.get(name, "")
    if not value:
        return default
    if not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise Problem(MALFORMED, f"{name} must be a number of bytes")
    return int(value)
