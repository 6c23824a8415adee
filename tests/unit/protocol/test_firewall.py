"""The first rule that matches decides; only names that rules ask for are looked up."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from meshnode.policies import Action, NamePattern, Rule
from meshnode.protocol import firewall as firewall_module
from meshnode.protocol.firewall import Firewall
from meshnode.protocol.messages import DataHeader, encode_service, is_readable
from meshnode.protocol.namehash import NameTable, name_hash

NODES = ("foo", "bar", "baz")
SERVICES = ("control", "ping", "x")


def rule(action: str, **patterns: str) -> Rule:
    return Rule(Action(action), **{key: NamePattern.parse(p) for key, p in patterns.items()})


def message(source: str, destination: str, from_service: str = "a", to_service: str = "b") -> bytes:
    header = DataHeader(
        29,
        name_hash(source),
        name_hash(destination),
        encode_service(from_service),
        encode_service(to_service),
    ).encode()
    return header + b"payload"


@given(st.binary(min_size=8, max_size=8), st.sampled_from(["from_service", "to_service"]))
def test_a_rule_about_services_lets_no_name_pass_that_is_not_text(field, asked_for):
    names = NameTable()
    names.learn("foo")
    names.learn("bar")
    firewall = Firewall([rule("reject", **{asked_for: "/(.*)/"})], names)
    fields = {"from_service": encode_service("a"), "to_service": encode_service("b")}
    fields[asked_for] = field
    header = DataHeader(
        29, name_hash("foo"), name_hash("bar"), fields["from_service"], fields["to_service"]
    )
    expected = Action.REJECT if is_readable(field) else Action.DROP
    assert firewall.judge(header.encode()).action is expected


class CountingNames(NameTable):
    """Counts what is looked up."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.asked: list[bytes] = []
        for name in names:
            self.learn(name)

    def name(self, hashed: bytes) -> str | None:
        self.asked.append(hashed)
        return super().name(hashed)


def judge(rules: list[Rule], *fields: str) -> Action:
    return Firewall(rules, CountingNames(*NODES)).judge(message(*fields)).action


def test_without_a_rule_that_matches_a_message_is_accepted() -> None:
    assert judge([rule("drop", from_node="baz")], "foo", "bar") is Action.ACCEPT


def test_a_rule_without_patterns_matches_everything() -> None:
    assert judge([rule("reject")], "foo", "bar") is Action.REJECT


def test_the_first_rule_that_matches_decides() -> None:
    rules = [rule("accept", to_service="control"), rule("drop", from_node="foo"), rule("reject")]
    assert judge(rules, "foo", "bar", "x", "control") is Action.ACCEPT
    assert judge(rules, "foo", "bar", "x", "y") is Action.DROP
    assert judge(rules, "bar", "foo", "x", "y") is Action.REJECT


def test_a_rule_matches_when_all_its_patterns_do() -> None:
    rules = [
        rule("drop", from_node="foo", to_node="bar", from_service="/d.*/", to_service="control")
    ]
    assert judge(rules, "foo", "bar", "dialer", "control") is Action.DROP
    assert judge(rules, "baz", "bar", "dialer", "control") is Action.ACCEPT
    assert judge(rules, "foo", "baz", "dialer", "control") is Action.ACCEPT
    assert judge(rules, "foo", "bar", "xdialer", "control") is Action.ACCEPT
    assert judge(rules, "foo", "bar", "dialer", "contro") is Action.ACCEPT


def test_the_verdict_names_the_rule() -> None:
    firewall = Firewall(
        [rule("accept", from_node="baz"), rule("drop")], CountingNames("foo", "baz")
    )
    assert firewall.judge(message("foo", "bar")).reason == "rule 2"


def test_names_that_no_rule_asks_for_are_not_looked_up() -> None:
    names = CountingNames()
    firewall = Firewall([rule("drop", to_service="control")], names)
    assert firewall.judge(message("foo", "bar", "x", "control")).action is Action.DROP
    assert firewall.judge(message("foo", "bar", "x", "y")).action is Action.ACCEPT
    assert names.asked == []


def test_the_messages_of_a_flow_are_judged_by_the_rules_once() -> None:
    names = CountingNames("foo", "bar")
    firewall = Firewall([rule("drop", from_node="/f.*/")], names)
    for _ in range(3):
        assert firewall.judge(message("foo", "bar")).action is Action.DROP
    assert names.asked == [name_hash("foo")]


def test_a_message_of_an_unknown_node_is_dropped_until_its_name_is_known() -> None:
    names = CountingNames("bar")
    firewall = Firewall([rule("reject", from_node="baz")], names)
    assert firewall.judge(message("foo", "bar")).action is Action.DROP
    names.learn("foo")
    assert firewall.judge(message("foo", "bar")).action is Action.ACCEPT


def test_the_memory_for_flows_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(firewall_module, "MAX_FLOWS", 10)
    firewall = Firewall([rule("drop", to_service="s7")], CountingNames())
    for round_ in range(3):
        for number in range(25):
            expected = Action.DROP if number == 7 else Action.ACCEPT
            verdict = firewall.judge(message("foo", "bar", f"c{round_}", f"s{number}"))
            assert verdict.action is expected
            assert len(firewall._verdicts) <= 10


patterns = st.none() | st.sampled_from(["foo", "/b.*/", "control", "/.*/"]).map(NamePattern.parse)
rules = st.lists(
    st.builds(Rule, st.sampled_from(Action), patterns, patterns, patterns, patterns), max_size=6
)


@given(rules)
def test_every_flow_gets_what_a_plain_reading_of_the_rules_gives(rules: list[Rule]) -> None:
    firewall = Firewall(rules, CountingNames(*NODES))
    for fields in itertools.product(NODES, NODES, SERVICES, SERVICES):
        expected = next(
            (
                r.action
                for r in rules
                if all(p is None or p.matches(f) for p, f in zip(r.patterns, fields, strict=True))
            ),
            Action.ACCEPT,
        )
        assert firewall.judge(message(*fields)).action is expected
        assert firewall.judge(message(*fields)).action is expected
