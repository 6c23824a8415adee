"""``--label``: given to a unit, and asked for in a list or a release."""

import json

import pytest
from scripted_node import FAILED

from meshctl import ControlClient
from meshctl.commands import work
from meshctl.render.output import ExitCode


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (["--label", "a=1"], {"a": "1"}),
        (["--label", "a=x=y", "--label", "b"], {"a": "x=y", "b": ""}),
        (["--label", "a=", "--label", "a"], {"a": ""}),
    ],
)
def test_labels_are_sent_as_one_text_of_json(meshctl, node, options, sent):
    assert meshctl("work", "submit", "cat", "-n", *options).exit_code == 0
    assert json.loads(node.submissions[0]["submissionlabels"]) == sent


def test_a_submission_without_labels_says_nothing_of_them(meshctl, node):
    meshctl("work", "submit", "cat", "-n")
    assert "submissionlabels" not in node.submissions[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--label", "=x"], "'=x': write NAME=VALUE, or NAME alone"),
        (["--label", ""], "it names no label: its value is empty"),
        (["--label", "a=1", "--label", "a=2"], "a is given twice, with different values"),
    ],
)
def test_a_label_that_makes_no_sense_is_wrong_usage(meshctl, node, options, told):
    result = meshctl("work", "submit", "cat", "-n", *options)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert told in result.stderr
    assert node.submissions == []


def test_the_key_of_labels_is_no_name_for_a_parameter(meshctl, node):
    result = meshctl("work", "submit", "cat", "-n", "-a", "submissionlabels=x")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert node.submissions == []


@pytest.fixture
def labelled(node):
    node.add_unit("nightly1", Labels={"job": "nightly", "team": "ops"})
    node.add_unit("nightly2", Labels={"job": "nightly", "team": ""}, **FAILED)
    node.add_unit("hourly03", Labels={"job": "hourly"})
    node.add_unit("nolabel4")
    return node


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--label", "job=nightly"], ["nightly1", "nightly2"]),
        (["--label", "job"], ["nightly1", "nightly2", "hourly03"]),
        (["--label", "job=nightly", "--label", "team=ops"], ["nightly1"]),
        (["--label", "team="], ["nightly2"]),
        (["--label", "job", "--state", "failed"], ["nightly2"]),
        (["--label", "nosuch"], []),
        ([], ["nightly1", "nightly2", "hourly03", "nolabel4"]),
    ],
)
def test_a_list_has_the_units_with_all_of_the_labels(meshctl, labelled, options, found):
    result = meshctl("work", "list", "-q", *options)
    assert (result.exit_code, result.stdout.split()) == (0, found)


def test_a_release_by_label_takes_ended_units_only(meshctl, labelled):
    labelled.add_unit("running5", ended=False, Labels={"job": "nightly"})
    result = meshctl("work", "release", "--label", "job=nightly")
    assert result.stdout == "Released:\n(nightly1, released)\n(nightly2, released)\n"
    assert set(labelled.units) == {"hourly03", "nolabel4", "running5"}
    result = meshctl("work", "release", "--label", "job", "hourly03")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "Cannot combine unit IDs with" in result.stderr


def test_the_table_has_labels_where_units_have_some(meshctl, labelled, monkeypatch):
    monkeypatch.setattr(work, "stdout_is_terminal", lambda: True)
    text = meshctl("work", "list").stdout
    assert "Labels" in text.splitlines()[0]
    assert "job=nightly team=ops" in text
    assert "job=nightly team " in text
    for unit_id in ("nightly1", "nightly2", "hourly03"):
        del labelled.units[unit_id]
    assert "Labels" not in meshctl("work", "list").stdout
    labelled.add_unit("nightly1", Labels={"job": "nightly"})
    assert "  job:" in meshctl("work", "status", "nightly1").stdout


def test_in_python_labels_are_a_mapping(node):
    with ControlClient(node.address) as client:
        client.submit("cat", labels={"job": "nightly"})
    assert json.loads(node.submissions[0]["submissionlabels"]) == {"job": "nightly"}
