"""What the directives make, with whom they talk, and what they refuse."""

import datetime
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from scripted_person import NOW, Scripted
from tls_makers import authority, other_authority

from meshnode.certs import issuing
from meshnode.certs.inputs import load_authority, load_request
from meshnode.certs.issuing import Names
from meshnode.certs.tasks import run_all
from meshnode.config import NodeConfig, load_task
from meshnode.config.faults import Unavailable
from meshnode.errors import UnusableCertificate, UnusableKey, UnusableRequest
from meshnode.security.certificates import load_certificates
from meshnode.security.tls import PrivateKey, load_key

Files = Callable[[], dict[str, tuple[int, bytes]]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def do(person: Scripted, *texts: str) -> None:
    task = load_task([word for text in texts for word in text.split()])
    assert not isinstance(task, NodeConfig)
    run_all(task, person.desk())


def refusal(person: Scripted, *texts: str) -> str:
    with pytest.raises(Unavailable) as caught:
        do(person, *texts)
    text = str(caught.value)
    assert "\n" not in text
    return text


INIT = "--cert-init commonname=ca outcert=ca.crt outkey=ca.key"
REQUEST = "--cert-makereq commonname=foo nodeid=foo outreq=foo.csr outkey=foo.key"
SIGN = "--cert-signreq req=foo.csr cacert=ca.crt cakey=ca.key outcert=foo.crt"


def test_the_three_make_a_certificate_that_belongs_to_its_key_and_ca(
    person: Scripted, files: Files
) -> None:
    do(person, INIT)
    do(person, REQUEST, "dnsname=foo.example.org ipaddress=10.0.0.7")
    do(person, SIGN)
    (certificate,) = load_certificates(Path("foo.crt"))
    assert certificate.node_ids == ("foo",)
    assert certificate.dns_names == ("foo.example.org",)
    assert certificate.addresses == ("10.0.0.7",)
    assert certificate.not_before == NOW
    assert certificate.not_after == NOW.replace(year=2027)
    assert load_certificates(Path("ca.crt"))[0].not_after == NOW.replace(year=2036)
    assert load_key(Path("foo.key"))
    # As receptor's: nothing can be read by others.
    assert {mode for mode, _ in files().values()} == {0o600}
    assert person.asked == ["Sign certificate (yes/no)? "]
    assert person.said[4:-1] == [
        "Requested certificate:",
        "  Subject: CN=foo",
        "  Key: ECDSA P-256",
        "  Names:",
        "    Node ID: foo",
        "    DNS name: foo.example.org",
        "    IP address: 10.0.0.7",
        "  Valid: from 2026-11-26 05:00:00 UTC to 2027-11-26 05:00:00 UTC",
    ]


def test_all_of_one_configuration_are_done_in_the_order_in_which_they_can_be(
    person: Scripted, files: Files
) -> None:
    do(person, SIGN, "verify=true", REQUEST, INIT)
    assert set(files()) == {"ca.crt", "ca.key", "foo.csr", "foo.key", "foo.crt"}
    assert person.asked == []


def test_with_bits_keys_are_rsa_and_in_the_form_that_receptor_reads(person: Scripted) -> None:
    do(person, INIT, "bits=2048", REQUEST, "bits=3072", SIGN, "verify=true")
    for name, bits in (("ca", 2048), ("foo", 3072)):
        key = load_key(Path(f"{name}.key"))
        assert isinstance(key, rsa.RSAPrivateKey)
        assert key.key_size == bits
        assert Path(f"{name}.key").read_text().startswith("-----BEGIN RSA PRIVATE KEY-----")


def test_a_request_for_a_key_that_there_is_makes_no_other(person: Scripted, files: Files) -> None:
    do(person, REQUEST)
    before = files()
    do(person, "--cert-makereq commonname=foo nodeid=foo outreq=again.csr inkey=foo.key")
    assert set(files()) - set(before) == {"again.csr"}
    keys = [load_request(Path(name)).value.public_key() for name in ("foo.csr", "again.csr")]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("", "not signed: nobody has answered; to sign unasked: --yes, or verify: true"),
        ("no\n", "not signed: you declined"),
        ("yess\n", "not signed: you declined"),
        ("\n", "not signed: nobody has answered; to sign unasked: --yes, or verify: true"),
    ],
)
def test_without_a_yes_nothing_is_signed(
    answer: str, text: str, person: Scripted, files: Files
) -> None:
    do(person, INIT, REQUEST)
    before = files()
    person.answer = answer
    assert refusal(person, SIGN) == f"command line: cert-signreq: {text}"
    assert files() == before


@pytest.mark.parametrize("answer", ["y\n", "YES\n", " yes \n", "Y"])
def test_a_yes_may_be_written_as_for_receptor(answer: str, person: Scripted) -> None:
    person.answer = answer
    do(person, INIT, REQUEST, SIGN)
    assert Path("foo.crt").exists()


@pytest.mark.parametrize("there", ["ca.crt", "ca.key", "foo.csr", "foo.key", "foo.crt"])
def test_no_file_is_replaced_and_none_is_made_before_one_is_in_the_way(
    there: str, person: Scripted, files: Files
) -> None:
    Path(there).write_text("old")
    before = files()
    text = refusal(person, INIT, REQUEST, SIGN)
    assert text.endswith(
        f'"{there}" is there already; name another file, or replace it by force=true'
    )
    assert files() == before
    forced = (f"{errand} force=true" for errand in (INIT, REQUEST, SIGN))
    do(person, *forced)
    assert b"-----BEGIN" in Path(there).read_bytes()


def test_in_a_file_the_remedy_is_what_can_be_written_there(
    tmp_path: Path, person: Scripted
) -> None:
    file = tmp_path / "certs.yml"
    file.write_text("- cert-init: {commonname: ca, outcert: ca.crt, outkey: ca.key}\n")
    Path("ca.key").touch()
    task = load_task(["-c", str(file)])
    assert not isinstance(task, NodeConfig)
    with pytest.raises(Unavailable) as caught:
        run_all(task, person.desk())
    assert str(caught.value) == (
        f'{file}:1: cert-init: "ca.key" is there already; name another file, '
        "or replace it by force: true"
    )


# --- Dates ---------------------------------------------------------------------------------------


def test_a_certificate_ends_with_its_ca_unless_another_end_is_asked_for(person: Scripted) -> None:
    do(person, INIT, "notafter=2027-02-01T00:00:00Z", REQUEST, SIGN)
    end = datetime.datetime(2027, 2, 1, tzinfo=datetime.UTC)
    assert load_certificates(Path("foo.crt"))[0].not_after == end
    assert person.warned == []
    do(person, SIGN, "force=true notafter=2027-03-01T00:00:00Z")
    assert load_certificates(Path("foo.crt"))[0].not_after == end.replace(month=3)
    assert person.warned == [
        "the CA's own certificate ends at 2027-02-01 00:00:00 UTC, and this one is of no use "
        "after that"
    ]


@pytest.mark.parametrize("errand", [INIT, SIGN])
def test_a_certificate_that_would_end_before_it_begins_is_refused(
    errand: str, person: Scripted
) -> None:
    if errand is SIGN:
        do(person, INIT, REQUEST)
    assert refusal(person, errand, "notafter=2026-01-01T00:00:00Z").endswith(
        ": it would end at 2026-01-01 00:00:00 UTC, before it begins at 2026-11-26 05:00:00 UTC: "
        "give other dates"
    )


# --- What is read --------------------------------------------------------------------------------


def test_the_key_of_a_ca_that_others_can_read_is_warned_of_when_it_signs(person: Scripted) -> None:
    do(person, INIT, REQUEST)
    Path("ca.key").chmod(0o640)
    do(person, SIGN)
    assert person.warned == [
        '"ca.key" can be read by other users (mode 0640); now: chmod 600 ca.key'
    ]


@pytest.mark.parametrize("line", [INIT, REQUEST])
def test_a_key_that_is_made_where_others_can_replace_it_is_warned_of(
    person: Scripted, line: str
) -> None:
    Path().chmod(0o777)
    do(person, line)
    (warning,) = person.warned
    assert f'"{Path().absolute()}" can be written by other users' in warning


def test_a_request_without_names_is_warned_of_and_not_signed(person: Scripted) -> None:
    do(person, INIT, "--cert-makereq commonname=foo outreq=foo.csr outkey=foo.key")
    assert person.warned == ['"foo.csr" names no node, host or address: no CA will sign it']
    assert refusal(person, SIGN).endswith(
        '"foo.csr" names no node, host or address, so no certificate is made of it'
    )
    assert person.asked == []


OTHER_KINDS = [
    x509.RFC822Name("a@example.org"),
    x509.UniformResourceIdentifier("spiffe://x"),
    x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x01x"),
    x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])),
    x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
]


@given(names=st.lists(st.sampled_from(OTHER_KINDS), min_size=1, max_size=3), critical=st.booleans())
def test_names_that_are_not_shown_are_not_signed(
    names: list[x509.GeneralName], critical: bool
) -> None:
    """Whoever says yes must have seen all that they say yes to."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    every = x509.SubjectAlternativeName([*names, x509.DNSName("foo.example.org")])
    signed = builder.add_extension(every, critical).sign(_KEY, issuing.hashes.SHA256())
    Path("odd.csr").write_bytes(issuing.pem(signed))
    request = load_request(Path("odd.csr"))
    assert [*request.lines()][-1] == (
        f"  {len(names)} of other kinds, which the certificate will not have"
    )
    ca = issuing.make_authority(_KEY, "ca", issuing.lasting(None, None, 1, NOW))
    made = issuing.sign_request(request.value, ca, issuing.lasting(None, None, 1, NOW))
    found = made.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [*found.value] == [x509.DNSName("foo.example.org")]
    assert found.critical

    alone = builder.add_extension(x509.SubjectAlternativeName(names), critical)
    with pytest.raises(UnusableRequest, match="names no node, host or address"):
        issuing.sign_request(
            alone.sign(_KEY, issuing.hashes.SHA256()), ca, issuing.lasting(None, None, 1, NOW)
        )


def test_a_request_that_was_changed_is_not_signed(person: Scripted, tmp_path: Path) -> None:
    do(person, INIT, REQUEST)
    request = load_request(Path("foo.csr")).value
    der = request.public_bytes(issuing.Encoding.DER).replace(b"foo", b"bar")
    changed = x509.load_der_x509_csr(der)
    Path("foo.csr").write_bytes(changed.public_bytes(issuing.Encoding.PEM))
    assert refusal(person, SIGN).endswith(
        '"foo.csr" was changed, or not made with the key in it: its signature is wrong'
    )


UNFIT_KEYS = [
    (ec.generate_private_key(ec.SECP256K1()), "has a key of the curve secp256k1; P-256, P-384 and "
     "P-521 are allowed"),
    (ec.generate_private_key(ec.SECP224R1()), "has a key of the curve secp224r1; P-256, P-384 and "
     "P-521 are allowed"),
    (rsa.generate_private_key(65537, 1024), "has an RSA key of 1024 bits; 2048 to 8192 are "
     "allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "text"), UNFIT_KEYS)
def test_a_key_that_no_node_can_use_is_not_signed_asked_for_or_signed_with(
    key: PrivateKey, text: str, person: Scripted, files: Files
) -> None:
    do(person, INIT)
    Path("foo.csr").write_bytes(issuing.pem(issuing.make_request(key, "foo", Names(["foo"]))))
    Path("unfit.key").write_bytes(issuing.key_pem(key))
    Path("unfit.key").chmod(0o600)
    unfit = issuing.make_authority(key, "unfit", issuing.lasting(None, None, 1, NOW))
    Path("unfit.crt").write_bytes(issuing.pem(unfit.certificate))
    before = files()
    assert refusal(person, SIGN).endswith(f'"foo.csr" {text}')
    again = "--cert-makereq commonname=foo nodeid=foo outreq=again.csr inkey=unfit.key"
    assert refusal(person, again).endswith(f'"unfit.key" {text}')
    assert refusal(person, SIGN.replace("ca.", "unfit.")).endswith(f'"unfit.key" {text}')
    assert files() == before


def test_what_others_wrote_into_a_request_cannot_move_the_terminal(person: Scripted) -> None:
    do(person, INIT)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a\x1b[2Jb\nNames: c")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    names = x509.SubjectAlternativeName([x509.DNSName("\x1b[1A"), x509.DNSName("x\ny")])
    builder = builder.add_extension(names, critical=False)
    key = issuing.make_key(None)
    Path("foo.csr").write_bytes(issuing.pem(builder.sign(key, issuing.hashes.SHA256())))
    do(person, SIGN)
    assert all(line.isprintable() for line in person.said)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: None, UnusableCertificate, '"ca.crt" cannot be read: no such file or directory'),
        (
            lambda: authority().issue("foo", nodes=["foo"]).write(Path(), "ca"),
            UnusableCertificate,
            '"ca.crt" holds no CA but CN=foo: it may not sign others',
        ),
        (
            lambda: Path("ca.crt").write_bytes(authority().pem + other_authority().pem),
            UnusableCertificate,
            '"ca.crt" holds 2 certificates; exactly that of the CA is needed here',
        ),
        (
            lambda: [authority().write(Path()), _write_key(other_authority().key)],
            UnusableKey,
            '"ca.key" is not the key of the CA in "ca.crt" (CN=Test CA)',
        ),
        (
            lambda: [authority().write(Path()), _write_key(authority().key, times=2)],
            UnusableKey,
            '"ca.key" holds 2 private keys; exactly one is expected',
        ),
        (
            lambda: authority().write(Path()),
            UnusableKey,
            '"ca.key" does not exist; make one with: meshnode cert init, or meshnode cert request',
        ),
    ],
)
def test_a_ca_that_cannot_sign_is_told_by_its_file(
    make: Callable[[], object], error: type[Exception], text: str
) -> None:
    make()
    with pytest.raises(error) as caught:
        load_authority(Path("ca.crt"), Path("ca.key"))
    assert str(caught.value) == text


def _write_key(key: object, times: int = 1) -> None:
    Path("ca.key").write_bytes(issuing.key_pem(key) * times)  # type: ignore[arg-type]
    Path("ca.key").chmod(0o600)


_serial = itertools.count()


@given(
    st.binary(max_size=200)
    | st.builds(lambda at, byte: _damaged(at, byte), st.integers(0, 10_000), st.integers(0, 255))
)
def test_any_bytes_are_a_request_or_refused_in_a_line(data: bytes) -> None:
    file = Path(f"any-{next(_serial)}.csr")
    file.write_bytes(data)
    try:
        told = [*load_request(file).lines()]
    except UnusableRequest as error:
        told = [str(error)]
    finally:
        file.unlink()
    assert all(line.isprintable() for line in told)


_KEY = issuing.make_key(None)
_DER = issuing.make_request(_KEY, "foo", Names(["foo"], ["foo.example.org"], ["::1"])).public_bytes(
    issuing.Encoding.DER
)


def _damaged(at: int, byte: int) -> bytes:
    """Return a request as PEM of which one byte is another."""
    import base64

    at %= len(_DER)
    der = _DER[:at] + bytes([byte]) + _DER[at + 1 :]
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + text + b"-----END CERTIFICATE REQUEST-----\n"
