"""A payload that is cut off on its way to another node goes on, from the byte that is there.

Nothing is started with a part of it, with a mixture, or twice, whatever is cut or killed when.
"""

import hashlib
import json
import os
import random
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import pytest
import trio
import trio.testing
from audits import KeptAudit
from hypothesis import given, settings
from hypothesis import strategies as st
from remote_fakes import UNIT, RemoteNode, says
from test_job_files import found_in, tar_of
from work_fakes import LONG, FakeDialer, FakeMesh, FakeNode, inline_run_sync

from meshnode.config import load_arguments
from meshnode.protocol.control import RESUME_KEY, RESUMES, TAKEN_KEYS
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.auditlines import Kind
from meshnode.security.identity import TcpClient
from meshnode.work.units.intake import WRITE
from meshnode.work.units.quotas import QuotaBounds
from meshnode.work.units.uploads import LEAST_KEPT, PATIENCE, Uploads

PAYLOAD = random.Random(7).randbytes(3 * WRITE + 12_345)
TAR = tar_of({"big": PAYLOAD[: WRITE + 999], "small": b"x"})
TALK = 20_000
"""More bytes than all commands of a submission have."""
MEMORY = Path("/dev/shm")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def announced(payload=PAYLOAD, key="k", **more):
    """Return a submission that may come in parts."""
    return {
        **{"command": "work", "subcommand": "submit", "node": "bar", "worktype": "cat"},
        **{"stdinsize": str(len(payload)), "stdinsha256": sha256(payload)},
        **{"submissionkey": key, RESUME_KEY: "true"},
        **more,
    }


class Peer:
    """Another node's session with bar, byte by byte."""

    def __init__(self, node, stream):
        self.node, self.stream, self.buffer = node, stream, b""

    @classmethod
    async def submit(cls, mesh, node, request, name="foo"):
        """Submit; return the session and the line that answers."""
        self = cls(node, await FakeDialer(mesh, name).dial(node.node_id, "control"))
        await self.line()
        await self.stream.send_all(json.dumps(request).encode() + b"\n")
        return self, await self.line()

    async def line(self):
        while b"\n" not in self.buffer:
            data = await self.stream.receive_some(65536)
            if not data:
                return ""
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    async def send(self, data):
        await self.stream.send_all(data)
        await trio.testing.wait_all_tasks_blocked()

    async def lose(self):
        self.stream.partner.break_off()
        self.stream.break_off()
        await trio.testing.wait_all_tasks_blocked()

    async def finish(self):
        """End the payload; return the reply."""
        await self.stream.send_eof()
        line = await self.line()
        return json.loads(line) if line.startswith("{") else line


def only_unit(node):
    (unit,) = node.units.all()
    return unit


async def begin(foo, payload=PAYLOAD, node="bar", **fields):
    """Submit to foo, as a client that does not wait for the answer; return the unit."""
    client = foo.connect()
    request = {"command": "work", "subcommand": "submit", "node": node, "worktype": "cat", **fields}
    await client.send_all(json.dumps(request).encode() + b"\n" + payload)
    await client.send_eof()
    await trio.sleep(0.01)
    return only_unit(foo)


# --- between two nodes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cuts", [[LEAST_KEPT + TALK], [WRITE], [WRITE + 1, 2 * WRITE + 5, len(PAYLOAD)]]
)
async def test_what_came_before_a_cut_is_not_sent_again(foo, bar, mesh, autojump_clock, cuts):
    mesh.events = [(cut, mesh.break_all) for cut in cuts]
    async with foo.running(), bar.running():
        unit = await begin(foo)
        assert (await foo.wait_final(unit.unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit.unit_id) == PAYLOAD
        assert bar.launcher.started == [("cat",)]
    assert not mesh.events
    assert len(PAYLOAD) <= mesh.carried < len(PAYLOAD) + TALK


async def test_files_and_the_payload_behind_them_go_on_as_one(foo, bar, mesh, autojump_clock):
    whole = TAR + PAYLOAD
    cuts = (WRITE, len(TAR) - 3000, len(TAR), len(TAR) + WRITE)
    mesh.events = [(cut, mesh.break_all) for cut in cuts]
    async with foo.running(), bar.running():
        unit = await begin(foo, whole, depssize=str(len(TAR)))
        assert (await foo.wait_final(unit.unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit.unit_id) == PAYLOAD
        files = found_in(bar.store.work_directory(only_unit(bar).unit_id))
        assert files["DEPS/big"] == PAYLOAD[: WRITE + 999]
    assert mesh.carried < len(whole) + TALK


async def test_a_short_payload_is_sent_as_before(foo, bar, mesh, autojump_clock):
    seen = []

    def look(command):
        def parse_json(data):
            seen.append(data)
            return command.parse_json(data)

        return type(command)(command.name, command.parse_text, parse_json)

    bar.as_before = look
    async with foo.running(), bar.running():
        unit = await begin(foo, PAYLOAD[: LEAST_KEPT - 1])
        await foo.wait_final(unit.unit_id)
    assert seen
    assert all(RESUME_KEY not in data for data in seen)


@pytest.mark.parametrize("receptor", [True, False])
async def test_a_node_that_knows_nothing_of_it_gets_the_payload_anew(
    foo, bar, mesh, autojump_clock, receptor
):
    bar.is_receptor = receptor
    mesh.taken_keys = TAKEN_KEYS - {RESUMES}
    mesh.events = [(2 * WRITE, mesh.break_all)]
    async with foo.running(), bar.running():
        unit = await begin(foo)
        assert (await foo.wait_final(unit.unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit.unit_id) == PAYLOAD
        assert bar.launcher.started == [("cat",)]
    assert mesh.carried >= len(PAYLOAD) + WRITE


async def test_a_node_that_was_made_older_meanwhile_gets_the_payload_anew(
    foo, bar, mesh, autojump_clock
):
    def cut():
        mesh.taken_keys = TAKEN_KEYS - {RESUMES}
        mesh.break_all()

    mesh.events = [(2 * WRITE, cut)]
    async with foo.running(), bar.running():
        unit = await begin(foo)
        assert (await foo.wait_final(unit.unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit.unit_id) == PAYLOAD
        assert len(bar.units.all()) == 1


async def test_a_unit_canceled_between_two_parts_leaves_nothing(foo, bar, mesh, autojump_clock):
    mesh.events = [(2 * WRITE, mesh.cut)]
    async with foo.running(), bar.running():
        unit = await begin(foo)
        assert only_unit(bar).status.detail.startswith("Waiting for the rest of its input data: ")
        await foo.talk(f"work cancel {unit.unit_id}")
        mesh.heal()
        assert (await foo.wait_final(unit.unit_id)).state is UnitState.CANCELED
        assert bar.units.all() == ()
        assert len(bar.units.uploads) == 0
        assert bar.launcher.started == []


async def test_parts_that_became_another_on_the_disk_are_sent_anew(foo, bar, mesh, autojump_clock):
    mesh.events = [(2 * WRITE, mesh.cut)]
    async with foo.running():
        async with bar.running():
            unit = await begin(foo)
            path = bar.store.stdin_path(only_unit(bar).unit_id)
        data = path.read_bytes()
        path.write_bytes(b"?" + data[1:])
        mesh.heal()
        async with bar.running():
            assert (await foo.wait_final(unit.unit_id)).state is UnitState.SUCCEEDED
            assert foo.stdout(unit.unit_id) == PAYLOAD
            assert bar.launcher.started == [("cat",)]


async def test_a_payload_that_became_another_here_fails_as_before(foo, bar, mesh, autojump_clock):
    """The submitting node's own disk: no digest is ever put together of two payloads."""
    mesh.events = [(2 * WRITE, mesh.cut)]
    async with foo.running(), bar.running():
        unit = await begin(foo)
        path = foo.store.stdin_path(unit.unit_id)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        mesh.heal()
        status = await foo.wait_final(unit.unit_id)
        assert status.state is UnitState.FAILED
        assert "SHA-256" in status.detail
        assert bar.launcher.started == []


async def test_a_node_that_claims_more_than_there_is_has_the_unit_wait(mesh, foo, autojump_clock):
    line = f"Work unit resumed with ID {UNIT}. Send stdin data from byte {10**17} and EOF.\n"
    async with trio.open_nursery() as nursery, foo.running():
        far = RemoteNode(mesh, nursery)
        far.is_receptor = False
        far.lies["submit"] = says(line.encode())
        unit = await begin(foo)
        await trio.sleep(30)
        assert "bytes more than there are" in unit.outage
        assert not unit.is_final
        nursery.cancel_scope.cancel()


async def test_a_node_that_says_again_and_again_that_it_has_it_is_asked_ever_less_often(
    mesh, foo, autojump_clock
):
    receipt = "0" * 32 + "@1"
    async with trio.open_nursery() as nursery, foo.running():
        far = RemoteNode(mesh, nursery)
        far.is_receptor = False
        far.lies["submit"] = says(f"ERROR: already submitted as unit {UNIT}\n".encode())
        reply = {"Mark": receipt, "Trace": "unit", "UnitID": UNIT, "NeverRan": True, "Received": 1}
        far.lies["submitted"] = says(json.dumps(reply).encode() + b"\n")
        await begin(foo)
        await trio.sleep(1000)
        assert 2 < len(far.asked) < 1000
        nursery.cancel_scope.cancel()


# --- whatever happens, whenever -------------------------------------------------------------------


class Life:
    """A node that is started again when it was killed."""

    def __init__(self, node):
        self.node = node
        self.again = trio.Event()

    async def run(self, *, task_status):
        while True:
            self.again = trio.Event()
            async with self.node.running():
                self.node.mesh.heal()
                task_status.started()
                await self.again.wait()
            task_status = trio.TASK_STATUS_IGNORED

    def kill(self):
        self.node.kill()
        self.again.set()


def happening(what, lives, mesh):
    def act():
        for life in lives:
            if life.node.node_id in what:
                life.kill()
        mesh.break_all()

    return act


events = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 3000),
            st.integers(0, len(PAYLOAD) + 4000),
            st.sampled_from([0, WRITE, 2 * WRITE, len(PAYLOAD)]).flatmap(
                lambda size: st.integers(size, size + 2000)
            ),
        ),
        st.sampled_from([(), ("foo",), ("bar",), ("foo", "bar")]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(events, st.booleans())
def test_whatever_is_cut_or_killed_at_whatever_byte_the_work_runs_once_with_all_of_it(
    happens, with_files
):
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory,
        mock.patch.object(trio.to_thread, "run_sync", inline_run_sync),
    ):
        mesh = FakeMesh()
        foo, bar = (FakeNode(mesh, name, Path(directory)) for name in ("foo", "bar"))

        async def main():
            async with trio.open_nursery() as nursery:
                lives = [Life(foo), Life(bar)]
                for life in lives:
                    await nursery.start(life.run)
                mesh.events = [(at, happening(what, lives, mesh)) for at, what in sorted(happens)]
                stdin = PAYLOAD[len(TAR) :] if with_files else PAYLOAD
                more = {"depssize": str(len(TAR))} if with_files else {}
                unit_id = (await begin(foo, TAR + stdin if with_files else stdin, **more)).unit_id
                with trio.fail_after(LONG):
                    while not (foo.units.all() and only_unit(foo).is_final):
                        await trio.sleep(10)
                assert foo.status(unit_id).state is UnitState.SUCCEEDED
                assert foo.stdout(unit_id) == stdin
                assert bar.launcher.started == [("cat",)]
                if with_files:
                    (there,) = bar.units.all()
                    files = found_in(bar.store.work_directory(there.unit_id))
                    assert files["DEPS/big"] == PAYLOAD[: WRITE + 999]
                nursery.cancel_scope.cancel()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- what the executing node keeps, and for whom --------------------------------------------------


@asynccontextmanager
async def half_sent(mesh, bar, request=None, size=2 * WRITE + 3):
    """Bar has the first bytes of a payload, and their client is gone."""
    async with bar.running():
        peer, line = await Peer.submit(mesh, bar, request or announced())
        assert " created with ID " in line
        await peer.send(PAYLOAD[:size])
        await peer.lose()
        yield only_unit(bar)


async def test_half_of_it_waits_and_the_rest_has_it_started(mesh, bar):
    async with half_sent(mesh, bar) as unit:
        assert unit.status.state is UnitState.PENDING
        told = f"Waiting for the rest of its input data: {2 * WRITE + 3} bytes are here"
        assert unit.status.detail == told
        asked = {"command": "work", "subcommand": "submitted", "submissionkey": "k"}
        (reply,) = map(json.loads, await bar.talk(asked, kind="mesh", peer="foo"))
        assert (reply["UnitID"], reply["Received"]) == (unit.unit_id, 2 * WRITE + 3)
        peer, line = await Peer.submit(mesh, bar, announced())
        assert line.startswith(
            f"Work unit resumed with ID {unit.unit_id}. "
            f"Send stdin data from byte {2 * WRITE + 3} and EOF. Store "
        )
        assert bar.launcher.started == []
        await peer.send(PAYLOAD[2 * WRITE + 3 :])
        assert (await peer.finish())["result"] == "Job Started"
        assert (await bar.wait_final(unit.unit_id)).state is UnitState.SUCCEEDED
        assert bar.stdout(unit.unit_id) == PAYLOAD
        (reply,) = map(json.loads, await bar.talk(asked, kind="mesh", peer="foo"))
        assert "Received" not in reply


@pytest.mark.parametrize("in_tar", [True, False])
async def test_an_end_before_all_of_it_is_a_cut_and_not_another_payload(mesh, bar, in_tar):
    """A proxy that is cut off ends what it has passed on, as a client does that is done."""
    tar, stdin = (PAYLOAD[:-512], b"") if in_tar else (b"", PAYLOAD)
    more = {"depssize": str(len(tar)), "depssha256": sha256(tar)} if in_tar else {}
    request, whole = announced(stdin, **more), tar + stdin
    async with bar.running():
        peer, _ = await Peer.submit(mesh, bar, request)
        await peer.send(whole[: 2 * WRITE + 3])
        refusal = await peer.finish()
        assert refusal.startswith("ERROR: Error reading input data: ")
        assert f"{2 * WRITE + 3} of the {len(whole)} bytes that were announced" in refusal
        unit = only_unit(bar)
        assert unit.status.state is UnitState.PENDING
        assert unit.status.detail.endswith(f"{2 * WRITE + 3} bytes are here")
        _, line = await Peer.submit(mesh, bar, request)
        assert f"resumed with ID {unit.unit_id}. Send stdin data from byte {2 * WRITE + 3}" in line
        assert bar.launcher.started == []


async def test_a_node_whose_payload_ends_early_is_told_to_try_again(mesh, bar):
    async with bar.running():
        peer, _ = await Peer.submit(mesh, bar, announced(submissionfollow="true"))
        await peer.send(PAYLOAD[:WRITE])
        assert (await peer.finish()).startswith("ERROR: not now: ")


async def test_less_than_is_worth_it_is_dropped_at_once(mesh, bar):
    async with bar.running():
        peer, _ = await Peer.submit(mesh, bar, announced())
        await peer.send(PAYLOAD[: LEAST_KEPT - 1])
        await peer.lose()
        assert bar.units.all() == ()


async def test_without_the_key_that_asks_for_it_nothing_is_kept(mesh, bar):
    request = announced()
    del request[RESUME_KEY]
    async with bar.running():
        peer, _ = await Peer.submit(mesh, bar, request)
        await peer.send(PAYLOAD[: 2 * WRITE])
        await peer.lose()
        assert bar.units.all() == ()


@pytest.mark.parametrize("lacks", ["submissionkey", "stdinsize", "stdinsha256"])
async def test_what_may_come_in_parts_has_a_key_and_says_what_the_whole_is(bar, lacks):
    request = announced()
    del request[lacks]
    async with bar.running():
        (refusal,) = await bar.talk(request, kind="mesh", peer="foo")
        assert refusal.startswith(f"ERROR: field {RESUME_KEY} needs submissionkey, stdinsize")
        (refusal,) = await bar.talk(announced(depssize="5"), kind="mesh", peer="foo")
        assert "depssha256" in refusal
        assert bar.units.all() == ()


async def test_the_rest_is_awaited_for_so_long_and_no_longer(mesh, bar, autojump_clock):
    async with half_sent(mesh, bar) as unit:
        await trio.sleep(PATIENCE - 1)
        assert bar.units.all() == (unit,)
        await trio.sleep(2)
        assert bar.units.all() == ()
        assert bar.left() == []
        assert len(bar.units.uploads) == 0
        _, line = await Peer.submit(mesh, bar, announced())
        assert " created with ID " in line


async def test_each_part_begins_the_wait_anew(mesh, bar, autojump_clock):
    async with half_sent(mesh, bar) as unit:
        await trio.sleep(PATIENCE - 1)
        peer, _ = await Peer.submit(mesh, bar, announced())
        await peer.lose()
        await trio.sleep(PATIENCE - 1)
        assert bar.units.all() == (unit,)
        await trio.sleep(2)
        assert bar.units.all() == ()


async def test_who_comes_back_while_others_are_dropped_goes_on(mesh, bar, autojump_clock):
    """Both are overdue at the same moment, and to drop one takes a while."""
    late = []
    async with bar.running():
        for key in ("one", "two"):
            peer, _ = await Peer.submit(mesh, bar, announced(key=key))
            await peer.send(PAYLOAD[: 2 * WRITE])
            await peer.lose()
        refuse = bar.units.ender.refuse

        async def come_back(unit, detail):
            if not late:
                key = {"one", "two"} - {unit.status.submission_key}
                late.append(await Peer.submit(mesh, bar, announced(key=key.pop())))
            await refuse(unit, detail)

        bar.units.ender.refuse = come_back
        await trio.sleep(PATIENCE + 1)
        ((peer, line),) = late
        assert f"from byte {2 * WRITE} and EOF" in line
        await peer.send(PAYLOAD[2 * WRITE :])
        assert (await peer.finish())["result"] == "Job Started"
        assert bar.stdout(only_unit(bar).unit_id) == PAYLOAD


async def test_a_submitter_that_is_away_for_longer_sends_all_of_it_anew(
    foo, bar, mesh, autojump_clock
):
    mesh.events = [(2 * WRITE, mesh.cut)]
    async with foo.running(), bar.running():
        unit = await begin(foo)
        await trio.sleep(PATIENCE + 100)
        assert bar.units.all() == ()
        mesh.heal()
        assert (await foo.wait_final(unit.unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit.unit_id) == PAYLOAD
        assert bar.launcher.started == [("cat",)]


async def test_restarts_do_not_make_the_wait_longer(mesh, bar, autojump_clock):
    async with half_sent(mesh, bar) as unit:
        path = bar.store.stdin_path(unit.unit_id)
    at = mesh.now().timestamp() - PATIENCE + 100
    os.utime(path, (at, at))
    async with bar.running():
        assert len(bar.units.all()) == 1
        await trio.sleep(90)
        assert len(bar.units.all()) == 1
        await trio.sleep(20)
        assert bar.units.all() == ()


@pytest.mark.parametrize("kills", [True, False])
async def test_what_is_kept_outlives_the_node(mesh, bar, kills):
    async with half_sent(mesh, bar) as unit:
        if kills:
            bar.kill()
    mesh.heal()
    async with bar.running():
        peer, line = await Peer.submit(mesh, bar, announced())
        assert f"with ID {unit.unit_id}. Send stdin data from byte {2 * WRITE + 3} " in line
        await peer.send(PAYLOAD[2 * WRITE + 3 :])
        await peer.finish()
        assert bar.stdout(unit.unit_id) == PAYLOAD


@pytest.mark.parametrize("kills", [True, False])
async def test_a_node_that_ends_while_it_takes_a_payload_keeps_what_it_has(mesh, bar, kills):
    async with bar.running():
        peer, _ = await Peer.submit(mesh, bar, announced())
        await peer.send(PAYLOAD[: 2 * WRITE + 3])
        if kills:
            bar.kill()
    mesh.heal()
    async with bar.running():
        peer, line = await Peer.submit(mesh, bar, announced())
        position = int(line.partition(" from byte ")[2].partition(" ")[0])
        assert WRITE <= position <= 2 * WRITE + 3
        await peer.send(PAYLOAD[position:])
        await peer.finish()
        assert bar.stdout(only_unit(bar).unit_id) == PAYLOAD


async def test_what_is_to_be_passed_on_to_a_third_node_comes_in_parts_as_well(mesh, bar):
    bar.forwarding = True
    request = announced(node="baz")
    async with half_sent(mesh, bar, request) as unit:
        peer, line = await Peer.submit(mesh, bar, request)
        assert "from byte" in line
        await peer.send(PAYLOAD[2 * WRITE + 3 :])
        assert (await peer.finish())["result"] == "Job Submitted"
        assert bar.store.stdin_path(unit.unit_id).read_bytes() == PAYLOAD


@pytest.mark.parametrize("ends", ["cancel", "release"])
async def test_a_unit_that_is_ended_meanwhile_gives_its_room_back(mesh, bar, ends):
    async with half_sent(mesh, bar) as unit:
        await bar.talk(f"work {ends} {unit.unit_id}")
        assert len(bar.units.uploads) == 0
        assert not bar.store.stdin_path(unit.unit_id).exists() or (
            bar.store.stdin_path(unit.unit_id).stat().st_size == 0
        )


async def test_what_comes_to_the_disk_while_the_end_of_its_unit_is_recorded_is_dropped_too(
    mesh, bar, monkeypatch
):
    show = Uploads.show

    async def show_late(uploads, unit):
        await bar.talk(f"work cancel {unit.unit_id}")
        # A thread had it in hand when the end dropped what was there.
        bar.store.stdin_path(unit.unit_id).write_bytes(PAYLOAD[: 2 * WRITE])
        await show(uploads, unit)

    monkeypatch.setattr(Uploads, "show", show_late)
    async with half_sent(mesh, bar) as unit:
        await unit.wait_final()
        while bar.store.stdin_path(unit.unit_id).stat().st_size:
            await trio.sleep(0.01)
        assert unit.status.state is UnitState.CANCELED
        assert not unit.status.detail.startswith("Waiting")
        assert len(bar.units.uploads) == 0


async def test_of_two_sessions_with_one_payload_the_newer_one_has_it(mesh, bar):
    """The older one is that of a connection whose end nobody has noticed."""
    async with bar.running():
        older, _ = await Peer.submit(mesh, bar, announced())
        await older.send(PAYLOAD[: WRITE + 5])
        newer, line = await Peer.submit(mesh, bar, announced())
        assert f"from byte {WRITE + 5} and EOF" in line
        assert "another session goes on with it" in await older.line()
        await older.send(b"something else")
        await newer.send(PAYLOAD[WRITE + 5 :])
        assert (await newer.finish())["result"] == "Job Started"
        assert bar.stdout(only_unit(bar).unit_id) == PAYLOAD
        assert bar.launcher.started == [("cat",)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400_000)), min_size=1, max_size=12))
def test_sessions_that_all_bring_one_payload_never_mix_it(pieces):
    """Each begins where it is told; whatever they send then, in whatever order, is not mixed."""
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory,
        mock.patch.object(trio.to_thread, "run_sync", inline_run_sync),
    ):
        mesh = FakeMesh()
        bar = FakeNode(mesh, "bar", Path(directory))
        payload = PAYLOAD[:WRITE]

        async def begin():
            peer, line = await Peer.submit(mesh, bar, announced(payload))
            said = line.partition(" from byte ")[2].partition(" ")[0]
            return peer, int(said or 0)

        async def main():
            async with bar.running():
                sessions = {}
                for number, size in pieces:
                    if number not in sessions:
                        sessions[number] = await begin()
                    peer, at = sessions[number]
                    await peer.send(payload[at : at + size])
                    sessions[number] = peer, at + size
                peer, at = await begin()
                await peer.send(payload[at:])
                assert (await peer.finish())["result"] == "Job Started"
                assert bar.stdout(only_unit(bar).unit_id) == payload
                assert bar.launcher.started == [("cat",)]

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_client_whose_parts_make_another_whole_begins_anew_after_a_release(bar):
    async with bar.running():
        first = bar.connect()
        await first.send_all(json.dumps(announced()).encode() + b"\n" + PAYLOAD[:WRITE])
        await trio.testing.wait_all_tasks_blocked()
        failed = only_unit(bar)
        lines = await bar.talk(announced(), bytes(len(PAYLOAD) - WRITE))
        assert f"from byte {WRITE} and EOF" in lines[0]
        reason = "put together of parts: its SHA-256 is not the one that was announced"
        assert lines[1] == f"ERROR: Error reading input data: {reason}"
        assert failed.status.state is UnitState.FAILED
        lines = await bar.talk(announced(), PAYLOAD)
        assert lines[0] == f"ERROR: already submitted as unit {failed.unit_id}"
        await bar.talk({"command": "work", "subcommand": "release", "unitid": failed.unit_id})
        lines = await bar.talk(announced(), PAYLOAD)
        assert " created with ID " in lines[0]
        assert bar.stdout(only_unit(bar).unit_id) == PAYLOAD


async def test_nobody_else_gets_at_it(mesh, bar):
    async with half_sent(mesh, bar) as unit:
        _, line = await Peer.submit(mesh, bar, announced(), name="other")
        assert " created with ID " in line
        assert unit.unit_id not in line
        _, line = await Peer.submit(mesh, bar, announced(worktype="echo"))
        assert line == "ERROR: field submissionkey is that of other work"


async def test_of_clients_without_a_node_only_the_one_that_began_goes_on(bar):
    ann, bob = TcpClient("10.0.0.1:5"), TcpClient("10.0.0.2:5")
    async with bar.running():
        bar.clients["client"] = ann
        client = bar.connect("tcp")
        await client.send_all(json.dumps(announced()).encode() + b"\n" + PAYLOAD[:WRITE])
        await trio.testing.wait_all_tasks_blocked()
        unit = only_unit(bar)
        bar.clients["client"] = bob
        lines = await bar.talk(announced(), PAYLOAD[WRITE:], "tcp")
        assert lines[0] == f"ERROR: already submitted as unit {unit.unit_id}"
        bar.clients["client"] = TcpClient("10.0.0.1:9")
        lines = await bar.talk(announced(), PAYLOAD[WRITE:], "tcp")
        assert "from byte" in lines[0]
        assert bar.stdout(unit.unit_id) == PAYLOAD


async def test_the_access_rules_judge_each_session(mesh, bar):
    async with half_sent(mesh, bar):
        words = ("action=allow", "who=node=other", "do=any", "units=own")
        told = ["--local-only", "--node", "bar", "--access-rule", *words]
        bar.rules.rules = load_arguments(told).rules
        _, line = await Peer.submit(mesh, bar, announced())
        assert line.startswith("ERROR: ")
        assert "from byte" not in line


async def test_the_audit_log_hears_of_each_session(mesh, bar):
    bar.audit = audit = KeptAudit()
    async with half_sent(mesh, bar) as unit:
        await Peer.submit(mesh, bar, announced())
        event = audit.only(Kind.RESUME)
        assert (event.unit, event.outcome) == (unit.unit_id, "accepted")
        assert audit.kinds.count(Kind.SUBMIT) == 1
        audit.refuses = True
        _, line = await Peer.submit(mesh, bar, announced())
        assert line.startswith("ERROR: ")
        assert bar.units.all() == (unit,)


async def test_what_is_kept_counts_as_its_submitters_payload(mesh, bar):
    async with half_sent(mesh, bar):
        bar.units.quotas.bounds = QuotaBounds(payload=len(PAYLOAD))
        other = PAYLOAD[: len(PAYLOAD) - 2 * WRITE]
        _, line = await Peer.submit(mesh, bar, announced(other, key="other"))
        assert "(submitter-maxpayload)" in line
        peer, line = await Peer.submit(mesh, bar, announced())
        assert "from byte" in line
        await peer.send(PAYLOAD[2 * WRITE + 3 :])
        assert (await peer.finish())["result"] == "Job Started"
