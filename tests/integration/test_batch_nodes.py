"""Batches on real nodes: spread, the submitting node killed, the client away, each run once."""

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from harness import Cluster, Node, bash, free_port, wait_until

MEMBERS = 60


@pytest.fixture
def nodes(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Return foo, which submits, and bar and baz, which work; baz is behind bar."""
    ledger = cluster.directory / "ledger"
    cluster.environment |= {"LEDGER": str(ledger)}
    work = {"job": bash("echo $MESHNODE_ARRAY_INDEX $MESHNODE_UNIT_DIR >> $LEDGER; sleep 0.2")}
    port, behind = free_port(), free_port()
    foo = cluster.node("foo", listen=port)
    bar = cluster.node("bar", peers=[port], listen=behind, work=work)
    cluster.node("baz", peers=[behind], work=work)
    for name in ("bar", "baz"):
        foo.wait_knows(name)
        foo.wait_service(name)
    return foo, bar, cluster.nodes["baz"]


def test_each_member_runs_once_on_one_of_the_nodes_through_a_kill_of_the_submitting_one(
    nodes: tuple[Node, Node, Node], cluster: Cluster, tmp_path: Path
) -> None:
    foo, ledger, log = nodes[0], cluster.directory / "ledger", tmp_path / "log"
    array = f"1-{MEMBERS}%12"
    told = foo.meshctl("work", "submit", "job", "--array", array, "--node", "least", "--json")
    batch = json.loads(told)["batch"]
    client = subprocess.Popen(
        [
            *(sys.executable, "-m", "meshctl", "--socket", str(foo.socket)),
            *("work", "batch", "wait", batch, "--joblog", str(log)),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        wait_until(
            lambda: ledger.exists() and len(ledger.read_text().splitlines()) > MEMBERS // 4,
            what="a quarter of the members",
        )
        foo.kill()
        foo.start()
        out, _ = client.communicate(timeout=120)
    finally:
        client.kill()
        client.wait()
    assert f"({batch}, Succeeded: {MEMBERS} succeeded)" in out.decode()
    ran = [line.split() for line in ledger.read_text().splitlines()]
    assert sorted(int(index) for index, _ in ran) == [*range(1, MEMBERS + 1)]
    where = Counter(path.split("/")[-2] for _, path in ran)
    assert set(where) == {"bar", "baz"}
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    assert sorted(int(row[0]) for row in rows[1:]) == [*range(1, MEMBERS + 1)]
    assert foo.meshctl("work", "batch", "release", batch).decode().startswith(f"({batch}, releas")
    wait_until(lambda: json.loads(foo.meshctl("work", "list")) == {}, what="no units")


@contextmanager
def losing_answer(node: Node, path: Path) -> Iterator[list[bytes]]:
    """Lead clients from a socket to a node; kill that before its answer to a batch is passed on.

    Yields all answers of the node.
    """
    answers: list[bytes] = []

    def serve(client: socket.socket) -> None:
        with closing(client), closing(socket.socket(socket.AF_UNIX)) as ours:
            with suppress(OSError):
                ours.connect(str(node.socket))
                threading.Thread(target=copy, args=(client, ours)).start()
                lead(client, ours)
            # Not closed alone: the other thread may be reading from it.
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def lead(client: socket.socket, ours: socket.socket) -> None:
        while data := ours.recv(65536):
            if b"Batch " in data:
                answers.append(data)
            if b"Batch Submitted" in data:
                node.kill()
                return
            client.sendall(data)

    def copy(client: socket.socket, ours: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                ours.sendall(data)
            ours.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],)).start()

    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield answers
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("words", [("--array", "1-3"), ("--from-lines", "list")])
def test_a_node_that_is_killed_before_it_answers_has_the_batch_once(
    cluster: Cluster, words: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cluster.directory)
    Path("list").write_text("one\ntwo\nthree\n")
    ledger = cluster.directory / "ledger"
    cluster.environment |= {"LEDGER": str(ledger)}
    node = cluster.node("foo", work={"job": bash("echo ran >> $LEDGER")})
    with losing_answer(node, cluster.directory / "relay.sock") as answers:
        client = subprocess.Popen(
            [
                *(sys.executable, "-m", "meshctl", "--socket", "relay.sock"),
                *("work", "submit", *words, "--wait", "--json", "job"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            node.wait()
            node.start()
            out, told = client.communicate(timeout=120)
        finally:
            client.kill()
            client.wait()
    assert client.returncode == 0, told
    assert b"Waiting for the node." in told
    first, again = (json.loads(answer) for answer in answers)
    assert again == {**first, "result": "Batch Already Submitted"}
    assert [*node.ask('{"command":"work","subcommand":"batch","action":"list"}')] == [
        json.loads(out)["batch"]
    ]
    assert ledger.read_text() == "ran\n" * 3
