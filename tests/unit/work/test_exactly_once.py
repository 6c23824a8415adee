"""What a submission says of itself, so that it happens once, and whole or not at all."""

import hashlib
import json

import pytest
import trio

from meshnode.protocol.lifecycle import UnitState

PAYLOAD = b"payload \x00\xff" * 1000
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()
SUBMIT = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}


def only_unit(node):
    (unit,) = node.units.all()
    return unit.unit_id


# --- half a payload ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "announced",
    [
        {"stdinsize": str(len(PAYLOAD))},
        {"stdinsha256": DIGEST},
        {"stdinsha256": DIGEST.upper()},
        {"stdinsize": str(len(PAYLOAD)), "stdinsha256": DIGEST},
        {"stdinsize": "", "stdinsha256": ""},
    ],
)
async def test_a_payload_that_is_as_announced_runs_and_nothing_of_it_is_a_parameter(foo, announced):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", PAYLOAD, **announced)
        status = await foo.wait_final(unit_id)
        assert (status.state, status.stdin_size) == (UnitState.SUCCEEDED, len(PAYLOAD))
        assert foo.stdout(unit_id) == PAYLOAD
        assert foo.launcher.started == [("cat",)]


@pytest.mark.parametrize(
    ("announced", "sent", "text"),
    [
        ({"stdinsize": "12"}, b"half", "4 of the 12 bytes that were announced"),
        ({"stdinsize": "12"}, b"", "0 of the 12 bytes that were announced"),
        ({"stdinsize": "3"}, b"more", "more than the 3 bytes that were announced"),
        ({"stdinsha256": DIGEST}, b"other", "its SHA-256 is not the one that was announced"),
        ({"stdinsha256": DIGEST}, b"", "its SHA-256 is not the one that was announced"),
    ],
)
async def test_another_payload_than_announced_fails_the_unit_and_starts_nothing(
    foo, announced, sent, text
):
    async with foo.running():
        lines = await foo.talk(SUBMIT | announced, sent)
        assert lines[1] == f"ERROR: Error reading input data: {text}"
        status = foo.status(only_unit(foo))
        assert (status.state, status.detail) == (
            UnitState.FAILED,
            f"Error reading input data: {text}",
        )
        assert foo.launcher.started == []


@pytest.mark.parametrize(
    ("announced", "text"),
    [
        ({"stdinsize": "-1"}, "field stdinsize value -1 is not a number of bytes"),
        ({"stdinsize": "1k"}, "field stdinsize value 1k is not a number of bytes"),
        ({"stdinsize": "9" * 30}, f"field stdinsize value {'9' * 30} is not a number of bytes"),
        ({"stdinsha256": "abc"}, "field stdinsha256 must be 64 hexadecimal digits"),
        ({"stdinsize": 3}, "submit parameters must all be strings and stdinsize is not"),
    ],
)
async def test_an_announcement_that_is_none_is_refused_before_there_is_a_unit(foo, announced, text):
    async with foo.running():
        assert await foo.talk(SUBMIT | announced) == [f"ERROR: {text}"]
        assert foo.units.all() == ()


async def test_what_is_left_of_a_refused_payload_is_not_read_as_commands(foo):
    async with foo.running():
        lines = await foo.talk(SUBMIT | {"stdinsize": "3"}, b"more\nwork submit foo cat\n" * 9999)
        assert lines[1:] == [
            "ERROR: Error reading input data: more than the 3 bytes that were announced"
        ]
        only_unit(foo)


async def test_a_meshnode_is_told_size_and_digest_and_a_receptor_neither(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        await foo.wait_final(await foo.submit("bar", "cat", PAYLOAD))
        there = bar.status(only_unit(bar))
        assert (there.stdin_size, there.stdin_sha256) == (len(PAYLOAD), DIGEST)
    bar.is_receptor = True
    async with foo.running(), bar.running():
        # The fake receptor fails on keys that it does not know.
        status = await foo.wait_final(await foo.submit("bar", "cat", PAYLOAD))
        assert status.detail == "exit status 0"


async def test_a_payload_that_the_submitters_disk_has_damaged_is_not_run(foo, bar, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", PAYLOAD)
        foo.store.stdin_path(unit_id).write_bytes(PAYLOAD[:-1] + b"?")
        async with bar.running():
            status = await foo.wait_final(unit_id)
            assert status.state is UnitState.FAILED
            assert "its SHA-256 is not the one that was announced" in status.detail
            assert bar.launcher.started == []


# --- the submission's key ---------------------------------------------------------------------


async def test_a_key_that_was_seen_is_refused_with_the_units_id_also_when_that_is_released(
    foo, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", submissionkey="client:1")
        refusal = [f"ERROR: already submitted as unit {unit_id}"]
        assert await foo.talk(SUBMIT | {"submissionkey": "client:1"}, b"") == refusal
        assert await foo.submit("foo", "cat", submissionkey="client:2") != unit_id
    released = [refusal[0] + ", which was released"]
    async with foo.running():
        assert await foo.talk(SUBMIT | {"submissionkey": "client:1"}, b"") == refusal
        await foo.talk(f"work release {unit_id}")
        assert await foo.talk(SUBMIT | {"submissionkey": "client:1"}, b"") == released
    async with foo.running():
        assert await foo.talk(SUBMIT | {"submissionkey": "client:1"}, b"") == released
        assert foo.launcher.started == [("cat",)] * 2


async def test_a_key_may_be_used_again_for_what_never_had_its_payload(foo):
    async with foo.running():
        await foo.talk(SUBMIT | {"submissionkey": "client:1", "stdinsize": "3"}, b"no")
        unit_id = only_unit(foo)
        assert foo.status(unit_id).state is UnitState.FAILED
        await foo.talk(f"work release {unit_id}")
        await foo.submit("foo", "cat", submissionkey="client:1")
        assert foo.launcher.started == [("cat",)]


@pytest.mark.parametrize("key", ["x" * 513, "a\nb", "\x7f", 7])
async def test_a_key_that_is_none_is_refused_before_there_is_a_unit(foo, key):
    async with foo.running():
        (line,) = await foo.talk(SUBMIT | {"submissionkey": key})
        assert "submissionkey" in line
        assert foo.units.all() == ()


async def test_a_key_used_for_other_work_is_refused_without_a_word_about_the_first(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", submissionkey="client:1", params="a")
        others = ({"worktype": "cat", "params": ""}, {"params": "b"}, {"stdinsize": "0"})
        for other in others:
            fields = {"worktype": "wait", "params": "a", "submissionkey": "client:1"} | other
            (line,) = await foo.talk(SUBMIT | fields, b"")
            assert line == "ERROR: field submissionkey is that of other work"
            assert unit_id not in line


async def test_submissions_without_a_key_are_all_different(foo):
    async with foo.running():
        first = await foo.submit("foo", "cat")
        assert await foo.submit("foo", "cat", submissionkey="") != first


@pytest.mark.parametrize("step", range(1, 40))
async def test_a_submitter_that_forgot_the_other_nodes_answer_leaves_no_second_unit_there(
    foo, bar, autojump_clock, step
):
    """Killed at any step, say between the ID that it was given and its record of it."""
    async with bar.running():
        async with foo.running():
            foo.mesh.before_operation = lambda count: foo.kill() if count == step else None
            client = foo.connect()
            await client.send_all(b"work submit bar cat\npayload")
            await client.send_eof()
            await trio.testing.wait_all_tasks_blocked()
            unit_id = only_unit(foo)
        foo.mesh.heal()
        async with foo.running():
            await foo.wait_final(unit_id)
            assert foo.stdout(unit_id) == b"payload"
            assert bar.launcher.started == [("cat",)]
            assert only_unit(bar) == foo.status(unit_id).remote.unit_id


async def test_a_submitter_whose_record_was_restored_from_a_backup_runs_nothing_twice(
    foo, bar, autojump_clock
):
    async with bar.running():
        async with foo.running():
            unit_id = await foo.submit("bar", "wait")
            there = only_unit(bar)
        path = foo.store.directory(unit_id) / "status"
        status = json.loads(path.read_bytes())
        status["State"], status["Detail"] = 0, "Starting Worker"
        status["ExtraData"] |= {"RemoteUnitID": "", "RemoteStarted": False}
        path.write_text(json.dumps(status))
        async with foo.running():
            bar.launcher.supervisors[there].write(b"once")
            bar.launcher.supervisors[there].finish()
            await foo.wait_final(unit_id)
            assert foo.stdout(unit_id) == b"once"
            assert foo.status(unit_id).remote.unit_id == there
            assert bar.launcher.started == [("wait", "for", "the end")]
