"""What a supervisor records when the disk is in its way."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from meshnode.work.local.launcher import records, statusfile, supervisor, tree, wire
from meshnode.work.local.launcher.supervisor import Supervisor
from meshnode.work.local.launcher.wire import (
    Answer,
    Ended,
    Record,
    Refused,
    Start,
    SupervisorChannel,
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    (tmp_path / "status").write_text('{"State": 1}')
    return tmp_path


@pytest.fixture
def watching(unit: Path) -> Supervisor:
    """Return a supervisor whose command has just ended with 0 and written three bytes."""
    myself = tree.read_process(os.getpid())
    assert myself is not None
    node, reports = os.open(os.devnull, os.O_WRONLY), os.open(os.devnull, os.O_WRONLY)
    channel = SupervisorChannel(os.open(os.devnull, os.O_RDONLY), reports)
    result = Supervisor(Start(1, "u", str(unit), ["x"], 1, env={}), myself, {}, node, channel)
    stdout, _ = result._output.open()
    os.write(stdout, b"abc")
    result._tree.end = 0
    return result


def end_of(watching: Supervisor, ended: Record | None = None) -> wire.Record:
    assert watching._tree.end is not None
    return records.end(watching._tree.pid, watching._tree.end, watching._output.files, ended)


def wait_for_the_child(supervisor: Supervisor) -> None:
    """Wait as a supervisor does, in a process whose other threads may get its signals."""
    os.waitid(os.P_PID, supervisor._tree.pid, os.WEXITED | os.WNOWAIT)


def is_status(fd: int) -> bool:
    return "status" in os.readlink(f"/proc/self/fd/{fd}")


def status_of(unit: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((unit / "status").read_bytes())
    return status


def test_an_end_is_recorded_as_soon_as_the_full_disk_has_room(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(waits) < 3 and is_status(fd):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(statusfile.os, "write", full)
    monkeypatch.setattr(supervisor.time, "sleep", waits.append)
    watching._record(end_of(watching))
    assert waits == [supervisor.RECORD_RETRY_SECONDS] * 3
    assert (status_of(unit)["State"], status_of(unit)["StdoutSize"]) == (2, 3)


def test_an_end_waits_no_longer_once_the_unit_is_released(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def release(seconds: float) -> None:
        shutil.rmtree(unit)

    write = os.write

    def full(fd: int, data: bytes) -> int:
        if is_status(fd):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(statusfile.os, "write", full)
    monkeypatch.setattr(supervisor.time, "sleep", release)
    watching._record(end_of(watching))
    assert not unit.exists()


CANCELED = {"State": 4, "Detail": "Canceled", "EndedBy": {"Cause": "cancel"}}
TIMED_OUT = {"State": 3, "Detail": "timed out after 1 s", "EndedBy": {"Cause": "timeout"}}


@pytest.mark.parametrize("ended", [None, CANCELED, TIMED_OUT])
def test_output_that_the_disk_lost_fails_the_unit(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch, ended: Record | None
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(records, "sync", broken)
    watching._record(end_of(watching, ended))
    status = status_of(unit)
    assert (status["State"], status["ExitCode"]) == (3, 0)
    assert status["Detail"] == "stdout is incomplete: input/output error"


def test_a_supervisor_whose_claim_may_stand_on_disk_takes_no_other_unit(
    unit: Path, watching: Supervisor, told: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        # The claim is written, and only then the disk fails.
        if status_of(unit)["State"] == 1:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    (unit / "status").write_text('{"State": 0, "SubmissionKey": "bar:1"}')
    watching._request.argv = ["true"]
    monkeypatch.setattr(statusfile.os, "fsync", broken)
    watching.run()
    assert status_of(unit)["State"] == 1
    assert not watching.is_free
    # Nor may anybody believe that the same can be asked for again.
    (answer,) = told
    assert isinstance(answer, Refused)
    assert (answer.is_passing, answer.is_taken) == (False, False)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """What supervisors told the node."""
    answers: list[Answer] = []

    def tell(node: int, answer: Answer) -> bool:
        answers.append(answer)
        return True

    monkeypatch.setattr(wire, "send", tell)
    return answers


LACKS = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN]


@pytest.mark.parametrize("lack", LACKS)
@pytest.mark.parametrize("key", ["", "bar:1"])
def test_a_command_that_the_machine_has_no_process_for_is_left_to_another_start(
    unit: Path,
    watching: Supervisor,
    told: list[Answer],
    monkeypatch: pytest.MonkeyPatch,
    lack: int,
    key: str,
) -> None:
    def refuse(*args: object, **options: object) -> int:
        assert status_of(unit)["State"] == 1
        raise OSError(lack, os.strerror(lack))

    before = {"State": 0, "Detail": "Starting Worker", "SubmissionKey": key, "Ours": "kept"}
    (unit / "status").write_text(json.dumps(before))
    watching._request.argv = ["true"]
    monkeypatch.setattr(os, "posix_spawn", refuse)
    watching.run()
    assert status_of(unit) == before
    text = os.strerror(lack)
    (answer,) = told
    assert isinstance(answer, Refused)
    assert answer.is_passing
    assert answer.reason.endswith(f"true: {text[:1].lower()}{text[1:]}")
    assert not watching.is_free


def test_a_command_that_cannot_be_executed_for_good_is_not_tried_again(
    unit: Path, watching: Supervisor, told: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> int:
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))

    (unit / "status").write_text('{"State": 0}')
    watching._request.argv = ["true"]
    monkeypatch.setattr(os, "posix_spawn", refuse)
    watching.run()
    assert status_of(unit)["State"] == 3
    assert not isinstance(told[-1], Refused)


def test_at_whichever_call_no_descriptor_is_left_a_start_happens_or_may_be_asked_for_again(
    unit: Path, watching: Supervisor, told: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never is a command executed of which the node then hears that it was not."""
    executed: list[str] = []
    opened, limit = 0, 0
    real_open = os.open

    def counted_open(*args: Any, **options: Any) -> int:
        nonlocal opened
        opened += 1
        if opened == limit:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real_open(*args, **options)

    def spawn(path: str, *args: Any, **options: Any) -> int:
        executed.append(path)
        return os.fork() or os._exit(0)

    monkeypatch.setattr(os, "open", counted_open)
    monkeypatch.setattr(os, "posix_spawn", spawn)
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Supervisor, "_wait", wait_for_the_child)
    monkeypatch.setattr(watching._channel, "leave", lambda: None)
    outcomes = []
    for limit in range(1, 40):
        opened = 0
        executed.clear()
        told.clear()
        for name in ("stdin", "stdout"):
            (unit / name).unlink(missing_ok=True)
        (unit / "status").write_text('{"State": 0, "SubmissionKey": "bar:1"}')
        start = Start(1, "u", str(unit), ["true"], 1, env={})
        # Of its own: a supervisor that goes on alone closes it.
        node = real_open(os.devnull, os.O_WRONLY)
        Supervisor(start, watching._myself, {}, node, watching._channel).run()
        state = status_of(unit)["State"]
        if executed:
            assert (state, isinstance(told[0], Refused)) == (2, False), limit
        else:
            assert isinstance(told[0], Refused), limit
            assert (state, told[0].is_passing) == (0, True), limit
        outcomes.append(bool(executed))
        if opened < limit:
            break
    assert False in outcomes
    assert opened < limit


def test_stdout_is_synced_before_the_end_is_written(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def record(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    monkeypatch.setattr(statusfile.os, "fsync", record)
    watching._record(end_of(watching))
    assert synced == ["stdout", "status.tmp", unit.name]


def test_separate_outputs_are_synced_and_measured_too_the_index_after_what_it_is_about(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    for name, text in (("stderr", b"errors"), ("index", bytes(32))):
        descriptor = watching._output.files[name] = os.open(unit / name, os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, text)

    def record(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    monkeypatch.setattr(statusfile.os, "fsync", record)
    watching._record(end_of(watching))
    assert synced == ["stdout", "stderr", "index", "status.tmp", unit.name]
    status = status_of(unit)
    assert [status[key] for key in ("StdoutSize", "StderrSize", "IndexSize")] == [3, 6, 32]


def test_an_end_that_the_node_is_to_complete_is_held_and_what_that_takes_is_kept(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "_wait_tree", lambda self: None)
    job = {"Files": {"Output": ["*"]}}
    for holds in (False, True):
        (unit / "status").write_text(json.dumps({"State": 0, "Job": job, "Params": ["x"]}))
        watching._status.claim({"State": 1})
        watching._request.holds = holds
        told: list[Answer] = []
        monkeypatch.setattr(watching, "_tell_last", told.append)
        watching._watch()
        (answer,) = told
        assert isinstance(answer, Ended)
        status = status_of(unit)
        if holds:
            assert (status["State"], status["Job"], status["Params"]) == (1, job, ["x"])
            assert status["Held"]["State"] == 2
            assert answer.record == {"Detail": "Collecting files", "Held": status["Held"]}
        else:
            assert (status["State"], status["Job"], status["Params"]) == (2, None, None)
            assert "Held" not in status
            assert answer.record["State"] == 2


@pytest.mark.parametrize("lost", ["stderr", "index"])
def test_a_separate_output_that_the_disk_lost_fails_the_unit_and_is_named(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    def broken(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(lost):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("stderr", "index"):
        descriptor = watching._output.files[name] = os.open(unit / name, os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"x")
    monkeypatch.setattr(records, "sync", broken)
    watching._record(end_of(watching))
    status = status_of(unit)
    assert (status["State"], status["Detail"]) == (3, f"{lost} is incomplete: input/output error")


@pytest.mark.parametrize(
    ("wait_status", "state", "detail"),
    [
        (0, 2, "exit status 0; no space left on the disk of its output, which may be incomplete"),
        (1 << 8, 3, "exit status 1; no space left on the disk of its output"),
    ],
)
def test_an_end_on_a_full_disk_says_so(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch, wait_status: int, state: int, detail: str
) -> None:
    monkeypatch.setattr(records, "_is_full", lambda fd: True)
    watching._tree.end = wait_status
    end = end_of(watching)
    assert (end["State"], end["Detail"]) == (state, detail)


@pytest.mark.parametrize("argv", [["true"], ["no-such-program-4711"]])
def test_the_node_hears_of_an_end_before_the_launcher_hears_that_its_supervisor_is_free(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    """Killed in between, it would leave a unit that runs for ever in the node's memory only."""
    told: list[str] = []

    def tell_node(node: int, answer: Answer) -> bool:
        has_ended = isinstance(answer, Ended) or (
            isinstance(answer, wire.Started) and answer.end is not None
        )
        told.append("ended" if has_ended else "started")
        return True

    def tell_launcher() -> bool:
        told.append("free")
        return True

    monkeypatch.setattr(wire, "send", tell_node)
    monkeypatch.setattr(watching._channel, "be_free", tell_launcher)
    monkeypatch.setattr(Supervisor, "_wait", wait_for_the_child)
    (unit / "status").write_text('{"State": 0}')
    watching._request.argv, watching._tree.end = argv, None
    watching.run()
    assert told[-2:] == ["ended", "free"]
    assert status_of(unit)["State"] in {2, 3}


def test_a_supervisor_that_cannot_tell_the_node_takes_no_other_unit(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exits, which is what tells the launcher, and that tells the node."""
    monkeypatch.setattr(wire, "send", lambda *told: False)
    monkeypatch.setattr(watching._channel, "be_free", lambda: pytest.fail("said to be free"))
    (unit / "status").write_text('{"State": 0}')
    watching._request.argv, watching._tree.end = ["no-such-program-4711"], None
    watching.run()
    assert not watching.is_free
