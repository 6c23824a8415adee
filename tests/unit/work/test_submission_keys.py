"""Whose a submission is: strangers, other work, records and nodes from before keys were secret."""

import json
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from remote_fakes import CREATED, RemoteNode, says
from test_remote_replies import json_values
from work_fakes import FakeDialer, FakeNode

from meshnode.control.registry import Command
from meshnode.errors import CommandError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.remote.failures import RemoteUnavailable
from meshnode.work.remote.submitted import RemoteSubmission, read_created
from meshnode.work.units.keys import KeyState, Receipt
from meshnode.work.units.submissions import SYNC_DELAY

SUBMIT = {"command": "work", "subcommand": "submit", "node": "bar", "worktype": "cat"}


def only_unit(node):
    (unit,) = node.units.all()
    return unit.unit_id


def key_of(node, unit_id):
    return f"{unit_id}:{node.status(unit_id).remote.key}"


@pytest.fixture
def evil(mesh, tmp_path):
    return FakeNode(mesh, "evil", tmp_path)


async def say_from(node, target, command, payload=b""):
    """Say something to another node over the mesh, as that node's software would not."""
    stream = await FakeDialer(node.mesh, node.node_id).dial(target, "control")
    await stream.send_all(json.dumps(command).encode() + b"\n" + payload)
    await stream.send_eof()
    lines = b"".join([chunk async for chunk in stream]).decode().splitlines()
    return lines[1:]


async def test_a_key_has_a_secret_that_no_client_is_shown(foo, bar, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat")
        secret = foo.status(unit_id).remote.key
        assert len(secret) >= 20
        assert secret != foo.status(await foo.submit("bar", "cat")).remote.key
        shown = "".join(await foo.talk("work list") + await foo.talk(f"work status {unit_id}"))
        assert secret not in shown
        async with bar.running():
            await foo.wait_final(unit_id)
            receipt = foo.status(unit_id).remote.receipt
            assert receipt.startswith(bar.units.submissions.identity())
            shown = "".join(await foo.talk("work list") + await bar.talk("work list"))
            assert secret not in shown
            assert receipt not in shown


@pytest.mark.parametrize("secret", ["known", "as it was before"])
async def test_a_stranger_that_uses_a_key_first_gains_nothing_and_harms_nobody(
    foo, bar, evil, autojump_clock, secret
):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", b"honest")
        key = key_of(foo, unit_id) if secret == "known" else f"foo:{unit_id}"
        async with bar.running(), evil.running():
            foo.mesh.cut()
            foo.mesh.heal()
            fields = SUBMIT | {"submissionkey": key, "params": ""}
            await say_from(evil, "bar", fields, b"forged results")
            status = await foo.wait_final(unit_id)
            assert status.state is UnitState.SUCCEEDED
            assert foo.stdout(unit_id) == b"honest"


async def test_a_stranger_is_told_nothing_of_a_submission_whose_key_it_knows(
    foo, bar, evil, autojump_clock
):
    async with foo.running(), bar.running(), evil.running():
        unit_id = await foo.submit("bar", "wait")
        ask = {"command": "work", "subcommand": "submitted", "submissionkey": key_of(foo, unit_id)}
        (theirs,) = await say_from(evil, "bar", ask)
        (ours,) = await say_from(foo, "bar", ask)
        assert json.loads(theirs)["Trace"] == "nothing"
        assert json.loads(ours)["Trace"] == "unit"
        assert json.loads(ours)["UnitID"] == only_unit(bar)
        (clients,) = await bar.talk(ask)
        assert json.loads(clients)["Trace"] == "nothing"


async def test_what_a_node_of_that_key_has_is_followed_only_if_it_is_our_work(
    foo, bar, autojump_clock
):
    """As after a restart from a backup, with another payload on record."""
    async with bar.running():
        async with foo.running():
            unit_id = await foo.submit("bar", "wait", b"payload")
        path = foo.store.directory(unit_id) / "status"
        record = json.loads(path.read_bytes())
        record["State"], record["Detail"] = 0, "Starting Worker"
        record["StdinSha256"] = "0" * 64
        record["ExtraData"] |= {"RemoteUnitID": "", "RemoteStarted": False}
        path.write_text(json.dumps(record))
        async with foo.running():
            status = await foo.wait_final(unit_id)
            assert status.state is UnitState.FAILED
            assert "submissionkey is that of other work" in status.detail
        assert len(bar.launcher.started) == 1


async def test_a_unit_that_the_other_node_forgot_too_long_ago_is_lost_and_not_repeated(
    foo, bar, autojump_clock
):
    bar.remember = 100.0
    async with bar.running():
        async with foo.running():
            unit_id = await foo.submit("bar", "wait")
        path = foo.store.directory(unit_id) / "status"
        record = json.loads(path.read_bytes())
        assert record["ExtraData"]["RemoteMark"]
        record["State"], record["Detail"] = 0, "Starting Worker"
        record["ExtraData"]["RemoteStarted"] = False
        path.write_text(json.dumps(record))
        await bar.talk(f"work release {only_unit(bar)}")
        await trio.sleep(2 * SYNC_DELAY)
    await trio.sleep(200)
    async with bar.running(), foo.running():
        status = await foo.wait_final(unit_id)
        assert status.detail.startswith("lost: node bar took unit ")
        assert "so long ago that it does not remember" in status.detail
        assert len(bar.launcher.started) == 1


# --- records and nodes from before ----------------------------------------------------------------


def make_old(node, unit_id, **remote):
    """Make the record of a unit one of the version before."""
    path = node.store.directory(unit_id) / "status"
    record = json.loads(path.read_bytes())
    for key in ("SubmissionWork", "Submitter", "Learned"):
        record.pop(key, None)
    if record["ExtraData"] is not None:
        for key in ("RemoteKey", "RemoteMark"):
            record["ExtraData"].pop(key, None)
        record["ExtraData"] |= remote
        record["State"], record["Detail"] = 0, "Starting Worker"
    if "SubmissionKey" in record:
        record["SubmissionKey"] = remote["key"]
    path.write_text(json.dumps(record))


async def put_old(foo, bar, work_type="wait", **remote):
    """Have both nodes stop with a unit that runs, on record as the version before had it."""
    async with bar.running():
        async with foo.running():
            unit_id = await foo.submit("bar", work_type, b"payload")
        there = only_unit(bar)
    make_old(bar, there, key=f"foo:{unit_id}")
    make_old(foo, unit_id, RemoteUnitID=there, **remote)
    return unit_id, there


@pytest.mark.parametrize(
    "remote",
    [
        {"RemoteStarted": True},
        {"RemoteStarted": False},
        {"RemoteStarted": False, "RemoteUnitID": ""},
    ],
)
async def test_a_unit_of_the_version_before_is_resumed(foo, bar, autojump_clock, remote):
    unit_id, there = await put_old(foo, bar)
    make_old(foo, unit_id, **remote)
    async with bar.running(), foo.running():
        await trio.sleep(10)
        bar.launcher.supervisors[there].write(b"once")
        bar.launcher.supervisors[there].finish()
        status = await foo.wait_final(unit_id)
        assert (status.state, status.remote.unit_id) == (UnitState.SUCCEEDED, there)
        assert foo.stdout(unit_id) == b"once"
        assert len(bar.launcher.started) == 1


async def test_a_unit_of_the_version_before_that_is_gone_is_lost(foo, bar, autojump_clock):
    unit_id, there = await put_old(foo, bar, RemoteStarted=False)
    async with bar.running():
        await bar.talk(f"work release {there}")
        async with foo.running():
            status = await foo.wait_final(unit_id)
            assert status.detail == (
                f"lost: node bar does not know unit {there} any more, so nobody can tell whether "
                "the work ran"
            )
            assert len(bar.launcher.started) == 1


async def test_a_unit_of_the_version_before_that_never_started_is_submitted(
    foo, bar, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", b"payload")
    make_old(foo, unit_id)
    async with bar.running(), foo.running():
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


def before_traces(command: Command) -> Command:
    """Make our work command as it was in the version before."""

    def parse_json(data):
        if data.get("subcommand") == "submitted":
            raise CommandError("bad command")
        handler = command.parse_json(data)

        async def run(session):
            return await handler(Before(session))

        return run

    return Command("work", command.parse_text, parse_json)


class Before:
    """A session that tells no marks."""

    def __init__(self, session) -> None:
        self._session = session

    def __getattr__(self, name):
        return getattr(self._session, name)

    async def send(self, data):
        text, store, _ = data.partition(b" Store ")
        await self._session.send(text + b"\n" if store else data)


@pytest.mark.parametrize("step", range(1, 40))
@pytest.mark.parametrize("victim", ["foo", "bar", "the link"])
async def test_work_on_a_node_of_the_version_before_runs_once(
    foo, bar, autojump_clock, victim, step
):
    bar.as_before = before_traces

    def strike(count):
        if count == step:
            {"foo": foo.kill, "bar": bar.kill, "the link": foo.mesh.cut}[victim]()

    async with bar.running(), foo.running():
        foo.mesh.before_operation = strike
        client = foo.connect()
        await client.send_all(b"work submit bar cat\npayload")
        await client.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        unit_id = only_unit(foo)
    foo.mesh.before_operation = lambda count: None
    foo.mesh.heal()
    async with bar.running(), foo.running():
        status = await foo.wait_final(unit_id)
        assert len(bar.launcher.started) <= 1
        if status.state is not UnitState.SUCCEEDED:
            assert status.detail.startswith("lost: ")
        else:
            assert foo.stdout(unit_id) == b"payload"


# --- what the other node says ---------------------------------------------------------------------


@given(
    st.dictionaries(
        st.sampled_from(["Mark", "Trace", "UnitID", "Work", "NeverRan", "State"]),
        json_values
        | st.sampled_from([*KeyState, "0" * 32 + "@5", "farUnit1", "x" * 100, "../../etc"]),
    )
)
def test_any_answer_about_a_submission_is_one_or_a_named_error(reply):
    try:
        found = RemoteSubmission.from_reply(reply)
    except RemoteUnavailable:
        return
    assert found.key_state in KeyState
    assert found.unit_id.isalnum() or found.key_state is not KeyState.UNIT


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{30,34}@[0-9]{0,20}"))
def test_a_mark_reads_as_it_was_told_and_anything_else_is_none(text):
    receipt = Receipt.find(text)
    if receipt is not None:
        assert str(receipt) in text
        assert Receipt.find(str(receipt)) == receipt


def test_a_mark_is_looked_for_behind_the_id_only():
    receipt = "0" * 32 + "@5"
    created = read_created(CREATED.decode())
    assert created.receipt is None
    told = f"Work unit created with ID abc. Send stdin data and EOF. Store {receipt}."
    assert str(read_created(told).receipt) == receipt


@pytest.mark.parametrize("trace", [*KeyState, "nonsense"])
async def test_a_node_that_says_it_has_our_submission_is_believed_only_as_far_as_it_can_show(
    foo, nursery, autojump_clock, trace
):
    """A hostile node, which has a unit of our key before we gave it any."""
    far = RemoteNode(foo.mesh, nursery)
    far.is_receptor = False
    reply = {"Mark": "0" * 32 + "@5", "Trace": trace, "UnitID": "farUnit1", "Work": "ab" * 32}
    far.lies["submitted"] = says(json.dumps(reply).encode() + b"\n")

    async def refuse(far, stream):
        await stream.send_all(b"ERROR: already submitted as unit farUnit1\n")
        return True

    far.lies["submit"] = refuse
    async with foo.running():
        lines = await foo.talk("work submit bar cat", b"payload")
        unit_id = lines[0].partition("with ID ")[2][:8]
        await trio.sleep(100)
        status = foo.status(unit_id)
        if trace in {KeyState.NOTHING, "nonsense"}:
            assert status.state is UnitState.PENDING
        else:
            assert status.state is UnitState.FAILED
            assert status.detail.startswith("lost: ")
        assert foo.stdout(unit_id) == b""


async def test_a_unit_that_has_two_records_of_one_key_is_the_one_that_was_started(
    foo, autojump_clock
):
    """A power cut may bring back what was released."""
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", submissionkey="k")
    status = foo.store.read_status(unit_id)
    never = replace(
        status,
        state=UnitState.FAILED,
        detail="Error reading input data: cut",
        stdin_size=None,
        started=None,
        pid=None,
        supervisor=None,
    )
    for _ in range(5):
        foo.store.create(never)
    async with foo.running():
        refusal = await foo.talk(SUBMIT | {"node": "foo", "submissionkey": "k"}, b"")
        assert refusal == [f"ERROR: already submitted as unit {unit_id}"]
