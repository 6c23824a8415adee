"""Batches: many submissions under one ID, as an array or as a list."""

import hashlib
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.errors import CommandError, NotAllowed
from meshnode.web.api.bodies import kept, read_object, whole_body
from meshnode.web.api.jobs import LOCAL_NODE, read_fields
from meshnode.web.api.queries import check_names, seconds, whole_number
from meshnode.web.api.submit import Pieces, PulledBody, submission_key, tell_of_key
from meshnode.web.api.units import DEFAULT_WAIT
from meshnode.web.commands import Streaming
from meshnode.web.identity import caller_of
from meshnode.web.origins import kind_of_body
from meshnode.web.problems import MALFORMED, REFUSED, UNKNOWN, WRONG_TYPE, Problem
from meshnode.web.routing import WebNode, json_response, page_of
from meshnode.web.session import Body
from meshnode.work.batches.access import UnknownBatch
from meshnode.work.batches.commands import ALREADY
from meshnode.work.batches.spec import LINE_KEYS, LIST_SHA256_KEY, NOT_OF_A_MEMBER

ENDED: Final = frozenset({"Succeeded", "Failed", "Canceled"})
"""``StateName`` of a batch that has ended."""

OWN: Final = ("array", "lines", "max_in_flight", "job")
"""The members of a batch in JSON."""

LINES: Final = "application/x-ndjson"


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""
    commands = node.commands

    async def listed(request: Request) -> Response:
        check_names(request)
        found = await commands.ask(request, _command("list"))
        newest = sorted(found.values(), key=lambda one: str(one.get("Created")), reverse=True)
        return json_response(page_of(newest))

    async def submit(request: Request) -> Response:
        check_names(request)
        if kind_of_body(request.headers) != "application/json":
            raise Problem(WRONG_TYPE, "a batch is application/json")
        with kept(node, request) as count:
            data = await whole_body(Body(request.receive).receive_some, count, "the batch")
            # Its lines take longer to read than others should wait.
            command, lines = await trio.to_thread.run_sync(read_batch, data)
            reply = await _submitted(node, request, command, lines)
        where = f"/api/v1/batches/{reply['batch']}"
        told = await _told(node, request, reply)
        code = HTTPStatus.OK if reply["result"] == ALREADY else HTTPStatus.CREATED
        return json_response(told, code, location=where)

    async def status(request: Request) -> Response:
        check_names(request)
        return json_response(await _status(node, request, request.path_params["id"]))

    async def wait(request: Request) -> Response:
        check_names(request, "timeout")
        span = seconds(request, "timeout", DEFAULT_WAIT)
        last = await _status(node, request, request.path_params["id"])
        with trio.move_on_after(span):
            last = await _last_status(node, request)
        code = HTTPStatus.OK if last.get("StateName") in ENDED else HTTPStatus.ACCEPTED
        return json_response(last, code)

    async def members(request: Request) -> Response:
        check_names(request, "from")
        start = whole_number(request, "from", 0)
        command = _on_batch(request, "members") | {"startpos": start}
        await _status(node, request, request.path_params["id"])
        return commands.stream(command, Streaming(LINES, has_head=False))

    async def may(request: Request) -> Response:
        check_names(request)
        return json_response(await _asked(node, request, _on_batch(request, "may")))

    def doing(action: str) -> Any:
        async def do(request: Request) -> Response:
            check_names(request)
            reply = await _asked(node, request, _on_batch(request, action))
            if action == "retry":
                return json_response(reply)
            word = next(iter(reply))
            return json_response({"result": word, "batch": request.path_params["id"]})

        return do

    batch = "/api/v1/batches/{id}"
    return [
        Route("/api/v1/batches", listed),
        Route("/api/v1/batches", submit, methods=["POST"]),
        Route(batch, status),
        Route(batch, doing("release"), methods=["DELETE"]),
        Route(f"{batch}/wait", wait),
        Route(f"{batch}/members", members),
        Route(f"{batch}/may", may),
        *(
            Route(f"{batch}/{action}", doing(action), methods=["POST"])
            for action in ("cancel", "release", "retry")
        ),
    ]


def read_batch(data: bytes) -> tuple[JsonObject, bytes | None]:
    """Return the command that submits a batch in JSON, and the lines of its list, if it has one.

    Raises:
        Problem: it is no batch.
    """
    batch = read_object(data, "the batch")
    for name in batch:
        if name not in OWN:
            raise Problem(MALFORMED, f"a batch has no {name[:40]!r}; it has {', '.join(OWN)}")
    job = batch.get("job") or {}
    if not isinstance(job, dict):
        raise Problem(MALFORMED, "job must be an object: what all members have")
    fields, payload = _read_member(job)
    command: JsonObject = {**_command("submit"), "node": LOCAL_NODE, **fields}
    if payload is not None:
        command["stdin"] = _as_text("job.payload", payload)
    if (most := batch.get("max_in_flight")) is not None:
        if isinstance(most, bool) or not isinstance(most, int):
            raise Problem(MALFORMED, "max_in_flight must be a whole number")
        command["maxinflight"] = str(most)
    lines, array = batch.get("lines"), batch.get("array")
    if (lines is None) == (array is None):
        raise Problem(MALFORMED, "a batch has array or lines: one of the two")
    if array is not None:
        if not isinstance(array, str):
            raise Problem(MALFORMED, 'array must be a text, as "1-1000%20"')
        return {**command, "array": array}, None
    if not isinstance(lines, list):
        raise Problem(MALFORMED, "lines must be a list of texts or of jobs")
    text = "".join(_line(number, line) for number, line in enumerate(lines, 1))
    return {**command, "lines": "true"}, text.encode()


def _line(number: int, line: object) -> str:
    """Return a line of a list as the command takes it."""
    if isinstance(line, str):
        return json.dumps({"line": line}) + "\n"
    if not isinstance(line, dict):
        raise Problem(MALFORMED, f"lines: {number}: must be a text or a job")
    try:
        text = "" if line.get("line") is None else line["line"]
        fields, payload = _read_member({name: of for name, of in line.items() if name != "line"})
        if not isinstance(text, str):
            raise Problem(MALFORMED, "line must be a text")
        if payload is not None:
            fields["stdin"] = _as_text("payload", payload)
    except Problem as problem:
        raise Problem(problem.kind, f"lines: {number}: {problem}") from None
    return json.dumps(fields | ({"line": text} if text else {})) + "\n"


def _read_member(job: Mapping[str, Any]) -> tuple[JsonObject, bytes | None]:
    """Return what ``read_fields`` does of what members have. Raises Problem."""
    fields, payload = read_fields(job)
    for name in job.get("parameters") or ():
        if name in NOT_OF_A_MEMBER or name in LINE_KEYS:
            raise Problem(REFUSED, f"parameters.{name}: a batch has a field of its own for that")
    return fields, payload


def _as_text(name: str, payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise Problem(MALFORMED, f"{name} of a batch must be text in UTF-8") from None


def _command(action: str) -> JsonObject:
    return {"command": "work", "subcommand": "batch", "action": action}


def _on_batch(request: Request, action: str) -> JsonObject:
    return {**_command(action), "batch": request.path_params["id"]}


async def _submitted(
    node: WebNode, request: Request, command: JsonObject, lines: bytes | None
) -> JsonObject:
    caller = caller_of(request)
    if key := submission_key(caller, request.headers.get("idempotency-key", "")):
        command["submissionkey"] = key
        if lines is not None:
            # Another list under the same key is another batch.
            command[LIST_SHA256_KEY] = hashlib.sha256(lines).hexdigest()
    sent = bytearray()

    async def take(data: bytes) -> None:
        sent.extend(data)
        await trio.lowlevel.checkpoint()

    body = PulledBody(Pieces(lines or b"").receive, request)
    try:
        reply = await node.commands.run(caller, command, body, take)
    except CommandError as error:
        tell_of_key(error)
        raise
    if reply is not None:
        return reply
    # Of a list the reply is the last line, behind the one that asks for it.
    last = bytes(sent).splitlines()[-1].decode("utf-8", "replace")
    if last.startswith("ERROR: "):
        raise Problem(REFUSED, last.removeprefix("ERROR: "))
    found: JsonObject = json.loads(last)
    return found


async def _status(node: WebNode, request: Request, batch_id: str) -> JsonObject:
    return await _asked(node, request, {**_command("status"), "batch": batch_id})


async def _told(node: WebNode, request: Request, reply: JsonObject) -> JsonObject:
    """Return what is told of a batch that was submitted: to who may not look at it, what it is."""
    batch_id = str(reply["batch"])
    try:
        return await node.commands.ask(request, {**_command("status"), "batch": batch_id})
    except (UnknownBatch, NotAllowed):
        return {"Batch": batch_id, "Members": reply["members"]}


async def _asked(node: WebNode, request: Request, command: JsonObject) -> JsonObject:
    try:
        return await node.commands.ask(request, command)
    except UnknownBatch as error:
        raise Problem(UNKNOWN, str(error)) from error


async def _last_status(node: WebNode, request: Request) -> JsonObject:
    """Return the status of the batch of a request's path once it has ended."""
    told = bytearray()

    async def take(data: bytes) -> None:
        told[:] = data[data.rfind(b"\n", 0, -1) + 1 :]
        await trio.lowlevel.checkpoint()

    command = _on_batch(request, "wait")
    await node.commands.run(caller_of(request), command, Body(request.receive), take)
    found: JsonObject = json.loads(told)
    return found
