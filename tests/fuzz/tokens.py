"""The target ``tokens``: JSON web tokens with any header and claims, signed by anybody."""

import base64
import json
import random
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hostile.forge import Raw, to_json

from fuzz import mutate
from fuzz.engine import Target
from fuzz.functions import FunctionWorld, check_line, must
from meshnode.errors import SignatureRefused
from meshnode.security.tokens import CLOCK_SKEW, Signer, VerificationKey, Verifier

KNOWN, STRANGE, SECRET, NOBODY = "known", "strange", "public key as a secret", "nobody"

NODE = "foo"

LIFETIME = 300.0


@dataclass(frozen=True, slots=True)
class Token:
    """Header and claims as they are written, who signs them, and what becomes of the text."""

    header: bytes
    claims: bytes
    signer: str
    damage: int | None


class TokensWorld(FunctionWorld):
    """A node that knows two keys, and an enemy that has another one, and the public ones."""

    def prepare(self, stack: AsyncExitStack) -> None:
        """Make the keys."""
        known, other, strange = (rsa.generate_private_key(65537, 2048) for _ in range(3))
        self._known, self._strange = known, strange
        keys = (("release", known), ("ops", other))
        self._verifier = Verifier([VerificationKey.of(n, k.public_key()) for n, k in keys], NODE)

    def call(self, item: object) -> None:
        """Verify a token; it must only be taken if one of the keys has made it for this node."""
        assert isinstance(item, Token)
        now = b"%d" % time.time()
        claims = item.claims.replace(b'"@NOW@"', now).replace(b"@EPOCH@", now)
        text = self._signed(item.header, claims, item.signer)
        if item.damage is not None:
            data = mutate.damaged(text.encode(), random.Random(item.damage))
            text = data.decode(errors="surrogateescape")
        try:
            name = self._verifier.verify(text)
        except SignatureRefused as refusal:
            check_line(str(refusal))
            return
        must((name, item.signer) == ("release", KNOWN), f"a token of {item.signer} was taken")
        said = json.loads(claims)
        must(said["exp"] >= time.time() - 2 * CLOCK_SKEW, "an expired token was taken")
        must(said["aud"] == NODE or NODE in said["aud"], "a token for another node was taken")

    def try_good(self) -> None:
        """Verify a good token."""
        must(self._verifier.verify(Signer(self._known, LIFETIME).sign(NODE)) == "release", "good")

    def _signed(self, header: bytes, claims: bytes, signer: str) -> str:
        text = b".".join(map(_encoded, (header, claims)))
        match signer:
            case "known":
                made = self._known.sign(text, padding.PKCS1v15(), hashes.SHA512())
            case "strange":
                made = self._strange.sign(text, padding.PKCS1v15(), hashes.SHA512())
            case "public key as a secret":
                form = PublicFormat.SubjectPublicKeyInfo
                secret = hmac.HMAC(
                    self._known.public_key().public_bytes(Encoding.PEM, form), hashes.SHA512()
                )
                secret.update(text)
                made = secret.finalize()
            case _:
                made = b""
        return (text + b"." + _encoded(made)).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class Tokens(Target):
    """See the module."""

    name = "tokens"
    about = "JSON web tokens with any header and claims, most of them signed by a key of the node's"

    def make(self, chance: random.Random) -> Token:
        """Return one token."""
        header = {"alg": "RS512", "typ": "JWT", "kid": "SHA256:x"}
        claims = {"exp": Raw("9999999999"), "aud": [NODE]}
        if chance.random() < 0.3:
            claims |= {name: Raw('"@NOW@"') for name in ("nbf", "iat")} | {"iss": "x", "jti": "1"}
        if chance.random() < 0.4:
            alg = chance.choice(["none", "HS512", "RS256", "PS512", "rs512", "EdDSA", ""])
            header["alg"] = alg
        if chance.random() < 0.3:
            header |= {"crit": ["b64"], "b64": Raw("false"), "jwk": {}, "zip": "DEF"}
        for fields in (header, claims):
            if chance.random() < 0.7:
                changed = mutate.fields(fields, chance)
                fields.clear()
                fields.update(changed)
        if chance.random() < 0.3:
            claims["aud"] = chance.choice([NODE, Raw("[]"), ["bar", NODE], Raw("[[]]"), None])
        return Token(
            self._written(header, chance),
            self._written(claims, chance),
            chance.choices([KNOWN, STRANGE, SECRET, NOBODY], [7, 1, 1, 1])[0],
            chance.randrange(1 << 30) if chance.random() < 0.15 else None,
        )

    def _written(self, fields: dict[str, object], chance: random.Random) -> bytes:
        if chance.random() < 0.05:
            return chance.choice(mutate.STRUCTURES)[:4000].encode()
        text = to_json(fields)[:5000]
        return mutate.damaged(text, chance) if chance.random() < 0.1 else text

    def world(self) -> AbstractAsyncContextManager[TokensWorld]:
        """Open a world without a mesh."""
        return TokensWorld.open()
