"""A node that cannot start says why in one line, exits with 2, and harms nobody else."""

import socket
import subprocess
from pathlib import Path

import pytest
from harness import Cluster

CANNOT_START = 2
"""The exit code for a configuration that cannot be used."""


IN_USE = 1
"""The exit code for what a node cannot have now, such as a port: a later start may get it."""


def fails_to_start(cluster: Cluster, text: str, code: int = CANNOT_START) -> str:
    """Start a node from a file with this text; return the one line it says."""
    config = cluster.directory / "faulty.yml"
    config.write_text(text)
    done = cluster.run("meshnode", "-c", config, check=False)
    assert done.returncode == code, done.stderr.decode()
    (line,) = done.stderr.decode().splitlines()
    return line


def test_a_socket_of_a_live_node_is_refused_and_that_node_is_unharmed(cluster: Cluster) -> None:
    live = cluster.node("live")
    line = fails_to_start(
        cluster,
        f"- node: {{id: second, datadir: {cluster.directory}/data}}\n"
        f"- control-service: {{filename: {live.socket}}}\n- local-only\n",
        IN_USE,
    )
    assert str(live.socket) in line
    assert live.status()["NodeID"] == "live"


def test_a_second_node_with_the_same_id_and_datadir_touches_none_of_its_units(
    cluster: Cluster,
) -> None:
    live = cluster.node("foo", work={"lasting": {"command": "sleep", "params": "1000"}})
    unit = live.submit("lasting", "--no-payload")
    line = fails_to_start(
        cluster, f"- node: {{id: foo, datadir: {cluster.directory}/data}}\n- local-only\n", IN_USE
    )
    assert "datadir" in line
    assert "in use by a running node" in line
    assert live.unit_status(unit)["StateName"] == "Running"


def test_a_socket_left_by_a_killed_node_is_replaced(cluster: Cluster) -> None:
    node = cluster.node("foo")
    node.kill()
    assert node.socket.is_socket()
    node.start()
    assert node.status()["NodeID"] == "foo"


def test_a_file_that_is_no_socket_is_never_replaced(cluster: Cluster) -> None:
    precious = cluster.directory / "precious"
    precious.write_text("mine")
    line = fails_to_start(
        cluster,
        f"- node: {{id: foo, datadir: {cluster.directory}/data}}\n"
        f"- control-service: {{filename: {precious}}}\n- local-only\n",
    )
    assert str(precious) in line
    assert precious.read_text() == "mine"


def test_a_tcp_port_in_use_is_named(cluster: Cluster) -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        config = cluster.directory / "faulty.yml"
        config.write_text(
            f"- node: {{id: foo, datadir: {cluster.directory}/data}}\n"
            f"- tcp-listener: {{port: {port}, bindaddr: 127.0.0.1}}\n"
        )
        done = cluster.run("meshnode", "-c", config, check=False)
    assert done.returncode == IN_USE
    assert str(port) in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("- nod: {id: foo}\n", ["nod", "node"], id="unknown directive"),
        pytest.param(
            "- node: {id: foo}\n- tcp-listener: {prot: 1}\n", ["prot", "port", ":2"], id="typo"
        ),
        pytest.param("- node: foo\n- node: bar\n", ["node", ":2"], id="two nodes"),
        pytest.param("- node: foo\n- tcp-listener: 65536\n", ["65536", ":2"], id="port range"),
        pytest.param("- node: foo\n- work-command: {worktype: a}\n", ["command"], id="missing"),
        pytest.param("", [], id="empty file"),
        pytest.param("node: foo\n", [], id="a map"),
        pytest.param("- node: {id: [\n", [], id="not YAML"),
        pytest.param("- node: foo\n- tls-server: {name: a, cert: b}\n", ["key"], id="no key"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(
    cluster: Cluster, text: str, named: list[str]
) -> None:
    line = fails_to_start(cluster, text)
    for part in ["faulty.yml", *named]:
        assert part in line


def test_a_datadir_that_is_a_file_is_named(cluster: Cluster, tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.touch()
    line = fails_to_start(cluster, f"- node: {{id: foo, datadir: {blocker}}}\n- local-only\n")
    assert str(blocker) in line


def test_a_file_that_is_missing_is_named(cluster: Cluster) -> None:
    done = cluster.run("meshnode", "-c", "nowhere.yml", check=False)
    assert done.returncode == CANNOT_START
    (line,) = done.stderr.decode().splitlines()
    assert "nowhere.yml" in line


def test_check_validates_a_file_without_starting_a_node(cluster: Cluster) -> None:
    config = cluster.directory / "good.yml"
    control = cluster.directory / "good.sock"
    config.write_text(
        f"- node: {{id: foo, datadir: {cluster.directory}/data}}\n"
        f"- control-service: {{filename: {control}}}\n- local-only\n"
    )
    cluster.run("meshnode", "check", config)
    assert not control.exists()
    config.write_text("- nod: foo\n")
    done: subprocess.CompletedProcess[bytes] = cluster.run("meshnode", "check", config, check=False)
    assert done.returncode == CANNOT_START


def test_meshctl_says_what_to_do_when_no_node_is_there(cluster: Cluster) -> None:
    missing = cluster.directory / "missing.sock"
    done = cluster.run("meshctl", "--socket", missing, "status", check=False)
    assert done.returncode != 0
    (line,) = done.stderr.decode().splitlines()
    assert str(missing) in line
    assert "Is meshnode running" in line
