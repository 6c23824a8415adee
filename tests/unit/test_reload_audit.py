"""A reload begins, moves and ends the audit log, and is not refused for one that is in use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshnode.config import load_file
from meshnode.errors import ReloadFault
from meshnode.mesh.mesh import open_mesh
from meshnode.mesh.peers.configured import ConfiguredLinks
from meshnode.reload import Reloader
from meshnode.resources import DescriptorReserve
from meshnode.security.audit import AuditLog, AuditSettings, checked_settings
from meshnode.security.auditlines import AuditEvent, Kind
from meshnode.work.configured import ConfiguredWork


class Setting:
    """A node's file, its audit log, and the reloader between them."""

    def __init__(self, path: Path, audit: AuditLog, reload: Reloader) -> None:
        self.path = path
        self.audit = audit
        self.reload = reload

    def write(self, directive: str) -> None:
        node = f"- node:\n    id: foo\n    datadir: {self.path.parent}\n- local-only\n"
        self.path.write_text(f"{node}{directive}\n")


@asynccontextmanager
async def running(tmp_path: Path, directive: str) -> AsyncIterator[Setting]:
    path = tmp_path / "foo.yml"
    setting = Setting(path, AuditLog("foo"), None)  # type: ignore[arg-type]
    setting.write(directive)
    config = load_file(str(path))
    async with open_mesh("foo") as mesh, setting.audit.writing():
        setting.audit.apply(checked_settings(config.audit_log))
        work = ConfiguredWork(config, mesh, 1024, DescriptorReserve(0))
        links = ConfiguredLinks(mesh)
        setting.reload = Reloader(
            config, lambda: load_file(str(path)), mesh, links, work, audit=setting.audit
        )
        setting.reload.when_asked(setting.audit.reopen)
        setting.reload.start()
        yield setting


def events(path: Path) -> list[str]:
    return [line.split('"event":"')[1].split('"')[0] for line in path.read_text().splitlines()]


async def test_a_reload_begins_and_ends_the_log(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    async with running(tmp_path, "") as setting:
        assert not setting.audit.is_on
        setting.write(f"- audit-log: {log}")
        assert await setting.reload() is None
        assert setting.audit.is_on
        await setting.reload.on_signal()
        setting.write("")
        assert await setting.reload() is None
        assert not setting.audit.is_on
    assert events(log) == ["audit-on", "reload", "audit-off"]


async def test_a_reload_to_a_file_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    log, bad = tmp_path / "audit.log", tmp_path / "bad.log"
    bad.touch()
    bad.chmod(0o666)
    async with running(tmp_path, f"- audit-log: {log}") as setting:
        setting.write(f"- audit-log: {bad}\n- work-command:\n    worktype: x\n    command: x")
        refusal = await setting.reload()
        assert refusal is not None
        assert refusal.fault is ReloadFault.FAILED
        assert "chmod go-w" in str(refusal)
        await setting.audit.require(AuditEvent(Kind.CANCEL))
    assert bad.read_bytes() == b""
    assert events(log) == ["audit-on", "cancel", "audit-off"]


@pytest.mark.parametrize("required", [False, True])
async def test_a_log_that_cannot_be_written_now_refuses_no_reload_of_all_else(
    tmp_path: Path, required: bool
) -> None:
    log = tmp_path / "audit.log"
    directive = f"- audit-log:\n    filename: {log}\n    required: {str(required).lower()}"
    async with running(tmp_path, directive) as setting:
        log.chmod(0o666)
        setting.write(f"{directive}\n- log-level: warning")
        assert await setting.reload() is None
        setting.audit.record(AuditEvent(Kind.RELOAD))
        with trio.fail_after(60):
            while not list(setting.audit.warnings()):
                await trio.sleep(0.001)
        log.chmod(0o600)
    assert events(log)[-1] == "audit-off"


async def test_what_is_required_may_change_without_another_file(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    async with running(tmp_path, f"- audit-log: {log}") as setting:
        setting.write(f"- audit-log:\n    filename: {log}\n    required: true")
        assert await setting.reload() is None
        assert not setting.audit.apply(AuditSettings(log, required=True))
    assert events(log) == ["audit-on", "audit-off"]
