"""What clients that listen are told of units, and what not."""

import json
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from test_work_under_rules import ANN, BOB, rules

from meshnode.control.events import EventHub, Topic
from meshnode.control.events_command import parse_json, parse_text
from meshnode.errors import CommandError, NoRoute
from meshnode.security.identity import MeshClient
from meshnode.work.units import unitevents


class Events:
    """A client that listens."""

    def __init__(self, stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def line(self) -> bytes:
        while b"\n" not in self.buffer:
            data = await self.stream.receive_some()
            assert data, f"the stream ended: {self.buffer!r}"
            self.buffer += bytes(data)
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    async def next(self) -> dict:
        return json.loads(await self.line())

    async def until(self, change: str) -> list[dict]:
        """Return the events up to the first one of that change."""
        found = []
        with trio.fail_after(1000):
            while not found or found[-1]["change"] != change:
                found.append(await self.next())
        return found


@asynccontextmanager
async def listening(node, request: str | dict = "events units", **client: str):
    stream = node.connect(**client)
    text = request if isinstance(request, str) else json.dumps(request)
    await stream.send_all(text.encode() + b"\n")
    events = Events(stream)
    assert (await events.line()).startswith(b"Receptor Control")
    assert await events.line() == b"Streaming events"
    events.start = await events.next()
    assert events.start["topic"] == "start"
    yield events
    await trio.aclose_forcefully(stream)


async def test_a_unit_is_told_of_from_its_creation_to_its_release(foo, autojump_clock):
    async with foo.running(), listening(foo) as events:
        unit_id = await foo.submit("foo", "wait")
        told = await events.until("created")
        supervisor = foo.launcher.supervisors[unit_id]
        supervisor.finish()
        told += await events.until("ended")
        await foo.talk(f"work release {unit_id}")
        told += await events.until("released")
    assert {event["id"] for event in told} == {unit_id}
    assert [event["seq"] for event in told] == sorted({event["seq"] for event in told})
    ended = next(event["unit"] for event in told if event["change"] == "ended")
    assert ended["ID"] == unit_id
    assert ended["StateName"] == "Succeeded"
    assert ended["Node"] == "foo"
    assert ended["WorkType"] == "wait"
    assert told[-1]["unit"] == {"ID": unit_id}


async def test_more_output_alone_is_no_event(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        supervisor = foo.launcher.supervisors[unit_id]
        await foo.wait_for(unit_id, lambda status: status.pid)
        async with listening(foo) as events:
            for _ in range(10):
                supervisor.write(b"line\n")
                await foo.units.find(unit_id).reload()
                await trio.sleep(1)
            supervisor.finish()
            (ended,) = await events.until("ended")
    assert ended["unit"]["StdoutSize"] == 50


async def test_why_a_unit_waits_for_its_node_is_told(foo, bar, autojump_clock, monkeypatch):
    async with foo.running(), bar.running(), listening(foo) as events:

        async def dial(self, node, service, tls=None):
            raise NoRoute("bar")

        monkeypatch.setattr("work_fakes.FakeDialer.dial", dial)
        unit_id = await foo.submit("bar", "cat")
        details = []
        with trio.fail_after(1000):
            while not any("no route" in detail for detail in details):
                details.append((await events.next())["unit"]["Detail"])
        assert (await foo.talk(f"work status {unit_id}"))[0].count(details[-1]) >= 1


async def test_a_client_is_told_only_of_units_that_it_may_list(foo, autojump_clock):
    foo.clients = {"ann": ANN, "bob": BOB}
    foo.rules.rules = rules(
        "action=allow | who=uid=1000 | do=submit",
        "action=allow | who=uid=1000 | do=any | units=own",
        "action=allow | who=uid=1001 | do=any | units=all",
    )
    async with (
        foo.running(),
        listening(foo, peer="ann") as for_ann,
        listening(foo, peer="bob") as for_bob,
    ):
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "wait"}
        of_bob = json.loads((await foo.talk(request, b"", peer="bob"))[1])["unitid"]
        of_ann = json.loads((await foo.talk(request, b"", peer="ann"))[1])["unitid"]
        for unit_id in (of_bob, of_ann):
            foo.launcher.supervisors[unit_id].finish()
            await foo.wait_final(unit_id)
        await foo.talk(f"work release {of_bob}", peer="bob")
        await foo.talk(f"work release {of_ann}", peer="ann")
        heard = await for_ann.until("released")
        assert {event["id"] for event in heard} == {of_ann}
        heard = await for_bob.until("released") + await for_bob.until("released")
        assert {event["id"] for event in heard} == {of_ann, of_bob}


async def test_rules_that_a_reload_brings_hold_for_whoever_listens_already(foo, autojump_clock):
    foo.clients = {"ann": ANN, "bob": BOB}
    foo.rules.rules = rules("action=allow | who=any | do=any | units=all")
    async with (
        foo.running(),
        listening(foo, peer="ann") as for_ann,
        listening(foo, peer="bob") as for_bob,
    ):
        foo.rules.rules = rules("action=allow | who=uid=1001 | do=any | units=all")
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "wait"}
        unit_id = json.loads((await foo.talk(request, b"", peer="bob"))[1])["unitid"]
        assert (await for_bob.until("created"))[-1]["id"] == unit_id
        foo.rules.rules = rules("action=allow | who=any | do=any | units=all")
        foo.launcher.supervisors[unit_id].finish()
        # The first that ann hears of is from after her right came back.
        assert (await for_ann.until("ended"))[0]["unit"]["State"] in (1, 2)


@pytest.mark.parametrize(
    ("rule", "request_", "reply"),
    [
        ("do=submit", "events units", "ERROR: permission denied: list"),
        ("do=list | units=all", "events links", "ERROR: permission denied: mesh-status"),
        ("do=list | units=all", "events units,routes", "ERROR: permission denied: mesh-status"),
        ("do=submit", "events", "ERROR: permission denied: mesh-status"),
    ],
)
async def test_who_may_not_have_a_topic_is_refused_it(foo, rule, request_, reply):
    foo.clients = {"ann": ANN}
    foo.rules.rules = rules(f"action=allow | who=any | {rule}")
    async with foo.running():
        assert await foo.talk(request_, peer="ann") == [reply]


@pytest.mark.parametrize(
    ("rule", "topics"),
    [("do=list | units=all", ["unit"]), ("do=mesh-status", ["link", "route", "service"])],
)
async def test_who_names_no_topics_gets_those_that_it_may_have(foo, autojump_clock, rule, topics):
    foo.clients = {"ann": ANN}
    foo.rules.rules = rules(f"action=allow | who=any | {rule}")
    async with foo.running(), listening(foo, "events", peer="ann") as events:
        assert events.start["topics"] == topics


async def test_another_node_is_told_of_its_own_units_and_not_of_others(foo, bar, autojump_clock):
    """A remote unit that foo's clients have submitted is nobody else's business."""
    foo.clients = {"qux": MeshClient("qux")}
    async with (
        foo.running(),
        bar.running(),
        listening(foo, kind="mesh", peer="qux") as events,
    ):
        await foo.submit("bar", "cat")
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "wait"}
        lines = await foo.talk(request, b"", kind="mesh", peer="qux")
        unit_id = json.loads(lines[1])["unitid"]
        assert (await events.next())["id"] == unit_id


async def test_a_client_that_comes_back_goes_on_where_it_was(foo, autojump_clock):
    async with foo.running():
        async with listening(foo) as events:
            first = await foo.submit("foo", "wait")
            (told,) = await events.until("created")
        second = await foo.submit("foo", "wait")
        request = {"command": "events", "topics": ["units"], "since": told["seq"]}
        async with listening(foo, request) as events:
            heard = await events.until("created")
            assert heard[-1]["id"] == second
            assert {event["id"] for event in heard} <= {first, second}


async def test_a_client_that_comes_back_too_late_is_told_so(foo, autojump_clock):
    async with foo.running(), listening(foo, {"command": "events", "since": 17}) as events:
        lost = await events.next()
        assert (lost["topic"], lost["missed"]) == ("lost", None)
        unit_id = await foo.submit("foo", "wait")
        assert (await events.until("created"))[-1]["id"] == unit_id


async def test_a_client_that_reads_nothing_holds_up_nobody(foo, autojump_clock):
    async with foo.running(), listening(foo), listening(foo) as reader:
        for _ in range(50):
            unit_id = await foo.submit("foo", "wait")
            foo.launcher.supervisors[unit_id].finish()
            assert (await reader.until("ended"))[-1]["id"] == unit_id
            await foo.talk(f"work release {unit_id}")
            await reader.until("released")


async def test_what_a_released_unit_leaves_in_the_log_is_not_what_its_client_sent(
    foo, autojump_clock, monkeypatch
):
    kept = []
    tell = EventHub.tell
    monkeypatch.setattr(
        EventHub, "tell", lambda self, *args: (kept.append(args[-1]), tell(self, *args))
    )
    async with foo.running(), listening(foo) as events:
        unit_id = await foo.submit("bar", "cat", params="x" * 1000)
        await foo.talk(f"work release {unit_id} ")
        await foo.talk(f"work force-release {unit_id}")
        await events.until("released")
    assert isinstance(kept[-1], unitevents.UnitNews)
    assert "xxx" not in repr(kept[-1].status.params)
    assert kept[-1].status.remote is not None
    assert not kept[-1].status.remote.params


BAD = st.one_of(
    st.text(),
    st.lists(st.one_of(st.text(), st.integers(), st.none(), st.lists(st.text()))),
    st.integers(),
    st.dictionaries(st.text(), st.text()),
)


@settings(max_examples=50, deadline=None)
@given(topics=BAD, since=st.one_of(BAD, st.floats(), st.booleans()))
def test_any_json_is_a_request_or_refused_in_one_line(topics: object, since: object):
    try:
        request = parse_json({"command": "events", "topics": topics, "since": since})
    except CommandError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert request.topics is None or request.topics <= set(Topic)
    assert "\n" not in refusal


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_is_a_request_or_refused_in_one_line(words: str):
    refusal = ""
    try:
        parse_text(words)
    except CommandError as error:
        refusal = str(error)
    assert "\n" not in refusal
