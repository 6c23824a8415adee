"""``--arg``, ``--env``, ``--cwd``, and the commands that tell what a type of work takes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.commands.jobs import wrong_arguments
from meshctl.render.output import ExitCode
from meshnode.arguments import Argument, ArgumentType, fill, usage

ARGUMENTS = (
    Argument("position", ArgumentType.INT, required=True, least=1, most=1000, help="Which."),
    Argument("mode", ArgumentType.CHOICE, choices=("fast", "slow"), default="fast"),
)
USAGE = usage("fib", ARGUMENTS)
FIB = {
    **{"Node": "foo", "WorkType": "fib", "Kind": "command", "Help": "A number.", "Usage": USAGE},
    "Arguments": [argument.described() for argument in ARGUMENTS],
    **{"RuntimeParams": False, "RuntimeEnv": ["LANG", "JOB_*"], "RuntimeCwd": ["/srv"]},
    **{"Files": True, "Scripts": False, "Output": True},
    **{"VerifySignature": True, "Timeout": 60.0, "MaxOutput": 1000, "Grace": 10.0},
    **{"Stderr": "separate", "Timestamps": True, "LeaveProcesses": False},
    **{"Limits": {"memory": "64MiB", "pids": 9}, "Isolation": {"network": "none"}},
}
DESCRIBE = '{"command": "work", "subcommand": "describe"'
TYPES = '{"command": "work", "subcommand": "types"'


def answer(reply: dict[str, object]):
    line = json.dumps(reply).encode() + b"\n"
    return lambda session, _: session.send(line) or True


def refuse(text: str):
    return lambda session, _: session.send(f"ERROR: {text}\n".encode()) or True


@pytest.fixture
def fib(node):
    node.handlers[DESCRIBE] = answer(FIB)
    return node


SUBMIT = ("work", "submit", "fib", "-n")


def test_what_is_given_to_a_job_is_sent_as_texts(meshctl, fib, monkeypatch):
    monkeypatch.setenv("JOB_B", "of the client = x")
    options = ["--arg", "position=3", "--env", "LANG=C=D", "--env", "JOB_B", "--cwd", "/srv/x"]
    assert meshctl(*SUBMIT, *options).exit_code == 0
    (sent,) = fib.submissions
    assert json.loads(sent["jobarguments"]) == {"position": "3"}
    assert json.loads(sent["jobenv"]) == {"LANG": "C=D", "JOB_B": "of the client = x"}
    assert sent["jobcwd"] == "/srv/x"


@pytest.mark.parametrize(
    ("options", "payload"), [((), b""), (("-l", "a line"), b"a line\n"), (("-n",), b"")]
)
def test_a_typed_job_needs_no_payload_option_and_has_an_empty_stdin_then(
    meshctl, fib, options, payload
):
    result = meshctl("work", "submit", "fib", "--arg", "position=3", *options, "--follow")
    assert (result.exit_code, result.stdout_bytes) == (0, payload)


def test_a_submission_without_any_asks_for_no_description(meshctl, fib):
    assert meshctl(*SUBMIT).exit_code == 0
    assert not any(line.startswith(DESCRIBE) for line in fib.lines)
    assert not [key for key in fib.submissions[0] if key.startswith("job")]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--arg", "positon=3"], "there is no argument positon; did you mean position?; usage: "),
        (["--arg", "mode=fast"], f"argument position is missing; usage: {USAGE}"),
        (["--cwd", "/srv"], f"argument position is missing; usage: {USAGE}"),
        (["--arg", "position=x"], "argument position: 'x' is not a whole number; usage: "),
        (["--arg", "position=0"], "argument position: 0 is less than 1; usage: "),
        (["--arg", "position=3", "--arg", "mode=x"], "'x' is not one of fast, slow; usage: "),
        (["--arg", "position"], "'position': write NAME=VALUE"),
        (["--arg", "=3"], "'=3': write NAME=VALUE"),
        (["--arg", "a=3", "--arg", "a=4"], "a is given twice, with different values"),
        (["--env", "NOT_SET_HERE"], "'NOT_SET_HERE' is not set here"),
    ],
)
def test_a_mistake_is_wrong_usage_and_nothing_is_submitted(meshctl, fib, options, told):
    result = meshctl(*SUBMIT, *options)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert told in result.stderr
    assert fib.submissions == []


def test_what_only_the_node_finds_wrong_is_wrong_usage_as_well(meshctl, fib):
    fib.handlers['{"command": "work", "subcommand": "submit"'] = refuse(
        f"work type fib: argument position is missing; usage: {USAGE}"
    )
    result = meshctl(*SUBMIT)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert f"argument position is missing; usage: {USAGE}" in result.stderr


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "bad command",
            "node foo takes no --arg, --env, --cwd, --dep or --output: it is",
        ),
        (
            "node bar does not describe its types of work: it is receptor's, or an older meshnode",
            "it takes no --arg, --env, --cwd, --dep or --output",
        ),
    ],
)
def test_a_node_that_would_lose_what_is_given_is_sent_nothing(meshctl, node, reason, told):
    node.handlers[DESCRIBE] = refuse(reason)
    for option in (["--arg", "a=1"], ["--env", "A=1"], ["--cwd", "/srv"]):
        result = meshctl(*SUBMIT, *option)
        assert result.exit_code == ExitCode.WRONG_USAGE
        assert told in result.stderr
    assert node.submissions == []


def test_a_node_that_is_away_finds_out_itself_when_it_is_reached(meshctl, node):
    node.handlers[DESCRIBE] = refuse("no route to node bar, or it has no control service")
    assert meshctl(*SUBMIT, "--node", "bar", "--arg", "a=1").exit_code == 0
    assert json.loads(node.submissions[0]["jobarguments"]) == {"a": "1"}


def test_the_keys_of_what_is_given_are_no_names_of_parameters(meshctl, node):
    for key in ("jobarguments", "jobenv", "jobcwd"):
        assert meshctl(*SUBMIT, "-a", f"{key}=x").exit_code == ExitCode.WRONG_USAGE
    assert node.submissions == []


SPECIFIED = st.builds(
    Argument,
    st.just("a"),
    st.sampled_from(ArgumentType),
    required=st.booleans(),
    least=st.none() | st.integers(-9, 0),
    most=st.none() | st.integers(1, 9),
    choices=st.just(("x", "y")),
)
VALUES = st.text(max_size=4) | st.integers(-20, 20).map(str) | st.sampled_from(["x", "yes", "1.5"])


@given(SPECIFIED, st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2))
def test_what_meshctl_refuses_the_node_refuses_too(argument, given):
    if wrong_arguments({"Arguments": [argument.described()]}, given):
        with pytest.raises(ValueError, match="argument"):
            fill([argument], given)


@given(SPECIFIED, st.sampled_from(["{index}", "{line}", "x{index}"]), VALUES)
def test_of_members_of_a_batch_nothing_is_refused_for_what_stands_for_an_index(
    argument, place, value
):
    described = {"Arguments": [argument.described()]}
    assert wrong_arguments(described, {"a": place}, of_members=True) == ""
    alone = wrong_arguments(described, {"a": value})
    assert wrong_arguments(described, {"a": value}, of_members=True) == alone
    assert "no argument b" in wrong_arguments(described, {"b": place}, of_members=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.dictionaries(
        st.just("Arguments"),
        JSON
        | st.lists(
            st.dictionaries(st.sampled_from(["Name", "Type", "Choices", "Min", "Required"]), JSON)
        ),
    ),
    st.dictionaries(st.text(), st.text()),
)
def test_any_description_can_be_compared_with(described, given):
    assert isinstance(wrong_arguments(described, given), str)


# --- Asking --------------------------------------------------------------------------------------


def test_a_type_is_described_for_people_and_as_json(meshctl, fib):
    result = meshctl("work", "describe", "fib", "--node", "bar", "--tls-client", "t")
    assert result.stdout.splitlines() == [
        "Type:        fib (command) of node foo",
        "Does:        A number.",
        f"Usage:       {USAGE}",
        "Argument:    position (int, required, at least 1, at most 1000)  Which.",
        "Argument:    mode (choice, default fast, one of fast, slow)",
        "Variables:   LANG, JOB_*",
        "Directories: /srv",
        "Files:       --dep, --output",
        "Signature:   must be signed",
        "Timeout:     60 s",
        "Output:      at most 1000 bytes, errors apart, with times",
        "Limits:      memory 64MiB, pids 9",
        "Isolation:   network none",
        "Grace:       10 s",
    ]
    assert json.loads(fib.lines[-1]) == {
        **{"command": "work", "subcommand": "describe"},
        **{"worktype": "fib", "node": "bar", "tlsclient": "t"},
    }
    assert json.loads(meshctl("work", "describe", "fib", "--json").stdout) == FIB


def test_the_types_of_a_node_are_listed(meshctl, node):
    types = {
        "fib": {"Help": "A number.", "Usage": USAGE, "VerifySignature": False},
        "secret": {"Help": "", "Usage": "", "VerifySignature": True},
    }
    node.handlers[TYPES] = answer({"Node": "foo", "Types": types})
    lines = meshctl("work", "types").stdout.splitlines()
    assert lines == ["fib     A number.", "secret   (must be signed)"]
    assert json.loads(meshctl("work", "types", "--json").stdout)["Types"] == types


def test_of_a_node_that_knows_no_such_question_is_told_what_it_advertises(meshctl, node):
    node.handlers[TYPES] = refuse("bad command")
    lines = meshctl("work", "types", "--node", "bar").stdout.splitlines()
    assert lines == ["cat", "echo", "signed   (must be signed)"]
    node.handlers[DESCRIBE] = refuse("bad command")
    result = meshctl("work", "describe", "echo")
    assert result.exit_code == ExitCode.REFUSED
    assert "node foo does not describe its types of work: it is receptor's" in result.stderr


def test_lower_limits_are_sent_as_texts_where_the_type_has_some(meshctl, node):
    node.handlers[DESCRIBE] = answer({**FIB, "Arguments": [], "Limits": {"memory": "256MiB"}})
    options = ["--limit", "memory=64MiB", "--limit", "pids=5"]
    assert meshctl(*SUBMIT, *options).exit_code == 0
    (sent,) = node.submissions
    assert json.loads(sent["joblimits"]) == {"memory": "64MiB", "pids": "5"}


def test_a_limit_for_a_type_without_limits_is_an_error_and_nothing_is_submitted(meshctl, node):
    node.handlers[DESCRIBE] = answer({**FIB, "Arguments": [], "Limits": {}})
    done = meshctl(*SUBMIT, "--limit", "memory=64MiB")
    assert done.exit_code != 0
    assert "work type fib has no limits that could be lowered" in done.stderr
    assert node.submissions == []
