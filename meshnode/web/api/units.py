"""Units of work: what there is, what becomes of it, and its end."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.errors import UnknownUnit
from meshnode.protocol.lifecycle import UnitState
from meshnode.web.api.queries import check_names, flag, moment, seconds, whole_number
from meshnode.web.identity import caller_of
from meshnode.web.problems import FORBIDDEN, MALFORMED, UNKNOWN, Problem
from meshnode.web.routing import WebNode, json_response, page_of
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

STATES: Final = {state.name.lower(): int(state) for state in UnitState}


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""
    commands = node.commands

    async def listed(request: Request) -> Response:
        wanted = _Wanted(request)
        reply = await commands.ask(request, {"command": "work", "subcommand": "list"})
        # Thousands of units take longer to look through than others should wait.
        page = await trio.to_thread.run_sync(wanted.page_of, reply)
        return json_response(page)

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


class _Wanted:
    """Which units a list is to have, and in which order: the newest first."""

    def __init__(self, request: Request) -> None:
        """Read a query. Raises Problem."""
        once = ("submitter", "batch", "since", "limit", "cursor")
        check_names(request, *once, several=("state", "type", "label", "node"))
        given = request.query_params
        self._states = {_state(name) for word in given.getlist("state") for name in word.split(",")}
        self._types = set(given.getlist("type"))
        self._nodes = set(given.getlist("node"))
        self._labels = [label.partition("=") for label in given.getlist("label")]
        if batch := given.get("batch"):
            self._labels.append(("batch", "=", batch))
        self._submitter = given.get("submitter", "")
        since = moment(request, "since")
        self._since = "" if since is None else _as_written(since)
        self._limit = whole_number(request, "limit", PAGE, LONGEST_PAGE)
        self._after = _position(given.get("cursor"))

    def page_of(self, units: Mapping[str, JsonObject]) -> JsonObject:
        """Return the page of a list that the client wants."""
        found = sorted(self._found(units), key=_place, reverse=True)
        after = self._after
        rest = found if after is None else [unit for unit in found if _place(unit) < after]
        page = rest[: self._limit]
        more = len(rest) > len(page) and page
        return page_of(page, _cursor(page[-1]) if more else None) | {"total": len(found)}

    def _found(self, units: Mapping[str, JsonObject]) -> Iterator[JsonObject]:
        for unit_id, status in units.items():
            if self._is_wanted(status):
                yield {"ID": unit_id, **status}

    def _is_wanted(self, status: JsonObject) -> bool:
        remote = (status.get("ExtraData") or {}).get("RemoteNode", "")
        return (
            (not self._states or status.get("State") in self._states)
            and (not self._types or _type_of(status) in self._types)
            and (not self._nodes or remote in self._nodes)
            and all(_has(status.get("Labels") or {}, *label) for label in self._labels)
            and (not self._submitter or self._submitter in json.dumps(status.get("SubmittedBy")))
            and (not self._since or str(status.get("Created") or "") >= self._since)
        )


def _state(word: str) -> int:
    if word.lower() in STATES:
        return STATES[word.lower()]
    raise Problem(MALFORMED, f"state must be of {', '.join(STATES)}, not {word[:40]!r}")


def _type_of(status: JsonObject) -> str:
    remote = (status.get("ExtraData") or {}).get("RemoteWorkType", "")
    return str(remote or status.get("WorkType", ""))


def _has(labels: Mapping[str, str], name: str, equals: str, value: str) -> bool:
    return name in labels and (not equals or labels[name] == value)


def _as_written(time: datetime) -> str:
    """Return a time as it stands in a status, whose texts sort as times do."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def _place(unit: JsonObject) -> tuple[str, str]:
    return str(unit.get("Created") or ""), str(unit["ID"])


def _cursor(unit: JsonObject) -> str:
    return urlsafe_b64encode(json.dumps(_place(unit)).encode()).decode().rstrip("=")


def _position(cursor: Any) -> tuple[str, str] | None:
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        created, unit_id = json.loads(urlsafe_b64decode(padded.encode("ascii")))
    except (ValueError, TypeError, RecursionError):
        raise Problem(MALFORMED, "cursor must be what an earlier page had as next") from None
    return str(created), str(unit_id)
