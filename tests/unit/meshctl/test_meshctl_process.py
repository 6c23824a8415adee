"""meshctl as a process of its own: signals, pipes, terminals, start."""

import os
import pty
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from interrupting import interrupt, interrupt_amid_input
from scripted_node import RUNNING

import meshctl as package
import meshnode
from meshctl.render.output import ExitCode

SLOW_TO_IMPORT = {"ssl", "yaml", "importlib.metadata", "socket", "json", "asyncio", "subprocess"}
OF_OTHER_COMMANDS = {
    *("meshctl.commands.auth", "meshctl.commands.submit", "meshctl.commands.results"),
    *("meshctl.render.tables", "meshctl.render.status", "click.shell_completion"),
}
OF_THE_NODE = {"trio", "cryptography", "aioquic", "meshnode"}


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import meshctl.cli", SLOW_TO_IMPORT | OF_THE_NODE | OF_OTHER_COMMANDS),
        (
            "from meshctl.cli import cli; cli.commands['work'].commands['status']",
            SLOW_TO_IMPORT | OF_THE_NODE | OF_OTHER_COMMANDS,
        ),
        (
            "import meshctl.api.client, meshctl.commands.bridge",
            {"ssl", "yaml", "asyncio"} | OF_THE_NODE,
        ),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code, unwanted):
    before = "import click, sys; before = set(sys.modules); "
    report = "; print(*sorted(set(sys.modules) - before), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", before + code + report], capture_output=True, check=True, text=True
    )
    imported = set(done.stdout.split())
    assert "meshctl" in imported
    assert not imported & unwanted


def test_the_version_is_that_of_the_project():
    assert package.__version__ == meshnode.__version__


def test_results_arrive_while_the_unit_runs(node, start_process):
    unit = node.add_unit("one", b"early", ended=False)
    process = start_process("--socket", node.address, "work", "results", "one")
    assert os.read(process.stdout.fileno(), 100) == b"early"
    unit.status = RUNNING | {"State": 2}
    unit.may_end.set()
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0


def test_ctrl_c_leaves_the_unit_running_and_says_how_to_follow_it_again(node, start_process):
    node.add_unit("one", b"early", ended=False)
    process = start_process("--socket", node.address, "work", "results", "one")
    assert os.read(process.stdout.fileno(), 100) == b"early"
    stdout, stderr = interrupt(process)
    assert stdout == b""
    assert stderr.decode() == (
        "ERROR: interrupted: unit one goes on. "
        f"Follow it again: meshctl --socket {node.address} work results one\n"
    )
    assert process.returncode == ExitCode.INTERRUPTED == 130
    assert "one" in node.units


def test_ctrl_c_while_the_program_is_loaded_ends_it_without_a_word():
    code = (
        "import builtins, sys\n"
        "real = builtins.__import__\n"
        "def load(name, *rest):\n"
        "    if name == 'click':\n"
        "        raise KeyboardInterrupt\n"
        "    return real(name, *rest)\n"
        "from meshctl.__main__ import main\n"
        "builtins.__import__ = load\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", ExitCode.INTERRUPTED)


def test_the_script_is_the_program_that_stops_without_a_word():
    project = tomllib.loads((Path(package.__file__).parents[1] / "pyproject.toml").read_text())
    assert project["project"]["scripts"]["meshctl"] == "meshctl.__main__:main"


def test_ctrl_c_amid_a_list_makes_no_batch_and_says_so(node, start_process):
    reached = threading.Event()

    def submit(session, line):
        session.send(b"Send the lines of the batch and EOF.\n")
        assert session.socket.recv(100)
        reached.set()
        with pytest.raises(ConnectionResetError):
            session.read_to_end()
        return False

    node.handlers["{"] = submit
    process = start_process(
        *["--socket", node.address, "work", "submit-batch", "-"], stdin=subprocess.PIPE
    )
    process.stdin.write(b'{"worktype": "cat"}\n')
    process.stdin.flush()
    assert reached.wait(60)
    assert interrupt_amid_input(process) == ExitCode.INTERRUPTED
    assert process.stderr.read() == b"ERROR: interrupted: nothing was submitted\n"


@pytest.mark.parametrize("words", [("--array", "1-3"), ("--from-lines", "/dev/null")])
def test_ctrl_c_before_the_answer_to_a_batch_says_where_it_would_be_found(
    node, start_process, words
):
    reached, over = threading.Event(), threading.Event()

    def submit(session, line):
        if '"lines"' in line:
            session.send(b"Send the lines of the batch and EOF.\n")
            session.read_to_end()
        reached.set()
        # Its half of the session has ended, and would be no reason to wait.
        over.wait(60)
        return False

    node.handlers["{"] = submit
    process = start_process("--socket", node.address, "work", "submit", "cat", *words)
    try:
        assert reached.wait(60)
        _, stderr = interrupt(process)
    finally:
        over.set()
    assert process.returncode == ExitCode.INTERRUPTED
    assert stderr.decode() == (
        "ERROR: interrupted: there may be a batch. "
        f"See: meshctl --socket {node.address} work batch list\n"
    )


def test_ctrl_c_with_rm_does_not_release_the_unit_and_says_so(node, start_process):
    node.unit_status = RUNNING
    process = start_process(
        "--socket", node.address, "work", "submit", "cat", "-l", "hi", "-f", "--rm"
    )
    assert os.read(process.stdout.fileno(), 100) == b"hi\n"
    _, stderr = interrupt(process)
    meshctl = f"meshctl --socket {node.address} work"
    assert stderr.decode() == (
        "Unit ID: Unit0001\n"
        "ERROR: interrupted: unit Unit0001 goes on and is not released "
        f"(to release it: {meshctl} release Unit0001). "
        f"Follow it again: {meshctl} results Unit0001\n"
    )
    assert process.returncode == ExitCode.INTERRUPTED
    assert list(node.units) == ["Unit0001"]


def test_ctrl_c_amid_a_payload_starts_nothing_and_names_the_unit(node, start_process):
    reached = threading.Event()

    def submit(session, line):
        session.send(b"Work unit created with ID half. Send stdin data and EOF.\n")
        assert session.socket.recv(100) == b"half a pay"
        reached.set()
        with pytest.raises(ConnectionResetError):
            session.read_to_end()
        node.payload_ends.append("reset")
        node.payload_ended.set()
        return False

    node.handlers["{"] = submit
    process = start_process(
        *["--socket", node.address, "work", "submit", "cat", "-p", "-"], stdin=subprocess.PIPE
    )
    process.stdin.write(b"half a pay")
    process.stdin.flush()
    assert reached.wait(60)
    assert interrupt_amid_input(process) == ExitCode.INTERRUPTED
    assert process.stderr.read().decode() == (
        "ERROR: interrupted: unit half exists. "
        f"See what became of it: meshctl --socket {node.address} work status half\n"
    )
    assert node.payload_ended.wait(60)
    assert node.payload_ends == ["reset"]


@pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
def test_a_killed_meshctl_does_not_leave_half_a_payload_to_be_run(
    request, start_process, kind, certificate
):
    node = request.getfixturevalue({"unix": "node"}.get(kind, f"{kind}_node"))
    reached = threading.Event()

    def submit(session, line):
        session.send(b"Work unit created with ID half. Send stdin data and EOF.\n")
        assert session.socket.recv(100) == b"half a pay"
        reached.set()
        # Below TLS, where the end of a connection and its reset are told apart.
        with socket.socket(fileno=os.dup(session.socket.fileno())) as sock:
            try:
                node.payload_ends.append(repr(sock.recv(100)))
            except ConnectionResetError:
                node.payload_ends.append("reset")
        node.payload_ended.set()
        return False

    node.handlers["{"] = submit
    options = ["--socket", node.address, "--rootcas", certificate[0]]
    process = start_process(*options, "work", "submit", "cat", "-p", "-", stdin=subprocess.PIPE)
    process.stdin.write(b"half a pay")
    process.stdin.flush()
    assert reached.wait(60)
    process.kill()
    assert node.payload_ended.wait(60)
    assert node.payload_ends == ["reset"]


def test_a_reader_that_goes_away_is_no_fault(node, start_process):
    node.add_unit("one", bytes(5_000_000))
    process = start_process("--socket", node.address, "work", "results", "one")
    assert os.read(process.stdout.fileno(), 10) == bytes(10)
    process.stdout.close()
    assert process.wait() == ExitCode.OUTPUT_CLOSED == 141
    assert process.stderr.read() == b""


def test_a_reader_that_goes_away_from_a_listing_is_no_fault_either(node, start_process):
    for number in range(2000):
        node.add_unit(f"unit{number}")
    reading, writing = os.pipe()
    os.close(reading)
    process = start_process("--socket", node.address, "work", "list", stdout=writing)
    os.close(writing)
    assert process.wait() == ExitCode.OUTPUT_CLOSED
    assert process.stderr.read() == b""


@pytest.mark.parametrize("args", [["status"], ["work", "results", "one"]])
def test_a_full_disk_is_told_in_one_line(node, start_process, args):
    node.add_unit("one", b"x" * 1000)
    with open("/dev/full", "wb") as full:
        process = start_process("--socket", node.address, *args, stdout=full)
        _, stderr = process.communicate()
    assert stderr == b"ERROR: cannot write the output: No space left on device\n"
    assert process.returncode == ExitCode.LOCAL_IO


RECEPTORCTLS_CODE = {ExitCode.UNREACHABLE: 1, ExitCode.WRONG_USAGE: 1, ExitCode.REFUSED: 1}
"""Where we tell apart what receptorctl does not."""


def echo_with_frame(session, line):
    session.send(b"Connecting\n<")
    session.send(session.read_to_end() + b">")
    return False


def test_connect_carries_any_bytes_between_pipes_and_half_closes(node, start_process):
    node.handlers["connect bar ssh mytls"] = echo_with_frame
    process = start_process(
        *["--socket", node.address, "connect", "bar", "ssh", "--tls-client", "mytls"],
        stdin=subprocess.PIPE,
    )
    payload = os.urandom(3_000_000)
    assert process.communicate(payload) == (b"<" + payload + b">", b"")
    assert process.returncode == 0


def test_connect_works_over_tls_too(tls_node, start_process, certificate):
    tls_node.handlers["connect bar ssh"] = echo_with_frame
    process = start_process(
        *["--socket", tls_node.address, "--rootcas", certificate[0], "connect", "bar", "ssh"],
        stdin=subprocess.PIPE,
    )
    payload = os.urandom(1_000_000)
    assert process.communicate(payload) == (b"<" + payload + b">", b"")


def test_connect_carries_both_ways_at_once(node, start_process):
    def talk(session, line):
        session.send(b"Connecting\nname? ")
        name = session.socket.recv(100)
        session.send(b"hello " + name)
        assert session.socket.recv(100) == b"bye\n"
        return False

    node.handlers["connect bar chat"] = talk
    process = start_process(
        "--socket", node.address, "connect", "bar", "chat", stdin=subprocess.PIPE
    )
    assert os.read(process.stdout.fileno(), 100) == b"name? "
    os.write(process.stdin.fileno(), b"foo\n")
    assert os.read(process.stdout.fileno(), 100) == b"hello foo\n"
    os.write(process.stdin.fileno(), b"bye\n")
    # The service has ended; that our stdin is still open does not matter.
    assert process.wait() == 0


def test_connect_reads_a_file_and_an_absent_stdin(node, start_process, tmp_path):
    node.handlers["connect bar ssh"] = echo_with_frame
    (tmp_path / "input").write_bytes(b"from a file")
    with (tmp_path / "input").open("rb") as file:
        process = start_process("--socket", node.address, "connect", "bar", "ssh", stdin=file)
        assert process.communicate()[0] == b"<from a file>"
    process = start_process("--socket", node.address, "connect", "bar", "ssh")
    assert process.communicate()[0] == b"<>"
    process = start_process(
        *["--socket", node.address, "connect", "bar", "ssh"],
        prefix=["sh", "-c", 'exec "$@" <&-', "sh"],
    )
    assert process.communicate() == (b"<>", b"")


def test_an_input_that_cannot_be_read_breaks_the_stream(node, start_process, tmp_path):
    node.handlers["connect bar ssh"] = echo_with_frame
    with (tmp_path / "file").open("wb") as for_writing:
        args = ["--socket", node.address, "connect", "bar", "ssh"]
        process = start_process(*args, stdin=for_writing)
    _, stderr = process.communicate()
    assert stderr == b"ERROR: cannot read standard input: Bad file descriptor\n"
    assert process.returncode == ExitCode.LOCAL_IO


def test_a_raw_terminal_passes_every_key_and_is_put_back(node, start_process):
    import termios

    received = []

    def talk(session, line):
        session.send(b"Connecting\nready")
        received.append(session.socket.recv(100))
        return False

    node.handlers["connect bar shell"] = talk
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = start_process(
        "--socket", node.address, "connect", "bar", "shell", "--raw", stdin=theirs
    )
    assert os.read(process.stdout.fileno(), 100) == b"ready"
    os.write(ours, b"\x03")
    assert process.wait() == 0
    assert received == [b"\x03"]
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_on_a_terminal_the_list_is_a_table(node, start_process):
    node.add_unit("one")
    ours, theirs = pty.openpty()
    process = start_process("--socket", node.address, "work", "list", stdout=theirs)
    os.close(theirs)
    assert process.wait() == 0
    assert os.read(ours, 1000).startswith(b"Unit ID  Node")
    os.close(ours)


def test_a_terminal_without_our_letters_gets_them_escaped(node, start_process):
    args = ["--socket", node.address, "ping", "bar", "--count", "1"]
    process = start_process(*args, env=os.environ | {"PYTHONIOENCODING": "iso-8859-2"})
    assert process.communicate() == (b"Reply from bar in 312.513\\xb5s\n", b"")


def test_the_module_can_be_run_and_knows_its_name(start_process):
    stdout, _ = start_process("--help").communicate()
    assert stdout.startswith(b"Usage: meshctl [OPTIONS]")


@pytest.mark.parametrize(
    "args",
    [
        ["status"],
        ["status", "--json"],
        ["ping", "bar", "--count", "2", "--delay", "0"],
        ["ping", "nosuch", "--count", "1"],
        ["traceroute", "nosuch"],
        ["reload"],
        ["work", "list"],
        ["work", "list", "-q"],
        ["work", "list", "--unit_id", "one"],
        ["work", "list", "--unit_id", "nosuch"],
        ["work", "submit", "cat", "-l", "hi"],
        ["work", "submit", "cat", "-l", "hi", "-f"],
        ["work", "submit", "cat", "-n", "--rm"],
        ["work", "submit", "cat"],
        ["work", "submit", "cat", "-n", "-a", "x"],
        ["work", "results", "one"],
        ["work", "results", "failed"],
        ["work", "results", "nosuch"],
        ["work", "cancel", "one", "two"],
        ["work", "cancel"],
        ["work", "release", "one", "two"],
        ["work", "release", "--all"],
    ],
    ids=" ".join,
)
def test_stdout_and_exit_code_are_those_of_receptorctl_whose_codes_are_fewer(
    node, start_process, args
):
    outcomes = []
    for module in ("receptorctl", "meshctl"):
        node.submissions.clear()
        node.units.clear()
        node.add_unit("two", b"2\n")
        node.add_unit("one", b"\xff\0\n")
        node.add_unit("failed", b"1\n", State=3, StateName="Failed", Detail="exit status 1")
        process = start_process("--socket", node.address, *args, module=module)
        stdout, _ = process.communicate()
        # What we say beyond receptorctl is no parameter of the work.
        submissions = [
            {k: v for k, v in submission.items() if k not in {"stdinsize", "stdinsha256"}}
            for submission in node.submissions
        ]
        code = process.returncode
        if module == "meshctl" and code == ExitCode.WRONG_USAGE and "-a" in args:
            code = ExitCode.SUBMIT_FAILED
        elif module == "meshctl":
            code = RECEPTORCTLS_CODE.get(code, code)
        outcomes.append((stdout, code, sorted(node.units), submissions))
    assert outcomes[0] == outcomes[1]
