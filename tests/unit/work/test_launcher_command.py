"""Go's words for starts that fail and for ends, which receptor's clients match."""

import errno
import signal
from pathlib import Path

import pytest

from meshnode.work.local.launcher import command
from meshnode.work.local.launcher.command import CannotExecute, find_executable


def make_program(path: Path, mode: int = 0o755) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_a_name_is_looked_up_in_the_order_of_the_search_path(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    make_program(tmp_path / "two" / "tool")
    search_path = f"{tmp_path}/one:{tmp_path}/two"
    assert find_executable("tool", search_path) == f"{tmp_path}/two/tool"
    make_program(tmp_path / "one" / "tool")
    assert find_executable("tool", search_path) == f"{tmp_path}/one/tool"


def test_a_name_with_a_slash_is_taken_as_it_is() -> None:
    assert find_executable("./no/such", "/bin") == "./no/such"


def test_a_directory_and_a_file_without_the_x_bit_are_no_programs(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    make_program(tmp_path / "plain", 0o644)
    for name in ("folder", "plain", "missing", "nul\0"):
        with pytest.raises(CannotExecute) as caught:
            find_executable(name, str(tmp_path))
        assert str(caught.value) == f'exec: "{name}": executable file not found in $PATH'


def test_relative_entries_of_the_search_path_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_program(tmp_path / "tool")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotExecute):
        find_executable("tool", "::.:./")


def test_an_empty_name_is_no_command() -> None:
    with pytest.raises(CannotExecute, match="exec: no command"):
        find_executable("", "/bin")


def test_the_systems_words_begin_small_as_gos_do() -> None:
    assert command.error_text(OSError(errno.EACCES, "x")) == "permission denied"
    assert command.error_text(OSError(errno.ENOENT, "x")) == "no such file or directory"
    assert command.error_text(OSError(errno.ENOEXEC, "x")) == "exec format error"
    assert command.error_text(ValueError("embedded null byte")) == "invalid argument"


@pytest.mark.parametrize(
    ("wait_status", "text", "code", "name"),
    [
        (0, "exit status 0", 0, None),
        (3 << 8, "exit status 3", 3, None),
        (255 << 8, "exit status 255", 255, None),
        (signal.SIGHUP, "signal: hangup", None, "SIGHUP"),
        (signal.SIGINT, "signal: interrupt", None, "SIGINT"),
        (signal.SIGQUIT, "signal: quit", None, "SIGQUIT"),
        (signal.SIGABRT, "signal: aborted", None, "SIGABRT"),
        (signal.SIGKILL, "signal: killed", None, "SIGKILL"),
        (signal.SIGSEGV, "signal: segmentation fault", None, "SIGSEGV"),
        (signal.SIGSEGV | 0x80, "signal: segmentation fault (core dumped)", None, "SIGSEGV"),
        (signal.SIGPIPE, "signal: broken pipe", None, "SIGPIPE"),
        (signal.SIGTERM, "signal: terminated", None, "SIGTERM"),
        (signal.SIGXCPU, f"signal: signal {int(signal.SIGXCPU)}", None, "SIGXCPU"),
        (40, "signal: signal 40", None, "SIG40"),
    ],
)
def test_an_end_is_described_in_gos_words(
    wait_status: int, text: str, code: int | None, name: str | None
) -> None:
    assert command.end_text(wait_status) == text
    assert command.exit_code(wait_status) == code
    assert command.signal_name(wait_status) == name
