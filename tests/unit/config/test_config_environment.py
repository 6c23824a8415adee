"""Directories that a node needs are checked before it starts, and nothing is touched by it."""

import os
import socket
from pathlib import Path

import pytest

from meshnode.config import ConfigFaults, NodeConfig, check_environment, load_file


def configured(tmp_path: Path, datadir: Path | str, filename: Path | str = "") -> NodeConfig:
    file = tmp_path / "node.yml"
    file.write_text(
        f"- node:\n    id: foo\n    datadir: '{datadir}'\n- local-only\n"
        f"- control-service:\n    filename: '{filename}'\n"
    )
    return load_file(str(file))


def fault_of(config: NodeConfig) -> str:
    with pytest.raises(ConfigFaults) as caught:
        check_environment(config)
    return str(caught.value)


def test_directories_that_can_be_made_are_right_and_are_not_made(tmp_path: Path):
    check_environment(configured(tmp_path, tmp_path / "a/b/c", tmp_path / "a.sock"))
    assert [path.name for path in tmp_path.iterdir()] == ["node.yml"]


def test_a_relative_datadir_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check_environment(configured(tmp_path, "data", "a.sock"))


def test_a_file_in_the_way_of_the_datadir_is_told(tmp_path: Path):
    blocker = tmp_path / "blocker"
    blocker.write_text("")
    assert fault_of(configured(tmp_path, blocker / "data")) == (
        f'{tmp_path}/node.yml:3: node: datadir: "{blocker}" is not a directory'
    )


def test_a_file_in_place_of_the_nodes_directory_is_told(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/foo").write_text("")
    assert 'data/foo" is not a directory' in fault_of(configured(tmp_path, tmp_path / "data"))


def test_a_datadir_that_loops_is_told(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be used: too many levels" in fault_of(configured(tmp_path, tmp_path / "loop/x"))


def test_directories_that_cannot_be_written_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Mode bits do not stop a test that runs as root, so the question is answered for it.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert fault_of(configured(tmp_path, tmp_path / "x", tmp_path / "a.sock")).splitlines() == [
        f'{tmp_path}/node.yml:3: node: datadir: "{tmp_path}" cannot be written by this user',
        f"{tmp_path}/node.yml:6: control-service: filename: "
        f'"{tmp_path}" cannot be written by this user',
    ]


def test_a_missing_directory_of_a_socket_is_told(tmp_path: Path):
    assert fault_of(configured(tmp_path, tmp_path, tmp_path / "no/a.sock")) == (
        f"{tmp_path}/node.yml:6: control-service: filename: "
        f'"{tmp_path}/no" does not exist; create it first'
    )


def test_a_file_in_place_of_a_sockets_directory_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    config = configured(tmp_path, tmp_path, tmp_path / "file/a.sock")
    assert fault_of(config).endswith('file" is not a directory')


def test_a_file_in_place_of_a_socket_is_never_replaced(tmp_path: Path):
    (tmp_path / "a.sock").write_text("precious")
    config = configured(tmp_path, tmp_path, tmp_path / "a.sock")
    assert fault_of(config).endswith('a.sock" is there and is not a socket')


def test_a_loop_in_place_of_a_sockets_directory_is_told(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    config = configured(tmp_path, tmp_path, tmp_path / "loop/a.sock")
    assert "cannot be used: too many levels" in fault_of(config)


def test_an_old_socket_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as old:
        old.bind("a.sock")
    check_environment(configured(tmp_path, tmp_path, "a.sock"))
