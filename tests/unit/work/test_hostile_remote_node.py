"""A node lies about the work that it was given: the unit ends truly or waits, all else lives."""

import json
from unittest.mock import patch

import pytest
import trio
from remote_fakes import (
    CREATED,
    OUTPUT,
    STARTED,
    STREAMING,
    UNIT,
    RemoteNode,
    says,
    says_endlessly,
    says_nothing,
)
from work_fakes import FakeNode

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.remote.failures import MAX_TEXT
from meshnode.work.remote.follower import KEEP_INTERVAL
from meshnode.work.remote.replies import MAX_LINE
from meshnode.work.remote.stream import AHEAD

LONG_ENOUGH = 100
"""Simulated seconds in which whatever is tried again has been, many times."""


@pytest.fixture
async def far(foo, nursery):
    return RemoteNode(foo.mesh, nursery)


@pytest.fixture
def baz(mesh, tmp_path):
    return FakeNode(mesh, "baz", tmp_path)


async def assert_all_else_lives(foo, baz):
    for node in ("foo", "baz"):
        unit_id = await foo.submit(node, "cat", b"honest")
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit_id) == b"honest"
    (line,) = await foo.talk("work list")
    json.loads(line)


async def submit(foo):
    with trio.fail_after(LONG_ENOUGH):
        lines = await foo.talk("work submit bar cat", b"payload")
    return lines[0].partition("with ID ")[2][:8]


async def assert_ends_well(foo, far, unit_id):
    """Now that the other node says the truth."""
    far.lies.clear()
    far.finish()
    status = await foo.wait_final(unit_id)
    assert (status.state, status.detail) == (UnitState.SUCCEEDED, "exit status 0")
    assert foo.stdout(unit_id) == OUTPUT
    assert status.stdout_size == len(OUTPUT)
    assert far.submissions == 1


NO_LINE = {
    "half": says(b'{"State":1'),
    "half, then the end": says(b'{"State":1', closes=True),
    "nothing": says_nothing,
    "nothing, then the end": says(closes=True),
    "endless": says_endlessly,
    "binary": says(bytes(range(256)) + b"\n"),
    "empty": says(b"\n"),
    "another kind of JSON": says(b"[1,2]\n"),
    "deep JSON": says(b"[" * 100_000 + b"]" * 100_000 + b"\n"),
    "a number": says(b"9" * 5000 + b"\n"),
}
NO_STATUS = NO_LINE | {
    "an unknown state": says(b'{"State":9,"StdoutSize":0}\n'),
    "no size": says(b'{"State":2}\n'),
    "a negative size": says(b'{"State":2,"StdoutSize":-1}\n'),
    "an infinite size": says(b'{"State":2,"StdoutSize":1e999}\n'),
    "a size beyond all": says(b'{"State":2,"StdoutSize":' + b"9" * 400 + b"}\n"),
    "an error of its own": says(b"ERROR: too many open files\n"),
}


@pytest.mark.parametrize("lie", NO_LINE | {"another node": says(b"Receptor Control, node baz\n")})
async def test_a_node_that_does_not_greet_gets_no_work_until_it_does(
    foo, far, baz, autojump_clock, lie
):
    far.lies["greeting"] = (NO_LINE | {"another node": says(b"Receptor Control, node baz\n")})[lie]
    async with foo.running(), baz.running():
        unit_id = await submit(foo)
        await trio.sleep(LONG_ENOUGH)
        assert foo.status(unit_id).state is UnitState.PENDING
        assert far.submissions == 0
        await assert_all_else_lives(foo, baz)
        await assert_ends_well(foo, far, unit_id)


@pytest.mark.parametrize("lie", NO_STATUS)
async def test_a_status_that_is_none_is_asked_for_until_it_is_one(
    foo, far, baz, autojump_clock, lie
):
    far.lies["status"] = NO_STATUS[lie]
    async with foo.running(), baz.running():
        unit_id = await submit(foo)
        await trio.sleep(LONG_ENOUGH)
        assert not foo.status(unit_id).state.is_final
        await assert_all_else_lives(foo, baz)
        await assert_ends_well(foo, far, unit_id)
    assert far.sent < 100 * MAX_LINE


@pytest.mark.parametrize("what", ["results line", "results"])
@pytest.mark.parametrize("lie", [says(b"X", closes=True), says(closes=True), says_nothing])
async def test_results_that_break_off_are_asked_for_until_they_are_whole(
    foo, far, baz, autojump_clock, what, lie
):
    async with foo.running(), baz.running():
        unit_id = await submit(foo)
        if what == "results" and lie is not says_nothing:
            lie = says(OUTPUT[:3], closes=True) if lie is not says(closes=True) else lie
        far.lies[what] = lie
        await trio.sleep(LONG_ENOUGH)
        assert not foo.status(unit_id).state.is_final
        far.lies.clear()
        if lie is says_nothing:
            foo.mesh.break_all()
        await assert_all_else_lives(foo, baz)
        await assert_ends_well(foo, far, unit_id)


@pytest.mark.parametrize(
    "line", [b"Streaming results for work unit another1\n", b"{}\n", STREAMING[:-1] + b"x\n"]
)
async def test_results_of_another_unit_are_not_taken(foo, far, autojump_clock, line):
    far.lies["results line"] = says(line)
    async with foo.running():
        unit_id = await submit(foo)
        await trio.sleep(LONG_ENOUGH)
        assert foo.stdout(unit_id) == b""
        await assert_ends_well(foo, far, unit_id)


@pytest.mark.parametrize(
    "line",
    [
        b"Work unit created with ID ../../../etc. Send stdin data and EOF.\n",
        b"Work unit created with ID " + b"x" * 1000 + b". Send stdin data and EOF.\n",
        b"{}\n",
        b"ERROR: \xff\x00\x1b[31m" + b"e" * 100_000 + b"\n",
    ],
)
async def test_a_submission_that_is_not_answered_with_an_id_fails_in_one_short_line(
    foo, far, baz, autojump_clock, line
):
    far.lies["submit"] = says(line)
    async with foo.running(), baz.running():
        unit_id = await submit(foo)
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail.startswith("Error starting worker: node bar ")
        assert status.detail.isprintable()
        assert len(status.detail) < MAX_TEXT + 100
        await assert_all_else_lives(foo, baz)


@pytest.mark.parametrize(
    "lie",
    NO_LINE | {"another unit": says(b'{"result":"Job Started","unitid":"another1"}\n')},
)
async def test_an_answer_to_the_payload_that_is_none_has_the_unit_asked_about_and_not_repeated(
    foo, far, baz, autojump_clock, lie
):
    far.lies["submitted"] = (NO_LINE | {"another unit": says(STARTED.replace(b"far", b"bad"))})[lie]
    async with foo.running(), baz.running():
        unit_id = await submit(foo)
        await trio.sleep(LONG_ENOUGH)
        assert foo.status(unit_id).remote.unit_id == UNIT
        await assert_all_else_lives(foo, baz)
        await assert_ends_well(foo, far, unit_id)


@pytest.mark.parametrize("state", [0, 1, 3, 4, 9])
async def test_a_final_state_stands_whatever_is_said_afterwards(foo, far, autojump_clock, state):
    async def watch(far, stream):
        far.finish()
        await stream.send_all(far.status() + far.status(State=state, Detail="no, not at all"))

    far.lies["watch"] = watch
    async with foo.running():
        unit_id = await submit(foo)
        status = await foo.wait_final(unit_id)
        assert (status.state, status.detail) == (UnitState.SUCCEEDED, "exit status 0")
        await trio.sleep(LONG_ENOUGH)
        assert foo.status(unit_id) == status
    async with foo.running():
        assert foo.status(unit_id) == status


async def test_a_state_that_goes_back_is_not_taken_over(foo, far, autojump_clock):
    async def watch(far, stream):
        await stream.send_all(far.status() + far.status(State=0, Detail="Unit Created"))
        await trio.sleep(100)
        far.finish()
        await stream.send_all(far.status())

    far.lies["watch"] = watch
    async with foo.running():
        unit_id = await submit(foo)
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        await trio.sleep(50)
        assert foo.status(unit_id).detail == "Running: PID 7"
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


async def test_words_that_change_all_the_time_are_shown_at_once_and_rarely_written_to_disk(
    foo, far, autojump_clock
):
    async def watch(far, stream):
        for number in range(1_000):
            await stream.send_all(far.status(Detail=f"Running: PID {number}"))
            await trio.sleep(0.01)
        await trio.sleep_forever()

    far.lies["watch"] = watch
    async with foo.running():
        unit_id = await submit(foo)
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        with patch.object(foo.mortal, "write_status", wraps=foo.mortal.write_status) as write:
            for number in range(50, 1_000, 50):
                with trio.fail_after(1):
                    text = f"Running: PID {number}"
                    await foo.wait_for(unit_id, lambda status, text=text: status.detail == text)
            await foo.wait_for(unit_id, lambda status: status.detail == "Running: PID 999")
            await trio.sleep(2 * KEEP_INTERVAL)
        assert 1 <= write.call_count <= 10 / KEEP_INTERVAL + 2
        assert foo.store.read_status(unit_id).detail == "Running: PID 999"


# --- lies about sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(len(OUTPUT)))
async def test_what_comes_behind_the_stated_end_is_no_part_of_stdout(
    foo, far, autojump_clock, size
):
    """Also where it came before the end was stated."""
    async with foo.running():
        unit_id = await submit(foo)
        if size % 2:
            await trio.sleep(10)
            assert foo.stdout(unit_id) == OUTPUT
        far.size = size
        far.finish()
        status = await foo.wait_final(unit_id)
        assert (status.state, status.stdout_size) == (UnitState.SUCCEEDED, size)
        assert foo.stdout(unit_id) == OUTPUT[:size]


async def test_a_node_that_states_more_than_it_ever_sends_ends_the_unit_with_the_reason(
    foo, far, baz, autojump_clock
):
    far.size = 10**15
    far.finish()
    async with foo.running(), baz.running():
        unit_id = await submit(foo)
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail == f"results of the remote unit ended at byte 17 of {10**15}"
        await assert_all_else_lives(foo, baz)


async def test_a_node_that_sends_a_byte_at_a_time_is_not_asked_without_pause(
    foo, far, autojump_clock
):
    async def results(far, stream):
        far.sent += 1
        await stream.send_all(b"x")

    far.lies["results"] = results
    far.size = 1000
    far.finish()
    async with foo.running():
        await submit(foo)
        await trio.sleep(LONG_ENOUGH)
        assert far.sent < 100


@pytest.mark.parametrize("lie", ["running", "ended"])
@pytest.mark.parametrize("limit", [10, 65536, 1_000_000])
async def test_results_without_end_are_cut_off_at_the_limit_to_the_byte(
    foo, far, baz, autojump_clock, lie, limit
):
    foo.max_remote_output = limit
    far.size = 10**15
    if lie == "ended":
        far.finish()
    far.lies["results"] = says_endlessly
    async with foo.running(), baz.running():
        unit_id = await submit(foo)
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail == (
            f"stopped: node bar sent more than {limit} bytes of results (remote-maxoutput)"
        )
        assert status.stdout_size == len(foo.stdout(unit_id)) == limit
        # And what nobody takes is stopped over there.
        assert "cancel" in [command["subcommand"] for command in far.asked]
        await assert_all_else_lives(foo, baz)


async def test_results_exactly_at_the_limit_are_not_too_many(foo, far, autojump_clock):
    foo.max_remote_output = len(OUTPUT)
    async with foo.running():
        unit_id = await submit(foo)
        await trio.sleep(10)
        await assert_ends_well(foo, far, unit_id)


async def test_a_node_may_not_send_far_more_than_it_says_there_is(
    foo, far, baz, autojump_clock, monkeypatch
):
    monkeypatch.setattr("meshnode.work.remote.stream.AHEAD", 1 << 20)
    far.size = 5
    far.lies["results"] = says_endlessly
    async with foo.running(), baz.running():
        unit_id = await submit(foo)
        await trio.sleep(LONG_ENOUGH)
        assert len(foo.stdout(unit_id)) <= 3 << 20
        assert not foo.status(unit_id).state.is_final
        await assert_all_else_lives(foo, baz)
        far.size = None
        far.lies.clear()
        far.finish()
        assert (await foo.wait_final(unit_id)).stdout_size == len(OUTPUT)
    assert AHEAD >= 1 << 20


async def test_a_node_that_says_how_its_results_grow_may_send_them_all(
    foo, far, autojump_clock, monkeypatch
):
    monkeypatch.setattr("meshnode.work.remote.stream.AHEAD", 100)
    far.size = 100_000

    async def results(far, stream):
        await stream.send_all(b"x" * 100_000)
        await trio.sleep(100)

    # One that pushes tells no growth by itself.
    async def watch(far, stream):
        await stream.send_all(far.status(StdoutSize=0))
        await trio.sleep(50)
        far.finish()
        await stream.send_all(far.status())

    far.lies |= {"results": results, "watch": watch}
    async with foo.running():
        unit_id = await submit(foo)
        status = await foo.wait_final(unit_id)
        assert (status.state, status.stdout_size) == (UnitState.SUCCEEDED, 100_000)


# --- lies about what was done ---------------------------------------------------------------------


@pytest.mark.parametrize("lie", NO_LINE)
@pytest.mark.parametrize("subcommand", ["cancel", "release"])
async def test_a_wish_that_is_not_answered_is_repeated_until_it_is(
    foo, far, baz, autojump_clock, subcommand, lie
):
    async with foo.running(), baz.running():
        unit_id = await submit(foo)
        far.lies[subcommand] = NO_LINE[lie]
        (line,) = await foo.talk(f"work {subcommand} {unit_id}")
        assert line == f'{{"{subcommand} pending":"{unit_id}"}}'
        await trio.sleep(LONG_ENOUGH)
        await assert_all_else_lives(foo, baz)
        far.lies.clear()
        unit = foo.units.find(unit_id)
        with trio.fail_after(LONG_ENOUGH):
            while not (unit.released if subcommand == "release" else unit.is_final):
                await unit.wait_changed(unit.version)


async def test_what_was_submitted_to_it_ends_here_when_it_is_given_up(foo, far, autojump_clock):
    far.lies["status"] = says_nothing
    async with foo.running():
        unit_id = await submit(foo)
        far.lies["release"] = says_nothing
        assert await foo.talk(f"work force-release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert foo.units.all() == ()


# --- a forged tag ---------------------------------------------------------------------------------


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_receptor_that_somebody_calls_a_meshnode_runs_work_all_the_same(
    foo, far, autojump_clock, refuses
):
    far.is_receptor = False

    async def submit_answer(far, stream):
        fields = set(far.asked[-1])
        has_keys = fields & {"submissionkey", "submissionfollow", "stdinsize", "stdinsha256"}
        refused = refuses and has_keys
        far.submissions -= bool(refused)
        await stream.send_all(b"ERROR: extra params provided\n" if refused else CREATED)
        return refused

    far.lies["submit"] = submit_answer
    async with foo.running():
        unit_id = await submit(foo)
        await trio.sleep(10)
        assert foo.stdout(unit_id) == OUTPUT
        await assert_ends_well(foo, far, unit_id)
