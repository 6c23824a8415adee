"""Nothing is done past the access rules, and nobody learns of units that they hide."""

import json
import typing
from dataclasses import replace

import pytest
import trio
from signing_keys import golang_token, new_key

from meshnode.config import load_arguments
from meshnode.control.registry import Asking, Command
from meshnode.permissions import AccessRule
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import MeshClient, UnixClient
from meshnode.security.tokens import VerificationKey, Verifier
from meshnode.work.units import listing, requests
from meshnode.work.units.signatures import Signatures

ANN = UnixClient(1000, 100, 7, "ann")
BOB = UnixClient(1001, 100, 8, "bob")

SUBCOMMANDS: dict[type, str] = {
    requests.SubmitRequest: "submit",
    requests.ListRequest: "list",
    requests.StatusRequest: "status",
    requests.WatchRequest: "watch",
    requests.SubmittedRequest: "submitted",
    requests.AdoptRequest: "adopt",
    requests.CancelRequest: "cancel",
    requests.ReleaseRequest: "release",
    requests.ResultsRequest: "results",
    requests.DescribeRequest: "describe",
    requests.TypesRequest: "types",
    requests.BatchRequest: "batch",
}
ON_UNIT = ["list", "status", "watch", "cancel", "release", "force-release", "results"]


def rules(*written: str) -> tuple[AccessRule, ...]:
    """Return rules as arguments write them."""
    words = ["--local-only", "--node", "foo"]
    for one in written:
        words += ["--access-rule", *one.split(" | ")]
    return load_arguments(words).rules


def on_unit(subcommand: str, unit_id: str, **more: str) -> dict[str, object]:
    request = {"command": "work", "subcommand": subcommand, "unitid": unit_id, "startpos": 0}
    return request | more


@pytest.fixture
def foo(foo):
    foo.clients = {"ann": ANN, "bob": BOB, "bar": MeshClient("bar", claim=ANN)}
    return foo


async def submit(foo, peer: str, work_type: str = "cat", kind: str = "unix", **more: str) -> str:
    request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": work_type}
    lines = await foo.talk(request | more, b"", kind=kind, peer=peer)
    assert len(lines) > 1, lines
    return str(json.loads(lines[1])["unitid"])


def test_each_request_there_is_has_a_line_in_these_tests() -> None:
    assert set(typing.get_args(requests.WorkRequest)) == set(SUBCOMMANDS)


@pytest.mark.parametrize("kind", ["unix", "tcp", "mesh"])
@pytest.mark.parametrize("subcommand", [*SUBCOMMANDS.values(), "force-release"])
async def test_one_rule_that_is_about_nobody_here_refuses_every_request_of_work(
    foo, subcommand, kind
):
    async with foo.running():
        unit_id = await submit(foo, "ann")
        before = foo.status(unit_id)
        foo.rules.rules = rules("action=allow | who=uid=77 | do=any | units=all")
        request = on_unit(subcommand, unit_id, node="bar", worktype="cat", submissionkey="k")
        if subcommand == "batch":
            request |= {"action": "submit", "array": "1-2"}
        if subcommand in {"submit", "batch"}:
            request = {k: v for k, v in request.items() if isinstance(v, str)}
        answers = [await foo.talk(request, kind=kind, peer="bar")]
        if subcommand == "list":
            answers.append(await foo.talk("work list", kind=kind, peer="bar"))
        for lines in answers:
            assert lines[0].startswith(("ERROR: permission denied: ", "ERROR: unknown work unit "))
            assert len(lines) == 1
        assert [unit.unit_id for unit in foo.units.all()] == [unit_id]
        assert foo.status(unit_id) == before


@pytest.mark.parametrize("subcommand", ON_UNIT)
async def test_a_unit_that_a_client_may_not_see_is_answered_like_none(foo, subcommand):
    async with foo.running():
        unit_id = await submit(foo, "ann")
        foo.rules.rules = rules("action=allow | who=any | do=any | units=own")
        (hidden,) = await foo.talk(on_unit(subcommand, unit_id), peer="bob")
        (none,) = await foo.talk(on_unit(subcommand, "XXXXXXXX"), peer="bob")
        assert hidden == none.replace("XXXXXXXX", unit_id)
        signed = await foo.talk(on_unit(subcommand, unit_id, signature="x"), peer="bob")
        assert signed == [hidden]
        (known,) = await foo.talk(on_unit("status", unit_id), peer="ann")
        assert "State" in json.loads(known)


async def test_who_may_see_a_unit_is_told_that_it_may_not_end_it(foo):
    async with foo.running():
        unit_id = await submit(foo, "ann")
        foo.rules.rules = rules("action=allow | who=any | do=status | units=all")
        lines = await foo.talk(on_unit("cancel", unit_id), peer="bob")
        assert lines == [f"ERROR: permission denied: cancel {unit_id}"]


async def test_who_has_submitted_a_unit_is_not_told_that_it_is_not_there(foo):
    async with foo.running():
        for peer, kind in (("ann", "unix"), ("bar", "mesh")):
            foo.rules.rules = ()
            unit_id = await submit(foo, peer, kind=kind)
            foo.rules.rules = rules("action=allow | who=any | do=submit")
            for subcommand in ON_UNIT:
                (line,) = await foo.talk(on_unit(subcommand, unit_id), kind=kind, peer=peer)
                assert line.startswith("ERROR: permission denied: ")


async def test_a_unit_whose_node_does_not_let_it_be_followed_is_not_gone(foo, bar, autojump_clock):
    bar.rules.rules = rules("action=allow | who=node=foo | do=submit")
    async with foo.running(), bar.running():
        request = {"command": "work", "subcommand": "submit", "node": "bar", "worktype": "cat"}
        _, line = await foo.talk(request, b"payload", peer="ann")
        unit_id = json.loads(line)["unitid"]
        await trio.sleep(100)
        assert not foo.units.find(unit_id).is_final
        (told,) = await foo.talk(on_unit("status", unit_id), peer="ann")
        assert "refused: permission denied: " in json.loads(told)["Detail"]
        verbs = '["submit", "status", "results"]'
        bar.rules.rules = rules(f"action=allow | who=node=foo | do={verbs} | units=own")
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit_id) == b"payload"


async def test_a_list_shows_each_client_what_it_may_list(foo):
    async with foo.running():
        own = {peer: await submit(foo, peer) for peer in ("ann", "bob")}
        own["bar"] = await submit(foo, "bar", kind="mesh")
        foo.rules.rules = rules(
            "action=allow | who=uid=1001 | do=list | units=all",
            "action=allow | who=any | do=list | units=own",
        )
        for peer, kind, shown in (
            ("ann", "unix", {own["ann"]}),
            ("bob", "unix", set(own.values())),
            ("bar", "mesh", {own["bar"]}),
            ("stranger", "unix", set()),
        ):
            (line,) = await foo.talk("work list", kind=kind, peer=peer)
            assert set(json.loads(line)) == shown


async def test_a_list_of_many_pieces_leaves_out_whole_ones(foo, monkeypatch):
    monkeypatch.setattr(listing, "LISTED_AT_ONCE", 1)
    async with foo.running():
        own = [await submit(foo, peer) for peer in ("ann", "bob", "ann", "bob")][::2]
        foo.rules.rules = rules("action=allow | who=any | do=list | units=own")
        (line,) = await foo.talk("work list", peer="ann")
        assert list(json.loads(line)) == sorted(own)
        assert await foo.talk("work list", peer="stranger") == ["{}"]


async def test_a_unit_from_before_submitters_were_known_is_nobodys(foo):
    async with foo.running():
        unit_id = await submit(foo, "ann")
        unit = foo.units.find(unit_id)
        await unit.note(lambda old: replace(old, submitted_by=None))
        foo.rules.rules = rules("action=allow | who=any | do=any | units=own")
        (line,) = await foo.talk(on_unit("status", unit_id), peer="ann")
        assert line == f"ERROR: unknown work unit {unit_id}"


FOLLOWED = {
    "submit alone": ("submit", False, False),
    "and the status": ('["submit", "status"]', True, False),
    "and the results": ('["submit", "status", "results"]', True, True),
}


@pytest.mark.parametrize(("verbs", "follows", "output"), FOLLOWED.values(), ids=FOLLOWED)
async def test_what_follows_a_submission_in_its_session_is_asked_for_like_all_else(
    foo, autojump_clock, verbs, follows, output
):
    foo.rules.rules = rules(f"action=allow | who=uid=1000 | do={verbs} | units=own")
    request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
    async with foo.running():
        lines = await foo.talk(request | {"submissionfollow": "true"}, b"hello", peer="ann")
        assert ("follows" in json.loads(lines[1])) == follows
        assert (len(lines) > 2) == follows
        assert any("Stdout" in json.loads(line) for line in lines[2:]) == output


async def test_localhost_is_this_node_to_rules(foo):
    foo.rules.rules = rules(
        "action=deny | who=any | do=submit | tonode=foo", "action=allow | who=any | do=submit"
    )
    async with foo.running():
        for node in ("foo", "localhost", "LocalHost"):
            lines = await foo.talk(f"work submit {node} cat", peer="ann")
            assert lines == ["ERROR: permission denied: submit cat at foo"]


async def test_a_refusal_says_nothing_of_which_types_there_are(foo):
    foo.rules.rules = rules("action=allow | who=any | do=submit | worktype=other")
    async with foo.running():
        for work_type in ("cat", "nosuch"):
            lines = await foo.talk(f"work submit foo {work_type}", peer="ann")
            assert lines == [f"ERROR: permission denied: submit {work_type} at foo"]


async def test_a_unit_of_somebody_else_is_not_named_to_who_would_adopt_it(bar, autojump_clock):
    bar.clients = {"ann": ANN, "bob": BOB}
    async with bar.running():
        request = {"command": "work", "subcommand": "adopt", "node": "foo", "unitid": "abcdefgh"}
        (line,) = await bar.talk(request, peer="ann")
        unit_id = json.loads(line)["unitid"]
        bar.rules.rules = rules("action=allow | who=any | do=any | units=own")
        (line,) = await bar.talk(request, peer="ann")
        assert unit_id in line
        (line,) = await bar.talk(request, peer="bob")
        assert line == "ERROR: unit abcdefgh of node foo cannot be adopted here"


async def test_a_submission_key_tells_nobody_else_of_its_unit(foo):
    async with foo.running():
        unit_id = await submit(foo, "ann", submissionkey="secret")
        foo.rules.rules = rules("action=allow | who=any | do=any | units=own")
        request = {"command": "work", "subcommand": "submitted", "submissionkey": "secret"}
        (line,) = await foo.talk(request, peer="ann")
        assert json.loads(line)["UnitID"] == unit_id
        (line,) = await foo.talk(request, peer="bob")
        assert "UnitID" not in json.loads(line)
        assert json.loads(line)["Trace"] == "nothing"


async def test_a_command_that_does_not_say_what_it_does_is_refused_under_rules(foo):
    async def run(session):
        return {"Done": True}

    async with foo.running():
        foo.registry.register(Command("odd", lambda _: run, lambda _: run))
        assert await foo.talk("odd", peer="ann") == ['{"Done":true}']
        foo.rules.rules = rules("action=allow | who=any | do=any | units=all")
        assert await foo.talk("odd", peer="ann") == ["ERROR: permission denied: odd"]
        assert isinstance(foo.registry.find("work").parse_text("list"), Asking)


async def test_a_unit_of_another_node_is_hidden_and_the_log_says_why(bar, autojump_clock, caplog):
    bar.clients = {"ann": ANN, "far": MeshClient("far")}
    bar.rules.rules = rules("action=allow | who=any | do=any | units=all")
    async with bar.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
        _, line = await bar.talk(request, b"", peer="ann")
        unit_id = json.loads(line)["unitid"]
        for subcommand in ON_UNIT:
            lines = await bar.talk(on_unit(subcommand, unit_id), kind="mesh", peer="far")
            assert lines == [f"ERROR: unknown work unit {unit_id}"]
    refusals = [r.message for r in caplog.records if r.message.startswith("access: refused")]
    assert len(refusals) == len(ON_UNIT)
    assert all(line.endswith("was submitted here for another node") for line in refusals)


# --- By the key of a signature

OPS, DEV = new_key(), new_key()


def token(node, key) -> str:
    expires = int(node.mesh.now().timestamp()) + 300
    return golang_token(key, {"exp": expires, "aud": [node.node_id]})


@pytest.fixture
def signed(foo):
    """foo, which checks signatures by two keys; what is signed with ``ops`` may be done."""
    keys = [
        VerificationKey.of(name, key.public_key()) for name, key in (("ops", OPS), ("dev", DEV))
    ]
    foo.signatures = Signatures(verifier=Verifier(keys, "foo", lambda: foo.mesh.now().timestamp()))
    foo.rules.rules = rules("action=allow | who=key=ops | do=any | units=all")
    return foo


@pytest.mark.parametrize("kind", ["tcp", "mesh"])
async def test_a_key_opens_to_who_signs_with_it(signed, kind):
    async with signed.running():
        unit_id = await submit(signed, "bar", "signed", kind=kind, signature=token(signed, OPS))
        for subcommand in ("list", "status", "results"):
            request = on_unit(subcommand, unit_id)
            (refused,) = await signed.talk(request, kind=kind, peer="far")
            assert refused == f"ERROR: unknown work unit {unit_id}"
            other = request | {"signature": token(signed, DEV)}
            assert await signed.talk(other, kind=kind, peer="far") == [refused]
            with_key = request | {"signature": token(signed, OPS)}
            line, *_ = await signed.talk(with_key, kind=kind, peer="far")
            assert not line.startswith("ERROR")


async def test_a_submission_is_told_that_its_signature_is_what_lacks(signed):
    async with signed.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "signed"}
        (line,) = await signed.talk(request, kind="tcp", peer="x")
        assert line.startswith("ERROR: could not verify signature: signature is empty")
        other = request | {"signature": token(signed, DEV)}
        (line,) = await signed.talk(other, kind="tcp", peer="x")
        assert line == "ERROR: permission denied: submit signed at foo"
        (line,) = await signed.talk(request | {"worktype": "cat"}, kind="tcp", peer="x")
        assert line == "ERROR: permission denied: submit cat at foo"
        assert signed.units.all() == ()


async def test_a_key_that_nobody_checks_opens_nothing(signed):
    async with signed.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "signed"}
        with_key = request | {"signature": token(signed, OPS)}
        # A client of the unix socket needs no signature, so none is looked at.
        (line,) = await signed.talk(with_key, peer="ann")
        assert line == "ERROR: permission denied: submit signed at foo"


BATCH = {"command": "work", "subcommand": "batch"}


@pytest.mark.parametrize("own", [{}, {"worktype": "cat"}])
@pytest.mark.parametrize("others", [["wait"], ["cat", "wait"]])
async def test_who_may_end_one_work_type_ends_no_list_that_has_another(
    foo, own, others, autojump_clock
):
    words = ("submit", "list", "status", "cancel", "release")
    foo.rules.rules = rules(
        "action=allow | who=uid=1000 | do=any | units=all",
        *(f"action=allow | who=uid=1001 | do={w} | worktype=cat | units=all" for w in words),
    )
    async with foo.running():
        data = b"".join(json.dumps({"worktype": one}).encode() + b"\n" for one in others)
        request = BATCH | {"action": "submit", "lines": "true", "node": "foo"} | own
        batch = json.loads((await foo.talk(request, data, peer="ann"))[-1])["batch"]
        for action in ("status", "members", "may", "cancel", "release", "retry"):
            answers = await foo.talk(BATCH | {"action": action, "batch": batch}, peer="bob")
            assert answers == [f"ERROR: unknown batch {batch}"]
        await foo.talk(BATCH | {"action": "release", "batch": batch}, peer="ann")


async def test_ones_own_list_can_be_ended_though_lines_of_it_were_refused(foo, autojump_clock):
    words = ("submit", "list", "status", "cancel", "release")
    foo.rules.rules = rules(
        *(f"action=allow | who=uid=1001 | do={w} | worktype=cat | units=own" for w in words)
    )
    async with foo.running():
        request = BATCH | {"action": "submit", "lines": "true", "node": "foo"}
        data = b'{"worktype": "cat"}\n{"worktype": "wait"}\n'
        batch = json.loads((await foo.talk(request, data, peer="bob"))[-1])["batch"]
        answers = await foo.talk(BATCH | {"action": "release", "batch": batch}, peer="bob")
        assert json.loads(answers[0]) == {"released": batch}


@pytest.mark.parametrize("members", [{"array": "1-2"}, {"lines": "true"}])
@pytest.mark.parametrize("by", ["ann", "bob"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("verbs", ["status", "status cancel", "status release", "any"])
async def test_who_asks_what_it_may_do_with_a_batch_is_told_what_the_node_then_lets_it_do(
    foo, by, kind, verbs, members, autojump_clock
):
    async with foo.running():
        request = BATCH | {"action": "submit", "node": "foo", "worktype": "cat"} | members
        lines = b"{}\n{}\n" if "lines" in members else None
        batch = json.loads((await foo.talk(request, lines, peer="ann"))[-1])["batch"]
        await foo.talk(BATCH | {"action": "wait", "batch": batch}, peer="ann")
        words = [f"action=allow | who=any | do={verb} | units=all" for verb in verbs.split()]
        foo.rules.rules = rules(*words)
        may = json.loads(
            (await foo.talk(BATCH | {"action": "may", "batch": batch}, kind=kind, peer=by))[0]
        )
        assert may.keys() == {"status", "cancel", "release", "retry"}
        for action in ("status", "cancel", "retry", "release"):
            answers = await foo.talk(BATCH | {"action": action, "batch": batch}, kind=kind, peer=by)
            assert may[action] != answers[0].startswith("ERROR: "), (action, answers, may)


@pytest.mark.parametrize("what", ["unit", "batch"])
@pytest.mark.parametrize("waiter", [{"subcommand": "submit"}, {"subcommand": "batch"}])
async def test_nobody_waits_for_the_end_of_what_it_may_not_see(foo, what, waiter, autojump_clock):
    foo.rules.rules = rules("action=allow | who=any | do=any | units=own")
    async with foo.running():
        if what == "unit":
            hidden, none = await submit(foo, "ann"), "XXXXXXXX"
        else:
            request = BATCH | {"action": "submit", "array": "1", "node": "foo", "worktype": "wait"}
            (line,) = await foo.talk(request, peer="ann")
            hidden, none = json.loads(line)["batch"], "b-XXXXXXXX"
        request = {"command": "work", "node": "foo", "worktype": "cat", **waiter}
        if waiter["subcommand"] == "batch":
            request |= {"action": "submit", "array": "1-2"}
        answers = [
            await foo.talk({**request, "submissionafter": target}, peer="bob")
            for target in (hidden, none)
        ]
        assert answers[0] == [answers[1][0].replace(none, hidden)]
        assert answers[0][0].startswith("ERROR: unknown ")
        assert len(foo.units.all()) == 1
