"""Files that all members of a batch share: sent once, kept once, there for each."""

import hashlib
import json
import os

import pytest
import trio
from tars import entry, link, tar_of
from test_batches import ask, run_commands, status, wait
from work_fakes import LONG

from meshnode.protocol.control import DEPS_SHA256_KEY, DEPS_SIZE_KEY, SCRIPT_KEY
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.quotas import QuotaBounds

BIG = os.urandom(300_000)
TAR = tar_of(entry("data", BIG), entry("run", b"#!/bin/sh\n", mode=0o755))
DIGEST = hashlib.sha256(TAR).hexdigest()
BATCH = {"command": "work", "subcommand": "batch", "action": "submit", "worktype": "wait"}


def tars(node) -> list[os.stat_result]:
    """Return what lies on a node's disk of such tars."""
    return [path.stat() for path in node.store.root.rglob("deps") if path.is_file()]


def room(node) -> int:
    """Return the bytes that they take, each file once, whatever its names."""
    return sum({one.st_ino: one.st_size for one in tars(node)}.values())


async def submit_files(on, /, payload: bytes = b"", tar: bytes = TAR, **fields: str) -> list[str]:
    given = {**BATCH, "node": on.node_id, DEPS_SIZE_KEY: str(len(tar)), **fields}
    return await on.talk(given, tar + payload)


async def submitted(on, /, payload: bytes = b"", **fields: str) -> str:
    greeting, line = await submit_files(on, payload, **fields)
    assert greeting.startswith("Send the files of the batch")
    assert not line.startswith("ERROR"), line
    return json.loads(line)["batch"]


def lines(count: int) -> bytes:
    return b"".join(json.dumps({"params": str(n)}).encode() + b"\n" for n in range(count))


def directory_of(node, unit_id: str):
    return node.store.work_directory(unit_id) / "DEPS"


@pytest.mark.parametrize("how", ["array", "lines"])
@pytest.mark.parametrize("to", ["foo", "bar"])
@pytest.mark.parametrize("kills", [False, True])
async def test_each_member_has_the_files_that_were_sent_once(
    foo, bar, how, to, kills, autojump_clock
):
    payload, more = (b"", {"array": "1-6%3"}) if how == "array" else (lines(6), {"lines": "true"})
    if how == "lines":
        more["maxinflight"] = "3"
    runs_on = foo if to == "foo" else bar
    async with bar.running():
        async with foo.running():
            batch = await submitted(foo, payload, **more, node=to, **{DEPS_SHA256_KEY: DIGEST})
            with trio.fail_after(LONG):
                while len(runs_on.launcher.started) < 3:
                    await trio.sleep(0.1)
            assert room(foo) == len(TAR)
            if kills:
                foo.kill()
        foo.mesh.heal()
        async with foo.running():
            seen: set[str] = set()
            with trio.fail_after(LONG):
                while not (await status(foo, batch)).get("Finished"):
                    for unit_id, supervisor in tuple(runs_on.launcher.supervisors.items()):
                        if not supervisor.ended.is_set():
                            there = directory_of(runs_on, unit_id)
                            assert (there / "data").read_bytes() == BIG
                            seen.add(unit_id)
                            supervisor.finish()
                    await trio.sleep(0.1)
            ends, last = await wait(foo, batch)
            assert last["Succeeded"] == len(ends) == len(seen) == 6
            assert len(runs_on.launcher.started) == 6
            assert room(foo) == len(TAR)
            await ask(foo, "release", batch)
            assert tars(foo) == []
            assert foo.units.all() == ()


async def test_the_files_of_many_members_that_wait_take_the_room_of_one(foo, autojump_clock):
    async with foo.running():
        # Nobody is there who would take them.
        batch = await submitted(foo, array="1-200%200", node="bar")
        with trio.fail_after(LONG):
            while (await status(foo, batch))["InFlight"] < 200 or len(tars(foo)) < 201:
                await trio.sleep(0.1)
        assert room(foo) == len(TAR)
        await ask(foo, "cancel", batch)
        assert len(tars(foo)) == 1


async def test_without_links_each_member_has_a_copy(foo, monkeypatch, autojump_clock):
    def no_link(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    async with foo.running():
        batch = await submitted(foo, array="1-3")
        await run_commands(foo, batch)
        assert (await wait(foo, batch))[1]["Succeeded"] == 3


async def test_a_retry_has_the_same_files(foo, autojump_clock):
    async with foo.running():
        batch = await submitted(foo, array="1-3")
        await run_commands(foo, batch, UnitState.FAILED, 1)
        await ask(foo, "retry", batch)
        await run_commands(foo, batch)
        assert (await wait(foo, batch))[1]["Succeeded"] == 3
        for unit_id in foo.launcher.supervisors:
            assert (directory_of(foo, unit_id) / "data").read_bytes() == BIG


async def test_a_script_of_all_is_one_of_the_files(foo, autojump_clock):
    foo.work_types = {"wait": CommandType("wait", allow_scripts=True)}
    async with foo.running():
        batch = await submitted(foo, array="1-2", **{SCRIPT_KEY: "run"})
        await run_commands(foo, batch)
        assert (await wait(foo, batch))[1]["Succeeded"] == 2
        assert all("DEPS/run" in " ".join(words) for words in foo.launcher.started)
        _, line = await submit_files(foo, array="1-2", **{SCRIPT_KEY: "other"})
        assert line.startswith("ERROR: the tar of dependencies: ")


BAD = [
    (TAR[:-1], {}, "the tar of dependencies: "),
    (TAR, {DEPS_SHA256_KEY: "0" * 64}, "the tar of dependencies: its SHA-256 is not the one"),
    (TAR + b"x", {}, "there is more than the"),
    (tar_of(entry("../out", b"x")), {}, "the tar of dependencies: "),
    (tar_of(link("in", "/etc")), {}, "the tar of dependencies: "),
]


@pytest.mark.parametrize(("tar", "fields", "words"), BAD)
async def test_files_that_may_not_be_or_are_not_as_announced_make_no_batch(
    foo, tar, fields, words, autojump_clock
):
    size = str(len(TAR) if tar.startswith(TAR[:100]) else len(tar))
    async with foo.running():
        fields = {**BATCH, "node": "foo", "array": "1-3", DEPS_SIZE_KEY: size, **fields}
        _, line = await foo.talk(fields, tar)
        assert line.startswith(f"ERROR: {words}")
        assert json.loads((await ask(foo, "list"))[0]) == {}
        assert tars(foo) == []


@pytest.mark.parametrize("key", [DEPS_SIZE_KEY, DEPS_SHA256_KEY])
async def test_a_line_with_files_of_its_own_is_refused_in_a_line(foo, key, autojump_clock):
    async with foo.running():
        line = json.dumps({key: "5"}).encode() + b"\n"
        _, answer = await submit_files(foo, line, lines="true")
        told = f"line 1: {key} is no key of a member: all members share the same files"
        assert answer == f"ERROR: {told}"


async def test_a_type_that_takes_no_files_refuses_them_before_they_are_sent(foo, autojump_clock):
    foo.work_types = {"wait": CommandType("wait", cwd="/srv")}
    async with foo.running():
        given = {**BATCH, "node": "foo", "array": "1-3", DEPS_SIZE_KEY: str(len(TAR))}
        answer = (await foo.talk(given))[-1]
        assert answer.startswith("ERROR: ")
        assert "takes no files" in answer


async def test_the_files_of_a_batch_count_once_as_payload_of_its_submitter(foo, autojump_clock):
    async with foo.running():
        foo.units.quotas.bounds = QuotaBounds(payload=len(TAR) + 100)
        batch = await submitted(foo, array="1-20%20")
        await run_commands(foo, batch)
        assert (await wait(foo, batch))[1]["Succeeded"] == 20
        _, line = await submit_files(foo, array="1-2")
        assert "(submitter-maxpayload)" in line
        await ask(foo, "release", batch)
        assert await submitted(foo, array="1-2")
