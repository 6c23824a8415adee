"""What is made says what was asked for, and nothing else."""

import datetime
import ipaddress

import pytest
from any_names import addresses, dns_names, node_ids
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from meshnode.certs import issuing
from meshnode.certs.issuing import LAST, Names, Validity
from meshnode.errors import UnusableRequest
from meshnode.security.certificates import Usage, decode_certificate
from meshnode.security.tls import PrivateKey

NOW = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)
YEAR = Validity(NOW, issuing.years_after(NOW, 1))

KEYS: list[PrivateKey] = [
    issuing.make_key(None),
    issuing.make_key(2048),
    ec.generate_private_key(ec.SECP384R1()),
    ec.generate_private_key(ec.SECP521R1()),
    ed25519.Ed25519PrivateKey.generate(),
]
CA = issuing.make_authority(KEYS[0], "the CA", YEAR)

moments = st.datetimes(
    datetime.datetime(1950, 1, 1), datetime.datetime(9999, 12, 31), timezones=st.just(datetime.UTC)
)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(issuing.Encoding.DER)


@given(
    nodes=st.lists(node_ids, max_size=3),
    hosts=st.lists(dns_names, max_size=3),
    ips=st.lists(addresses, max_size=3),
)
def test_any_names_come_out_of_a_signed_request_as_they_went_in(
    nodes: list[str], hosts: list[str], ips: list[str]
) -> None:
    names = Names(nodes, hosts, ips)
    request = issuing.make_request(KEYS[0], "x", names)
    if not names:
        with pytest.raises(UnusableRequest, match="names no node, host or address"):
            issuing.sign_request(request, CA, YEAR)
        return
    made = decode_certificate(der(issuing.sign_request(request, CA, YEAR)))
    assert made.node_ids == tuple(nodes)
    assert made.dns_names == tuple(hosts)
    assert made.addresses == tuple(str(ipaddress.ip_address(ip)) for ip in ips)
    assert (made.usages, made.is_ca) == (frozenset(Usage), False)
    assert (made.not_before, made.not_after) == (YEAR.begins, YEAR.ends)


@pytest.mark.parametrize("of", KEYS, ids=issuing.key_words)
@pytest.mark.parametrize("by", KEYS, ids=issuing.key_words)
def test_keys_of_every_kind_sign_keys_of_every_kind(by: PrivateKey, of: PrivateKey) -> None:
    authority = issuing.make_authority(by, "a CA", YEAR)
    request = issuing.make_request(of, "foo", Names(["foo"]))
    assert request.is_signature_valid
    made = issuing.sign_request(request, authority, YEAR)
    made.verify_directly_issued_by(authority.certificate)
    assert made.public_key() == of.public_key()


@pytest.mark.parametrize(
    ("key", "algorithm"), [*zip(KEYS, ["sha256", "sha256", "sha384", "sha512", None], strict=True)]
)
def test_what_is_signed_of_is_as_strong_as_the_key(key: PrivateKey, algorithm: str | None) -> None:
    authority = issuing.make_authority(key, "a CA", YEAR)
    request = issuing.make_request(key, "foo", Names(["foo"]))
    for made in (authority.certificate, request, issuing.sign_request(request, authority, YEAR)):
        used = made.signature_hash_algorithm
        assert (used.name if used else None) == algorithm


def test_a_new_key_is_of_the_kind_that_was_asked_for() -> None:
    assert [issuing.key_words(key) for key in KEYS] == [
        "ECDSA P-256",
        "RSA, 2048 bits",
        "ECDSA P-384",
        "ECDSA P-521",
        "Ed25519",
    ]
    assert isinstance(KEYS[1], rsa.RSAPrivateKey)


def test_a_request_that_asks_to_be_a_ca_becomes_none() -> None:
    key = KEYS[0]
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
    for extension in (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("x")]),
        x509.KeyUsage(False, False, False, False, False, True, True, False, False),
    ):
        builder = builder.add_extension(extension, critical=True)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    made = issuing.sign_request(builder.sign(key, hashes.SHA256()), CA, YEAR)
    extensions = made.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign) == (True, False)


def test_no_two_certificates_have_the_same_number() -> None:
    request = issuing.make_request(KEYS[0], "foo", Names(["foo"]))
    made = [issuing.sign_request(request, CA, YEAR) for _ in range(20)]
    assert len({certificate.serial_number for certificate in made}) == 20


@given(begins=st.none() | moments, years=st.integers(1, 10), now=moments)
def test_without_an_end_a_certificate_holds_for_its_years_or_as_long_as_there_are_any(
    begins: datetime.datetime | None, years: int, now: datetime.datetime
) -> None:
    validity = issuing.lasting(begins, None, years, now)
    assert validity.begins == (begins or now)
    start = max(validity.begins, now)
    if start.year + years >= 9999:
        assert validity.ends == LAST
    else:
        assert validity.ends.year - start.year == years
        assert validity.ends.month - start.month in {0, 1}


@given(moment=moments, days=st.integers(1, 36500))
@example(moment=LAST - datetime.timedelta(1), days=2)
@example(moment=LAST - datetime.timedelta(1), days=1)
def test_days_are_added_up_to_the_last_moment_that_there_is(
    moment: datetime.datetime, days: int
) -> None:
    later = issuing.days_after(moment, days)
    assert later == LAST or later - moment == datetime.timedelta(days)


@given(st.text(min_size=1, max_size=300).filter(str.isprintable))
def test_any_name_has_a_beginning_that_is_a_common_name(name: str) -> None:
    issuing.make_request(KEYS[0], issuing.shortened(name), Names(["foo"]))
