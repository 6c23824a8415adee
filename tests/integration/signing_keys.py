"""Keys and tokens as openssl, golang-jwt and people with bad intentions make them."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

PKCS1 = PrivateFormat.TraditionalOpenSSL
PKCS8 = PrivateFormat.PKCS8
PKIX = PublicFormat.SubjectPublicKeyInfo
PKCS1_PUBLIC = PublicFormat.PKCS1


def new_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return a new private key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def private_pem(key: Any, form: PrivateFormat = PKCS1) -> bytes:
    """Return what ``openssl genrsa`` writes (PKCS#8 since openssl 3, PKCS#1 before)."""
    return bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))


def public_pem(key: Any, form: PublicFormat = PKIX) -> bytes:
    """Return what ``openssl rsa -pubout`` writes."""
    return bytes(key.public_key().public_bytes(Encoding.PEM, form))


def write_key(path: Path, pem: bytes, mode: int = 0o600) -> Path:
    """Write a key file and return its path."""
    path.write_bytes(pem)
    path.chmod(mode)
    return path


def golang_token(
    key: rsa.RSAPrivateKey, claims: dict[str, Any], header: dict[str, Any] | None = None
) -> str:
    """Return a token byte for byte as golang-jwt makes it, with no help of a library of tokens.

    Its header has its keys in alphabetical order, its claims in that of RegisteredClaims.
    """
    header = {"alg": "RS512", "typ": "JWT"} if header is None else header
    return sign(key, f"{_part(header)}.{_part(claims)}")


def sign(key: rsa.RSAPrivateKey, signed: str) -> str:
    """Return a token with these two parts and a signature with RS512, whatever they say."""
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA512())
    return f"{signed}.{encode(signature)}"


def unsigned_token(claims: dict[str, Any], algorithm: str = "none") -> str:
    """Return a token that says that it needs no signature."""
    return f"{_part({'alg': algorithm, 'typ': 'JWT'})}.{_part(claims)}."


def secret_token(secret: bytes, claims: dict[str, Any]) -> str:
    """Return a token signed with HS512, for instance with a public key's file as the secret."""
    signed = f"{_part({'alg': 'HS512', 'typ': 'JWT'})}.{_part(claims)}"
    signature = hmac.new(secret, signed.encode(), hashlib.sha512).digest()
    return f"{signed}.{encode(signature)}"


def _part(value: object) -> str:
    return encode(json.dumps(value, separators=(",", ":")).encode())


def encode(data: bytes) -> str:
    """Return base64url without padding, as tokens have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Undo :func:`encode`."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
