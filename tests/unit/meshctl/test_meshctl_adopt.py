"""``meshctl work adopt``: what is asked of the node, and what is printed of the unit here."""

import json

import pytest
from scripted_node import CANCELED, FAILED

from meshctl import CommandRefused, ControlClient

ADOPT = '{"command": "work", "subcommand": "adopt"'


@pytest.fixture
def asked(node):
    """Requests to adopt that the node got; it calls each unit ``near``."""
    requests = []

    def adopt(session, line):
        requests.append(json.loads(line))
        session.send({"result": "Adopted", "unitid": "near"})
        return True

    node.handlers[ADOPT] = adopt
    return requests


def test_the_unit_of_another_node_gets_an_id_here(meshctl, asked):
    result = meshctl("work", "adopt", "--node", "bar", "farUnit1")
    assert (result.exit_code, result.stdout) == (0, "Result: Adopted\nUnit ID: near\n")
    assert asked == [
        {"command": "work", "subcommand": "adopt", "node": "bar", "unitid": "farUnit1"}
    ]


def test_signing_and_the_way_to_the_node_are_passed_on_as_strings(meshctl, asked):
    meshctl("work", "adopt", "--node", "bar", "--tls-client", "t", "--signwork", "farUnit1")
    assert asked[0]["tlsclient"] == "t"
    assert asked[0]["signwork"] == "true"


def test_follow_and_rm_write_the_bytes_and_release_here_only(meshctl, node, asked):
    node.add_unit("near", b"all of it\xff")
    result = meshctl("work", "adopt", "--node", "bar", "farUnit1", "--follow", "--rm")
    assert (result.exit_code, result.stdout_bytes) == (0, b"all of it\xff")
    assert result.stderr == "Unit ID: near\n(near, released)\n"
    assert "work release near" in node.lines
    assert node.units == {}


@pytest.mark.parametrize(("end", "code"), [(FAILED, 1), (CANCELED, 6)])
def test_how_the_unit_ended_is_the_exit_code(meshctl, node, asked, end, code):
    node.add_unit("near", **end)
    for how in ("--follow", "--wait"):
        assert meshctl("work", "adopt", "--node", "bar", "farUnit1", how).exit_code == code


def test_propagated_is_the_code_of_the_unit_s_own_command(meshctl, node, asked):
    node.add_unit("near", **FAILED)
    for how in ("--follow", "--wait"):
        assert (
            meshctl("work", "adopt", "--node", "bar", "farUnit1", how, "--propagate").exit_code == 7
        )
    assert meshctl("work", "adopt", "--node", "bar", "farUnit1", "--propagate").exit_code == 103


def test_waiting_prints_the_end_and_with_json_one_document(meshctl, node, asked):
    node.add_unit("near", b"x")
    result = meshctl("work", "adopt", "--node", "bar", "farUnit1", "--wait")
    assert result.stdout.splitlines()[-1] == "(near, Succeeded)"
    result = meshctl("work", "adopt", "--node", "bar", "farUnit1", "--wait", "--json")
    shown = json.loads(result.stdout)
    assert (shown["unitid"], shown["status"]["StateName"]) == ("near", "Succeeded")
    result = meshctl("work", "adopt", "--node", "bar", "farUnit1", "--json")
    assert json.loads(result.stdout) == {"unitid": "near", "result": "Adopted"}


def test_a_refusal_is_told_and_is_exit_1(meshctl, node):
    node.handlers[ADOPT] = lambda session, line: (
        session.send(b"ERROR: node bar refused: unknown work unit farUnit1\n") or True
    )
    result = meshctl("work", "adopt", "--node", "bar", "farUnit1")
    assert (result.exit_code, result.stderr) == (
        104,
        "ERROR: node bar refused: unknown work unit farUnit1\n",
    )


def test_a_node_that_knows_no_adoption_is_told_so(meshctl, node):
    node.handlers[ADOPT] = lambda session, line: session.send(b"ERROR: bad command\n") or True
    result = meshctl("work", "adopt", "--node", "bar", "farUnit1")
    assert (result.exit_code, result.stderr) == (104, "ERROR: node foo cannot adopt units\n")


def test_the_node_that_has_the_unit_must_be_named(meshctl, node):
    result = meshctl("work", "adopt", "farUnit1")
    assert result.exit_code != 0
    assert "Missing option '--node'" in result.stderr
    assert node.lines == []


@pytest.mark.parametrize(
    ("command", "subcommand"),
    [
        (["release"], "release"),
        (["release", "--force"], "force-release"),
        (["force-release"], "force-release"),
    ],
)
def test_a_remote_release_says_so_in_the_request(meshctl, node, command, subcommand):
    asked = []

    def release(session, line):
        asked.append(json.loads(line))
        session.send({"released": asked[-1]["unitid"]})
        return True

    node.handlers['{"command": "work", "subcommand"'] = release
    result = meshctl("work", *command, "--remote", "near")
    assert (result.exit_code, result.stdout) == (0, "Released:\n(near, released)\n")
    assert asked == [
        {"command": "work", "subcommand": subcommand, "unitid": "near", "remote": "true"}
    ]


def test_in_python_an_adopted_unit_is_its_id_here(node, asked):
    with ControlClient(node.address) as client:
        assert client.adopt("bar", "farUnit1").unit_id == "near"
        node.handlers.pop(ADOPT)
        node.handlers[ADOPT] = lambda session, line: session.send(b"ERROR: no\n") or True
        with pytest.raises(CommandRefused, match=r"^no$"):
            client.adopt("bar", "farUnit1")
