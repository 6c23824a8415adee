"""What people and scripts get wrong, and what goes wrong under way: one line, never a traceback."""

import json

import pytest

from meshctl import ControlClient, SessionLost
from meshctl.render.output import ExitCode, sentence


@pytest.mark.parametrize(
    "options",
    [
        ["--delay", "-1"],
        ["--delay", "nan"],
        ["--delay", "inf"],
        ["--delay", "1e300"],
        ["--count", "0"],
        ["--count", "-1"],
    ],
)
def test_a_ping_that_cannot_be_is_refused_before_the_node_is_asked(meshctl, node, options):
    result = meshctl("ping", "bar", *options)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert result.stdout == ""
    assert result.stderr.startswith(f"ERROR: Invalid value for '{options[0]}'")
    assert result.stderr.count("\n") == 1
    assert node.lines == []


def test_a_ping_may_follow_at_once(meshctl):
    assert meshctl("ping", "bar", "--count", "2", "--delay", "0").stdout.count("Reply from") == 2


@pytest.mark.parametrize(
    ("text", "sentence_of_it"),
    [("gone", "gone."), ("gone.", "gone."), ("Is it gone?", "Is it gone?"), ("", "")],
)
def test_a_sentence_has_one_mark_at_its_end(text, sentence_of_it):
    assert sentence(text) == sentence_of_it


def test_a_suggestion_of_clicks_keeps_its_question_mark(meshctl):
    stderr = meshctl("--verson", "status").stderr
    assert stderr.endswith("--version? See: meshctl --help\n")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_socket_is_called_so(meshctl, tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "file":
        path.write_text("not a socket")
    else:
        path.mkdir()
    result = meshctl("status", socket=str(path))
    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stderr == (
        f"ERROR: cannot reach {path}: it is no socket. "
        "Give the filename of a control-service, and not that of its lock\n"
    )


@pytest.mark.parametrize(
    "command", [["work", "results", "one"], ["work", "submit", "cat", "-l", "x", "-f"]]
)
def test_a_closed_stdout_is_told_in_one_line(node, start_process, command):
    node.add_unit("one", b"bytes")
    closed = ["sh", "-c", 'exec "$@" >&-', "sh"]
    process = start_process("--socket", node.address, *command, prefix=closed)
    _, stderr = process.communicate()
    assert stderr.decode().endswith("ERROR: cannot write the output: standard output is closed\n")
    assert process.returncode == ExitCode.LOCAL_IO


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["cancel"], "the node goes on cancelling unit two"),
        (["release"], "the node goes on releasing unit two"),
    ],
)
def test_ctrl_c_amid_a_cancel_says_what_goes_on(meshctl, node, monkeypatch, words, text):
    _end_second_unit_with(monkeypatch, node, KeyboardInterrupt())
    result = meshctl("work", *words, "one", "two", "three")
    assert result.exit_code == ExitCode.INTERRUPTED
    assert result.stdout.count("\n") == 2  # the heading and unit one
    assert result.stderr == (
        f"ERROR: interrupted: {text}. See: meshctl --socket {node.address} work status two\n"
    )


@pytest.mark.parametrize("error", [SessionLost("the session broke"), KeyboardInterrupt()])
def test_what_was_done_before_a_break_is_in_the_json(meshctl, node, monkeypatch, error):
    _end_second_unit_with(monkeypatch, node, error)
    result = meshctl("work", "cancel", "--json", "one", "two", "three")
    assert json.loads(result.stdout) == {"one": "cancelled"}
    assert result.exit_code in (ExitCode.UNREACHABLE, ExitCode.INTERRUPTED)


def _end_second_unit_with(monkeypatch, node, error):
    """Have the client raise ``error`` when it cancels or releases unit two."""
    for name in ("one", "two", "three"):
        node.add_unit(name, b"")
    for method in ("cancel", "release", "force_release"):
        genuine = getattr(ControlClient, method)

        def ended(self, unit_id, *, genuine=genuine):
            if unit_id == "two":
                raise error
            return genuine(self, unit_id)

        monkeypatch.setattr(ControlClient, method, ended)


def test_a_unit_released_while_its_results_are_read_is_told_as_that(meshctl, node):
    unit = node.add_unit("one", b"early", ended=False)

    def release(session, line):
        session.send(b"Streaming results for work unit one\nearly")
        del node.units["one"]
        return False

    node.handlers["work results one"] = release
    result = meshctl("work", "results", "one")
    unit.may_end.set()
    assert result.stdout == "early"
    assert result.stderr == (
        "ERROR: unit one was released while its results were read; they end after byte 5\n"
    )
    assert result.exit_code == ExitCode.REFUSED


def test_a_status_refused_for_another_reason_keeps_that_reason(meshctl, node):
    node.add_unit("one", b"early")
    node.handlers["work status"] = lambda session, line: session.send(b"ERROR: no\n") or True
    result = meshctl("work", "results", "one")
    assert result.stderr == "ERROR: no\n"
    assert result.exit_code == ExitCode.REFUSED
