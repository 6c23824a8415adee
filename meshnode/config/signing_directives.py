"""The directives that sign work and check signatures: names and meaning are receptor's."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from meshnode.config.faults import FaultLog, printable, quote
from meshnode.config.kinds import duration, path, text
from meshnode.config.names import Wrong
from meshnode.config.schema import Directive, directive, parameter

SECTION: Final = "Signing"

DEFAULT_TOKEN_LIFETIME: Final = 300.0
"""Seconds for which a signature is valid, as in receptor. A token is made once there is a
connection to use it on."""

LEAST_TOKEN_LIFETIME: Final = 1.0
"""Seconds: a token of less expires before the other node has read it."""


@directive(
    "work-signing",
    "Sign work for other nodes, where a submission asks for it.",
    section=SECTION,
    example=(("privatekey", "/etc/meshnode/sign.pem"), ("tokenexpiration", "1h30m")),
    once=True,
)
class WorkSigning(Directive):
    """The key that signs; ``tokenexpiration`` is in seconds."""

    RELOADABLE = True

    privatekey: Path = parameter(path("file"), "file of the RSA private key, as PEM", bare=True)
    tokenexpiration: float = parameter(
        duration(LEAST_TOKEN_LIFETIME, "1s"),
        "how long a signature holds",
        default=DEFAULT_TOKEN_LIFETIME,
        default_text="5m",
    )


MOST_VERIFICATION_KEYS: Final = 32
"""Keys that signatures are checked with. A signature that none of them has made is compared with
each, which takes 30 µs to half a millisecond a key."""

MAX_KEY_NAME: Final = 100
"""Characters of the name of a key, which each unit keeps that was signed with it."""


def _check_key_name(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable() or len(value) > MAX_KEY_NAME:
        raise Wrong(
            f"{quote(value)} is no name for a key: at most {MAX_KEY_NAME} printable characters"
        )
    return value


@directive(
    "work-verification",
    "Check the signatures of work of a type with `verifysignature: true`. Of several keys one must "
    "have made a signature.",
    section=SECTION,
    example=(("publickey", "/etc/meshnode/verify.pem"),),
)
class WorkVerification(Directive):
    """A key that signatures are checked with."""

    RELOADABLE = True

    publickey: Path = parameter(path("file"), "file of the RSA public key, as PEM", bare=True)
    name: str = parameter(
        text("name of a key", _check_key_name),
        "name of the key, in the log, in the status of units that were signed with it, and for "
        "access rules",
        default="",
        default_text="the file's name without its ending",
    )

    @property
    def label(self) -> str:
        """The name that the key goes by."""
        return self.name or printable(self.publickey.stem)[:MAX_KEY_NAME]


SECURITY_DIRECTIVES: Final[tuple[type[Directive], ...]] = (WorkSigning, WorkVerification)
"""Every directive of signing, in the order in which help lists them."""


def check_verifiable(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note each work type that is to check signatures and has no key to do it with.

    receptor starts, and then refuses every submission but those from its unix socket.
    """
    directives = list(typed)
    keys = [one for one in directives if isinstance(one, WorkVerification)]
    if keys:
        _check_keys(keys, faults)
        return
    for one in directives:
        if getattr(one, "verifysignature", False):
            text = "needs a work-verification directive with the public key of those who sign"
            faults.add(one.place_of("verifysignature"), one.INFO.name, "verifysignature", text=text)


def _check_keys(keys: list[WorkVerification], faults: FaultLog) -> None:
    """Note each key that has the name of another one, and one that is too many."""
    named: dict[str, WorkVerification] = {}
    for one in keys:
        first = named.setdefault(one.label, one)
        if first is not one:
            place = one.place_of("name")
            where = first.origin.place.seen_from(place)
            text = f"{quote(one.label)} is also the name of the key {where}; give each its own name"
            faults.add(place, one.INFO.name, "name", text=text)
    for one in keys[MOST_VERIFICATION_KEYS:]:
        text = f"is one too many: a node checks signatures with at most {MOST_VERIFICATION_KEYS}"
        faults.add(one.origin.place, one.INFO.name, text=text)
