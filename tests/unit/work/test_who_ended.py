"""Who ended a unit: whoever canceled or released it, its limits, its node, a signal of nobody."""

import json
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import MeshClient, TcpClient, UnixClient
from meshnode.work.local.launcher import records
from meshnode.work.local.launcher.limits import TimeLimit
from meshnode.work.units import adoption, status
from meshnode.work.units.endedby import (
    ASKED,
    Cause,
    EndedBy,
    ended_by_from_json,
    taken_over,
)
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusreply import status_reply

ANN = UnixClient(1000, 100, 4321, "ann")
BOB = UnixClient(1001, 100, 99, "bob")
BY_ANN = EndedBy(Cause.CANCEL, ANN)


async def shown(node, unit_id: str) -> dict:
    (line,) = await node.talk(f"work status {unit_id}")
    return json.loads(line)


async def test_status_detail_and_log_say_who_canceled_a_unit(foo, caplog):
    caplog.set_level("INFO")
    foo.clients["ann"] = ANN
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        await foo.talk(f"work cancel {unit_id}", peer="ann")
        end = await shown(foo, unit_id)
        assert end["EndedBy"] == {"Cause": "cancel", "By": ANN.to_json()}
        assert end["Detail"] == "Canceled"
    assert f"unit {unit_id}: cancel asked for by {ANN}" in caplog.text
    assert f"unit {unit_id}: Canceled by ann (uid 1000)" in caplog.text


async def test_the_log_says_who_released_a_unit(foo, caplog):
    caplog.set_level("INFO")
    foo.clients["ann"] = ANN
    async with foo.running():
        for unit_id in (await foo.submit("foo", "wait"), await foo.submit("foo", "cat")):
            await foo.talk(f"work release {unit_id}", peer="ann")
            assert f"unit {unit_id}: released by {ANN}" in caplog.text


async def test_a_unit_that_is_canceled_while_it_waits_for_input_says_by_whom(foo):
    foo.clients["ann"] = ANN
    async with foo.running():
        client = foo.connect()
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
        await client.send_all(json.dumps(request).encode() + b"\n")
        while not foo.units.all():
            await client.receive_some(100)
        (unit,) = foo.units.all()
        await foo.talk(f"work cancel {unit.unit_id}", peer="ann")
        assert unit.status.ending == BY_ANN
        await client.aclose()


async def test_both_halves_of_a_remote_unit_say_who_canceled_it(foo, bar, caplog):
    caplog.set_level("INFO")
    foo.clients["ann"] = ANN
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        there = foo.status(unit_id).remote.unit_id
        await foo.talk(f"work cancel {unit_id}", peer="ann")
        here = await foo.wait_final(unit_id)
        assert (here.ending, here.detail) == (BY_ANN, "Canceled")
        end = await shown(bar, there)
        by = {"Kind": "mesh", "Node": "foo", "Claim": ANN.to_json()}
        assert end["EndedBy"] == {"Cause": "cancel", "By": by}
        assert end["Detail"] == "Canceled"


async def test_a_unit_that_is_canceled_on_the_node_where_it_runs_says_so_on_the_other(foo, bar):
    bar.clients["bob"] = BOB
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        await bar.talk(f"work cancel {foo.status(unit_id).remote.unit_id}", peer="bob")
        end = await foo.wait_final(unit_id)
        assert end.ending == EndedBy(Cause.CANCEL, BOB, "bar")
        assert (end.detail, end.in_words) == ("Canceled", "Canceled by bob (uid 1001) on node bar")


async def test_a_receptor_node_cancels_without_being_told_for_whom(foo, bar):
    foo.clients["ann"] = ANN
    bar.is_receptor = True
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        await foo.talk(f"work cancel {unit_id}", peer="ann")
        end = await foo.wait_final(unit_id)
        assert (end.ending, end.detail) == (BY_ANN, "Canceled")


async def test_who_asked_first_has_ended_a_unit_whose_node_is_away(foo, bar, caplog):
    caplog.set_level("INFO")
    foo.clients |= {"ann": ANN, "bob": BOB}
    async with foo.running():
        async with bar.running():
            unit_id = await foo.submit("bar", "wait")
            await foo.wait_for(unit_id, lambda status: status.remote.started)
            foo.mesh.cut()
        for who in ("ann", "bob"):
            await foo.talk(f"work cancel {unit_id}", peer=who)
        assert foo.status(unit_id).ended_by == BY_ANN
        assert (await shown(foo, unit_id))["EndedBy"] is None
        assert f"cancel asked for by {ANN}" in caplog.text


async def test_who_releases_a_remote_unit_is_told_to_its_node_and_in_both_logs(foo, bar, caplog):
    caplog.set_level("INFO")
    foo.clients |= {"ann": ANN, "bob": BOB}
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        there = foo.status(unit_id).remote.unit_id
        await foo.talk(f"work cancel {unit_id}", peer="ann")
        await foo.talk(f"work release {unit_id}", peer="bob")
    assert f"unit {unit_id}: released by {BOB}" in caplog.text
    assert f"unit {there}: released by node foo, which says for {BOB}" in caplog.text


async def test_who_asked_for_a_release_is_known_when_the_other_node_is_back(foo, bar, caplog):
    caplog.set_level("INFO")
    foo.clients["bob"] = BOB
    async with foo.running():
        async with bar.running():
            unit_id = await foo.submit("bar", "wait")
            await foo.wait_for(unit_id, lambda status: status.remote.started)
            there = foo.status(unit_id).remote.unit_id
            foo.mesh.cut()
        assert "release pending" in (await foo.talk(f"work release {unit_id}", peer="bob"))[0]
    foo.mesh.heal()
    async with bar.running(), foo.running():
        with trio.fail_after(100):
            while there in bar.left():
                await trio.sleep(1)
    assert f"unit {there}: released by node foo, which says for {BOB}" in caplog.text


FIRST = UnitStatus(UnitState.PENDING, "Waiting for Input Data", "cat")
identities = st.one_of(
    st.builds(UnixClient, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    st.builds(TcpClient, st.just("10.0.0.7:4312")),
    st.builds(MeshClient, st.text(min_size=1, max_size=9).filter(str.isprintable)),
)
ends = st.builds(
    EndedBy,
    st.sampled_from(list(Cause)),
    st.none() | identities,
    st.text(max_size=9).filter(str.isprintable),
    st.none() | st.integers(0, 2**31 - 1),
    st.none() | st.integers(0, 2**32 - 1),
)


@given(ends)
def test_who_ended_a_unit_is_read_as_it_was_written(end: EndedBy) -> None:
    record = replace(FIRST, state=UnitState.CANCELED, ended_by=end)
    assert UnitStatus.from_json(json.loads(json.dumps(record.to_disk()))) == record
    assert ended_by_from_json(json.loads(json.dumps(end.to_json()))) == end
    assert end.in_words.isprintable()
    assert end.in_words.startswith("Canceled")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
nearly = st.fixed_dictionaries(
    {"Cause": st.sampled_from([*map(str, Cause), "x", None, 7])},
    optional=dict.fromkeys(["By", "Node", "Pid", "Uid"], anything),
)


@given(anything | nearly)
def test_whatever_another_node_says_of_an_end_it_is_nothing_or_bounded(data: Any) -> None:
    end = ended_by_from_json(data)
    if end is not None:
        assert len(json.dumps(end.to_json())) < 8000
        assert ended_by_from_json(end.to_json()) == end


def test_what_a_later_version_says_of_an_end_is_kept() -> None:
    data = FIRST.to_disk() | {"EndedBy": {"Cause": "flood", "Level": 3}}
    record = UnitStatus.from_json(data)
    assert record.ended_by is None
    assert record.to_disk()["EndedBy"] == {"Cause": "flood", "Level": 3}


@pytest.mark.parametrize("state", [UnitState.SUCCEEDED, UnitState.FAILED])
@pytest.mark.parametrize("cause", sorted(ASKED))
def test_who_asked_too_late_has_not_ended_the_unit(state: UnitState, cause: Cause) -> None:
    assert replace(FIRST, state=state, ended_by=EndedBy(cause, ANN)).ending is None


def test_who_is_about_to_end_a_unit_has_not_ended_it() -> None:
    assert status_reply(replace(FIRST, ended_by=BY_ANN), 0)["EndedBy"] is None


@pytest.mark.parametrize(
    ("detail", "cause"),
    [
        ("signal: killed", Cause.SIGNAL),
        ("timed out after 5 s", Cause.TIMEOUT),
        (status.NOT_STARTED, Cause.NODE),
        (adoption.INPUT_LOST, Cause.NODE),
        ("exit status 1", None),
        ("lost: its supervisor (PID 7) ended without recording an end", Cause.SIGNAL),
        ("Work unit expired on Thu Nov 26 00:00:00", Cause.TIMEOUT),
    ],
)
def test_a_failed_unit_of_which_nobody_noted_it_says_what_ended_it(detail, cause) -> None:
    failed = replace(FIRST, state=UnitState.FAILED, detail=detail)
    assert failed.ending == (None if cause is None else EndedBy(cause))


def test_a_unit_that_succeeded_ended_by_itself_whatever_its_detail_is() -> None:
    assert replace(FIRST, state=UnitState.SUCCEEDED, detail="signal: x").ending is None


@given(st.none() | ends, st.none() | ends)
def test_who_asked_here_has_ended_it_also_if_the_other_node_names_its_client(asked, told) -> None:
    end = taken_over(asked, told, "bar")
    if told is None or (asked is not None and told.cause in ASKED):
        assert end == asked
    else:
        assert end == replace(told, node=told.node or "bar")


# --- what a supervisor records ------------------------------------------------------------------

QUEUED, BY_KILL = -1, 0
"""Codes of a signal that sigqueue(3) sends, as nodes do, and of one of kill(2)."""


def received(code: int) -> Any:
    return SimpleNamespace(si_signo=signal.SIGTERM, si_code=code, si_pid=77, si_uid=5, si_status=1)


@given(ends)
def test_a_supervisor_records_who_the_node_says_has_canceled_the_unit(end: EndedBy) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records.files, "read_file", lambda path, most: end.to_supervisor())
        record = records.canceled("/unit", received(QUEUED))
    assert record == {"State": 4, "Detail": "Canceled", "EndedBy": end.to_json()}
    merged = FIRST.merged({key: record[key] for key in ("State", "Detail", "EndedBy")})
    assert (merged.ended_by, merged.detail) == (end, "Canceled")


@given(st.binary() | anything.map(lambda data: json.dumps(data).encode()))
def test_whatever_stands_where_the_node_leaves_word_the_cancel_is_recorded(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records.files, "read_file", lambda path, most: content)
        record = records.canceled("/unit", received(QUEUED))
    assert record["State"] == 4
    assert isinstance(record["Detail"], str)


def test_without_word_of_a_node_a_cancel_is_one_of_nobody_known(tmp_path: Path) -> None:
    assert records.canceled(str(tmp_path), received(QUEUED)) == {"State": 4, "Detail": "Canceled"}


def test_a_signal_that_no_node_has_sent_names_process_and_user(tmp_path: Path) -> None:
    (tmp_path / "cancel").write_bytes(BY_ANN.to_supervisor())
    record = records.canceled(str(tmp_path), received(BY_KILL))
    assert record["Detail"] == "Canceled by a signal of process 77, uid 5"
    assert ended_by_from_json(record["EndedBy"]) == EndedBy(Cause.SIGNAL, pid=77, uid=5)


def test_a_limit_that_was_reached_is_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = TimeLimit(1e-9)
    limit.begin()
    late = limit.broken()
    assert late is not None
    assert records.stopped(late)["EndedBy"] == {"Cause": "timeout"}
    assert records.stopped("stopped: it printed more than 5 bytes")["EndedBy"] == {
        "Cause": "output"
    }


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (0, "exit status 0"),
        (1, "exit status 0; ended 1 process that it left behind"),
        (3, "exit status 0; ended 3 processes that it left behind"),
    ],
)
def test_a_command_that_left_processes_says_how_many_were_ended(
    tmp_path: Path, left: int, text: str
) -> None:
    with (tmp_path / "stdout").open("wb") as stdout:
        record = records.end(7, 0, {"stdout": stdout.fileno()}, None, left)
    assert (record["State"], record["Detail"]) == (2, text)


@given(anything)
def test_who_ended_it_is_no_reason_to_refuse_a_record(data: Any) -> None:
    text = json.dumps(FIRST.to_disk() | {"EndedBy": data})
    # What no reply could hold, as half of a surrogate pair, makes it no record of a node's.
    with suppress(WorkError):
        record = UnitStatus.from_json(json.loads(text))
        json.dumps(status_reply(record, 0), ensure_ascii=False).encode()
