"""Who sends a batch again under its key is told of the one that there is, and makes no other."""

import errno
import hashlib
import json
import os

import pytest
import trio
from test_batches import ask, run_commands, status
from work_fakes import LONG

from meshnode import files
from meshnode.control.input import PAYLOAD_TIMEOUT
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import UnixClient
from meshnode.work.batches.intake import SILENCE

BATCH = {"command": "work", "subcommand": "batch", "action": "submit", "worktype": "cat"}
LINES = b"".join(json.dumps({"stdin": str(n)}).encode() + b"\n" for n in range(3))
ARRAY = {"array": "1-3"}
LIST = {"lines": "true"}
WAYS = [(ARRAY, b""), (LIST, LINES)]


async def submit(on, terms, payload=b"", /, key="night", **more):
    """Submit; return the reply, which is the last line."""
    request = {**BATCH, "node": on.node_id, "submissionkey": key, **terms, **more}
    *greeting, line = await on.talk(request, payload)
    assert len(greeting) <= 1
    return line if line.startswith("ERROR") else json.loads(line)


async def batches(on):
    (line,) = await ask(on, "list")
    return json.loads(line)


@pytest.mark.parametrize(("terms", "payload"), WAYS)
@pytest.mark.parametrize("kills", [False, True])
async def test_a_batch_that_is_sent_again_is_the_same_one_also_after_a_restart(
    foo, terms, payload, kills, autojump_clock
):
    async with foo.running():
        first = await submit(foo, terms, payload)
        assert first["result"] == "Batch Submitted"
        if kills:
            foo.kill()
    async with foo.running():
        again = await submit(foo, terms, payload)
        assert again == {**first, "result": "Batch Already Submitted"}
        assert [*await batches(foo)] == [first["batch"]]
        await run_commands(foo, first["batch"])
        assert (await status(foo, first["batch"]))["Succeeded"] == 3
        # It is known for as long as it is there, and its key is of nothing else then.
        assert (await submit(foo, terms, payload))["batch"] == first["batch"]


@pytest.mark.parametrize(("terms", "payload"), WAYS)
async def test_of_many_that_come_at_once_one_makes_the_batch(foo, terms, payload, autojump_clock):
    replies = []

    async def send():
        replies.append(await submit(foo, terms, payload))

    async with foo.running():
        with trio.fail_after(LONG):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(send)
        assert len(await batches(foo)) == 1
    assert sorted(one["result"] for one in replies) == (
        ["Batch Already Submitted"] * 7 + ["Batch Submitted"]
    )


async def test_one_that_was_broken_off_is_made_by_who_sends_it_again(foo, autojump_clock):
    request = {**BATCH, "node": "foo", "submissionkey": "night", **LIST}
    async with foo.running():
        client = foo.connect("unix", "client")
        await client.send_all(json.dumps(request).encode() + b"\n" + LINES[:-5])
        replies = []

        async def send():
            replies.append(await submit(foo, LIST, LINES))

        with trio.fail_after(LONG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked()
                assert not replies
                await client.aclose()
        assert [one["result"] for one in replies] == ["Batch Submitted"]
        assert len(await batches(foo)) == 1


@pytest.mark.parametrize("more", [{"array": "1-4"}, {"worktype": "wait"}, {"params": "x"}])
async def test_another_batch_under_the_key_is_refused(foo, more, autojump_clock):
    async with foo.running():
        first = await submit(foo, ARRAY)
        refusal = await submit(foo, ARRAY, **more)
        assert refusal == f"ERROR: field submissionkey is that of batch {first['batch']}"
        assert len(await batches(foo)) == 1


async def test_a_list_must_have_the_digest_that_was_announced(foo, autojump_clock):
    digest = hashlib.sha256(LINES).hexdigest()
    async with foo.running():
        assert "batch" in await submit(foo, LIST, LINES, key="", listsha256=digest)
        refusal = await submit(foo, LIST, LINES + LINES, key="", listsha256=digest)
        assert refusal == "ERROR: the list is not the one that was announced: send it again"


async def test_the_key_of_one_client_is_nothing_to_another(foo, autojump_clock):
    async with foo.running():
        request = {**BATCH, "node": "foo", "submissionkey": "night", **ARRAY}
        names = set()
        for uid, name in enumerate(["ann", "bob"], 1000):
            foo.clients[name] = UnixClient(uid, 100, 77, name)
            (line,) = await foo.talk(request, peer=name)
            names.add(json.loads(line)["batch"])
        assert len(names) == 2


@pytest.mark.parametrize("key", ["x" * 513, "a\nb", "b-1x2y3z4w:7"])
async def test_a_key_that_is_none_is_refused(foo, key, autojump_clock):
    async with foo.running():
        assert (await submit(foo, ARRAY, key=key)).startswith("ERROR: field submissionkey ")
        assert await batches(foo) == {}


async def test_a_batch_is_told_of_also_when_what_it_waits_for_is_gone(foo, autojump_clock):
    async with foo.running():
        before = await foo.submit("foo", "cat")
        first = await submit(foo, ARRAY, submissionafter=before)
        for supervisor in foo.launcher.supervisors.values():
            supervisor.finish(UnitState.SUCCEEDED, "exit status 0", 0)
        await foo.wait_final(before)
        (line,) = await foo.talk(f"work release {before}")
        assert json.loads(line) == {"released": before}
        assert await submit(foo, ARRAY, submissionafter=before) == {
            **first,
            "result": "Batch Already Submitted",
        }
        # Who has not submitted it before is refused.
        assert "ERROR" in await submit(foo, ARRAY, key="other", submissionafter=before)


@pytest.mark.parametrize("fails", [1, 2])
async def test_a_batch_that_is_refused_for_its_disk_is_not_there_after_a_restart(
    foo, fails, monkeypatch, autojump_clock
):
    synced = []

    def sync_directory(path):
        if path in (foo.store.root / "batches", foo.store.root):
            synced.append(path)
            if len(synced) == fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with foo.running():
        monkeypatch.setattr(files, "sync_directory", sync_directory)
        assert (await submit(foo, ARRAY)).startswith("ERROR: cannot keep the batch: ")
        monkeypatch.undo()
        foo.kill()
    assert len(synced) >= fails
    async with foo.running():
        assert await batches(foo) == {}
        assert (await submit(foo, ARRAY))["result"] == "Batch Submitted"


@pytest.mark.parametrize("kind", ["tcp", "mesh"])
async def test_a_list_that_does_not_go_on_is_given_up_in_the_time_of_a_payload(
    foo, kind, autojump_clock
):
    request = {**BATCH, "node": "foo", "submissionkey": "night", **LIST}
    async with foo.running():
        client = foo.connect(kind, "client")
        await client.send_all(json.dumps(request).encode() + b"\n" + LINES[:-5])
        with trio.fail_after(PAYLOAD_TIMEOUT[kind] + LONG):
            async for _ in client:
                pass
        assert await batches(foo) == {}


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_one_that_is_silent_makes_way_for_who_sends_the_batch_again(
    foo, kind, autojump_clock
):
    request = {**BATCH, "node": "foo", "submissionkey": "night", **LIST}
    async with foo.running():
        client = foo.connect(kind, "client")
        await client.send_all(json.dumps(request).encode() + b"\n" + LINES[:-5])
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(2 * SILENCE):
            assert (await submit(foo, LIST, LINES))["result"] == "Batch Submitted"
        assert len(await batches(foo)) == 1


async def test_one_that_comes_slowly_is_waited_for(foo, autojump_clock):
    request = {**BATCH, "node": "foo", "submissionkey": "night", **LIST}
    replies = []

    async def send():
        replies.append(await submit(foo, LIST, LINES))

    async with foo.running():
        client = foo.connect("tcp", "client")
        await client.send_all(json.dumps(request).encode() + b"\n")
        with trio.fail_after(LONG + SILENCE * len(LINES)):
            async with trio.open_nursery() as nursery:
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(send)
                for byte in LINES:
                    await trio.sleep(SILENCE * 0.9)
                    await client.send_all(bytes([byte]))
                await client.send_eof()
        assert [one["result"] for one in replies] == ["Batch Already Submitted"]


@pytest.mark.parametrize("is_upper", [True, False])
async def test_the_digest_of_a_list_is_hexadecimal_in_any_case(foo, is_upper, autojump_clock):
    lines = LINES.replace(b"\n", b"\r\n")
    digest = hashlib.sha256(lines).hexdigest()
    digest = digest.upper() if is_upper else digest
    async with foo.running():
        assert "batch" in await submit(foo, LIST, lines, key="", listsha256=digest)


@pytest.mark.parametrize("digest", ["x", "0" * 63, "0" * 65, "g" * 64])
async def test_what_is_no_digest_of_a_list_is_refused_before_the_list_is_asked_for(
    foo, digest, autojump_clock
):
    async with foo.running():
        request = {**BATCH, "node": "foo", **LIST, "listsha256": digest}
        lines = await foo.talk(request)
        assert lines == ["ERROR: field listsha256 must be 64 hexadecimal digits"]
