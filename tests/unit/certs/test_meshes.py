"""All files of a mesh: what they are, when they are made, and what is printed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from any_names import addresses, dns_names, node_ids
from hypothesis import given
from hypothesis import strategies as st
from scripted_person import NOW, Scripted

from meshnode.certs import issuing
from meshnode.certs.meshes import Member, Plan, make, read_member, read_members
from meshnode.certs.outputs import Writer
from meshnode.config.names import Wrong
from meshnode.errors import NotMade, UnusableKey
from meshnode.security.certificates import load_certificates
from meshnode.security.tls import load_key, public_bytes

Files = Callable[[], dict[str, tuple[int, bytes]]]


def plan(directory: Path, *members: str, signing: bool = False, bits: int | None = None) -> Plan:
    return Plan(directory, tuple(map(read_member, members)), 2222, bits, 365, signing)


def made(plan: Plan, person: Scripted, *, force: bool = False) -> dict[str, list[object]]:
    """Make the files of a mesh, and return the directives of each node."""
    page = make(plan, Writer(force, "choose"), person.desk())
    pieces = page.split("\n\n# ")[1:]
    return {head.partition("\n")[0]: yaml.safe_load(head.partition("\n")[2]) for head in pieces}


def test_each_node_gets_a_certificate_of_its_own_that_the_ca_has_signed(
    tmp_path: Path, person: Scripted, files: Files
) -> None:
    made(plan(tmp_path / "new" / "mesh", "foo", "bar=bar.example.org,10.0.0.7"), person)
    directory = tmp_path / "new" / "mesh"
    assert {Path(name).name: mode for name, (mode, _) in files().items()} == {
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "foo.crt": 0o644,
        "foo.key": 0o600,
        "bar.crt": 0o644,
        "bar.key": 0o600,
    }
    assert directory.stat().st_mode & 0o777 == 0o700
    (ca,) = load_certificates(directory / "ca.crt")
    assert ca.is_ca
    for node, hosts, ips in (
        ("foo", ("foo", "localhost"), ("127.0.0.1", "::1")),
        ("bar", ("bar.example.org",), ("10.0.0.7",)),
    ):
        (certificate,) = load_certificates(directory / f"{node}.crt")
        assert certificate.node_ids == (node,)
        assert (certificate.dns_names, certificate.addresses) == (hosts, ips)
        parsed = issuing.x509.load_der_x509_certificate(certificate.der)
        parsed.verify_directly_issued_by(issuing.x509.load_der_x509_certificate(ca.der))
        assert public_bytes(parsed) == public_bytes(load_key(directory / f"{node}.key"))
        assert certificate.not_after == NOW.replace(year=2027)


def test_what_is_printed_is_each_nodes_directives_with_paths_that_hold_everywhere(
    tmp_path: Path, person: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directives = made(plan(Path("mesh"), "foo", "bar", signing=True), person)
    here = f"{tmp_path}/mesh"

    def tls(node: str) -> list[object]:
        own = {"name": "mesh", "cert": f"{here}/{node}.crt", "key": f"{here}/{node}.key"}
        return [
            {"node": {"id": node}},
            {"tls-server": {**own, "requireclientcert": True, "clientcas": f"{here}/ca.crt"}},
            {"tls-client": {**own, "rootcas": f"{here}/ca.crt"}},
        ]

    verification = {"work-verification": {"publickey": f"{here}/signworkpublic.pem"}}
    assert directives == {
        "foo.yml": [
            *tls("foo"),
            {"tcp-listener": {"port": 2222, "bindaddr": "127.0.0.1", "tls": "mesh"}},
            {"work-signing": {"privatekey": f"{here}/signworkprivate.pem"}},
            verification,
        ],
        "bar.yml": [
            *tls("bar"),
            {"tcp-peer": {"address": "localhost:2222", "tls": "mesh"}},
            verification,
        ],
    }


@pytest.mark.parametrize(
    ("first", "address"),
    [
        ("foo=foo.example.org,10.0.0.7", "foo.example.org:2222"),
        ("foo=*.example.org,2001:db8::7", "[2001:db8::7]:2222"),
        ("foo=*.example.org", "localhost:2222"),
    ],
)
def test_other_nodes_dial_the_first_one_where_its_certificate_says(
    first: str, address: str, tmp_path: Path, person: Scripted
) -> None:
    directives = made(plan(tmp_path, first, "bar"), person)
    assert directives["foo.yml"][-1] == {"tcp-listener": {"port": 2222, "tls": "mesh"}}
    assert directives["bar.yml"][-1] == {"tcp-peer": {"address": address, "tls": "mesh"}}


def test_another_call_adds_nodes_and_leaves_all_others_as_they_are(
    tmp_path: Path, person: Scripted, files: Files
) -> None:
    made(plan(tmp_path, "foo", signing=True), person)
    before = files()
    directives = made(plan(tmp_path, "bar", signing=True), person)
    after = files()
    assert set(after) - set(before) == {"bar.crt", "bar.key"}
    assert {name: after[name] for name in before} == before
    (bar,) = load_certificates(tmp_path / "bar.crt")
    assert bar.issuer == load_certificates(tmp_path / "ca.crt")[0].subject
    # Only one of the nodes signs, and the mesh has a listener.
    assert [next(iter(one)) for one in directives["bar.yml"]] == [
        "node",
        "tls-server",
        "tls-client",
        "tcp-peer",
        "work-verification",
    ]


@pytest.mark.parametrize("there", ["foo.crt", "foo.key", "bar.key"])
def test_nothing_is_made_if_a_file_of_one_node_is_there(
    there: str, tmp_path: Path, person: Scripted, files: Files
) -> None:
    (tmp_path / there).write_text("old")
    before = files()
    with pytest.raises(NotMade, match=f'{there}" is there already; choose'):
        made(plan(tmp_path, "foo", "bar"), person)
    assert files() == before


def test_force_makes_the_named_nodes_anew_and_never_the_ca(
    tmp_path: Path, person: Scripted, files: Files
) -> None:
    made(plan(tmp_path, "foo", "bar", signing=True), person)
    before = files()
    made(plan(tmp_path, "foo", signing=True), person, force=True)
    after = files()
    assert {name for name in before if before[name] != after[name]} == {"foo.crt", "foo.key"}


@pytest.mark.parametrize("lost", ["ca.crt", "ca.key"])
def test_half_a_ca_is_not_replaced_by_another(
    lost: str, tmp_path: Path, person: Scripted, files: Files
) -> None:
    made(plan(tmp_path, "foo"), person)
    (tmp_path / lost).unlink()
    before = files()
    with pytest.raises(NotMade, match=f'{lost}" is not: put back what is missing'):
        made(plan(tmp_path, "bar"), person, force=True)
    assert files() == before


def test_a_directory_with_another_ca_key_makes_nothing(
    tmp_path: Path, person: Scripted, files: Files
) -> None:
    made(plan(tmp_path, "foo"), person)
    (tmp_path / "ca.key").write_bytes((tmp_path / "foo.key").read_bytes())
    before = files()
    with pytest.raises(UnusableKey, match=r'ca\.key" is not the key of the CA'):
        made(plan(tmp_path, "bar"), person)
    assert files() == before


def test_after_an_error_there_is_no_new_directory(tmp_path: Path, person: Scripted) -> None:
    with pytest.raises(NotMade, match="file name too long"):
        made(plan(tmp_path / "mesh", "foo", "x" * 255), person)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [b"\xff", b"\x1b[2J", "ö".encode() * 60, b"a: b #c\n"])
def test_a_directory_may_have_any_name(name: bytes, tmp_path: Path, person: Scripted) -> None:
    directory = tmp_path / os.fsdecode(name)
    page = make(plan(directory, "foo", signing=True), Writer(False, "choose"), person.desk())
    assert all(line.isprintable() for line in page.splitlines())
    assert load_certificates(directory / "ca.crt")[0].subject.isprintable()


def test_a_node_is_named_once() -> None:
    with pytest.raises(Wrong, match='"foo" is given twice; a node is named once'):
        read_members(["foo", "bar", "foo=foo.example.org"])


@given(
    node=node_ids.filter(lambda n: "=" not in n and n.lower() != "ca"),
    hosts=st.lists(dns_names | addresses, max_size=4),
)
def test_any_node_with_any_hosts_is_read_and_named_in_its_certificate(
    node: str, hosts: list[str]
) -> None:
    member = read_member(f"{node}={','.join(hosts)}" if hosts else node)
    assert member.node == node
    assert set(member.hosts) == set(hosts)
    names = member.names
    assert names.node_ids == (node,)
    assert not any("*" in name for name in names.dns_names if not hosts)
    assert {*names.dns_names, *names.addresses} >= set(hosts)
    # Whatever the names are, they can be asked for.
    issuing.make_request(KEY, "x", names)


KEY = issuing.make_key(None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ca", '"ca" would have the files of the CA'),
        ("CA", '"CA" would have the files of the CA'),
        ("a/b", '"a/b" cannot be a node ID'),
        ("foo=", '"" is not a DNS name'),
        ("foo=a,,b", '"" is not a DNS name'),
        ("foo=a b", '"a b" is not a DNS name'),
    ],
)
def test_what_is_no_node_is_told(text: str, fault: str) -> None:
    with pytest.raises(Wrong) as caught:
        read_member(text)
    assert str(caught.value).startswith(fault)


def test_a_node_whose_id_is_an_address_is_dialed_by_it() -> None:
    assert Member("10.0.0.7").names.addresses == ("10.0.0.7", "127.0.0.1", "::1")
    assert Member("*.example.org").names.dns_names == ("localhost",)


@pytest.mark.parametrize(("mode", "warned"), [(0o700, 0), (0o755, 0), (0o777, 1)])
def test_a_directory_where_others_can_replace_the_keys_is_warned_of_once(
    tmp_path: Path, person: Scripted, mode: int, warned: int
) -> None:
    directory = tmp_path / "mesh"
    directory.mkdir()
    directory.chmod(mode)
    made(plan(directory, "foo", "bar"), person)
    assert len(person.warned) == warned
    assert all(f'"{directory}" can be written by other users' in text for text in person.warned)
