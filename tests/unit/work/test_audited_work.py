"""What the audit log is told of units: who asked for what, and what became of it."""

import json

import pytest
import trio
from audits import KeptAudit
from work_fakes import FakeNode

from meshnode.permissions import AccessRule, Verb, Way
from meshnode.security.audit import AuditLog
from meshnode.security.auditlines import Kind, encode
from meshnode.security.identity import MeshClient, UnixClient
from meshnode.work.units.access import Caller
from meshnode.work.units.retention import Retention

ANN = UnixClient(1000, 100, 4321, "ann")
SECRET = "hush-hush"


@pytest.fixture
def audit(foo: FakeNode) -> KeptAudit:
    foo.clients["client"] = ANN
    foo.audit = KeptAudit()
    return foo.audit


async def test_a_command_that_ends_by_itself_has_a_line_for_its_submission_start_and_end(
    foo, audit
):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", b"payload-of-ann")
        await foo.wait_final(unit_id)
    assert audit.kinds == [Kind.SUBMIT, Kind.START, Kind.END]
    submitted, started, ended = audit.events
    for event in audit.events:
        assert (event.by, event.unit, event.work_type) == (ANN, unit_id, "cat")
    assert (submitted.way, submitted.outcome) == ("socket", "accepted")
    assert (started.outcome, started.ended_by) == ("", None)
    assert (ended.outcome, ended.exit_code, ended.ended_by) == ("succeeded", 0, None)


async def test_a_canceled_unit_has_a_line_that_says_who_asked_and_one_for_the_end(foo, audit):
    bob = foo.clients["bob"] = UnixClient(1001, 100, 99, "bob")
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", params="-n 3")
        await foo.talk(f"work cancel {unit_id}", peer="bob")
    assert audit.kinds == [Kind.SUBMIT, Kind.START, Kind.END, Kind.CANCEL]
    assert audit.only(Kind.SUBMIT).params == "-n 3"
    ended = audit.only(Kind.END)
    assert (ended.by, ended.outcome) == (ANN, "canceled")
    assert ended.ended_by.to_json() == {"Cause": "cancel", "By": bob.to_json()}
    canceled = audit.only(Kind.CANCEL)
    assert (canceled.by, canceled.way, canceled.outcome) == (bob, "socket", "done")
    assert (canceled.unit, canceled.work_type) == (unit_id, "wait")


async def test_a_released_unit_has_one_line_for_that_with_who_asked(foo, audit):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat")
        await foo.wait_final(unit_id)
        await foo.talk(f"work release {unit_id}")
    released = audit.only(Kind.RELEASE)
    assert (released.by, released.way, released.outcome) == (ANN, "socket", "done")
    assert (released.unit, released.work_type) == (unit_id, "cat")


async def test_what_the_node_releases_by_itself_is_told_without_anybody(foo, audit, autojump_clock):
    async with foo.running():
        await foo.wait_final(await foo.submit("foo", "cat"))
        foo.nursery.start_soon(Retention(foo.units, 60.0, foo.mesh.now).run)
        await trio.sleep(200)
    released = audit.only(Kind.RELEASE)
    assert (released.by, released.way, released.outcome) == (None, "", "done")


async def test_both_halves_of_a_unit_are_told_with_whom_each_node_knows(foo, bar, audit):
    there = bar.audit = KeptAudit()
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait", params="-n 3")
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        remote_id = foo.status(unit_id).remote.unit_id
        await foo.talk(f"work cancel {unit_id}")
        await foo.wait_final(unit_id)
        await foo.talk(f"work release {unit_id}")
    assert audit.only(Kind.SUBMIT).target == "bar"
    ended = audit.only(Kind.END)
    assert (ended.target, ended.remote_unit, ended.work_type) == ("bar", remote_id, "wait")
    assert audit.only(Kind.RELEASE).by == ANN
    submitted = there.only(Kind.SUBMIT)
    assert submitted.by == MeshClient("foo", claim=ANN)
    assert (submitted.way, submitted.unit, submitted.params) == ("mesh", remote_id, "-n 3")
    for kind in (Kind.CANCEL, Kind.RELEASE):
        assert there.only(kind).by.node == "foo"
    assert there.only(Kind.END).ended_by.to_json()["By"]["Node"] == "foo"


async def test_an_adoption_is_told_and_so_is_one_that_is_refused(foo, bar, audit):
    async with foo.running(), bar.running():
        unit_id = await bar.submit("bar", "wait")
        await foo.talk(f"work adopt bar {unit_id}")
        await foo.talk(f"work adopt bar {unit_id}")
    adopted = audit.only(Kind.ADOPT)
    assert (adopted.by, adopted.target, adopted.remote_unit) == (ANN, "bar", unit_id)
    refused = audit.only(Kind.REFUSAL)
    assert (refused.asked, refused.remote_unit) == ("adopt", unit_id)
    assert "was adopted here already" in refused.outcome


@pytest.mark.parametrize(
    ("node", "work_type", "why"),
    [("foo", "nothing", "unknown work type"), ("foo", "signed", "signature is empty")],
)
async def test_a_submission_that_is_refused_has_a_line_that_says_why(
    foo, audit, node, work_type, why
):
    async with foo.running():
        request = {"command": "work", "subcommand": "submit", "node": node, "worktype": work_type}
        await foo.talk({**request, "secret_word": SECRET, "params": "open"}, kind="tcp")
    assert audit.kinds == [Kind.REFUSAL]
    refused = audit.only(Kind.REFUSAL)
    assert (refused.asked, refused.work_type, refused.params) == ("submit", work_type, "open")
    assert why in refused.outcome


async def test_a_client_that_may_not_touch_a_unit_has_a_line_for_each_try(foo, bar, audit):
    foo.clients["stranger"] = MeshClient("stranger")
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        for words in ("status", "cancel", "release", "results"):
            await foo.talk(f"work {words} {unit_id}", kind="mesh", peer="stranger")
    refused = [event for event in audit.events if event.kind is Kind.REFUSAL]
    assert [event.asked for event in refused] == ["status", "cancel", "release", "results"]
    for event in refused:
        assert (event.by, event.way, event.unit) == (MeshClient("stranger"), "mesh", unit_id)
    assert Kind.CANCEL not in audit.kinds


async def test_a_slip_of_the_pen_is_no_refusal(foo, audit):
    async with foo.running():
        for words in ("work status nothing", "work cancel nothing", "work nonsense", "nonsense"):
            await foo.talk(words)
    assert audit.events == []


@pytest.mark.parametrize("key", ["secret_word", "SECRET_", "Secret_Word"])
async def test_no_payload_and_no_secret_stands_in_any_line(foo, audit, key):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", SECRET.encode(), **{key: SECRET}, params="x")
        await foo.talk(f"work cancel {unit_id}")
        await foo.talk(f"work release {unit_id}")
    assert len(audit.events) == 5
    for event in audit.events:
        assert SECRET.encode() not in encode(event, "foo", foo.mesh.now())


async def test_work_is_refused_and_nothing_is_left_of_it_while_its_line_cannot_be_written(
    foo, audit
):
    audit.refuses = True
    async with foo.running():
        (line,) = await foo.talk("work submit foo cat")
        assert line == "ERROR: the audit log cannot be written"
        assert foo.units.all() == ()
        assert foo.left() == []
        refused = audit.only(Kind.REFUSAL)
        assert (refused.asked, refused.outcome) == ("submit", "the audit log cannot be written")
        assert audit.kinds == [Kind.REFUSAL]
        # With room for the line, the same is done.
        audit.refuses = False
        await foo.wait_final(await foo.submit("foo", "cat"))


async def test_units_that_run_go_on_and_can_be_ended_while_no_line_can_be_written(foo, audit):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        audit.refuses = True
        (line,) = await foo.talk(f"work cancel {unit_id}")
        assert json.loads(line) == {"cancelled": unit_id}
        (line,) = await foo.talk(f"work release {unit_id}")
        assert json.loads(line) == {"released": unit_id}


async def test_work_from_another_node_waits_there_until_its_line_can_be_written(
    foo, bar, autojump_clock
):
    there = bar.audit = KeptAudit()
    there.refuses = True
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat")
        await trio.sleep(100)
        status = foo.status(unit_id)
        assert not status.state.is_final
        there.refuses = False
        await foo.wait_final(unit_id)
    assert there.kinds[-3:] == [Kind.SUBMIT, Kind.START, Kind.END]


async def test_nothing_is_left_of_a_unit_whose_node_stops_before_its_line_is_written(foo):
    class Slow(KeptAudit):
        async def require(self, event):
            self.record(event)
            waits.set()
            await trio.sleep_forever()

    waits = trio.Event()
    foo.audit = Slow()
    async with foo.running():
        client = foo.connect()
        await client.send_all(b"work submit foo cat\n")
        await waits.wait()
    assert foo.audit.kinds == [Kind.SUBMIT, Kind.RELEASE]
    assert foo.left() == []


def rule(label: str, *verbs: Verb, allows: bool = True) -> AccessRule:
    return AccessRule(label=label, allows=allows, who=((),), verbs=frozenset(verbs))


async def test_each_line_of_what_a_client_asked_names_the_rule_that_allowed_it(foo, audit):
    foo.rules.rules = (
        rule("begin", Verb.SUBMIT, Verb.STATUS),
        rule("stop", Verb.CANCEL),
        rule("clear", Verb.RELEASE),
    )
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        await foo.talk(f"work cancel {unit_id}")
        await foo.talk(f"work release {unit_id}")
    rules = {event.kind: event.rule for event in audit.events}
    assert rules == {
        Kind.SUBMIT: "begin",
        Kind.START: "",
        Kind.END: "",
        Kind.CANCEL: "stop",
        Kind.RELEASE: "clear",
    }


async def test_an_adoption_names_the_rule_that_allowed_it(foo, bar, audit):
    foo.rules.rules = (rule("take", Verb.ADOPT),)
    async with foo.running(), bar.running():
        await foo.talk(f"work adopt bar {await bar.submit('bar', 'wait')}")
    assert audit.only(Kind.ADOPT).rule == "take"


async def test_another_nodes_unit_is_refused_with_the_reason_also_where_the_rules_allow_all(
    foo, bar, audit
):
    foo.clients["stranger"] = MeshClient("stranger")
    foo.rules.rules = (rule("all", *Verb),)
    async with foo.running(), bar.running():
        foo.rules.sink = foo.units.journal.not_allowed
        unit_id = await foo.submit("bar", "wait")
        (line,) = await foo.talk(f"work cancel {unit_id}", kind="mesh", peer="stranger")
        assert line == f"ERROR: unknown work unit {unit_id}"
    refused = audit.only(Kind.REFUSAL)
    assert (refused.asked, refused.unit) == ("cancel", unit_id)
    assert "submitted here for another node" in refused.outcome


@pytest.mark.parametrize("label", ["", "never"])
async def test_what_the_rules_refuse_has_one_line_with_the_rule_and_without_secrets(
    foo, audit, label
):
    foo.rules.rules = (
        *([rule(label, Verb.SUBMIT, Verb.CANCEL, allows=False)] if label else []),
        rule("look", Verb.STATUS),
    )
    request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "wait"}
    async with foo.running():
        foo.rules.sink = foo.units.journal.not_allowed
        (line,) = await foo.talk({**request, "secret_word": SECRET, "params": "-n 3"})
        assert line == "ERROR: permission denied: submit wait at foo"
    refused = audit.only(Kind.REFUSAL)
    assert audit.kinds == [Kind.REFUSAL]
    assert (refused.by, refused.way, refused.asked) == (ANN, "socket", "submit")
    assert (refused.work_type, refused.target, refused.params) == ("wait", "foo", "-n 3")
    assert refused.rule == label
    assert refused.outcome == ("denied by rule never" if label else "no rule allows it")


async def test_a_unit_that_a_client_may_not_know_of_is_refused_with_its_id(foo, audit):
    foo.clients["bob"] = UnixClient(1001, 100, 99, "bob")
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        foo.rules.sink = foo.units.journal.not_allowed
        foo.rules.rules = (rule("begin", Verb.SUBMIT),)
        (line,) = await foo.talk(f"work cancel {unit_id}", peer="bob")
        assert line == f"ERROR: unknown work unit {unit_id}"
    refused = audit.only(Kind.REFUSAL)
    assert (refused.asked, refused.unit, refused.work_type) == ("cancel", unit_id, "wait")


async def test_a_node_without_an_audit_log_tells_nobody(foo, monkeypatch):
    def forbid(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(AuditLog, "record", forbid)
    monkeypatch.setattr(AuditLog, "require", forbid)
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        await foo.talk(f"work cancel {unit_id}")
        await foo.talk(f"work release {unit_id}")


@pytest.mark.parametrize(("action", "kind"), [("cancel", Kind.CANCEL), ("release", Kind.RELEASE)])
@pytest.mark.parametrize("restarts", [False, True])
async def test_who_ends_a_batch_of_another_stands_in_the_line_of_each_of_its_units(
    foo, audit, action, kind, restarts, autojump_clock
):
    bob = foo.clients["bob"] = UnixClient(1001, 100, 99, "bob")
    request = {"command": "work", "subcommand": "batch"}
    async with foo.running():
        given = {"action": "submit", "array": "1-3", "node": "foo", "worktype": "wait"}
        batch = json.loads((await foo.talk(request | given))[0])["batch"]
        with trio.fail_after(1000):
            while len(foo.launcher.started) < 3:
                await trio.sleep(0.1)
        if restarts:
            # Killed when the request is on record, and nothing is done yet.
            asked = getattr(foo.batches.find(batch), action)
            await asked(Caller(True, "", bob, Way.SOCKET))
            foo.kill()
        else:
            await foo.talk(request | {"action": action, "batch": batch}, peer="bob")
    async with foo.running():
        with trio.fail_after(1000):
            while any(not unit.is_final for unit in foo.units.all()):
                await trio.sleep(0.1)
    told = [event for event in audit.events if event.kind is kind]
    # One that is killed may be told of again by the next run.
    assert len({event.unit for event in told}) == 3
    assert {(event.by, event.way) for event in told} == {(bob, "socket")}
