"""Who may use a node over HTTP: certificates, tokens, users; HTTP/1.1 and HTTP/2, with curl."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, Cluster, Directive, Node, free_port
from test_audit_nodes import wait_line
from test_tls_nodes import Authority, server
from webclient import WebClient

CI, OTHER = "c1" * 16, "07" * 16


@pytest.fixture
def signed(cluster: Cluster) -> Authority:
    return Authority(cluster.directory)


def write_tokens(directory: Path, text: str, mode: int = 0o600) -> Path:
    """Put a file of tokens in the place of another."""
    fresh, file = directory / "tokens.new", directory / "tokens"
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.rename(file)
    return file


def start(cluster: Cluster, service: dict[str, Any], *more: Directive) -> Node:
    work = {"cat": "cat", "big": "head -c 20000000 /dev/zero"}
    node = cluster.node("foo", work=work, more=[*more, {"http-service": service}])
    node.wait_log("INFO http .*: listening")
    return node


class Curl:
    """curl, as a client of one port."""

    def __init__(self, cluster: Cluster, base: str, *options: str | Path) -> None:
        self._cluster = cluster
        self._base = base
        self._options = options

    def __call__(self, path: str, *more: str | Path) -> tuple[int, str, Any]:
        """Return status, version and the JSON of a response."""
        done = self._cluster.run(
            "curl", "-s", "-w", "\n%{http_code} %{http_version}", *self._options, *more,
            f"{self._base}{path}",
        )  # fmt: skip
        body, _, end = done.stdout.decode().rpartition("\n")
        status, version = end.split()
        return int(status), version, json.loads(body) if body else None


def certified(signed: Authority, name: str) -> list[str | Path]:
    files = signed.issue(name)
    return ["--cacert", signed.ca, "--cert", files["cert"], "--key", files["key"]]


@pytest.mark.parametrize(("option", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_a_certificate_says_who_asks_and_rules_decide_what_it_may(
    cluster: Cluster, signed: Authority, option: str, version: str
) -> None:
    port = free_port()
    rule = {"action": "allow", "who": "subject=CN=alice", "do": ["submit", "status"]}
    node = start(
        cluster,
        {"port": port, "tls": "srv"},
        server(signed, signed.issue("foo", "foo")),
        {"access-rule": {**rule, "units": "own"}},
        {"access-rule": {"action": "allow", "who": "uid=0", "do": "any", "units": "all"}},
    )
    base = f"https://localhost:{port}/api/v1"
    alice = Curl(cluster, base, option, *certified(signed, "alice"))
    job = ["--json", '{"type": "cat", "payload": "hello"}']
    status, spoken, made = alice("/units", *job)
    assert (status, spoken) == (201, version)
    assert alice(f"/units/{made['ID']}/wait")[2]["StateName"] == "Succeeded"
    shown = node.unit_status(made["ID"])["SubmittedBy"]
    assert (shown["Kind"], shown["Certificate"]["Subject"]) == ("tcp", "CN=alice")
    # What rules do not allow: others' units are not even there.
    bob = Curl(cluster, base, option, *certified(signed, "bob"))
    assert bob(f"/units/{made['ID']}")[0] == 404
    assert bob("/units", *job)[0] == 403
    assert alice(f"/units/{made['ID']}/cancel", "-X", "POST")[0] == 403
    assert alice("/status")[0] == 403


def test_clients_without_a_certificate_show_a_token_or_nothing_is_told(
    cluster: Cluster, signed: Authority
) -> None:
    port = free_port()
    tokens = write_tokens(cluster.directory, f"- {{name: ci, token: {CI}, verbs: [submit]}}\n")
    audit = cluster.directory / "audit.log"
    node = start(
        cluster,
        {"port": port, "tls": "srv", "tokens": str(tokens), "allowanonymous": False},
        server(signed, signed.issue("foo", "foo"), requireclientcert=False),
        {"audit-log": str(audit)},
    )
    base = f"https://localhost:{port}"
    unknown = Curl(cluster, base, "--cacert", signed.ca)
    for path in ("/", "/api/v1", "/health", "/metrics", "/api/v1/units", "/nothing"):
        status, _, problem = unknown(path)
        assert (status, problem["type"]) == (401, "/problems/unauthenticated")
    ci = Curl(cluster, base, "--cacert", signed.ca, "-H", f"Authorization: Bearer {CI}")
    status, _, made = ci("/api/v1/units", "--json", '{"type": "cat", "payload": "x"}')
    assert status == 201
    assert ci("/api/v1/units")[0] == 403
    # So may a batch be submitted by who may not look at it.
    batch = ["--json", '{"array": "1-2", "job": {"type": "cat"}}', "-H", "Idempotency-Key: k"]
    (status, _, first), (again, _, known) = (ci("/api/v1/batches", *batch) for _ in range(2))
    assert (status, again, known) == (201, 200, first)
    assert first["Members"] == 2
    assert ci(f"/api/v1/batches/{first['Batch']}")[0] == 404
    for user in ("", "ci"):
        by_password = Curl(cluster, base, "--cacert", signed.ca, "-u", f"{user}:{CI}")
        assert by_password("/api/v1")[2]["client"]["name"].startswith("token ci (")
    line = wait_line(audit, event="submit")
    assert (line["by"]["Kind"], line["by"]["Name"]) == ("token", "ci")
    node.wait_unit(made["ID"], "Succeeded")
    shown = node.unit_status(made["ID"])["SubmittedBy"]
    assert (shown["Kind"], shown["Name"]) == ("token", "ci")


def test_a_certificate_of_a_ca_that_is_replaced_loses_what_it_has_open(
    cluster: Cluster, signed: Authority
) -> None:
    port, other = free_port(), Authority(cluster.directory, "other")
    own = signed.issue("foo", "foo")
    trusted = cluster.directory / "clients.crt"
    trusted.write_bytes(signed.ca.read_bytes() + other.ca.read_bytes())
    node = start(cluster, {"port": port, "tls": "srv"}, server(signed, own, clientcas=str(trusted)))
    shown = ssl.create_default_context(cafile=str(signed.ca))
    with ExitStack() as stack:
        followers = []
        for authority, name in ((signed, "alice"), (other, "bob")):
            files = authority.issue(name)
            shown.load_cert_chain(files["cert"], files["key"])
            client = http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=shown)
            client.request("GET", "/api/v1/events")
            followers.append(stack.enter_context(client.getresponse()))
            stack.callback(client.close)
            assert followers[-1].status == 200
        alice, other_one = followers
        # First nothing that matters to them: the file is another, and both of its CAs are in it.
        trusted.write_bytes(other.ca.read_bytes() + signed.ca.read_bytes())
        node.wait_log("tls-server srv: read anew")
        trusted.write_bytes(other.ca.read_bytes())
        node.wait_log(r"ended .*: the client's certificate \(CN=alice\) is not signed by a CA in")
        with pytest.raises((http.client.HTTPException, OSError)):
            alice.read()
        node.meshctl("work", "submit", "cat", "--no-payload")
        while b"event: unit" not in other_one.readline():
            pass
    # And none of its certificates opens another one.
    refused = cluster.run(
        "curl", "-s", *certified(signed, "alice"), f"https://localhost:{port}/health", check=False
    )
    assert refused.returncode != 0
    bob = other.issue("bob")
    shows = ["--cacert", signed.ca, "--cert", bob["cert"], "--key", bob["key"]]
    told = cluster.run("curl", "-s", *shows, f"https://localhost:{port}/metrics").stdout
    line = b'meshnode_tls_refusals_total{reason="wrong CA",service="http"} 2.0'
    assert line in told.splitlines()


def test_who_may_have_results_and_no_status_has_them_as_they_come(cluster: Cluster) -> None:
    port = free_port()
    verbs = "verbs: [submit, results]"
    tokens = write_tokens(cluster.directory, f"- {{name: ci, token: {CI}, {verbs}}}\n")
    start(cluster, {"port": port, "tokens": str(tokens)})
    client = WebClient(port, {"Authorization": f"Bearer {CI}"})
    unit = client.submit({"type": "cat", "payload": "hello"})
    assert client.ask(f"/units/{unit}/results").body == b"hello"
    assert client.ask(f"/units/{unit}/results?from=4").body == b"o"
    for path in ("", "/results?follow=false", "/log"):
        refused = client.ask(f"/units/{unit}{path}")
        assert (refused.status, "status" in refused.detail) == (403, True), refused


def test_tokens_are_renewed_and_taken_away_without_a_restart(cluster: Cluster) -> None:
    port = free_port()
    ci, other = (f"- {{name: {name}, token: '{token}'}}\n" for name, token in
                 (("ci", CI), ("other", OTHER)))  # fmt: skip
    tokens = write_tokens(cluster.directory, ci)
    node = start(cluster, {"port": port, "tokens": str(tokens), "allowanonymous": False})
    unit = node.submit("cat", "--payload", "-", stdin=b"x")

    def status(token: str, *more: str) -> int:
        shows = f"Authorization: Bearer {token}"
        asking = Curl(cluster, f"http://localhost:{port}/api/v1", "-H", shows)
        return asking("/status", *more)[0]

    assert (status(CI), status(OTHER)) == (200, 401)
    with following(port, "/api/v1/events", CI) as follower:
        write_tokens(cluster.directory, ci + other)
        node.wait_log("tokens of .*: 2; changed or gone: 0")
        assert (status(CI), status(OTHER)) == (200, 200)
        # A file that others can read is not used, and what was there before still is.
        write_tokens(cluster.directory, other, 0o644)
        node.wait_log("can be read by other users.*still used")
        assert status(CI) == 200
        write_tokens(cluster.directory, other)
        node.wait_log("tokens of .*: 1; changed or gone: 1")
        assert (status(CI), status(OTHER)) == (401, 200)
        # What it had open has ended as well.
        assert read_to_end(follower)
    assert node.unit_status(unit)["StateName"] == "Succeeded"


def test_a_user_of_this_machine_is_known_by_its_socket(cluster: Cluster) -> None:
    path = cluster.directory / "foo.http"
    rules = [{"access-rule": {"action": "allow", "who": "uid=4711", "do": "any", "units": "all"}}]
    start(cluster, {"filename": str(path), "permissions": "0666"}, *rules)
    asking = Curl(cluster, "http://any/api/v1", "--unix-socket", path)
    status, _, root = asking("")
    assert (status, root["client"]["kind"]) == (200, "unix")
    assert f"uid {os.getuid()}" in root["client"]["name"]
    assert asking("/status")[0] == 403


def test_a_certificate_is_renewed_without_a_restart(cluster: Cluster, signed: Authority) -> None:
    port = free_port()
    node = start(cluster, {"port": port, "tls": "srv"}, server(signed, signed.issue("foo", "foo")))
    trusting = ssl.create_default_context(cafile=str(signed.ca))
    files = signed.issue("alice")
    trusting.load_cert_chain(files["cert"], files["key"])

    def shown() -> bytes:
        plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        with plain, trusting.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert secure.recv(12) == b"HTTP/1.1 200"
            return secure.getpeercert(binary_form=True) or b""

    before = shown()
    signed.issue("foo", "foo")
    node.wait_log("tls-server srv.*it shows")
    assert shown() != before


def test_a_reload_goes_by_and_what_needs_a_restart_is_named(cluster: Cluster) -> None:
    port = free_port()
    node = start(cluster, {"port": port})
    node.meshctl("reload")
    node.config.write_text(node.config.read_text().replace(f"port: {port}", f"port: {port + 1}"))
    done = cluster.run("meshctl", "--socket", node.socket, "reload", check=False)
    assert done.returncode != 0
    assert b"http-service" in done.stdout + done.stderr


@contextmanager
def following(port: int, path: str, token: str = "") -> Iterator[socket.socket]:
    """Return a connection on which a response has begun."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        more = f"Authorization: Bearer {token}\r\n" if token else ""
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        yield connection


def read_to_end(connection: socket.socket) -> bool:
    """Read until the other end closes; a reset is an end, too."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def test_a_follower_that_stops_reading_costs_nobody_else_anything(cluster: Cluster) -> None:
    port = free_port()
    node = start(cluster, {"port": port})
    unit = node.submit("big", "--no-payload")
    path = f"/api/v1/units/{unit}/results"
    with following(port, path), following(port, path):
        ten = [
            subprocess.Popen(
                ["curl", "-s", f"http://localhost:{port}{path}"], stdout=subprocess.PIPE
            )
            for _ in range(10)
        ]
        for one in ten:
            output, _ = one.communicate(timeout=PATIENCE)
            assert len(output) == 20_000_000
        # They hold up no stop of the node either.
        assert node.stop(signal.SIGTERM) == 0
