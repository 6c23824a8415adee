"""Access rules in files: what they mean, and what is refused because it could mean less."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import ConfigFaults, load_arguments, load_file
from meshnode.config.access_directives import parse_who
from meshnode.config.names import Wrong
from meshnode.permissions import ON_WORK, AccessRule, Fact, TextPattern, Verb, Way

HEAD = "- local-only\n- node: foo\n"
RULE = "- access-rule:\n    action: {action}\n"


def load(tmp_path: Path, text: str) -> tuple[AccessRule, ...]:
    path = tmp_path / "foo.yml"
    path.write_text(HEAD + text)
    return load_file(str(path)).rules


def test_a_rule_has_what_is_written(tmp_path: Path) -> None:
    (rule,) = load(
        tmp_path,
        """\
- access-rule:
    name: operators
    action: allow
    who: [uid=1000, node=/b.*/ and key=ops]
    do: submit
    from: [socket, mesh]
    worktype: echo
    tonode: [bar, /baz|boo/]
    params: {params: /-n .*/, other: ''}
    units: own
""",
    )
    assert rule == AccessRule(
        label="",
        allows=True,
        who=(
            (Fact("uid", 1000),),
            (
                Fact("node", pattern=TextPattern("/b.*/")),
                Fact("key", pattern=TextPattern("ops")),
            ),
        ),
        verbs=frozenset({Verb.SUBMIT}),
        ways=frozenset({Way.SOCKET, Way.MESH}),
        work_types=(TextPattern("echo"),),
        nodes=(TextPattern("bar"), TextPattern("/baz|boo/")),
        params={"params": TextPattern("/-n .*/"), "other": TextPattern("")},
        own_only=True,
    )
    assert rule.label == f'"operators" ({tmp_path}/foo.yml:3)'


def test_rules_are_asked_in_the_order_of_the_file(tmp_path: Path) -> None:
    one = "- access-rule: {{action: allow, who: uid={0}, do: ping}}\n"
    rules = load(tmp_path, "".join(one.format(number) for number in (3, 1, 2)))
    assert [rule.who[0][0].number for rule in rules] == [3, 1, 2]
    assert [rule.label for rule in rules] == [f"{tmp_path}/foo.yml:{line}" for line in (3, 4, 5)]


def test_every_verb_is_every_one_that_the_conditions_are_about(tmp_path: Path) -> None:
    all_of_them, of_types = load(
        tmp_path,
        "- access-rule: {action: deny, who: any, do: any, units: all}\n"
        "- access-rule: {action: deny, who: any, do: any, units: all, worktype: echo}\n",
    )
    assert all_of_them.verbs == frozenset(Verb)
    assert of_types.verbs == ON_WORK


SUBJECTS = ["CN=a", "CN=a,O=b and c", "/.*,O=x and y/", "", "uid", "a=b"]


@given(st.sampled_from(SUBJECTS) | st.text(st.characters(exclude_characters="/"), max_size=8))
def test_a_subject_may_be_any_text_that_another_fact_follows(subject: str) -> None:
    try:
        who = parse_who(f"subject={subject} and key=ops")
    except Wrong:
        assert " and " in subject
        return
    assert who == (
        Fact("subject", pattern=TextPattern(subject)),
        Fact("key", pattern=TextPattern("ops")),
    )


FAULTS = {
    "no client": ("who: ''\n    do: ping", ":5: access-rule: who: is empty; expected: any, "),
    "no clients": ("who: []\n    do: ping", ":5: access-rule: who: is an empty list; "),
    "a mistyped fact": (
        "who: udi=7\n    do: ping",
        ':5: access-rule: who: "udi=7" says of nobody who it is; did you mean "uid"?',
    ),
    "a name for a number": (
        "who: uid=ann\n    do: ping",
        ':5: access-rule: who: "ann" is not the number of a user',
    ),
    "somebody who cannot be": (
        "who: uid=7 and node=bar\n    do: ping",
        ':5: access-rule: who: "uid=7 and node=bar" is nobody: no client is known by all of that',
    ),
    "an unknown verb": ("who: any\n    do: [ping, pong]", ':6: access-rule: do: "pong" is not '),
    "no units": (
        "who: any\n    do: [cancel, submit]",
        ":3: access-rule: units: is missing: own or all (units are what cancel can be asked of)",
    ),
    "a type of no work": (
        "who: any\n    do: [submit, reload]\n    worktype: echo",
        ":7: access-rule: worktype: no request to reload has any; "
        "write a rule of its own for reload",
    ),
    "parameters of a cancel": (
        "who: any\n    do: cancel\n    units: own\n    params: x",
        ":8: access-rule: params: no request to cancel has any; ",
    ),
    "a service and a type": (
        "who: any\n    do: any\n    units: own\n    toservice: x\n    worktype: y",
        ":6: access-rule: do: no request meets all conditions of this rule",
    ),
    "a way by which they do not come": (
        "who: uid=7\n    do: ping\n    from: mesh",
        ":7: access-rule: from: only clients from socket have a uid",
    ),
    "a key where nothing is signed": (
        "who: key=ops\n    do: ping",
        ':5: access-rule: who: "key=ops": only what is asked of work can be signed',
    ),
    "an empty type": (
        "who: any\n    do: submit\n    worktype: ''",
        ":7: access-rule: worktype: is empty; leave the parameter out to mean every one",
    ),
    "an expression that closes its brackets": (
        "who: any\n    do: submit\n    params: /a)|(b/",
        ":7: access-rule: params: is not a regular expression of RE2: unexpected ): a)|(b",
    ),
    "no parameters": (
        "who: any\n    do: submit\n    params: {}",
        ":7: access-rule: params: is empty; expected: ",
    ),
}


@pytest.mark.parametrize(("rest", "fault"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("action", ["allow", "deny"])
def test_a_rule_that_means_less_than_it_says_is_refused_with_its_line(
    tmp_path: Path, action: str, rest: str, fault: str
) -> None:
    with pytest.raises(ConfigFaults) as faults:
        load(tmp_path, RULE.format(action=action) + f"    {rest}\n")
    assert fault in str(faults.value)


@pytest.mark.parametrize("rules", ["", " []", " ~"])
@pytest.mark.parametrize("key", ["access-rules", "access-rule", "Access-Rules"])
def test_an_empty_list_of_rules_opens_no_node(tmp_path: Path, key: str, rules: str) -> None:
    path = tmp_path / "foo.yml"
    path.write_text(f"local-only: {{}}\nnode: {{id: foo}}\n{key}:{rules}\n")
    with pytest.raises(ConfigFaults) as faults:
        load_file(str(path))
    assert "is empty: nothing would be refused" in str(faults.value)


def test_two_rules_of_one_name_are_refused(tmp_path: Path) -> None:
    one = "- access-rule: {action: allow, who: any, do: ping, name: n}\n"
    with pytest.raises(ConfigFaults, match="already used by the access-rule on line 3"):
        load(tmp_path, one * 2)


def test_arguments_make_the_same_rule_as_a_file(tmp_path: Path) -> None:
    (from_file,) = load(
        tmp_path,
        "- access-rule: {action: allow, who: [uid=1, uid=2], do: [submit, adopt], tonode: bar}\n",
    )
    arguments = ["--local-only", "--node", "foo", "--access-rule", "action=allow"]
    arguments += ["who=uid=1", "who=uid=2", "do=submit", "do=adopt", "tonode=bar"]
    assert load_arguments(arguments).rules == (from_file,)


def test_what_denies_lets_a_dot_be_a_line_break(tmp_path: Path) -> None:
    allows, denies = load(
        tmp_path,
        "- access-rule: {action: allow, who: any, do: submit, params: /a.b/}\n"
        "- access-rule: {action: deny, who: any, do: submit, params: /a.b/}\n",
    )
    assert not allows.params["params"].matches("a\nb")
    assert denies.params["params"].matches("a\nb")


ALL = "who: any, do: any, units: all"
SHADOWED = {
    "by all": (ALL, "who: uid=1, do: reload", True),
    "by the same client": ("who: [uid=1, uid=2], do: ping", "who: uid=2, do: ping", True),
    "of another client": ("who: uid=1, do: ping", "who: uid=2, do: ping", False),
    "of another verb": ("who: any, do: ping", "who: any, do: reload", False),
    "from elsewhere": (ALL + ", from: tcp", "who: any, do: reload", False),
    "of one type": (ALL + ", worktype: x", ALL, False),
    "of own units": ("who: any, do: any, units: own", ALL, False),
    "of what has no units": ("who: any, do: any, units: own", "who: any, do: submit", True),
}


@pytest.mark.parametrize(("first", "second", "is_shadowed"), SHADOWED.values(), ids=SHADOWED)
@pytest.mark.parametrize("action", ["allow", "deny"])
def test_a_rule_that_never_decides_is_warned_of(
    tmp_path: Path, action: str, first: str, second: str, is_shadowed: bool
) -> None:
    path = tmp_path / "foo.yml"
    written = (f"- access-rule: {{action: allow, {first}}}\n", f"action: {action}, {second}")
    path.write_text(f"{HEAD}{written[0]}- access-rule: {{{written[1]}}}\n")
    texts = [str(warning) for warning in load_file(str(path)).warnings]
    expected = (
        f"{path}:4: access-rule: never decides: the rule on line 3 is about all that this one "
        "is about"
    )
    assert texts == ([expected] if is_shadowed else [])
