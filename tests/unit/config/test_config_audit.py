"""The audit-log directive: what is read, and what a check finds about its file."""

import os
from pathlib import Path

import pytest

from meshnode.config import ConfigFaults, check_environment, load_file
from meshnode.config.check import replaceable_audit_log
from meshnode.security.audit import AuditSettings, checked_settings


def written(tmp_path: Path, directive: str) -> str:
    file = tmp_path / "node.yml"
    file.write_text(f"- node:\n    id: foo\n    datadir: {tmp_path}\n- local-only\n{directive}\n")
    return str(file)


def settings(tmp_path: Path, directive: str) -> AuditSettings | None:
    return checked_settings(load_file(written(tmp_path, directive)).audit_log)


def test_a_node_without_the_directive_has_no_audit_log(tmp_path: Path) -> None:
    assert settings(tmp_path, "") is None


def test_a_bare_value_is_the_file_and_nothing_is_required(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    assert settings(tmp_path, f"- audit-log: {path}") == AuditSettings(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_can_be_required(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    found = settings(tmp_path, f"- audit-log:\n    filename: {path}\n    required: true")
    assert found == AuditSettings(path, required=True)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path.mkdir(), "is there and is not a file"),
        (lambda path: path.symlink_to("/dev/null"), "is there and is not a file"),
        (lambda path: (path.touch(), path.chmod(0o660)), "can be written by other users: chmod go"),
    ],
    ids=["a directory", "a link", "everybody's"],
)
def test_a_file_that_is_none_of_this_user_alone_is_found_by_check_and_by_start(
    tmp_path: Path, make, text: str
) -> None:
    path = tmp_path / "audit.log"
    make(path)
    config = load_file(written(tmp_path, f"- audit-log: {path}"))
    with pytest.raises(ConfigFaults, match=text) as caught:
        check_environment(config)
    assert str(caught.value).startswith(f'{tmp_path}/node.yml:5: audit-log: filename: "{path}"')
    with pytest.raises(ConfigFaults, match="cannot be used") as caught:
        checked_settings(config.audit_log)
    assert str(caught.value).startswith(f"{tmp_path}/node.yml:5: audit-log: filename: ")


def test_a_directory_that_is_missing_is_found_and_a_check_makes_nothing(tmp_path: Path) -> None:
    config = load_file(written(tmp_path, f"- audit-log: {tmp_path}/log/audit.log"))
    with pytest.raises(ConfigFaults, match="does not exist; create it first"):
        check_environment(config)
    check_environment(load_file(written(tmp_path, f"- audit-log: {tmp_path}/audit.log")))
    assert [path.name for path in tmp_path.iterdir()] == ["node.yml"]


def test_a_file_of_another_user_is_refused_before_a_start_would_refuse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.log"
    path.touch(mode=0o600)
    config = load_file(written(tmp_path, f"- audit-log: {path}"))
    check_environment(config)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigFaults, match=rf'"{path}" belongs to another user \(uid {owner}\)'):
        check_environment(config)
    with pytest.raises(ConfigFaults, match=rf"belongs to another user \(uid {owner}\)"):
        checked_settings(config.audit_log)


@pytest.mark.parametrize(("mode", "warned"), [(0o700, 0), (0o755, 0), (0o777, 1), (0o1777, 0)])
def test_a_log_in_a_directory_where_others_can_replace_it_is_warned_of(
    tmp_path: Path, mode: int, warned: int
) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    directory.chmod(mode)
    config = load_file(written(tmp_path, f"- audit-log: {directory}/audit.log"))
    found = [str(one) for one in replaceable_audit_log(config)]
    assert len(found) == warned
    assert all("filename" in one and f'"{directory}" can be written' in one for one in found)
