"""What the directives and commands of certificates do: read files, make, write, and say it.

A task is the directive that asks for it: :class:`CertInit`, :class:`CertMakereq` or
:class:`CertSignreq`. Whoever has it done says how files are written, and how a person is asked.
"""

import datetime
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from meshnode.certs import issuing
from meshnode.certs.inputs import Request, load_authority, load_key_alone, load_request
from meshnode.certs.issuing import Authority, Names, Validity, lasting
from meshnode.certs.outputs import Output, Writer, plain, shown
from meshnode.config.cert_directives import CertDirective, CertInit, CertMakereq, CertSignreq
from meshnode.config.faults import COMMAND_LINE, printable
from meshnode.errors import NotMade, SecurityError, UnusableRequest
from meshnode.files import PRIVATE
from meshnode.ownership import ownership_warnings
from meshnode.security.keyfiles import others_of
from meshnode.security.verification import told

YES: Final = frozenset({"y", "yes"})
"""Answers by which a request is signed; any other is no."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a task meets the person who has it done.

    Attributes:
        say: prints a line of what was done.
        warn: prints a line of what may not be meant.
        ask: puts a question and returns the answer; empty if nobody is there.
        now: the present time.
    """

    say: Callable[[str], None]
    warn: Callable[[str], None]
    ask: Callable[[str], str]
    now: datetime.datetime

    @classmethod
    def at_terminal(cls, say: Callable[[str], None], warn: Callable[[str], None]) -> Self:
        """Return the desk of a program that a person has started."""
        now = datetime.datetime.now(datetime.UTC)
        # Certificates know whole seconds only.
        return cls(say, warn, ask_at_terminal, now.replace(microsecond=0))


def ask_at_terminal(question: str) -> str:
    """Put a question on stdout, and return the answer from stdin; empty if that has ended.

    Raises:
        NotMade: the person has interrupted it, or answers with what is no text.
    """
    try:
        sys.stdout.write(question)
        sys.stdout.flush()
        # A process may have been started without a stdin.
        return sys.stdin.readline() if sys.stdin else ""
    except (KeyboardInterrupt, UnicodeDecodeError):
        raise NotMade("not signed: you declined") from None
    except BrokenPipeError:
        raise NotMade("not signed: nobody reads the question") from None


def run_all(errands: Sequence[CertDirective], desk: Desk) -> None:
    """Do what directives ask for, in their order: requests before what is signed of them.

    All files have receptor's mode: only the user of this process may read them.

    Raises:
        Unavailable: one could not be done, and none of those behind it was; the fault names it.
    """
    # What is in the way of the last one is found before the first one is done.
    for errand in errands:
        _do_errand(errand, desk, only_check=True)
    for errand in errands:
        _do_errand(errand, desk)


def _do_errand(errand: CertDirective, desk: Desk, *, only_check: bool = False) -> None:
    on_command_line = errand.origin.place.source == COMMAND_LINE
    how = "force=true" if on_command_line else "force: true"
    writer = Writer(errand.force, f"name another file, or replace it by {how}", PRIVATE)
    try:
        if only_check:
            writer.check_free(outputs_of(errand))
        else:
            do(errand, writer, desk)
    except (NotMade, SecurityError) as error:
        raise errand.unavailable(None, str(error)) from error


def do(task: CertDirective, writer: Writer, desk: Desk) -> None:
    """Do a task.

    Raises:
        NotMade: a file cannot be written, or the person declined. Nothing was written.
        UnusableKey, UnusableCertificate, UnusableRequest: a file holds not what is needed.
    """
    match task:
        case CertInit():
            init(task, writer, desk)
        case CertMakereq():
            make_request(task, writer, desk)
        case CertSignreq():
            sign_request(task, writer, desk)


def outputs_of(task: CertDirective) -> list[Path]:
    """Return the files that a task makes."""
    match task:
        case CertInit():
            return [task.outcert, task.outkey]
        case CertMakereq():
            return [task.outreq, *([] if task.outkey is None else [task.outkey])]
        case CertSignreq():
            return [task.outcert]
    raise AssertionError(task)


def init(task: CertInit, writer: Writer, desk: Desk) -> None:
    """Make a CA."""
    writer.check_free(outputs_of(task))
    validity = lasting(task.notbefore, task.notafter, issuing.YEARS_OF_CA, desk.now)
    _check_dates(validity)
    authority = issuing.make_authority(issuing.make_key(task.bits), task.commonname, validity)
    writer.write_all(
        [
            Output(task.outcert, issuing.pem(authority.certificate), writer.public),
            Output(task.outkey, issuing.key_pem(authority.key)),
        ]
    )
    warn_of_place(task.outkey, desk)
    desk.say(f"made {plain(task.outcert)}: the certificate of a CA, until {told(validity.ends)}")
    desk.say(
        f"made {plain(task.outkey)}: its key ({issuing.key_words(authority.key)}); keep it safe"
    )


def make_request(task: CertMakereq, writer: Writer, desk: Desk) -> None:
    """Make a request, and its key unless that is there already."""
    inputs = [] if task.inkey is None else [task.inkey]
    writer.check_free(outputs_of(task), inputs)
    key = issuing.make_key(task.bits) if task.inkey is None else load_key_alone(task.inkey)
    names = Names(task.nodeid, task.dnsname, task.ipaddress)
    request = issuing.make_request(key, task.commonname, names)
    made = [Output(task.outreq, issuing.pem(request), writer.public)]
    if task.outkey is not None:
        made.append(Output(task.outkey, issuing.key_pem(key)))
    writer.write_all(made)
    desk.say(f"made {plain(task.outreq)}: a request for a certificate; have it signed by a CA")
    if task.outkey is not None:
        warn_of_place(task.outkey, desk)
        desk.say(f"made {plain(task.outkey)}: its key ({issuing.key_words(key)})")
    if not names:
        desk.warn(f"{shown(task.outreq)} names no node, host or address: no CA will sign it")


def warn_of_place(key: Path, desk: Desk) -> None:
    """Warn of a key that was made where other users can put another one in its place."""
    try:
        doubts = ownership_warnings(key.absolute().parent)
    except OSError:
        return  # the way was there when the key was written; whoever reads it says what is wrong
    for doubt in doubts:
        desk.warn(f"{shown(key)} can be replaced by other users: {printable(doubt)}")


def sign_request(task: CertSignreq, writer: Writer, desk: Desk) -> None:
    """Sign a request, once a person has seen it, or need not."""
    writer.check_free([task.outcert], [task.req, task.cacert, task.cakey])
    authority = load_authority(task.cacert, task.cakey)
    for text in others_of(task.cakey, is_secret=True):
        desk.warn(text)
    request = load_request(task.req)
    validity = lasting(task.notbefore, task.notafter, issuing.YEARS_OF_NODE, desk.now)
    validity = within_authority(authority, validity, desk, is_given=task.notafter is not None)
    _check_dates(validity)
    certificate = signed(request, authority, validity)
    if not task.verify:
        _ask(request, validity, desk)
    writer.write_all([Output(task.outcert, issuing.pem(certificate), writer.public)])
    desk.say(f"made {plain(task.outcert)}: the certificate, until {told(validity.ends)}")


def signed(request: Request, authority: Authority, validity: Validity) -> x509.Certificate:
    """Return the certificate of a request. Raises UnusableRequest."""
    try:
        return issuing.sign_request(request.value, authority, validity)
    except UnusableRequest as error:
        raise UnusableRequest(f"{shown(request.path)} {error}") from None


def _ask(request: Request, validity: Validity, desk: Desk) -> None:
    desk.say("Requested certificate:")
    for line in request.lines():
        desk.say(f"  {line}")
    desk.say(f"  Valid: from {told(validity.begins)} to {told(validity.ends)}")
    answer = desk.ask("Sign certificate (yes/no)? ").strip().lower()
    if not answer:
        raise NotMade("not signed: nobody has answered; to sign unasked: --yes, or verify: true")
    if answer not in YES:
        raise NotMade("not signed: you declined")


def within_authority(
    authority: Authority, validity: Validity, desk: Desk, *, is_given: bool
) -> Validity:
    """Return a validity that ends with the CA's at the latest, unless another end is asked for."""
    end = authority.certificate.not_valid_after_utc
    if validity.ends <= end:
        return validity
    if not is_given and end > validity.begins:
        return Validity(validity.begins, end)
    desk.warn(f"the CA's own certificate ends at {told(end)}, and this one is of no use after that")
    return validity


def _check_dates(validity: Validity) -> None:
    if validity.ends <= validity.begins:
        begins, ends = told(validity.begins), told(validity.ends)
        raise NotMade(f"it would end at {ends}, before it begins at {begins}: give other dates")
