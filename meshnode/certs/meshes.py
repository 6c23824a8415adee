"""All files of a mesh at once: ``meshnode cert mesh``.

A CA, a key and a certificate for each node, keys for signed work if they are wanted, and the
directives that each node needs of them. The same directory serves when nodes are added.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from meshnode.certs import issuing
from meshnode.certs.inputs import load_authority
from meshnode.certs.issuing import Authority, Names, Validity, shortened
from meshnode.certs.outputs import Output, Writer, shown, told
from meshnode.certs.tasks import Desk, warn_of_place, within_authority
from meshnode.config.cert_directives import (
    LEAST_BITS,
    check_address,
    check_dns_name,
    is_address,
)
from meshnode.config.faults import printable, quote
from meshnode.config.names import Address, Wrong, check_node_id
from meshnode.errors import NotMade
from meshnode.files import PRIVATE_DIRECTORY

AUTHORITY: Final = "ca"
"""The name of the CA's files; no node's files can have it."""

SIGNING_KEY: Final = "signworkprivate.pem"
VERIFYING_KEY: Final = "signworkpublic.pem"

TLS_NAME: Final = "mesh"
"""Name of both TLS directives, by which links refer to them."""

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
"""Hosts of a node that has none: all nodes may be on one machine."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the mesh, and the names and addresses by which others dial its host."""

    node: str
    hosts: tuple[str, ...] = ()

    @property
    def names(self) -> Names:
        """Whom its certificate names."""
        hosts = self.hosts or (*_own_host(self.node), *_LOCAL)
        addresses = tuple(host for host in hosts if is_address(host))
        return Names((self.node,), tuple(h for h in hosts if h not in addresses), addresses)

    @property
    def dialed(self) -> str:
        """The host that others dial."""
        return next((host for host in self.hosts if "*" not in host), "localhost")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for.

    Attributes:
        directory: of all files.
        members: the nodes; the first one listens.
        port: where it does.
        bits: length of RSA keys; None for ECDSA P-256.
        days: how long the nodes' certificates hold.
        signing: whether there is to be a pair of keys for signed work.
    """

    directory: Path
    members: tuple[Member, ...]
    port: int
    bits: int | None
    days: int
    signing: bool

    def file(self, name: str) -> Path:
        """Return the path of a file."""
        return self.directory / name


def read_members(texts: Sequence[str]) -> tuple[Member, ...]:
    """Return the nodes that are named, each once. Raises Wrong."""
    members = tuple(map(read_member, texts))
    nodes = [member.node for member in members]
    for node in nodes:
        if nodes.count(node) > 1:
            raise Wrong(f"{quote(node)} is given twice; a node is named once, with all its hosts")
    return members


def read_member(text: str) -> Member:
    """Return the node that ``ID`` or ``ID=HOST,HOST`` names. Raises Wrong."""
    node, equals, hosts = text.partition("=")
    check_node_id(node)
    if node.lower() == AUTHORITY:
        raise Wrong(f'"{node}" would have the files of the CA; give the node another ID')
    if not equals:
        return Member(node)
    read = (
        check_address(host) if is_address(host) else check_dns_name(host)
        for host in hosts.split(",")
    )
    return Member(node, tuple(read))


def make(plan: Plan, writer: Writer, desk: Desk) -> str:
    """Make what is missing, all of it or nothing, and return what goes into the nodes' files.

    Raises:
        NotMade: a file is there already, or cannot be written.
        UnusableKey, UnusableCertificate: the directory's CA cannot be used.
    """
    made_directory = _make_directory(plan.directory)
    try:
        return _make_in(plan, writer, desk)
    except BaseException:
        if made_directory:
            plan.directory.rmdir()
        raise


def _make_in(plan: Plan, writer: Writer, desk: Desk) -> str:
    own = [plan.file(f"{m.node}.{end}") for m in plan.members for end in ("crt", "key")]
    writer.check_free(own)
    authority, outputs = _authority(plan, writer, desk)
    is_new = bool(outputs)
    outputs += _signing_keys(plan, writer)
    for member in plan.members:
        outputs += _of_member(member, plan, authority, writer, desk)
    writer.write_all(outputs)
    # All keys are in one directory.
    warn_of_place(own[1], desk)
    return "\n".join(_page(plan, [output.path.name for output in outputs], is_new=is_new))


def _make_directory(directory: Path) -> bool:
    """Make the directory, for this user only; return False if it is there already."""
    with told(directory):
        if directory.is_dir():
            return False
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(PRIVATE_DIRECTORY)
    return True


def _authority(plan: Plan, writer: Writer, desk: Desk) -> tuple[Authority, list[Output]]:
    """Return the CA of the directory; or a new one, and its files."""
    certificate, key = plan.file(f"{AUTHORITY}.crt"), plan.file(f"{AUTHORITY}.key")
    if certificate.exists() and key.exists():
        return load_authority(certificate, key), []
    for there, missing in ((certificate, key), (key, certificate)):
        if there.exists():
            raise NotMade(
                f"{shown(there)} is there, and {shown(missing)} is not: put back what is missing, "
                "or name another directory for a new CA"
            )
    validity = Validity(desk.now, issuing.years_after(desk.now, issuing.YEARS_OF_CA))
    name = printable(f"CA of {plan.directory.absolute().name or 'a mesh'}")
    authority = issuing.make_authority(issuing.make_key(plan.bits), shortened(name), validity)
    return authority, [
        Output(certificate, issuing.pem(authority.certificate), writer.public),
        Output(key, issuing.key_pem(authority.key)),
    ]


def _signing_keys(plan: Plan, writer: Writer) -> list[Output]:
    """Return a new pair of keys for signed work, if there is to be one and is none."""
    private, public = plan.file(SIGNING_KEY), plan.file(VERIFYING_KEY)
    if not plan.signing or (private.exists() and public.exists()):
        return []
    writer.check_free([private, public])
    # Signatures of work are RSA's only (protocol section 8).
    key = issuing.make_key(plan.bits or LEAST_BITS)
    return [
        Output(private, issuing.key_pem(key)),
        Output(public, issuing.public_key_pem(key), writer.public),
    ]


def _of_member(
    member: Member, plan: Plan, authority: Authority, writer: Writer, desk: Desk
) -> list[Output]:
    key = issuing.make_key(plan.bits)
    request = issuing.make_request(key, shortened(member.node), member.names)
    wanted = Validity(desk.now, issuing.days_after(desk.now, plan.days))
    validity = within_authority(authority, wanted, desk, is_given=False)
    certificate = issuing.sign_request(request, authority, validity)
    return [
        Output(plan.file(f"{member.node}.crt"), issuing.pem(certificate), writer.public),
        Output(plan.file(f"{member.node}.key"), issuing.key_pem(key)),
    ]


def _own_host(node: str) -> tuple[str, ...]:
    """Return a node's ID if it can be the name or address of its host."""
    try:
        return () if "*" in node else (node if is_address(node) else check_dns_name(node),)
    except Wrong:
        return ()


# --- What goes into the nodes' files -------------------------------------------------------------


def _page(plan: Plan, made: Sequence[str], *, is_new: bool) -> Iterator[str]:
    """Yield what is to be pasted, in pieces: YAML, with comments for the reader."""
    yield f"# made in {printable(str(plan.directory))}: {', '.join(map(printable, made))}"
    yield f"# {AUTHORITY}.key makes certificates for any node: keep it off the nodes."
    yield f"# A node needs {AUTHORITY}.crt, its own certificate and its key; the paths below are"
    yield "# where they were made."
    if not is_new:
        yield "# The CA was there already: have the nodes dial one of the mesh that listens."
    for number, member in enumerate(plan.members):
        listens = is_new and number == 0
        directives = [*_identity(member, plan), *_link(plan, listens=listens)]
        if plan.signing:
            directives += _signing(plan, signs=listens)
        yield f"\n# {printable(member.node)}.yml"
        yield yaml.safe_dump(directives, sort_keys=False, allow_unicode=True).rstrip("\n")


Directives = list[dict[str, dict[str, object]]]
"""What a YAML file of directives holds."""


def _identity(member: Member, plan: Plan) -> Directives:
    authority, certificate, key = (
        str(plan.file(name).absolute())
        for name in (f"{AUTHORITY}.crt", f"{member.node}.crt", f"{member.node}.key")
    )
    own: dict[str, object] = {"name": TLS_NAME, "cert": certificate, "key": key}
    return [
        {"node": {"id": member.node}},
        {"tls-server": {**own, "requireclientcert": True, "clientcas": authority}},
        {"tls-client": {**own, "rootcas": authority}},
    ]


def _link(plan: Plan, *, listens: bool) -> Directives:
    first = plan.members[0]
    if not listens:
        return [{"tcp-peer": {"address": str(Address(first.dialed, plan.port)), "tls": TLS_NAME}}]
    # A certificate for localhost only is of no use to other machines.
    where: dict[str, object] = {} if first.hosts else {"bindaddr": "127.0.0.1"}
    return [{"tcp-listener": {"port": plan.port, **where, "tls": TLS_NAME}}]


def _signing(plan: Plan, *, signs: bool) -> Directives:
    private, public = plan.file(SIGNING_KEY).absolute(), plan.file(VERIFYING_KEY).absolute()
    verifies: Directives = [{"work-verification": {"publickey": str(public)}}]
    signing: Directives = [{"work-signing": {"privatekey": str(private)}}] if signs else []
    return signing + verifies
