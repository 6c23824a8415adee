import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
)
from signing_keys import (
    PKCS1,
    PKCS1_PUBLIC,
    PKCS8,
    PKIX,
    new_key,
    private_pem,
    public_pem,
    write_key,
)

from meshnode.errors import UnusableKey
from meshnode.security.keys import (
    LEAST_KEY_BITS,
    MAX_KEY_FILE,
    fingerprint,
    load_private_key,
    load_public_key,
)

OPENSSLS = b"""\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAlax9egTG9vHzjCVvNWZt
R1M1dLxpkWN8L+2Do0aGX4FJoquUpfLhJLWOB17CDki5esRmB0U7EfHRjihWsAcH
ISR/eknSvEnUotLguuBNFqS2cx4wfBAvUELcCaQsH2LVOcAABg8GKA2DyvrdYULe
Ij9aTAGsoM0awIp3+1GAZLEizMWpHbWiOyO9J96Y4zQDxMbG4xWf7dniCYpmb7/v
9k49RvfAZZfktU3WajahFt4lUhSzVy6goiweiT9S0IsjFXNjVdTg18fBSkOfYN2r
1HCUXV1UOOPiJmXu0EY8T7K1NwyVfVBhxnRY814Zs/JDO9nD8YJKZySCiLXdyqSB
pQIDAQAB
-----END PUBLIC KEY-----
"""
"""What ``openssl rsa -pubout`` wrote, and what ``ssh-keygen -l`` said of it."""

SSH_KEYGENS = "SHA256:MKzANuqAkclsEwo1vvKZ8EUfmtTDzFPHeHvnOLVnEbg"

EC_KEY = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key.pem"


def private_refusal(path: Path, pem: bytes) -> str:
    write_key(path, pem)
    with pytest.raises(UnusableKey) as refused:
        load_private_key(path)
    return said(path, refused.value)


def public_refusal(path: Path, pem: bytes) -> str:
    write_key(path, pem)
    with pytest.raises(UnusableKey) as refused:
        load_public_key(path)
    return said(path, refused.value)


def said(path: Path, error: UnusableKey) -> str:
    """Return what is said of the file; nothing of what is in it may be."""
    text = str(error)
    assert text.startswith(f'"{path}" ')
    assert text.isprintable()
    assert "MII" not in text
    return text.removeprefix(f'"{path}" ')


# --- what is taken -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [PKCS1, PKCS8])
def test_private_keys_of_both_forms_are_read(key, path, form):
    write_key(path, private_pem(key, form))
    assert load_private_key(path).private_numbers() == key.private_numbers()


@pytest.mark.parametrize("form", [PKIX, PKCS1_PUBLIC])
def test_public_keys_of_both_forms_are_read(key, path, form):
    write_key(path, public_pem(key, form))
    assert load_public_key(path).public_numbers() == key.public_key().public_numbers()


def test_text_before_the_key_and_line_ends_of_windows_do_no_harm(key, path):
    write_key(path, b"made by me\r\n" + private_pem(key).replace(b"\n", b"\r\n"))
    assert load_private_key(path).private_numbers() == key.private_numbers()


def test_a_fingerprint_is_the_one_that_ssh_keygen_shows(path):
    assert fingerprint(load_public_key(write_key(path, OPENSSLS))) == SSH_KEYGENS


# --- what is refused ---------------------------------------------------------------------------


def test_a_private_key_that_is_not_there_comes_with_the_command_that_makes_it(path):
    with pytest.raises(UnusableKey) as refused:
        load_private_key(path)
    assert str(refused.value) == (
        f'"{path}" does not exist; make a key with: openssl genrsa -out {path} 2048'
    )


def test_a_public_key_that_is_not_there_comes_with_the_command_that_makes_it(path):
    with pytest.raises(UnusableKey) as refused:
        load_public_key(path)
    assert str(refused.value) == (
        f'"{path}" does not exist; make it with: openssl rsa -in PRIVATE.pem -pubout -out {path}'
    )


@pytest.mark.parametrize("load", [load_private_key, load_public_key])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, load):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, reason in ((pipe, "is not a file"), (tmp_path, "is a directory")):
        with pytest.raises(UnusableKey, match=reason):
            load(path)


def test_a_file_that_only_others_may_read_is_refused(path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    # root, as whom tests may run, may read everything.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnusableKey) as refused:
        load_private_key(path)
    assert said(path, refused.value) == "cannot be read by this user: permission denied"


@pytest.mark.parametrize("content", [b"", b"\x30\x82\x04\xa4", b"secret", b"\xff\xfe-----"])
def test_what_is_no_key_is_refused(path, content):
    text = 'holds no key: no line says "-----BEGIN … KEY-----" (PEM)'
    assert private_refusal(path, content) == text
    assert public_refusal(path, content) == text


def test_a_file_larger_than_any_key_is_refused(key, path):
    content = b"\n" * MAX_KEY_FILE + private_pem(key)
    assert private_refusal(path, content) == "holds no key: it has more than 65536 bytes"


def test_a_public_key_cannot_sign(key, path):
    for form in (PKIX, PKCS1_PUBLIC):
        assert private_refusal(path, public_pem(key, form)) == (
            "holds a public key; the private one is needed here, since it signs"
        )


def test_a_private_key_does_not_belong_where_signatures_are_checked(key, path):
    for form in (PKCS1, PKCS8):
        assert public_refusal(path, private_pem(key, form)) == (
            "holds a private key; only its public key belongs here; "
            f"make it with: openssl rsa -in {path} -pubout -out PUBLIC.pem"
        )


def test_a_certificate_is_no_key(path):
    assert private_refusal(path, CERTIFICATE) == (
        "holds a certificate; the private key is needed here"
    )
    assert public_refusal(path, CERTIFICATE).startswith(
        "holds a certificate; its public key is needed here; take it out with: openssl x509 "
    )


def test_a_request_for_a_certificate_is_no_key(path):
    content = CERTIFICATE.replace(b"CERTIFICATE", b"CERTIFICATE REQUEST")
    assert public_refusal(path, content) == "holds a CERTIFICATE REQUEST; a key is needed here"


@pytest.mark.parametrize("form", [PKCS1, PKCS8])
def test_a_private_key_with_a_passphrase_is_refused(key, path, form):
    content = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"pass"))
    assert private_refusal(path, content) == (
        "has a passphrase, for which a node cannot ask; "
        f"store it without: openssl rsa -in {path} -out NEW.pem"
    )


@pytest.mark.parametrize("form", [PKCS1, PKCS8])
def test_a_key_that_is_not_rsa_is_refused(path, form):
    text = (
        "holds a key that is not an RSA key but EC; make one with: openssl genrsa -out NEW.pem 2048"
    )
    assert private_refusal(path, private_pem(EC_KEY, form)) == text
    assert public_refusal(path, public_pem(EC_KEY)) == text


def test_a_key_that_can_be_broken_is_refused(path):
    short = new_key(1024)
    text = (
        "is too short: 1024 bits of at least 2048; make one with: openssl genrsa -out NEW.pem 2048"
    )
    assert private_refusal(path, private_pem(short)) == text
    assert public_refusal(path, public_pem(short)) == text


def test_a_key_that_would_hold_up_the_node_is_refused(path, monkeypatch):
    # A real one takes a minute to make.
    monkeypatch.setattr("meshnode.security.keys.MOST_KEY_BITS", LEAST_KEY_BITS)
    text = public_refusal(path, public_pem(new_key(LEAST_KEY_BITS + 64)))
    assert text.startswith("is too long: 2112 bits of at most 2048; ")


def test_two_keys_in_a_file_are_refused(key, path):
    both = private_pem(key) + public_pem(key)
    assert private_refusal(path, both) == "holds 2 PEM blocks; exactly one is expected"


def test_half_a_key_is_refused(key, path):
    for content in (private_pem(key)[:700], private_pem(key).replace(b"MII", b"XXX")):
        assert private_refusal(path, content) == "is not a complete RSA PRIVATE KEY; copy it again"
    assert (
        public_refusal(path, public_pem(key)[:200]) == "is not a complete PUBLIC KEY; copy it again"
    )
