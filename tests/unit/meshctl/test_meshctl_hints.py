"""A name that a node does not know is answered with those that it knows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_node import RECORDED, STATUS

from meshctl.commands.hints import MOST_NAMES, hint
from meshctl.render.output import ExitCode


def refusing(text):
    return lambda session, line: session.send(f"ERROR: {text}\n".encode()) or True


@pytest.mark.parametrize(
    ("node_name", "service", "told", "shown"),
    [
        ("bat", "ssh", "no route to node", "no route to node; did you mean bar?"),
        ("zzz", "ssh", "no route to node", "; known nodes: a-very-long-name, bar, foo"),
        ("bar", "contro", "service unknown", "service unknown; did you mean control?"),
        ("bar", "zzz", "service unknown", "service unknown; its services: control"),
        ("unheard", "zzz", "service unknown", "service unknown"),
        ("bar", "zzz", "blocked by firewall", "blocked by firewall"),
    ],
)
def test_a_connect_that_is_refused_names_node_service_and_what_there_is(
    meshctl, node, node_name, service, told, shown
):
    node.handlers["connect"] = refusing(told)
    result = meshctl("connect", node_name, service)
    assert result.exit_code == ExitCode.REFUSED
    begin = f"ERROR: cannot connect to service {service} of node {node_name}: "
    assert result.stderr.startswith(begin)
    assert result.stderr.endswith(f"{shown}\n")


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (
            "no route to node bat; did you mean bar? known nodes: bar",
            "cannot connect to service ssh: no route to node bat; did you mean bar? "
            "known nodes: bar",
        ),
        (
            "no route to node bat; no other node is known here: see whether the links are up",
            "cannot connect to service ssh: no route to node bat; no other node is known here: "
            "see whether the links are up",
        ),
        (
            "service unknown: service ssh of node bat",
            "cannot connect: service unknown: service ssh of node bat",
        ),
    ],
)
def test_what_a_node_names_itself_is_not_said_twice(meshctl, node, told, shown):
    node.handlers["connect"] = refusing(told)
    assert meshctl("connect", "bat", "ssh").stderr == f"ERROR: {shown}\n"
    node.handlers["ping"] = lambda session, line: (
        session.send({"Success": False, "Error": told}) or True
    )
    assert meshctl("ping", "bat", "--count", 1).stderr == f"ERROR: {told}\n"


def test_an_unknown_work_type_is_answered_with_those_of_its_node(meshctl, node):
    node.handlers["{"] = lambda session, line: (
        (session.send(STATUS) or True)
        if json.loads(line)["command"] == "status"
        else refusing("node bar refused: unknown work type ecco")(session, line)
    )
    result = meshctl("work", "submit", "ecco", "-n", "--node", "bar")
    assert result.exit_code == ExitCode.SUBMIT_FAILED
    assert result.stderr.endswith("unknown work type ecco; did you mean echo?\n")
    result = meshctl("work", "submit", "zzz", "-n", "--node", "bar")
    assert result.stderr.endswith("; its work types: cat, echo, signed\n")


def test_work_types_that_the_node_names_are_not_said_twice(meshctl, node):
    told = "node bar refused: unknown work type zzz; it offers cat, echo, signed"
    node.handlers["{"] = lambda session, line: (
        (session.send(STATUS) or True)
        if json.loads(line)["command"] == "status"
        else refusing(told)(session, line)
    )
    result = meshctl("work", "submit", "zzz", "-n", "--node", "bar")
    assert result.stderr == f"ERROR: Failed to start work unit: {told}\n"


def test_words_for_a_command_that_takes_none_are_answered_with_what_would_allow_them(meshctl, node):
    node.handlers["{"] = refusing("node bar refused: extra params provided but not allowed")
    result = meshctl("work", "submit", "cat", "-n", "x")
    assert "not allowed; its work type takes none: allowruntimeparams must" in result.stderr


def test_a_node_for_whose_units_there_is_no_route_is_answered_too(meshctl, node):
    node.handlers["connect"] = refusing("no route to node")
    result = meshctl("work", "list", "--node", "bat")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stderr == "ERROR: cannot reach node bat: no route to node; did you mean bar?\n"


def test_a_node_that_does_not_tell_its_status_keeps_its_refusal(meshctl, node):
    node.handlers["connect"] = refusing("no route to node")
    node.handlers["{"] = lambda session, line: False
    result = meshctl("connect", "zzz", "ssh")
    assert result.stderr.endswith("of node zzz: no route to node\n")
    assert result.exit_code == ExitCode.REFUSED
    assert "ping nosuch" in RECORDED


class Told:
    def __init__(self, status):
        self.reply = status

    def status(self, fields):
        return self.reply


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["NodeID", "RoutingTable", "Advertisements", "Service", "WorkCommands", "WorkType"]
            ),
            inner,
            max_size=4,
        ),
    ),
)


@given(
    st.dictionaries(st.sampled_from(["NodeID", "RoutingTable", "Advertisements"]), anything),
    st.sampled_from(["no route to node", "service unknown", "unknown work type x", "else"]),
    st.text(max_size=5),
    st.text(max_size=5),
)
def test_whatever_a_status_holds_a_hint_is_text(status, reason, node, wanted):
    assert isinstance(hint(Told(status), reason, node, wanted), str)


@given(st.integers(1, 40))
def test_a_hint_is_a_line_for_a_person_in_any_mesh(count):
    table = {f"node-{number:03}": "via" for number in range(count)}
    status = {"NodeID": "node-000", "RoutingTable": table}
    text = hint(Told(status), "no route to node", "ZZZ", "")
    assert text.count("node-") == min(count, MOST_NAMES)
    assert text.endswith("…") == (count > MOST_NAMES)
