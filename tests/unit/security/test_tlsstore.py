"""Which TLS settings a node has, and which of them are fit for streams over the mesh."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tls_makers import Made, authority

from meshnode.config import load_file
from meshnode.config.faults import ConfigFaults
from meshnode.security.tlsstore import TlsChange, TlsStore, read_settings

MANY = [f"host-{number}.some.rather.long.domain.example.org" for number in range(400)]
"""Names that make a certificate of more than 15 KiB."""

LINK = "- tcp-listener: {port: 1, bindaddr: 127.0.0.1}\n"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., TlsChange]:
    """Return what reads a file with a tls-server ``srv`` and a tls-client ``cli``."""

    def read(more: str, *, server: Made | None = None, client: Made | None = None) -> TlsChange:
        ca = authority().write(tmp_path)
        small = authority().issue("foo", nodes=["foo"])
        lines = [f"- node: {{id: foo, datadir: {tmp_path}}}\n", LINK]
        for kind, name, trust, made in (
            ("tls-server", "srv", "clientcas", server or small),
            ("tls-client", "cli", "rootcas", client or small),
        ):
            cert, key = made.write(tmp_path, kind)
            lines.append(f"- {kind}: {{name: {name}, cert: {cert}, key: {key}, {trust}: {ca}}}\n")
        file = tmp_path / "foo.yml"
        file.write_text("".join(lines) + more)
        return read_settings(load_file(str(file)))

    return read


USES_SERVER = {
    "control-service": "- control-service: {service: c, tls: srv}\n",
    "tcp-client": "- tcp-client: {service: a, address: 'b:1', tlsserver: srv}\n",
    "unix-socket-client": "- unix-socket-client: {service: a, filename: /b, tls: srv}\n",
    "command-service": "- command-service: {service: a, command: b, tls: srv}\n",
}

USES_CLIENT = {
    "clients may name it": "",
    "tcp-server": "- tcp-server: {port: 2, bindaddr: 127.0.0.1, remotenode: b, remoteservice: c, "
    "tlsclient: cli}\n",
    "unix-socket-server": "- unix-socket-server: {filename: /b, remotenode: b, remoteservice: c, "
    "tls: cli}\n",
}

BELOW = {
    "tcp-peer": "- tcp-peer: {address: 'b:1', tls: cli}\n",
    "tcp-client": "- tcp-client: {service: a, address: 'b:1', tlsclient: cli}\n",
}

SERVES_BELOW = {
    "nothing": "",
    "tcp-listener": "- tcp-listener: {port: 3, bindaddr: 127.0.0.1, tls: srv}\n",
    "tcptls": "- control-service: {service: c, tcplisten: '127.0.0.1:4', tcptls: srv}\n",
    "tcp-server": "- tcp-server: {port: 2, bindaddr: 127.0.0.1, remotenode: b, remoteservice: c, "
    "tlsserver: srv}\n",
}


@pytest.mark.parametrize("user", USES_SERVER)
def test_a_server_on_the_mesh_with_a_long_chain_is_refused_with_size_and_limit(read, user):
    made = authority().issue("foo", nodes=["foo"], hosts=MANY)
    with pytest.raises(ConfigFaults) as refusal:
        read(USES_SERVER[user], server=made)
    text = str(refusal.value)
    for word in ("tls-server: cert", f"{len(made.der)} bytes", "at most 15360"):
        assert word in text


@pytest.mark.parametrize("user", USES_CLIENT)
def test_a_client_on_the_mesh_with_a_long_chain_is_refused(read, user):
    made = authority().issue("foo", nodes=["foo"], hosts=MANY)
    with pytest.raises(ConfigFaults, match=r"tls-client: cert: .* at most 15360"):
        read(USES_CLIENT[user], client=made)


@pytest.mark.parametrize("user", BELOW)
def test_a_client_below_the_mesh_with_a_long_chain_is_only_warned_of(read, user):
    made = authority().issue("foo", nodes=["foo"], hosts=MANY)
    change = read(BELOW[user], client=made)
    assert ["at most 15360" in str(doubt) for doubt in change.doubts] == [True]


@pytest.mark.parametrize("user", SERVES_BELOW)
def test_a_server_below_the_mesh_may_have_any_chain(read, user):
    made = authority().issue("foo", nodes=["foo"], hosts=MANY)
    assert read(SERVES_BELOW[user], server=made).doubts == ()


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "P-521", "Ed25519", "RSA"],
)
def test_a_key_that_tls_1_3_knows_is_fit_for_the_mesh(read, key):
    made = authority().issue("foo", nodes=["foo"], key=key)
    assert read(USES_SERVER["control-service"], server=made).doubts == ()


def test_a_key_of_a_curve_that_tls_1_3_lacks_is_refused_on_the_mesh(read):
    key = ec.generate_private_key(ec.BrainpoolP256R1())
    made = authority().issue("foo", nodes=["foo"], key=key)
    with pytest.raises(ConfigFaults, match=r"curve brainpoolP256r1, .* use P-256"):
        read(USES_SERVER["control-service"], server=made)
    assert read("", server=made).doubts == ()


def test_settings_are_found_by_name_and_kind(read):
    store = TlsStore()
    store.apply(read(""))
    server, client = store.find_server("srv"), store.find_client("cli")
    assert server is not None
    assert client is not None
    assert (server().name, client().name) == ("srv", "cli")
    for name in ("", "nosuch", "cli"):
        assert store.find_server(name) is None
    for name in ("", "nosuch", "srv"):
        assert store.find_client(name) is None


def test_settings_of_changed_files_are_found_where_the_old_ones_were(read, tmp_path):
    store = TlsStore()
    store.apply(read(""))
    found = store.find_client("cli")
    assert found is not None
    before = found()
    store.apply(read(""))
    assert found() is before
    store.apply(read(""), frozenset({tmp_path / "tls-client.crt"}))
    assert found() is not before
