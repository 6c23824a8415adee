"""Batches: many submissions under one ID, which live on the node (meshnode's own).

The functions take a :class:`meshctl.ControlClient`. A batch is submitted whole or not at all, and
who waits for one may lose the node for a while: what was told before is not told again.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from time import sleep
from typing import TYPE_CHECKING

from meshctl.api import PLACEMENTS, JsonObject
from meshctl.api.connection import Connection
from meshctl.api.errors import AWAY, BadSettings, ProtocolMismatch, SessionLost
from meshctl.api.payload import PayloadError
from meshctl.api.status import ASK_INTERVAL, NODE_RETURNS, Absence
from meshctl.api.submission import LOCAL_NODE, SUBMISSION_KEY, new_key

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient
    from meshctl.api.submission import JobSettings

LIST_SHA256_KEY = "listsha256"
"""Key of a batch with the digest of its list."""

_ID = re.compile(r"b-[a-zA-Z0-9]{8}")


def is_batch(word: str) -> bool:
    """Whether a word is the ID of a batch, which no unit can have."""
    return _ID.fullmatch(word) is not None


@dataclass(frozen=True, slots=True)
class BatchSubmission:
    """What a node answered to a batch."""

    batch_id: str
    members: int


class BatchUnconfirmed(SessionLost):
    """The node has not said whether there is a batch, and stays away."""


def request(action: str, batch_id: str = "", **more: object) -> JsonObject:
    """Return the request for something about batches."""
    named = {"batch": batch_id} if batch_id else {}
    return {"command": "work", "subcommand": "batch", "action": action, **named, **more}


def submit_batch(
    client: "ControlClient",
    fields: Mapping[str, str],
    lines: Iterable[Mapping[str, str]] | None = None,
    on_sent: Callable[[int], object] | None = None,
    job: "JobSettings | None" = None,
    on_whole: Callable[[], object] | None = None,
    on_away: Callable[[str], object] | None = None,
) -> BatchSubmission:
    """Submit a batch: an array, or a list of what each member has beside ``fields``.

    It has a key: where the answer is lost, the node has 30 s to come back, and is asked again.

    Args:
        client: Of the node that is to have the batch.
        fields: Keys of a submission (``worktype``, ``node``, ``params``, …), ``array`` as
            ``1-1000%20``, ``maxinflight``, ``stdin``.
        lines: For each member keys of its own; ``line`` is a text for ``{line}``. What can be gone
            through twice is: the node is told the digest of the whole list before it comes.
        on_sent: Called with the number of lines that were sent so far.
        job: Its ``deps`` and ``script`` go along: each member finds them in ``DEPS/``. They are
            sent once, and kept once. What else it has are keys of ``fields``.
        on_whole: Called before the end of it is sent: from then on there may be a batch.
        on_away: Called with the reason when the answer is lost, and the node is waited for.

    Raises:
        CommandRefused: the node said why; there is no batch.
        BatchUnconfirmed: the node stays away; only its list of batches tells whether there is one.
        SessionLost: there is none, or the node has changed.
    """
    node = fields.get("node") or LOCAL_NODE
    key = {SUBMISSION_KEY: new_key()}
    whole = _placed({**fields, "node": node}) | key
    files = None
    if job is not None and job.has_files:
        # tarfile is loaded only by who needs it.
        from meshctl.api.deps import Dependencies  # noqa: PLC0415

        files = Dependencies(job.deps, job.script)
        whole |= files.announced
    is_whole = on_whole or (lambda: None)
    if lines is not None and not isinstance(lines, Iterator):
        # A connection that is cut may look to the node like one that has ended.
        whole[LIST_SHA256_KEY] = _digest(lines)
    asked = _encoded(request("submit", **({} if lines is None else {"lines": "true"}), **whole))
    session = client.take()
    is_sent = False
    try:
        if lines is None and files is None:
            is_sent = True
            is_whole()
            session.send_line(asked)
            return _answer(session.read_json())
        session.send_line(asked)
        # From here on a client that dies ends nothing: half a list is no batch.
        session.read_line_guarded()
        try:
            for chunk in () if files is None else files.chunks():
                session.send(chunk)
            for number, line in enumerate(lines or (), 1):
                session.send(_encoded_line(line))
                if on_sent is not None:
                    on_sent(number)
        except SessionLost:
            _raise_refusal(session)
            raise
        is_sent = True
        is_whole()
        _end_payload(session)
        return _answer(session.read_json())
    except SessionLost as error:
        if not is_sent:
            raise SessionLost(f"the session broke: {error}; nothing was submitted") from error
        return _asked_again(client, session.node_id, asked, str(error), Absence(on_away))
    except PayloadError as error:
        # Half of a payload is no batch.
        raise BadSettings(str(error)) from error
    finally:
        session.close()


def _asked_again(
    client: "ControlClient", node: str, asked: str, reason: str, absence: Absence
) -> BatchSubmission:
    """Return what a node says to a submission whose answer was lost.

    Raises:
        BatchUnconfirmed: the node stays away.
        SessionLost: there is no batch, or another node has its address.
        CommandRefused: the node said why; there is no batch.
    """
    while absence.lasts(reason, NODE_RETURNS):
        sleep(ASK_INTERVAL)
        try:
            with closing(client.take()) as session:
                there = session.node_id
                # Another node would make the batch that this one may have made.
                line = _said(session, asked) if there == node else ""
        except AWAY as error:
            reason = str(error)
            continue
        if there != node:
            raise SessionLost(f"node {there} answers instead of {node}, which may have the batch")
        if line.startswith("{"):
            return _answer(_read(line))
        raise SessionLost("the node has not kept the batch: nothing was submitted; submit it again")
    raise BatchUnconfirmed(f"{reason}; there may be a batch")


def _said(session: Connection, asked: str) -> str:
    session.send_line(asked)
    return session.read_line()


def _end_payload(session: Connection) -> None:
    try:
        session.end_payload()
    except OSError as error:
        raise SessionLost(f"the session is gone: {error.strerror or error}") from error


def _placed(fields: Mapping[str, str]) -> dict[str, str]:
    """Return fields in which a rule that stands for a node is one."""
    rule = fields.get("node")
    more = {"node": LOCAL_NODE, "placement": rule} if rule in PLACEMENTS and rule else {}
    return {**fields, **more}


def _encoded_line(line: Mapping[str, str]) -> bytes:
    return _encoded(_placed(line)).encode() + b"\n"


def _digest(lines: Iterable[Mapping[str, str]]) -> str:
    """Return that of a list, in hexadecimal. Raises BadSettings."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(_encoded_line(line))
    return digest.hexdigest()


def _encoded(data: Mapping[str, object]) -> str:
    try:
        text = json.dumps(data, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise BadSettings(f"what a batch is given must be text in UTF-8: {error}") from error
    return text


def _raise_refusal(session: Connection) -> None:
    """Raise the reason for which a node has ended a list early, if it gave one."""
    try:
        session.read_line()
        session.read_line()
    except SessionLost:
        return


def _answer(reply: JsonObject) -> BatchSubmission:
    batch_id, members = reply.get("batch"), reply.get("members")
    if not isinstance(batch_id, str) or not isinstance(members, int):
        raise ProtocolMismatch("the node's reply to a batch names none")
    return BatchSubmission(batch_id, members)


def list_batches(client: "ControlClient") -> dict[str, JsonObject]:
    """Return the status of each batch of the node, by its ID."""
    return client.command(request("list"))


def batch_status(client: "ControlClient", batch_id: str) -> JsonObject:
    """Return the status of a batch."""
    return client.command(request("status", batch_id))


def retry_batch(client: "ControlClient", batch_id: str) -> int:
    """Have all members run again that did not succeed; return how many there are."""
    count = client.command(request("retry", batch_id)).get("retried")
    return count if isinstance(count, int) else 0


def end_batch(client: "ControlClient", action: str, batch_id: str) -> str:
    """Cancel or release a batch; return what the node did, as of a unit."""
    reply = client.command(request(action, batch_id))
    for outcome in ("cancelled", "cancel pending", "released", "release pending"):
        if outcome in reply:
            return outcome
    raise ProtocolMismatch(f"the node's reply to {action} does not say what it did")


def batch_members(client: "ControlClient", batch_id: str) -> Iterator[JsonObject]:
    """Yield a line for each member that has ended so far, in the order of their ends."""
    session = client.take()
    try:
        session.send_line(_encoded(request("members", batch_id)))
        while "Batch" not in (told := session.read_json()):
            if "Index" in told:
                yield told
    finally:
        session.close()


def watch_batch(
    client: "ControlClient",
    batch_id: str,
    on_away: Callable[[str], object] | None = None,
) -> Iterator[JsonObject]:
    """Yield a line for each member when it has ended, and the status of the batch at each change.

    The last one is the status at the end; those of members have an ``Index``, statuses a
    ``Batch``. Each member is told once, also if the node was away for a while.

    Raises:
        CommandRefused: there is no such batch.
        SessionLost, CannotReach, ProtocolMismatch: the node stays away.
    """
    position, absence, is_known = 0, Absence(on_away), False
    while True:
        try:
            session = client.take()
            try:
                ask = request("wait", batch_id, members="true", startpos=position)
                session.send_line(_encoded(ask))
                while True:
                    line = session.read_line()
                    told = _read(line)
                    is_known = True
                    absence.ends()
                    if "Batch" not in told:
                        # A line of the journal, as it stands there.
                        position += len(line.encode()) + 1
                    if "Index" in told or "Batch" in told:
                        yield told
                    if "Batch" in told and told.get("StateName") not in {"Pending", "Running"}:
                        return
            finally:
                session.close()
        except AWAY as error:
            if not (is_known and absence.lasts(str(error), NODE_RETURNS)):
                raise
            sleep(ASK_INTERVAL)


def _read(line: str) -> JsonObject:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolMismatch(f"the node's reply is not JSON: {line[:60]!r}") from error
    if not isinstance(told, dict):
        raise ProtocolMismatch(f"the node's reply is not a JSON object: {line[:60]!r}")
    return told
