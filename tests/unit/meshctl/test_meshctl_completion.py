"""What is offered at TAB, without a shell: tests/integration/test_shell_completion.py has them."""

import json
import shlex
import socket
import threading

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_node import CANCELED, FAILED

from meshctl import shells
from meshctl.cli import cli
from meshctl.commands import completion

FIND = shells.of_click(cli, "meshctl")

KINDS = {"plain", "part", "file", "dir"}


@pytest.fixture
def offered(node, monkeypatch, capsysbinary):
    """Returns what a shell is answered for a line: values with their descriptions."""

    def ask(line, shell="fish", **variables):
        monkeypatch.setenv("COMP_LINE", line)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert shells.answer(f"{shell}_complete", "meshctl", FIND) == 0
        out, err = capsysbinary.readouterr()
        assert err == b""
        rows = [line.split("\t") for line in out.decode().splitlines() if line]
        assert all(len(row) == 3 and row[0] in KINDS for row in rows)
        return [tuple(row) for row in rows]

    monkeypatch.setenv("MESHCTL_SOCKET", node.address)
    monkeypatch.setenv("MESHCTL_COMPLETION_SECONDS", "60")
    return ask


@pytest.fixture
def values(offered):
    """As ``offered``, the values alone."""
    return lambda line, shell="fish", **variables: [
        value for _, value, _ in offered(line, shell, **variables)
    ]


def test_commands_and_options_are_offered_without_a_node(values, offered):
    assert values("meshctl work stat") == ["status"]
    assert {"status", "ping", "work", "completion"} <= set(values("meshctl "))
    assert ("plain", "--unit-id", "Only this unit.") in offered("meshctl work list --u")
    assert "--socket" in values("meshctl --so")
    assert values("meshctl work list --state r") == ["Running"]
    assert values("meshctl completion ") == ["bash", "zsh", "fish"]


def test_an_option_that_has_no_value_yet_does_not_keep_the_rest_from_being_offered(values):
    assert values("meshctl --socket ") == [""]  # a file
    assert values("meshctl --config x --tls-client y auth can --node b") == ["bar"]
    assert "work" in values("meshctl --insecureskipverify ")
    assert "true" in values("meshctl --insecureskipverify ")


@pytest.mark.parametrize(
    "line",
    ["meshctl ping ", "meshctl traceroute ", "meshctl connect ", "meshctl work list --node "],
)
def test_nodes_are_offered_with_how_they_are_reached(offered, line):
    assert offered(line) == [
        ("plain", "a-very-long-name", "linked"),
        ("plain", "bar", "linked"),
        ("plain", "foo", "the node itself"),
    ]


def test_a_value_behind_an_equals_sign_comes_with_its_option(values):
    assert values("meshctl work list --node=b") == ["--node=bar"]
    assert values("meshctl work submit --node=b") == ["--node=bar"]


def test_work_types_are_those_of_the_node_that_is_chosen(values, offered):
    assert values("meshctl work submit --node bar ") == ["cat", "echo", "signed"]
    assert values("meshctl work submit ") == []
    assert offered("meshctl work submit --node bar s") == [("plain", "signed", "must be signed")]
    assert values("meshctl auth can --node bar submit e") == ["echo"]


def test_services_are_those_that_can_be_connected_to(values):
    assert values("meshctl connect bar ") == ["control"]
    assert values("meshctl connect foo ") == []  # it has one for datagrams
    assert values("meshctl auth can connect bar ") == ["control"]


@pytest.fixture
def units(node):
    """Four units, the last of them the newest."""
    for hour, (unit_id, status) in enumerate(
        {
            "Old00000": {},
            "Run00000": {"State": 1, "StateName": "Running"},
            "Bad00000": FAILED,
            "Gone0000": CANCELED,
        }.items()
    ):
        node.add_unit(unit_id, **{"Created": f"2026-11-26T0{hour}:00:00Z", **status})
    node.units["Bad00000"].status["Labels"] = {"job": "nightly", "plain": ""}
    node.units["Old00000"].status["ExtraData"] = {"RemoteNode": "bar", "RemoteWorkType": "dog"}
    return ["Gone0000", "Bad00000", "Run00000", "Old00000"]


@pytest.mark.parametrize("command", ["status", "results", "list --unit-id"])
def test_units_are_offered_newest_first_with_their_type_and_state(offered, units, command):
    assert offered(f"meshctl work {command} ") == [
        ("plain", "Gone0000", "cat, Canceled"),
        ("plain", "Bad00000", "cat, Failed"),
        ("plain", "Run00000", "cat, Running"),
        ("plain", "Old00000", "dog on bar, Succeeded"),
    ]


def test_units_that_can_be_cancelled_are_those_that_go_on(values, units):
    assert values("meshctl work cancel ") == ["Run00000"]


@pytest.mark.parametrize("command", ["release", "release --force", "force-release"])
def test_units_that_have_ended_come_first_for_a_release(values, units, command):
    assert values(f"meshctl work {command} ") == ["Gone0000", "Bad00000", "Old00000", "Run00000"]


def test_units_that_go_on_come_first_for_a_wait(values, units):
    assert values("meshctl work wait ") == ["Run00000", "Gone0000", "Bad00000", "Old00000"]


def test_a_unit_that_is_named_already_is_not_offered_again(values, units):
    assert values("meshctl work release Gone0000 Old00000 ") == ["Bad00000", "Run00000"]


def test_the_last_unit_is_offered_by_that_word_once_it_is_begun(values, units):
    assert values("meshctl work status l") == ["last"]
    assert "last" not in values("meshctl work status ")


def test_labels_and_types_are_those_that_units_have(values, units):
    assert values("meshctl work list --label ") == ["job=nightly", "plain"]
    assert values("meshctl work list --label job=n") == ["job=nightly"]
    assert values("meshctl work submit x --label j") == ["job=nightly"]
    assert values("meshctl work list --type ") == ["cat", "dog"]


def test_parameters_are_offered_by_name_and_their_files_by_path(offered):
    assert ("part", "params=", "") in offered("meshctl work submit cat -a par")
    assert offered("meshctl work submit cat -a params=@/tm") == [("file", "/tm", "params=@")]
    assert offered("meshctl work submit cat -a params=@/tm", "zsh") == [("file", "params=@", "")]
    assert offered("meshctl work submit cat --payload=/tm") == [("file", "/tm", "--payload=")]


def test_tls_clients_are_those_of_the_file_that_is_named(values, tmp_path):
    file = tmp_path / "foo.yml"
    file.write_text("- TLS-Client: {name: outer}\n- node: {id: foo}\n- tls-client: {name: inner}\n")
    assert values(f"meshctl --config {file} --tls-client ") == ["outer", "inner"]
    assert values(f"meshctl --config {file}.no --tls-client ") == []
    assert values("meshctl --tls-client ") == []


def test_what_a_verb_is_asked_of_is_offered(values, units):
    assert "submit" in values("meshctl auth can ")
    assert values("meshctl auth can ping b") == ["bar"]
    assert values("meshctl auth can cancel R") == ["Run00000"]
    assert values("meshctl auth can reload ") == []


NOTHING_TO_ASK = "meshctl work status "


def test_without_a_node_nothing_is_offered_and_nothing_said(values, monkeypatch, tmp_path):
    monkeypatch.setenv("MESHCTL_SOCKET", str(tmp_path / "nosuch.sock"))
    assert values(NOTHING_TO_ASK) == []
    monkeypatch.setenv("MESHCTL_SOCKET", "tcp://[::")
    assert values(NOTHING_TO_ASK) == []
    monkeypatch.delenv("MESHCTL_SOCKET")
    assert values(NOTHING_TO_ASK) == []
    assert values("meshctl ping ") == []


@pytest.mark.parametrize("silent_from", ["the greeting", "the answer"])
def test_a_node_that_does_not_answer_in_time_is_not_waited_for(
    values, node, monkeypatch, tmp_path, silent_from
):
    monkeypatch.setenv("MESHCTL_COMPLETION_SECONDS", "0.01")
    released = threading.Event()
    if silent_from == "the greeting":
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(tmp_path / "deaf.sock"))
            deaf.listen()
            monkeypatch.setenv("MESHCTL_SOCKET", str(tmp_path / "deaf.sock"))
            assert values(NOTHING_TO_ASK) == []
        return
    node.handlers["work list"] = lambda session, line: released.wait() and False
    assert values(NOTHING_TO_ASK) == []
    released.set()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2.5", 2.5), ("0", 0.0), ("", None), ("-1", None), ("nan", None), ("inf", None), ("x", None)],
)
def test_the_time_of_a_far_node_can_be_set_and_is_never_without_end(monkeypatch, text, seconds):
    monkeypatch.setenv("MESHCTL_COMPLETION_SECONDS", text)
    assert completion.patience() == (completion.ANSWER_WITHIN if seconds is None else seconds)


def test_a_node_that_refuses_offers_nothing(values, node):
    node.handlers["work list"] = lambda session, line: session.send(b"ERROR: no\n") or True
    node.handlers["{"] = lambda session, line: session.send(b"[]\n") or True
    assert values(NOTHING_TO_ASK) == []
    assert values("meshctl ping ") == []


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def fields(*names):
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, ANYTHING))


ADVERTISEMENTS = st.lists(
    fields("NodeID", "Service", "ConnType", "Tags")
    | st.builds(
        lambda commands: {"NodeID": "foo", "WorkCommands": commands},
        st.lists(fields("WorkType", "Secure") | ANYTHING, max_size=2),
    )
    | ANYTHING,
    max_size=3,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=30,
)
@given(
    status=fields("NodeID", "RoutingTable")
    | st.fixed_dictionaries({"Advertisements": ADVERTISEMENTS}),
    listed=st.dictionaries(
        st.text(max_size=8),
        fields("StateName", "Created", "WorkType", "ExtraData", "Labels") | ANYTHING,
        max_size=3,
    ),
)
def test_whatever_a_node_answers_is_offered_or_left_out(node, values, status, listed):
    node.handlers["work list"] = lambda session, line: session.send(listed) or True
    node.handlers["{"] = lambda session, line: session.send(status) or True
    for line in ("status ", "release ", "list --label ", "list --type ", "submit ", "list --node "):
        for shell in shells.SHELLS:
            values(f"meshctl work {line}", shell)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=100,
)
@given(name=st.text(min_size=1), opening=st.sampled_from(["", "'", '"']))
def test_a_name_stays_one_word_in_bash_however_a_node_calls_itself(node, offered, name, opening):
    """A name such as ``$(reboot)`` must not be run by who completes it and goes on."""
    node.handlers["{"] = lambda s, line: s.send({"NodeID": name, "RoutingTable": {}}) or True
    line = f"meshctl ping {opening}"
    rows = offered(line, "bash", COMP_WORD=opening, COMP_REPLACED="")
    if not name.isprintable() or name.startswith("-"):
        assert rows == []
    for kind, value, _ in rows:
        assert kind == ("part" if name.endswith("=") else "plain")
        closing = opening
        assert shlex.split(opening + value + closing) == [name]
        if opening == '"':
            assert "!" not in value
        unquoted = value if not opening else ""
        for special in "$`;&|<>()*?[]{}!#~'\" ":
            assert unquoted.count(special) == unquoted.count("\\" + special)


@pytest.mark.parametrize(
    ("line", "word", "replaced", "value"),
    [
        ("--label job=ni", "ni", "ni", "nightly"),
        ("--label job=", "=", "", "nightly"),
        ("--label jo", "jo", "jo", "job=nightly"),
        ("--label 'job=ni", "'job=ni", "job=ni", "job=nightly"),
        ("--label=jo", "jo", "jo", "job=nightly"),
    ],
)
def test_bash_gets_what_it_replaces_where_it_breaks_words(
    values, units, line, word, replaced, value
):
    assert values(f"meshctl work list {line}", "bash", COMP_WORD=word, COMP_REPLACED=replaced) == [
        value
    ]


def test_a_description_is_one_line_whatever_a_node_says(offered, node):
    node.add_unit("Odd00000", WorkType="a\tb\nc\x1b[31m")
    assert offered("meshctl work status ") == [("plain", "Odd00000", "a b c[31m, Succeeded")]


def test_assignments_before_the_command_are_no_words_of_it(values):
    assert values("A=1 _b=x meshctl work stat") == ["status"]


@pytest.mark.parametrize("shell", shells.SHELLS)
def test_the_command_prints_the_script_and_so_does_clicks_own_way(meshctl, capsysbinary, shell):
    printed = meshctl("completion", shell).stdout
    assert "meshctl" in printed
    assert f"_MESHCTL_COMPLETE={shell}_complete" in printed
    assert shells.answer(f"{shell}_source", "meshctl", FIND) == 0
    assert capsysbinary.readouterr().out.decode().strip() == printed.strip()
    assert shells.answer("tcsh_complete", "meshctl", FIND) == 1


def leaves(command, path=()):
    if isinstance(command, click.Group):
        yield path, command
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, command


FREE = {
    "pattern": "any regular expression",
    "output": "any pattern of files of another machine",
    "count": "any number",
    "delay": "any number",
    "interval": "any number",
    "startpos": "any number",
    "tail": "any number",
    "last": "any number",
    "priority": "any number",
    "since": "any time",
    "older_than": "any time",
    "timeout": "any time",
    "ttl": "any time",
    "payload_literal": "any text",
    "cmdparams": "any text",
    "cwd": "a directory of the node that runs the work",
    "array": "numbers",
    "max_in_flight": "any number",
    "limits": "names of limits and numbers",
    "tls_client": "nodes do not tell the names of theirs",
}
"""Values of which nobody knows what they may be."""


@pytest.mark.parametrize(
    "command", [pytest.param(leaf, id=" ".join(path) or "meshctl") for path, leaf in leaves(cli)]
)
def test_each_option_and_argument_is_completed_unless_it_can_be_anything(command):
    for parameter in command.params:
        is_flag = isinstance(parameter, click.Option) and parameter.is_flag
        is_completed = parameter._custom_shell_complete or isinstance(parameter.type, click.Choice)
        assert is_flag or is_completed or parameter.name in FREE, parameter.name


def test_a_reply_that_is_too_late_for_one_question_does_not_answer_the_next(values, node):
    """Each question has a session of its own."""
    node.handlers["work list"] = lambda session, line: (
        session.send(json.dumps({"Late0000": {"StateName": "Running"}}).encode() + b"\n") or True
    )
    assert values("meshctl work cancel ") == ["Late0000"]
    node.handlers["work list"] = lambda session, line: session.send(b"{}\n") or True
    assert values("meshctl work cancel ") == []


def test_arguments_and_variables_are_those_that_the_type_describes(values, node):
    described = {
        "Arguments": [
            {"Name": "position", "Help": "Which.", "Choices": []},
            {"Name": "mode", "Choices": ["fast", "slow"]},
        ],
        "RuntimeEnv": ["LANG", "JOB_*", "*"],
    }
    node.handlers['{"command": "work", "subcommand": "describe"'] = lambda session, line: (
        session.send(json.dumps(described).encode() + b"\n") or True
    )
    assert values("meshctl work submit fib --arg ") == ["mode=fast", "mode=slow", "position="]
    assert values("meshctl work submit fib --arg mode=s") == ["mode=slow"]
    assert values("meshctl work submit fib --env ") == ["JOB_", "LANG"]
    assert values("meshctl work submit --arg ") == []


@pytest.mark.parametrize("told", [None, 7, "x", [], [None, 7, {"Name": 7, "Choices": "x"}]])
def test_whatever_a_type_is_described_as_there_are_completions(values, node, told):
    described = {"Arguments": told, "RuntimeEnv": told}
    node.handlers['{"command": "work", "subcommand": "describe"'] = lambda session, line: (
        session.send(json.dumps(described).encode() + b"\n") or True
    )
    for option in ("--arg", "--env"):
        assert isinstance(values(f"meshctl work submit fib {option} "), list)


def test_a_rule_may_stand_for_the_node_of_a_submission(values):
    assert {"any", "random", "least", "bar"} <= set(values("meshctl work submit --node "))
    assert "least" not in values("meshctl work list --node ")
