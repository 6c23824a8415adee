"""Units that another node submitted and this one adopts: followed as its own, ended with care."""

import errno
import json

import pytest
import trio
from remote_fakes import OUTPUT, UNIT, RemoteNode, says, says_endlessly, says_nothing
from signing_keys import new_key
from test_power_cut_anywhere import disk as disk  # noqa: PLC0414 - a fixture
from test_power_cut_anywhere import power_off
from work_fakes import FakeNode

from meshnode.protocol.lifecycle import UnitState
from meshnode.security.tokens import Signer, VerificationKey, Verifier
from meshnode.work.units.signatures import Signatures
from meshnode.work.units.statusreply import status_reply
from meshnode.work.units.store import UnitStore

STEPS = 60
"""More than an adoption has sends and receives until the end; a test checks it."""


@pytest.fixture
def baz(mesh, tmp_path):
    """The node that submits what foo adopts; it takes no part after that."""
    return FakeNode(mesh, "baz", tmp_path)


@pytest.fixture(params=["meshnode", "receptor"])
def target(request, bar):
    """The node that runs the work, as one of us and as one that cannot push."""
    bar.is_receptor = request.param == "receptor"
    return bar


def only_unit(node):
    (unit,) = node.units.all()
    return unit.unit_id


async def adopt(node, unit_id, *, of="bar", kind="unix", peer="client", **fields):
    """Return the reply's line."""
    request = {"command": "work", "subcommand": "adopt", "node": of, "unitid": unit_id}
    (line,) = await node.talk(request | fields, kind=kind, peer=peer)
    return line


async def adopted(node, unit_id, **fields) -> str:
    """Adopt a unit that can be; return its ID here."""
    line = await adopt(node, unit_id, **fields)
    reply = json.loads(line)
    assert reply["result"] == "Adopted", line
    return reply["unitid"]


async def submit_from(submitter, executor) -> str:
    """Have a node submit a lasting unit to another and end; return the unit's ID there."""
    async with submitter.running():
        unit_id = await submitter.submit("bar", "wait")
        await submitter.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
    return only_unit(executor)


# --- following --------------------------------------------------------------------------------


async def test_the_unit_of_a_dead_submitter_is_followed_from_its_first_byte_to_its_end(
    foo, baz, target, autojump_clock
):
    async with target.running(), foo.running():
        far = await submit_from(baz, target)
        supervisor = target.launcher.supervisors[far]
        supervisor.write(b"before the adoption, ")
        unit_id = await adopted(foo, far)
        (line,) = await foo.talk(f"work status {unit_id}")
        extra = json.loads(line)["ExtraData"]
        assert (extra["RemoteNode"], extra["RemoteUnitID"]) == ("bar", far)
        assert extra["RemoteStarted"] is extra["Adopted"] is True
        assert extra["RemoteWorkType"] == "wait"
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        supervisor.write(b"after it")
        supervisor.finish(UnitState.FAILED, "exit status 3", 3)
        status = await foo.wait_final(unit_id)
        assert (status.state, status.detail) == (UnitState.FAILED, "exit status 3")
        assert foo.stdout(unit_id) == b"before the adoption, after it"
        assert len(target.launcher.started) == 1


async def test_an_adopted_unit_names_its_submitter_and_beside_it_who_adopted_it(
    foo, baz, target, autojump_clock
):
    async with target.running(), foo.running():
        far = await submit_from(baz, target)
        unit_id = await adopted(foo, far)
        there = json.loads((await target.talk(f"work status {far}"))[0])
        shown = json.loads((await foo.talk(f"work status {unit_id}"))[0])
        assert shown["AdoptedBy"] == {"Kind": "unknown"}  # as the client of this test is
        said = there["SubmittedBy"]
        if target.is_receptor:
            assert shown["SubmittedBy"] is None
        else:
            claim = {key: value for key, value in said.items() if key != "Claim"}
            assert shown["SubmittedBy"] == {"Kind": "mesh", "Node": "bar", "Claim": claim}
        assert "AdoptedBy" not in there
    async with foo.running():
        again = json.loads((await foo.talk(f"work status {unit_id}"))[0])
        assert (again["SubmittedBy"], again["AdoptedBy"]) == (
            shown["SubmittedBy"],
            shown["AdoptedBy"],
        )


@pytest.mark.parametrize("said", [7, "x", [], {"Kind": "of a later version"}, {"Kind": "unix"}])
async def test_whatever_the_other_node_calls_the_submitter_no_more_is_taken_than_that_it_says_so(
    foo, bar, autojump_clock, monkeypatch, said
):
    monkeypatch.setattr(
        "meshnode.work.units.follow.status_reply",
        lambda status, size: (
            status_reply(status, size)
            if status.remote
            else {**status_reply(status, size), "SubmittedBy": said, "SubmittedParams": said}
        ),
    )
    async with bar.running(), foo.running():
        unit_id = await adopted(foo, await bar.submit("bar", "wait"))
        (line,) = await foo.talk(f"work status {unit_id}")
        submitter = json.loads(line)["SubmittedBy"]
        assert submitter in (None, {"Kind": "mesh", "Node": "bar"})


async def test_a_unit_that_has_ended_is_adopted_with_its_output(foo, target, autojump_clock):
    async with target.running(), foo.running():
        far = await target.submit("bar", "cat", b"all of it")
        await target.wait_final(far)
        unit_id = await adopted(foo, far)
        status = await foo.wait_final(unit_id)
        assert (status.state, foo.stdout(unit_id)) == (UnitState.SUCCEEDED, b"all of it")


async def test_the_text_form_names_node_and_unit(foo, bar, autojump_clock):
    async with bar.running(), foo.running():
        far = await bar.submit("bar", "cat", b"x")
        (line,) = await foo.talk(f"work adopt bar {far}")
        await foo.wait_final(json.loads(line)["unitid"])
        for words in ("adopt", "adopt bar", f"adopt bar {far} more"):
            (line,) = await foo.talk(f"work {words}")
            assert line == "ERROR: work adopt requires a node and the ID of a unit there"


async def test_two_nodes_may_follow_one_unit(foo, baz, bar, autojump_clock):
    async with bar.running(), foo.running(), baz.running():
        ours = await baz.submit("bar", "wait")
        far = only_unit(bar)
        unit_id = await adopted(foo, far)
        bar.launcher.supervisors[far].write(b"for both")
        bar.launcher.supervisors[far].finish()
        for node, name in ((foo, unit_id), (baz, ours)):
            assert (await node.wait_final(name)).state is UnitState.SUCCEEDED
            assert node.stdout(name) == b"for both"


async def test_a_unit_of_a_node_that_is_away_is_adopted_at_once_and_followed_when_it_is_back(
    foo, baz, target, autojump_clock
):
    async with foo.running():
        async with target.running():
            far = await submit_from(baz, target)
        unit_id = await adopted(foo, far)
        await trio.sleep(10)
        (line,) = await foo.talk(f"work status {unit_id}")
        assert json.loads(line)["Detail"].startswith(
            "Adopted; waiting for node bar: no route since "
        )
        async with target.running():
            target.launcher.supervisors[far].write(b"late")
            target.launcher.supervisors[far].finish()
            assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
            assert foo.stdout(unit_id) == b"late"


async def test_a_restart_of_the_units_node_only_delays_the_follower(
    foo, baz, target, autojump_clock
):
    async with foo.running():
        async with target.running():
            far = await submit_from(baz, target)
            unit_id = await adopted(foo, far)
            target.launcher.supervisors[far].write(b"before, ")
        async with target.running():
            target.launcher.supervisors[far].write(b"after")
            target.launcher.supervisors[far].finish()
            assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
            assert foo.stdout(unit_id) == b"before, after"


# --- refused ----------------------------------------------------------------------------------


async def test_a_second_adoption_is_refused_until_the_first_is_released(foo, bar, autojump_clock):
    async with bar.running(), foo.running():
        far = await bar.submit("bar", "wait")
        unit_id = await adopted(foo, far)
        line = await adopt(foo, far)
        told = f"ERROR: unit {far} of node bar was adopted here already: it is unit {unit_id}"
        assert line == told
        assert [unit.unit_id for unit in foo.units.all()] == [unit_id]
        await foo.talk(f"work release {unit_id}")
        assert await adopted(foo, far) != unit_id


async def test_what_this_node_has_submitted_itself_is_not_adopted(foo, bar, autojump_clock):
    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        line = await adopt(foo, only_unit(bar))
        assert line.endswith(f"was submitted here already: it is unit {unit_id}")


async def test_of_two_adoptions_at_once_one_is_refused(foo, bar, autojump_clock):
    lines = []

    async def ask():
        lines.append(await adopt(foo, far))

    async with bar.running(), foo.running():
        far = await bar.submit("bar", "wait")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        assert sorted(line.startswith("ERROR") for line in lines) == [False, True]
        assert len(foo.units.all()) == 1


async def test_a_unit_that_its_node_does_not_know_is_refused_and_nothing_is_left(
    foo, target, autojump_clock
):
    async with target.running(), foo.running():
        line = await adopt(foo, "nosuch12")
        assert line == "ERROR: node bar refused: unknown work unit nosuch12"
        assert (foo.units.all(), foo.left()) == ((), [])


async def test_an_unknown_unit_of_a_node_that_was_away_fails_with_the_reason(
    foo, bar, autojump_clock
):
    async with foo.running():
        unit_id = await adopted(foo, "nosuch12")
        async with bar.running():
            status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail == "not adopted: node bar refused: unknown work unit nosuch12"


@pytest.mark.parametrize("name", ["foo", "localhost"])
async def test_units_of_this_node_need_no_adoption(foo, autojump_clock, name):
    async with foo.running():
        line = await adopt(foo, "someunit", of=name)
        assert line.endswith("needs no adoption: that is this node itself")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"unitid": 7}, "field unitid must be a string"),
        ({"unitid": ""}, "field unitid must be one word of at most 64 characters"),
        ({"unitid": "a b"}, "field unitid must be one word of at most 64 characters"),
        ({"unitid": "a\nb"}, "field unitid must be one word of at most 64 characters"),
        ({"unitid": "x" * 65}, "field unitid must be one word of at most 64 characters"),
        ({"node": ""}, "work adopt requires a node and the ID of a unit there"),
        ({"tlsclient": "nosuch"}, "unknown TLS config nosuch"),
        ({"signwork": "perhaps"}, "field signwork value perhaps is not convertible to a bool"),
        ({"signwork": {}}, "field signwork value of another type is not convertible to a bool"),
        ({"signature": "x"}, "work type did not expect a signature"),
    ],
)
async def test_an_adoption_that_makes_no_sense_is_refused(foo, autojump_clock, fields, told):
    async with foo.running():
        request = {"command": "work", "subcommand": "adopt", "node": "bar", "unitid": "x"}
        assert await foo.talk(request | fields) == [f"ERROR: {told}"]
        assert foo.left() == []


# --- a node that lies -------------------------------------------------------------------------


@pytest.fixture
async def far(foo, nursery):
    far = RemoteNode(foo.mesh, nursery)
    far.state, far.detail = 1, "Running: PID 7"
    return far


STRANGE = (None, 7, -1, 10**400, 1.5, "", "x" * 5000, "a\n\x1b[2J", [], {"a": []}, True)


@pytest.mark.parametrize("field", ["WorkType", "StdoutSize", "State", "Detail", "ExtraData"])
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:12])
async def test_whatever_a_node_says_of_its_unit_the_adopted_one_can_be_shown_and_goes_on(
    foo, far, field, value, autojump_clock
):
    async with foo.running():
        far.lies["status"] = says(far.status(**{field: value}))
        unit_id = await adopted(foo, UNIT)
        (line,) = await foo.talk(f"work status {unit_id}")
        shown = json.loads(line)["ExtraData"]["RemoteWorkType"]
        assert len(shown) <= 255
        assert shown.isprintable()
        far.lies.clear()
        far.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit_id) == OUTPUT


@pytest.mark.parametrize("what", ["greeting", "status", "results line"])
@pytest.mark.parametrize("lie", [says_nothing, says_endlessly, says(b"{"), says(closes=True)])
async def test_a_node_that_answers_nothing_of_use_is_waited_for(
    foo, far, what, lie, autojump_clock
):
    async with foo.running():
        far.lies[what] = lie
        unit_id = await adopted(foo, UNIT)
        await trio.sleep(100)
        assert not foo.units.find(unit_id).is_final
        far.lies.clear()
        far.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert "release" not in {command["subcommand"] for command in far.asked}


async def test_a_passing_lack_of_the_node_is_waited_for(foo, far, autojump_clock):
    async with foo.running():
        far.lies["results line"] = says(b"ERROR: cannot read the results: Too many open files\n")
        unit_id = await adopted(foo, UNIT)
        far.lies.clear()
        far.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


# --- signed work, and who may ask -------------------------------------------------------------


@pytest.fixture
def keys(foo, target):
    key = new_key()

    def clock():
        return foo.mesh.now().timestamp()

    foo.signatures = Signatures(signer=Signer(key, 300.0, clock))
    target.signatures = Signatures(
        verifier=Verifier([VerificationKey.of("k", key.public_key())], "bar", clock)
    )


async def test_a_unit_of_signed_work_is_adopted_by_a_node_that_signs(
    foo, target, keys, autojump_clock
):
    async with target.running(), foo.running():
        far = await target.submit("bar", "signed", b"secret")
        unit_id = await adopted(foo, far, signwork="true")
        status = await foo.wait_final(unit_id)
        assert (status.state, foo.stdout(unit_id)) == (UnitState.SUCCEEDED, b"secret")


@pytest.mark.parametrize(
    ("work_type", "sign_work", "told"),
    [
        ("signed", "false", "could not verify signature: signature is empty"),
        ("cat", "true", "work type did not expect a signature"),
    ],
)
async def test_an_adoption_without_the_right_to_read_is_refused_with_the_other_nodes_words(
    foo, target, keys, autojump_clock, work_type, sign_work, told
):
    async with target.running(), foo.running():
        far = await target.submit("bar", work_type, b"secret")
        line = await adopt(foo, far, signwork=sign_work)
        assert line.startswith(f"ERROR: node bar refused: {told}")
        assert (foo.units.all(), foo.left()) == ((), [])


async def test_a_node_without_a_key_does_not_promise_to_sign(foo, bar, autojump_clock):
    async with bar.running(), foo.running():
        line = await adopt(foo, "x", signwork="true")
        assert line.startswith("ERROR: this node has no work-signing directive")


async def test_over_tcp_this_nodes_key_is_lent_to_nobody_who_has_not_signed(
    foo, bar, autojump_clock
):
    foo.signatures = Signatures(signer=Signer(new_key(), 300.0, lambda: 0.0))
    async with bar.running(), foo.running():
        line = await adopt(foo, "x", signwork="true", kind="tcp")
        assert line.startswith("ERROR: could not verify signature: signature is empty")


async def test_a_client_from_the_mesh_adopts_nothing_unless_forwarding_is_allowed(
    foo, bar, autojump_clock
):
    async with bar.running(), foo.running():
        far = await bar.submit("bar", "cat")
        line = await adopt(foo, far, kind="mesh", peer="baz:abcdefgh")
        assert line.startswith("ERROR: this node takes no work for bar from the mesh")
        assert foo.left() == []


# --- ending -----------------------------------------------------------------------------------


@pytest.mark.parametrize("subcommand", ["release", "force-release"])
async def test_a_release_of_an_adopted_unit_is_one_here_only(
    foo, baz, target, autojump_clock, subcommand
):
    async with target.running(), foo.running():
        far = await submit_from(baz, target)
        unit_id = await adopted(foo, far)
        assert await foo.talk(f"work {subcommand} {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert (foo.units.all(), foo.left()) == ((), [])
        assert target.status(far).state is UnitState.RUNNING


@pytest.mark.parametrize("subcommand", ["release", "force-release"])
async def test_a_remote_release_of_an_adopted_unit_is_one_there_too(
    foo, baz, target, autojump_clock, subcommand
):
    async with target.running(), foo.running():
        far = await submit_from(baz, target)
        unit_id = await adopted(foo, far)
        request = {"command": "work", "subcommand": subcommand, "unitid": unit_id}
        assert await foo.talk(request | {"remote": "true"}) == [f'{{"released":"{unit_id}"}}']
        assert foo.units.all() == target.units.all() == ()


async def test_a_remote_release_waits_for_the_node_across_a_restart(foo, baz, bar, autojump_clock):
    async with bar.running():
        far = await submit_from(baz, bar)
        async with foo.running():
            unit_id = await adopted(foo, far)
            foo.mesh.cut()
            request = {"command": "work", "subcommand": "release", "unitid": unit_id}
            line = (await foo.talk(request | {"remote": True}))[0]
            assert line == f'{{"release pending":"{unit_id}"}}'
        foo.mesh.heal()
        async with foo.running():
            with trio.fail_after(1000):
                while foo.units.all() or bar.units.all():
                    await trio.sleep(1)


async def test_a_cancel_of_an_adopted_unit_is_one_there(foo, baz, target, autojump_clock):
    async with target.running(), foo.running():
        far = await submit_from(baz, target)
        unit_id = await adopted(foo, far)
        assert await foo.talk(f"work cancel {unit_id}") == [f'{{"cancelled":"{unit_id}"}}']
        assert target.status(far).state is UnitState.CANCELED
        assert foo.status(unit_id).state is UnitState.CANCELED


async def test_too_much_output_ends_the_follower_and_not_the_unit(foo, baz, bar, autojump_clock):
    foo.max_remote_output = 5
    async with bar.running(), foo.running():
        far = await submit_from(baz, bar)
        unit_id = await adopted(foo, far)
        bar.launcher.supervisors[far].write(b"more than that")
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail.endswith("; it goes on, on node bar, whose unit it is")
        assert bar.status(far).state is UnitState.RUNNING


# --- lost there -------------------------------------------------------------------------------


async def test_a_unit_that_somebody_releases_there_is_over_here(foo, baz, target, autojump_clock):
    async with target.running(), foo.running():
        far = await submit_from(baz, target)
        unit_id = await adopted(foo, far)
        await target.talk(f"work release {far}")
        status = await foo.wait_final(unit_id)
        if status.state is not UnitState.CANCELED:
            assert status.detail.startswith("Remote work unit is gone")


async def test_a_unit_that_was_released_while_its_node_was_out_of_reach_fails_and_says_so(
    foo, baz, target, autojump_clock
):
    async with target.running(), foo.running():
        far = await submit_from(baz, target)
        unit_id = await adopted(foo, far)
        foo.mesh.cut()
        await target.talk(f"work release {far}")
        foo.mesh.heal()
        status = await foo.wait_final(unit_id)
        why = "" if target.is_receptor else ": it was released on node bar"
        assert status.state is UnitState.FAILED
        assert status.detail == f"Remote work unit is gone{why}"


async def test_a_node_that_comes_back_with_another_directory_ends_the_unit_here(
    foo, baz, bar, tmp_path, autojump_clock
):
    async with foo.running():
        async with bar.running():
            far = await submit_from(baz, bar)
            unit_id = await adopted(foo, far)
        bar.store.root.rename(tmp_path / "old directory")
        async with bar.running():
            status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail == (
            "Remote work unit is gone: node bar has another directory of units than when it was "
            "adopted"
        )


# --- durability -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(STEPS))
async def test_killed_at_any_moment_the_node_has_adopted_the_unit_or_knows_nothing_of_it(
    foo, bar, autojump_clock, step
):
    told = []
    async with bar.running():
        far = await bar.submit("bar", "wait")
        bar.launcher.supervisors[far].write(b"output")

        async with foo.running():
            begun = foo.mesh.operations

            def kill(count):
                if count - begun == step:
                    foo.kill()

            foo.mesh.before_operation = kill
            with trio.move_on_after(1):
                told.append(await adopt(foo, far))
        foo.mesh.before_operation = lambda count: None
        foo.mesh.heal()
        async with foo.running():
            bar.launcher.supervisors[far].finish()
            units = foo.units.all()
            assert len(units) == 1 or not told
            for unit in units:
                status = await foo.wait_final(unit.unit_id)
                assert (status.state, status.detail) == (UnitState.SUCCEEDED, "exit status 0")
                assert foo.stdout(unit.unit_id) == b"output"
            assert bar.launcher.started == [("wait", "for", "the end")]


async def test_an_adoption_has_fewer_steps_than_are_tried(foo, bar, autojump_clock):
    async with bar.running(), foo.running():
        far = await bar.submit("bar", "cat", b"output")
        begun = foo.mesh.operations
        await foo.wait_final(await adopted(foo, far))
        assert 5 < foo.mesh.operations - begun < STEPS


async def test_what_a_silent_node_kept_waiting_was_on_disk_before_it_was_answered(
    foo, far, disk, autojump_clock
):
    far.lies["status"] = says_nothing
    async with foo.running():
        unit_id = await adopted(foo, UNIT)
        foo.kill()
    power_off(foo, disk)
    foo.mesh.heal()
    foo.mesh.join(far)
    far.lies.clear()
    far.finish()
    async with foo.running():
        await foo.wait_final(unit_id)
        assert foo.stdout(unit_id) == OUTPUT


async def test_an_adoption_that_the_disk_does_not_take_is_refused_and_nothing_is_left(
    foo, bar, monkeypatch, autojump_clock
):
    write = UnitStore.write_status

    def refuse(store, unit_id, status, *, durable=False, **how):
        if durable and not status.state.is_final:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(store, unit_id, status, durable=durable, **how)

    async with bar.running(), foo.running():
        far = await bar.submit("bar", "wait")
        with monkeypatch.context() as patch:
            patch.setattr(UnitStore, "write_status", refuse)
            line = await adopt(foo, far)
        assert line == "ERROR: cannot record the status: No space left on device"
        assert (foo.units.all(), foo.left()) == ((), [])
        await adopted(foo, far)


@pytest.mark.parametrize("away", [False, True])
async def test_what_was_answered_adopted_outlives_a_power_cut(foo, bar, disk, autojump_clock, away):
    async with bar.running():
        far = await bar.submit("bar", "wait")
        async with foo.running():
            if away:
                foo.mesh.cut()
            unit_id = await adopted(foo, far)
            foo.kill()
        power_off(foo, disk)
        foo.mesh.heal()
        async with foo.running():
            assert foo.status(unit_id).remote.unit_id == far
            bar.launcher.supervisors[far].write(b"output")
            bar.launcher.supervisors[far].finish()
            await foo.wait_final(unit_id)
            assert foo.stdout(unit_id) == b"output"
