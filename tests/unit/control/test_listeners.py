"""Real sockets: who may connect, who owns the path, what is never deleted."""

import fcntl
import os
import pwd
import re
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from strange_files import put_strange
from trio.testing import memory_stream_pair

from meshnode.config import Address
from meshnode.control import usernames
from meshnode.control.registry import Command, CommandRegistry, ControlSession
from meshnode.control.service import SERVICE_TAGS, ControlService, open_listeners, open_tcp
from meshnode.errors import ConfigError, ServiceInUse
from meshnode.logs import subject_logger
from meshnode.net import sockets
from meshnode.net.addresses import network_of
from meshnode.net.sockets import (
    UNKNOWN_HOLDER,
    CannotListen,
    FromNode,
    holder_of,
    identify,
    peer_name,
)
from meshnode.net.unix_listener import UnixListener
from meshnode.protocol.routing import WorkType
from meshnode.security.identity import MeshClient, TcpClient, UnixClient, UnknownClient
from meshnode.shares import Holder


class FakeListener(trio.abc.Listener[trio.abc.HalfCloseableStream]):
    closed = False

    async def accept(self) -> trio.abc.HalfCloseableStream:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


class FakeMesh:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple] = []

    async def listen(self, service, *, tags, work_types, tls=None):
        await trio.lowlevel.checkpoint()
        if self.error:
            raise self.error
        self.asked.append((service, tags, work_types))
        return FakeListener()


def names(**given):
    return {
        "service": "",
        "filename": "",
        "permissions": 0o600,
        "tcplisten": None,
        "mesh": FakeMesh(),
        "work_types": (),
        **given,
    }


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "foo.sock")


@pytest.mark.parametrize("permissions", [0o600, 0o660, 0o777])
async def test_a_socket_has_its_permissions_whatever_the_umask(path, permissions) -> None:
    old = os.umask(0o077)
    try:
        listener = UnixListener.open(path, permissions)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == permissions
    await listener.aclose()


async def test_a_client_is_served_over_a_unix_socket(path, registry, nursery) -> None:
    listeners = await open_listeners(**names(filename=path))
    assert [str(listener) for listener in listeners] == [f"unix {path}"]
    await nursery.start(ControlService("foo", registry).run, listeners)
    async with await trio.open_unix_socket(path) as client:
        await client.send_all(b"ping\n")
        await client.send_eof()
        got = b""
        async for data in client:
            got += data
    assert got == b"Receptor Control, node foo\nERROR: no ping target\n"


async def test_the_socket_goes_and_the_lock_file_stays_when_it_closes(path) -> None:
    listener = UnixListener.open(path, 0o600)
    await listener.aclose()
    assert not os.path.lexists(path)
    assert os.path.exists(path + ".lock")
    await listener.aclose()  # a second close is nothing
    await UnixListener.open(path, 0o600).aclose()


async def test_a_second_owner_is_refused_and_the_first_goes_on(path) -> None:
    first = UnixListener.open(path, 0o600)
    with pytest.raises(ConfigError, match=re.escape(path) + ": is in use by a live node"):
        UnixListener.open(path, 0o600)
    async with await trio.open_unix_socket(path):
        await (await first.accept()).aclose()
    await first.aclose()


@pytest.mark.parametrize("what", ["named pipe", "link", "directory", "device", "socket"])
async def test_a_lock_file_that_is_no_file_is_refused_at_once(tmp_path, what) -> None:
    directory = tmp_path / "sockets"
    directory.mkdir()
    path = directory / "foo.sock"
    put_strange(Path(f"{path}.lock"), what)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: has a lock file that is a ")):
        UnixListener.open(str(path), 0o600)
    assert not path.exists()


async def test_a_directory_that_others_may_write_to_is_warned_of(path, tmp_path, caplog) -> None:
    tmp_path.chmod(0o777)
    await UnixListener.open(path, 0o600).aclose()
    text = f'socket {path}: clients may be led to another socket: "{tmp_path}" can be written'
    assert text in caplog.text
    caplog.clear()
    tmp_path.chmod(0o1777)
    await UnixListener.open(path, 0o600).aclose()
    assert caplog.text == ""


async def test_a_lock_that_another_program_holds_is_respected(path) -> None:
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="live node"):
            UnixListener.open(path, 0o600)
    assert not os.path.lexists(path)


async def test_a_stale_socket_is_replaced(path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    listener = UnixListener.open(path, 0o600)
    async with await trio.open_unix_socket(path):
        await (await listener.accept()).aclose()
    await listener.aclose()


@pytest.mark.parametrize("backlog", [5, 0])
async def test_a_socket_that_another_program_serves_is_not_taken(path, backlog) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(path)
        other.listen(backlog)
        client.connect(path)  # with no backlog, the queue is full now
        with pytest.raises(ConfigError, match="live node"):
            UnixListener.open(path, 0o600)
        assert stat.S_ISSOCK(os.stat(path).st_mode)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
async def test_what_is_no_socket_is_never_deleted(path, tmp_path, kind) -> None:
    if kind == "file":
        Path(path).write_text("precious")
    elif kind == "directory":
        os.mkdir(path)
    else:
        target = tmp_path / "target"
        if kind == "link":
            target.write_text("precious")
        os.symlink(target, path)
    with pytest.raises(ConfigError, match="no socket"):
        UnixListener.open(path, 0o600)
    assert os.path.lexists(path)


async def test_a_socket_that_was_replaced_meanwhile_is_left_alone(path) -> None:
    listener = UnixListener.open(path, 0o600)
    os.unlink(path)
    Path(path).write_text("somebody else's")
    await listener.aclose()
    assert Path(path).read_text() == "somebody else's"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("missing/foo.sock", "must be a directory that this user can write to"),
        ("x" * 200, "too long"),
        ("a\0b", "null"),
    ],
)
async def test_an_impossible_path_is_a_mistake_in_the_configuration(tmp_path, name, fault) -> None:
    with pytest.raises(ConfigError, match=fault):
        UnixListener.open(str(tmp_path / name), 0o600)


async def test_a_refused_start_holds_no_lock(path) -> None:
    Path(path).write_text("in the way")
    with pytest.raises(ConfigError):
        UnixListener.open(path, 0o600)
    os.unlink(path)
    await UnixListener.open(path, 0o600).aclose()


async def test_a_tcp_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigError, match=f"tcplisten {address}: .*in use"):
            await open_tcp(address)


@pytest.mark.parametrize("host", ["no..name", "x" * 70 + ".invalid"])
async def test_a_host_that_cannot_exist_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="tcplisten"):
        await open_tcp(Address(host, 0))


async def test_a_client_is_served_over_tcp(registry, nursery) -> None:
    listeners = await open_listeners(**names(tcplisten=Address("127.0.0.1", 0)))
    port = listeners[0].listener.socket.getsockname()[1]
    await nursery.start(ControlService("foo", registry).run, listeners)
    async with await trio.open_tcp_stream("127.0.0.1", port) as client:
        assert await client.receive_some() == b"Receptor Control, node foo\n"


async def test_the_mesh_is_told_the_tags_and_work_types() -> None:
    mesh = FakeMesh()
    work_types = [WorkType("echo", False)]
    listeners = await open_listeners(**names(service="control", mesh=mesh, work_types=work_types))
    assert [str(listener) for listener in listeners] == ["mesh control"]
    assert mesh.asked == [("control", SERVICE_TAGS, work_types)]


async def test_a_service_name_that_is_taken_closes_what_was_opened(path) -> None:
    mesh = FakeMesh(ServiceInUse("service control is already listened to"))
    with pytest.raises(ConfigError, match="service control: service control is already"):
        await open_listeners(**names(filename=path, service="control", mesh=mesh))
    assert not os.path.lexists(path)
    await UnixListener.open(path, 0o600).aclose()


async def test_a_service_that_nobody_could_reach_is_refused() -> None:
    with pytest.raises(ConfigError, match="nobody could reach it"):
        await open_listeners(**names())


async def test_clients_are_named_by_what_is_known_of_them(path) -> None:
    listener = UnixListener.open(path, 0o600)
    async with await trio.open_unix_socket(path):
        accepted = await listener.accept()
        assert peer_name(accepted) == f"pid {os.getpid()} uid {os.getuid()}"
        assert holder_of(accepted) == Holder(f"uid {os.getuid()}", is_owner=True)
        await accepted.aclose()
    await listener.aclose()

    (tcp,) = await open_tcp(Address("127.0.0.1", 0))
    port = tcp.socket.getsockname()[1]
    async with await trio.open_tcp_stream("127.0.0.1", port) as client:
        accepted = await tcp.accept()
        assert peer_name(accepted) == f"127.0.0.1:{client.socket.getsockname()[1]}"
        assert holder_of(accepted) == Holder("127.0.0.1")
        await accepted.aclose()
        assert "Bad file descriptor" in peer_name(accepted)
        assert holder_of(accepted) == UNKNOWN_HOLDER
    await tcp.aclose()

    assert peer_name(memory_stream_pair()[0]) == "unknown"
    meshy = type("Meshy", (FromNode,), {"peer_node": "bar", "holder": Holder("bar", "10.0.0.1")})()
    assert peer_name(meshy) == "bar"
    assert holder_of(meshy) == Holder("bar", "10.0.0.1")
    assert holder_of(memory_stream_pair()[0]) == UNKNOWN_HOLDER


async def test_clients_are_identified_by_what_kernel_and_mesh_know_of_them(path) -> None:
    listener = UnixListener.open(path, 0o600)
    async with await trio.open_unix_socket(path):
        accepted = await listener.accept()
        assert identify(accepted) == UnixClient(os.getuid(), os.getgid(), os.getpid())
        await accepted.aclose()
        assert identify(accepted) == UnknownClient()
    await listener.aclose()

    (tcp,) = await open_tcp(Address("127.0.0.1", 0))
    port = tcp.socket.getsockname()[1]
    async with await trio.open_tcp_stream("127.0.0.1", port) as client:
        accepted = await tcp.accept()
        assert identify(accepted) == TcpClient(f"127.0.0.1:{client.socket.getsockname()[1]}")
        await accepted.aclose()
    await tcp.aclose()

    meshy = type("Meshy", (FromNode,), {"peer_node": "bar", "peer_service": "x\x1b"})()
    assert identify(meshy) == MeshClient("bar", "x\\x1b")
    assert identify(memory_stream_pair()[0]) == UnknownClient()


async def test_a_session_knows_its_client_by_user_and_process(path, monkeypatch) -> None:
    monkeypatch.setattr(usernames, "PATIENCE", 60)  # also where the machine is busy
    seen: list[ControlSession] = []

    async def look(session: ControlSession) -> dict[str, str]:
        seen.append(session)
        return {}

    registry = CommandRegistry()
    registry.register(Command("look", lambda text: look, lambda data: look))
    listeners = await open_listeners(**names(filename=path))
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlService("foo", registry).run, listeners)
        async with await trio.open_unix_socket(path) as client:
            await client.send_all(b"look\n")
            await client.send_eof()
            assert [part async for part in client]
        nursery.cancel_scope.cancel()
    user = pwd.getpwuid(os.getuid()).pw_name
    assert seen[0].client == UnixClient(os.getuid(), os.getgid(), os.getpid(), user)
    assert seen[0].peer == f"{user} (uid {os.getuid()}, pid {os.getpid()})"


async def test_another_user_is_no_owner(path, monkeypatch) -> None:
    listener = UnixListener.open(path, 0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(sockets, "_credentials", lambda connection: (1, 1000, 1000))
    async with await trio.open_unix_socket(path):
        accepted = await listener.accept()
        assert holder_of(accepted) == Holder("uid 1000", is_owner=False)
        await accepted.aclose()
    await listener.aclose()


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_all_addresses_that_one_machine_may_take_are_one_origin(host, network) -> None:
    assert network_of(host) == network


# --- files that somebody deletes ---------------------------------------------------------------


DELETED = {
    "the socket": ("",),
    "the lock": (".lock",),
    "both": ("", ".lock"),
}


async def answers(path: str) -> bool:
    async with await trio.open_unix_socket(path) as client:
        return await client.receive_some(1) == b"x"


@asynccontextmanager
async def kept(path: str, permissions: int = 0o600) -> AsyncIterator[UnixListener]:
    """A listener that is watched over, and whose clients get an x."""
    listener = UnixListener.open(path, permissions)

    async def greet(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.keep, subject_logger("control", "unix"))
        nursery.start_soon(trio.serve_listeners, greet, [listener])
        await trio.testing.wait_all_tasks_blocked()
        yield listener
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.01)


@pytest.mark.parametrize("how", ["unlink", "rename"])
@pytest.mark.parametrize("what", DELETED)
async def test_a_socket_that_somebody_deletes_comes_back(path, caplog, what, how):
    async with kept(path, 0o640) as listener:
        for _ in range(3):
            for suffix in DELETED[what]:
                if how == "unlink":
                    os.unlink(path + suffix)
                else:
                    os.rename(path + suffix, path + suffix + ".away")
            await until(listener.is_whole)
            assert await answers(path)
            assert os.stat(path).st_mode & 0o777 == 0o640
            with pytest.raises(CannotListen, match="is in use"):
                UnixListener.open(path, 0o600)
    assert "made the socket" in caplog.text


async def test_a_socket_whose_directory_was_away_comes_back_when_asked(tmp_path, caplog):
    inner = tmp_path / "run"
    inner.mkdir()
    path = f"{inner}/foo.sock"
    log = subject_logger("control", "unix")
    async with kept(path) as listener:
        shutil.rmtree(inner)
        await until(lambda: "cannot be made again" in caplog.text)
        inner.mkdir()
        assert listener.restore(log)
        assert await answers(path)
        await trio.testing.wait_all_tasks_blocked()
        os.unlink(path)  # and it is watched over again
        await until(listener.is_whole)
        assert await answers(path)


@pytest.mark.parametrize("kind", ["file", "live socket"])
async def test_what_others_put_in_the_place_is_left_alone(path, caplog, kind):
    async with kept(path) as listener:
        other = path + ".other"
        if kind == "file":
            Path(other).write_text("precious")
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(other)
            sock.listen()
        identity = os.stat(other).st_ino
        os.rename(other, path)
        await until(lambda: "cannot be made again" in caplog.text)
        assert os.stat(path).st_ino == identity
        assert not listener.is_whole()
        if kind != "file":
            sock.close()
