"""Plans a submission: the first status of the unit that it becomes, or why it is refused."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from meshnode.errors import CommandError
from meshnode.protocol.lifecycle import UnitState
from meshnode.protocol.times import parse_duration
from meshnode.work.local.worktypes import CommandType
from meshnode.work.remote.start import check_tls
from meshnode.work.units.access import Caller, Signatures, UnitAccess
from meshnode.work.units.jsonreader import format_time
from meshnode.work.units.keys import new_secret
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.requests import Submission
from meshnode.work.units.status import REMOTE, UnitStatus
from meshnode.work.units.unit import Clock


class Planner:
    """Judges submissions by what this node offers and asks for."""

    def __init__(
        self,
        access: UnitAccess,
        work_types: Mapping[str, CommandType],
        signatures: Signatures,
        now: Clock,
        boot: str,
    ) -> None:
        """``boot`` is the start of the machine, which units remember."""
        self._access = access
        self._work_types = work_types
        self._signatures = signatures
        self._now = now
        self._boot = boot

    def plan(self, submission: Submission, caller: Caller) -> UnitStatus:
        """Check everything about a submission that can be checked, and return its first status.

        Raises:
            CommandError, SecurityError: with the reason.
        """
        self._access.check_submission(submission, caller)
        if self._access.is_local(submission.node):
            return self._plan_local(submission, caller)
        return self._plan_remote(submission, caller)

    def _plan_local(self, submission: Submission, caller: Caller) -> UnitStatus:
        if submission.ttl:
            raise CommandError("ttl option is intended for remote work only")
        kind = self._work_types.get(submission.work_type)
        if kind is None:
            raise CommandError(f"unknown work type {submission.work_type}")
        argv = kind.argv(submission.params.get("params", ""))
        return self._first_status(
            caller, submission.work_type, params=argv, verifies=kind.verify_signature
        )

    def _plan_remote(self, submission: Submission, caller: Caller) -> UnitStatus:
        check_tls(submission.tls_client, submission.params)
        if submission.sign_work:
            self._signatures.require_signer()
        extra = RemoteExtra(
            node=submission.node,
            work_type=submission.work_type,
            params=dict(submission.params),
            sign_work=submission.sign_work,
            expiration=self._expiration(submission.ttl),
            key=new_secret(),
        )
        return self._first_status(caller, REMOTE, remote=extra)

    def _expiration(self, ttl: str) -> datetime | None:
        if not ttl:
            return None
        try:
            return self._now() + timedelta(seconds=parse_duration(ttl))
        except OverflowError:
            raise CommandError(f"ttl {ttl} ends after the year 9999") from None

    def _first_status(
        self,
        caller: Caller,
        work_type: str,
        *,
        params: tuple[str, ...] = (),
        remote: RemoteExtra | None = None,
        verifies: bool = False,
    ) -> UnitStatus:
        return UnitStatus(
            state=UnitState.PENDING,
            # receptor's "Unit Created" comes before; nobody could see it here, and it costs a
            # write.
            detail="Waiting for Input Data",
            work_type=work_type,
            remote=remote,
            params=params,
            created=format_time(self._now()),
            boot=self._boot,
            submitter=caller.node,
            verifies=verifies,
        )
