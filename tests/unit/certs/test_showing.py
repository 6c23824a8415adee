"""What is shown of a file, and whether a certificate is found good, as a node would find it."""

import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from tls_makers import CLIENT, DAY, SERVER, Authority, authority, other_authority

from meshnode.certs import issuing
from meshnode.certs.showing import Wanted, describe, verify
from meshnode.errors import MeshnodeError, TlsProblem, TlsRefused, UnusableCertificate, UnusableKey
from meshnode.security.certificates import Usage

NOW = datetime.datetime.now(datetime.UTC)
LATER = NOW + datetime.timedelta(hours=1)
"""After the certificates of a test were made, whatever that took."""


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return authority().write(tmp_path)


def test_a_good_certificate_is_told_in_a_line(tmp_path: Path, ca: Path) -> None:
    file, key = authority().issue("foo", nodes=["foo"]).write(tmp_path, "foo")
    line = verify(file, Wanted(ca, key, "foo", "localhost"), LATER)
    assert line.startswith(
        f"{file}: good as a server's and as a client's; "
        "names node foo, localhost, 127.0.0.1; holds until "
    )
    assert line.endswith("(364 days left)")


@pytest.mark.parametrize(
    ("changes", "wanted", "problem"),
    [
        ({"ends": -DAY / 2}, {}, TlsProblem.EXPIRED),
        ({"begins": DAY}, {}, TlsProblem.NOT_YET_VALID),
        ({}, {"node": "bar"}, TlsProblem.WRONG_NODE),
        ({}, {"host": "bar.example.org"}, TlsProblem.WRONG_NAME),
        ({}, {"host": "10.0.0.8"}, TlsProblem.WRONG_NAME),
        ({"usages": [CLIENT]}, {}, TlsProblem.WRONG_USAGE),
        ({"usages": [SERVER]}, {}, TlsProblem.WRONG_USAGE),
        ({"usages": [SERVER]}, {"usage": Usage.CLIENT}, TlsProblem.WRONG_USAGE),
    ],
)
def test_each_fault_is_told_with_the_file_that_has_it(
    changes: dict[str, object],
    wanted: dict[str, object],
    problem: TlsProblem,
    tmp_path: Path,
    ca: Path,
) -> None:
    file, _ = authority().issue("foo", nodes=["foo"], **changes).write(tmp_path, "foo")
    with pytest.raises(TlsRefused) as caught:
        verify(file, Wanted(ca, **wanted), NOW)  # type: ignore[arg-type]
    assert caught.value.problem is problem
    assert str(caught.value).startswith(f'"{file}" is not good: ')


def test_a_certificate_of_another_ca_is_not_good(tmp_path: Path, ca: Path) -> None:
    file, _ = other_authority().issue("foo").write(tmp_path, "foo")
    with pytest.raises(TlsRefused, match="is not signed by a CA in"):
        verify(file, Wanted(ca), NOW)


def test_only_what_is_asked_for_counts(tmp_path: Path, ca: Path) -> None:
    file, _ = authority().issue("foo", usages=[SERVER]).write(tmp_path, "foo")
    assert ": good as a server's; " in verify(file, Wanted(ca, usage=Usage.SERVER), NOW)


def test_the_certificates_behind_it_lead_to_the_ca(tmp_path: Path, ca: Path) -> None:
    between = Authority("between", above=authority())
    made = between.issue("foo")
    file, _ = made.write(tmp_path, "foo")
    assert ": good " in verify(file, Wanted(ca), NOW)
    file.write_bytes(made.certificate.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(TlsRefused):
        verify(file, Wanted(ca), NOW)


def test_the_key_of_another_certificate_is_found_out(tmp_path: Path, ca: Path) -> None:
    file, _ = authority().issue("foo").write(tmp_path, "foo")
    _, key = authority().issue("bar").write(tmp_path, "bar")
    with pytest.raises(UnusableKey) as caught:
        verify(file, Wanted(ca, key), NOW)
    assert str(caught.value) == f'"{key}" is not the key of the certificate in "{file}"'


def test_a_certificate_that_ends_soon_is_to_be_renewed(tmp_path: Path, ca: Path) -> None:
    file, _ = authority().issue("foo", ends=10 * DAY).write(tmp_path, "foo")
    assert verify(file, Wanted(ca), LATER).endswith("(9 days left; renew it)")


# --- Show ----------------------------------------------------------------------------------------


def test_everything_in_a_file_is_shown_but_the_key_itself(tmp_path: Path) -> None:
    made = authority().issue("foo", nodes=["foo", "bar"], hosts=["h"], addresses=["::1"])
    file = tmp_path / "all.pem"
    file.write_bytes(made.pem + authority().pem + made.key_pem)
    file.chmod(0o600)
    lines = describe(file, NOW)
    assert [line for line in lines if not line.startswith(" ")] == [
        f"{file}: certificate 1 of 2",
        f"{file}: certificate 2 of 2",
        f"{file}: private key",
    ]
    text = "\n".join(lines)
    for shown in ("Node ID:     foo", "Node ID:     bar", "DNS name:    h", "IP address:  ::1"):
        assert f"\n  {shown}\n" in text
    assert "For:         signing others (CA)\n" in text
    secret = made.key.private_numbers().private_value
    assert f"{secret:x}" not in text.replace(":", "").lower()


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [(-DAY, DAY / 2, "less than a day left; renew it"), (-2 * DAY, -DAY, "expired"),
     (DAY, 2 * DAY, "not yet valid")],
)  # fmt: skip
def test_how_long_it_holds_is_told(
    begins: datetime.timedelta, ends: datetime.timedelta, words: str, tmp_path: Path
) -> None:
    file, _ = authority().issue("foo", begins=begins, ends=ends).write(tmp_path, "foo")
    assert any(line.endswith(f"({words})") for line in describe(file, NOW))


def test_fingerprints_are_what_a_pin_takes(tmp_path: Path) -> None:
    made = authority().issue("foo")
    file, _ = made.write(tmp_path, "foo")
    text = "\n".join(describe(file, NOW))
    for algorithm in (issuing.hashes.SHA256(), issuing.hashes.SHA512()):
        assert made.certificate.fingerprint(algorithm).hex(":").upper() in text


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(UnusableCertificate, match='x" holds no certificate, request or private'):
        describe(tmp_path / "x", NOW)
    with pytest.raises(UnusableCertificate, match='y" cannot be read: no such file or directory'):
        describe(tmp_path / "y", NOW)


_PIECES = [b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"MIIB", b"\n",
           b"-----BEGIN CERTIFICATE REQUEST-----\n", b"-----END CERTIFICATE REQUEST-----\n",
           b"-----BEGIN PRIVATE KEY-----\n", b"-----END PRIVATE KEY-----\n", b"=", b"\xff",
           authority().pem]  # fmt: skip


@given(st.lists(st.sampled_from(_PIECES), max_size=6).map(b"".join) | st.binary(max_size=100))
def test_any_bytes_are_shown_or_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.pem"
    file.write_bytes(data)
    try:
        lines = describe(file, NOW)
    except MeshnodeError as error:
        lines = [str(error)]
    assert lines
    assert all(line.isprintable() for line in lines)
