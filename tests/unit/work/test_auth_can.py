"""What ``auth can`` answers is what then happens: each client, verb and place, own and not, both
halves."""

import json
import logging
from dataclasses import dataclass

import pytest
import trio

from meshnode.config import load_arguments
from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.errors import NoRoute
from meshnode.permissions import AccessRule, Verb
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import CertificateNames, Identity, MeshClient, TcpClient, UnixClient

CARD = CertificateNames("CN=carol", ("baz",))
CLIENTS: dict[str, tuple[str, Identity]] = {
    "ann": ("unix", UnixClient(1000, 100, 7, "ann")),
    "bob": ("unix", UnixClient(1001, 100, 8, "bob")),
    "carol": ("tcp", TcpClient("10.0.0.1:5", CARD)),
    "nobody": ("tcp", TcpClient("10.0.0.2:5")),
    "far": ("mesh", MeshClient("far")),
    "farther": ("mesh", MeshClient("farther", certificate=CARD)),
}
RULES = {
    "none": (),
    "nothing": ("action=deny | who=any | do=any | units=all",),
    "all": ("action=allow | who=any | do=any | units=all",),
    "own": ("action=allow | who=any | do=any | units=own",),
    "ann's own": ("action=allow | who=uid=1000 | do=any | units=own",),
    "a group's": ("action=allow | who=gid=100 | do=any | units=all",),
    "a card's": ("action=allow | who=subject=/CN=c.*/ | do=any | units=own",),
    "nodes'": ("action=allow | who=node=/far.*/ | do=any | units=own",),
    "of tcp": ("action=allow | who=any | do=any | units=all | from=tcp",),
    "of a type": ("action=allow | who=any | do=any | units=all | worktype=wait",),
    "for a node": ("action=allow | who=any | do=any | units=all | tonode=bar",),
    "to a service": ("action=allow | who=any | do=any | units=all | toservice=echo",),
    "to start": ("action=allow | who=any | do=submit",),
    "to end": ('action=allow | who=any | do=["cancel", "release"] | units=all',),
    "to look": ('action=allow | who=any | do=["list", "status", "mesh-status"] | units=all',),
    "all but parameters": (
        "action=deny | who=any | do=submit | params=/.*bad.*/",
        "action=allow | who=any | do=any | units=all",
    ),
    "these parameters": ("action=allow | who=any | do=submit | params=good",),
}


def rules(*written: str) -> tuple[AccessRule, ...]:
    words = ["--local-only", "--node", "foo"]
    for one in written:
        words += ["--access-rule", *one.split(" | ")]
    return load_arguments(words).rules


class Nowhere:
    """A mesh that leads nowhere."""

    node_id = "foo"

    def status(self):
        raise NoRoute("status")

    async def ping(self, node: str):
        await trio.lowlevel.checkpoint()
        raise NoRoute(node)

    async def dial(self, node: str, service: str, tls: object = None):
        await trio.lowlevel.checkpoint()
        raise NoRoute(node)


async def nothing_changed() -> None:
    await trio.lowlevel.checkpoint()


@dataclass(frozen=True)
class Request:
    """One request, and the question whether it may be made."""

    doing: dict[str, object]
    asking: dict[str, object]

    @classmethod
    def of_unit(cls, verb: Verb, unit_id: str, subcommand: str = "") -> "Request":
        doing = {"command": "work", "subcommand": subcommand or str(verb), "unitid": unit_id}
        return cls({**doing, "startpos": -1}, {"verb": verb, "unitid": unit_id})


def requests(unit_id: str) -> list[Request]:
    """Return a request of each verb and form; those that end the unit come last."""
    submit = {"command": "work", "subcommand": "submit", "node": "foo"}
    connect = {"node": "bar", "service": "echo"}
    adopt = {"node": "bar", "unitid": "abcdefgh"}
    return [
        Request(submit | {"worktype": "cat"}, {"verb": "submit", "worktype": "cat"}),
        *(
            Request(
                submit | {"worktype": "wait", "params": text},
                {"verb": "submit", "worktype": "wait", "params": {"params": text}},
            )
            for text in ("good", "bad")
        ),
        Request({"command": "work", "subcommand": "list"}, {"verb": "list"}),
        Request.of_unit(Verb.LIST, unit_id),
        Request.of_unit(Verb.STATUS, unit_id),
        Request.of_unit(Verb.RESULTS, unit_id),
        Request.of_unit(Verb.STATUS, "XXXXXXXX"),
        Request.of_unit(Verb.CANCEL, "XXXXXXXX"),
        Request({"command": "work", "subcommand": "adopt", **adopt}, {"verb": "adopt", **adopt}),
        Request({"command": "connect", **connect}, {"verb": "connect", **connect}),
        Request({"command": "ping", "target": "bar"}, {"verb": "ping", "node": "bar"}),
        Request({"command": "reload"}, {"verb": "reload"}),
        Request({"command": "status"}, {"verb": "mesh-status"}),
        Request.of_unit(Verb.CANCEL, unit_id),
        Request.of_unit(Verb.RELEASE, unit_id),
    ]


REFUSALS = ("permission denied", "unknown work unit", "this node ", "this work unit")


def is_refused(line: str) -> bool:
    return line.startswith(tuple(f"ERROR: {text}" for text in REFUSALS))


@pytest.fixture
def foo(foo):
    foo.clients = {name: identity for name, (_, identity) in CLIENTS.items()}
    return foo


async def talk(node, name: str, request: dict[str, object]) -> list[str]:
    kind, _ = CLIENTS[name]
    payload = b"" if request.get("subcommand") == "submit" else None
    return await node.talk(request, payload, kind=kind, peer=name)


async def can(node, name: str, asked: dict[str, object]) -> dict[str, object]:
    (line,) = await talk(node, name, {"command": "auth", "subcommand": "can", **asked})
    return json.loads(line)


async def submit(node, name: str, target: str = "foo", work_type: str = "cat") -> str:
    request = {"command": "work", "subcommand": "submit", "node": target, "worktype": work_type}
    lines = await talk(node, name, request)
    return str(json.loads(lines[1])["unitid"])


OWNERS = [
    *((name, "ann", list(CLIENTS)) for name in RULES),
    *(
        (name, owner, [owner, "ann"])
        for name in ("own", "a card's", "nodes'")
        for owner in ("carol", "nobody", "far")
    ),
]


@pytest.mark.parametrize(("name_of_rules", "owner", "clients"), OWNERS)
async def test_what_is_answered_is_what_happens(foo, autojump_clock, name_of_rules, owner, clients):
    written = rules(*RULES[name_of_rules])
    async with foo.running():
        register_mesh_commands(foo.registry, Nowhere(), nothing_changed)
        for name in clients:
            foo.rules.rules = ()
            unit_id = await submit(foo, owner)
            foo.rules.rules = written
            for request in requests(unit_id):
                answer = await can(foo, name, request.asking)
                line, *_ = [*await talk(foo, name, request.doing), ""]
                assert answer["Here"] == (not is_refused(line)), (name, request, line)
                if "Reason" in answer and not answer["Here"]:
                    assert line == f"ERROR: {answer['Reason']}"


async def test_every_verb_is_asked_for_in_the_table() -> None:
    assert {request.asking["verb"] for request in requests("x")} == set(Verb)


# --- The other half


THERE = {
    "no rules": ((), True),
    "rules for foo": ("action=allow | who=node=foo | do=submit", True),
    "rules for another node": ("action=allow | who=node=baz | do=submit", False),
    "rules for another type": ("action=allow | who=any | do=submit | worktype=wait", False),
    "rules for what ends": ("action=allow | who=any | do=cancel | units=all", False),
}


@pytest.mark.parametrize(("written", "allowed"), THERE.values(), ids=THERE)
async def test_of_work_for_another_node_its_answer_counts(
    foo, bar, autojump_clock, written, allowed
):
    bar.rules.rules = rules(written) if written else ()
    async with foo.running(), bar.running():
        answer = await can(foo, "ann", {"verb": "submit", "worktype": "cat", "node": "bar"})
        assert (answer["Allowed"], answer["Here"], answer["There"]) == (allowed, True, allowed)
        assert bar.units.all() == ()
        request = {"command": "work", "subcommand": "submit", "node": "bar", "worktype": "cat"}
        with trio.move_on_after(60):
            _, answer = await talk(foo, "ann", request)
            assert answer.startswith("ERROR") == (not allowed)
        assert bool(bar.units.all()) == allowed


@pytest.mark.parametrize("allowed", [True, False])
async def test_of_what_is_passed_on_to_another_node_its_answer_counts(
    foo, bar, autojump_clock, allowed
):
    async with foo.running(), bar.running():
        unit_id = await submit(foo, "ann", "bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        verbs = '["submit", "status", "results", "list"%s]' % (', "cancel"' if allowed else "")
        bar.rules.rules = rules(f"action=allow | who=node=foo | do={verbs} | units=own")
        answer = await can(foo, "ann", {"verb": "cancel", "unitid": unit_id})
        assert answer["There"] is allowed
        (there,) = bar.units.all()
        assert not there.is_final
        with trio.move_on_after(60):
            await talk(foo, "ann", {"command": "work", "subcommand": "cancel", "unitid": unit_id})
        assert there.is_final == allowed
        for verb in ("status", "list", "results"):
            assert "There" not in await can(foo, "ann", {"verb": verb, "unitid": unit_id})


async def test_a_node_that_knows_no_such_question_leaves_the_answer_open(foo, bar, autojump_clock):
    bar.is_receptor = True
    async with foo.running(), bar.running():
        answer = await can(foo, "ann", {"verb": "submit", "worktype": "cat", "node": "bar"})
        assert (answer["Allowed"], answer["Here"], answer["There"]) == (None, True, None)
        assert answer["Reason"] == "node bar does not say: Unknown command"


async def test_a_node_that_is_not_there_leaves_the_answer_open(foo, autojump_clock):
    async with foo.running():
        answer = await can(foo, "ann", {"verb": "submit", "worktype": "cat", "node": "bar"})
        assert (answer["Allowed"], answer["Here"], answer["There"]) == (None, True, None)


async def test_secrets_are_not_sent_with_a_question(foo, bar, autojump_clock, caplog):
    caplog.set_level(logging.DEBUG)
    bar.rules.rules = rules("action=deny | who=any | do=submit | params=/./")
    heard = []
    bar.rules.sink = heard.append
    async with foo.running(), bar.running():
        asked = {"verb": "submit", "worktype": "cat", "node": "bar", "params": {"secret_x": "S3"}}
        assert (await can(foo, "ann", asked))["There"] is False
    assert heard == []
    assert "S3" not in caplog.text


# --- Asking


async def test_asking_is_no_refusal_in_the_log_and_nothing_to_who_listens(foo, caplog):
    heard = []
    foo.rules.sink = heard.append
    foo.rules.rules = rules(RULES["nothing"][0])
    async with foo.running():
        for request in requests("XXXXXXXX"):
            assert (await can(foo, "ann", request.asking))["Allowed"] is False
    assert heard == []
    assert "refused" not in caplog.text


WRONG = {
    "auth": "bad command",
    "auth may submit": "bad command",
    "auth can explode": "field verb must be one of submit, ",
    "auth can submit": "field worktype missing",
    "auth can connect bar": "field service missing",
    "auth can adopt bar": "field unitid missing",
    "auth can reload now": "auth can reload takes nothing",
    "auth can ping bar baz": "auth can ping takes node",
    '{"command":"auth","subcommand":"can","verb":7}': "field verb must be a string",
    '{"command":"auth","subcommand":"can","verb":"submit","worktype":"x","params":{"a":1}}': (
        "field params must be an object of strings"
    ),
}


@pytest.mark.parametrize(("line", "fault"), WRONG.items(), ids=WRONG)
async def test_a_question_that_is_none_is_an_error(foo, line, fault):
    async with foo.running():
        (answer,) = await foo.talk(line, peer="ann")
        assert answer.startswith(f"ERROR: {fault}")


async def test_a_question_can_be_asked_in_text(foo):
    foo.rules.rules = rules("action=allow | who=uid=1000 | do=submit | params=a  b")
    async with foo.running():
        for line, allowed in (
            ("auth can submit cat foo a  b", True),
            ("auth can submit cat localhost a b", False),
            ("auth can submit cat", False),
            ("AUTH CAN reload", False),
        ):
            (answer,) = await foo.talk(line, peer="ann")
            assert json.loads(answer)["Allowed"] is allowed


async def test_a_submission_key_of_anothers_unit_tells_its_id_only_to_who_may_know_of_it(
    foo, autojump_clock
):
    request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
    request["submissionkey"] = "nightly"
    own = 'action=allow | who=any | do=["submit", "status"] | units=own'
    looks = 'action=allow | who=any | do=["submit", "status"] | units=all'
    async with foo.running():
        foo.rules.rules = rules(own)
        _, started = await talk(foo, "ann", request)
        known = f"ERROR: already submitted as unit {json.loads(started)['unitid']}"
        assert await talk(foo, "ann", request) == [known]
        hidden = "ERROR: field submissionkey is that of another client's work"
        assert await talk(foo, "bob", request) == [hidden]
        foo.rules.rules = rules(looks)
        assert await talk(foo, "bob", request) == [known]
