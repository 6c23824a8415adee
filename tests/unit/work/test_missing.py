"""``meshnode check`` warns of commands, plugins and directories that are not on the machine."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode import ownership
from meshnode.cli import ExitCode, main
from meshnode.config import load_arguments
from meshnode.work.missing import missing


def warnings_of(*directive: str) -> list[str]:
    config = load_arguments(["--node", "foo", "--local-only", *directive])
    return [fault.as_warning() for fault in missing(config)]


def command(*parameters: str) -> list[str]:
    return warnings_of("--work-command", "worktype=job", *parameters)


def test_commands_that_are_there_are_not_warned_of(tmp_path: Path):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert command("command=sh") == []
    assert command(f"command={tool}") == []
    assert command("command=./tool", f"cwd={tmp_path}") == []
    assert command("command=tool", f'env={{"PATH": "{tmp_path}"}}') == []


@given(st.from_regex(r"[a-z]{4,9}-not-there", fullmatch=True))
def test_a_command_that_is_not_found_is_named_with_its_type(name: str):
    assert command(f"command={name}") == [
        f'command line: warning: work-command: command: "{name}" is not found in PATH; '
        "units of type job will fail"
    ]


def test_a_path_that_is_no_program_is_named(tmp_path: Path):
    (tmp_path / "text").write_text("")
    (missed,) = command(f"command={tmp_path}/no")
    assert f'"{tmp_path}/no" does not exist; ' in missed
    (directory,) = command("command=./x", f"cwd={tmp_path}")
    assert '"./x" does not exist; ' in directory
    (folder,) = command(f"command={tmp_path}")
    assert "cannot be executed by this user" in folder


def test_a_file_without_the_right_to_execute_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "tool").write_text("")
    # Mode bits do not stop a test that runs as root, so the question is answered for it.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (warning,) = command(f"command={tmp_path}/tool")
    assert "cannot be executed by this user" in warning


def test_a_working_directory_that_is_not_there_is_named(tmp_path: Path):
    (warning,) = command("command=sh", f"cwd={tmp_path}/no")
    assert f'work-command: cwd: "{tmp_path}/no" is no directory; ' in warning


HIDING = {"full": "/tmp", "{hidden: [/tmp/at]}": "/tmp/at", "{pid: true}": ""}
"""What of a path in /tmp/at is covered, by kind of isolation."""


@pytest.mark.parametrize(("isolation", "covered"), HIDING.items())
@given(st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9})?", fullmatch=True))
def test_a_command_that_isolated_units_cannot_see_is_named(isolation: str, covered: str, name: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "exists", lambda self: True)
        patch.setattr(Path, "is_dir", lambda self: str(self) == "/tmp/at")
        patch.setattr(os, "access", lambda path, mode: True)
        path = f"/tmp/at/{name}"
        found = command(f"command={path}", "cwd=/tmp/at", f"isolation={isolation}")
    assert len(found) == (2 if covered else 0)
    for warning, what in zip(found, (path, "/tmp/at"), strict=False):
        assert f'"{what}" is not seen by its units, since ' in warning
        assert f"{covered} " in warning
        assert "units of type job will fail" in warning


@pytest.mark.parametrize(
    "isolation",
    [
        "{tmp: private, visible: [/tmp/at]}",
        "{tmp: private, mount: readonly, writable: [/tmp/at/bin]}",
        "{tmp: shared, network: none}",
        "none",
    ],
)
def test_what_is_brought_back_for_isolated_units_is_not_warned_of(
    isolation: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "is_dir", lambda self: str(self) == "/tmp")
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert command("command=/tmp/at/bin/x", "cwd=/tmp", f"isolation={isolation}") == []


def test_a_python_that_isolated_units_cannot_see_is_named(monkeypatch: pytest.MonkeyPatch):
    parameters = ("worktype=job", "plugin=x", "function=y", "isolation={hidden: [/opt/venv]}")
    monkeypatch.setattr("meshnode.work.missing._has_plugin", lambda directive: True)
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/python")
    (warning,) = warnings_of("--work-python", *parameters)
    assert '"/opt/venv/bin/python" is not seen by its units, since /opt/venv is hidden' in warning


def test_a_plugin_that_is_not_installed_is_named(tmp_path: Path):
    parameters = ("worktype=job", "plugin=greeter", "function=greet")
    (warning,) = warnings_of("--work-python", *parameters)
    assert 'work-python: plugin: no plugin "greeter" is installed' in warning
    info = tmp_path / "greeter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[receptor.worker]\ngreeter = greeter\n")
    environment = f'env={{"PYTHONPATH": "{tmp_path}"}}'
    assert warnings_of("--work-python", *parameters, environment) == []


def test_a_service_whose_command_is_not_there_is_named():
    (warning,) = warnings_of("--command-service", "service=shell", "command=nosuchshell -l")
    assert warning == (
        'command line: warning: command-service: command: "nosuchshell" is not found in PATH; '
        "connections to shell will fail"
    )


def test_a_check_tells_all_warnings_in_the_order_of_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ownership, "CLEANED", (os.path.realpath(tmp_path),))
    file = tmp_path / "foo.yml"
    file.write_text(
        f"- node:\n    id: foo\n    datadir: {tmp_path}/data\n"
        "- work-command:\n    worktype: x\n    command: nosuchcommand\n"
        "- tcp-listener: 2222\n"
        "- trace\n"
    )
    assert main(["check", str(file)]) == ExitCode.OK
    assert [
        line.removeprefix(f"{file}:")[:38] for line in capsys.readouterr().err.splitlines()
    ] == [
        "3: warning: node: datadir: units are k",
        '6: warning: work-command: command: "no',
        "7: warning: tcp-listener: port 2222 is",
        "8: warning: trace: has no effect here;",
    ]
