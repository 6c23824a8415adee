"""A batch runs each of its members once, some at a time, whatever becomes of the node meanwhile."""

import errno
import json
import os
import tracemalloc
from unittest.mock import MagicMock

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from work_fakes import LONG

from meshnode.errors import CommandError, WorkError
from meshnode.permissions import Way
from meshnode.protocol.control import OUTPUT_KEY
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import UnixClient
from meshnode.work.batches.members import Members, MemberState, event
from meshnode.work.batches.spec import MAX_IN_FLIGHT, Array, BatchSpec, parse_line
from meshnode.work.files.globs import checked_glob
from meshnode.work.units.access import Caller


async def ask(on, action, batch="", /, *, kind="unix", **fields):
    request = {"command": "work", "subcommand": "batch", "action": action, **fields}
    return await on.talk(request | ({"batch": batch} if batch else {}), kind=kind)


async def submit(on, array="1-5", /, **fields):
    fields = {"node": on.node_id, "worktype": "cat", "array": array, **fields}
    (line,) = await ask(on, "submit", **fields)
    assert not line.startswith("ERROR"), line
    return json.loads(line)["batch"]


async def submit_lines(on, lines, /, **fields):
    request = {"command": "work", "subcommand": "batch", "action": "submit", "lines": "true"}
    payload = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return await on.talk(request | fields, payload)


async def wait(node, batch):
    """Return the lines of all members in the order of their ends, and the last status."""
    with trio.fail_after(LONG):
        lines = [json.loads(line) for line in await ask(node, "wait", batch, members="true")]
    ends = [line for line in lines if "Index" in line]
    return ends, lines[-1]


async def status(node, batch):
    (line,) = await ask(node, "status", batch)
    return json.loads(line)


async def full_disk(*args):
    await trio.lowlevel.checkpoint()
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise WorkError("cannot create a work unit: No space left on device") from error


def in_flight(node):
    return [unit for unit in node.units.all() if not unit.is_final]


async def run_commands(node, batch, state=UnitState.SUCCEEDED, code=0):
    """End every command that runs, and all that come, until the batch has ended."""
    most = 0
    with trio.fail_after(LONG):
        while not node.batches.find(batch).is_done and not node.mortal.dead:
            most = max(most, len(in_flight(node)))
            for supervisor in tuple(node.launcher.supervisors.values()):
                if not supervisor.ended.is_set():
                    supervisor.finish(state, f"exit status {code}", code)
            await trio.sleep(0.1)
    return most


@given(
    st.lists(
        st.lists(
            st.sampled_from([s for s in MemberState if s > MemberState.IN_FLIGHT]), max_size=6
        ),
        max_size=4,
    )
)
def test_an_attempt_counts_the_retries_before_which_a_member_had_not_succeeded(rounds):
    members = Members(BatchSpec(Array.parse("1-6"), {"worktype": "cat"}))
    begun = [0] * 6
    for ends in rounds:
        for position, state in enumerate(ends):
            if members[position] is not MemberState.SUCCEEDED:
                members.set(position, state)
        members.replay(event("end", Finished="now"))
        left = [n for n in range(6) if members[n] is not MemberState.SUCCEEDED]
        assert members.retry() == len(left)
        for position in left:
            begun[position] += 1
        assert [members.attempt(n) for n in range(6)] == begun
        assert [members[n] is MemberState.WAITING for n in range(6)] == [
            n in left for n in range(6)
        ]
        assert members.counts[MemberState.WAITING] == len(left)
        assert sum(members.counts) == 6
        assert members.next_waiting() == (left[0] if left else None)


def test_a_retry_of_a_million_members_takes_no_step_for_each(monkeypatch):
    members = Members(BatchSpec(Array.parse("1-1000000"), {"worktype": "cat"}))
    for position in (3, 999_999):
        members.set(position, MemberState.SUCCEEDED)
    set_one = MagicMock()
    monkeypatch.setattr(Members, "set", set_one)
    tracemalloc.start()
    try:
        members.replay(event("end", Finished="now"))
        assert members.retry() == 999_998
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()
    assert (members.attempt(3), members.attempt(4)) == (0, 1)
    set_one.assert_not_called()


# --- values --------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 300), min_size=1, max_size=60))
def test_an_array_has_the_indices_that_it_names_in_order(indices):
    array = Array.parse(",".join(str(one) for one in sorted(indices)))
    assert [array.index(position) for position in range(len(array))] == sorted(indices)
    assert Array.parse(str(array)) == array
    for index in range(301):
        position = array.position(index)
        assert (position is not None) == (index in indices)
        assert position is None or array.index(position) == index


@given(st.integers(0, 10**6), st.integers(0, 10**4), st.integers(1, 100))
def test_a_range_of_an_array_is_read_as_it_is_written(first, more, step):
    array = Array.parse(f"{first}-{first + more}:{step}")
    assert [array.index(n) for n in range(len(array))] == [*range(first, first + more + 1, step)]
    assert Array.parse(str(array)) == array


@pytest.mark.parametrize(
    "text", ["", "a", "3-1", "1-3,2", "1,1", "1-2-3", "1-9:0", "-1", "1--2", "1-2000000", "9" * 10]
)
def test_an_array_that_is_none_is_refused_in_a_line(text):
    with pytest.raises(CommandError, match=r"array|members"):
        Array.parse(text)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, MAX_IN_FLIGHT))
def test_a_specification_is_read_from_the_disk_as_it_was_asked_for(text, most):
    caller = Caller(True, "", UnixClient(1, 2, 3, "alice"), Way.SOCKET)
    data = {"node": "foo", "worktype": "cat", "array": f"1-9%{most}", "params": text, "stdin": text}
    spec = BatchSpec.parse(data, caller, "2026-11-02T03:00:00.000000Z")
    assert spec.max_in_flight == most
    assert BatchSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@given(st.binary())
def test_any_line_of_a_list_is_an_object_of_strings_or_refused(line):
    try:
        found = parse_line(line)
    except CommandError:
        return
    assert all(isinstance(value, str) for value in found.values())


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 5), st.sampled_from([*MemberState][2:])),
            st.sampled_from(["retry", "cancel", "nonsense"]),
        )
    ),
    st.binary(),
)
def test_a_journal_gives_the_members_again_that_it_was_written_by(steps, noise):
    spec = BatchSpec(Array.parse("0-5"), {})
    live, replayed = Members(spec), Members(spec)
    for step in steps:
        if isinstance(step, tuple):
            position, state = step
            live.set(position, state)
            assert replayed.replay(live.line(position, state, {"Detail": "x"}))
            continue
        assert replayed.replay(event(step)) == (step != "nonsense")
        if step == "retry":
            live.retry()
    replayed.replay(noise)
    assert [live[n] for n in range(6)] == [replayed[n] for n in range(6)]
    assert live.counts == replayed.counts
    assert [live.attempt(n) for n in range(6)] == [replayed.attempt(n) for n in range(6)]


@given(st.integers(0, 10**9 - 1), st.text(st.characters(codec="utf-8"), max_size=20))
def test_each_member_brings_back_what_its_own_index_and_line_name(index, line):
    data = {
        "node": "foo",
        "worktype": "x",
        "lines": "true",
        OUTPUT_KEY: '["o/{index}/*", "{line}"]',
    }
    spec = BatchSpec.parse(data, Caller(), "now")
    try:
        wanted = checked_glob(line)
    except ValueError:
        wanted = ""
    given = json.dumps({"line": line}).encode()
    if not wanted:
        with pytest.raises(CommandError, match="joboutput"):
            spec.member("b-12345678", index, given, "k")
        return
    submission, _ = spec.member("b-12345678", index, given, "k")
    assert submission.job.files.output == (f"o/{index}/*", wanted)


# --- running -------------------------------------------------------------------------------------


async def test_every_member_of_an_array_runs_with_its_own_index(autojump_clock, foo):
    async with foo.running():
        batch = await submit(foo, "3-9:3", worktype="wait", params="--frame {index} {other}")
        await run_commands(foo, batch)
        ends, last = await wait(foo, batch)
        assert sorted(end["Index"] for end in ends) == [3, 6, 9]
        assert {end["StateName"] for end in ends} == {"Succeeded"}
        assert (last["StateName"], last["Succeeded"], last["Members"]) == ("Succeeded", 3, 3)
        assert sorted(words[-2:] for words in foo.launcher.started) == [
            ("3", "{other}"),
            ("6", "{other}"),
            ("9", "{other}"),
        ]


async def test_no_more_members_are_unfinished_than_the_client_allows(autojump_clock, foo):
    async with foo.running():
        batch = await submit(foo, "1-20%3", worktype="wait")
        assert await run_commands(foo, batch) == 3
        assert len(foo.launcher.started) == 20


async def test_each_line_of_a_list_is_a_submission_of_its_own(autojump_clock, foo):
    async with foo.running():
        lines = [{"worktype": "cat", "stdin": f"é{n}"} for n in range(4)]
        lines[2] = {"worktype": "nothing"}
        greeting, reply = await submit_lines(foo, lines, node="foo")
        assert greeting == "Send the lines of the batch and EOF."
        ends, last = await wait(foo, json.loads(reply)["batch"])
        by_index = {end["Index"]: end for end in ends}
        assert by_index[3]["StateName"] == "Refused"
        assert by_index[3]["Detail"] == "unknown work type nothing"
        outputs = {n: foo.stdout(by_index[n]["UnitID"]) for n in (1, 2, 4)}
        assert outputs == {1: "é0".encode(), 2: "é1".encode(), 4: "é3".encode()}
        assert last["StateName"] == "Failed"


@pytest.mark.parametrize(
    "bad", ["5", '{"params": 3}', "{", '{"submissionkey": "x"}', '{"submissionresume": "true"}']
)
async def test_a_list_with_a_wrong_line_is_refused_whole_and_the_line_named(
    autojump_clock, foo, bad
):
    async with foo.running():
        request = {"command": "work", "subcommand": "batch", "action": "submit", "lines": "true"}
        lines = await foo.talk(request, b'{"node": "foo", "worktype": "cat"}\n' + bad.encode())
        assert lines[1].startswith("ERROR: line 2: ")
        assert json.loads((await ask(foo, "list"))[0]) == {}
        assert [*(foo.store.root / "batches").iterdir()] == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"worktype": "nothing"}, "unknown work type nothing"),
        ({"array": "9-1"}, "does not ascend"),
        ({"array": "1-2%0"}, "members at once"),
        ({"signature": "x"}, "takes no signature"),
        ({"submissionlabels": "no"}, "must be an object"),
    ],
)
async def test_a_batch_that_could_run_nothing_is_refused_and_leaves_nothing(
    autojump_clock, foo, fields, words
):
    async with foo.running():
        given = {"node": "foo", "worktype": "cat", "array": "1-3", **fields}
        (line,) = await ask(foo, "submit", **given)
        assert line.startswith("ERROR: ")
        assert words in line
        assert foo.units.all() == ()
        assert json.loads((await ask(foo, "list"))[0]) == {}


async def test_a_member_knows_its_index_from_its_environment_and_its_label(
    autojump_clock, foo, bar
):
    async with foo.running(), bar.running():
        for node in ("foo", "bar"):
            batch = await submit(foo, "7", node=node, worktype="wait")
            with trio.fail_after(LONG):
                while not foo.units.all():
                    await trio.sleep(0.1)
            target = foo if node == "foo" else bar
            with trio.fail_after(LONG):
                while not target.launcher.supervisors:
                    await trio.sleep(0.1)
            (unit,) = target.units.all()
            assert unit.status.job.variables["MESHNODE_ARRAY_INDEX"] == "7"
            assert unit.status.labels["batch"] == batch
            await run_commands(target, batch) if target is foo else None
            if target is foo:
                await ask(foo, "release", batch)


# --- interrupted ---------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(1, 30))
async def test_each_member_runs_once_whenever_the_node_is_killed(
    autojump_clock, foo, monkeypatch, moment
):
    """The node dies at a write of its own: of a status, a journal, a unit that goes."""
    left = [moment]

    def dies() -> None:
        left[0] -= 1
        if left[0] == 0:
            foo.kill()

    async with foo.running():
        for target, name in ((foo.mortal, "write_status"), (foo.batch_files, "append")):
            whole = getattr(target, name)

            def counted(*args, whole=whole, **how):
                whole(*args, **how)
                dies()

            monkeypatch.setattr(target, name, counted)
        batch = await submit(foo, "1-8%3", params="{index}", worktype="wait")
        await run_commands(foo, batch)
    async with foo.running():
        await run_commands(foo, batch)
        ends, last = await wait(foo, batch)
        assert last["Succeeded"] == 8
        assert sorted(end["Index"] for end in ends) == [*range(1, 9)]
    assert sorted(words[-1] for words in foo.launcher.started) == [str(n) for n in range(1, 9)]


async def test_a_batch_goes_on_where_it_was_when_its_client_and_its_node_come_back(
    autojump_clock, foo
):
    async with foo.running():
        batch = await submit(foo, "1-10%2", worktype="wait")
        with trio.fail_after(LONG):
            while len(foo.launcher.started) < 2:
                await trio.sleep(0.1)
    async with foo.running():
        assert (await status(foo, batch))["StateName"] == "Running"
        assert await run_commands(foo, batch) <= 2
        ends, last = await wait(foo, batch)
        assert len(ends) == last["Succeeded"] == 10
    assert len(foo.launcher.started) == 10


async def test_a_journal_that_a_crash_has_cut_costs_no_member_a_second_run(autojump_clock, foo):
    async with foo.running():
        batch = await submit(foo, "1-6")
        await wait(foo, batch)
    journal = foo.store.root / "batches" / batch / "journal"
    data = journal.read_bytes()
    journal.write_bytes(data[: len(data) // 2])
    async with foo.running():
        ends, last = await wait(foo, batch)
        assert sorted(end["Index"] for end in ends) == [1, 2, 3, 4, 5, 6]
        assert last["Succeeded"] == 6
    assert len(foo.launcher.started) == 6


async def test_a_member_whose_unit_was_released_is_not_run_again(autojump_clock, foo):
    async with foo.running():
        batch = await submit(foo, "1-4")
        ends, _ = await wait(foo, batch)
        for end in ends:
            await foo.talk(f"work release {end['UnitID']}")
    (foo.store.root / "batches" / batch / "journal").write_bytes(b"")
    async with foo.running():
        _, last = await wait(foo, batch)
        assert last["Succeeded"] == 4
    assert len(foo.launcher.started) == 4


async def test_a_fault_of_one_batch_stops_no_other_and_the_next_start_mends_it(
    autojump_clock, foo, monkeypatch
):
    async with foo.running():
        with monkeypatch.context() as patch:

            async def fails(*args):
                raise RuntimeError("a fault of ours")

            patch.setattr(foo.units, "create", fails)
            bad = await submit(foo, "1-3")
            with trio.fail_after(LONG):
                while foo.batches.find(bad).is_running:
                    await trio.sleep(0.1)
        assert "stopped until" in (await status(foo, bad))["Detail"]
        assert (await wait(foo, await submit(foo, "1-3")))[1]["Succeeded"] == 3
    async with foo.running():
        assert (await wait(foo, bad))[1]["Succeeded"] == 3


# --- ending --------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_cancel_ends_what_runs_and_starts_nothing_more(autojump_clock, foo, restarts):
    async with foo.running():
        batch = await submit(foo, "1-9%2", worktype="wait")
        with trio.fail_after(LONG):
            while len(foo.launcher.started) < 2:
                await trio.sleep(0.1)
        if not restarts:
            assert json.loads((await ask(foo, "cancel", batch))[0]) == {"cancelled": batch}
        else:
            await foo.batches.find(batch).cancel(Caller())
            foo.kill()
    async with foo.running():
        _, last = await wait(foo, batch)
        assert (last["StateName"], last["Canceled"], last["InFlight"]) == ("Canceled", 9, 0)
        assert in_flight(foo) == []
    assert len(foo.launcher.started) == 2


async def test_a_retry_runs_all_again_that_did_not_succeed_and_nothing_else(autojump_clock, foo):
    async with foo.running():
        batch = await submit(foo, "1-6%2", worktype="wait", params="{index}")
        assert (await ask(foo, "retry", batch))[0].startswith("ERROR: ")
        with trio.fail_after(LONG):
            while not foo.batches.find(batch).is_done:
                for one in tuple(foo.launcher.supervisors.values()):
                    argv = foo.launcher.started[one.process.pid - 101]
                    if not one.ended.is_set():
                        bad = int(argv[-1]) % 3 == 0
                        state = UnitState.FAILED if bad else UnitState.SUCCEEDED
                        one.finish(state, "it ended", int(bad))
                await trio.sleep(0.1)
        assert (await status(foo, batch))["Failed"] == 2
        assert json.loads((await ask(foo, "retry", batch))[0])["retried"] == 2
    async with foo.running():
        await run_commands(foo, batch)
        ends, last = await wait(foo, batch)
        assert (last["StateName"], last["Succeeded"]) == ("Succeeded", 6)
        assert sorted(end["Index"] for end in ends if end.get("Attempt") == 1) == [3, 6]
        assert json.loads((await ask(foo, "retry", batch))[0])["retried"] == 0
    assert sorted(words[-1] for words in foo.launcher.started) == [*"12334566"]


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_release_leaves_nothing_of_a_batch_and_its_units(autojump_clock, foo, is_over):
    async with foo.running():
        batch = await submit(foo, "1-6%2", worktype="wait")
        with trio.fail_after(LONG):
            while len(foo.launcher.started) < 2:
                await trio.sleep(0.1)
        if is_over:
            await run_commands(foo, batch)
        assert json.loads((await ask(foo, "release", batch))[0]) == {"released": batch}
        assert foo.units.all() == ()
        assert (await ask(foo, "status", batch)) == [f"ERROR: unknown batch {batch}"]
    assert [*(foo.store.root / "batches").iterdir()] == []


@pytest.mark.parametrize("action", ["cancel", "release"])
async def test_a_batch_that_waits_for_room_on_the_disk_ends_when_it_is_told_to(
    autojump_clock, foo, monkeypatch, action
):
    async with foo.running():
        with monkeypatch.context() as patch:
            patch.setattr(foo.units, "create", full_disk)
            batch = await submit(foo, "1-9%4")
            with trio.fail_after(LONG):
                while "No space" not in (await status(foo, batch)).get("Detail", ""):
                    await trio.sleep(0.1)
            (answer,) = await ask(foo, action, batch)
            done = {"cancel": "cancelled", "release": "released"}[action]
            assert json.loads(answer) == {done: batch}
        if action == "cancel":
            told = await status(foo, batch)
            assert (told["StateName"], told["Canceled"]) == ("Canceled", 9)
            assert "Detail" not in told
            assert json.loads((await ask(foo, "retry", batch))[0])["retried"] == 9
            assert (await wait(foo, batch))[1]["Succeeded"] == 9


async def test_a_release_needs_no_room_for_the_ends_of_what_goes(autojump_clock, foo, monkeypatch):
    async with foo.running():
        batch = await submit(foo, "1-4", worktype="wait")
        with trio.fail_after(LONG):
            while len(foo.launcher.started) < 4:
                await trio.sleep(0.1)
        append = foo.batch_files.append

        def full(batch_id, lines, *, durable):
            if b"release" not in lines:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            append(batch_id, lines, durable=durable)

        monkeypatch.setattr(foo.batch_files, "append", full)
        assert json.loads((await ask(foo, "release", batch))[0]) == {"released": batch}
        assert foo.units.all() == ()


async def test_who_waits_for_a_batch_is_told_of_each_end_when_it_comes(autojump_clock, foo):
    async with foo.running():
        batch = await submit(foo, "1-2%1", worktype="wait")
        client = foo.connect()
        request = {"command": "work", "subcommand": "batch", "action": "wait", "members": "true"}
        await client.send_all(json.dumps(request | {"batch": batch}).encode() + b"\n")
        seen = b""
        with trio.fail_after(LONG):
            while not foo.launcher.supervisors:
                await trio.sleep(0.1)
            next(iter(foo.launcher.supervisors.values())).finish()
            while b'"Index": 1' not in seen:
                seen += await client.receive_some()
        assert b'"Index": 2' not in seen
        assert not foo.batches.find(batch).is_done
        await client.aclose()


async def test_a_client_of_the_mesh_knows_only_batches_that_its_node_has_submitted(
    autojump_clock, foo
):
    async with foo.running():
        batch = await submit(foo, "1-3")
        (line,) = await ask(foo, "status", batch, kind="mesh")
        assert line == f"ERROR: unknown batch {batch}"
        assert json.loads((await ask(foo, "list", kind="mesh"))[0]) == {}


async def test_the_members_belong_to_who_has_submitted_the_batch(autojump_clock, foo):
    foo.clients["alice"] = UnixClient(1000, 1000, 77, "alice")
    async with foo.running():
        request = {"command": "work", "subcommand": "batch", "action": "submit", "array": "1-3"}
        lines = await foo.talk(request | {"node": "foo", "worktype": "cat"}, peer="alice")
        await wait(foo, json.loads(lines[0])["batch"])
        owners = {unit.status.submitted_by for unit in foo.units.all()}
        assert owners == {foo.clients["alice"]}


@pytest.mark.parametrize("own", ["cat", ""])
@pytest.mark.parametrize("line", ["cat", "wait"])
def test_a_batch_is_judged_by_what_each_of_its_lines_names(own, line):
    fields = {"node": "foo", "lines": "true"} | ({"worktype": own} if own else {})
    spec = BatchSpec.parse(fields, Caller(), "").with_lines(2, {(line, ""), ("", "bar")})
    aims = {*spec.aims}
    assert (line, "foo") in aims
    assert (own, "bar") in aims
    assert ((own, "foo") in aims) == (bool(own) or line == own)
    assert {*BatchSpec.from_json(json.loads(json.dumps(spec.to_json()))).aims} == aims


async def test_a_list_remembers_the_work_types_and_nodes_that_its_lines_name(autojump_clock, foo):
    async with foo.running():
        lines = [{"worktype": "cat"}, {"worktype": "nope", "node": "bar"}, {"params": ""}]
        reply = await submit_lines(foo, lines, node="foo", worktype="cat")
        batch = json.loads(reply[-1])["batch"]
        aims = {("cat", "foo"), ("nope", "bar")}
        assert {*foo.batches.find(batch).spec.aims} == aims
    async with foo.running():
        assert {*foo.batches.find(batch).spec.aims} == aims


async def test_a_start_that_a_full_disk_refuses_waits_as_a_creation_does(
    foo, bar, monkeypatch, autojump_clock
):
    real = type(foo.store).open_input
    is_full = True

    async def open_input(self, *args, **kwargs):
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(type(foo.store), "open_input", open_input)
    async with foo.running(), bar.running():
        batches = [await submit(foo, "1-6%3", node=node) for node in ("foo", "bar")]
        with trio.fail_after(LONG):
            for batch in batches:
                while "No space" not in (await status(foo, batch)).get("Detail", ""):
                    await trio.sleep(0.1)
        await trio.sleep(60)
        assert [(await status(foo, batch))["Failed"] for batch in batches] == [0, 0]
        # What could not start is gone: nothing piles up.
        assert len(foo.units.all()) <= 6
        is_full = False
        for batch in batches:
            ends, last = await wait(foo, batch)
            assert (last["Succeeded"], len(ends)) == (6, 6)
        assert len(foo.launcher.started) == len(bar.launcher.started) == 6


@pytest.mark.parametrize("action", ["cancel", "release"])
async def test_a_start_that_waits_for_room_ends_when_it_is_told_to(
    foo, monkeypatch, action, autojump_clock
):
    async def open_input(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(foo.store), "open_input", open_input)
    async with foo.running():
        batch = await submit(foo, "1-6%3")
        with trio.fail_after(LONG):
            while "No space" not in (await status(foo, batch)).get("Detail", ""):
                await trio.sleep(0.1)
        (answer,) = await ask(foo, action, batch)
        done = {"cancel": "cancelled", "release": "released"}[action]
        assert json.loads(answer) == {done: batch}
        assert in_flight(foo) == []


@pytest.mark.parametrize("action", ["cancel", "release"])
async def test_an_end_that_is_asked_for_comes_although_the_journal_has_no_room(
    foo, monkeypatch, action, autojump_clock
):
    async with foo.running():
        batch = await submit(foo, "1-8%4", worktype="wait")
        with trio.fail_after(LONG):
            while len(foo.launcher.started) < 4:
                await trio.sleep(0.1)
        with monkeypatch.context() as patch:

            def full(batch_id, lines, *, durable):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(foo.batch_files, "append", full)
            (answer,) = await ask(foo, action, batch)
            assert in_flight(foo) == []
            if action == "release":
                assert json.loads(answer) == {"released": batch}
                assert foo.units.all() == ()
                return
            assert json.loads(answer) == {"cancel pending": batch}
            detail = (await status(foo, batch))["Detail"]
            assert detail == "waiting for disk space to record what became of members"
        _, last = await wait(foo, batch)
        assert (last["StateName"], last["Canceled"], last.get("Detail")) == ("Canceled", 8, None)
        assert len(foo.launcher.started) == 4
        foo.kill()
    async with foo.running():
        assert (await status(foo, batch))["StateName"] == "Canceled"


@pytest.mark.parametrize("bad", ["1-1000000000", "9999999999", "1-5:9999999999", "1-" + "9" * 30])
def test_an_index_that_is_too_high_is_refused_with_the_bound(bad):
    with pytest.raises(CommandError, match="an index is at most 999999999"):
        Array.parse(bad)


@pytest.mark.parametrize("kind", ["unix", "mesh"])
async def test_no_client_can_take_the_key_of_a_member(foo, kind, autojump_clock):
    async with foo.running():
        batch = await submit(foo, "1-2%1", worktype="wait")
        for key in (f"{batch}:2", f"{batch}:1:1", "b-12345678:7"):
            request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
            (line,) = await foo.talk({**request, "submissionkey": key}, kind=kind)
            told = "field submissionkey has the form of a batch member's: choose another"
            assert line == f"ERROR: {told}"
        await run_commands(foo, batch)
        assert (await wait(foo, batch))[1]["Succeeded"] == 2
