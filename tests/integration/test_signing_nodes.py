"""Signed work between two real nodes, with keys as openssl makes them."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Cluster, Directive, Node, free_port
from signing_keys import new_key, private_pem, public_pem, write_key

from meshnode.security.keys import fingerprint

UNSIGNED = "could not verify signature: signature is empty"

KEY, OTHER_KEY = new_key(), new_key()

Start = Callable[..., tuple[Node, Node]]


@pytest.fixture
def start(cluster: Cluster) -> Start:
    """Return what starts foo, which signs with ``key``, and bar, whose type ``signed`` checks."""

    def start_both(key: object = KEY, expiration: str = "30m") -> tuple[Node, Node]:
        port, control = free_port(), free_port()
        private = write_key(cluster.directory / "signworkprivate.pem", private_pem(key))
        public = write_key(cluster.directory / "signworkpublic.pem", public_pem(KEY), 0o644)
        signing: Directive = {
            "work-signing": {"privatekey": str(private), "tokenexpiration": expiration}
        }
        foo = cluster.node("foo", listen=port, more=[signing])
        bar = cluster.node(
            "bar",
            peers=[port],
            work={"signed": {"command": "cat", "verifysignature": True}},
            more=[
                {"work-verification": {"publickey": str(public)}},
                {"control-service": {"service": "tcp", "tcplisten": f"127.0.0.1:{control}"}},
            ],
        )
        foo.wait_knows("bar")
        foo.wait_service("bar")
        return foo, bar

    return start_both


def refused_submission(node: Node, *more: str) -> str:
    """Submit with meshctl, which must fail; return what it says."""
    done = node.cluster.run(
        *("meshctl", "--socket", node.socket, "work", "submit", "signed", "--node", "bar"),
        *("--no-payload", *more),
        check=False,
    )
    assert done.returncode != 0, done
    return done.stderr.decode()


def test_signed_remote_work_runs_and_unsigned_is_refused(start: Start) -> None:
    foo, bar = start()
    assert UNSIGNED in refused_submission(foo)
    assert bar.ask("work list") == {}
    bar.wait_log(f"WARNING session foo: submission refused to mesh client foo: {UNSIGNED}")

    unit = foo.submit("signed", "--node", "bar", "--signwork", "--payload", "-", stdin=b"hello\n")
    assert foo.results(unit) == b"hello\n"
    here = foo.wait_unit(unit, "Succeeded")
    assert here["ExtraData"]["SignWork"] is True
    there = here["ExtraData"]["RemoteUnitID"]
    theirs = bar.unit_status(there)
    assert (theirs["StateName"], theirs["SignedBy"]) == ("Succeeded", "signworkpublic")
    bar.wait_log(", signed with key signworkpublic")
    assert "SignedBy" not in here
    foo.meshctl("work", "release", unit)
    assert bar.ask("work list") == {}


def test_a_signature_of_another_key_is_refused(start: Start) -> None:
    foo, bar = start(OTHER_KEY)
    said = refused_submission(foo, "--signwork")
    mine, theirs = (fingerprint(key.public_key()) for key in (OTHER_KEY, KEY))
    assert (
        "could not verify signature: crypto/rsa: verification error: token is signed with the key "
        f"{mine}, and this node has signworkpublic ({theirs})"
    ) in said
    assert bar.ask("work list") == {}


def test_a_strange_tcp_client_may_look_at_signed_work_and_do_nothing_to_it(start: Start) -> None:
    _, bar = start()
    unit = bar.submit("signed", "--payload", "-", stdin=b"hello\n")
    bar.wait_unit(unit, "Succeeded")
    port = int(re.findall(r"tcplisten: 127.0.0.1:(\d+)", bar.config.read_text())[0])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        reader = client.makefile("rb")
        assert reader.readline() == b"Receptor Control, node bar\n"

        def ask(line: str) -> str:
            client.sendall(line.encode() + b"\n")
            return reader.readline().decode().rstrip("\n")

        for command in ("cancel", "release", "force-release", "results", "watch"):
            assert ask(f"work {command} {unit}").startswith(f"ERROR: {UNSIGNED}: sign it, or use ")
        assert ask("work submit bar signed").startswith(f"ERROR: {UNSIGNED}: sign it, or use ")
        assert json.loads(ask(f"work status {unit}"))["StateName"] == "Succeeded"
        reader.close()
    assert bar.results(unit) == b"hello\n"


def test_a_restarted_node_goes_on_signing_for_the_units_it_had(start: Start) -> None:
    foo, bar = start()
    unit = foo.submit("signed", "--node", "bar", "--signwork", "--payload", "-", stdin=b"hello\n")
    foo.wait_unit(unit, "Succeeded")
    foo.stop()
    foo.start()
    foo.wait_knows("bar")
    foo.meshctl("work", "release", unit)
    assert bar.ask("work list") == {}


@pytest.mark.parametrize("command", [("-c",), ("check",)])
def test_a_key_that_cannot_sign_is_one_line_and_no_start(
    cluster: Cluster, command: tuple[str]
) -> None:
    public = write_key(cluster.directory / "public.pem", public_pem(KEY))
    config: Path = cluster.directory / "faulty.yml"
    config.write_text(
        f"- node: {{id: foo, datadir: {cluster.directory}/data}}\n- local-only\n"
        f"- work-signing:\n    privatekey: {public}\n"
    )
    done = cluster.run("meshnode", *command, config, check=False)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f'{config}:4: work-signing: privatekey: "{public}" holds a public key; '
        "the private one is needed here, since it signs\n"
    )
