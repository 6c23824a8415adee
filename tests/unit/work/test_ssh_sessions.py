"""What a host runs for a unit: the scripts in real shells, behind a program in place of ssh."""

import io
import os
import secrets
import shutil
import signal
import tarfile
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import GLOBS, TREES, make, members

from meshnode.work.files.archive import CannotCollect
from meshnode.work.files.collecting import Collection
from meshnode.work.ssh.bringing import FarCollection
from meshnode.work.ssh.failures import HostFailure, Phase, Refused
from meshnode.work.ssh.hosts import Host, job_text
from meshnode.work.ssh.record import FarEnd
from meshnode.work.ssh.session import FarSession, open_session

PATIENCE = 60
"""Seconds until a test fails that waits for a process."""

FAKE_SSH = """#!/bin/sh
# An ssh whose host is this machine: the last argument is what the user's shell there runs.
for last; do :; done
cd {home} || exit
{noise}
exec env -i HOME={home} PATH={path} {shell} -c "$last"
"""

NEEDED = (
    *("cat", "chmod", "env", "grep", "head", "mkdir", "mkfifo", "mv", "printf", "rm", "rmdir"),
    *("sh", "sleep", "tail", "tar", "timeout", "tr", "wc"),
)
"""All that a host must have."""

ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))

SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]


class Far:
    """A host that is this machine, with programs of its own."""

    def __init__(
        self,
        root: Path,
        *,
        shell: str = "sh",
        noise: str = "",
        setsid: bool = True,
        tar: str | None = "tar",
    ):
        self.home, programs = root / "home", root / "bin"
        # Of its own: what has it is ended as a unit's, whoever else runs these tests.
        self.key = secrets.token_hex(8)
        self.home.mkdir()
        programs.mkdir()
        other = {"sh": shell, "tar": tar}
        for name in (*NEEDED, *(["setsid"] if setsid else [])):
            if (found := other.get(name, name)) is not None:
                (programs / name).symlink_to(shutil.which(found))
        self.ssh = root / "ssh"
        self.ssh.write_text(
            FAKE_SSH.format(home=self.home, path=programs, noise=noise, shell=programs / "sh")
        )
        self.ssh.chmod(0o755)
        self.host = Host("anna", "anna", ssh=str(self.ssh), directory="units")

    @asynccontextmanager
    async def session(self, name="unit-key", **host):
        more = {field: getattr(self.host, field) for field in Host.__slots__} | host
        with trio.fail_after(PATIENCE):
            async with open_session(Host(**more), name, self.key) as far:
                yield far

    def left(self) -> list[Path]:
        return list((self.home / "units").iterdir())

    def file(self, pattern: str) -> Path:
        (found,) = self.home.glob(f"units/*/run/{pattern}")
        return found


@pytest.fixture
def far(tmp_path):
    return Far(tmp_path)


async def prepare(session: FarSession, *words: str, payload=b"", env=None, cwd="") -> None:
    await session.look()
    await session.make()
    await session.put("supervisor.sh", job_text(words, env or {}, cwd))
    await session.put("stdin", payload)


async def collect(session: FarSession, position=0) -> tuple[bytes, FarEnd]:
    """Return all output from a byte on, and the end."""
    await session.follow(position)
    end = await session.wait_end()
    output = b""
    while len(output) < end.size - position:
        output += await session.receive()
    return output, end


async def run(far: Far, *words: str, timeout=0, grace=1.0, **more) -> tuple[bytes, FarEnd]:
    """Run a unit from its first session to its removal."""
    async with far.session() as session:
        await prepare(session, *words, **more)
        assert await session.start(timeout, grace)
        found = await collect(session)
        await session.remove()
    assert far.left() == []
    return found


def sh(script: str) -> tuple[str, ...]:
    return "sh", "-c", script


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("setsid", [True, False])
async def test_any_posix_shell_runs_a_unit_and_ends_all_of_another_with_or_without_setsid(
    tmp_path, shell, setsid
):
    far = Far(tmp_path, shell=shell, setsid=setsid)
    output, end = await run(far, *sh("cat; echo err >&2; exit 3"), payload=b"in\n")
    assert (output, end) == (b"in\nerr\n", FarEnd(3, "", 7))
    async with far.session() as session:
        await prepare(session, *sh("sleep 1000 & sleep 1000 & echo up; wait"))
        await session.start(0, 1)
        await session.follow(0)
        assert await session.receive() == b"up\n"
        while len(pids := processes_of(far)) < 3:
            await trio.sleep(0.01)  # one is about to be its program
        assert await session.stop(1)
        assert [pid for pid in pids if not is_dead(pid)] == []
    async with far.session() as session:
        assert (await session.look()).is_claimed
        output, end = await collect(session)
        assert (output, end.why) == (b"up\n", "cancel")
        await session.remove()


def processes_of(far: Far) -> list[int]:
    """Return the processes of commands on the host, by what marks them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environ = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"MESHNODE_SSH_JOB={far.key}".encode() in environ:
            found.append(int(entry.name))
    return found


def is_dead(pid: int) -> bool:
    """Whether a process has ended, and is perhaps still to be reaped by whoever has it now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(") ")[2][0] in "ZX"


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(ANY_TEXT, min_size=1, max_size=5), ANY_TEXT)
def test_any_words_and_any_environment_reach_the_command_as_they_are(tmp_path, words, value):
    root = tmp_path / os.urandom(4).hex()
    root.mkdir()
    script = 'printf "%s\\0" "$VALUE" "$@"'
    words = ("sh", "-c", script, "sh", *words)
    output, _ = trio.run(partial(run, Far(root), *words, env={"VALUE": value}))
    assert output == b"".join(f"{word}\0".encode() for word in (value, *words[4:]))


@pytest.mark.parametrize("name", ["with 'quotes' and blanks", "-rf", "a\nline", "$HOME", "*"])
async def test_a_directory_of_any_name_is_made_and_cleaned(far, name):
    (far.home / "keep").touch()
    async with far.session(directory=name) as session:
        await prepare(session, *sh("pwd"))
        await session.start(0, 1)
        output, _ = await collect(session)
        assert output.decode().startswith(f"{far.home}/{name}/unit-key/")
        await session.remove()
    assert list((far.home / name).iterdir()) == []
    assert (far.home / "keep").exists()


async def test_what_a_profile_prints_is_no_part_of_the_output(tmp_path):
    far = Far(tmp_path, noise="echo welcome; echo news >&2; printf 'no end of line'")
    output, _ = await run(far, *sh("echo there"))
    assert output == b"there\n"


async def test_a_start_is_done_once_however_many_sessions_ask_for_it_at_once(far, tmp_path):
    ledger, answers = tmp_path / "ledger", []
    async with trio.open_nursery() as nursery:

        async def one(go: trio.Event) -> None:
            async with far.session() as session:
                await prepare(session, *sh(f"echo x >>{ledger}; sleep 1000"))
                ready.append(session)
                await go.wait()
                answers.append(await session.start(0, 1))

        ready: list[FarSession] = []
        go = trio.Event()
        for _ in range(6):
            nursery.start_soon(one, go)
        with trio.fail_after(PATIENCE):
            while len(ready) < 6:
                await trio.sleep(0.01)
        go.set()
    assert sorted(pid is None for pid in answers) == [False] + [True] * 5
    async with far.session() as session:
        assert (await session.look()).is_claimed
        await session.stop(0)
        await session.remove()
    assert ledger.read_text() == "x\n"


async def test_a_stop_before_the_start_keeps_a_start_that_is_under_way_from_ever_coming(far):
    async with far.session() as first:
        await prepare(first, "true")
        async with far.session() as second:
            assert (await second.look()).is_there
            assert not await second.stop(1)
        with pytest.raises(Refused, match=r"^host anna: start: "):
            await first.start(0, 1)
    assert far.left() == []


async def test_what_was_sent_and_never_started_goes_with_its_session(far):
    async with far.session() as session:
        await prepare(session, "true", payload=b"x" * 100_000)
    with trio.fail_after(PATIENCE):
        while far.left():
            await trio.sleep(0.01)


async def test_the_output_can_be_had_again_from_any_byte(far):
    async with far.session() as session:
        await prepare(session, *sh("printf 0123456789"))
        await session.start(0, 1)
    for position in (0, 4, 10):
        async with far.session() as session:
            assert (await session.look()).is_claimed
            output, end = await collect(session, position)
            assert (output, end.size) == (b"0123456789"[position:], 10)
    async with far.session() as session:
        await session.look()
        await session.remove()


async def test_a_timeout_ends_what_ignores_sigterm_after_its_grace(far):
    output, end = await run(far, *sh("trap '' TERM; echo up; while :; do sleep 1; done"), timeout=1)
    assert (output, end.why) == (b"up\n", "timeout")
    assert processes_of(far) == []


async def test_a_command_that_ends_by_a_signal_it_got_is_told_by_the_shell_s_code(far):
    _, end = await run(far, *sh("kill -SEGV $$"))
    assert end.code == 128 + signal.SIGSEGV


async def test_what_a_command_leaves_running_is_ended_with_it(far):
    await run(far, *sh("setsid sleep 1000 & exit 0"))
    assert processes_of(far) == []


async def test_a_supervisor_that_is_killed_is_noticed_and_its_command_can_be_ended(far):
    async with far.session() as session:
        await prepare(session, *sh("sleep 1000"))
        await session.start(0, 1)
        await session.follow(0)
        os.kill(int(far.file("supervisor").read_text().split()[0]), signal.SIGKILL)
        assert (await session.wait_end()).code is None
        assert processes_of(far) != []
        assert await session.stop(1)
        assert processes_of(far) == []
        await session.remove()


async def test_a_supervisor_that_does_not_end_is_killed_with_its_command(far):
    async with far.session() as session:
        await prepare(session, *sh("sleep 1000"))
        await session.start(0, 0)
        supervisor = int(far.file("supervisor").read_text().split()[0])
        os.kill(supervisor, signal.SIGSTOP)
        assert await session.stop(0)
        assert is_dead(supervisor)
        assert processes_of(far) == []
        await session.remove()


async def test_a_command_that_cannot_be_run_says_so_in_its_output(far):
    output, end = await run(far, "no-such-command")
    assert end.code == 127
    assert b"no-such-command" in output


def packed(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


async def test_dependencies_are_unpacked_where_the_command_starts(far):
    async with far.session() as session:
        await prepare(session, *sh("cat DEPS/a DEPS/b; ls >/dev/null; pwd"))
        await session.put("deps", packed(a=b"one\n", b=b"two\n" * 100_000))
        await session.start(0, 1)
        output, _ = await collect(session)
        assert output.startswith(b"one\n" + b"two\n" * 100_000)
        await session.remove()


async def test_dependencies_that_are_no_tar_are_refused_and_nothing_is_started(far):
    async with far.session() as session:
        await prepare(session, "true")
        with pytest.raises(Refused, match=r"^host anna: copy: "):
            await session.put("deps", b"no tar at all" * 1000)
    with trio.fail_after(PATIENCE):
        while far.left():
            await trio.sleep(0.01)


@asynccontextmanager
async def ended(far: Far, tree: dict):
    """Yield a session with a unit that has ended, whose directory has that in it."""
    async with far.session() as session:
        await prepare(session, *sh("echo out"))
        await session.start(0, 1)
        await collect(session)
        shutil.rmtree(far.file("work"))
        make(far.file(".") / "work", tree)
        yield session
        await session.remove()
    assert far.left() == []


async def bring(session: FarSession, root: Path, *globs: str, hidden=frozenset()) -> str:
    return await FarCollection(session, root / "files", globs, hidden).run()


async def drain(session: FarSession) -> None:
    while await session.receive_part():
        pass


TARS = [name for name in ("tar", "busybox", "bsdtar") if shutil.which(name)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("tar", TARS)
def test_what_is_brought_from_a_host_is_what_would_be_collected_here(tmp_path, shell, tar):
    @settings(max_examples=12, deadline=None)
    @given(TREES, GLOBS)
    def same(tree, globs):
        root = tmp_path / os.urandom(4).hex()
        root.mkdir()
        far = Far(root, shell=shell, tar=tar)

        async def both() -> tuple[str, str]:
            async with ended(far, tree) as session:
                here = Collection(far.file("work"), root / "here", tuple(globs))
                while not here.step():
                    pass
                return await bring(session, root, *globs), here.words

        there, here = trio.run(both)
        assert members(root / "files") == members(root / "here")
        assert there.partition("; left out")[0] == here.partition("; left out")[0]

    same()


@pytest.mark.parametrize("tar", TARS)
async def test_files_of_a_host_are_the_same_to_their_last_byte_as_often_as_asked(tmp_path, tar):
    far = Far(tmp_path, tar=tar)
    tree = {
        "big": os.urandom(3_000_000),
        "hole": b"",
        "many": {str(at): b"1" for at in range(3000)},
    }
    async with ended(far, tree) as session:
        work = far.file("work")
        os.truncate(work / "hole", 1_000_000)
        (work / "program").write_bytes(b"#!/bin/sh\n")
        (work / "program").chmod(0o4755)
        for number in range(3):
            os.link(work / "big", work / f"same{number}")
        os.mkfifo(work / "fifo")
        os.utime(work / "big", (5, 1_234_567_890))
        for _ in range(2):
            told = await bring(session, tmp_path, "*")
            assert told == (
                "collected 3006 files; left out 'fifo' (neither a file nor a directory)"
            )
            found = members(tmp_path / "files")
            assert {found[name] for name in ("big", "same0", "same1", "same2")} == {tree["big"]}
            assert found["hole"] == bytes(1_000_000)
            assert sum(name.startswith("many/") for name in found) == 3000
        with tarfile.open(tmp_path / "files") as archive:
            assert archive.getmember("big").mtime == 1_234_567_890
            assert archive.getmember("program").mode == 0o755


async def test_a_session_that_follows_output_and_one_that_does_not_bring_files(far, tmp_path):
    async with ended(far, {"a": b"1"}), far.session() as other:
        assert (await other.look()).is_claimed
        assert await bring(other, tmp_path, "*") == "collected 1 file"
        assert other.is_free


async def test_a_host_without_tar_is_told_before_anything_is_sent(tmp_path):
    far = Far(tmp_path, tar=None)
    async with far.session() as session:
        await session.look()
        told = r"^host anna: copy: there is no tar, which brings files there and back: install it$"
        with pytest.raises(Refused, match=told):
            await session.make(with_tar=True)
    assert not (far.home / "units").exists()


async def test_a_host_that_lost_its_tar_and_one_that_lost_the_files_are_told(far, tmp_path):
    async with ended(far, {"a": b"1"}) as session:
        (tmp_path / "bin" / "tar").unlink()
        with pytest.raises(CannotCollect, match="there is no tar, which brings files back"):
            await bring(session, tmp_path, "*")
        shutil.rmtree(far.file("work"))
        assert await bring(session, tmp_path, "*") == "collected no files: its directory is gone"


async def test_a_session_that_is_killed_while_files_come_is_a_failure_to_collect(far):
    async with far.session() as session:
        await prepare(session, *sh("head -c 30000000 /dev/zero >big"))
        await session.start(0, 1)
        await collect(session)
    async with far.session() as session:
        await session.look()
        await session.bring(["big"])
        assert not session.is_free
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if far.key.encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
        with pytest.raises(HostFailure, match=r"^host anna: collect: ") as caught:
            await drain(session)
        assert not isinstance(caught.value, Refused)
    async with far.session() as session:
        assert (await session.look()).is_claimed
        await session.remove()


async def test_a_program_that_ends_at_once_is_a_failure_to_connect(far):
    far.ssh.write_text(
        "#!/bin/sh\necho 'ssh: connect to host a port 22: Connection refused' >&2\nexit 255\n"
    )
    with pytest.raises(HostFailure, match=r"^host anna: connect: .*Connection refused$") as caught:
        async with far.session() as session:
            await session.look()
    assert (caught.value.phase, caught.value.is_lasting) == (Phase.CONNECT, False)
