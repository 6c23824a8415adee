"""Nodes that link over TLS, and clients that reach them over TLS, with certificates of openssl."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, Cluster, Directive, Node, free_port

EXTENSIONS = """\
[leaf]
subjectAltName = {names}
extendedKeyUsage = serverAuth, clientAuth
[ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
"""

NODE_ID = "1.3.6.1.4.1.2312.19.1"


def openssl(*arguments: str | Path, stdin: bytes = b"") -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    return (done.stdout + done.stderr).decode(errors="replace")


class Authority:
    """A CA of openssl's, and the certificates that it signs, in one directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self.ca = directory / f"{name}.crt"
        self._key = directory / f"{name}.key"
        config = self._config("DNS:ca", name)
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", self._key, "-out", self.ca, "-days", "30"),
            *("-config", "/dev/null", "-extensions", "ca", "-config", config),
        )

    def _config(self, names: str, stem: str) -> Path:
        path = self._directory / f"{stem}.cnf"
        text = "[req]\ndistinguished_name = dn\n[dn]\n" + EXTENSIONS.format(names=names)
        path.write_text(text)
        return path

    def issue(self, stem: str, *nodes: str) -> dict[str, str]:
        """Return the parameters ``cert`` and ``key`` of a new certificate for some nodes."""
        names = [f"otherName:{NODE_ID};UTF8:{node}" for node in nodes]
        config = self._config(",".join([*names, "DNS:localhost", "IP:127.0.0.1"]), stem)
        key, request, certificate = (
            self._directory / f"{stem}.{end}" for end in ("key", "csr", "crt")
        )
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={stem}", "-config", config),
            *("-keyout", key, "-out", request),
        )
        openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-days", "30"),
            *("-set_serial", "7", "-extfile", config, "-extensions", "leaf", "-out", certificate),
        )
        return {"cert": str(certificate), "key": str(key)}


@pytest.fixture
def signed(cluster: Cluster) -> Authority:
    return Authority(cluster.directory)


def server(signed: Authority, files: dict[str, str], **more: Any) -> Directive:
    asks = {"requireclientcert": True, "clientcas": str(signed.ca)}
    return {"tls-server": {"name": "srv", **files, **asks, **more}}


def client(signed: Authority, files: dict[str, str], **more: Any) -> Directive:
    return {"tls-client": {"name": "cli", **files, "rootcas": str(signed.ca), **more}}


def listener(port: int, kind: str = "tcp") -> Directive:
    return {f"{kind}-listener": {"port": port, "bindaddr": "127.0.0.1", "tls": "srv"}}


def peer(port: int, kind: str = "tcp") -> Directive:
    address = f"localhost:{port}" if kind == "tcp" else f"wss://localhost:{port}"
    return {f"{kind}-peer": {"address": address, "tls": "cli"}}


def pair(
    cluster: Cluster,
    signed: Authority,
    kind: str,
    *,
    foo: Sequence[Directive] = (),
    bar: Sequence[Directive] = (),
) -> tuple[Node, Node]:
    """Start foo, which listens with TLS, and bar, which dials it."""
    port = free_port()
    of_foo = [server(signed, signed.issue("foo", "foo")), listener(port, kind), *foo]
    of_bar = [client(signed, signed.issue("bar", "bar")), peer(port, kind), *bar]
    work = {"double": "cat; cat /dev/null", "big": "head -c 3000000 /dev/zero"}
    first = cluster.node("foo", work=work, more=of_foo)
    return first, cluster.node("bar", more=of_bar)


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_work_runs_over_a_link_with_mutual_tls(
    cluster: Cluster, signed: Authority, kind: str
) -> None:
    foo, bar = pair(cluster, signed, kind)
    bar.wait_service("foo")
    output = bar.meshctl("work", "submit", "double", "--node", "foo", "-f", "-l", "hello")
    assert output.split()[-1] == b"hello"
    output = bar.meshctl("work", "submit", "big", "--node", "foo", "-f", "--no-payload")
    assert output.count(b"\0") == 3_000_000
    assert foo.find_log(r"link (tls|wss) 127\S+: established with bar")
    (shown,) = foo.status()["Certificates"]
    assert (shown["Name"], shown["NodeIDs"]) == ("srv", ["foo"])


def test_a_node_whose_certificate_does_not_name_it_is_not_started(
    cluster: Cluster, signed: Authority
) -> None:
    files = signed.issue("eve", "eve")
    more = [server(signed, files), listener(free_port())]
    node = cluster.node("foo", more=more, start=False)
    for command in (["meshnode", "check", node.config], ["meshnode", "-c", node.config]):
        done = cluster.run(*command, check=False)
        assert done.returncode == 2
        for word in ("this node, foo", "node eve", files["cert"], "skipreceptornamescheck"):
            assert word in done.stderr.decode()


def test_a_client_over_tls_uses_the_tls_client_of_a_nodes_file(
    cluster: Cluster, signed: Authority
) -> None:
    port = free_port()
    service = {"control-service": {"service": "x", "tcplisten": f"127.0.0.1:{port}"}}
    service["control-service"]["tcptls"] = "srv"
    both = [
        server(signed, signed.issue("foo", "foo")),
        client(signed, signed.issue("operator", "foo")),
        service,
    ]
    foo = cluster.node("foo", more=both, work={"double": "cat"})
    there = ("meshctl", "--socket", f"tls://localhost:{port}")
    as_cli = ("--config", foo.config, "--tls-client", "cli")
    status = cluster.run(*there, *as_cli, "status").stdout
    assert b"foo" in status
    echoed = cluster.run(
        *there, *as_cli, "work", "submit", "double", "-f", "-p", "-", stdin=b"x" * 2_000_000
    )
    assert echoed.stdout.count(b"x") >= 2_000_000

    bare = cluster.run(*there, "--rootcas", signed.ca, "status", check=False)
    assert b"it asks for a certificate: give --cert and --key" in bare.stderr
    foo.wait_log(r"refused 127\S+: the client showed no certificate")
    stranger = cluster.run(*there, "status", check=False)
    assert b"Give the CA with --rootcas" in stranger.stderr
    foo.wait_log(r"the client refuses us: .*does not trust the CA")
    plain = cluster.run("meshctl", "--socket", f"tcp://localhost:{port}", "status", check=False)
    assert b"it speaks TLS: write tls://" in plain.stderr


def test_a_client_hears_what_the_node_holds_against_its_certificate(
    cluster: Cluster, signed: Authority
) -> None:
    port = free_port()
    service = {"service": "x", "tcplisten": f"127.0.0.1:{port}", "tcptls": "srv"}
    more = [server(signed, signed.issue("foo", "foo")), {"control-service": service}]
    foo = cluster.node("foo", more=more)
    files = Authority(cluster.directory, "other").issue("operator")
    refused = cluster.run(
        *("meshctl", "--socket", f"tls://localhost:{port}", "--rootcas", signed.ca),
        *("--cert", files["cert"], "--key", files["key"], "status"),
        check=False,
    )
    assert b"the node refuses us: it does not trust the CA of our certificate" in refused.stderr
    foo.wait_log(r"refused 127\S+: the client's certificate \(CN=operator\) is not signed by")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_openssl_agrees_on_what_is_offered(
    cluster: Cluster, signed: Authority, version: str
) -> None:
    port = free_port()
    files = signed.issue("foo", "foo")
    older = version == "1.2"
    cluster.node("foo", more=[server(signed, files, mintls13=not older), listener(port)])
    flag = f"-tls{version.replace('.', '_')}"
    to_it = ("s_client", "-connect", f"localhost:{port}", "-CAfile", signed.ca)
    own = ("-cert", files["cert"], "-key", files["key"], "-verify_return_error")
    shown = openssl(*to_it, *own, flag)
    assert "Verification: OK" in shown
    cipher = re.search(r"Cipher is (\S+)", shown)
    assert cipher is not None
    assert "GCM" in cipher[1] or "CHACHA20" in cipher[1]
    if older:
        assert cipher[1].startswith("ECDHE-")
        for weak in ("ECDHE-RSA-AES128-SHA", "AES128-GCM-SHA256"):
            with pytest.raises(subprocess.CalledProcessError):
                openssl(*to_it, *own, flag, "-cipher", weak)
    else:
        with pytest.raises(subprocess.CalledProcessError):
            openssl(*to_it, *own, "-tls1_2")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_what_receptor_offers_is_enough(cluster: Cluster, signed: Authority, version: str) -> None:
    """Its curves are without X25519, and its ciphers of 1.2 are these."""
    port = free_port()
    files = signed.issue("foo", "foo")
    cluster.node("foo", more=[server(signed, files, mintls13=False), listener(port)])
    ciphers = (
        "ECDHE-RSA-AES256-GCM-SHA384:AES256-GCM-SHA384:"
        "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"
    )
    shown = openssl(
        *("s_client", "-connect", f"localhost:{port}", "-CAfile", signed.ca),
        *("-cert", files["cert"], "-key", files["key"], "-verify_return_error"),
        *(f"-tls{version.replace('.', '_')}", "-cipher", ciphers, "-groups", "P-521:P-384:P-256"),
    )
    assert "Verification: OK" in shown
    assert "ECDHE-RSA-AES" in shown if version == "1.2" else "TLS_AES" in shown
