"""A unit's output by lines, with times where its type keeps them: as they come, or up to now.

Each file of output is read by a command of its own, and only when the lines want it, so that
little is in memory however much was printed. What the lines are, ``meshctl.api.logindex`` says,
for both of us.

A line's ID says how much of each stream has been told with it: who comes back with the last one
(``Last-Event-ID``) goes on behind it.
"""

import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Self

import trio
from starlette.requests import Request
from starlette.responses import Response

from meshctl.api.logindex import INDEX, STDERR, STDOUT, STREAMS, Line, LogLines
from meshnode.control.registry import JsonObject
from meshnode.errors import MeshnodeError, leaves_of
from meshnode.web.api.queries import check_names, flag, moment, whole_number
from meshnode.web.api.units import FINAL
from meshnode.web.identity import Caller, connection_of, known_caller
from meshnode.web.problems import MALFORMED, UNKNOWN, Problem, problem_of
from meshnode.web.routing import WebNode
from meshnode.web.session import Body, Message, Receive, Send
from meshnode.work.local.launcher.records import SIZE_KEYS

EVENTS: Final = "text/event-stream"
LINES: Final = "application/x-ndjson"

MOST_TAIL: Final = 10_000
"""Lines of a tail at most; they are in memory until the last of them is found."""

TAIL_BYTES: Final = 16 * 1024 * 1024
"""Bytes before the end of a stream in which a tail is looked for."""

PIECE: Final = 16 * 1024
"""Bytes of a file that become lines at a time. As objects and in JSON short lines take ten times as
much, and records of the index as well, for as long as a client does not read."""

ALIVE: Final = 15.0
"""Seconds after which a comment is sent where nothing else was, so that no proxy gives up."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_POSITION = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class LogWanted:
    """Which lines are wanted, and how they are to be sent."""

    is_events: bool
    follow: bool
    streams: tuple[str, ...]
    since: int | None
    """Microseconds since 1970."""
    tail: int | None
    resumed: tuple[int, int] | None
    """Bytes of stdout and of stderr that were told before."""

    @classmethod
    def of(cls, request: Request) -> Self:
        """Read a request. Raises Problem."""
        check_names(request, "follow", "since", "tail", "stderr")
        since = moment(request, "since")
        tail = whole_number(request, "tail", MOST_TAIL, MOST_TAIL)
        return cls(
            is_events=EVENTS in request.headers.get("accept", ""),
            follow=flag(request, "follow", default=True),
            streams=(STDERR,) if flag(request, "stderr", default=False) else STREAMS,
            since=None if since is None else (since - EPOCH) // timedelta(microseconds=1),
            tail=tail if "tail" in request.query_params else None,
            resumed=_resumed(request.headers.get("last-event-id", "")),
        )


def _resumed(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = _POSITION.fullmatch(text)
    if found is None:
        raise Problem(MALFORMED, "Last-Event-ID must be the ID of a line of this log")
    return int(found[1]), int(found[2])


class LogResponse(Response):
    """The lines of one unit, as events or as lines of JSON."""

    def __init__(self, node: WebNode, unit_id: str, status: JsonObject, wanted: LogWanted) -> None:
        """``status`` is what the unit is now; it says which files of output there are."""
        media_type = f"{EVENTS if wanted.is_events else LINES}; charset=utf-8"
        super().__init__(b"", HTTPStatus.OK, media_type=media_type)
        del self.headers["content-length"]
        self._node = node
        self._unit_id = unit_id
        self._status = status
        self._wanted = wanted
        if wanted.streams == (STDERR,) and not _has(status, STDERR):
            raise Problem(UNKNOWN, f"unit {unit_id} has no stderr of its own: stdout has both")

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Send the response; what is refused before its first line becomes another one."""
        start = {"type": "http.response.start", "status": self.status_code}
        head = {**start, "headers": self.raw_headers}
        if self._wanted.is_events:
            connection_of(scope).check_lasts()
        sender = _Sender(send, head, is_events=self._wanted.is_events)
        refusal: MeshnodeError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until, Body(receive).wait_lost, nursery.cancel_scope)
            if self._wanted.is_events:
                # The response ends, and its client asks for what comes behind it.
                leaving = connection_of(scope).leaving
                nursery.start_soon(_until, leaving.begun.wait, nursery.cancel_scope)
            nursery.start_soon(sender.keep_alive)
            try:
                await self._tell(known_caller(scope), sender)
            except (MeshnodeError, BaseExceptionGroup) as error:
                # Each file is read by a task of its own, and all of them may be refused.
                refusal = next((e for e in leaves_of(error) if isinstance(e, MeshnodeError)), None)
                if refusal is None:
                    raise
            nursery.cancel_scope.cancel()
        if refusal is not None:
            await self._refuse(refusal, sender)
        await sender.finish()

    async def _refuse(self, refusal: MeshnodeError, sender: "_Sender") -> None:
        """Tell of what ended the reading. Raises Problem, or BrokenResourceError."""
        problem = problem_of(refusal)
        if not sender.has_begun:
            raise problem
        if not self._wanted.is_events:
            # There is no line for it: a response that just ended would be taken for the whole log.
            raise trio.BrokenResourceError(f"the log broke off: {problem}")
        await sender.event("error", str(problem))

    async def _tell(self, caller: Caller, sender: "_Sender") -> None:
        reading = _Reading(
            self._node, caller, self._unit_id, self._status, self._wanted, sender.begin
        )
        async with trio.open_nursery() as nursery:
            async with aclosing(reading.lines(nursery)) as told:
                async for lines, position in told:
                    await sender.lines(lines, position)
            nursery.cancel_scope.cancel()
        command = {"command": "work", "subcommand": "status", "unitid": self._unit_id}
        status = await self._node.commands.run(caller, command, Body(_never), _dropped)
        await sender.event("end", {"ID": self._unit_id, **(status or {})})


class _Reading:
    """One reading of a unit's files of output."""

    def __init__(
        self,
        node: WebNode,
        caller: Caller,
        unit_id: str,
        status: JsonObject,
        wanted: LogWanted,
        opened: Callable[[], Awaitable[None]],
    ) -> None:
        """``opened`` is called for each file that the client may read."""
        self._node = node
        self._caller = caller
        self._unit_id = unit_id
        self._wanted = wanted
        self._opened = opened
        self._goes_on = wanted.follow and status.get("State") not in FINAL
        self._has_index = _has(status, INDEX)
        self._present = {name: _size(status, name) for name in (*STREAMS, INDEX)}
        self._files = [
            name
            for name in (*STREAMS, INDEX)
            if _has(status, name) and (name == INDEX or name in wanted.streams or self._has_index)
        ]
        starts = dict(zip(STREAMS, wanted.resumed or (0, 0), strict=True))
        if wanted.tail is not None and wanted.resumed is None:
            starts = {n: max(self._present[n] - TAIL_BYTES, 0) for n in STREAMS}
        self._starts = starts
        self._told = dict(starts)
        self._lines = LogLines(has_index=self._has_index, starts=starts)
        self._read = {**starts, INDEX: 0}
        self._takes = dict.fromkeys(STREAMS, True)

    async def lines(self, nursery: trio.Nursery) -> Any:
        """Yield lines, some at a time, and the ID of the last of them."""
        # Not before all that was there has come can it be known which lines are the last of it.
        kept: deque[dict[str, Any]] | None = None
        if self._wanted.tail is not None and self._wanted.resumed is None:
            kept = deque(maxlen=self._wanted.tail)
        channels = {name: self._open(name, nursery) for name in self._files}
        while channels:
            name = self._lines.awaits or next(iter(channels))
            channel = channels.get(name)
            piece = b"" if channel is None else await _next(channel)
            if not piece:
                if self._has_index and name in (INDEX, *STREAMS) and name == self._lines.awaits:
                    break  # the index ends here, or tells of what is not there
                channels.pop(name, None)
                continue
            self._read[name] += len(piece)
            shown = self._shown(self._lines.feed(name, piece))
            if kept is not None:
                kept.extend(shown)
                # Of what ends here the last line is known behind its end alone.
                if not (self._goes_on and self._is_past()):
                    continue
                shown, kept = list(kept), None
            if shown:
                yield shown, self._position
        async with aclosing(self._rest(channels)) as pieces:
            async for shown in pieces:
                if kept is not None:
                    kept.extend(shown)
                elif shown:
                    yield shown, self._position
        if kept:
            yield list(kept), self._position

    async def _rest(self, channels: dict[str, "trio.MemoryReceiveChannel[bytes]"]) -> Any:
        """Yield the lines behind all that the index tells of, some at a time."""
        yield self._shown(self._lines.end_index())
        for name in STREAMS:
            channel = channels.get(name)
            while channel is not None and (piece := await _next(channel)):
                yield self._shown(self._lines.feed(name, piece))
        yield self._shown(self._lines.finish())

    def _is_past(self) -> bool:
        """Whether all has been read that was there at first."""
        if not self._has_index:
            return self._read[STDOUT] >= self._present[STDOUT]
        # What it tells of may still be to come.
        return self._read[INDEX] >= self._present[INDEX] and self._lines.awaits in (INDEX, None)

    @property
    def _position(self) -> str:
        return f"{self._told[STDOUT]}-{self._told[STDERR]}"

    def _shown(self, lines: Iterable[Line]) -> list[dict[str, Any]]:
        return [shown for line in lines if (shown := self._one(line)) is not None]

    def _one(self, line: Line) -> dict[str, Any] | None:
        is_first = self._told[line.stream] == self._starts[line.stream]
        self._told[line.stream] += len(line.text)
        if line.is_begin:
            is_new = (
                self._wanted.since is None or line.time is None or line.time >= self._wanted.since
            )
            self._takes[line.stream] = is_new and line.stream in self._wanted.streams
        is_cut = self._wanted.resumed is None and self._starts[line.stream] > 0 and is_first
        if is_cut or not self._takes[line.stream]:
            return None  # its begin is before the tail, or it is not wanted
        text = line.text.removesuffix(b"\n").decode("utf-8", "replace")
        return {
            "time": None if line.time is None else _stamp(line.time),
            "stream": line.stream,
            "text": text,
            **({} if line.is_begin else {"continues": True}),
        }

    def _open(self, name: str, nursery: trio.Nursery) -> "trio.MemoryReceiveChannel[bytes]":
        """Begin to read a file; its bytes come when they are taken."""
        sender: trio.MemorySendChannel[bytes]
        sender, receiver = trio.open_memory_channel(0)
        nursery.start_soon(self._fetch, name, sender)
        return receiver

    async def _fetch(self, name: str, sender: "trio.MemorySendChannel[bytes]") -> None:
        start = 0 if name == INDEX else self._starts[name]
        left = None if self._goes_on else max(self._present[name] - start, 0)
        is_head = True

        async def take(data: bytes) -> None:
            nonlocal is_head, left
            if is_head:
                # One line for a session comes before the bytes, by itself.
                is_head = False
                await self._opened()
                return
            if left is not None:
                data = data[:left]
                left -= len(data)
            for place in range(0, len(data), PIECE):
                await sender.send(data[place : place + PIECE])
            if left == 0:
                enough.cancel()

        command: JsonObject = {"command": "work", "subcommand": "results"}
        command |= {"unitid": self._unit_id, "startpos": start, "stream": name}
        # Closed at once: a checkpoint here could be cancelled, in place of what went wrong.
        with sender, trio.CancelScope() as enough:
            if left != 0:
                await self._node.commands.run(self._caller, command, Body(_never), take)


class _Sender:
    """Puts lines and events into a response."""

    def __init__(self, send: Send, head: Message, *, is_events: bool) -> None:
        """``head`` begins the response."""
        self.has_begun = False
        self._send = send
        self._head = head
        self._is_events = is_events
        self._lock = trio.Lock()
        self._sent = trio.current_time()

    async def begin(self) -> None:
        """Begin the response, if it has not begun."""
        async with self._lock:
            await self._begin()

    async def _begin(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            await self._send(self._head)

    async def lines(self, lines: list[dict[str, Any]], position: str) -> None:
        """Send lines; the last has the ID by which a client goes on."""
        if not self._is_events:
            await self._pass("".join(f"{json.dumps(line)}\n" for line in lines))
            return
        *others, last = [f"event: line\ndata: {json.dumps(line)}\n\n" for line in lines]
        await self._pass("".join(others) + f"id: {position}\n{last}")

    async def event(self, name: str, data: object) -> None:
        """Send an event of another kind."""
        if self._is_events:
            await self._pass(f"event: {name}\ndata: {json.dumps(data)}\n\n")

    async def keep_alive(self) -> None:
        """Send comments while nothing else is sent."""
        while True:
            await trio.sleep_until(self._sent + ALIVE)
            if self._is_events and trio.current_time() >= self._sent + ALIVE:
                await self._pass(": still here\n\n")
            elif not self._is_events:
                return

    async def finish(self) -> None:
        """End the response."""
        await self.begin()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass(self, text: str) -> None:
        async with self._lock:
            await self._begin()
            self._sent = trio.current_time()
            body = text.encode()
            await self._send({"type": "http.response.body", "body": body, "more_body": True})


def _has(status: JsonObject, name: str) -> bool:
    return name == STDOUT or isinstance(status.get(SIZE_KEYS[name]), int)


def _size(status: JsonObject, name: str) -> int:
    size = status.get(SIZE_KEYS[name])
    return size if isinstance(size, int) else 0


def _stamp(microseconds: int) -> str:
    try:
        told = EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:  # no calendar has it
        told = datetime.max.replace(tzinfo=UTC)
    return told.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


async def _next(channel: "trio.MemoryReceiveChannel[bytes]") -> bytes:
    try:
        return await channel.receive()
    except trio.EndOfChannel:
        return b""


async def _until(happened: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await happened()
    scope.cancel()


async def _never() -> dict[str, object]:
    await trio.sleep_forever()
    raise AssertionError("for ever")


async def _dropped(data: bytes) -> None:
    await trio.lowlevel.checkpoint()
