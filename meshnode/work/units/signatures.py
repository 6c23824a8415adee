"""Who must sign what they ask of units, and what this node signs itself (protocol section 8).

The keys are replaced by a reload and when their files change; whoever holds a :class:`Signatures`
asks with those of the moment.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshnode.errors import (
    CannotSign,
    CommandError,
    MeshnodeError,
    SignatureProblem,
    SignatureRefused,
)

if TYPE_CHECKING:  # most nodes have no use for what it imports
    from meshnode.security.tokens import Signer, Verifier


@dataclass(slots=True, eq=False)
class Signatures:
    """What a node signs with and verifies by, at this moment; either may be missing."""

    signer: "Signer | None" = None
    verifier: "Verifier | None" = None
    refusals: Counter[SignatureProblem] = field(default_factory=Counter)
    """How often a client was refused for its signature, by what was wrong with it."""

    def check(self, signature: str, remedy: str, *, verifies: bool, trusted: bool) -> str:
        """Return the name of the key that signed a request, if its signature allows it.

        The name is empty where no signature was checked.

        Args:
            signature: the token that came with the request, empty if none did.
            remedy: what who sent none can do.
            verifies: whether the unit or work type demands one.
            trusted: whether the client came by a unix socket, whose permissions have let it in.

        Raises:
            CommandError: there is a signature and nobody asks for one, as receptor has it: who
                signs believes that it is checked.
            SignatureRefused: it is missing or wrong.
        """
        if not verifies:
            if signature:
                raise CommandError("work type did not expect a signature")
            return ""
        if trusted:
            return ""
        if not signature:
            raise SignatureRefused(
                f"could not verify signature: signature is empty: {remedy}",
                SignatureProblem.MISSING,
            )
        if self.verifier is None:
            raise SignatureRefused(
                "could not verify signature: this node has no work-verification directive",
                SignatureProblem.NO_KEY,
            )
        return self.verifier.verify(signature)

    def sign(self, node: str) -> str:
        """Return a token for a command to ``node``. Raises CannotSign."""
        return self.require_signer().sign(node)

    def require_signer(self) -> "Signer":
        """Return what signs. Raises CannotSign if this node cannot."""
        if self.signer is None:
            raise CannotSign("this node has no work-signing directive: it cannot sign work")
        return self.signer

    def counted(self, refusal: MeshnodeError) -> MeshnodeError:
        """Count a refusal of :meth:`check` that a client is told now, and return it."""
        if isinstance(refusal, SignatureRefused):
            self.refusals[refusal.problem] += 1
        else:
            self.refusals[SignatureProblem.NOT_EXPECTED] += 1
        return refusal
