"""The audit log as the node uses it: order, what waits, what is lost, and what is refused."""

import errno
import json
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import NotAudited
from meshnode.security import audit
from meshnode.security.audit import AuditLog, AuditSettings
from meshnode.security.auditfile import AuditFile, Written
from meshnode.security.auditlines import AuditEvent, Kind
from meshnode.security.identity import MeshClient
from meshnode.security.refusallimit import LINES_A_MINUTE


class Disk:
    """Where the fake files of a test are: it takes ``room`` more lines; None is any number."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.code = errno.ENOSPC
        self.written: dict[Path, list[dict[str, Any]]] = {}
        self.synced: set[str] = set()
        """Units of the lines that were on disk when somebody waited for them."""
        self.batches = 0

    def file(self, path: Path) -> AuditFile:
        disk = self

        class Fake(AuditFile):
            def write(self, lines: Sequence[bytes], *, sync: bool) -> Written:
                disk.batches += 1
                count = len(lines) if disk.room is None else min(disk.room, len(lines))
                if disk.room is not None:
                    disk.room -= count
                found = [json.loads(line) for line in lines[:count]]
                disk.written.setdefault(path, []).extend(found)
                if sync:
                    disk.synced |= {line.get("unit", "") for line in found}
                if count == len(lines):
                    return Written(count, is_durable=sync)
                error = OSError(disk.code, os.strerror(disk.code))
                return Written(count, error, is_durable=sync and count > 0)

        return Fake(path)

    def units(self, path: Path) -> list[str]:
        return [line["unit"] for line in self.written.get(path, ()) if "unit" in line]


def event(unit: int | str) -> AuditEvent:
    return AuditEvent(Kind.SUBMIT, unit=str(unit))


@pytest.fixture(autouse=True)
def retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps would jump while a thread writes."""
    monkeypatch.setattr(audit, "RETRY", 0.005)


HERE = Path("/var/log/audit.log")
THERE = Path("/var/log/other.log")


@asynccontextmanager
async def running(disk: Disk, *, required: bool = False) -> AsyncIterator[AuditLog]:
    log = AuditLog("foo", make_file=disk.file)
    log.apply(AuditSettings(HERE, required))
    async with log.writing():
        yield log


async def until(condition: Any) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.001)


def test_a_node_without_the_directive_makes_no_line_and_no_file(tmp_path: Path) -> None:
    log = AuditLog("foo")
    log.record(event(1))
    log.reopen()
    assert not log.is_on
    assert list(log.warnings()) == []

    async def main() -> None:
        async with log.writing():
            await log.require(event(2))

    trio.run(main)
    assert list(tmp_path.iterdir()) == []


async def test_lines_stand_in_the_order_in_which_things_happened() -> None:
    disk = Disk()
    async with running(disk) as log:
        for number in range(50):
            log.record(event(number))
            if number % 7 == 0:
                await trio.sleep(0.001)
    assert disk.units(HERE) == [str(number) for number in range(50)]
    kinds = [line["event"] for line in disk.written[HERE]]
    assert (kinds[0], kinds[-1]) == ("audit-on", "audit-off")


async def test_what_a_node_has_recorded_when_it_stops_is_written() -> None:
    disk = Disk()
    async with running(disk) as log:
        log.record(event(1))
    assert disk.units(HERE) == ["1"]


async def test_where_it_is_required_a_line_is_on_disk_when_the_wait_ends() -> None:
    disk = Disk()
    async with running(disk, required=True) as log:
        await log.require(event(1))
        assert "1" in disk.synced


async def test_many_that_wait_at_once_share_a_write() -> None:
    disk = Disk()
    async with running(disk, required=True) as log:
        await log.require(event(0))
        before = disk.batches
        async with trio.open_nursery() as nursery:
            for number in range(1, 101):
                nursery.start_soon(log.require, event(number))
        assert disk.batches - before <= 2
    assert len(disk.units(HERE)) == 101


async def test_where_it_is_not_required_nobody_waits_and_nothing_is_synced() -> None:
    disk = Disk()
    disk.room = 0
    async with running(disk) as log:
        with trio.fail_after(60):
            await log.require(event(1))
        disk.room = None
    assert disk.units(HERE) == ["1"]
    assert disk.synced == set()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
async def test_what_is_required_is_refused_while_no_line_can_be_written_and_not_after(
    code: int,
) -> None:
    disk = Disk()
    disk.code = code
    async with running(disk, required=True) as log:
        await log.require(event(1))
        disk.room = 0
        with pytest.raises(NotAudited, match=os.strerror(code)):
            await log.require(event(2))
        (warning,) = log.warnings()
        assert os.strerror(code) in warning
        assert "new work is refused" in warning
        disk.room = None
        await log.require(event(3))
        assert list(log.warnings()) == []
    # What was refused is not in the log as done.
    assert disk.units(HERE) == ["1", "3"]


async def test_a_full_disk_is_warned_of_once_and_what_waited_is_written_when_there_is_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = Disk()
    disk.room = 1
    caplog.set_level(logging.INFO, "meshnode")
    logging.getLogger("meshnode").propagate = True
    async with running(disk) as log:
        for number in range(20):
            log.record(event(number))
            seen = disk.batches
            await until(lambda seen=seen: disk.batches > seen + 1)
        (warning,) = log.warnings()
        assert "No space left on device (20 lines wait, 0 are lost)" in warning
        assert "refused" not in warning
        disk.room = None
        await until(lambda: not list(log.warnings()))
    assert disk.units(HERE) == [str(number) for number in range(20)]
    warned = [r for r in caplog.records if "cannot be written" in r.getMessage()]
    assert len(warned) == 1


async def test_lines_beyond_the_room_in_memory_are_counted_where_they_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "MAX_WAITING", 1000)
    disk = Disk()
    disk.room = 1
    async with running(disk) as log:
        for number in range(100):
            log.record(event(number))
            if number == 50:
                await until(lambda: list(log.warnings()))
        disk.room = None
        await until(lambda: not list(log.warnings()))
        log.record(event("later"))
    lines = disk.written[HERE]
    (place,) = (i for i, line in enumerate(lines) if line["event"] == "lost")
    before = [line["unit"] for line in lines[1:place]]
    assert before == [str(number) for number in range(len(before))]
    assert lines[place]["lines"] == 100 - len(before)
    assert lines[place + 1]["unit"] == "later"


@given(st.lists(st.sampled_from(["line", "full", "room", "wait", "required"]), max_size=40))
@settings(deadline=None, max_examples=60)
def test_each_line_is_written_once_in_order_or_counted_whatever_the_disk_does(
    steps: list[str],
) -> None:
    disk = Disk()
    recorded, done, refused = [], [], []

    async def main() -> None:
        async with running(disk, required=True) as log:
            for number, step in enumerate(steps):
                if step == "full":
                    disk.room = 0
                elif step == "room":
                    disk.room = None
                elif step == "wait":
                    await trio.sleep(0.01)
                elif step == "line":
                    log.record(event(number))
                    recorded.append(str(number))
                else:
                    try:
                        await log.require(event(number))
                        done.append(str(number))
                        recorded.append(str(number))
                    except NotAudited:
                        refused.append(str(number))
            disk.room = None

    trio.run(main)
    assert disk.units(HERE) == recorded
    assert set(done) <= disk.synced
    assert not set(refused) & set(disk.units(HERE))


async def test_another_file_gets_the_lines_from_then_on_and_the_old_one_says_so() -> None:
    disk = Disk()
    async with running(disk) as log:
        log.record(event(1))
        assert log.apply(AuditSettings(THERE))
        assert not log.apply(AuditSettings(THERE))
        log.record(event(2))
        await until(lambda: disk.units(THERE) == ["2"])
        assert log.apply(None)
        log.record(event(3))
        await until(lambda: disk.written[THERE][-1]["event"] == "audit-off")
    assert disk.units(HERE) == ["1"]
    assert disk.written[HERE][-1]["event"] == "audit-off"
    assert disk.units(THERE) == ["2"]


async def test_a_file_elsewhere_takes_what_a_full_disk_did_not() -> None:
    disk = Disk()
    disk.room = 0
    async with running(disk) as log:
        log.record(event(1))
        await until(lambda: list(log.warnings()))
        disk.room = None
        log.apply(AuditSettings(THERE))
        await until(lambda: disk.units(THERE) == ["1"])


async def test_a_renamed_file_gets_no_line_after_the_log_was_reopened(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog("foo")
    log.apply(AuditSettings(path, required=True))
    async with log.writing():
        await log.require(event(1))
        path.rename(tmp_path / "audit.log.1")
        await log.require(event(2))
        log.reopen()
        await log.require(event(3))
    old, new = ((tmp_path / name).read_text() for name in ("audit.log.1", "audit.log"))
    assert [json.loads(line).get("unit") for line in old.splitlines()] == [None, "1", "2"]
    assert [json.loads(line).get("unit") for line in new.splitlines()] == ["3", None]


async def test_a_file_that_others_may_write_to_by_now_takes_no_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog("foo")
    log.apply(AuditSettings(path, required=True))
    async with log.writing():
        await log.require(event(1))
        path.chmod(0o666)
        log.reopen()
        with pytest.raises(NotAudited, match="chmod go-w"):
            await log.require(event(2))
        path.chmod(0o600)
        await log.require(event(3))


async def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind() -> None:
    disk = Disk()
    async with running(disk, required=True) as log:
        with trio.CancelScope() as scope:
            scope.cancel()
            await log.require(event(1))
        assert scope.cancelled_caught
        await log.require(event(2))
    assert disk.units(HERE)[-1] == "2"


async def test_what_one_client_is_refused_over_and_over_is_counted() -> None:
    disk = Disk()
    loud, quiet = MeshClient("loud"), MeshClient("quiet")
    async with running(disk) as log:
        for _ in range(100):
            log.record(AuditEvent(Kind.REFUSAL, loud))
        log.record(AuditEvent(Kind.REFUSAL, quiet))
    lines = disk.written[HERE]
    refused = [line["by"]["Node"] for line in lines if line["event"] == "refusal"]
    assert refused == [*["loud"] * LINES_A_MINUTE, "quiet"]
    (more,) = (line for line in lines if line["event"] == "refusals")
    assert (more["by"], more["lines"]) == (loud.to_json(), 100 - LINES_A_MINUTE)
    assert lines[-1]["event"] == "audit-off"
