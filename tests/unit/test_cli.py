"""The command line: what it starts, what it says, and how it ends."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import meshnode
from meshnode import ownership
from meshnode.cli import ExitCode, main
from meshnode.config import NodeConfig
from meshnode.config.directives import DIRECTIVES
from meshnode.errors import ConfigError, DuplicateNode
from meshnode.version import VERSION

Capture = pytest.CaptureFixture[str]
Runner = Callable[[NodeConfig, Callable[[], NodeConfig]], int]


@pytest.fixture
def run_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Runner], None]:
    """Let a function stand in for the whole node."""

    def install(runner: Runner) -> None:
        module = ModuleType("meshnode.node")
        module.run = runner  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "meshnode.node", module)
        monkeypatch.setattr(meshnode, "node", module, raising=False)

    return install


@pytest.fixture(autouse=True)
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the directory of a test be one where units may stay: no check warns of it."""
    monkeypatch.setattr(ownership, "CLEANED", ())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "foo.yml"
    path.write_text(
        f"- node:\n    id: foo\n    datadir: {tmp_path}/data\n"
        "- tcp-listener:\n    port: 0\n    bindaddr: 127.0.0.1\n"
    )
    return path


def test_a_node_is_started_with_the_typed_configuration(
    file: Path, run_as: Callable[[Runner], None]
):
    started: list[NodeConfig] = []

    def run(config: NodeConfig, load_again: Callable[[], NodeConfig]) -> int:
        started.append(config)
        assert load_again() == config
        return 7

    run_as(run)
    assert main(["-c", str(file), "--log-level", "debug"]) == 7
    assert [config.node.id for config in started] == ["foo"]
    assert started[0].log_level.level == "debug"


def test_nothing_is_started_when_the_configuration_is_wrong(
    file: Path, run_as: Callable[[Runner], None], capsys: Capture
):
    run_as(lambda config, load_again: pytest.fail("started"))
    assert main(["-c", str(file), "--tcp-listener", "x"]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == (
        'command line: tcp-listener: port: "x" is not a whole number from 0 to 65535\n'
    )


def test_nothing_is_started_when_the_datadir_cannot_be_used(
    file: Path, tmp_path: Path, run_as: Callable[[Runner], None], capsys: Capture
):
    (tmp_path / "data").write_text("")
    run_as(lambda config, load_again: pytest.fail("started"))
    assert main(["-c", str(file)]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == (
        f'{file}:3: node: datadir: "{tmp_path}/data" is not a directory\n'
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a.yml:1: x"), ExitCode.CONFIGURATION, "a.yml:1: x\n"),
        (DuplicateNode("foo is taken"), ExitCode.FAILED, "meshnode: foo is taken\n"),
        (
            ExceptionGroup("", [ExceptionGroup("", [ConfigError("a.yml:1: x")])]),
            ExitCode.CONFIGURATION,
            "a.yml:1: x\n",
        ),
    ],
)
def test_what_a_node_raises_on_purpose_is_one_line(
    error: Exception,
    code: ExitCode,
    line: str,
    file: Path,
    run_as: Callable[[Runner], None],
    capsys: Capture,
):
    def fail(config: NodeConfig, load_again: Callable[[], NodeConfig]) -> int:
        raise error

    run_as(fail)
    assert main(["-c", str(file)]) == code
    assert capsys.readouterr() == ("", line)


def test_what_nobody_foresaw_is_not_hidden(file: Path, run_as: Callable[[Runner], None]):
    def fail(config: NodeConfig, load_again: Callable[[], NodeConfig]) -> int:
        raise ExceptionGroup("", [ConfigError("x"), ZeroDivisionError()])

    run_as(fail)
    with pytest.raises(ExceptionGroup):
        main(["-c", str(file)])


def test_check_says_what_is_configured(file: Path, tmp_path: Path, capsys: Capture):
    assert main(["check", str(file)]) == ExitCode.OK
    assert capsys.readouterr() == (f"{file}: ok (node foo: 1 listener)\n", "")
    assert not (tmp_path / "data").exists()


def test_check_tells_every_fault(tmp_path: Path, capsys: Capture):
    (tmp_path / "bad.yml").write_text("- nod: foo\n- tcp-listener: 99999\n")
    assert main(["check", str(tmp_path / "bad.yml")]) == ExitCode.CONFIGURATION
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2


@pytest.mark.parametrize("arguments", [["check"], ["check", "a", "b"], ["check", "--node"]])
def test_check_takes_one_file(arguments: list[str], capsys: Capture):
    assert main(arguments) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == "command line: check: takes the name of one file\n"


def test_without_arguments_the_remedy_is_told(capsys: Capture):
    assert main([]) == ExitCode.CONFIGURATION
    assert "give --config FILE or directives, or see --help" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], ["check", "--help"]])
def test_help_lists_every_directive(arguments: list[str], capsys: Capture):
    assert main(arguments) == ExitCode.OK
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for cls in DIRECTIVES:
        assert f"\n  {cls.INFO.name} " in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help", "tcp-listener"],
        ["tcp-listener", "--help"],
        ["--tcp-listener", "-h"],
        ["help", "TCP-Listener"],
        ["--tcp-listener", "port=1", "--help"],
    ],
)
def test_help_explains_a_directive_in_any_order(arguments: list[str], capsys: Capture):
    assert main(arguments) == ExitCode.OK
    assert capsys.readouterr().out.startswith("tcp-listener: Accept links")


@pytest.mark.parametrize(
    ("topic", "line"),
    [
        ("nod", '--help: there is no directive "nod"; did you mean "node"?'),
        ("xyzzy", '--help: there is no directive "xyzzy"; meshnode --help lists all directives'),
        ("pyroscope-client", "pyroscope-client: has no effect here; no profiles are sent"),
    ],
)
def test_help_on_what_is_not_there_is_a_fault(topic: str, line: str, capsys: Capture):
    assert main(["--help", topic]) == ExitCode.CONFIGURATION
    assert capsys.readouterr() == ("", f"command line: {line}\n")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("chekc", "check"),
        ("CHECK", "check"),
        ("certs", "cert"),
        ("hepl", "help"),
        ("foo.yml", None),
    ],
)
def test_a_mistyped_command_is_told_which_one_was_meant(
    word: str, meant: str | None, capsys: Capture
):
    assert main([word, "foo.yml"]) == ExitCode.CONFIGURATION
    first = capsys.readouterr().err.splitlines()[0]
    if meant:
        assert first == f'command line: "{word}" is not a command; did you mean "{meant}"?'
    else:
        assert first.startswith(f'command line: "{word}" is not an option')


def test_the_version_is_told(capsys: Capture):
    assert main(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out == f"meshnode {VERSION}\n"


OTHER_WORK = """\
- work-command:
    worktype: other
    command: {python}
    umask: "0077"
    limits: {{files: 1024}}
    arguments: [{{name: what, type: int}}]
    params: "{{what}}"
"""
"""A type of work that is checked on this machine, by everybody."""


@pytest.mark.parametrize("more", ["", OTHER_WORK.format(python=sys.executable)])
def test_help_and_checks_import_nothing_of_the_network(file: Path, more: str):
    file.write_text(file.read_text() + more)
    program = (
        "import sys; from meshnode.cli import main; main(sys.argv[1:]); main(['--help']);"
        "sys.exit(' '.join({'trio', 'cryptography', 'aioquic'} & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "check", str(file)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(b": warning: node: datadir: " in line for line in done.stderr.splitlines())


def test_a_reader_of_help_may_leave_early():
    process = subprocess.Popen(
        [sys.executable, "-m", "meshnode", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, b"")


def test_the_module_runs_as_the_program_does(file: Path):
    done = subprocess.run(
        [sys.executable, "-m", "meshnode", "--node", "x"], capture_output=True, check=False
    )
    assert done.returncode == ExitCode.CONFIGURATION
    assert done.stderr.startswith(b"command line: no link is configured;")
