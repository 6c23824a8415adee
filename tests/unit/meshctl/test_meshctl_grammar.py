"""What can only be a mistake is refused, with the nearest thing that is none."""

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from meshctl.cli import cli
from meshctl.commands.grammar import OTHER_WORDS
from meshctl.render.output import ExitCode


def refused(*args):
    result = CliRunner().invoke(cli, ["--socket", "/no/such", *args])
    assert result.exit_code == ExitCode.WRONG_USAGE, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("ERROR: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["staus"], "No such command 'staus'. Did you mean status or work status? See: meshctl"),
        (["STATUS"], "Did you mean status or work status?"),
        (["list"], "Did you mean work list? See: meshctl --help"),
        (["work", "staus"], "Did you mean status? See: meshctl work --help"),
        (["work", "submti"], "Did you mean submit?"),
        (["work", "ping"], "Did you mean meshctl ping?"),
        (["logs"], "Did you mean work logs?"),
        (["work", "output"], "Did you mean results?"),
        (["work", "ps"], "Did you mean list?"),
        (["work", "rm"], "Did you mean release?"),
        (["work", "kill"], "Did you mean cancel?"),
        (["help"], "No such command 'help'. See: meshctl --help"),
        (["work", "list", "--tabel"], "Did you mean --table, --label or --state?"),
        (["xyzzy"], "No such command 'xyzzy'. See: meshctl --help"),
        (["work", "submit", "--no-paylod"], "--no-paylod. Did you mean --no-payload or --payload?"),
        (["version", "--jsn"], "No such option: --jsn. Did you mean --json?"),
        (["--json", "status"], "No such option: --json. It stands after the command."),
        (["work", "--node", "b", "list"], "No such option: --node. It stands after the command."),
        (
            ["status", "--socket", "x"],
            "It stands before the command. See: meshctl status",
        ),
        (["work", "list", "--nosuch"], "No such option: --nosuch. See: meshctl work list --help"),
    ],
    ids=str,
)
def test_a_mistake_is_answered_with_what_was_meant(words, text):
    assert text in refused(*words)


def test_words_of_other_programs_mean_commands_that_there_are():
    names = {*cli.commands, *cli.commands["work"].commands}
    assert set(OTHER_WORDS.values()) <= names
    assert not set(OTHER_WORDS) & names


@pytest.mark.parametrize("path", [(), ("status",), ("work",), ("work", "submit")], ids=str)
def test_h_is_help_as_well(path):
    asked = CliRunner().invoke(cli, [*path, "-h"], prog_name="meshctl")
    assert asked.exit_code == 0
    assert asked.stdout == CliRunner().invoke(cli, [*path, "--help"], prog_name="meshctl").stdout


def single_options():
    """Every command with every option of it that has one value."""

    def below(command, path):
        for parameter in command.params:
            if parameter.param_type_name == "option" and not (
                parameter.is_flag or parameter.multiple or parameter.count
            ):
                for name in parameter.opts:
                    yield path, name
        for name, sub in getattr(command, "commands", {}).items():
            yield from below(sub, (*path, name))

    return list(below(cli, ()))


@pytest.mark.parametrize(("path", "option"), single_options(), ids=str)
def test_an_option_with_one_value_is_given_once(path, option):
    text = refused(*path, option, "1", option, "1")
    if path or option != "--socket":  # which the test gives, too
        assert "is given twice; it has one value. See: meshctl" in text


def test_two_names_of_an_option_are_one_option():
    text = refused("work", "results", "--from", "1", "--startpos", "2", "one")
    assert "--startpos is given twice" in text


def test_what_may_be_repeated_may_and_words_after_two_hyphens_are_no_options(meshctl, node):
    result = meshctl("work", "submit", "cat", "-n", "-n", "-a", "params=x", "-a", "kube_image=y")
    assert result.exit_code == 0
    words = ["--node", "a", "--node", "b"]
    assert meshctl("work", "submit", "cat", "-n", "--", *words).exit_code == 0
    assert node.submissions[-1]["params"] == "--node a --node b"
    assert meshctl("work", "list", "--state", "Failed", "--state", "Canceled").exit_code == 0


@given(st.lists(st.text(max_size=8), max_size=4))
def test_any_words_are_a_command_or_one_line(words):
    words = [word.replace("\0", "") for word in words]
    result = CliRunner().invoke(cli, ["--socket", "/no/such", *words])
    assert result.exit_code in {0, ExitCode.WRONG_USAGE, ExitCode.UNREACHABLE}
    assert result.exception is None or isinstance(result.exception, SystemExit)


# --- the payload ----------------------------------------------------------------------------------


def test_an_empty_text_is_an_empty_line(meshctl, node):
    assert meshctl("work", "submit", "cat", "-l", "").exit_code == 0
    assert node.units["Unit0001"].stdout == b"\n"


@pytest.mark.parametrize("other", [["-n"], ["-p", "x"]])
def test_an_empty_text_is_a_payload_beside_others(other):
    assert "Cannot provide more than one" in refused("work", "submit", "cat", "-l", "", *other)


def test_a_payload_without_a_name_is_no_missing_payload():
    assert "--payload names no file" in refused("work", "submit", "cat", "-p", "")


# --- errors are for people ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("could not parse response: ERROR: unknown work type x", "unknown work type x"),
        ("could not parse response: whatever", "whatever"),
        ("could not parse response", "could not parse response"),
    ],
)
def test_a_refusal_that_a_receptor_node_passes_on_is_shown_as_it_was_made(
    meshctl, node, told, shown
):
    node.handlers["{"] = lambda session, line: session.send(f"ERROR: {told}\n".encode()) or True
    result = meshctl("work", "submit", "x", "-n", "--node", "bar")
    assert result.stderr == f"ERROR: Failed to start work unit: {shown}\n"


@pytest.mark.parametrize("command", ["cancel", "release", "force-release"])
def test_nothing_is_announced_that_does_not_happen(meshctl, node, command):
    result = meshctl("work", command, "nosuch", "other")
    assert (result.exit_code, result.stdout) == (ExitCode.REFUSED, "")
    node.add_unit("one")
    if command == "cancel":
        result = meshctl("work", command, "nosuch", "one", "other")
        assert result.stdout == "Cancelled:\n(one, cancelled)\n"
