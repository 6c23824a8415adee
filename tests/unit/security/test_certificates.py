"""Certificates as values: what they say, and that any bytes are decoded or refused."""

import datetime
import hashlib
import random
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from tls_makers import CLIENT, SERVER, authority, other_authority

from meshnode.errors import UnusableCertificate
from meshnode.security.certificates import (
    MAX_CERTIFICATE,
    NODE_ID_OID,
    Certificate,
    Usage,
    decode_bundle,
    decode_certificate,
    fingerprint,
    load_certificates,
)

DER = Encoding.DER
KEY = ec.generate_private_key(ec.SECP256R1())

MUTATIONS = 3_000
"""Changed certificates in a run: about a second."""


def test_a_certificate_names_its_nodes_hosts_and_addresses() -> None:
    made = authority().issue(
        "foo", nodes=["foo", "föö.example"], hosts=["a.example"], addresses=["::1", "10.0.0.7"]
    )
    found = decode_certificate(made.der)
    assert found.node_ids == ("foo", "föö.example")
    assert found.dns_names == ("a.example",)
    assert found.addresses == ("::1", "10.0.0.7")
    assert found.subject == "CN=foo"
    assert found.issuer == "CN=Test CA"
    assert not found.is_ca
    assert found.names == "node foo, node föö.example, a.example, ::1, 10.0.0.7"


def test_a_certificate_without_names_says_so() -> None:
    found = decode_certificate(authority().issue("foo", hosts=[], addresses=[]).der)
    assert (found.node_ids, found.dns_names, found.addresses) == ((), (), ())
    assert found.names == "none"


@given(st.integers(0, 14), st.text("ab", min_size=1, max_size=64))
@settings(max_examples=30, deadline=None)
def test_subjects_that_differ_anywhere_are_told_apart_or_refused(units: int, last: str) -> None:
    def subject(end: str) -> str:
        organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, end)]
        middle = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "u" * 64)] * units
        request = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([*organisations, *middle]))
            .issuer_name(x509.Name([]))
            .public_key(KEY.public_key())
            .serial_number(1)
            .not_valid_before(datetime.datetime(2020, 1, 1))
            .not_valid_after(datetime.datetime(2030, 1, 1))
        )
        return decode_certificate(request.sign(KEY, hashes.SHA256()).public_bytes(DER)).subject

    assert subject(last) != subject("c")
    assert subject(last).endswith(f"O={last}")


def test_a_subject_beyond_the_bound_makes_a_certificate_unusable() -> None:
    long = authority().issue("x" * 64)
    assert decode_certificate(long.der).subject == f"CN={'x' * 64}"
    many = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "u" * 64)] * 20)
    builder = x509.CertificateBuilder(many, many, KEY.public_key(), 1)
    builder = builder.not_valid_before(datetime.datetime(2020, 1, 1))
    builder = builder.not_valid_after(datetime.datetime(2030, 1, 1))
    with pytest.raises(UnusableCertificate, match="subject"):
        decode_certificate(builder.sign(KEY, hashes.SHA256()).public_bytes(DER))


def test_the_dates_and_fingerprints_are_those_of_the_certificate() -> None:
    made = authority().issue("foo")
    found = decode_certificate(made.der)
    assert found.not_before == made.certificate.not_valid_before_utc
    assert found.not_after == made.certificate.not_valid_after_utc
    assert found.sha256 == hashlib.sha256(made.der).digest()
    assert found.sha512 == hashlib.sha512(made.der).digest()


@pytest.mark.parametrize(
    ("usages", "may"),
    [
        (None, set(Usage)),
        ([SERVER], {Usage.SERVER}),
        ([CLIENT], {Usage.CLIENT}),
        ([x509.ObjectIdentifier("1.2.3")], set()),
        ([x509.ObjectIdentifier("2.5.29.37.0")], set(Usage)),
    ],
)
def test_a_certificate_says_what_it_may_be_used_for(usages: object, may: set[Usage]) -> None:
    found = decode_certificate(authority().issue("foo", usages=usages).der)
    assert {usage for usage in Usage if found.may_be(usage)} == may


def test_the_certificate_of_a_ca_says_that_it_is_one() -> None:
    assert decode_bundle(authority().pem)[0].is_ca


def test_openssl_finds_the_same_names_and_fingerprint(tmp_path: Path) -> None:
    made = authority().issue("foo", nodes=["foo-node"])
    path, _ = made.write(tmp_path, "foo")
    command = ["openssl", "x509", "-in", path, "-noout", "-text", "-fingerprint", "-sha256"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "foo-node" in shown
    assert fingerprint(decode_certificate(made.der).sha256) in shown


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255))
@settings(max_examples=50, deadline=None)
def test_any_node_id_comes_back_as_it_was_put_in(node: str) -> None:
    assert decode_certificate(authority().issue("foo", nodes=[node]).der).node_ids == (node,)


@pytest.mark.parametrize(
    "value",
    [b"\x0c\x04foo", b"\x0c\x02foo", b"\x16\x03foo", b"\x0c\x03\xff\xfeo", b"\x0c\x81\x02fo"],
)
def test_a_malformed_node_id_makes_a_certificate_unusable(value: bytes) -> None:
    whole = authority().issue("bar", nodes=["foo"]).der
    assert whole.count(b"\x0c\x03foo") == 1
    with pytest.raises(UnusableCertificate):
        decode_certificate(whole.replace(b"\x0c\x03foo", value))


def test_an_empty_node_id_makes_a_certificate_unusable() -> None:
    other = x509.OtherName(NODE_ID_OID, b"\x0c\x00")
    with pytest.raises(UnusableCertificate):
        decode_certificate(authority().issue("foo", extra_names=[other]).der)


def test_other_names_of_other_kinds_are_no_node_ids() -> None:
    other = x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), b"\x0c\x03foo")
    found = decode_certificate(authority().issue("foo", extra_names=[other]).der)
    assert found.node_ids == ()


def decoded(der: bytes) -> Certificate | None:
    """Return what bytes are decoded to; anything but UnusableCertificate is the test's failure."""
    try:
        return decode_certificate(der)
    except UnusableCertificate as error:
        text = str(error)
        assert text.isprintable()
        assert len(text) < 300
        return None


@given(st.binary(max_size=600))
@settings(max_examples=300)
def test_any_bytes_are_a_certificate_or_unusable(data: bytes) -> None:
    decoded(data)


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_any_text_is_a_bundle_or_unusable(data: bytes) -> None:
    for text in (data, b"-----BEGIN CERTIFICATE-----\n" + data, _PEM[:-40] + data):
        with pytest.raises(UnusableCertificate):
            decode_bundle(text)


_PEM = authority().issue("foo", nodes=["foo"]).pem


def test_each_certificate_that_is_nearly_right_is_decoded_or_unusable() -> None:
    rng = random.Random(12)
    whole = authority().issue("foo", nodes=["foo", "bar"]).der
    survivors = 0
    for _ in range(MUTATIONS):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(changed))
            match rng.randrange(3):
                case 0:
                    changed[at] = rng.randrange(256)
                case 1:
                    changed[at] ^= 1 << rng.randrange(8)
                case _:
                    del changed[at : at + rng.randint(1, 4)]
        survivors += decoded(bytes(changed)) is not None
    # Half of a certificate are bytes in which any change gives another certificate.
    assert survivors > MUTATIONS / 10


def test_a_certificate_beyond_the_bound_is_refused() -> None:
    with pytest.raises(UnusableCertificate, match="of at most"):
        decode_certificate(bytes(MAX_CERTIFICATE + 1))


def test_a_file_has_all_its_certificates_in_order(tmp_path: Path) -> None:
    path = tmp_path / "chain.pem"
    path.write_bytes(b"Bag Attributes\n" + authority().issue("foo").pem + authority().pem)
    assert [c.subject for c in load_certificates(path)] == ["CN=foo", "CN=Test CA"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"", "BEGIN CERTIFICATE"), (_PEM[:200], "within a block")],
)
def test_a_file_without_a_certificate_is_named_with_what_is_wrong(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "foo.crt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableCertificate, match=words) as caught:
        load_certificates(path)
    assert str(path) in str(caught.value)


def test_a_text_that_was_cut_anywhere_is_refused_or_holds_whole_certificates_to_its_end() -> None:
    first, second = authority().pem, other_authority().pem
    whole = b"The first:\n" + first + b"The second:\n" + second
    border = whole.index(second)
    for cut in range(len(whole)):
        try:
            found = decode_bundle(whole[:cut])
        except UnusableCertificate:
            continue
        # Of what ends before the second one began nobody can say that it was cut.
        one = cut <= border
        assert len(found) == (1 if one else 2), cut
        assert whole[:cut].rstrip().endswith(b"-----") or one


def test_a_key_in_the_same_file_as_its_certificate_is_no_cut() -> None:
    made = authority().issue("foo", nodes=["foo"])
    assert len(decode_bundle(made.pem + made.key_pem)) == 1
    assert len(decode_bundle(made.key_pem + made.pem)) == 1
    with pytest.raises(UnusableCertificate, match="ends within a block"):
        decode_bundle(made.pem + made.key_pem[:50])
