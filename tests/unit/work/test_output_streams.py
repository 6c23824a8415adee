"""Units whose outputs are separate, or have an index: files, sizes, and results of each."""

import json
import os
import stat
from base64 import b64decode
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from work_fakes import LONG

from meshctl.api import logindex
from meshnode.errors import CommandError
from meshnode.protocol.control import STREAM_NAMES
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.launcher import records
from meshnode.work.units.requests import ResultsRequest, parse_json
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore

FILES = {"separate": {"stdout", "stderr", "index"}, "timed": {"stdout", "index"}}


def results(unit_id: str, stream: str | None = None, start: int = 0) -> dict:
    request = {"command": "work", "subcommand": "results", "unitid": unit_id, "startpos": start}
    return request if stream is None else {**request, "stream": stream}


def test_control_protocol_launcher_and_client_know_the_same_files() -> None:
    assert tuple(records.SIZE_KEYS) == STREAM_NAMES
    assert (*logindex.STREAMS, logindex.INDEX, logindex.FILES) == STREAM_NAMES


@pytest.mark.parametrize("work_type", ["cat", "separate", "timed"])
async def test_a_unit_has_the_files_of_its_type_from_the_start_for_its_user_alone(foo, work_type):
    async with foo.running():
        unit_id = await foo.submit("foo", work_type)
        directory = foo.store.directory(unit_id)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        assert set(modes) == FILES.get(work_type, {"stdout"}) | {"stdin", "status"}
        assert set(modes.values()) == {0o600}


async def test_an_ordinary_unit_shows_no_size_of_what_it_does_not_have(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        (line,) = await foo.talk({"command": "work", "subcommand": "status", "unitid": unit_id})
        assert not {"StderrSize", "IndexSize"} & set(json.loads(line))
        assert not {"StderrSize", "IndexSize"} & set(
            json.loads((foo.store.directory(unit_id) / "status").read_text())
        )


async def test_sizes_are_shown_while_they_grow_and_stand_in_the_record_of_the_end(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "separate")
        supervisor = foo.launcher.supervisors[unit_id]

        async def sizes() -> tuple[int, int, int]:
            (line,) = await foo.talk({"command": "work", "subcommand": "status", "unitid": unit_id})
            told = json.loads(line)
            return (told["StdoutSize"], told["StderrSize"], told["IndexSize"])

        assert await sizes() == (0, 0, 0)
        supervisor.write(b"abc")
        supervisor.write(b"de", "stderr")
        supervisor.write(bytes(16), "index")
        assert await sizes() == (3, 2, 16)
        supervisor.finish()
        await foo.wait_final(unit_id)
        os.truncate(foo.store.output_path(unit_id, "stderr"), 0)
        assert await sizes() == (3, 2, 16)
    async with foo.running():
        assert foo.status(unit_id).sizes == {"StdoutSize": 3, "StderrSize": 2, "IndexSize": 16}


async def test_the_end_of_a_lost_unit_says_how_much_of_each_file_there_is(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "separate")
        supervisor = foo.launcher.supervisors[unit_id]
        supervisor.write(b"abc")
        supervisor.write(b"defg", "stderr")
        supervisor.ended.set()
        status = await foo.wait_final(unit_id)
        assert (status.state, status.sizes) == (
            UnitState.FAILED,
            {"StdoutSize": 3, "StderrSize": 4, "IndexSize": 0},
        )


@pytest.mark.parametrize("start", [0, 3, 100])
async def test_each_file_is_sent_from_any_byte_to_any_number_of_followers_as_it_grows(foo, start):
    async with foo.running():
        unit_id = await foo.submit("foo", "separate")
        supervisor = foo.launcher.supervisors[unit_id]
        texts = {"stdout": b"0123456789", "stderr": b"abcdefghij", "index": bytes(range(48))}
        replies: dict[tuple[str, int], bytes] = {}

        async def follow(stream: str, number: int) -> None:
            client = foo.connect()
            await client.send_all(json.dumps(results(unit_id, stream, start)).encode() + b"\n")
            reply = b"".join([chunk async for chunk in client])
            replies[stream, number] = reply.partition(f"unit {unit_id}\n".encode())[2]

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for stream in texts:
                    for number in range(4):
                        nursery.start_soon(follow, stream, number)
                for cut in (slice(0, 5), slice(5, None)):
                    await trio.testing.wait_all_tasks_blocked()
                    for stream, text in texts.items():
                        supervisor.write(text[cut], stream)
                supervisor.finish()
        assert replies == {
            (stream, number): text[start:] for stream, text in texts.items() for number in range(4)
        }


@pytest.mark.parametrize("work_type", ["cat", "separate"])
async def test_without_a_stream_results_are_stdout(foo, work_type):
    async with foo.running():
        unit_id = await foo.submit("foo", work_type, b"out")
        supervisor = foo.launcher.supervisors[unit_id]
        if work_type == "separate":
            supervisor.write(b"out")
            supervisor.write(b"err", "stderr")
            supervisor.finish()
        await foo.wait_final(unit_id)
        assert (await foo.talk(results(unit_id)))[-1] == "out"


@pytest.mark.parametrize(
    ("work_type", "stream", "why"),
    [
        ("wait", "stderr", "does not say `stderr: separate`, so errors are in its stdout"),
        ("timed", "stderr", "does not say `stderr: separate`, so errors are in its stdout"),
        ("wait", "index", "says neither `timestamps: true` nor `stderr: separate`"),
    ],
)
async def test_a_file_that_a_unit_does_not_have_is_refused_with_the_reason(
    foo, work_type, stream, why
):
    async with foo.running():
        unit_id = await foo.submit("foo", work_type)
        lines = await foo.talk(results(unit_id, stream))
        assert lines == [f"ERROR: work unit {unit_id} has no {stream}: its work type {why}"]


@given(st.text() | st.integers() | st.none() | st.lists(st.text()))
def test_an_unknown_stream_is_refused_and_taken_for_no_other(stream: object) -> None:
    request = {"subcommand": "results", "unitid": "x", "startpos": 0, "stream": stream}
    if stream in STREAM_NAMES:
        assert parse_json(request) == ResultsRequest("x", 0, stream=str(stream))
    else:
        with pytest.raises(CommandError, match=r"^field stream must be stdout or stderr"):
            parse_json(request)


async def test_of_a_remote_unit_a_file_is_sent_once_it_is_known_that_there_is_one(
    foo, bar, autojump_clock
):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        unit = foo.units.find(unit_id)
        client = foo.connect()
        await client.send_all(json.dumps(results(unit_id, "stderr")).encode() + b"\n")
        await trio.testing.wait_all_tasks_blocked()
        path = foo.store.output_path(unit_id, "stderr")
        path.write_bytes(b"")
        await unit.note(lambda old: replace(old, stderr_size=0))
        path.write_bytes(b"late")
        await unit.note(lambda old: replace(old, stderr_size=4))
        bar.launcher.supervisors[unit.remote.unit_id].finish()
        with trio.fail_after(LONG):
            reply = b"".join([chunk async for chunk in client])
        assert reply.endswith(f"unit {unit_id}\nlate".encode())


async def test_a_follower_on_another_node_hears_of_output_that_is_errors_only(foo, autojump_clock):
    async with foo.running():
        lines = await followed(foo)
        unit_id = (await lines())["unitid"]
        supervisor = foo.launcher.supervisors[unit_id]
        while (await lines())["State"] != UnitState.RUNNING:
            pass
        supervisor.write(b"oops\n", "stderr")
        supervisor.write(bytes(16), "index")
        assert (await lines())["StderrSize"] == 5


async def test_a_short_output_comes_with_the_end_each_file_by_its_name(foo, autojump_clock):
    async with foo.running():
        lines = await followed(foo)
        unit_id = (await lines())["unitid"]
        supervisor = foo.launcher.supervisors[unit_id]
        for stream, text in (("stdout", b"out"), ("stderr", b"err"), ("index", bytes(32))):
            supervisor.write(text, stream)
        supervisor.finish()
        while (told := await lines())["State"] < UnitState.SUCCEEDED:
            pass
        inline = {key: b64decode(told[key]) for key in ("Stdout", "Stderr", "Index")}
        assert inline == {"Stdout": b"out", "Stderr": b"err", "Index": bytes(32)}


async def followed(node):
    """Submit a unit as a node does that follows it; return what reads the next line."""
    client = node.connect()
    request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "separate"}
    await client.send_all(json.dumps({**request, "submissionfollow": "true"}).encode() + b"\n")
    await client.send_eof()
    text = b""

    async def line() -> dict:
        nonlocal text
        with trio.fail_after(LONG):
            while b"\n" not in text:
                piece = await client.receive_some()
                assert piece
                text += piece
        one, text = text.split(b"\n", 1)
        return json.loads(one) if one.startswith(b"{") else await line()

    return line


@pytest.mark.parametrize("name", ["stderr", "index"])
@pytest.mark.parametrize("what", ["link", "pipe", "directory"])
async def test_a_strange_file_in_the_place_of_an_output_is_not_opened(foo, tmp_path, name, what):
    """A link would show a file of this user, a pipe would hold the node up."""
    async with foo.running():
        unit_id = await foo.submit("foo", "separate")
        path = foo.store.output_path(unit_id, name)
        path.unlink()
        secret = tmp_path / "secret"
        secret.write_text("secret")
        {"link": lambda: path.symlink_to(secret), "pipe": lambda: os.mkfifo(path)}.get(
            what, path.mkdir
        )()
        foo.launcher.supervisors[unit_id].ended.set()
        with trio.fail_after(60):
            reply = await foo.talk(results(unit_id, name))
        assert "secret" not in str(reply)
        assert foo.units.find(unit_id).sizes()[records.SIZE_KEYS[name]] == 0


SIZES = st.none() | st.integers(0, 2**63 - 1)


@given(SIZES, SIZES)
def test_sizes_survive_the_record(stderr: int | None, index: int | None) -> None:
    status = UnitStatus(
        UnitState.SUCCEEDED, "", "x", stderr_size=stderr, index_size=index, stdout_size=1
    )
    again = UnitStatus.from_json(json.loads(json.dumps(status.to_disk())))
    assert again == status
    assert again.merged({"StderrSize": 7}).stderr_size == 7


def test_what_was_cut_short_while_it_was_made_is_deleted_with_all_files(tmp_path) -> None:
    store = UnitStore(tmp_path)
    store.prepare()
    directory = store.directory("AbCdEfG1")
    directory.mkdir(mode=0o700)
    for name in ("stdin", "stdout", "stderr", "index"):
        (directory / name).touch()
    assert store.scan() == []
    store.close()
    assert not directory.exists()
