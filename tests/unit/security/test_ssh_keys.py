"""Keys in the formats of OpenSSH, as receptor takes them too, and what is said of others."""

import shutil
import subprocess
from pathlib import Path

import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from signing_keys import new_key, private_pem, write_key

from meshnode.errors import UnusableKey
from meshnode.security.keys import load_private_key, load_public_key

OPENSSH = PrivateFormat.OpenSSH
KEY = new_key()
LOADERS = pytest.mark.parametrize("load", [load_private_key, load_public_key])
NEEDS_OPENSSH = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
REMEDY = "make one with: openssl genrsa -out NEW.pem 2048"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key"


def public_line(key: object) -> bytes:
    """Return what is in the file NAME.pub of ssh-keygen."""
    public = key.public_key()  # type: ignore[attr-defined]
    return bytes(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)) + b" who@where\n"


def refusal(load, path: Path, content: bytes) -> str:
    write_key(path, content)
    with pytest.raises(UnusableKey) as refused:
        load(path)
    return str(refused.value).removeprefix(f'"{path}" ')


def ssh_keygen(path: Path, passphrase: str) -> None:
    """Have OpenSSH make a private key, and the public one at NAME.pub."""
    command = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True)


@NEEDS_OPENSSH
def test_what_ssh_keygen_writes_is_read(path):
    ssh_keygen(path, "")
    private = load_private_key(path)
    public = load_public_key(path.with_suffix(".pub"))
    assert public.public_numbers() == private.public_key().public_numbers()


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_both_formats_are_read_with_any_line_ends(path, ends):
    write_key(path, private_pem(KEY, OPENSSH).replace(b"\n", ends))
    assert load_private_key(path).private_numbers() == KEY.private_numbers()
    write_key(path, b"\n" + public_line(KEY).replace(b"\n", ends))
    assert load_public_key(path).public_numbers() == KEY.public_key().public_numbers()


@NEEDS_OPENSSH
def test_a_key_with_a_passphrase_comes_with_the_command_that_removes_it(path):
    ssh_keygen(path, "secret")
    assert refusal(load_private_key, path, path.read_bytes()) == (
        "has a passphrase, for which a node cannot ask; "
        f'store it without: ssh-keygen -p -N "" -f {path}'
    )


OTHERS = {
    "Ed25519": (ed25519.Ed25519PrivateKey.generate(), "Ed25519", "ssh-ed25519"),
    "EC": (ec.generate_private_key(ec.SECP256R1()), "EC", "ecdsa-sha2-nistp256"),
}


@pytest.mark.parametrize(("key", "name", "ssh_name"), OTHERS.values(), ids=OTHERS)
def test_a_key_of_another_algorithm_is_called_by_it(path, key, name, ssh_name):
    text = "holds a key that is not an RSA key but {}; " + REMEDY
    for form in (OPENSSH, PrivateFormat.PKCS8):
        content = key.private_bytes(Encoding.PEM, form, NoEncryption())
        assert refusal(load_private_key, path, content) == text.format(name)
    assert refusal(load_public_key, path, public_line(key)) == text.format(ssh_name)


def test_a_dsa_key_is_called_so(path):
    content = private_pem(dsa.generate_private_key(2048))
    assert refusal(load_private_key, path, content).startswith(
        "holds a key that is not an RSA key but DSA; "
    )


def test_each_key_belongs_in_its_own_place(path):
    assert refusal(load_private_key, path, public_line(KEY)) == (
        "holds a public key; the private one is needed here, since it signs"
    )
    assert refusal(load_public_key, path, private_pem(KEY, OPENSSH)) == (
        "holds a private key; only its public key belongs here; "
        f"make it with: ssh-keygen -y -f {path} > PUBLIC.pub"
    )


@LOADERS
def test_formats_that_are_not_read_are_called_by_name_with_the_command_that_converts(path, load):
    ssh2 = b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----\n"
    assert refusal(load, path, ssh2) == (
        "holds a public key in the format of SSH2 (RFC 4716); "
        f"convert it with: ssh-keygen -i -f {path} > PUBLIC.pub"
    )
    putty = b"PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\n"
    assert refusal(load, path, putty).startswith(
        f"holds a key in the format of PuTTY; convert it with: puttygen {path} "
    )


@LOADERS
def test_several_keys_and_certificates_are_refused(path, load):
    line = public_line(KEY)
    assert refusal(load, path, line + line) == "holds 2 OpenSSH keys; exactly one is expected"
    certificate = line.replace(b"ssh-rsa ", b"ssh-rsa-cert-v01@openssh.com ")
    assert refusal(load, path, certificate).startswith("holds an OpenSSH certificate; ")


@given(st.sampled_from([private_pem(KEY, OPENSSH), public_line(KEY)]), st.data())
def test_whatever_is_done_to_a_key_it_is_read_or_refused(tmp_path_factory, content, data):
    path = tmp_path_factory.getbasetemp() / "spoiled"
    at = data.draw(st.integers(0, len(content)))
    put = data.draw(st.binary(max_size=3) | st.sampled_from([b"\n", b"=", b"AAAA"]))
    write_key(path, content[:at] + put + content[data.draw(st.integers(at, len(content))) :])
    for load in (load_private_key, load_public_key):
        try:
            assert load(path).key_size == 2048
        except UnusableKey as error:
            assert str(error).isprintable()  # noqa: PT017 - either is right
