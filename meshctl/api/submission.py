"""One submission: what is asked for, and the node's answer.

Half a payload never starts a unit: the session is guarded (see ``transport``) until all of it is
sent.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from meshctl.api import PLACEMENTS
from meshctl.api.connection import Connection
from meshctl.api.errors import (
    BadSettings,
    CommandRefused,
    PayloadLost,
    ProtocolMismatch,
    SessionLost,
    SubmissionUnconfirmed,
)
from meshctl.api.payload import (
    DEPS_SHA256_KEY,
    DEPS_SIZE_KEY,
    SCRIPT_KEY,
    Payload,
    PayloadError,
    Sendable,
)

LOCAL_NODE = "localhost"
"""What a control service takes, in any case, as its own node (protocol section 3)."""

KEY_BYTES = 18
"""Random bytes in the key of a submission: nobody finds it by trying."""

_CREATED = re.compile(
    r"Work unit (?:created|resumed) with ID (.+)\. "
    r"Send stdin data(?: from byte ([0-9]{1,18}))? and EOF\.(?: Store (\S+)\.)?"
)
LABELS_KEY = "submissionlabels"
"""Key of a submission with its labels, as a text of JSON."""

PLACEMENT_KEY, PLACEMENT_LABELS_KEY = "placement", "placementlabels"
"""Keys of a submission that say how to choose its node."""

AFTER_KEY = "submissionafter"
"""Key of a submission, and of a batch, with what must have ended before it starts."""

TIMEOUT_KEY, PRIORITY_KEY = "jobtimeout", "jobpriority"
ARGUMENTS_KEY, ENV_KEY, CWD_KEY = "jobarguments", "jobenv", "jobcwd"
LIMITS_KEY, OUTPUT_KEY = "joblimits", "joboutput"
"""Keys of a submission with what is given to a typed job; the first two are texts of JSON."""

SUBMISSION_KEY, RESUME_KEY = "submissionkey", "submissionresume"
"""Keys of a submission whose payload may come in parts: a secret name of it, and that it may."""

_RESERVED = frozenset(
    {
        *("command", "subcommand", "node", "worktype"),
        *("stdinsize", "stdinsha256", SUBMISSION_KEY, "submissionfollow", RESUME_KEY),
        LABELS_KEY,
        *(ARGUMENTS_KEY, ENV_KEY, CWD_KEY, TIMEOUT_KEY, PRIORITY_KEY, LIMITS_KEY),
        *(PLACEMENT_KEY, PLACEMENT_LABELS_KEY, AFTER_KEY),
        *(DEPS_SIZE_KEY, DEPS_SHA256_KEY, SCRIPT_KEY, OUTPUT_KEY),
    }
)


@dataclass(frozen=True, slots=True)
class Submission:
    """What a node answered to a unit of work.

    Attributes:
        unit_id: The unit's ID on the node of the control service.
        result: ``Job Started``, or ``Job Submitted`` while the target is out of reach.
    """

    unit_id: str
    result: str


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What is given to a typed job; a node that knows nothing of these would ignore them.

    Attributes:
        arguments: Its arguments by name, as ``meshctl work describe`` shows them.
        env: Variables of its environment.
        cwd: The directory that it starts in, a path of the node that runs it.
        timeout: Time that it may run, e.g. ``30s``; no longer than its type may.
        priority: Which of those that wait in a queue goes first: the highest.
        where: Labels that the node must have (``gpu=1``, ``zone!=b``, ``gpu``, ``!gpu``), where one
            is chosen: with the node ``any``, ``random`` or ``least``.
        limits: Lower limits than its type has, as a configuration would write them.
        deps: Files and directories that are sent along; they lie below ``DEPS/`` in the directory
            that it starts in.
        script: A file that is sent along in the same way, and run: by the command of the type,
            if that lets clients send scripts.
        after: Units and batches of the node that takes the submission, which must have succeeded
            before it starts (``ID``), or ended in whatever way (``ID:end``).
        output: Patterns of files that it brings back, for :meth:`ControlClient.fetch`.
    """

    arguments: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    timeout: str = ""
    priority: int = 0
    where: tuple[str, ...] = ()
    limits: Mapping[str, str] = field(default_factory=dict)
    deps: tuple[str | os.PathLike[str], ...] = ()
    script: str | os.PathLike[str] = ""
    after: tuple[str, ...] = ()
    output: tuple[str, ...] = ()

    @property
    def is_typed(self) -> bool:
        """Whether there is anything that depends on the type of work."""
        given = self.arguments or self.env or self.cwd or self.limits or self.output
        return bool(given) or self.has_files

    @property
    def has_files(self) -> bool:
        """Whether anything is sent along."""
        return bool(self.deps or self.script)

    def fields(self) -> dict[str, str]:
        """Return the keys of a submission that have them. Raises BadSettings."""
        for name in ("where", "after"):
            if "" in getattr(self, name):
                raise BadSettings(f"one of what {name} names is empty")
        texts_of_keys = {
            CWD_KEY: self.cwd,
            TIMEOUT_KEY: self.timeout,
            PRIORITY_KEY: str(self.priority) if self.priority else "",
            PLACEMENT_LABELS_KEY: ",".join(self.where),
            OUTPUT_KEY: json.dumps(self.output) if self.output else "",
            AFTER_KEY: ",".join(self.after),
        }
        fields = {key: text for key, text in texts_of_keys.items() if text}
        given = ((ARGUMENTS_KEY, self.arguments), (ENV_KEY, self.env), (LIMITS_KEY, self.limits))
        for key, texts in given:
            if texts:
                fields[key] = json.dumps(dict(texts))
        return fields


def sendable(source: bytes | BinaryIO | None, job: JobSettings | None) -> Sendable:
    """Return what is to be sent: files that go along, then stdin. Raises BadSettings."""
    payload = Payload(source)
    if job is None or not job.has_files:
        return payload
    # tarfile is loaded only by who needs it.
    from meshctl.api.deps import Dependencies, PayloadWithFiles  # noqa: PLC0415

    return PayloadWithFiles(Dependencies(job.deps, job.script), payload)


def submission_line(
    worktype: str,
    node: str,
    tls_client: str,
    ttl: str,
    signwork: bool,
    params: Mapping[str, str],
    labels: Mapping[str, str],
    announced: Mapping[str, str],
) -> str:
    """Return the line of a submission: JSON whose values are all strings (protocol section 8).

    Raises:
        BadSettings: a parameter has an option of its own, or a text cannot be sent.
    """
    is_rule = node in PLACEMENTS
    request = {
        "command": "work",
        "subcommand": "submit",
        "node": LOCAL_NODE if is_rule or not node else node,
        "worktype": worktype,
    } | ({PLACEMENT_KEY: node} if is_rule else {})
    options = {"tlsclient": tls_client, "ttl": ttl, "signwork": "true" if signwork else ""}
    # receptor knows none of the others: it keeps them as parameters that its commands do not look
    # at.
    options[LABELS_KEY] = json.dumps(dict(labels)) if labels else ""
    request |= {key: value for key, value in options.items() if value}
    request |= announced
    for key, value in params.items():
        if key in request or key in _RESERVED:
            raise BadSettings(f"{key} cannot be given as a parameter: it has an option of its own")
        request[key] = value
    try:
        return json.dumps(request, ensure_ascii=False).encode().decode()
    except UnicodeEncodeError as error:
        raise BadSettings("the submission's words and parameters must be UTF-8") from error


def new_key() -> str:
    """Return a key that no other submission has."""
    import secrets  # noqa: PLC0415 - most submissions are short, and have none

    return secrets.token_urlsafe(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class Created:
    """A unit that a node has made, or one that awaits the rest of its payload."""

    unit_id: str
    position: int = 0
    """From which byte on it wants the payload."""
    receipt: str = ""
    """Where and when it was taken, if the submission has a key."""


def read_created(line: str) -> Created:
    """Return what a node answers to a submission. Raises ProtocolMismatch."""
    match = _CREATED.fullmatch(line)
    if match is None:
        raise ProtocolMismatch(f"the node's reply is not one to a submission: {line[:60]!r}")
    unit_id, position, receipt = match.groups()
    return Created(unit_id, int(position or 0), receipt or "")


@dataclass(frozen=True, slots=True)
class Told:
    """Whom a submission tells how it goes."""

    on_created: Callable[[str], object] | None = None
    on_sent: Callable[[int, int | None], object] | None = None
    on_away: Callable[[str], object] | None = None


def send_submission(session: Connection, line: str, payload: Sendable, told: Told) -> Submission:
    """Send a submission and its payload over a session of its own; return the node's answer.

    Raises as :meth:`meshctl.ControlClient.submit`.
    """
    session.send_line(line)
    unit_id = read_created(session.read_line_guarded()).unit_id
    if told.on_created is not None:
        told.on_created(unit_id)
    try:
        send_payload(session, unit_id, payload, told)
    except SubmissionUnconfirmed:
        raise
    except SessionLost as error:
        again = "submit it again"
        if payload.in_parts() is None:
            again = "what came by a pipe cannot be read again: put it in a file, and submit that"
        raise SessionLost(f"{error}: unit {unit_id} was not started; {again}") from error
    return confirmation(session, unit_id)


def send_payload(
    session: Connection, unit_id: str, payload: Sendable, told: Told, start: int = 0
) -> None:
    """Send all of the payload from a byte on, and its end; or a part, without the end.

    Raises:
        PayloadLost, SessionLost: its end was not sent.
        SubmissionUnconfirmed: it may have been.
        CommandRefused: the node has said why it takes no more.
    """
    sent = start
    try:
        for chunk in payload.chunks(start):
            session.send(chunk)
            sent += len(chunk)
            if told.on_sent is not None:
                told.on_sent(sent, payload.size)
    except PayloadError as error:
        raise PayloadLost(unit_id, str(error)) from error
    except SessionLost:
        _raise_refusal(session, unit_id)
        raise
    try:
        session.end_payload()
    except OSError as error:
        raise SubmissionUnconfirmed(unit_id, f"the session broke ({error.strerror})") from error


def _raise_refusal(session: Connection, unit_id: str) -> None:
    """Where a node ended a payload early, raise the reason that it gave, if it did."""
    try:
        session.read_line()  # what is left of the line before the payload
        session.read_line()
    except CommandRefused as error:
        raise CommandRefused(str(error), unit_id) from error
    except SessionLost:
        return


def confirmation(session: Connection, unit_id: str) -> Submission:
    """Read what the node did with the unit. Raises CommandRefused, SubmissionUnconfirmed."""
    try:
        reply = session.read_json()
    except CommandRefused as error:
        raise CommandRefused(str(error), unit_id) from error
    except SessionLost as error:
        raise SubmissionUnconfirmed(unit_id, str(error)) from error
    return Submission(str(reply.get("unitid", unit_id)), str(reply.get("result", "")))
