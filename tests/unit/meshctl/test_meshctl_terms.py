"""Where and for how long a unit may run, as meshctl asks for it."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl import ControlClient, JobSettings
from meshctl.api.errors import BadSettings
from meshctl.commands.options import Age
from meshctl.commands.terms import sent_time
from meshctl.render.output import ExitCode


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["--node", "least"], {"node": "localhost", "placement": "least"}),
        (
            ["--node", "any", "--label", "gpu=1", "--label", "zone!=b", "--label", "!old"],
            {"placement": "any", "placementlabels": "gpu=1,zone!=b,!old"},
        ),
        (
            ["--node", "random", "--unit-label", "job=nightly"],
            {"placement": "random", "submissionlabels": '{"job": "nightly"}'},
        ),
        (["--label", "a=1", "--unit-label", "b"], {"submissionlabels": '{"b": "", "a": "1"}'}),
        (["--node", "bar", "--timeout", "1m30s"], {"node": "bar", "jobtimeout": "90s"}),
        (["--priority", "-5"], {"jobpriority": "-5"}),
        (
            ["--after", "UnitAAAA", "--after", "b-AAAAAAAA:end"],
            {"submissionafter": "UnitAAAA,b-AAAAAAAA:end"},
        ),
    ],
)
def test_what_is_asked_for_is_sent_in_keys_of_its_own(meshctl, node, words, sent):
    assert meshctl("work", "submit", "echo", "-n", *words).exit_code == 0
    submission = node.submissions[0]
    assert {key: submission[key] for key in sent} == sent


@given(st.timedeltas(timedelta(), timedelta(days=36_500)))
def test_any_time_that_a_job_may_run_is_sent_to_the_microsecond(time):
    text = sent_time(time)
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)?s", text)
    assert Age().convert(text, None, None) == time


def test_weeks_that_a_job_may_run_are_asked_for_as_seconds(meshctl, node):
    assert meshctl("work", "submit", "echo", "-n", "--timeout", "2w").exit_code == 0
    assert node.submissions[0]["jobtimeout"] == "1209600s"


def test_an_ordinary_submission_has_none_of_these_keys(meshctl, node):
    assert meshctl("work", "submit", "echo", "-n", "--node", "bar").exit_code == 0
    keys = {
        "submissionafter",
        "placement",
        "placementlabels",
        "jobtimeout",
        "jobpriority",
        "submissionlabels",
    }
    assert not keys & node.submissions[0].keys()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--priority", "1001"], "1001 is not in the range"),
        (["--priority", "high"], "'high' is not a valid whole number"),
        (["--timeout", "soon"], "'soon' is not a time such as 30s"),
        (["--timeout", "30"], "'30' is not a time such as 30s, 5m or 1h30m"),
        (["--node", "any", "--label", "a=1,b=2"], "give the option again"),
        (["--unit-label", "=1"], "write NAME=VALUE"),
        (["--after", ""], "Invalid value for '--after': it names no unit and no batch"),
        (["--after", "UnitAAAA", "--after", ""], "its value is empty"),
        (["--node", "any", "--label", ""], "Invalid value for '--label'"),
        (["--script", ""], "Invalid value for '--script': it names no file"),
        (["--array", ""], "Invalid value for '--array': it has no index"),
        (["--from-lines", ""], "Invalid value for '--from-lines': it names no file"),
    ],
)
def test_what_cannot_be_asked_for_is_an_error_before_anything_is_sent(meshctl, node, words, text):
    done = meshctl("work", "submit", "echo", "-n", *words)
    assert text in done.stderr
    assert done.exit_code != 0
    assert not node.submissions


def test_a_parameter_cannot_stand_for_an_option(meshctl, node):
    done = meshctl("work", "submit", "echo", "-n", "-a", "placement=least")
    assert "has an option of its own" in done.stderr


def test_what_is_waited_for_is_named_as_everywhere_by_a_beginning_or_as_the_last(meshctl, node):
    node.add_unit("UnitAAAA", Created="2026-11-26T08:00:00Z")
    node.add_unit("OtherBBB", Created="2026-11-26T09:00:00Z")
    words = ["--after", "Unit", "--after", "last:end", "--after", "b-AAAAAAAA"]
    assert meshctl("work", "submit", "echo", "-n", *words).exit_code == 0
    assert node.submissions[0]["submissionafter"] == "UnitAAAA,OtherBBB:end,b-AAAAAAAA"


def test_a_node_that_would_not_wait_for_others_is_sent_nothing(meshctl, node):
    asked = '{"command": "work", "subcommand": "types"'
    node.handlers[asked] = lambda session, _: session.send(b"ERROR: bad command\n") or True
    done = meshctl("work", "submit", "echo", "-n", "--after", "UnitAAAA")
    assert "node foo takes no --after: it is receptor's, or an older meshnode" in done.stderr
    assert done.exit_code == ExitCode.WRONG_USAGE
    assert not node.submissions


@pytest.mark.parametrize("job", [{"after": ("",)}, {"after": ("U", "")}, {"where": ("",)}])
def test_a_program_that_names_nothing_to_wait_for_starts_nothing(node, job):
    # What it names comes from a variable that is not set.
    with ControlClient(node.address) as client, pytest.raises(BadSettings, match="is empty"):
        client.submit("echo", job=JobSettings(**job))
    assert not node.submissions
