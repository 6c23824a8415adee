"""Firewall rules in files and arguments: what they mean, and what is refused with its line."""

from pathlib import Path

import pytest

from meshnode.config import ConfigFaults, load_arguments, load_file
from meshnode.policies import Action, NamePattern, Rule

HEAD = "- local-only\n- node:\n    id: foo\n    firewallrules:\n"

FAULTS = {
    "an unknown action": (
        "      - action: accept\n      - action: acept\n        tonode: x\n",
        '{f}:6: node: firewallrules: rule 2: action: "acept" is not one of accept, reject, drop',
    ),
    "no action": (
        "      - action: drop\n      -\n        tonode: x\n",
        "{f}:7: node: firewallrules: rule 2: action is missing (one of accept, reject, drop)",
    ),
    "a mistyped key": (
        "      - action: drop\n        formnode: x\n",
        '{f}:6: node: firewallrules: rule 1: "formnode" is unknown; did you mean "fromnode"?',
    ),
    "a key like no other": (
        "      - action: drop\n        [a]: x\n",
        '{f}:6: node: firewallrules: rule 1: "?" is unknown; '
        "it takes action, fromnode, tonode, fromservice, toservice",
    ),
    "a key twice": (
        "      - action: drop\n        tonode: x\n        ToNode: y\n",
        "{f}:7: node: firewallrules: rule 1: tonode is given twice",
    ),
    "an expression that does not compile": (
        "      - action: drop\n        tonode: /(a/\n",
        "{f}:6: node: firewallrules: rule 1: tonode: "
        "is not a regular expression of RE2: missing ): ^(a$",
    ),
    "an expression without its end": (
        "      - action: drop\n        tonode: /a\n",
        "{f}:6: node: firewallrules: rule 1: tonode: "
        "begins with / and does not end with it; write /expression/",
    ),
    "an empty name": (
        "      - action: accept\n        fromnode: ''\n",
        "{f}:6: node: firewallrules: rule 1: fromnode: is empty; leave it out to match every name",
    ),
    "no value": (
        "      - action: accept\n        fromnode:\n",
        "{f}:6: node: firewallrules: rule 1: fromnode: "
        "has no value; expected: node ID or /regular expression/",
    ),
    "a name that no message carries": (
        "      - action: accept\n        tonode: localhost\n",
        '{f}:6: node: firewallrules: rule 1: tonode: "localhost" is reserved: '
        "it means the node itself",
    ),
    "a service that no message carries": (
        "      - action: accept\n        toservice: controller\n",
        '{f}:6: node: firewallrules: rule 1: toservice: "controller" is 10 bytes long; '
        "a service name has at most 8",
    ),
    "text instead of a rule": (
        "      - reject\n",
        "{f}:5: node: firewallrules: rule 1 is not a map of action, fromnode, tonode, "
        "fromservice, toservice",
    ),
    "no rules at all": (
        "",
        "{f}:4: node: firewallrules: has no value; expected: list of rules, each a map of "
        "action, fromnode, tonode, fromservice, toservice",
    ),
}


@pytest.mark.parametrize(("rules", "expected"), FAULTS.values(), ids=FAULTS)
def test_a_bad_rule_is_refused_with_its_line(tmp_path: Path, rules: str, expected: str) -> None:
    path = tmp_path / "foo.yml"
    path.write_text(HEAD + rules)
    with pytest.raises(ConfigFaults) as caught:
        load_file(str(path))
    assert str(caught.value) == expected.format(f=path)


def test_rules_are_read_in_receptors_notation(tmp_path: Path) -> None:
    path = tmp_path / "foo.yml"
    path.write_text(
        HEAD
        + '      - Action: "Accept"\n        FromNode: bar\n        toService: ping\n'
        + '      - action: REJECT\n        tonode: "/(?i)a.*b/"\n'
        + "      - {action: drop, fromservice: unreach}\n"
    )
    assert load_file(str(path)).node.firewallrules == (
        Rule(Action.ACCEPT, from_node=NamePattern("bar"), to_service=NamePattern("ping")),
        Rule(Action.REJECT, to_node=NamePattern("/(?i)a.*b/")),
        Rule(Action.DROP, from_service=NamePattern("unreach")),
    )


def test_no_rules_and_an_empty_list_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "foo.yml"
    path.write_text("- local-only\n- node: {id: foo, firewallrules: []}\n")
    assert load_file(str(path)).node.firewallrules == ()


def test_rules_can_be_given_as_arguments() -> None:
    one, other = '{"action": "drop", "tonode": "bar"}', '{"action": "accept"}'
    expected = (Rule(Action.DROP, to_node=NamePattern("bar")), Rule(Action.ACCEPT))
    for arguments in (
        [f"firewallrules={one}", f"firewallrules={other}"],
        [f"firewallrules=[{one}, {other}]"],
    ):
        config = load_arguments(["--local-only", "--node", "id=foo", *arguments])
        assert config.node.firewallrules == expected
