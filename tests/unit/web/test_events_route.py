"""Server-sent events: frames, keep-alives, resuming, and clients that go."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import load_arguments
from meshnode.control.events import Change, EventHub, Topic
from meshnode.protocol.control import encode_reply
from meshnode.web.api.events import EventFrames
from meshnode.web.commands import KEEP_ALIVE
from tests.unit.web.conftest import MakeClient


class Scene:
    """A service whose node tells of routes."""

    def __init__(self, make_client: MakeClient, *rules: str) -> None:
        words = [part for rule in rules for part in ("--access-rule", *rule.split(" | "))]
        made = load_arguments(["--local-only", "--node", "foo", *words]).rules
        self.hub = EventHub()
        self.client = make_client(rules=made, hub=self.hub)

    def tell(self, node: str = "bar") -> None:
        self.hub.tell(
            Topic.ROUTE, (node,), Change.ADDED, lambda: {"route": {"node": node, "via": "mid"}}
        )

    @asynccontextmanager
    async def listening(
        self, path: str = "/api/v1/events?topics=routes", **headers: str
    ) -> AsyncIterator["trio.MemoryReceiveChannel[bytes]"]:
        """Ask for events; give what comes, part by part."""
        into, out = trio.open_memory_channel[bytes](1000)

        async def ask() -> None:
            await self.client.ask(path, on_part=into.send_nowait, **headers)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            yield out
            nursery.cancel_scope.cancel()


def parsed(part: bytes) -> list[tuple[int, str, Any]]:
    """Return ID, type and data of each event."""
    found = []
    for event in part.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in event.splitlines())
        found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


async def test_each_change_is_an_event_with_its_number_and_topic(autojump_clock, make_client):
    scene = Scene(make_client)
    async with scene.listening() as parts:
        [(first, topic, start)] = parsed(await parts.receive())
        assert (topic, start["topics"]) == ("start", ["route"])
        scene.tell()
        [(number, topic, told)] = parsed(await parts.receive())
        assert number == told["seq"] > first
        assert topic == "route"
        assert told["route"] == {"node": "bar", "via": "mid"}


async def test_who_comes_back_goes_on_after_the_last_event_that_it_has_read(
    autojump_clock, make_client
):
    scene = Scene(make_client)
    async with scene.listening() as parts:
        await parts.receive()
        scene.tell("bar")
        [(last, _, _)] = parsed(await parts.receive())
    scene.tell("baz")
    for headers, path in (
        ({"last_event_id": str(last)}, "/api/v1/events?topics=routes"),
        ({}, f"/api/v1/events?topics=routes&since={last}"),
    ):
        async with scene.listening(path, **headers) as parts:
            await parts.receive()
            [(_, _, told)] = parsed(await parts.receive())
            assert told["id"] == "baz"


async def test_who_comes_back_too_late_is_told_that_something_is_lost(autojump_clock, make_client):
    scene = Scene(make_client)
    async with scene.listening(last_event_id="7") as parts:
        await parts.receive()
        [(number, topic, told)] = parsed(await parts.receive())
        assert topic == "lost"
        assert told["missed"] is None
        assert number == scene.hub.seq


async def test_a_quiet_stream_is_kept_alive_by_comments_and_a_busy_one_needs_none(
    autojump_clock, make_client
):
    scene = Scene(make_client)
    async with scene.listening() as parts:
        await parts.receive()
        began = trio.current_time()
        assert (await parts.receive()).startswith(b": ")
        assert trio.current_time() - began <= 1.5 * KEEP_ALIVE
        for _ in range(20):
            await trio.sleep(KEEP_ALIVE / 4)
            scene.tell()
            assert not (await parts.receive()).startswith(b": ")


@pytest.mark.parametrize("last", ["x", "-1", "1e3", "٣", "1" * 30])
async def test_what_is_no_number_of_an_event_is_malformed(last, make_client):
    reply = await Scene(make_client).client.ask(f"/api/v1/events?since={last}")
    assert (reply.status, reply.is_problem) == (400, True)


async def test_an_unknown_topic_is_refused_with_those_that_there_are(make_client):
    reply = await Scene(make_client).client.ask("/api/v1/events?topics=weather")
    assert (reply.status, reply.is_problem) == (422, True)
    assert "units, links" in reply.json["detail"]


async def test_who_may_not_have_the_mesh_is_told_nothing_of_it(make_client):
    scene = Scene(make_client, "action=allow | who=any | do=list | units=all")
    reply = await scene.client.ask("/api/v1/events?topics=routes")
    assert (reply.status, reply.is_problem) == (403, True)


LINES = st.lists(
    st.fixed_dictionaries(
        {"seq": st.integers(0, 2**53), "topic": st.sampled_from(["unit", "lost"]), "x": st.text()}
    )
)


@given(LINES, st.lists(st.integers(1, 40), min_size=1))
def test_lines_are_the_same_events_however_they_are_cut(lines, sizes):
    data = b"".join(map(encode_reply, lines))
    frames, out, position = EventFrames(), b"", 0
    for size in (*sizes, len(data)):
        out += frames(data[position : position + size])
        position += size
    assert out == EventFrames()(data)
    assert [told[0] for told in parsed(out)] == [line["seq"] for line in lines]
