"""Every directive that meshnode supports, and the configuration made of them."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from meshnode.config.access_directives import ACCESS_DIRECTIVES, AccessRuleDirective
from meshnode.config.faults import Fault
from meshnode.config.http_directives import HTTP_DIRECTIVES, HttpService
from meshnode.config.link_directives import LINK_DIRECTIVES, ListenerDirective, PeerDirective
from meshnode.config.node_directives import (
    NODE_DIRECTIVES,
    AuditLogDirective,
    ControlService,
    LogLevel,
    Node,
)
from meshnode.config.schema import Directive, DirectiveInfo
from meshnode.config.service_directives import SERVICE_DIRECTIVES, ServiceDirective
from meshnode.config.signing_directives import (
    SECURITY_DIRECTIVES,
    WorkSigning,
    WorkVerification,
)
from meshnode.config.ssh_directives import SSH_DIRECTIVES, WorkSsh
from meshnode.config.tls_directives import TLS_DIRECTIVES, TlsClient, TlsServer
from meshnode.config.work_directives import WORK_DIRECTIVES, WorkDirective, WorkKubernetes
from meshnode.permissions import AccessRule

DIRECTIVES: Final[tuple[type[Directive], ...]] = (
    *NODE_DIRECTIVES,
    *LINK_DIRECTIVES,
    *TLS_DIRECTIVES,
    ControlService,
    *ACCESS_DIRECTIVES,
    AuditLogDirective,
    *HTTP_DIRECTIVES,
    *WORK_DIRECTIVES,
    *SSH_DIRECTIVES,
    *SECURITY_DIRECTIVES,
    *SERVICE_DIRECTIVES,
)
"""Every directive of a node, in the order in which help lists them."""

CERT_NAMES: Final = ("cert-init", "cert-makereq", "cert-signreq")
"""Directives that only make files of certificates (cert_directives.py). A node has none of them,
and must not be kept waiting by their declarations."""

IGNORED_DIRECTIVES: Final = MappingProxyType(
    {
        "trace": 'to see more of what happens, write "log-level: debug"',
        "pyroscope-client": "no profiles are sent",
    }
)
"""Directives of receptor that are accepted without an effect and warned of, with what to know."""


def all_directives() -> tuple[type[Directive], ...]:
    """Return the directives of a node, and those that only make files of certificates."""
    from meshnode.config.cert_directives import CERT_DIRECTIVES  # noqa: PLC0415

    return (*DIRECTIVES, *CERT_DIRECTIVES)


def named(name: str) -> DirectiveInfo | None:
    """Return what is known of the supported directive of that name (any case), or None."""
    known = all_directives() if name.lower() in CERT_NAMES else DIRECTIVES
    return next((cls.INFO for cls in known if cls.INFO.name == name.lower()), None)


def singular(name: str) -> str | None:
    """Return the directive whose plural ``name`` (lower case) is, or None.

    Directives that are given at most once have no plural.
    """
    return _PLURALS.get(name)


def _plurals() -> dict[str, str]:
    several = [cls.INFO.name for cls in DIRECTIVES if not cls.INFO.once]
    return {f"{name}s": name for name in (*several, *CERT_NAMES)}


_PLURALS: Final = MappingProxyType(
    _plurals() | {"iprouters": "ip-router", "work-kubernetes": "work-kubernetes"}
)
"""Names in receptor's map form; two do not follow the rule."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A whole, checked configuration."""

    node: Node
    log_level: LogLevel = field(default_factory=LogLevel)
    listeners: tuple[ListenerDirective, ...] = ()
    peers: tuple[PeerDirective, ...] = ()
    control_services: tuple[ControlService, ...] = ()
    http_services: tuple[HttpService, ...] = ()
    access_rules: tuple[AccessRuleDirective, ...] = ()
    work_types: tuple[WorkDirective, ...] = ()
    kubernetes_types: tuple[WorkKubernetes, ...] = ()
    ssh_types: tuple[WorkSsh, ...] = ()
    services: tuple[ServiceDirective, ...] = ()
    tls_servers: tuple[TlsServer, ...] = ()
    tls_clients: tuple[TlsClient, ...] = ()
    work_signing: WorkSigning | None = None
    work_verifications: tuple[WorkVerification, ...] = ()
    local_only: bool = False
    audit_log: AuditLogDirective | None = None
    warnings: tuple[Fault, ...] = field(default=(), compare=False)
    """What may not be meant as it was written, and stops no start."""

    @property
    def rules(self) -> tuple[AccessRule, ...]:
        """The access rules in the order in which they are asked."""
        return tuple(directive.rule() for directive in self.access_rules)

    def summary(self) -> str:
        """Say in a few words what is configured: ``node foo: 1 listener, 1 work type``."""
        counts = (
            (len(self.listeners), "listener"),
            (len(self.peers), "peer"),
            (len(self.control_services), "control service"),
            (len(self.http_services), "HTTP service"),
            (len(self.access_rules), "access rule"),
            (len(self.work_types) + len(self.ssh_types), "work type"),
            (len(self.services), "service"),
        )
        parts = ["local only"] if self.local_only else []
        parts += [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts if count]
        return f"node {self.node.id}: {', '.join(parts)}"
