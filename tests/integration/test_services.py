"""Services over the mesh with real programs at both ends, on two real nodes."""

import random
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from harness import COMMANDS, PATIENCE, Cluster, Node, free_port, wait_until

BLOB = random.Random(7).randbytes(3_000_000)


@contextmanager
def running(*command: str | Path, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the test; afterwards it is ended."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


UDP_ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    question, client = server.recvfrom(65536)
    server.sendto(question[:2] + b"answer to " + question[2:], client)
"""

STREAM_ECHO = """
import socket, sys, threading
family, address = (socket.AF_UNIX, sys.argv[1]) if len(sys.argv) > 1 else (
    socket.AF_INET, ("127.0.0.1", 0))
server = socket.socket(family)
server.bind(address)
server.listen(100)
print(server.getsockname()[1], flush=True)
def echo(client):
    with client:
        while data := client.recv(65536):
            client.sendall(data)
while True:
    threading.Thread(target=echo, args=[server.accept()[0]], daemon=True).start()
"""


@contextmanager
def script(text: str, *arguments: str) -> Iterator[str]:
    """Run a server written in Python; yield the first line that it prints: where it listens."""
    with running(sys.executable, "-c", text, *arguments) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()


@pytest.fixture
def two(cluster: Cluster) -> Callable[..., tuple[Node, Node]]:
    """Return a function that starts foo and bar, linked, with more directives each."""

    def start(foo: list, bar: list) -> tuple[Node, Node]:
        link = free_port()
        far = cluster.node("bar", listen=link, more=bar)
        near = cluster.node("foo", peers=[link], more=foo)
        near.wait_knows("bar")
        return near, far

    return start


def server(port: int, service: str) -> dict:
    return {"port": port, "bindaddr": "127.0.0.1", "remotenode": "bar", "remoteservice": service}


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return answer.read()


def test_a_web_server_behind_the_mesh_is_fetched_by_many_at_once(two, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(BLOB)
    web = free_port()
    with running(
        sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(web), cwd=tmp_path
    ):
        near = free_port()
        foo, _ = two(
            [{"tcp-server": server(near, "web")}],
            [{"tcp-client": {"service": "web", "address": f"localhost:{web}"}}],
        )
        wait_until(lambda: answers(web), what="the web server to listen")
        (advert,) = [
            a for a in foo.wait_service("bar", "web")["Advertisements"] if a["Service"] == "web"
        ]
        assert advert["Tags"]["type"] == "TCP Proxy"
        assert advert["Tags"]["address"] == f"localhost:{web}"
        url = f"http://127.0.0.1:{near}"
        assert b'href="blob"' in fetch(url)
        with ThreadPoolExecutor(10) as pool:
            assert all(data == BLOB for data in pool.map(fetch, [f"{url}/blob"] * 20))


def answers(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Send and end, and at the same time read to the end."""
    connection.settimeout(PATIENCE)

    def send() -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = bytearray()
    while part := connection.recv(65536):
        received += part
    sender.join()
    return bytes(received)


def test_fifty_tcp_connections_at_once_carry_their_own_bytes_exactly(two) -> None:
    with script(STREAM_ECHO) as port:
        near = free_port()
        two(
            [{"tcp-server": server(near, "echo")}],
            [{"tcp-client": {"service": "echo", "address": f"127.0.0.1:{port}"}}],
        )

        def one(number: int) -> bool:
            data = random.Random(number).randbytes(200_000)
            with socket.create_connection(("127.0.0.1", near)) as connection:
                return exchange(connection, data) == data

        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(one, range(50))) == [True] * 50


def test_questions_over_udp_find_their_answers(two) -> None:
    with script(UDP_ECHO) as port:
        near = free_port()
        foo, _ = two(
            [{"udp-server": server(near, "dns")}],
            [{"udp-client": {"service": "dns", "address": f"localhost:{port}"}}],
        )
        (advert,) = [
            a for a in foo.wait_service("bar", "dns")["Advertisements"] if a["Service"] == "dns"
        ]
        assert advert["ConnType"] == 0
        assert advert["Tags"] == {"type": "UDP Proxy", "address": f"localhost:{port}"}
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(10)]
        for number, client in enumerate(clients):
            client.settimeout(PATIENCE)
            client.connect(("127.0.0.1", near))
            client.send(b"%02dwhere" % number)
        for number, client in enumerate(clients):
            with client:
                assert client.recv(1000) == b"%02danswer to where" % number


def test_a_unix_socket_on_one_node_leads_to_one_on_the_other(two, cluster: Cluster) -> None:
    near, far = cluster.directory / "near.sock", cluster.directory / "far.sock"
    with script(STREAM_ECHO, str(far)):
        remote = {"remotenode": "bar", "remoteservice": "db"}
        two(
            [{"unix-socket-server": {"filename": str(near), **remote}}],
            [{"unix-socket-client": {"service": "db", "filename": str(far)}}],
        )
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(near))
            assert exchange(connection, BLOB) == BLOB


def test_bash_on_a_terminal_through_meshctl_connect(two, cluster: Cluster) -> None:
    foo, bar = two(
        [], [{"command-service": {"service": "shell", "command": "bash --norc --noediting"}}]
    )
    foo.wait_service("bar", "shell")
    with running(COMMANDS / "meshctl", "--socket", foo.socket, "connect", "bar", "shell") as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(b"stty -echo; PS1=; echo begin; tty; pwd; echo $((6*7))\n")
        shell.stdin.flush()
        lines = iter(shell.stdout.readline, b"")
        until(lines, rb"begin\r\n$")
        until(lines, rb"^/dev/pts/\d+")
        until(lines, rb"^42\r\n$")
        shell.stdin.write(b"sleep 1000 & echo job=$!\n")
        shell.stdin.flush()
        job = int(until(lines, rb"^job=(\d+)"))
        shell.stdin.write(b"exit 3\n")
        shell.stdin.close()
        assert shell.wait(PATIENCE) == 0
    bar.wait_log(r"command-service shell: PID \d+: ended \(exit status 3\)")
    wait_until(lambda: not alive(job), what="the shell's job to end with it")


def until(lines: Iterator[bytes], pattern: bytes) -> bytes:
    """Read lines up to one that matches; return the first group, or all of it."""
    for line in lines:
        if found := re.search(pattern, line):
            return found.group(found.re.groups and 1)
    raise AssertionError(f"the output ended before {pattern!r}")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("ended", [True, False], ids=["after its last byte", "in the middle"])
def test_a_silent_command_does_not_outlive_a_client_that_is_killed(two, ended: bool) -> None:
    silent = "bash -c 'echo =$$=; exec sleep 1000'"
    foo, bar = two([], [{"command-service": {"service": "shell", "command": silent}}])
    foo.wait_service("bar", "shell")
    with running(COMMANDS / "meshctl", "--socket", foo.socket, "connect", "bar", "shell") as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        pid = int(until(iter(shell.stdout.readline, b""), rb"^=(\d+)="))
        if ended:
            shell.stdin.close()
            bar.wait_log(r"command-service shell: the input of foo has ended")
        assert alive(pid)
        shell.kill()
        wait_until(lambda: not alive(pid), what="the command to end")


def test_a_node_that_stops_ends_its_commands(two) -> None:
    foo, bar = two([], [{"command-service": {"service": "shell", "command": "bash --norc"}}])
    foo.wait_service("bar", "shell")
    with running(COMMANDS / "meshctl", "--socket", foo.socket, "connect", "bar", "shell") as shell:
        line = bar.wait_log(r"command-service shell: PID \d+: started for foo")
        pid = int(re.search(r"PID (\d+)", line).group(1))
        assert bar.stop() == 0
        assert not alive(pid)
        shell.wait(PATIENCE)


def test_a_script_piped_into_a_shell_is_run_to_its_end(two) -> None:
    foo, _ = two(
        [], [{"command-service": {"service": "shell", "command": "bash --norc --noediting"}}]
    )
    foo.wait_service("bar", "shell")
    output = foo.meshctl("connect", "bar", "shell", stdin=b"echo first $((1+1))\necho last\n")
    assert b"first 2\r\n" in output
    assert b"last\r\n" in output.replace(b"echo last\r\n", b"")


def test_meshctl_connect_is_a_proxy_command_for_ssh(two, cluster: Cluster) -> None:
    """What ssh does with its ProxyCommand: binary bytes both ways over its stdin and stdout."""
    with script(STREAM_ECHO) as port:
        foo, _ = two([], [{"tcp-client": {"service": "sshd", "address": f"127.0.0.1:{port}"}}])
        foo.wait_service("bar", "sshd")
        assert foo.meshctl("connect", "bar", "sshd", stdin=BLOB) == BLOB
        everything = bytes(range(256)) * 4
        with running(
            COMMANDS / "meshctl", "--socket", foo.socket, "connect", "bar", "sshd"
        ) as proxy:
            assert proxy.stdin is not None
            assert proxy.stdout is not None
            # A conversation: each answer is there before the next question.
            for size in (1, 255, 1024):
                proxy.stdin.write(everything[:size])
                proxy.stdin.flush()
                assert proxy.stdout.read(size) == everything[:size]
            proxy.stdin.close()
            assert proxy.stdout.read() == b""
            assert proxy.wait(PATIENCE) == 0


def test_a_client_whose_remote_node_is_away_is_told_at_once_and_served_once_it_is_back(
    two,
) -> None:
    with script(STREAM_ECHO) as port:
        near = free_port()
        foo, bar = two(
            [{"tcp-server": server(near, "echo")}],
            [{"tcp-client": {"service": "echo", "address": f"127.0.0.1:{port}"}}],
        )
        with socket.create_connection(("127.0.0.1", near)) as connection:
            assert exchange(connection, b"here") == b"here"
        bar.kill()
        foo.wait_status(lambda status: not status["RoutingTable"], what="to have lost bar")
        with socket.create_connection(("127.0.0.1", near)) as connection:
            connection.settimeout(PATIENCE)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        foo.wait_log(r"WARNING tcp-server .*closed the connection of .*: no route to node")
        bar.start()
        foo.wait_knows("bar")
        with socket.create_connection(("127.0.0.1", near)) as connection:
            assert exchange(connection, b"again") == b"again"


def test_a_port_that_is_taken_is_a_fault_with_its_line(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = cluster.node("foo", more=[{"tcp-server": server(port, "x")}], start=False)
        done = cluster.run("meshnode", "-c", node.config, check=False)
    assert done.returncode == 1
    last = done.stderr.decode().splitlines()[-1]
    assert re.fullmatch(
        rf".*foo\.yml:\d+: tcp-server: port: 127\.0\.0\.1:{port}: Address already in use", last
    )
