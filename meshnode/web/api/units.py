"""Units of work: what there is, what becomes of it, and its end."""

import json
from http import HTTPStatus
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.errors import UnknownUnit
from meshnode.protocol.lifecycle import UnitState
from meshnode.web.api.queries import check_names, flag, moment, seconds, whole_number
from meshnode.web.commands import Streaming
from meshnode.web.identity import caller_of
from meshnode.web.problems import FORBIDDEN, UNKNOWN, Problem
from meshnode.web.routing import WebNode, json_response
from meshnode.web.session import Body

PAGE: Final = 100
"""Units of a list, where the client does not say how many."""

LONGEST_PAGE: Final = 1000
"""Units of a list at most; the next ones have a cursor."""

DEFAULT_WAIT: Final = 60.0
"""Seconds that a request waits for the end of a unit where it does not say how long: as long as
proxies commonly let a request last."""

VERBS: Final = ("status", "results", "cancel", "release")
"""What one may be allowed to do with a unit."""

FINAL: Final = frozenset(int(state) for state in UnitState if state.is_final)
"""``State`` of a unit that has ended."""

SEVERAL: Final = ("state", "type", "node", "label")
"""What the query of a list may have several times."""

SINGLE: Final = ("submitter", "batch", "cursor")
"""What it may have once."""

LIST: Final = Streaming(media_type="application/json", has_head=False)
"""How a list becomes a response: as the command sends it."""


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""
    commands = node.commands

    async def listed(request: Request) -> Response:
        return commands.stream(_listing(request), LIST)

    async def status(request: Request) -> Response:
        check_names(request)
        reply = await commands.ask(request, on_unit(request, "status"))
        return json_response(with_id(request, reply))

    async def wait(request: Request) -> Response:
        check_names(request, "timeout")
        span = seconds(request, "timeout", DEFAULT_WAIT)
        last = await final_status(node, request, span)
        is_over = last.get("State") in FINAL
        return json_response(
            with_id(request, last), HTTPStatus.OK if is_over else HTTPStatus.ACCEPTED
        )

    async def cancel(request: Request) -> Response:
        check_names(request)
        reply = await commands.ask(request, on_unit(request, "cancel"))
        return _done(request, reply)

    async def stop(request: Request) -> Response:
        check_names(request, "timeout")
        span = seconds(request, "timeout", DEFAULT_WAIT)
        reply = await commands.ask(request, on_unit(request, "cancel"))
        last = await final_status(node, request, span)
        is_over = last.get("State") in FINAL
        code = HTTPStatus.OK if is_over else HTTPStatus.ACCEPTED
        return json_response({"result": _word(reply), "unit": with_id(request, last)}, code)

    async def release(request: Request) -> Response:
        check_names(request, "force", "remote")
        subcommand = "force-release" if flag(request, "force", default=False) else "release"
        command = on_unit(request, subcommand)
        if flag(request, "remote", default=False):
            command["remote"] = "true"
        return _done(request, await commands.ask(request, command))

    async def may(request: Request) -> Response:
        check_names(request)
        unit = request.path_params["id"]
        answers = {}
        for verb in VERBS:
            command = {"command": "auth", "subcommand": "can", "verb": verb, "unitid": unit}
            answers[verb] = await commands.ask(request, command)
        if not any(answer["Allowed"] for answer in answers.values()):
            # Whether there is such a unit is told as to a request for it.
            await commands.ask(request, on_unit(request, "status"))
        return json_response({verb: answer["Allowed"] for verb, answer in answers.items()})

    unit = "/api/v1/units/{id}"
    return [
        Route("/api/v1/units", listed),
        Route(unit, status),
        Route(unit, release, methods=["DELETE"]),
        Route(f"{unit}/wait", wait),
        Route(f"{unit}/may", may),
        Route(f"{unit}/cancel", cancel, methods=["POST"]),
        Route(f"{unit}/stop", stop, methods=["POST"]),
        Route(f"{unit}/release", release, methods=["POST"]),
    ]


def on_unit(request: Request, subcommand: str) -> JsonObject:
    """Return the command that does something to the unit of a request's path."""
    return {"command": "work", "subcommand": subcommand, "unitid": request.path_params["id"]}


async def refuse_unless(node: WebNode, request: Request, verb: str) -> None:
    """Refuse who may not do something with the unit of a request's path, in the command's words.

    Raises:
        Problem: it may not, or there is no such unit for it.
    """
    unit = request.path_params["id"]
    command = {"command": "auth", "subcommand": "can", "verb": verb, "unitid": unit}
    answer = await node.commands.ask(request, command)
    if not answer["Here"]:
        reason = str(answer["Reason"])
        is_unknown = reason == str(UnknownUnit(unit))
        raise Problem(UNKNOWN if is_unknown else FORBIDDEN, reason)


def with_id(request: Request, status: JsonObject) -> JsonObject:
    """Return the status of the unit of a request's path, with its ID."""
    return {"ID": request.path_params["id"], **status}


async def final_status(node: WebNode, request: Request, span: float) -> JsonObject:
    """Return the status of a unit when it has ended, or after so many seconds.

    Raises:
        MeshnodeError: there is no such unit for the client, or not any more.
        trio.BrokenResourceError: the client is gone.
    """
    first = await node.commands.ask(request, on_unit(request, "status"))
    if first.get("State") in FINAL:
        return first
    told = bytearray()

    async def take(data: bytes) -> None:
        # Of all that was told only the last line counts.
        start = data.rfind(b"\n", 0, -1) + 1
        told[:] = data[start:]
        await trio.lowlevel.checkpoint()

    with trio.move_on_after(span):
        command = on_unit(request, "watch")
        await node.commands.run(caller_of(request), command, Body(request.receive), take)
    last: JsonObject = json.loads(told) if told else first
    if last.get("State") not in FINAL:
        # What used resources meanwhile, or was released, is told as it is now.
        last = await node.commands.ask(request, on_unit(request, "status"))
    return last


def _done(request: Request, reply: JsonObject) -> Response:
    return json_response({"result": _word(reply), "unit": request.path_params["id"]})


def _word(reply: JsonObject) -> str:
    """Return what a node says that it did: ``cancelled``, ``release pending``."""
    return str(next(iter(reply)))


def _listing(request: Request) -> JsonObject:
    """Return the command that sends a page of units, as a query asks for it. Raises Problem."""
    check_names(request, *SINGLE, "since", "limit", several=SEVERAL)
    given = request.query_params
    command: JsonObject = {name: given.getlist(name) for name in SEVERAL}
    command["state"] = [word for words in command["state"] for word in words.split(",")]
    command |= {name: given.get(name) for name in SINGLE}
    since = moment(request, "since")
    command["since"] = since and since.isoformat()
    command["limit"] = whole_number(request, "limit", PAGE, LONGEST_PAGE)
    return {"command": "work", "subcommand": "list", **command}
