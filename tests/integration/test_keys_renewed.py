"""Keys and certificates of running nodes are replaced, with openssl's files and receptor's ways."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from harness import Cluster, Directive, Node, free_port
from signing_keys import new_key, private_pem, public_pem, write_key
from test_tls_nodes import Authority, client, listener, openssl, peer, server

from meshnode.renewal import QUIET
from meshnode.security.keys import fingerprint

OLD, NEW = new_key(), new_key()

Put = Callable[[Path, bytes], None]


def renamed(path: Path, content: bytes) -> None:
    """Put a file in the place of another, as openssl's and our own tools are told to."""
    fresh = path.with_suffix(".new")
    write_key(fresh, content)
    fresh.rename(path)


def written(path: Path, content: bytes) -> None:
    """Write a file anew, slowly: at first it holds the first half."""
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        os.fsync(file.fileno())
        file.write(content[len(content) // 2 :])


def signing(cluster: Cluster) -> tuple[Node, Node]:
    """Start foo, which signs with the old key, and bar, which takes both."""
    port, directory = free_port(), cluster.directory
    private = write_key(directory / "sign.pem", private_pem(OLD))
    keys: list[Directive] = []
    for name, key in (("old", OLD), ("new", NEW)):
        file = write_key(directory / f"{name}.pem", public_pem(key), 0o644)
        keys.append({"work-verification": {"publickey": str(file)}})
    foo = cluster.node("foo", listen=port, more=[{"work-signing": {"privatekey": str(private)}}])
    work = {"signed": {"command": "cat", "verifysignature": True}}
    bar = cluster.node("bar", peers=[port], work=work, more=keys)
    foo.wait_knows("bar")
    foo.wait_service("bar")
    return foo, bar


def signer_of(foo: Node, bar: Node) -> str:
    """Submit signed work; return the name of the key that bar says has signed it."""
    unit = foo.submit("signed", "--node", "bar", "--signwork", "--payload", "-", stdin=b"x")
    foo.wait_unit(unit, "Succeeded")
    there = foo.unit_status(unit)["ExtraData"]["RemoteUnitID"]
    return str(bar.unit_status(there)["SignedBy"])


@pytest.mark.parametrize("put", [renamed, written])
def test_a_key_is_replaced_while_signed_work_is_submitted_and_none_is_refused(
    cluster: Cluster, put: Put
) -> None:
    foo, bar = signing(cluster)
    assert signer_of(foo, bar) == "old"
    signers: list[str] = []
    enough = Event()

    def go_on() -> None:
        while not enough.is_set():
            signers.append(signer_of(foo, bar))

    submitting = Thread(target=go_on)
    submitting.start()
    try:
        put(cluster.directory / "sign.pem", private_pem(NEW))
        foo.wait_log(f"work: signing key: changed, now {re.escape(fingerprint(NEW.public_key()))}")
    finally:
        enough.set()
        submitting.join()
    assert signers == sorted(signers, reverse=True)
    assert signer_of(foo, bar) == "new"

    # Only now the old one goes, and what is signed with it is refused with both fingerprints.
    text = bar.config.read_text().replace(str(cluster.directory / "old.pem"), "GONE")
    lines = text.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if "GONE" in line)
    bar.config.write_text("".join(lines[: at - 1] + lines[at + 1 :]))
    bar.meshctl("reload")
    put(cluster.directory / "sign.pem", private_pem(OLD))
    foo.wait_log(f"now {re.escape(fingerprint(OLD.public_key()))}$")
    command = ("work", "submit", "signed", "--node", "bar", "--signwork", "--no-payload")
    done = cluster.run("meshctl", "--socket", foo.socket, *command, check=False)
    here, there = (fingerprint(key.public_key()) for key in (OLD, NEW))
    said = f"token is signed with the key {here}, and this node has new ({there})"
    assert said in done.stderr.decode()


def since(node: Node) -> Any:
    (connection,) = node.status()["Connections"]
    return connection["Since"]


def shown(port: int, ca: Path, files: dict[str, str]) -> str:
    """Return the subject of the certificate that a new connection is shown."""
    own = ("-cert", files["cert"], "-key", files["key"], "-verify_return_error")
    said = openssl("s_client", "-connect", f"localhost:{port}", "-CAfile", ca, *own)
    found = re.search(r"^subject=.*?CN ?= ?(\S+)", said, re.MULTILINE)
    assert found, said
    return found[1]


@pytest.mark.parametrize("way", ["renamed", "written", "linked"])
def test_a_certificate_is_replaced_under_a_live_link_and_the_next_handshake_shows_the_new_one(
    cluster: Cluster, way: str
) -> None:
    signed, port = Authority(cluster.directory), free_port()
    volumes = cluster.directory / "volumes"
    for name in ("first", "second"):
        (volumes / name).mkdir(parents=True)
        for parameter, file in signed.issue(name, "foo").items():
            # The CA, too, has the two names below the directory of the cluster.
            Path(file).rename(volumes / name / f"tls.{parameter}")
    (volumes / "..data").symlink_to("first")
    files = {name: str(volumes / f"tls.{name}") for name in ("cert", "key")}
    for name, file in files.items():
        Path(file).symlink_to(f"..data/tls.{name}")
    if way != "linked":
        for file in files.values():
            content = Path(file).read_bytes()
            Path(file).unlink()
            write_key(Path(file), content)
    secured = {"control-service": {"service": "secured", "tls": "srv"}}
    foo = cluster.node("foo", more=[server(signed, files), listener(port), secured])
    of_bar = signed.issue("bar", "bar")
    bar = cluster.node("bar", more=[client(signed, of_bar), peer(port)])
    bar.wait_service("foo")
    bar.wait_service("foo", "secured")
    assert shown(port, signed.ca, of_bar) == "first"
    connect = ("connect", "foo", "secured", "--tls-client", "cli")
    assert b"node foo" in bar.meshctl(*connect)
    before = since(bar)
    took = 0.0
    if way == "linked":
        (volumes / "..tmp").symlink_to("second")
        (volumes / "..tmp").rename(volumes / "..data")
    else:
        began = time.monotonic()
        for name, file in files.items():
            content = (volumes / "second" / f"tls.{name}").read_bytes()
            {"renamed": renamed, "written": written}[way](Path(file), content)
        took = time.monotonic() - began
    foo.wait_log("INFO keys: tls-server srv: read anew; it shows CN=second, which holds until 20")
    assert shown(port, signed.ca, of_bar) == "second"
    assert b"node foo" in bar.meshctl(*connect)
    # The link has seen none of it.
    assert since(bar) == before
    (certificate,) = foo.status()["Certificates"]
    assert certificate["Subject"] == "CN=second"
    # A node that was restarted links with it.
    bar.stop()
    bar.start()
    bar.wait_service("foo")
    # A busy machine may leave half of the change there for longer than is waited for the rest.
    assert took > QUIET or foo.find_log("still used") is None


def test_a_certificate_that_ends_soon_and_an_open_key_are_warned_of_where_one_looks(
    cluster: Cluster,
) -> None:
    signed = Authority(cluster.directory)
    files = signed.issue("foo", "foo")
    key = Path(files["key"])
    key.chmod(0o644)
    foo = cluster.node("foo", more=[server(signed, files), listener(free_port())])
    open_key = f'"{key}" can be read by other users (mode 0644); now: chmod 600 {key}'
    ends = f'tls-server: cert: "{files["cert"]}" expires at '
    foo.wait_log(re.escape(open_key))
    foo.wait_log(f"WARNING .*{re.escape(ends)}")
    done = cluster.run("meshnode", "check", foo.config)
    checked = done.stderr.decode()
    assert f"warning: tls-server: key: {open_key}" in checked
    assert f"warning: {ends}" in checked
    status = foo.meshctl("status").decode()
    assert open_key in status
    assert ends in status
    assert re.search(r"^tls-server srv .*foo", status, re.MULTILINE)
    key.chmod(0o600)
    foo.wait_status(
        lambda s: not any("mode 0644" in line for line in s["Warnings"]), what="no open key"
    )


def test_a_half_written_certificate_changes_nothing_until_it_is_whole(cluster: Cluster) -> None:
    signed, port = Authority(cluster.directory), free_port()
    files, later = signed.issue("first", "foo"), signed.issue("second", "foo")
    foo = cluster.node("foo", more=[server(signed, files), listener(port)])
    whole = Path(later["cert"]).read_bytes()
    renamed(Path(files["key"]), Path(later["key"]).read_bytes())
    renamed(Path(files["cert"]), whole[:200])
    foo.wait_log(r"WARNING keys: .*tls-server: cert: .* what was there before is still used")
    assert shown(port, signed.ca, later) == "first"
    with open(files["cert"], "ab") as file:
        file.write(whole[200:])
    foo.wait_log("keys: tls-server srv: read anew; it shows CN=second")
    assert shown(port, signed.ca, later) == "second"
