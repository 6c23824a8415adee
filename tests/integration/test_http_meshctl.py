"""meshctl through an ``http-service``: the same commands, output and ends as on a socket."""

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMANDS, Cluster, Node, bash, free_port, wait_until
from test_tls_nodes import Authority, server

WORK = {
    "cat": bash("cat"),
    "held": bash("echo begun; read -r line < $GO; echo done"),
    "fails": bash("echo no >&2; exit 7"),
}


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[Cluster, Node, str]]:
    cluster = Cluster()
    try:
        os.mkfifo(cluster.directory / "go")
        cluster.environment["GO"] = str(cluster.directory / "go")
        port, link = free_port(), free_port()
        foo = cluster.node("foo", work=WORK, listen=link, more=[{"http-service": {"port": port}}])
        cluster.node("bar", peers=[link], work=WORK, control={"service": "control"})
        foo.wait_service("bar")
        yield cluster, foo, f"http://127.0.0.1:{port}"
    finally:
        cluster.close()


def meshctl(web: tuple[Cluster, Node, str], *words: str | Path, stdin: bytes = b""):
    return web[0].run("meshctl", "--socket", web[2], *words, stdin=stdin, check=False)


def on_socket(web: tuple[Cluster, Node, str], *words: str | Path):
    return web[0].run("meshctl", "--socket", web[1].socket, *words, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ["work", "status", "nosuch00"],
        ["work", "results", "nosuch00"],
        ["work", "submit", "nosuch", "-n"],
        ["work", "types"],
        ["work", "describe", "cat"],
        ["work", "list", "--node", "bar"],
        ["auth", "can", "submit", "cat", "--node", "bar"],
        ["connect", "bar", "nosuch"],
        ["reload"],
    ],
    ids=" ".join,
)
def test_a_command_prints_what_it_prints_on_a_socket(
    web: tuple[Cluster, Node, str], words: list[str]
) -> None:
    here, there = on_socket(web, *words), meshctl(web, *words)
    assert (there.returncode, there.stdout) == (here.returncode, here.stdout)
    assert there.stderr.replace(web[2].encode(), b"@") == here.stderr.replace(
        str(web[1].socket).encode(), b"@"
    )


def test_a_payload_and_its_output_pass_as_they_are(web: tuple[Cluster, Node, str]) -> None:
    payload = os.urandom(3_000_000)
    done = meshctl(web, "work", "submit", "cat", "--payload", "-", "-f", stdin=payload)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(payload).digest()
    there = meshctl(web, "work", "submit", "cat", "--node", "bar", "-l", "hello", "-f")
    assert there.stdout == b"hello\n"
    failed = meshctl(web, "work", "submit", "fails", "-n", "-f", "--propagate")
    assert failed.returncode == 7


def test_files_logs_and_the_control_service_of_another_node_are_reached(
    web: tuple[Cluster, Node, str],
) -> None:
    cluster = web[0]
    (cluster.directory / "dep.txt").write_text("dep\n")
    submitted = meshctl(web, "work", "submit", "cat", "-l", "x", "--node", "bar")
    unit_id = submitted.stdout.decode().rpartition("Unit ID: ")[2].strip()
    assert meshctl(web, "work", "wait", unit_id).returncode == 0, submitted
    assert meshctl(web, "work", "logs", unit_id).stdout == b"x\n"
    assert b"Succeeded" in meshctl(web, "work", "list", "--node", "bar", "--table").stdout
    assert meshctl(web, "work", "release", unit_id).returncode == 0


def test_output_is_followed_while_it_comes(web: tuple[Cluster, Node, str]) -> None:
    cluster, _, address = web
    process = subprocess.Popen(
        [COMMANDS / "meshctl", "--socket", address, "work", "submit", "held", "-n", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=cluster.environment,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        with open(cluster.directory / "go", "w") as file:
            file.write("go\n")
        assert process.stdout.read() == b"done\n"
        assert process.wait() == 0
    finally:
        process.kill()
        process.communicate()


def test_a_client_that_is_killed_in_its_payload_starts_nothing(
    web: tuple[Cluster, Node, str],
) -> None:
    cluster, node, address = web
    words = ["work", "submit", "cat", "--label", "cut", "--payload", "-"]
    process = subprocess.Popen(
        [COMMANDS / "meshctl", "--socket", address, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=cluster.environment,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(b"half of it\n")
        process.stdin.flush()

        def units() -> dict[str, dict[str, object]]:
            return {i: u for i, u in node.ask("work list").items() if "cut" in u.get("Labels", {})}

        wait_until(lambda: len(units()) == 1, what="the unit")
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(
            lambda: all(one["StateName"] == "Failed" for one in units().values()), what="its end"
        )
    finally:
        process.kill()
        process.communicate()


def test_tls_a_token_and_what_is_wrong_with_them(cluster: Cluster) -> None:
    signed = Authority(cluster.directory)
    port = free_port()
    tokens = cluster.directory / "tokens"
    token = "0123456789abcdef" * 2
    tokens.write_text(f"- {{name: ci, token: {token}}}\n")
    tokens.chmod(0o600)
    service = {"port": port, "tls": "srv", "tokens": str(tokens), "allowanonymous": False}
    foo = cluster.node(
        "foo",
        more=[
            server(signed, signed.issue("foo", "foo"), requireclientcert=False),
            {"http-service": service},
        ],
    )
    foo.wait_log("INFO http .*: listening")
    mine = cluster.directory / "token"
    mine.write_text(f"{token}\n")
    base = ["meshctl", "--socket", f"https://localhost:{port}", "--rootcas", signed.ca]

    def ask(*more: str | Path, words: tuple[str, ...] = ("work", "list")):
        return cluster.run(*base, *more, *words, check=False)

    assert ask("--token-file", mine).returncode == 0
    refused = ask()
    assert refused.returncode == 102
    assert b"--token-file" in refused.stderr
    mine.write_text("another\n")
    assert ask("--token-file", mine).returncode == 102
    mine.write_text("")
    assert (ask("--token-file", mine).returncode, mine.write_text("a b\n")) == (103, 4)
    assert b"one word" in ask("--token-file", mine).stderr
    strange = cluster.run("meshctl", "--socket", f"https://localhost:{port}", "status", check=False)
    assert b"certificate" in strange.stderr


def test_what_is_no_http_service_is_told(web: tuple[Cluster, Node, str]) -> None:
    cluster, _, address = web
    nobody = cluster.run(
        "meshctl", "--socket", f"http://127.0.0.1:{free_port()}", "status", check=False
    )
    assert (nobody.returncode, b"http-service" in nobody.stderr) == (102, True)
    elsewhere = cluster.run("meshctl", "--socket", f"{address}/x", "status", check=False)
    assert elsewhere.returncode == 102
    assert b"there is no websocket at this address, only at " in elsewhere.stderr
    plain = address.replace("http://", "https://")
    assert b"TLS" in cluster.run("meshctl", "--socket", plain, "status", check=False).stderr
