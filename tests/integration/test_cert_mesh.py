"""Nodes with the files of ``meshnode cert mesh`` link by mutual TLS, and nobody else gets in."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import Cluster, Node, free_port


def made(cluster: Cluster, *options: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Make the files of a mesh; return the directives that are printed for each node."""
    page = cluster.run("meshnode", "cert", "mesh", *options).stdout.decode()
    pieces = page.split("\n\n# ")[1:]
    found = (piece.partition("\n") for piece in pieces)
    return {head.removesuffix(".yml"): yaml.safe_load(text) for head, _, text in found}


def start(cluster: Cluster, name: str, directives: list[dict[str, Any]], **more: Any) -> Node:
    own, *others = directives
    assert own == {"node": {"id": name}}
    return cluster.node(name, more=others, **more)


@pytest.mark.parametrize("bits", [(), ("--bits", "2048")], ids=["ECDSA", "RSA"])
@pytest.mark.parametrize("hosts", ["", "=localhost", "=127.0.0.1", "=::1"])
def test_two_nodes_of_one_mesh_link_as_they_are_printed(
    cluster: Cluster, hosts: str, bits: tuple[str, ...]
) -> None:
    port = str(free_port())
    node = f"foo{hosts}"
    directives = made(
        cluster, "--node", node, "--node", "bar", "--out", "mesh", "--port", port, *bits
    )
    foo = start(cluster, "foo", directives["foo"])
    bar = start(cluster, "bar", directives["bar"], work={"echo": "cat"})
    foo.wait_knows("bar")
    bar.wait_knows("foo")
    foo.wait_service("bar")
    unit = foo.submit("echo", "--node", "bar", "--payload", "-", stdin=b"over TLS")
    assert foo.results(unit) == b"over TLS"


def test_work_is_signed_with_the_keys_of_the_mesh(cluster: Cluster) -> None:
    port = str(free_port())
    words = ("--node", "foo", "--node", "bar", "--out", "mesh", "--port", port, "--signing")
    directives = made(cluster, *words)
    signed = {"command": "cat", "verifysignature": True}
    foo = start(cluster, "foo", directives["foo"])
    bar = start(cluster, "bar", directives["bar"], work={"echo": signed})
    foo.wait_service("bar")
    unit = foo.submit("echo", "--node", "bar", "--signwork", "--payload", "-", stdin=b"signed")
    assert foo.results(unit) == b"signed"
    bar.wait_knows("foo")


def test_check_finds_nothing_wrong_with_what_is_printed(cluster: Cluster) -> None:
    directives = made(
        cluster, "--node", "foo", "--node", "bar=bar.example.org", "--out", "mesh", "--signing"
    )
    for name, printed in directives.items():
        printed[0]["node"]["datadir"] = str(cluster.directory / "data")
        file = cluster.directory / f"{name}.yml"
        file.write_text(yaml.safe_dump(printed))
        done = cluster.run("meshnode", "check", file)
        # The directory of a test is not where units should stay.
        warnings = done.stderr.decode().splitlines()
        assert [line for line in warnings if ": warning: node: datadir: " not in line] == []
        assert done.stdout.decode().startswith(f"{file}: ok")


def test_a_node_that_is_added_later_links_to_the_others(cluster: Cluster) -> None:
    port = str(free_port())
    first = made(cluster, "--node", "foo", "--out", "mesh", "--port", port)
    later = made(cluster, "--node", "baz", "--out", "mesh", "--port", port)
    foo = start(cluster, "foo", first["foo"])
    start(cluster, "baz", later["baz"])
    foo.wait_knows("baz")


def test_a_node_that_runs_links_by_the_certificate_that_was_made_anew(cluster: Cluster) -> None:
    words = ("--node", "foo", "--node", "bar", "--out", "mesh", "--port", str(free_port()))
    directives = made(cluster, *words)
    foo = start(cluster, "foo", directives["foo"])
    bar = start(cluster, "bar", directives["bar"])
    foo.wait_knows("bar")
    cluster.run("meshnode", "cert", "mesh", "--node", "bar", "--out", "mesh", "--force")
    bar.wait_log(r"tls-client .*read anew")
    foo.kill()
    bar.wait_status(lambda status: not status["Connections"], what="the end of the link")
    foo.start()
    foo.wait_knows("bar")


def test_a_node_of_another_mesh_does_not_get_in(cluster: Cluster) -> None:
    port = str(free_port())
    ours = made(cluster, "--node", "foo", "--node", "bar", "--out", "mesh", "--port", port)
    theirs = made(cluster, "--node", "foo", "--node", "bar", "--out", "other", "--port", port)
    foo = start(cluster, "foo", ours["foo"])
    # It trusts ours and shows its own: only foo can refuse it.
    for directive in theirs["bar"]:
        for parameters in directive.values():
            for name in ("rootcas", "clientcas"):
                if name in parameters:
                    parameters[name] = str(cluster.directory / "mesh" / "ca.crt")
    start(cluster, "bar", theirs["bar"])
    foo.wait_log(r"is not signed by a CA in")
    assert not foo.status()["Connections"]
