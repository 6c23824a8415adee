"""The metrics of real nodes follow what happens to them, and are for who may have them."""

import hashlib
import os
from collections.abc import Callable

import pytest
import yaml
from harness import Cluster, Node, bash, free_port, wait_until
from prometheus_client.parser import text_string_to_metric_families
from signing_keys import new_key, private_pem, public_pem, write_key
from webclient import Reply, WebClient

KEY, OTHER_KEY = new_key(), new_key()
TOKEN, WEAK = "t" * 40, "w" * 40


class Scraper:
    """Reads the metrics of a node, as Prometheus does."""

    def __init__(self, node: Node, port: int) -> None:
        self.node = node
        self.client = WebClient(port)

    def read(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        reply = self.client.ask("/metrics")
        assert reply.status == 200, reply
        return {
            (sample.name.removeprefix("meshnode_"), frozenset(sample.labels.items())): sample.value
            for metric in text_string_to_metric_families(reply.body.decode())
            for sample in metric.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.read().get((name, frozenset(labels.items())))

    def expect(self, number: float, name: str, **labels: str) -> None:
        """Return once a series has this value."""
        self.wait(lambda value: value == number, name, **labels)

    def wait(self, condition: Callable[[float | None], bool], name: str, **labels: str) -> None:
        """Return once a series is as it should be: what a command tells may come before it."""
        wait_until(
            lambda: condition(self.value(name, **labels)),
            watch=[self.node.directory],
            what=f"{name} {labels} of {self.node.name}",
        )


@pytest.fixture
def pair(cluster: Cluster) -> tuple[Scraper, Scraper]:
    """Return foo, which signs with a key, and bar, which checks with another one and dials foo."""
    port, foos, bars = free_port(), free_port(), free_port()
    private = write_key(cluster.directory / "private.pem", private_pem(OTHER_KEY))
    public = write_key(cluster.directory / "public.pem", public_pem(KEY), 0o644)
    foo = cluster.node(
        "foo",
        listen=port,
        more=[{"work-signing": {"privatekey": str(private)}}, {"http-service": {"port": foos}}],
    )
    bar = cluster.node(
        "bar",
        peers=[port],
        work={
            "cat": "cat",
            "fails": bash("exit 3"),
            "waits": "read -r line < $GO",
            "signed": {"command": "cat", "verifysignature": True},
        },
        settings={"maxrunning": 1},
        more=[{"work-verification": {"publickey": str(public)}}, {"http-service": {"port": bars}}],
        start=False,
    )
    os.mkfifo(cluster.directory / "go")
    cluster.environment["GO"] = str(cluster.directory / "go")
    bar.start()
    foo.wait_service("bar")
    return Scraper(foo, foos), Scraper(bar, bars)


def test_units_are_counted_on_both_nodes_by_type_and_state(pair: tuple[Scraper, Scraper]) -> None:
    foo, bar = pair
    unit = foo.node.submit("cat", "--node", "bar", "--payload", "-", stdin=b"hello\n")
    foo.node.wait_unit(unit, "Succeeded")
    here, there = {"runner": "remote", "type": "cat"}, {"runner": "command", "type": "cat"}
    for scraper, name in ((foo, here), (bar, there)):
        scraper.expect(1, "units", **name, state="succeeded")
        scraper.expect(1, "units_submitted_total", **name)
        scraper.expect(1, "units_ended_total", **name, state="succeeded")
        scraper.expect(1, "unit_run_seconds_count", **name)
        scraper.expect(1, "unit_start_delay_seconds_count", **name)
        scraper.expect(6, "unit_payload_bytes_total", **name)
    assert foo.node.results(unit) == b"hello\n"
    foo.expect(6, "unit_result_bytes_total", **here)
    foo.node.meshctl("work", "release", unit)
    for scraper, name in ((foo, here), (bar, there)):
        scraper.expect(0, "units", **name, state="succeeded")
        scraper.expect(1, "units_ended_total", **name, state="succeeded")
    failed = bar.node.submit("fails", "--no-payload")
    bar.node.wait_unit(failed, "Failed")
    fails = {"runner": "command", "type": "fails", "state": "failed"}
    bar.expect(1, "units_ended_total", **fails)


def test_the_queue_is_told_and_units_outlive_a_kill_of_their_node(
    pair: tuple[Scraper, Scraper],
) -> None:
    _, bar = pair
    units = [bar.node.submit("waits", "--no-payload") for _ in range(2)]
    bar.node.wait_unit(units[0], "Running")
    bar.expect(1, "queue_running", type="waits")
    bar.expect(1, "queue_length", type="waits")
    bar.expect(1, "queue_node_limit")
    bar.expect(1, "supervisors")
    bar.node.kill()
    bar.node.start()
    waits = {"runner": "command", "type": "waits"}
    bar.expect(1, "supervisors")
    bar.expect(1, "units", **waits, state="running")
    assert bar.value("units_submitted_total", **waits) == 0
    bar.node.meshctl("work", "cancel", *units)
    bar.expect(2, "units_ended_total", **waits, state="canceled")
    assert bar.value("queue_length", type="waits") in {0, None}


def test_a_link_that_is_killed_is_down_on_both_ends_and_comes_back(
    pair: tuple[Scraper, Scraper],
) -> None:
    foo, bar = pair
    configured = {"directive": "tcp-peer"}
    (address,) = [
        dict(labels)["address"] for name, labels in bar.read() if name == "configured_peer_up"
    ]
    bar.expect(1, "configured_peer_up", **configured, address=address)
    foo.expect(1, "link_up", peer="bar", kind="tcp")
    foo.expect(1, "routes")
    sent = foo.value("link_sent_bytes_total", peer="bar", kind="tcp")
    foo.node.meshctl("ping", "bar", "--count", "1")
    assert (foo.value("link_sent_bytes_total", peer="bar", kind="tcp") or 0) > (sent or 0) > 0
    bar.node.kill()
    foo.expect(0, "link_up", peer="bar", kind="tcp")
    foo.expect(0, "routes")
    foo.expect(1, "links_lost_total")
    assert foo.value("link_sent_bytes_total", peer="bar", kind="tcp") is None
    bar.node.start()
    foo.expect(1, "link_up", peer="bar", kind="tcp")
    bar.expect(1, "link_up", peer="foo", kind="tcp")
    foo.node.kill()
    bar.expect(0, "configured_peer_up", **configured, address=address)
    bar.expect(0, "link_up", peer="foo", kind="tcp")


def test_a_refused_signature_is_counted_by_its_reason(pair: tuple[Scraper, Scraper]) -> None:
    foo, bar = pair
    for _ in range(2):
        done = foo.node.cluster.run(
            *("meshctl", "--socket", foo.node.socket, "work", "submit", "signed"),
            *("--node", "bar", "--no-payload", "--signwork"),
            check=False,
        )
        assert done.returncode != 0
    bar.expect(2, "signature_refusals_total", reason="wrong key")
    assert bar.value("signature_refusals_total", reason="expired") == 0
    assert foo.value("signature_refusals_total", reason="wrong key") == 0


def test_a_token_for_metrics_gets_metrics_and_nothing_else(cluster: Cluster) -> None:
    port = free_port()
    tokens = cluster.directory / "tokens"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens.write_text(
        yaml.safe_dump(
            [
                {"name": "prometheus", "sha256": digest, "verbs": ["mesh-status"]},
                {"name": "lister", "token": WEAK, "verbs": ["list"]},
            ]
        )
    )
    tokens.chmod(0o600)
    service = {"port": port, "tokens": str(tokens), "allowanonymous": False}
    cluster.node("foo", work={"cat": "cat"}, more=[{"http-service": service}])

    def ask(path: str, token: str = "") -> Reply:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return WebClient(port, headers).ask(path)

    assert ask("/metrics", TOKEN).status == 200
    assert b"meshnode_build_info" in ask("/metrics", TOKEN).body
    assert ask("/units", TOKEN).status == 403
    assert ask("/metrics", WEAK).status == 403
    assert ask("/metrics", "x" * 40).status == 401
    assert ask("/metrics").status == 401
