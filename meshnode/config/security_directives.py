"""The directives that sign work and check signatures: names and meaning are receptor's."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from meshnode.config.faults import FaultLog
from meshnode.config.kinds import duration, path
from meshnode.config.schema import Directive, directive, parameter

SECTION: Final = "Signing"

DEFAULT_TOKEN_LIFETIME: Final = 300.0
"""Seconds for which a signature holds, as receptor has it: a token waits for no node, it is made
when there is a connection to use it on."""

LEAST_TOKEN_LIFETIME: Final = 1.0
"""Seconds; less is over before the other node has read it."""


@directive(
    "work-signing",
    "Sign work for other nodes, where a submission asks for it.",
    section=SECTION,
    example=(("privatekey", "/etc/meshnode/sign.pem"), ("tokenexpiration", "1h30m")),
    once=True,
)
class WorkSigning(Directive):
    """The key that signs; ``tokenexpiration`` is in seconds."""

    privatekey: Path = parameter(path("file"), "file of the RSA private key, as PEM")
    tokenexpiration: float = parameter(
        duration(LEAST_TOKEN_LIFETIME, "1s"),
        "how long a signature holds",
        default=DEFAULT_TOKEN_LIFETIME,
        default_text="5m",
    )


@directive(
    "work-verification",
    "Check the signatures of work of a type with `verifysignature: true`.",
    section=SECTION,
    example=(("publickey", "/etc/meshnode/verify.pem"),),
    once=True,
)
class WorkVerification(Directive):
    """The key that signatures are checked with."""

    publickey: Path = parameter(path("file"), "file of the RSA public key, as PEM")


SECURITY_DIRECTIVES: Final[tuple[type[Directive], ...]] = (WorkSigning, WorkVerification)
"""Every directive of signing, in the order in which help lists them."""


def check_verifiable(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note each work type that is to check signatures and has no key to do it with.

    receptor starts, and then refuses every submission but those from its unix socket.
    """
    directives = list(typed)
    if any(isinstance(one, WorkVerification) for one in directives):
        return
    for one in directives:
        if getattr(one, "verifysignature", False):
            text = "needs a work-verification directive with the public key of those who sign"
            faults.add(one.place_of("verifysignature"), one.INFO.name, "verifysignature", text=text)
