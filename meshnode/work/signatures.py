"""Who must sign what they ask of units, and what this node signs itself (reference section 8)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshnode.errors import CannotSign, CommandError, SignatureRefused

if TYPE_CHECKING:  # most nodes have no use for what it imports
    from meshnode.security.tokens import Signer, Verifier


@dataclass(frozen=True, slots=True)
class Signatures:
    """A node's two sides of signed work; either may be missing, and is then refused by name."""

    signer: "Signer | None" = None
    verifier: "Verifier | None" = None

    def check(self, signature: str, *, verifies: bool, trusted: bool) -> None:
        """Return if a request may be carried out, as far as signatures go.

        Args:
            signature: the token that came with the request, empty if none did.
            verifies: whether what the request is about asks for one.
            trusted: whether the client came by a unix socket, whose permissions speak for it.

        Raises:
            CommandError: there is a signature and nobody asks for one, as receptor has it: who
                signs believes that it is checked.
            SignatureRefused: it is missing or wrong.
        """
        if not verifies:
            if signature:
                raise CommandError("work type did not expect a signature")
            return
        if trusted:
            return
        if not signature:
            raise SignatureRefused("could not verify signature: signature is empty")
        if self.verifier is None:
            raise SignatureRefused(
                "could not verify signature: this node has no work-verification directive"
            )
        self.verifier.verify(signature)

    def sign(self, node: str) -> str:
        """Return a token for a command to ``node``. Raises CannotSign."""
        return self.require_signer().sign(node)

    def require_signer(self) -> "Signer":
        """Return what signs. Raises CannotSign if this node cannot."""
        if self.signer is None:
            raise CannotSign("this node has no work-signing directive: it cannot sign work")
        return self.signer
