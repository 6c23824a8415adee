"""Plans a submission: the first status of the unit that it becomes, or why it is refused."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from meshnode.errors import CommandError
from meshnode.permissions import Verb
from meshnode.protocol.control import FILES, INDEX, STDERR
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.access import Allowed, Caller, UnitAccess
from meshnode.work.units.jsonreader import format_datetime
from meshnode.work.units.requests import AdoptRequest
from meshnode.work.units.runner import Plan, WorkType
from meshnode.work.units.status import REMOTE, UnitStatus
from meshnode.work.units.submission import Submission
from meshnode.work.units.unit import Clock


class Planner:
    """Judges submissions by what this node offers and asks for."""

    def __init__(
        self,
        access: UnitAccess,
        work_types: Mapping[str, WorkType],
        elsewhere: Callable[[Submission], Plan],
        now: Clock,
        boot: str,
    ) -> None:
        """``elsewhere`` plans work for other nodes; ``boot`` is the start of the machine."""
        self._access = access
        self._work_types = work_types
        self._elsewhere = elsewhere
        self._now = now
        self._boot = boot

    def plan(self, submission: Submission, caller: Caller) -> tuple[UnitStatus, Allowed]:
        """Check everything about a submission that can be checked.

        Returns its first status, and what lets the client have it run.

        Raises:
            CommandError, SecurityError: with the reason.
        """
        allowed = self._access.check_submission(submission, caller)
        if submission.placement is not None or not self._access.is_local(submission.node):
            plan = self._elsewhere(submission)
            return self._first_status(submission, caller, REMOTE, plan, key=allowed.key), allowed
        if submission.ttl:
            raise CommandError("ttl option is intended for remote work only")
        kind = self._work_types.get(submission.work_type)
        if kind is None:
            raise CommandError(f"unknown work type {submission.work_type}")
        if submission.job.is_for_command and not kind.takes_settings:
            raise CommandError(
                f"work type {submission.work_type} takes no arguments, variables, directory or "
                "files"
            )
        _check_timeout(submission, kind)
        name, plan, verifies = submission.work_type, kind.plan(submission), kind.verify_signature
        key = allowed.key
        status = self._first_status(submission, caller, name, plan, key=key, verifies=verifies)
        return status, allowed

    def plan_adoption(self, request: AdoptRequest, caller: Caller) -> tuple[UnitStatus, Allowed]:
        """Check everything about an adoption that can be checked here.

        Returns its first status, and what lets the client have it.

        Who may have this node submit work to another may have it follow a unit there, unless access
        rules tell the two apart.

        Raises:
            CommandError, SecurityError: with the reason.
        """
        if self._access.is_local(request.node):
            raise CommandError(
                f"unit {request.unit_id} of node {request.node} needs no adoption: "
                "that is this node itself"
            )
        submission = Submission(
            node=request.node,
            work_type="",
            tls_client=request.tls_client,
            sign_work=request.sign_work,
            signature=request.signature,
        )
        allowed = self._access.check_submission(submission, caller, Verb.ADOPT, request.unit_id)
        plan = self._elsewhere(submission)
        status = self._first_status(submission, caller, REMOTE, plan, key=allowed.key)
        named = status.with_remote(unit_id=request.unit_id, started=True, adopted=True, key="")
        # The other node says who has submitted it.
        status = replace(named, detail="Adopted", submitted_by=None, adopted_by=caller.client)
        return status, allowed

    def _first_status(
        self,
        submission: Submission,
        caller: Caller,
        work_type: str,
        plan: Plan,
        *,
        key: str,
        verifies: bool | None = None,
    ) -> UnitStatus:
        return UnitStatus(
            state=UnitState.PENDING,
            # receptor's "Unit Created" comes before; nobody could see it here, and it costs a
            # write.
            detail="Waiting for Input Data",
            work_type=work_type,
            remote=plan.remote,
            runner=plan.runner,
            runner_data=plan.runner_data,
            params=plan.params,
            stderr_size=0 if STDERR in plan.outputs else None,
            index_size=0 if INDEX in plan.outputs else None,
            files_size=0 if FILES in plan.outputs else None,
            limits=plan.limits,
            isolation=plan.isolation,
            created=format_datetime(self._now()),
            boot=self._boot,
            submitter=caller.node,
            submitted_by=caller.client,
            signed_by=key,
            submitted_params=submission.shown_params,
            labels=submission.labels,
            after=submission.after,
            job=submission.job,
            deps_size=submission.job.files.size,
            resumes=submission.resumes,
            verifies=verifies,
        )


def _check_timeout(submission: Submission, kind: WorkType) -> None:
    asked, most = submission.job.timeout, kind.timeout
    if asked is not None and most is not None and asked > most:
        raise CommandError(
            f"timeout {asked:g} s is longer than work type {submission.work_type} allows "
            f"({most:g} s)"
        )
