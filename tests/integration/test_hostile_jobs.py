"""Jobs as an enemy submits them: what they reach where nothing isolates them, and where it does.

docs/from-limited-jobs.md shows that they reach nothing. Here it is seen that isolation is why.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import Cluster, Node, free_port
from isolated import WHO, begin, cancel, isolating, run

from meshctl.api.client import ControlClient

FOLLOWERS = 10


@pytest.fixture(scope="module", params=WHO)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    cluster = Cluster()
    try:
        with isolating(cluster, request.param) as node:
            yield node
            cluster.close()
    finally:
        cluster.close()


def serve_a_shell(port: int) -> str:
    """Return a script that runs what is sent to the port, and prints ``up`` once it listens."""
    return (
        f"nc -kl 127.0.0.1 {port} | bash & job=$!\n"
        f"until grep -q ':{port:04X} 00000000:0000 0A' /proc/net/tcp\n"
        "do kill -0 $job || exit; done\n"
        "echo up; wait"
    )


@pytest.mark.skipif(shutil.which("nc") is None, reason="nc (netcat-openbsd) is not installed")
def test_a_job_that_runs_what_strangers_send_is_reached_by_them_only_where_it_is_not_isolated(
    node: Node,
) -> None:
    port = free_port()
    with_loopback = begin(node, "loopback", serve_a_shell(port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    # The same port is free here: that of the isolated job is another one.
    plain = begin(node, "plain", serve_a_shell(port))
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"echo from a stranger\n")
        node.wait_output(plain, b"up\nfrom a stranger\n")
    for job in (with_loopback, plain):
        cancel(node, job)
    assert (node.units / with_loopback / "stdout").read_bytes() == b"up\n"


def test_the_output_of_another_job_is_read_only_where_a_job_is_not_isolated(node: Node) -> None:
    other = begin(node, "plain", "echo up; exec sleep 1000")
    secret = f"cat {node.units / other / 'stdout'} 2>&1"
    assert run(node, "plain", secret)[1] == "up\n"
    status, text = run(node, "full", secret)
    assert (status["StateName"], status["ExitCode"]) == ("Failed", 1)
    assert text.endswith(f"{os.path.join(other, 'stdout')}: No such file or directory\n")
    cancel(node, other)


def test_ten_followers_have_every_byte_of_a_job_up_to_its_last_words(node: Node) -> None:
    job = begin(
        node,
        "full",
        "trap 'echo bye; exit 0' INT; echo up; while true; do echo hello; sleep 0.01; done",
    )

    def follow(_: int) -> bytes:
        with ControlClient(str(node.socket)) as client:
            return b"".join(client.results(job))

    with ThreadPoolExecutor(FOLLOWERS) as pool:
        followers = [pool.submit(follow, number) for number in range(FOLLOWERS)]
        node.wait_output(job, b"up\n" + b"hello\n" * 20)
        status = cancel(node, job)
        seen = {follower.result() for follower in followers}
    assert seen == {(node.units / job / "stdout").read_bytes()}
    (output,) = seen
    assert output.startswith(b"up\nhello\n")
    assert output.endswith(b"bye\n")
    assert status["StateName"] == "Canceled"
