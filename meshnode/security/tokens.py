"""Signatures of work: JSON web tokens as receptor makes and takes them (protocol section 8).

A token is signed with RS512 and says until when it holds (``exp``) and for which node (``aud``).
It does not say for which command: whoever has one may use it until it expires. Ours name the key
that made them (``kid``), which receptor does not look at. Nothing is decided by that: it serves to
try that key first, and to say which one it was if this node does not have it.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from typing import Any, Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from meshnode.config.directives import NodeConfig
from meshnode.config.faults import ConfigFaults, Fault
from meshnode.errors import SignatureProblem, SignatureRefused, UnusableKey
from meshnode.protocol.times import format_duration
from meshnode.security.keys import fingerprint, load_private_key, load_public_key

ALGORITHM: Final = "RS512"
"""The only algorithm. If the header of a token could choose, anybody could make tokens with the
public key as the secret of HS512."""

CLOCK_SKEW: Final = 60.0
"""Seconds by which two nodes' clocks may differ, before and after a token's time. receptor gives
none."""

MAX_TOKEN: Final = 8 * 1024
"""Characters of a token; with a key of 8192 bits it has 1,500, most of them the signature."""

MAX_TIME: Final = 253402300799
"""The end of the year 9999, in seconds since 1970; a later time is refused."""

_MAX_QUOTED: Final = 60
"""Characters of a token's own text that a refusal repeats."""

_MOST_TOLD: Final = 4
"""Keys that a refusal names."""

Now = Callable[[], float]
"""Returns the seconds since 1970."""


class Signer:
    """Signs what this node asks of others."""

    def __init__(self, key: rsa.RSAPrivateKey, lifetime: float, now: Now = time.time) -> None:
        self._key = key
        self._lifetime = lifetime
        self._now = now
        self._headers = {"kid": fingerprint(key.public_key())}

    def __eq__(self, other: object) -> bool:
        """Whether the other one signs with the same key, for the same time."""
        if not isinstance(other, Signer):
            return NotImplemented
        numbers = self._key.public_key().public_numbers()
        return (numbers, self._lifetime) == (
            other._key.public_key().public_numbers(),
            other._lifetime,
        )

    def sign(self, node: str) -> str:
        """Return a token for ``node``, which holds for ``lifetime`` seconds from now.

        It computes for a millisecond or two with keys of the usual length.
        """
        claims = {"exp": ceil(self._now() + self._lifetime), "aud": [node]}
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers=self._headers)

    def __str__(self) -> str:
        return self._headers["kid"]


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, and what it is called here."""

    name: str
    fingerprint: str
    key: rsa.RSAPublicKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, name: str, key: rsa.RSAPublicKey) -> Self:
        """Return a key with its fingerprint."""
        return cls(name, fingerprint(key), key)

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint})"


class Verifier:
    """Checks what others ask of this node: one of its keys must have signed it."""

    def __init__(self, keys: Sequence[VerificationKey], node_id: str, now: Now = time.time) -> None:
        self._keys = tuple(keys)
        self._node_id = node_id
        self._now = now

    def __eq__(self, other: object) -> bool:
        """Whether the other one checks with the same keys, by the same names."""
        if not isinstance(other, Verifier):
            return NotImplemented
        return self._keys == other._keys

    def __str__(self) -> str:
        return ", ".join(map(str, self._keys))

    def verify(self, token: str) -> str:
        """Return the name of the key that made a token, if it is for this node and still holds.

        Raises:
            SignatureRefused: with the reason, which is another for each thing that can be wrong.
        """
        if not token:
            raise _refused("signature is empty", SignatureProblem.MISSING)
        if len(token) > MAX_TOKEN:
            raise _refused(f"token is malformed: it has more than {MAX_TOKEN} characters")
        try:
            header = jwt.get_unverified_header(token)
            _check_algorithm(header.get("alg"))
            key, claims = self._decode(token, header.get("kid"))
        except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
            raise _refused(f"token is malformed: {_shown(str(error))}") from None
        self._check_times(claims)
        self._check_audience(claims.get("aud"))
        return key.name

    def _decode(self, token: str, named: str | None) -> tuple[VerificationKey, dict[str, Any]]:
        """Return the key that made a token, and its claims, which the caller checks.

        pyjwt would use a clock of its own, and accept a token that lacks a claim.

        Args:
            token: what came.
            named: the fingerprint of the key that the token says has made it.
        """
        checks = dict.fromkeys(("exp", "nbf", "iat", "aud", "iss", "sub", "jti"), False)
        options: Any = {f"verify_{claim}": wanted for claim, wanted in checks.items()}
        for key in sorted(self._keys, key=lambda key: key.fingerprint != named):
            try:
                return key, jwt.decode(token, key.key, algorithms=[ALGORITHM], options=options)
            except jwt.InvalidSignatureError:
                continue
        text = f"crypto/rsa: verification error: {self._why_none(named)}"
        raise _refused(text, SignatureProblem.WRONG_KEY)

    def _why_none(self, named: str | None) -> str:
        """Say why no key here has made a token. What it says itself is not proved."""
        own = next((key for key in self._keys if key.fingerprint == named), None)
        if own is not None:
            return f"token was changed: it names the key {own}, whose signature it does not have"
        rest = len(self._keys) - _MOST_TOLD
        told = ", ".join(map(str, self._keys[:_MOST_TOLD])) + (f" and {rest} more" * (rest > 0))
        if named is not None:
            return f"token is signed with the key {_shown(named)}, and this node has {told}"
        return (
            "token was changed, or not made with the private key of this node's public key "
            f"{told}; it does not say which key made it"
        )

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._now()
        if "exp" not in claims:
            raise _refused("token has no expiration time (exp)")
        end = _time_of(claims, "exp")
        if now - end >= CLOCK_SKEW:
            late = format_duration(round(now - end) * 10**9)
            text = f"token is expired by {late}: it held {_times('until', end, now)}"
            raise _refused(text, SignatureProblem.EXPIRED)
        for claim in ("nbf", "iat"):
            if claim in claims and (begin := _time_of(claims, claim)) - now > CLOCK_SKEW:
                text = f"token is not valid yet ({claim}): it holds {_times('from', begin, now)}"
                raise _refused(text, SignatureProblem.NOT_YET_VALID)

    def _check_audience(self, audience: object) -> None:
        """receptor writes a list; the standard allows one text as well."""
        names = audience if isinstance(audience, list) else [audience]
        if self._node_id not in names:
            # The signer chose this text, and may have made it long.
            shown = "nobody" if audience is None else _shown(", ".join(map(str, names)))
            raise SignatureRefused(
                f"token audience did not match node ID: it is signed for {shown}, "
                f"this is {self._node_id}",
                SignatureProblem.WRONG_NODE,
            )


def _check_algorithm(name: object) -> None:
    if name == ALGORITHM:
        return
    if isinstance(name, str) and name.lower() == "none":
        raise _refused(f'token is not signed (algorithm "none"); {ALGORITHM} is needed')
    if isinstance(name, str) and name.startswith("HS"):
        raise _refused(
            f"token is signed with a shared secret ({_shown(name)}), not with a private key; "
            f"{ALGORITHM} is needed"
        )
    raise _refused(
        f"token is signed with the algorithm {_shown(json.dumps(name))}; {ALGORITHM} is needed"
    )


def _time_of(claims: dict[str, Any], claim: str) -> float:
    value = claims[claim]
    # Written so that NaN, which json reads, is none either.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_TIME:
        return value
    raise _refused(f"token is malformed: {claim} is no time")


def _times(word: str, token: float, now: float) -> str:
    """Return a token's time beside this node's: a difference may be that of the clocks."""
    return f"{word} {_utc(token)}, and here it is {_utc(now)}; check the clocks of both nodes"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shown(text: str) -> str:
    text = text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _refused(
    reason: str, problem: SignatureProblem = SignatureProblem.MALFORMED
) -> SignatureRefused:
    return SignatureRefused(f"could not verify signature: {reason}", problem)


# --- What the configuration asks for


def make_signer(config: NodeConfig) -> Signer | None:
    """Return what signs work for other nodes; None without a ``work-signing`` directive.

    The key is read now: a reload makes another one.

    Raises:
        ConfigFaults: the key cannot be used.
    """
    directive = config.work_signing
    if directive is None:
        return None
    try:
        return Signer(load_private_key(directive.privatekey), directive.tokenexpiration)
    except UnusableKey as error:
        raise directive.error("privatekey", str(error)) from error


def make_verifier(config: NodeConfig) -> Verifier | None:
    """Return what checks signatures; None without a ``work-verification`` directive.

    The keys are read now: a reload makes another one.

    Raises:
        ConfigFaults: keys cannot be used; it has a fault for each.
    """
    faults: list[Fault] = []
    keys = []
    for directive in config.work_verifications:
        try:
            keys.append(VerificationKey.of(directive.label, load_public_key(directive.publickey)))
        except UnusableKey as error:
            faults += directive.error("publickey", str(error)).faults
    if faults:
        raise ConfigFaults(faults)
    return Verifier(keys, config.node.id) if keys else None
