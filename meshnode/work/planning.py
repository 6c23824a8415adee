"""What a submission asks for, and the unit that it becomes if nothing speaks against it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from meshnode.errors import CommandError
from meshnode.protocol.durations import parse_duration
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.intake import Input
from meshnode.work.runners.command import CommandType
from meshnode.work.runners.remote import check_way
from meshnode.work.signatures import Signatures
from meshnode.work.status import REMOTE, RemoteExtra, UnitStatus, format_time
from meshnode.work.unit import Clock


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client asks to have run, as it was sent."""

    node: str
    work_type: str
    params: Mapping[str, str] = field(default_factory=dict)
    tls_client: str = ""
    ttl: str = ""
    sign_work: bool = False
    signature: str = ""
    announced: Input = field(default_factory=Input)
    """What the client says of the payload; nothing else is started."""
    follow: bool = False
    """Whether the session goes on to tell of the unit, as :mod:`meshnode.work.follow` has it."""
    key: str = ""
    """Names the submission: a second one of the same key is refused for as long as its unit
    exists. A meshnode that submits to us makes it of its own ID and its unit's."""


class Planner:
    """Judges submissions by what this node offers and asks for."""

    def __init__(
        self,
        node_id: str,
        work_types: Mapping[str, CommandType],
        signatures: Signatures,
        now: Clock,
    ) -> None:
        self._node_id = node_id
        self._work_types = work_types
        self._signatures = signatures
        self._now = now

    def check_signature(
        self, work_type: str, signature: str, *, trusted: bool, sign_work: bool = False
    ) -> None:
        """Refuse what is not signed as the work type asks; ``trusted`` is a unix socket.

        A remote unit asks for it if its own commands to the other node are signed.

        Raises:
            CommandError: there is a signature and nobody asks for one.
            SignatureRefused: it is missing or wrong.
        """
        kind = self._work_types.get(work_type)
        verifies = sign_work if work_type == REMOTE else kind is not None and kind.verify_signature
        self._signatures.check(signature, verifies=verifies, trusted=trusted)

    def plan(self, submission: Submission, *, trusted: bool) -> UnitStatus:
        """Check everything about a submission that can be checked, and return its first status.

        Raises:
            CommandError, SecurityError: with the reason.
        """
        local = submission.node == self._node_id or submission.node.lower() == "localhost"
        # As receptor does, by the name of the type, whichever node the work is for. But what we
        # are to sign ourselves, a stranger must sign, too: else anybody who reaches this node had
        # the use of its key. receptor asks for that only afterwards, with each later command.
        lends_key = submission.sign_work and not local and not trusted
        self.check_signature(
            REMOTE if lends_key else submission.work_type,
            submission.signature,
            trusted=trusted,
            sign_work=submission.sign_work,
        )
        return self._plan_local(submission) if local else self._plan_remote(submission)

    def _plan_local(self, submission: Submission) -> UnitStatus:
        if submission.ttl:
            raise CommandError("ttl option is intended for remote work only")
        kind = self._work_types.get(submission.work_type)
        if kind is None:
            raise CommandError(f"unknown work type {submission.work_type}")
        argv = kind.argv(submission.params.get("params", ""))
        return self._first_status(submission.work_type, params=argv)

    def _plan_remote(self, submission: Submission) -> UnitStatus:
        check_way(submission.tls_client, submission.params)
        if submission.sign_work:
            self._signatures.require_signer()
        extra = RemoteExtra(
            node=submission.node,
            work_type=submission.work_type,
            params=dict(submission.params),
            sign_work=submission.sign_work,
            expiration=self._expiration(submission.ttl),
        )
        return self._first_status(REMOTE, remote=extra)

    def _expiration(self, ttl: str) -> datetime | None:
        if not ttl:
            return None
        try:
            return self._now() + timedelta(seconds=parse_duration(ttl))
        except OverflowError:
            raise CommandError(f"ttl {ttl} ends after the year 9999") from None

    def _first_status(
        self, work_type: str, *, params: tuple[str, ...] = (), remote: RemoteExtra | None = None
    ) -> UnitStatus:
        return UnitStatus(
            state=UnitState.PENDING,
            detail="Unit Created",
            work_type=work_type,
            remote=remote,
            params=params,
            created=format_time(self._now()),
        )
