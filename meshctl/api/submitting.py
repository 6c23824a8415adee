"""The part of a client that submits work: with a key, where its payload may come in parts."""

from collections.abc import Callable, Mapping
from typing import BinaryIO, Protocol, cast

from meshctl.api import submission
from meshctl.api.connection import Connection
from meshctl.api.errors import CommandRefused
from meshctl.api.payload import Sendable
from meshctl.api.submission import (
    RESUME_KEY,
    SUBMISSION_KEY,
    Created,
    JobSettings,
    Submission,
    Told,
    new_key,
)
from meshctl.api.uploading import Upload, asked

LEAST_RESUMED = 64 * 1024
"""Bytes of a payload that is sent under a key: of a shorter one a node keeps nothing, and to ask
whether it knows keys would take longer than to send it again."""


class _Takes(Protocol):
    """What of a :class:`meshctl.ControlClient` this needs."""

    def take(self) -> Connection:
        """Return an exclusive session."""
        ...


class SubmitsWork:
    """The part of a :class:`meshctl.ControlClient` that submits work."""

    def submit(
        self,
        worktype: str,
        payload: bytes | BinaryIO | None = None,
        *,
        node: str = "",
        params: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        job: JobSettings | None = None,
        ttl: str = "",
        signwork: bool = False,
        tls_client: str = "",
        on_created: Callable[[str], object] | None = None,
        on_sent: Callable[[int, int | None], object] | None = None,
        on_away: Callable[[str], object] | None = None,
    ) -> Submission:
        """Submit a unit of work and send its payload.

        Half a payload never starts a unit: if reading it fails, or this process dies, the node
        sees a reset session. A meshnode whose session is cut amid a payload of 64 KiB or more has
        30 s to come back, and is sent the rest, if the payload can be read again: bytes and files
        can, a pipe cannot. The work runs once whatever is cut.

        Args:
            worktype: A work type of the target.
            payload: The unit's stdin: bytes, an open binary file (read to its end), or nothing.
            node: The target; empty for our node, which chooses for ``any``, ``random``, ``least``.
            params: Further parameters, e.g. ``{"params": "--all /root"}``.
            labels: Names and values by which the unit is found again; a meshnode shows them.
            job: What is given to the job beside them; a meshnode checks it.
            ttl: Time in which remote work must start, e.g. ``1h20m30s``.
            signwork: Have the node sign the submission.
            tls_client: Name of a ``tls-client`` of our node, for the way to the target.
            on_created: Called with the unit's ID before the payload is sent, so that the caller
                can name the unit whatever happens next. Again if another one takes its place.
            on_sent: Called after each piece of the payload with the bytes sent so far and their
                number in all, None where that is not known.
            on_away: Called with the reason when the session is cut, and the node is waited for.

        Raises:
            CommandRefused: the node said why; with ``unit_id`` if the unit exists.
            PayloadLost: the payload could not be read to its end.
            SubmissionUnconfirmed: the unit exists, and may have been started.
            BadSettings: the payload is text, or an argument cannot be sent; nothing was sent.
            SessionLost: the session ended before the payload was sent: nothing was started.
        """
        whole = submission.sendable(payload, job)
        fields = whole.announced | (job.fields() if job else {})

        def line(more: Mapping[str, str]) -> str:
            terms = (params or {}, labels or {}, {**fields, **more})
            return submission.submission_line(worktype, node, tls_client, ttl, signwork, *terms)

        told = Told(on_created, on_sent, on_away)
        plain = line({})
        take = cast("_Takes", self).take
        session = take()
        try:
            more = keyed(session, whole)
            if more:
                upload = Upload(take, line(more), more[SUBMISSION_KEY], whole, told)
                return upload.run(session)
            return submission.send_submission(session, plain, whole, told)
        finally:
            session.close()


def keyed(session: Connection, payload: Sendable) -> dict[str, str]:
    """Return what a submission needs so that its payload may come in parts; nothing if it cannot.

    The node is asked whether it knows of keys: a receptor node would take them for parameters.

    Raises:
        SessionLost, ProtocolMismatch
    """
    if payload.size is not None and payload.size < LEAST_RESUMED:
        return {}
    announced = payload.in_parts()
    if announced is None:
        return {}
    key = new_key()
    try:
        known = asked(session, key, Created(""))
    except CommandRefused:
        return {}
    if known.get("Trace") is None:
        return {}
    return {**announced, SUBMISSION_KEY: key, RESUME_KEY: "true"}
