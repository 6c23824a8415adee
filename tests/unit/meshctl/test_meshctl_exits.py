"""Exit codes: a unit's failure, a lost connection, wrong usage and a refusal are told apart."""

import os
import signal

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scripted_node import CANCELED, FAILED, RUNNING

from meshctl.api import errors
from meshctl.cli import cli
from meshctl.commands.exits import code_of, ending, own_code
from meshctl.render.output import ExitCode
from meshnode.work.local.launcher.command import end_text, exit_code, signal_name

REPORTS_AN_END = [
    ["work", "results", "one"],
    ["work", "wait", "one"],
    ["work", "status", "--watch", "one"],
]


@pytest.mark.parametrize("args", REPORTS_AN_END, ids=" ".join)
def test_how_a_unit_ended_and_why_that_is_not_known_have_codes_of_their_own(meshctl, node, args):
    node.add_unit("one", **FAILED)
    assert meshctl(*args).exit_code == ExitCode.FAILURE == 1
    node.units["one"].status = dict(CANCELED)
    assert meshctl(*args).exit_code == ExitCode.UNIT_CANCELED == 6
    del node.units["one"]
    assert meshctl(*args).exit_code == ExitCode.REFUSED == 104
    assert meshctl(*args, socket="/no/such").exit_code == ExitCode.UNREACHABLE == 102
    assert meshctl(*args, "--nosuch").exit_code == ExitCode.WRONG_USAGE == 103


def every_leaf(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_leaf(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"), [leaf for leaf in every_leaf(cli) if leaf[0] != ("completion",)], ids=str
)
def test_every_command_that_asks_a_node_tells_wrong_usage_from_a_node_that_is_not_there(
    path, command
):
    arguments = ["x" for p in command.params if p.param_type_name == "argument" and p.nargs == 1]
    needed = {
        "submit": ["cat", "-n"],
        "adopt": ["x", "--node", "bar"],
        "wait": ["x"],
        "stop": ["x"],
        "cancel": ["x"],
        "can": ["reload"],
        "batch": ["list"],
        "submit-batch": ["/dev/null"],
    }
    words = needed.get(path[-1], arguments)
    words = ["x"] if path[-1] in {"release", "force-release"} else words
    away = CliRunner().invoke(cli, ["--socket", "/no/such", *path, *words])
    assert away.exit_code == ExitCode.UNREACHABLE, away.output
    assert away.stderr.count("\n") == 1
    wrong = CliRunner().invoke(cli, ["--socket", "/no/such", *path, "--no-such-option", *words])
    assert wrong.exit_code == ExitCode.WRONG_USAGE, wrong.output
    nowhere = CliRunner().invoke(cli, [*path, *words])
    assert nowhere.exit_code == ExitCode.WRONG_USAGE, nowhere.output


def test_every_error_of_the_client_has_a_code_that_names_whose_fault_it_is():
    made = {
        errors.BadSettings("x"): 103,
        errors.CannotReach("a", "x"): 102,
        errors.NotTrusted("a", "x"): 102,
        errors.ProtocolMismatch("x"): 102,
        errors.SessionLost("x"): 102,
        errors.SubmissionUnconfirmed("u", "x"): 102,
        errors.CommandRefused("x"): 104,
        errors.PayloadLost("u", "x"): 101,
        errors.NotFetched("x"): 1,
        errors.WaitTimedOut("u", 1, {}): 7,
    }
    assert {type(error) for error in made} == {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ControlError)
    } - {errors.ControlError}
    assert {error: code_of(error).value for error in made} == made


def test_a_submission_that_is_cut_off_is_no_refused_one(meshctl, node):
    node.handlers["{"] = lambda session, line: False
    assert meshctl("work", "submit", "cat", "-n").exit_code == ExitCode.UNREACHABLE
    node.handlers["{"] = lambda session, line: session.send(b"ERROR: no\n") or True
    assert meshctl("work", "submit", "cat", "-n").exit_code == ExitCode.SUBMIT_FAILED


@pytest.mark.parametrize(
    "args", [["release", "nosuch"], ["cancel", "nosuch"], ["status", "nosuch"]]
)
def test_a_unit_that_is_not_there_is_a_refusal(meshctl, args):
    assert meshctl("work", *args).exit_code == ExitCode.REFUSED


# --- the command's own code -----------------------------------------------------------------------

PROPAGATE = [
    ["work", "submit", "cat", "-n", "-f", "--propagate"],
    ["work", "submit", "cat", "-n", "--wait", "--propagate"],
    ["work", "submit", "cat", "-n", "--rm", "--propagate"],
]


@pytest.mark.parametrize("args", PROPAGATE, ids=" ".join)
@pytest.mark.parametrize("code", [1, 2, 6, 7, 77, 101, 255])
def test_a_submission_passes_on_the_commands_own_code(meshctl, node, args, code):
    node.unit_status = FAILED | {"ExitCode": code, "Detail": f"exit status {code}"}
    assert meshctl(*args).exit_code == code


@pytest.mark.parametrize("command", ["results", "wait"])
def test_results_and_wait_pass_on_the_commands_own_code(meshctl, node, command):
    node.add_unit("one", **FAILED | {"Detail": "exit status 42"})
    assert meshctl("work", command, "one", "--propagate").exit_code == 42
    node.units["one"].status |= {"Detail": "signal: killed", "Signal": "SIGKILL"}
    assert meshctl("work", command, "one", "--propagate").exit_code == 137
    node.units["one"].status = dict(FAILED) | {"Detail": "unknown work type"}
    assert meshctl("work", command, "one", "--propagate").exit_code == ExitCode.NO_CODE == 125
    node.units["one"].status = dict(CANCELED)
    assert meshctl("work", command, "one", "--propagate").exit_code == ExitCode.NO_CODE
    del node.units["one"]
    assert meshctl("work", command, "one", "--propagate").exit_code == ExitCode.REFUSED


def test_a_wait_that_takes_too_long_is_told_from_a_command_that_ended_with_7(meshctl, node):
    node.add_unit("one", **RUNNING, ended=False)
    args = ["work", "wait", "one", "--timeout", "0s"]
    assert meshctl(*args).exit_code == ExitCode.WAIT_TIMED_OUT == 7
    assert meshctl(*args, "--propagate").exit_code == ExitCode.NO_END_IN_TIME == 124


def test_a_code_to_pass_on_needs_one_end(meshctl, node):
    result = meshctl("work", "submit", "cat", "-n", "--propagate")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "--propagate needs --follow or --wait" in result.stderr
    result = meshctl("work", "wait", "one", "two", "--propagate")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "give one ID" in result.stderr
    assert node.sessions == 0


def test_who_canceled_a_unit_is_told_where_the_node_says_so():
    status = {"State": 4, "Detail": "Canceled", "EndedBy": None}
    assert ending("one", status) == ("unit one was canceled", 6)
    by = {"Cause": "cancel", "By": {"Kind": "unix", "Uid": 0, "User": "root"}}
    assert ending("one", status | {"EndedBy": by}) == ("unit one was canceled by root (uid 0)", 6)
    there = ending("one", status | {"EndedBy": by | {"Node": "bar"}})
    assert there == ("unit one was canceled by root (uid 0) on node bar", 6)
    signal = {"Detail": "Canceled by a signal of process 7, uid 5"}
    assert ending("one", status | signal)[0] == (
        "unit one was canceled by a signal of process 7, uid 5"
    )


@given(st.integers(1, 255), st.booleans())
def test_each_exit_code_is_known_from_either_kind_of_node(code, is_receptor):
    ended = code << 8
    told = {} if is_receptor else {"ExitCode": exit_code(ended), "Signal": signal_name(ended)}
    status = {"State": 3, "Detail": end_text(ended), **told}
    assert ending("one", status, propagate=True)[1] == code
    assert ending("one", status)[1] == ExitCode.FAILURE


@given(st.integers(1, 64), st.booleans(), st.booleans())
def test_each_signal_is_known_from_either_kind_of_node(number, dumped, is_receptor):
    ended = number | 0x80 * dumped
    assert os.WTERMSIG(ended) == number
    told = {} if is_receptor else {"ExitCode": exit_code(ended), "Signal": signal_name(ended)}
    status = {"State": 3, "Detail": end_text(ended), **told}
    assert own_code(status) == 128 + number


@given(
    st.sampled_from([3, 4]),
    st.text(),
    st.one_of(st.none(), st.text(), st.integers(), st.lists(st.integers())),
    st.one_of(st.none(), st.text(), st.integers()),
)
def test_a_unit_that_did_not_succeed_never_passes_on_success(state, detail, code, name):
    status = {"State": state, "Detail": detail, "ExitCode": code, "Signal": name}
    assert 0 < ending("one", status, propagate=True)[1] <= 255


def test_a_failed_unit_whose_command_ended_well_has_no_code_to_pass_on():
    status = {"State": 3, "Detail": "printed more than maxoutput", "ExitCode": 0}
    assert ending("one", status, propagate=True)[1] == ExitCode.NO_CODE
    assert own_code({"Signal": signal.Signals.SIGTERM.name}) == 143
