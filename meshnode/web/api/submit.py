"""Takes submissions: a job as JSON, with its payload in it or as a part of its own, and files.

Half a payload starts nothing: the command that submits sees the loss of the client as it would on
its socket. A submission with an ``Idempotency-Key`` is done once; who sends it again is told of the
unit that there is.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.errors import CommandError, SecurityError, UnknownUnit
from meshnode.protocol.control import DEPS_SHA256_KEY, DEPS_SIZE_KEY, SCRIPT_KEY
from meshnode.protocol.lifecycle import UnitState
from meshnode.web.api.bodies import MAX_BODY, Count, kept, whole_body
from meshnode.web.api.jobfiles import Tar
from meshnode.web.api.jobs import read_job
from meshnode.web.api.multipart import Parts
from meshnode.web.api.queries import check_names
from meshnode.web.identity import Caller, caller_of
from meshnode.web.origins import kind_of_body
from meshnode.web.problems import (
    CONFLICT,
    MALFORMED,
    REFUSED,
    UNAVAILABLE,
    WRONG_TYPE,
    Problem,
)
from meshnode.web.routing import WebNode, json_response
from meshnode.web.session import Body, BrokenBody
from meshnode.work.units.keys import ALREADY_SUBMITTED, MAX_KEY
from meshnode.work.units.quotas import account

MAX_IDEMPOTENCY_KEY: Final = MAX_KEY // 2
"""Characters of an ``Idempotency-Key``: who sends it stands before it."""

FEEDING: Final = 5.0
"""Seconds that a request waits for the payload of another one under its key. The node takes a
moment to see that a client is gone, and small payloads come at once."""

RETRY: Final = "10"
"""Seconds after which it is worth to ask again what has become of a larger one."""

_CREATED = re.compile(rb"Work unit created with ID ([^ .]+)\.[^\n]*\n")
_ALREADY = re.compile(rf"{ALREADY_SUBMITTED} ([^ ,]+)(, which was released)?")

Receive = Callable[[int], Awaitable[bytes]]


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""

    async def submitted(request: Request) -> Response:
        check_names(request)
        forms = {"application/json": _submit_json, "multipart/form-data": _submit_parts}
        submit = forms.get(kind_of_body(request.headers))
        if submit is not None:
            with kept(node, request) as count:
                return await submit(node, request, Body(request.receive), count)
        raise Problem(WRONG_TYPE, "a job is application/json, or multipart/form-data with files")

    return [Route("/api/v1/units", submitted, methods=["POST"])]


async def _submit_json(node: WebNode, request: Request, body: Body, count: Count) -> Response:
    command, payload = read_job(await whole_body(body.receive_some, count, "the job"))
    payload = payload or b""
    command["stdinsize"] = str(len(payload))
    command["stdinsha256"] = hashlib.sha256(payload).hexdigest()
    return await _submit(node, request, command, Pieces(payload).receive)


async def _submit_parts(node: WebNode, request: Request, body: Body, count: Count) -> Response:
    parts = Parts(request.headers["content-type"], body.receive_some)
    first = await parts.next_part()
    if first is None or first.name != "job":
        raise Problem(MALFORMED, "the first part must be called job, and be the job in JSON")
    command, payload = read_job(await whole_body(parts.some, count, "the job"))
    await _check_may(node, request)
    async with Tar(node.spool.room(caller_of(request).holder)) as tar:
        part = await parts.next_part()
        while part is not None and part.name in ("dep", "script"):
            if part.name == "script":
                if SCRIPT_KEY in command:
                    raise Problem(MALFORMED, "there are two scripts; the others are parts dep")
                command[SCRIPT_KEY] = part.filename
            await tar.add(part.filename, parts, is_script=part.name == "script")
            part = await parts.next_part()
        if tar.size:
            await tar.finish()
            command |= {DEPS_SIZE_KEY: str(tar.size), DEPS_SHA256_KEY: tar.digest}
        if part is not None and (part.name != "payload" or payload is not None):
            expected = "job, dep, script, and payload at the end"
            raise Problem(MALFORMED, f"the part {part.name[:40]!r} is one too many: {expected}")
        rest = parts.content if part is not None else Pieces(payload or b"").next_piece
        return await _submit(node, request, command, _Joined(tar, rest, parts).receive)


async def _check_may(node: WebNode, request: Request) -> None:
    """Refuse who may submit nothing at all, before files come. Raises MeshnodeError."""
    asked = {"command": "work", "subcommand": "types"}
    await node.commands.run(caller_of(request), asked, Body(_nothing_more), _dropped)


async def _submit(
    node: WebNode, request: Request, command: JsonObject, receive: Receive
) -> Response:
    """Run the command, and tell what it answers."""
    caller = caller_of(request)
    if key := submission_key(caller, request.headers.get("idempotency-key", "")):
        command["submissionkey"] = key
    sent = bytearray()
    body = PulledBody(receive, request)

    async def take(data: bytes) -> None:
        sent.extend(data)
        await trio.lowlevel.checkpoint()

    known: str | None = None
    while True:
        try:
            reply = await node.commands.run(caller, command, body, take)
            break
        except CommandError as error:
            found = _ALREADY.fullmatch(str(error)) if key else None
            if found is None:
                tell_of_key(error)
                raise
            # Of those who send it again at once, one makes room; the others find its unit then.
            if found[2] or found[1] == known or not await _made_room(node, caller, found[1]):
                return await _known(node, request, found)
            known = found[1]
    if reply is None:
        # The unit was made, and then its input was refused.
        text = _CREATED.sub(b"", bytes(sent)).decode("utf-8", "replace").strip()
        created = _CREATED.match(sent)
        unit: dict[str, object] = {"unit": created[1].decode()} if created else {}
        raise Problem(REFUSED, text.removeprefix("ERROR: ") or "the input was refused", {}, **unit)
    return await _told(node, request, str(reply["unitid"]), HTTPStatus.CREATED)


def tell_of_key(error: CommandError) -> None:
    """Raise a Problem for an error of a submission key: its client knows an Idempotency-Key."""
    if "submissionkey" in str(error):
        text = str(error).replace("field submissionkey", "the Idempotency-Key")
        raise Problem(CONFLICT, text) from error


async def _made_room(node: WebNode, caller: Caller, unit_id: str) -> bool:
    """Return whether the unit of a key is gone that never got all of its input, and so never ran.

    Its client had broken off, and sends it again; nothing of the request has been taken yet.
    """
    try:
        unit = await _asked(node, caller, "status", unit_id)
        if _takes_in(unit):
            await _wait_fed(node, caller, unit_id)
            unit = await _asked(node, caller, "status", unit_id)
        if _takes_in(unit):
            # It may still fail, and who was told of it would not come again.
            text = f"unit {unit_id} still takes in the payload of another request with this key"
            raise Problem(UNAVAILABLE, f"{text}; send it again later", {"retry-after": RETRY})
        if unit["State"] != int(UnitState.FAILED) or unit["StdinSize"] is not None:
            return False
        await _asked(node, caller, "release", unit_id)
    except UnknownUnit:
        return True  # another one has done it, or it is not for this client: trying again tells
    except (CommandError, SecurityError):
        return False
    return True


def _takes_in(unit: JsonObject) -> bool:
    """Whether a unit waits for the rest of its payload."""
    return unit["State"] == int(UnitState.PENDING) and unit["StdinSize"] is None


async def _wait_fed(node: WebNode, caller: Caller, unit_id: str) -> None:
    """Return when a unit waits for its payload no more, or when that takes long."""
    with trio.move_on_after(FEEDING) as waiting:

        async def look(data: bytes) -> None:
            await trio.lowlevel.checkpoint()
            if not _takes_in(json.loads(data.splitlines()[-1])):
                waiting.cancel()

        command = {"command": "work", "subcommand": "watch", "unitid": unit_id}
        await node.commands.run(caller, command, Body(_nothing_more), look)


async def _asked(node: WebNode, caller: Caller, subcommand: str, unit_id: str) -> JsonObject:
    command = {"command": "work", "subcommand": subcommand, "unitid": unit_id}
    return await node.commands.run(caller, command, Body(_nothing_more), _dropped) or {}


async def _known(node: WebNode, request: Request, known: re.Match[str]) -> Response:
    if known[2]:
        raise Problem(CONFLICT, f"the Idempotency-Key was that of unit {known[1]}{known[2]}")
    return await _told(node, request, known[1], HTTPStatus.OK)


async def _told(node: WebNode, request: Request, unit_id: str, code: HTTPStatus) -> Response:
    """Return the response that tells of a unit; who may not look at it is told its ID."""
    caller = caller_of(request)
    told: JsonObject = {"ID": unit_id}
    may = {"command": "auth", "subcommand": "can", "verb": "status", "unitid": unit_id}
    allowed = await node.commands.run(caller, may, Body(_nothing_more), _dropped)
    if allowed is not None and allowed["Allowed"]:
        told |= await _asked(node, caller, "status", unit_id)
    return json_response(told, code, location=f"/api/v1/units/{unit_id}")


def submission_key(caller: Caller, key: str) -> str:
    """Return a key that no other client's is: others choose theirs as they like. Raises Problem."""
    if not key:
        return ""
    if len(key) > MAX_IDEMPOTENCY_KEY or not key.isprintable():
        raise Problem(
            MALFORMED, f"Idempotency-Key has at most {MAX_IDEMPOTENCY_KEY} printable characters"
        )
    who = hashlib.sha256(repr(account(caller.client)).encode()).hexdigest()[:16]
    return f"http {who} {key}"


class Pieces:
    """Bytes that are there already, as a body that comes."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    async def receive(self, max_bytes: int) -> bytes:
        """Return 1 to ``max_bytes`` of them, none at their end."""
        await trio.lowlevel.checkpoint()
        piece, self._rest = bytes(self._rest[:max_bytes]), self._rest[max_bytes:]
        return piece

    async def next_piece(self) -> bytes:
        """Return what there is of them, none at their end."""
        return await self.receive(MAX_BODY)


class _Joined:
    """The tar of a job's files, and its payload behind it."""

    def __init__(self, tar: Tar, rest: Callable[[], Awaitable[bytes]], parts: Parts) -> None:
        self._tar = tar
        self._rest = rest
        self._parts = parts
        self._position = 0
        self._piece = b""
        self._is_over = False

    async def receive(self, max_bytes: int) -> bytes:
        """Return 1 to ``max_bytes`` bytes, none at their end. Raises BrokenResourceError."""
        try:
            return await self._next(max_bytes)
        except Problem as problem:
            raise BrokenBody(problem) from problem

    async def _next(self, max_bytes: int) -> bytes:
        if self._position < self._tar.size:
            data = await self._tar.read(self._position, max_bytes)
            self._position += len(data)
            return data
        if not self._piece and not self._is_over:
            self._piece = await self._rest()
            if not self._piece:
                self._is_over = True
                # The unit must not start if the body breaks off, or goes on.
                if await self._parts.next_part() is not None:
                    raise Problem(MALFORMED, "a part follows the payload, which must be the last")
        data, self._piece = self._piece[:max_bytes], self._piece[max_bytes:]
        return data


class PulledBody(Body):
    """What a command receives, where that is not the body of the request as it is."""

    def __init__(self, receive: Receive, request: Request) -> None:
        super().__init__(request.receive)
        self._input = receive

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return 1 to ``max_bytes`` bytes, none at their end; see Body."""
        return await self._input(max_bytes)


async def _nothing_more() -> dict[str, object]:
    await trio.sleep_forever()
    raise AssertionError("for ever")


async def _dropped(data: bytes) -> None:
    await trio.lowlevel.checkpoint()
