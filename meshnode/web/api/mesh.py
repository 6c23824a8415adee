"""What the node is, and the mesh as it knows it."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.security.identity import CertificateNames, Identity, TcpClient
from meshnode.web.api.queries import check_names
from meshnode.web.identity import caller_of
from meshnode.web.routing import WebNode, json_response, page_of


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""
    commands = node.commands

    async def root(request: Request) -> Response:
        check_names(request)
        client = caller_of(request).client
        return json_response(
            {
                "node": node.node_id,
                "version": node.version,
                "api": "v1",
                "openapi": "/api/v1/openapi.json",
                "client": {"kind": client.kind, "name": _name(client)},
            }
        )

    async def status(request: Request) -> Response:
        check_names(request)
        return json_response(await commands.ask(request, {"command": "status"}))

    async def ping(request: Request) -> Response:
        check_names(request)
        target = request.path_params["node"]
        # A node that does not answer is an answer, too.
        return json_response(await commands.ask(request, {"command": "ping", "target": target}))

    async def traceroute(request: Request) -> Response:
        check_names(request)
        target = request.path_params["node"]
        hops = await commands.ask(request, {"command": "traceroute", "target": target})
        return json_response(page_of(list(hops.values())))

    return [
        Route("/api/v1", root),
        Route("/api/v1/status", status),
        Route("/api/v1/ping/{node}", ping),
        Route("/api/v1/traceroute/{node}", traceroute),
    ]


def _name(client: Identity) -> str:
    """Return who a client is: whom its certificate names first, so that it sees what counts."""
    match client:
        case TcpClient(address, CertificateNames() as proved) if proved.names_anybody:
            named = proved.subject or f"certificate of {', '.join(proved.nodes)}"
            return f"{named} ({address})"
    return str(client)
