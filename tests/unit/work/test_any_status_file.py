"""Whatever stands in the file of a unit, the node starts, and all other units are as they were."""

import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest import mock

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_remote_replies import json_values
from work_fakes import FakeMesh, FakeNode, inline_run_sync

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.retention import Retention
from meshnode.work.units.status import UnitStatus

DAMAGED = "DAMAGED1"
LOCAL = UnitStatus(UnitState.SUCCEEDED, "exit status 0", "cat", params=("cat",)).to_disk()
REMOTE = UnitStatus(
    UnitState.RUNNING, "", "remote", remote=RemoteExtra("nowhere", "cat", unit_id="abcdefgh")
).to_disk()
EXTRA_KEYS = list(RemoteExtra("n", "t").to_json(secrets=True))
KEYS = [*LOCAL, "Learned", "Boot", "SubmissionKey", "StdinSha256", "Unknown", "ExtraData"]
KEYS += ["Runner", "RunnerData", "ReleaseAsked", "Host"]

odd_local = st.dictionaries(st.sampled_from(KEYS), json_values).map(lambda odd: LOCAL | odd)
odd_extra = st.dictionaries(st.sampled_from(EXTRA_KEYS), json_values)
odd_remote = odd_extra.map(lambda odd: REMOTE | {"ExtraData": REMOTE["ExtraData"] | odd})
contents = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda status: json.dumps(status).encode(), odd_local | odd_remote | json_values),
)


def in_memory(main: Callable[[Path], Awaitable[None]]) -> None:
    """Run a test's body as the fixtures would, once for each example."""
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(trio.to_thread, "run_sync", inline_run_sync),
    ):
        trio.run(main, Path(directory), clock=trio.testing.MockClock(autojump_threshold=0))


async def start_beside(foo: FakeNode, content: bytes) -> None:
    """Start a node that has one unit with this status and one that is sound; look at all."""
    async with foo.running():
        sound = await foo.submit("foo", "cat", b"abc")
        await foo.wait_final(sound)
    directory = foo.store.directory(DAMAGED)
    directory.mkdir()
    (directory / "status").write_bytes(content)
    (directory / "stdout").touch()
    async with foo.running():
        foo.nursery.start_soon(Retention(foo.units, 90 * 86400, foo.mesh.now).run)
        await trio.sleep(3)
        (line,) = await foo.talk("work list")
        listed = json.loads(line, parse_constant=pytest.fail)
        assert listed[sound]["StateName"] == "Succeeded"
        warned = any(DAMAGED in warning for warning in await foo.units.warnings())
        assert (DAMAGED in listed) or warned
        await foo.talk("work cancel DAMAGED1")
        # A new one runs as well.
        assert (await foo.wait_final(await foo.submit("foo", "cat"))).state is UnitState.SUCCEEDED


@settings(max_examples=150)
@given(contents)
@example(json.dumps(LOCAL | {"Finished": "9999-12-31T23:59:59Z"}).encode())
@example(json.dumps(LOCAL | {"Finished": "0001-01-01T00:00:00+14:00"}).encode())
@example(json.dumps(LOCAL | {"Unknown": float("nan")}).encode())
@example(json.dumps(LOCAL | {"Detail": "\ud800"}).encode())
@example(json.dumps(LOCAL | {"State": 1, "Supervisor": {"Pid": -1, "Started": 1}}).encode())
@example(json.dumps(LOCAL | {"State": 1, "Supervisor": {"Pid": 10**30, "Started": 1}}).encode())
@example(json.dumps(REMOTE | {"Finished": "9999-12-31T23:59:59Z", "State": 2}).encode())
@example(
    json.dumps(
        REMOTE | {"ExtraData": REMOTE["ExtraData"] | {"Expiration": "0001-01-01T00:00:00+14:00"}}
    ).encode()
)
@example(json.dumps(REMOTE | {"ExtraData": REMOTE["ExtraData"] | {"More": float("inf")}}).encode())
@example(b'{"State":2,"WorkType":"cat","Unknown":' + b"[" * 900 + b"]" * 900 + b"}")
def test_whatever_a_status_file_holds_the_node_starts_and_shows_the_unit(content):
    async def main(directory: Path) -> None:
        await start_beside(FakeNode(FakeMesh(), "foo", directory), content)

    in_memory(main)


@pytest.mark.parametrize("finished", ["9999-12-31T23:59:59Z", "2027-11-02T03:00:00Z", None])
async def test_retention_counts_from_when_we_learned_the_end_whatever_the_other_node_says(
    foo, autojump_clock, finished
):
    status = UnitStatus.from_json(
        REMOTE
        | {
            "State": 2,
            "Finished": finished,
            "Learned": "2026-11-02T03:00:00Z",
            "ExtraData": REMOTE["ExtraData"] | {"RemoteUnitID": ""},
        }
    )
    foo.store.prepare()
    foo.store.create(status)
    foo.store.close()
    async with foo.running():
        foo.nursery.start_soon(Retention(foo.units, 10 * 86400, foo.mesh.now).run)
        await trio.sleep(9.9 * 86400)
        assert len(foo.units.all()) == 1
        await trio.sleep(86400)
        assert foo.units.all() == ()


@pytest.mark.parametrize("finished", ["9999-12-31T23:59:59Z", "1970-01-01T00:00:09Z"])
async def test_an_end_that_cannot_be_right_counts_from_the_first_look(
    foo, autojump_clock, finished
):
    foo.store.prepare()
    foo.store.create(UnitStatus.from_json(LOCAL | {"Finished": finished}))
    foo.store.close()
    async with foo.running():
        foo.nursery.start_soon(Retention(foo.units, 10 * 86400, foo.mesh.now).run)
        await trio.sleep(9.9 * 86400)
        assert len(foo.units.all()) == 1
        await trio.sleep(86400)
        assert foo.units.all() == ()


async def test_a_unit_that_cannot_be_taken_over_costs_the_start_nothing_and_is_warned_of(
    foo, monkeypatch
):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")

    def fault(self):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(UnitStatus, "has_spent_secrets", property(fault))
        async with foo.running():
            assert foo.units.find(unit_id)
            assert any(unit_id in warning for warning in await foo.units.warnings())
    async with foo.running():
        assert all(unit_id not in warning for warning in await foo.units.warnings())
