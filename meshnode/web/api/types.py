"""Types of work: what there is to submit, here and on other nodes, and what each takes."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.errors import CommandError
from meshnode.web.api.queries import check_names
from meshnode.web.problems import UNKNOWN, Problem
from meshnode.web.routing import WebNode, json_response, page_of


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""
    commands = node.commands

    async def listed(request: Request) -> Response:
        reply = await commands.ask(request, _asked(request, "types"))
        items = [{"WorkType": name, **told} for name, told in reply["Types"].items()]
        return json_response({"node": reply["Node"], **page_of(items)})

    async def described(request: Request) -> Response:
        command = _asked(request, "describe")
        command["worktype"] = request.path_params["name"]
        try:
            return json_response(await commands.ask(request, command), HTTPStatus.OK)
        except CommandError as error:
            if str(error).startswith("unknown work type"):
                raise Problem(UNKNOWN, str(error)) from error
            raise

    return [
        Route("/api/v1/types", listed),
        Route("/api/v1/types/{name}", described),
    ]


def _asked(request: Request, subcommand: str) -> JsonObject:
    check_names(request, "node", "tlsclient")
    fields = {name: request.query_params.get(name, "") for name in ("node", "tlsclient")}
    return {"command": "work", "subcommand": subcommand, **fields}
