"""openssl and meshnode agree on certificates, whoever of the two has made them."""

import re
import shutil
from pathlib import Path

import pytest
from harness import Cluster

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there")

NODE_ID = "otherName:1.3.6.1.4.1.2312.19.1;UTF8:"


@pytest.fixture
def here(cluster: Cluster) -> Path:
    return cluster.directory


def run(cluster: Cluster, line: str, *, code: int = 0) -> str:
    """Run a command in the cluster's directory and return what it prints; ' quotes a word."""
    done = cluster.run("bash", "-c", f"cd {cluster.directory} && {line}", check=False)
    assert done.returncode == code, done.stderr.decode()
    return (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("bits", ["", "--bits 2048"], ids=["ECDSA", "RSA"])
def test_openssl_finds_what_meshnode_makes_good(cluster: Cluster, bits: str) -> None:
    run(cluster, f"meshnode cert init {bits}")
    run(cluster, f"meshnode cert request --node foo --dns foo.example.org --ip 10.0.0.7 {bits}")
    run(cluster, "meshnode cert sign foo.csr --yes")
    request = run(cluster, "openssl req -in foo.csr -verify -noout -text")
    assert "self-signature verify OK" in request
    for purpose in ("sslserver", "sslclient"):
        for name in ("-verify_hostname foo.example.org", "-verify_ip 10.0.0.7"):
            line = f"openssl verify -x509_strict -purpose {purpose} {name} -CAfile ca.crt foo.crt"
            assert run(cluster, line) == "foo.crt: OK\n"
    run(cluster, "openssl verify -verify_hostname bar -CAfile ca.crt foo.crt", code=2)
    run(cluster, "openssl pkey -in foo.key -check -noout")
    assert run(cluster, "openssl pkey -in foo.key -pubout") == run(
        cluster, "openssl x509 -in foo.crt -pubkey -noout"
    )
    text = run(cluster, "openssl x509 -in foo.crt -noout -text")
    assert re.search(r"othername: 1\.3\.6\.1\.4\.1\.2312\.19\.1::?\s?(UTF8:)?foo", text)
    assert "DNS:foo.example.org, IP Address:10.0.0.7" in text
    assert "CA:FALSE" in text


def test_both_tell_the_same_of_a_certificate(cluster: Cluster) -> None:
    run(cluster, "meshnode cert init --days 100")
    shown = run(cluster, "meshnode cert show ca.crt")
    for algorithm, name in (("sha256", "SHA-256"), ("sha512", "SHA-512")):
        said = run(cluster, f"openssl x509 -in ca.crt -noout -fingerprint -{algorithm}")
        assert f"  {name}:     {said.strip().partition('=')[2]}\n" in shown
    dates = run(cluster, "openssl x509 -in ca.crt -noout -dates -dateopt iso_8601")
    begins, ends = re.findall(r"=(.*)Z", dates)
    assert f"from {begins} UTC to {ends} UTC (" in shown


@pytest.mark.parametrize(
    "key",
    [
        "openssl genrsa -out {0} 2048",
        "openssl genrsa -traditional -out {0} 2048",
        "openssl ecparam -name prime256v1 -genkey -out {0}",
        "openssl genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-384 -out {0}",
        "openssl genpkey -algorithm ed25519 -out {0}",
    ],
    ids=["RSA", "PKCS#1", "SEC 1", "P-384", "Ed25519"],
)
def test_meshnode_signs_with_what_openssl_makes_and_finds_what_it_signs_good(
    cluster: Cluster, key: str
) -> None:
    run(cluster, key.format("ca.key"))
    run(cluster, key.format("foo.key"))
    run(cluster, "openssl req -x509 -new -key ca.key -subj '/CN=their CA' -days 10 -out ca.crt")
    names = f"subjectAltName=DNS:foo.example.org,{NODE_ID}foo,{NODE_ID}also-foo"
    run(cluster, f"openssl req -new -key foo.key -subj /CN=foo -addext '{names}' -out foo.csr")

    run(cluster, "meshnode cert sign foo.csr --yes")
    assert run(cluster, "openssl verify -CAfile ca.crt foo.crt") == "foo.crt: OK\n"

    extensions = f"{names}\nextendedKeyUsage=serverAuth,clientAuth"
    run(cluster, f"echo -e '{extensions.encode('unicode_escape').decode()}' > ext")
    run(cluster, "openssl x509 -req -in foo.csr -CA ca.crt -CAkey ca.key -days 5 -extfile ext "
        "-out theirs.crt")  # fmt: skip
    for made in ("foo", "theirs"):
        good = run(
            cluster,
            f"meshnode cert verify {made}.crt --key foo.key --node also-foo --host foo.example.org",
        )
        assert "names node foo, node also-foo, foo.example.org" in good
        run(cluster, f"meshnode cert verify {made}.crt --node bar", code=1)


def test_receptors_script_makes_certificates_that_openssl_finds_good(cluster: Cluster) -> None:
    run(
        cluster,
        "mkdir -p certs\n"
        "meshnode --cert-init commonname='test CA' bits=2048 outcert=certs/ca.crt "
        "outkey=certs/ca.key\n"
        "for node in foo bar; do\n"
        '  meshnode --cert-makereq bits=2048 commonname="$node test cert" dnsname=localhost '
        "nodeid=$node outreq=certs/$node.csr outkey=certs/$node.key\n"
        "  echo yes | meshnode --cert-signreq req=certs/$node.csr cacert=certs/ca.crt "
        "cakey=certs/ca.key outcert=certs/$node.crt\n"
        "done",
    )
    for node in ("foo", "bar"):
        line = f"openssl verify -verify_hostname localhost -CAfile certs/ca.crt certs/{node}.crt"
        assert run(cluster, line) == f"certs/{node}.crt: OK\n"
    modes = {path.stat().st_mode & 0o777 for path in (cluster.directory / "certs").iterdir()}
    assert modes == {0o600}


def test_a_file_with_receptors_directives_makes_all_of_them(cluster: Cluster) -> None:
    (cluster.directory / "certs.yml").write_text(
        "version: 2\n"
        "cert-init: {commonname: test CA, bits: 2048, outcert: ca.crt, outkey: ca.key}\n"
        "cert-makereqs:\n"
        "  - {commonname: foo, bits: 2048, nodeid: [foo], outreq: foo.csr, outkey: foo.key}\n"
        "cert-signreqs:\n"
        "  - {req: foo.csr, cacert: ca.crt, cakey: ca.key, outcert: foo.crt, verify: true}\n"
    )
    run(cluster, "meshnode --config certs.yml")
    assert run(cluster, "openssl verify -CAfile ca.crt foo.crt") == "foo.crt: OK\n"
    again = run(cluster, "meshnode --config certs.yml", code=1)
    assert again == (
        'certs.yml:2: cert-init: "ca.crt" is there already; name another file, '
        "or replace it by force: true\n"
    )
