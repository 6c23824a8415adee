"""``meshctl top``: what it shows of a node, and what its keys do."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_node import STATUS, ScriptedNode, Session, as_text
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static, TabbedContent

from meshctl.api.client import ControlClient
from meshctl.api.errors import ProtocolMismatch
from meshctl.top import reading as reading_module
from meshctl.top.app import Top
from meshctl.top.reading import (
    MOST_SHOWN,
    Reading,
    headline,
    link_rows,
    node_rows,
    read,
    work_rows,
)
from meshctl.top.screens import Output, Question
from meshnode.work.placement.load import Load, labels_tag

NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def unit(state: int, name: str, created: str, **more: Any) -> dict[str, Any]:
    return {"State": state, "StateName": name, "Created": created, "WorkType": "cat"} | more


def texts(rows: dict[str, Any]) -> dict[str, list[str]]:
    return {key: [cell.text for cell in row] for key, row in rows.items()}


# --- what is shown -------------------------------------------------------------------------------


def test_what_goes_on_stands_first_and_of_each_the_newest() -> None:
    units = {
        "old": unit(2, "Succeeded", "2026-11-26T10:00:00Z"),
        "new": unit(3, "Failed", "2026-11-26T11:00:00Z"),
        "runs": unit(
            1, "Running", "2026-11-26T09:00:00Z", StdoutSize=2048, Detail="Running: PID 4"
        ),
        "waits": unit(0, "Pending", "2026-11-26T09:30:00Z"),
    }
    rows = work_rows(Reading(units=units), NOW)
    assert list(rows) == ["waits", "runs", "new", "old"]
    assert texts(rows)["runs"][2:7] == ["cat", "Running", "3h0m", "-", "2.0 KiB"]
    assert headline(Reading({"NodeID": "foo", "Version": "1"}, units)) == (
        "foo  1  ·  alone  ·  1 running, 1 pending, 1 failed, 1 succeeded"
    )


def test_units_are_found_by_anything_that_is_shown_of_them() -> None:
    units = {
        "aa": unit(2, "Succeeded", "1", Detail="exit status 0"),
        "bb": unit(3, "Failed", "2", Detail="exit status 7"),
    }
    assert list(work_rows(Reading(units=units), NOW, "STATUS 7")) == ["bb"]
    assert list(work_rows(Reading(units=units), NOW, "succ")) == ["aa"]


def test_many_units_cost_no_more_than_can_be_read() -> None:
    units = {f"u{i:05}": unit(2, "Succeeded", f"{i:05}") for i in range(MOST_SHOWN + 5)}
    rows = work_rows(Reading(units=units), NOW)
    assert len(rows) == MOST_SHOWN
    assert next(iter(rows)) == f"u{MOST_SHOWN + 4:05}"


def test_nodes_are_shown_with_what_they_advertise_and_links_with_what_is_wrong_first() -> None:
    tags = {
        "labels": labels_tag({"gpu": "1"}),
        "load": Load({"echo": 2}, {"cat": 1}, None, 4, 0.5, 2**30).to_tag(),
    }
    work = [{"WorkType": "echo"}, {"WorkType": "cat"}]
    status = {
        "NodeID": "foo",
        "RoutingTable": {"bar": "bar", "baz": "bar"},
        "KnownConnectionCosts": {"foo": {"bar": 1}, "bar": {"foo": 1, "baz": 1.5}, "x": {"y": 1}},
        "Advertisements": [{"NodeID": "bar", "Tags": tags, "WorkCommands": work}],
        "Connections": [{"NodeID": "bar", "Cost": 1, "Kind": "tcp", "RoundTrip": 312_000}],
        "Peers": [
            {"Directive": "tcp-peer", "Address": "h:1", "State": "waiting", "LastError": "refused"},
            {"Directive": "tcp-peer", "Address": "h:2", "State": "up"},
        ],
    }
    reading = Reading(status)
    assert texts(node_rows(reading)) == {
        "foo": ["foo", "(asked)", "-", "-", "-", "-", "-", "-"],
        "bar": ["bar", "bar", "1", "2", "1", "0.5 of 4", "gpu=1", "cat, echo"],
        "baz": ["baz", "bar", "2.5", "-", "-", "-", "-", "-"],
        "x": ["x", "not reached", "-", "-", "-", "-", "-", "-"],
    }
    assert list(texts(link_rows(reading)).values()) == [
        ["tcp-peer h:1", "waiting", "-", "-", "-", "-", "-", "refused"],
        ["bar tcp", "up", "-", "312µs", "-", "-", "1", "-"],
    ]


@given(st.dictionaries(st.text(), JSON), st.sampled_from([*sorted(STATUS), "Peers"]), JSON)
def test_whatever_a_node_says_is_shown_or_is_a_mismatch(
    units: dict[str, Any], key: str, value: Any
) -> None:
    reading = Reading(STATUS | {key: value}, units)
    for show in (
        lambda: work_rows(reading, NOW),
        lambda: node_rows(reading),
        lambda: link_rows(reading),
    ):
        try:
            rows = show()
        except ProtocolMismatch:
            continue
        assert all(cell.text.isprintable() for row in rows.values() for cell in row)


def test_a_node_that_is_away_leaves_what_was_known(node: ScriptedNode) -> None:
    with ControlClient(node.address) as client:
        last = read(client, Reading())
        assert last.status["NodeID"] == "foo"
        assert last.error == ""
    node.close()
    with ControlClient(node.address) as client:
        later = read(client, last)
    assert (later.status, later.units) == (last.status, last.units)
    assert later.error


@pytest.fixture
def long_list(node: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> ScriptedNode:
    monkeypatch.setattr(reading_module, "MOST_SHOWN", 2)
    node.chooses = True
    for number in range(5):
        node.add_unit(f"old0000{number}", Created=f"2026-11-26T10:00:0{number}Z")
    node.add_unit("running0", ended=False, Created="2026-11-26T09:00:00Z")
    return node


def test_of_many_units_those_are_read_that_are_shown_and_all_are_counted(
    long_list: ScriptedNode,
) -> None:
    with ControlClient(long_list.address) as client:
        few = read(client, Reading())
        assert list(work_rows(few, NOW)) == ["running0", "old00004"]
        assert sorted(few.units) == ["old00003", "old00004", "running0"]
        assert headline(few).endswith("1 running, 5 succeeded")
        every = read(client, few, everything=True)
        assert len(every.units) == 6
        assert headline(every) == headline(few)


def test_a_node_that_does_not_choose_is_asked_once(long_list: ScriptedNode) -> None:
    long_list.chooses = False
    with ControlClient(long_list.address) as client:
        told = read(client, Reading())
    assert len(told.units) == 6
    assert headline(told).endswith("1 running, 5 succeeded")
    assert [as_text(line) for line in long_list.lines] == ["status", "work list"]


def test_a_unit_that_is_too_old_to_be_shown_is_found(long_list: ScriptedNode) -> None:
    async def use(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: table(top).row_count == 2)
        await pilot.press("slash", *"old00000")
        await until(pilot, lambda: table(top).row_count == 1)

    used(long_list, use)


# --- what keys do --------------------------------------------------------------------------------


def used(node: ScriptedNode, use: Callable[[Top, Pilot[None]], Awaitable[None]]) -> None:
    """Run the application on a terminal of a test, until it has been used."""

    async def run() -> None:
        top = Top(lambda: ControlClient(node.address), 0.2)
        async with top.run_test(size=(140, 30)) as pilot:
            await until(pilot, lambda: "foo" in str(top.query_one("#head", Static).content))
            await use(top, pilot)

    asyncio.run(asyncio.wait_for(run(), 60))


async def until(pilot: Pilot[None], is_so: Callable[[], bool]) -> None:
    while not is_so():
        await pilot.pause(0.02)


@pytest.fixture
def busy(node: ScriptedNode) -> ScriptedNode:
    node.add_unit("aaaaaaaa", b"[red]one[/red]\ntwo\x1b[2J\n")
    node.add_unit("bbbbbbbb", ended=False)
    return node


def table(top: Top) -> Any:
    return top.query_one("#work-table", DataTable)


def test_the_tables_follow_the_node(busy: ScriptedNode) -> None:
    async def use(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: table(top).row_count == 2)
        busy.add_unit("cccccccc")
        await until(pilot, lambda: table(top).row_count == 3)
        await pilot.press("2")
        assert top.query_one("#nodes-table", DataTable).row_count == 3
        await pilot.press("3")
        assert top.query_one("#links-table", DataTable).row_count == 2

    used(busy, use)


def test_what_is_found_is_shown_alone_until_it_is_forgotten(busy: ScriptedNode) -> None:
    async def use(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: table(top).row_count == 2)
        await pilot.press("slash", *"running")
        await until(pilot, lambda: table(top).row_count == 1)
        await pilot.press("escape")
        await until(pilot, lambda: table(top).row_count == 2)

    used(busy, use)


def test_enter_shows_the_output_as_it_is_and_escape_goes_back(busy: ScriptedNode) -> None:
    async def use(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: table(top).row_count == 2)
        await pilot.press("slash", *"aaaa", "enter", "enter")
        await until(pilot, lambda: isinstance(top.screen, Output))
        log = top.screen.query_one(RichLog)
        await until(pilot, lambda: any("Succeeded" in line.text for line in log.lines))
        shown = [line.text.rstrip() for line in log.lines]
        assert shown[0] == "[red]one[/red]"
        assert all(line.isprintable() for line in shown)
        await pilot.press("c", "2", "slash")  # keys of the tables, which are not seen
        assert isinstance(top.screen, Output)
        assert top.query_one(TabbedContent).active == "work"
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(top.screen, Output))

    used(busy, use)


@pytest.mark.parametrize(("key", "canceled"), [("y", True), ("n", False), ("escape", False)])
def test_a_unit_is_canceled_only_when_that_is_meant(
    busy: ScriptedNode, key: str, canceled: bool
) -> None:
    def asked() -> bool:
        return any("cancel" in line for line in busy.lines)

    async def use(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: table(top).row_count == 2)
        await pilot.press("slash", *"bbbb", "enter", "c")
        await until(pilot, lambda: isinstance(top.screen, Question))
        await pilot.press(key)
        await until(pilot, lambda: not isinstance(top.screen, Question))
        if canceled:
            await until(pilot, asked)

    used(busy, use)
    assert asked() is canceled


def test_a_unit_that_has_ended_is_not_asked_about(busy: ScriptedNode) -> None:
    async def use(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: table(top).row_count == 2)
        await pilot.press("slash", *"aaaa", "enter", "c")
        assert not isinstance(top.screen, Question)

    used(busy, use)


def test_a_node_that_goes_away_is_told_and_comes_back(busy: ScriptedNode) -> None:
    async def use(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: table(top).row_count == 2)
        busy.close()
        await until(pilot, lambda: top.query_one("#trouble").has_class("shown"))
        assert table(top).row_count == 2

    used(busy, use)


def test_a_reading_that_is_under_way_keeps_no_session_when_its_user_leaves(
    busy: ScriptedNode,
) -> None:
    began, is_left = threading.Event(), threading.Event()

    def answer_late(session: Session, line: str) -> bool:
        began.set()
        is_left.wait()
        session.send(STATUS)
        return True

    async def run() -> None:
        top = Top(lambda: client, 0.2)
        async with top.run_test() as pilot:
            await until(pilot, lambda: table(top).row_count == 2)
            busy.handlers["status"] = answer_late
            await until(pilot, began.is_set)
            busy.session_closed.clear()
        is_left.set()

    client = ControlClient(busy.address)
    asyncio.run(asyncio.wait_for(run(), 60))
    # The client is still there, so what it had kept open would be open.
    assert busy.session_closed.wait(60)
    client.close()


def test_without_a_terminal_it_says_what_programs_use_instead(meshctl) -> None:
    done = meshctl("top")
    assert done.exit_code == 103
    assert "meshctl status --json" in done.stderr
