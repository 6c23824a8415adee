"""What access rules decide, as a function of rules, client, verb and target."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import NotAllowed
from meshnode.permissions import ON_UNITS, AccessRule, Fact, TextPattern, Verb, Way
from meshnode.security.access import AccessRules, Asker, Decision, Target, decide, is_own
from meshnode.security.identity import (
    CertificateNames,
    Identity,
    MeshClient,
    TcpClient,
    TokenClient,
    UnixClient,
    UnknownClient,
)

ANYBODY = ((),)
ANN = UnixClient(1000, 100, 7, "ann")
BOB = UnixClient(1001, 100, 8, "bob")
CARD = CertificateNames("CN=carol,O=Red, Hat", ("baz",))
CAROL = TcpClient("10.0.0.1:5000", CARD)
NOBODY = TcpClient("10.0.0.2:5000")
BAR = MeshClient("bar", "x1", claim=ANN)
IDENTITIES: Mapping[str, tuple[Identity, Way]] = {
    "ann": (ANN, Way.SOCKET),
    "bob": (BOB, Way.SOCKET),
    "carol": (CAROL, Way.TCP),
    "nobody": (NOBODY, Way.TCP),
    "bar": (BAR, Way.MESH),
    "barred": (replace(BAR, certificate=CertificateNames("CN=bar", ("bar",))), Way.MESH),
    "unknown": (UnknownClient(), Way.SOCKET),
    "ci": (TokenClient("ci", "10.0.0.9:1"), Way.TCP),
}


def fact(name: str, value: str | int) -> Fact:
    if isinstance(value, int):
        return Fact(name, value)
    return Fact(name, pattern=TextPattern.parse(value))


def rule(allows: bool = True, **conditions: Any) -> AccessRule:
    given: dict[str, Any] = {"who": ANYBODY, "verbs": frozenset(Verb), **conditions}
    return AccessRule(label="foo.yml:1", allows=allows, **given)


def patterns(*texts: str, dot_is_any: bool = False) -> tuple[TextPattern, ...]:
    return tuple(TextPattern.parse(text, dot_is_any=dot_is_any) for text in texts)


texts = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(
    ["echo", "bar", "control", "localhost", "\ud800", "a\nb", ""]
)
askers = st.builds(
    Asker,
    st.sampled_from([one for one, _ in IDENTITIES.values()])
    | st.builds(MeshClient, texts)
    | st.builds(TokenClient, texts, st.just("1.2.3.4:5"))
    | st.builds(
        TcpClient, st.just("1.2.3.4:5"), st.builds(CertificateNames, texts, st.tuples(texts))
    ),
    st.sampled_from(Way),
    texts,
)
targets = st.none() | st.builds(
    Target,
    node=texts,
    work_type=texts,
    service=texts,
    params=st.dictionaries(texts, texts, max_size=3),
    owner=st.sampled_from([None, *(one for one, _ in IDENTITIES.values())]),
    unit_id=texts,
)
made_patterns = st.sampled_from(patterns("echo", "bar", "/.*/", "/b.|/", "control"))
facts = st.one_of(
    st.builds(Fact, st.sampled_from(["uid", "gid"]), st.integers(0, 1001)),
    st.builds(
        Fact,
        st.sampled_from(["subject", "certnode", "node", "key", "token"]),
        pattern=made_patterns,
    ),
)
rules = st.builds(
    AccessRule,
    label=st.just("foo.yml:1"),
    allows=st.booleans(),
    who=st.lists(st.lists(facts, max_size=2).map(tuple), min_size=1, max_size=2).map(tuple),
    verbs=st.frozensets(st.sampled_from(Verb), min_size=1),
    ways=st.frozensets(st.sampled_from(Way), min_size=1),
    work_types=st.lists(made_patterns, max_size=1).map(tuple),
    nodes=st.lists(made_patterns, max_size=1).map(tuple),
    services=st.lists(made_patterns, max_size=1).map(tuple),
    params=st.dictionaries(texts, made_patterns, max_size=2),
    own_only=st.booleans(),
)


# --- The function as a whole


@given(st.lists(rules, max_size=4), askers, st.sampled_from(Verb), targets)
def test_whatever_is_asked_of_whatever_rules_there_is_one_decision_that_has_a_line(
    some: list[AccessRule], asker: Asker, verb: Verb, target: Target | None
) -> None:
    decision = decide(some, asker, verb, target)
    assert decision.reason
    assert decision.allowed == (not some or (decision.rule is not None and decision.rule.allows))
    assert len(str(decision).splitlines()) == 1


@given(st.lists(rules, min_size=1, max_size=4), askers, st.sampled_from(Verb), targets)
def test_rules_that_only_deny_allow_nothing(
    some: list[AccessRule], asker: Asker, verb: Verb, target: Target | None
) -> None:
    assert not decide([replace(one, allows=False) for one in some], asker, verb, target).allowed


@given(rules, st.lists(rules, max_size=3), askers, st.sampled_from(Verb), targets)
def test_the_first_rule_that_is_about_a_request_decides_whatever_follows(
    first: AccessRule, others: list[AccessRule], asker: Asker, verb: Verb, target: Target | None
) -> None:
    alone = decide([first], asker, verb, target)
    if alone.rule is not None:
        assert decide([first, *others], asker, verb, target) == alone


@given(st.lists(rules, max_size=3), askers, st.sampled_from(Verb), targets.filter(bool))
def test_what_may_be_done_to_something_may_be_done_to_something(
    some: list[AccessRule], asker: Asker, verb: Verb, target: Target
) -> None:
    if decide(some, asker, verb, target).allowed:
        assert decide(some, asker, verb, None).allowed


@given(askers, st.sampled_from(Verb), targets)
def test_without_rules_everything_is_allowed(
    asker: Asker, verb: Verb, target: Target | None
) -> None:
    assert decide((), asker, verb, target).allowed


# --- Who


KNOWN_BY = {
    ("uid", 1000): {"ann"},
    ("gid", 100): {"ann", "bob"},
    ("subject", "CN=carol,O=Red, Hat"): {"carol"},
    ("subject", "/CN=.*/"): {"carol", "barred"},
    ("certnode", "/ba./"): {"carol", "barred"},
    ("node", "bar"): {"bar", "barred"},
    ("node", "/.*/"): {"bar", "barred"},
    ("node", "/b/"): set(),
    ("token", "ci"): {"ci"},
    ("token", "/.*/"): {"ci"},
}


@pytest.mark.parametrize(("known_by", "who"), KNOWN_BY.items(), ids=map(str, KNOWN_BY))
@pytest.mark.parametrize("name", IDENTITIES)
def test_a_client_is_known_by_what_it_is_and_not_by_what_it_claims(
    name: str, known_by: tuple[str, str | int], who: set[str]
) -> None:
    identity, way = IDENTITIES[name]
    one = rule(who=((fact(*known_by),),))
    assert decide([one], Asker(identity, way), Verb.PING, Target()).allowed == (name in who)


def test_facts_of_one_item_must_all_be_so_and_one_item_is_enough() -> None:
    both = (fact("node", "bar"), fact("key", "ops"))
    one = rule(who=(both, (fact("uid", 1000),)))
    assert not decide([one], Asker(BAR, Way.MESH), Verb.SUBMIT, Target()).allowed
    assert decide([one], Asker(BAR, Way.MESH, "ops"), Verb.SUBMIT, Target()).allowed
    assert decide([one], Asker(ANN, Way.SOCKET), Verb.SUBMIT, Target()).allowed


def test_who_has_not_signed_has_no_key_whatever_the_pattern_is() -> None:
    one = rule(who=((fact("key", "/.*/"),),))
    assert not decide([one], Asker(BAR, Way.MESH), Verb.SUBMIT, Target()).allowed


@pytest.mark.parametrize("way", Way)
def test_a_rule_is_about_the_ways_that_it_names(way: Way) -> None:
    one = rule(ways=frozenset({Way.SOCKET, Way.MESH}))
    assert decide([one], Asker(ANN, way), Verb.PING, Target()).allowed == (way is not Way.TCP)


# --- What


@pytest.mark.parametrize("asked", Verb)
@pytest.mark.parametrize("verb", Verb)
def test_a_verb_allows_no_other_one(verb: Verb, asked: Verb) -> None:
    one = rule(verbs=frozenset({verb}))
    assert decide([one], Asker(ANN, Way.SOCKET), asked, Target()).allowed == (verb is asked)


@pytest.mark.parametrize("condition", ["work_types", "nodes", "services", "params"])
@pytest.mark.parametrize("allows", [True, False])
def test_a_condition_is_never_met_by_what_has_no_such_thing(condition: str, allows: bool) -> None:
    about = {"a": patterns("/.*/")[0]} if condition == "params" else patterns("/.*/")
    one = rule(allows, **{condition: about})
    decision = decide([one], Asker(ANN, Way.SOCKET), Verb.RELOAD, Target())
    assert decision.rule is None


@pytest.mark.parametrize(
    ("pattern", "meant", "not_meant"),
    [
        ("echo", ["echo"], ["echo2", "my-echo", "Echo", "", "echo\n"]),
        ("/echo|cat/", ["echo", "cat"], ["echo2", "my-cat", "echo\n", "xcat"]),
        ("/(?i)echo/", ["Echo"], ["Echo!"]),
        ("/(?m)^a$/", ["a"], ["a\nb", "b\na"]),
        ("/a.b/", ["axb"], ["a\nb"]),
    ],
)
def test_a_pattern_means_whole_texts_only(
    pattern: str, meant: list[str], not_meant: list[str]
) -> None:
    one = TextPattern.parse(pattern)
    assert all(map(one.matches, meant))
    assert not any(map(one.matches, not_meant))


@pytest.mark.parametrize("pattern", ["/a)|(b/", "/(/", "/", "/a", "/\\Qa/", "/a(?!b)/"])
def test_what_is_no_expression_by_itself_is_none(pattern: str) -> None:
    if pattern == "/\\Qa/":
        assert TextPattern.parse(pattern).matches("a")
        return
    with pytest.raises(ValueError, match=r"regular expression|does not end"):
        TextPattern.parse(pattern)


def test_a_line_break_slips_past_no_rule_that_denies() -> None:
    (pattern,) = patterns("/.*rm .*/", dot_is_any=True)
    some = [rule(False, params={"params": pattern}), rule()]
    target = Target(params={"params": "x\nrm -r y\n"})
    assert not decide(some, Asker(ANN, Way.SOCKET), Verb.SUBMIT, target).allowed


@pytest.mark.parametrize("place", ["params", "name", "work_type", "node", "service"])
def test_a_text_that_no_pattern_can_read_slips_past_no_rule(place: str) -> None:
    odd = "rm \ud800"
    target = {
        "params": Target(params={"params": odd}),
        "name": Target(params={odd: ""}),
        "work_type": Target(work_type=odd),
        "node": Target(node=odd),
        "service": Target(service=odd),
    }[place]
    denies = rule(False, params={"params": patterns("/rm.*/")[0]})
    assert not decide([denies, rule()], Asker(ANN, Way.SOCKET), Verb.SUBMIT, target).allowed


@pytest.mark.parametrize("fact_of", ["node", "key", "subject", "certnode"])
def test_a_client_whom_no_pattern_can_read_may_nothing(fact_of: str) -> None:
    odd = "b\ud800"
    client = MeshClient(odd, certificate=CertificateNames(odd, (odd,)))
    denies = rule(False, who=((fact(fact_of, "/b.*/"),),))
    decision = decide([denies, rule()], Asker(client, Way.MESH, odd), Verb.PING, Target())
    assert (decision.allowed, decision.is_unreadable) == (False, True)


PARAMS = {
    "exactly": ({"params": "x"}, True),
    "with a blank more": ({"params": "x "}, False),
    "in quotes": ({"params": '"x"'}, False),
    "none": ({}, False),
    "a further one": ({"params": "x", "other": ""}, False),
    "in another case": ({"Params": "x"}, False),
}


@pytest.mark.parametrize(("params", "allowed"), PARAMS.values(), ids=PARAMS)
def test_a_rule_allows_the_very_parameters_that_it_names(
    params: dict[str, str], allowed: bool
) -> None:
    one = rule(params={"params": patterns("x")[0]})
    decision = decide([one], Asker(ANN, Way.SOCKET), Verb.SUBMIT, Target(params=params))
    assert decision.allowed == allowed


def test_a_rule_denies_parameters_whatever_else_is_sent() -> None:
    some = [rule(False, params={"a": patterns("x")[0]}), rule()]
    target = Target(params={"a": "x", "b": "y"})
    assert not decide(some, Asker(ANN, Way.SOCKET), Verb.SUBMIT, target).allowed


# --- Whose


OWNERS: dict[str, tuple[Identity | None, set[str]]] = {
    "ann, of another process": (UnixClient(1000, 7, 99), {"ann"}),
    "bob": (BOB, {"bob"}),
    "carol, from another address": (TcpClient("1.2.3.4:1", CARD), {"carol"}),
    "an address": (NOBODY, set()),
    "bar, for bob": (MeshClient("bar", "y", claim=BOB), {"bar", "barred"}),
    "bar, with a certificate": (
        MeshClient("bar", certificate=CertificateNames("CN=bar", ("bar",))),
        {"barred"},
    ),
    "baz, for ann": (MeshClient("baz", claim=ANN), set()),
    "an unknown client": (UnknownClient(), set()),
    "nobody": (None, set()),
}


@pytest.mark.parametrize(("owner", "owned_by"), OWNERS.values(), ids=OWNERS)
@pytest.mark.parametrize("verb", sorted(ON_UNITS))
@pytest.mark.parametrize("name", IDENTITIES)
def test_own_is_the_same_user_node_or_certificate(
    name: str, verb: Verb, owner: Identity | None, owned_by: set[str]
) -> None:
    identity, way = IDENTITIES[name]
    target = Target(owner=owner)
    asker = Asker(identity, way)
    assert decide([rule(own_only=True)], asker, verb, target).allowed == (name in owned_by)
    assert decide([rule()], asker, verb, target).allowed
    assert is_own(identity, owner) == (name in owned_by)


def test_a_certificate_that_names_nobody_owns_nothing() -> None:
    nameless = TcpClient("10.0.0.1:5000", CertificateNames(""))
    assert not is_own(nameless, nameless)
    by_node = TcpClient("10.0.0.1:5000", CertificateNames("", ("bar",)))
    assert is_own(by_node, by_node)


def test_a_certificate_of_another_node_is_no_proof_of_a_name() -> None:
    """A listener that only checks what it is shown takes any certificate of its CA."""
    bar = MeshClient("bar", certificate=CertificateNames("CN=bar", ("bar",)))
    forged = MeshClient("bar", certificate=CertificateNames("CN=evil", ("evil",)))
    renewed = MeshClient("bar", certificate=CertificateNames("CN=bar,O=New", ("bar", "b2")))
    person = MeshClient("bar", certificate=CARD)
    assert not is_own(forged, bar)
    assert is_own(renewed, bar)
    assert is_own(person, replace(person, service="x9"))
    assert not is_own(person, forged)


# --- The rules of a node


def test_a_refusal_names_the_rule_to_the_log_and_not_to_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = AccessRules((rule(False, verbs=frozenset({Verb.PING})),))
    with pytest.raises(NotAllowed) as refusal:
        known.require(Asker(ANN, Way.SOCKET), Verb.PING, Target(node="bar"))
    assert str(refusal.value) == "permission denied: ping at bar"
    with pytest.raises(NotAllowed):
        known.require(Asker(ANN, Way.SOCKET), Verb.RELOAD, Target())
    assert [record.message for record in caplog.records] == [
        "access: refused ping at bar: socket client ann (uid 1000, pid 7): "
        "denied by rule foo.yml:1",
        "access: refused reload: socket client ann (uid 1000, pid 7): no rule allows it",
    ]


def test_who_listens_hears_of_each_refusal_and_who_asks_which_rule_allows() -> None:
    heard: list[Decision] = []
    known = AccessRules(sink=heard.append)
    assert known.require(Asker(ANN, Way.SOCKET), Verb.RELOAD, Target()) == ""
    known.rules = (rule(),)
    assert known.require(Asker(ANN, Way.SOCKET), Verb.RELOAD, Target()) == "foo.yml:1"
    known.rules = (rule(False),)
    with pytest.raises(NotAllowed):
        known.require(Asker(BOB, Way.SOCKET), Verb.RELOAD, Target())
    known.may(Asker(BOB, Way.SOCKET), Verb.RELOAD, Target())
    assert [(one.asker.identity, one.verb, one.allowed) for one in heard] == [
        (BOB, Verb.RELOAD, False),
    ]
