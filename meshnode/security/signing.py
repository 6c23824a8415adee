"""What a configuration says of signatures, as what makes and checks them."""

from meshnode.config.directives import NodeConfig
from meshnode.errors import UnusableKey
from meshnode.security.keys import load_private_key, load_public_key
from meshnode.security.tokens import Signer, Verifier


def make_signer(config: NodeConfig) -> Signer | None:
    """Return what signs work for other nodes; None without a ``work-signing`` directive.

    The key is read now and never again.

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

    The key is read now and never again.

    Raises:
        ConfigFaults: the key cannot be used.
    """
    directive = config.work_verification
    if directive is None:
        return None
    try:
        return Verifier(load_public_key(directive.publickey), config.node.id)
    except UnusableKey as error:
        raise directive.error("publickey", str(error)) from error
