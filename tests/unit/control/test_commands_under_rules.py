"""Each command of the mesh asks the access rules before it does anything."""

import pytest

from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.control.registry import Asking, CommandRegistry
from meshnode.permissions import AccessRule, TextPattern, Verb, Way
from meshnode.security.access import AccessRules, Decision

COMMANDS = {
    "status": (b"status\n", b'{"command":"status","requested_fields":["NodeID"]}\n', Verb.MESH),
    "ping": (b"ping bar\n", b'{"command":"ping","target":"bar"}\n', Verb.PING),
    "traceroute": (b"traceroute bar\n", b'{"command":"traceroute","target":"bar"}\n', Verb.PING),
    "connect": (
        b"connect bar echo\n",
        b'{"command":"connect","node":"bar","service":"echo"}\n',
        Verb.CONNECT,
    ),
    "reload": (b"reload\n", b'{"command":"reload"}\n', Verb.RELOAD),
}


def rule(allows: bool = True, **conditions: object) -> AccessRule:
    given = {"who": ((),), "verbs": frozenset(Verb), **conditions}
    return AccessRule(label="foo.yml:1", allows=allows, **given)  # type: ignore[arg-type]


@pytest.fixture
def rules() -> AccessRules:
    return AccessRules()


@pytest.fixture
def registry(mesh, rules) -> CommandRegistry:
    async def nothing_changed() -> None:
        return None

    async def warnings() -> list[str]:
        return ["unit abcdefgh could not be taken over"]

    registry = CommandRegistry(rules)
    register_mesh_commands(registry, mesh, nothing_changed, warnings)
    return registry


def test_each_command_says_what_it_does(registry) -> None:
    for name, (text, _, verb) in COMMANDS.items():
        words = text.decode().strip().partition(" ")[2]
        handler = registry.find(name).parse_text(words)
        assert isinstance(handler, Asking)
        assert handler.verb is verb


@pytest.mark.parametrize(("text", "json", "verb"), COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(("kind", "way"), [("unix", "socket"), ("tcp", "tcp"), ("mesh", "mesh")])
async def test_a_command_is_refused_unless_a_rule_allows_its_verb_from_there(
    open_client, rules, text, json, verb, kind, way
):
    for line in (text, json):
        rules.rules = (rule(verbs=frozenset(Verb) - {verb}),)
        async with open_client(kind) as client:
            assert (await client.ask(line)).startswith(
                b"ERROR: permission denied: " + verb.encode()
            )
        rules.rules = (rule(verbs=frozenset({verb}), ways=frozenset(Way) - {Way(way)}),)
        async with open_client(kind) as client:
            assert (await client.ask(line)).startswith(b"ERROR: permission denied: ")
        rules.rules = (rule(verbs=frozenset({verb}), ways=frozenset({Way(way)})),)
        async with open_client(kind) as client:
            assert b"permission denied" not in await client.ask(line)


@pytest.mark.parametrize("line", ["ping localhost", "ping foo", "connect LOCALHOST echo"])
async def test_a_node_is_known_to_rules_by_its_id_whatever_it_is_called(open_client, rules, line):
    denies = rule(False, nodes=(TextPattern.parse("foo"),))
    rules.rules = (denies, rule())
    async with open_client() as client:
        assert (await client.ask(line.encode() + b"\n")).startswith(b"ERROR: permission denied: ")


async def test_a_connection_is_allowed_to_the_services_of_its_rule(open_client, rules):
    rules.rules = (rule(services=(TextPattern.parse("echo"),)),)
    async with open_client() as client:
        assert b"permission denied" not in await client.ask(b"connect bar echo\n")
    async with open_client() as client:
        answer = await client.ask(b"connect bar control\n")
        assert answer == b"ERROR: permission denied: connect control at bar\n"


async def test_whatever_is_refused_is_heard(open_client, rules):
    heard: list[Decision] = []
    rules.sink = heard.append
    rules.rules = (rule(verbs=frozenset({Verb.STATUS})),)
    async with open_client() as client:
        await client.ask(b"ping bar\nreload\nbogus\nping\n")
    assert [str(one).partition(":")[0] for one in heard] == ["ping at bar", "reload"]


async def test_a_session_goes_on_after_a_refusal(open_client, rules):
    rules.rules = (rule(verbs=frozenset({Verb.PING})),)
    async with open_client() as client:
        answers = (await client.ask(b"reload\nping bar\n")).splitlines()
        assert answers[0] == b"ERROR: permission denied: reload"
        assert b'"Success":true' in answers[1]


@pytest.mark.parametrize(
    ("conditions", "shown"),
    [
        ({}, True),
        ({"own_only": True}, False),
        ({"verbs": frozenset({Verb.MESH})}, False),
        ({"verbs": frozenset({Verb.MESH, Verb.LIST})}, True),
    ],
)
async def test_warnings_that_name_units_are_for_who_may_list_all(
    open_client, rules, conditions, shown
):
    rules.rules = (rule(**conditions),)
    async with open_client() as client:
        assert (b"abcdefgh" in await client.ask(b'{"command":"status"}\n')) == shown


async def test_who_may_not_list_some_units_is_not_warned_of_any(open_client, rules):
    hides = rule(False, verbs=frozenset({Verb.LIST}), work_types=(TextPattern.parse("secret"),))
    some = rule(verbs=frozenset({Verb.LIST}), work_types=(TextPattern.parse("echo"),))
    for these, shown in (
        ((hides, rule()), False),
        ((rule(), hides), True),
        ((some, rule()), True),
        ((some, rule(verbs=frozenset({Verb.MESH}))), False),
    ):
        rules.rules = these
        async with open_client() as client:
            answer = await client.ask(b'{"command":"status"}\n')
        assert (b"could not be taken over" in answer) == shown
