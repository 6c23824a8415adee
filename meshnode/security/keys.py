"""Loads RSA keys from files. A refusal says what is wrong with the file, and the remedy.

They are what ``openssl genrsa`` and ``openssl rsa -pubout`` write, old and new: PKCS#1 and PKCS#8
private keys, PKIX and PKCS#1 public keys (protocol section 8); and what ``ssh-keygen -t rsa``
writes, which receptor takes, too: the private key as PEM, the public one as a line.
"""

import base64
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from meshnode.errors import UnusableKey

LEAST_KEY_BITS: Final = 2048
"""The size of the guide's keys, and the least that is considered safe."""

MOST_KEY_BITS: Final = 8192
"""A signature with such a key takes the node 30 ms; with one twice as long, 200."""

MAX_KEY_FILE: Final = 64 * 1024
"""Bytes of a key file: the longest key has 7 KiB, and openssl may write text before it."""

_BLOCK = re.compile(r"^-----BEGIN ([A-Z0-9 ]{1,40})-----\s*$", re.MULTILINE)
_SSH_KEYS = re.compile(r"^((?:ssh|ecdsa|sk)-[a-z0-9@.-]{1,60})[ \t]+AAAA", re.MULTILINE)
_SSH_LINE = "OpenSSH public key"
_SSH_PRIVATE = "OPENSSH PRIVATE KEY"
_PRIVATE = ("RSA PRIVATE KEY", "PRIVATE KEY", _SSH_PRIVATE)
_PUBLIC = ("PUBLIC KEY", "RSA PUBLIC KEY")


def load_private_key(path: Path) -> rsa.RSAPrivateKey:
    """Return the private key in a file.

    Raises:
        UnusableKey: there is no such key; the text says why, and what to do.
    """
    text = read_pem(path, f"make a key with: openssl genrsa -out {path} {LEAST_KEY_BITS}")
    label = _label(path, text)
    if label in (*_PUBLIC, _SSH_LINE):
        raise _unusable(path, "holds a public key; the private one is needed here, since it signs")
    if label == "CERTIFICATE":
        raise _unusable(path, "holds a certificate; the private key is needed here")
    if label == "ENCRYPTED PRIVATE KEY" or "Proc-Type: 4,ENCRYPTED" in text:
        raise _has_passphrase(path, f"openssl rsa -in {path} -out NEW.pem")
    load = load_ssh_private_key if label == _SSH_PRIVATE else load_pem_private_key
    try:
        key = load(text.encode(), password=None)
    except TypeError:  # only OpenSSH's format does not say so before
        raise _has_passphrase(path, f'ssh-keygen -p -N "" -f {path}') from None
    except UnsupportedAlgorithm:
        raise _not_rsa(path) from None
    except ValueError:
        raise _unusable(path, f"is not a complete {label}; copy it again") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _not_rsa(path, _algorithm(key))
    _check_size(path, key.key_size)
    return key


def load_public_key(path: Path) -> rsa.RSAPublicKey:
    """Return the public key in a file.

    Raises:
        UnusableKey: there is no such key; the text says why, and what to do.
    """
    text = read_pem(path, f"make it with: openssl rsa -in PRIVATE.pem -pubout -out {path}")
    label = _label(path, text)
    if label.endswith("PRIVATE KEY"):
        command = f"openssl rsa -in {path} -pubout -out PUBLIC.pem"
        if label == _SSH_PRIVATE:
            command = f"ssh-keygen -y -f {path} > PUBLIC.pub"
        remedy = f"make it with: {command}"
        raise _unusable(path, f"holds a private key; only its public key belongs here; {remedy}")
    if label == "CERTIFICATE":
        remedy = f"take it out with: openssl x509 -in {path} -pubkey -noout -out PUBLIC.pem"
        raise _unusable(path, f"holds a certificate; its public key is needed here; {remedy}")
    load = load_ssh_public_key if label == _SSH_LINE else load_pem_public_key
    try:
        key = load(text.strip().encode())
    except UnsupportedAlgorithm:
        raise _not_rsa(path) from None
    except ValueError:
        raise _unusable(path, f"is not a complete {label}; copy it again") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise _not_rsa(path, _algorithm(key))
    _check_size(path, key.key_size)
    return key


def fingerprint(key: rsa.RSAPublicKey) -> str:
    """Return what tells a key from others: ``SHA256:…``, as ``ssh-keygen -l`` shows it.

    It is the digest of the public key as OpenSSH encodes it, so it is the same for a private key
    and its public one, in whatever form their files are.
    """
    _, _, blob = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).partition(b" ")
    digest = hashlib.sha256(base64.b64decode(blob)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def read_pem(path: Path, remedy: str) -> str:
    """Return a file's text; ``remedy`` is for a missing file. Raises UnusableKey."""
    try:
        # O_NONBLOCK: opening a named pipe that nobody writes to would not return.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _unusable(path, "is not a file")
            data = file.read(MAX_KEY_FILE + 1)
    except FileNotFoundError:
        raise _unusable(path, f"does not exist; {remedy}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _unusable(path, f"cannot be read by this user: {reason}") from error
    if len(data) > MAX_KEY_FILE:
        raise _unusable(path, f"holds no key: it has more than {MAX_KEY_FILE} bytes")
    # Bytes that are not ASCII are no PEM, and are refused as such.
    return data.decode("ascii", "replace")


def _label(path: Path, text: str) -> str:
    """Return the kind of the one key in a file: what its PEM block says, or ``_SSH_LINE``."""
    if text.startswith("---- BEGIN SSH2 "):
        remedy = f"convert it with: ssh-keygen -i -f {path} > PUBLIC.pub"
        raise _unusable(path, f"holds a public key in the format of SSH2 (RFC 4716); {remedy}")
    if text.startswith("PuTTY-User-Key-File-"):
        remedy = f"convert it with: puttygen {path} -O private-openssh -o NEW.pem"
        raise _unusable(path, f"holds a key in the format of PuTTY; {remedy}")
    labels = _BLOCK.findall(text)
    if not labels and (lines := _SSH_KEYS.findall(text)):
        return _label_of_lines(path, lines)
    if not labels:
        raise _unusable(path, 'holds no key: no line says "-----BEGIN … KEY-----" (PEM)')
    if other := next((label for label in labels if label.startswith(("EC ", "DSA "))), None):
        raise _not_rsa(path, other.split()[0])
    if len(labels) > 1:
        raise _unusable(path, f"holds {len(labels)} PEM blocks; exactly one is expected")
    label = str(labels[0])
    if label not in (*_PRIVATE, *_PUBLIC, "ENCRYPTED PRIVATE KEY", "CERTIFICATE"):
        raise _unusable(path, f"holds a {label}; a key is needed here")
    return label


def _label_of_lines(path: Path, algorithms: list[str]) -> str:
    """Return the kind of what is in a file with a line of OpenSSH for each public key."""
    if len(algorithms) > 1:
        raise _unusable(path, f"holds {len(algorithms)} OpenSSH keys; exactly one is expected")
    if "-cert-" in algorithms[0]:
        raise _unusable(path, "holds an OpenSSH certificate; the key that it is for is needed here")
    if algorithms[0] != "ssh-rsa":
        raise _not_rsa(path, algorithms[0])
    return _SSH_LINE


def _check_size(path: Path, bits: int) -> None:
    remedy = f"make one with: openssl genrsa -out NEW.pem {LEAST_KEY_BITS}"
    if bits < LEAST_KEY_BITS:
        raise _unusable(path, f"is too short: {bits} bits of at least {LEAST_KEY_BITS}; {remedy}")
    if bits > MOST_KEY_BITS:
        raise _unusable(path, f"is too long: {bits} bits of at most {MOST_KEY_BITS}; {remedy}")


def _has_passphrase(path: Path, command: str) -> UnusableKey:
    text = f"has a passphrase, for which a node cannot ask; store it without: {command}"
    return _unusable(path, text)


def _algorithm(key: object) -> str:
    """Return the name of a key's algorithm: ``Ed25519``."""
    return type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey")


def _not_rsa(path: Path, algorithm: str = "") -> UnusableKey:
    named = f" but {algorithm}" if algorithm else ""
    remedy = f"make one with: openssl genrsa -out NEW.pem {LEAST_KEY_BITS}"
    return _unusable(path, f"holds a key that is not an RSA key{named}; {remedy}")


def _unusable(path: Path, text: str) -> UnusableKey:
    return UnusableKey(f'"{path}" {text}')
