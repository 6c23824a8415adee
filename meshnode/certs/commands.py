"""The command line of ``meshnode cert``: what is asked for, and how it is said.

Values are checked as those of the directives are, and wrong ones told in one line.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from meshnode.certs import meshes, showing
from meshnode.certs.issuing import shortened
from meshnode.certs.options import (
    ADDRESS,
    DAYS,
    DIRECTORY,
    FILE,
    FORCE,
    HOST,
    NAME,
    NODE,
    PORT,
    Command,
    date_options,
    dates_of,
    force_option,
    key_options,
    option,
    writer_for,
    wrong,
)
from meshnode.certs.outputs import Writer
from meshnode.certs.tasks import Desk, do
from meshnode.config.cert_directives import CertInit, CertMakereq, CertSignreq
from meshnode.config.faults import COMMAND_LINE, quote, suggestion
from meshnode.config.names import Wrong
from meshnode.errors import ConfigError, NotMade
from meshnode.security.certificates import Usage

WRONG_USAGE: Final = 2
"""The exit code if nothing is asked for."""

SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 80}

REQUEST_ENDINGS: Final = frozenset({".csr", ".req", ".pem"})
"""Endings of files of requests; a host's name in a file's has others."""

MESH_REMEDY: Final = "leave the node out, or make its files anew by --force"


def run(argv: Sequence[str], say: Callable[[str], None], warn: Callable[[str], None]) -> int:
    """Do what ``meshnode cert ARGV…`` asks for; return the exit code.

    Raises:
        ConfigError: the command line is wrong.
        NotMade, SecurityError: it could not be done; nothing was written.
    """
    desk = Desk.at_terminal(say, warn)
    try:
        code = cert.main(list(argv), "meshnode cert", standalone_mode=False, obj=desk)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        return WRONG_USAGE
    except click.ClickException as error:
        ctx = getattr(error, "ctx", None)
        where = ctx.command_path if ctx else "meshnode cert"
        words = " ".join(error.format_message().split()).removesuffix(".")
        text = f"{where.removeprefix('meshnode ')}: {words}; see {where} --help"
        raise ConfigError(f"{COMMAND_LINE}: {text}") from error
    except click.Abort:
        raise NotMade("interrupted: nothing was written") from None
    return int(code or 0)


class _Commands(click.Group):
    """The commands; the nearest one is named for a mistyped one."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names. Raises click.UsageError."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            hint = suggestion(name, known, otherwise=f"the commands are {', '.join(known)}")
            ctx.fail(f"there is no command {quote(name)}; {hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
)
def cert() -> None:
    """Make the keys and certificates by which nodes know each other.

    A mesh has one certificate authority (CA). It signs a certificate for each
    node, which names the node's ID and its host. Nodes that trust the CA know
    by that who is at the other end of a link, and nobody else gets in.

    All at once, where one machine makes all keys:

    \b
      meshnode cert mesh --node foo --node bar --out mesh

    Step by step, so that a node's key never leaves its machine:

    \b
      meshnode cert init                                  at the CA
      meshnode cert request --node foo --dns foo.example.org    on foo
      meshnode cert sign foo.csr                          at the CA
      meshnode cert verify foo.crt --key foo.key --node foo     on foo

    Private keys can be read by their user only (0600). No file is replaced
    without --force, and after an error there is no file that was not there
    before.

    Exit codes: 0 done; 1 it could not be done, or what was verified is not
    good; 2 wrong usage.
    """


@cert.command(short_help="Make a certificate authority: a key and its certificate.")
@option("--common-name", type=NAME, default="meshnode CA", help="Its name.")
@option("--out-cert", type=FILE, default="ca.crt", help="File for its certificate.")
@option("--out-key", type=FILE, default="ca.key", help="File for its private key.")
@key_options
@date_options("ten years from now")
@force_option
@click.pass_obj
def init(
    desk: Desk,
    /,
    common_name: str,
    out_cert: Path,
    out_key: Path,
    bits: int | None,
    force: bool,
    **dates: Any,
) -> None:
    """Make a certificate authority (CA): a key, and its own certificate.

    Nodes need the certificate (ca.crt), to know whom they trust. Whoever has
    the key (ca.key) can make certificates for any node: keep it off the nodes.
    """
    begins, ends = dates_of(desk.now, **dates)
    task = CertInit(
        commonname=common_name,
        outcert=out_cert,
        outkey=out_key,
        bits=bits,
        notbefore=begins,
        notafter=ends,
    )
    do(task, writer_for(force), desk)


@cert.command(short_help="Make a key, and a request for its certificate.")
@option("--node", type=NODE, multiple=True, help="ID of the node; may be repeated.")
@option("--dns", type=HOST, multiple=True, help="Name by which others dial its host.")
@option("--ip", type=ADDRESS, multiple=True, help="Address by which others dial it.")
@option("--common-name", type=NAME, help="Its name.  [default: the node's ID]")
@option("--out-req", type=FILE, help="File for the request.  [default: ID.csr]")
@option("--out-key", type=FILE, help="File for its new private key.  [default: ID.key]")
@option("--in-key", type=FILE, help="Make no key, but use the one in a file.")
@key_options
@force_option
@click.pass_obj
def request(
    desk: Desk,
    node: tuple[str, ...],
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    common_name: str | None,
    out_req: Path | None,
    out_key: Path | None,
    in_key: Path | None,
    bits: int | None,
    force: bool,
) -> None:
    """Make a request for a certificate, and the key that it will be for.

    \b
      meshnode cert request --node foo --dns foo.example.org

    The request (foo.csr) goes to the CA, and comes back as a certificate. The
    key (foo.key) stays where it is. A node that others dial needs the names or
    addresses by which they do.
    """
    names = (*node, *dns, *ip)
    if not names:
        wrong("name whom it is for: --node ID, and --dns NAME or --ip ADDRESS of its host")
    if in_key is not None and (out_key is not None or bits is not None):
        wrong("--in-key uses the key that there is; --out-key and --bits are for a new one")
    stem = names[0].replace("*", "_")
    task = CertMakereq(
        commonname=common_name or shortened(names[0]),
        outreq=out_req or Path(f"{stem}.csr"),
        nodeid=node,
        dnsname=dns,
        ipaddress=ip,
        bits=bits,
        inkey=in_key,
        outkey=None if in_key else out_key or Path(f"{stem}.key"),
    )
    do(task, writer_for(force), desk)


@cert.command(short_help="Make a certificate of a request.")
@click.argument("req", type=FILE)
@option("--ca-cert", type=FILE, default="ca.crt", help="File of the CA's certificate.")
@option("--ca-key", type=FILE, default="ca.key", help="File of the CA's private key.")
@option("--out-cert", type=FILE, help="File for the certificate.  [default: REQ as .crt]")
@date_options("a year from now, or with the CA")
@option("--yes", "-y", is_flag=True, help="Sign without showing the request and asking.")
@force_option
@click.pass_obj
def sign(
    desk: Desk,
    /,
    req: Path,
    ca_cert: Path,
    ca_key: Path,
    out_cert: Path | None,
    yes: bool,
    force: bool,
    **dates: Any,
) -> None:
    """Sign the request in file REQ with a CA: that makes the certificate.

    It shows what the request asks for, and signs if the answer is yes: whoever
    has a certificate of a node's name is that node for all others.
    """
    begins, ends = dates_of(desk.now, **dates)
    task = CertSignreq(
        req=req,
        cacert=ca_cert,
        cakey=ca_key,
        outcert=out_cert or certificate_file(req),
        verify=yes,
        notbefore=begins,
        notafter=ends,
    )
    do(task, writer_for(force), desk)


def certificate_file(request_file: Path) -> Path:
    """Return the file for the certificate of a request: beside it, with another ending."""
    name = request_file.name
    stem = request_file.stem if request_file.suffix.lower() in REQUEST_ENDINGS else name
    return request_file.parent / f"{stem}.crt"


@cert.command(short_help="Show certificates, requests and keys.")
@click.argument("file", type=FILE, nargs=-1, required=True)
@click.pass_obj
def show(desk: Desk, file: tuple[Path, ...]) -> None:
    """Show what is in each FILE: certificates, a request, or what kind of key.

    Fingerprints are as pinnedclientcert and pinnedservercert take them. A
    private key itself is not shown.
    """
    for number, one in enumerate(file):
        lines = showing.describe(one, desk.now)
        desk.say("\n".join([*([""] if number else []), *lines]))


@cert.command(short_help="Judge a certificate as a node does.")
@click.argument("file", metavar="CERT", type=FILE)
@option("--ca", type=FILE, default="ca.crt", help="File of the CAs that are trusted.")
@option("--key", type=FILE, help="Its private key: whether the two belong together.")
@option("--node", type=NODE, help="ID of the node that it must name.")
@option("--host", help="Host name or address that it must name.")
@option(
    "--usage",
    type=click.Choice([usage.value for usage in Usage]),
    help="As what it must serve.  [default: both]",
)
@click.pass_obj
def verify(
    desk: Desk,
    file: Path,
    ca: Path,
    key: Path | None,
    node: str | None,
    host: str | None,
    usage: str | None,
) -> None:
    """Judge a certificate as a node does that is shown it.

    CERT may have certificates between it and its CA behind it. The first thing
    that is wrong is told, and the exit code is 1.
    """
    wanted = showing.Wanted(ca, key, node or "", host or "", Usage(usage) if usage else None)
    desk.say(showing.verify(file, wanted, desk.now))


@cert.command(short_help="Make all files of a mesh at once.")
@option(
    "--node",
    "nodes",
    metavar="ID[=HOST,…]",
    multiple=True,
    required=True,
    help="A node, and the names or addresses by which others dial its host; repeat it.",
)
@option("--out", type=DIRECTORY, required=True, help="Directory for all files.")
@option("--port", type=PORT, default=2222, help="Where the first node listens.")
@option("--signing", is_flag=True, help="Make a pair of keys for signed work, too.")
@option("--days", type=DAYS, default=365, help="How long nodes' hold.")
@key_options
@option(FORCE, is_flag=True, help="Make keys and certificates of these nodes anew.")
@click.pass_obj
def mesh(
    desk: Desk,
    nodes: tuple[str, ...],
    out: Path,
    port: int,
    signing: bool,
    days: int,
    bits: int | None,
    force: bool,
) -> None:
    """Make all files of a mesh, and print what goes into each node's file.

    \b
      meshnode cert mesh --node foo=foo.example.org --node bar --out mesh

    A node without hosts gets a certificate for its ID as a host name, and for
    localhost. A CA that is in the directory already is used again, so that
    another call adds nodes to the mesh.
    """
    try:
        members = meshes.read_members(nodes)
    except Wrong as fault:
        wrong(f"--node: {fault}")
    plan = meshes.Plan(out, members, port, bits, days, signing)
    desk.say(meshes.make(plan, Writer(force, MESH_REMEDY), desk))
