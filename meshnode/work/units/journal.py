"""What the audit log says of units: who had them submitted, and what became of them.

The manager tells of each unit that comes, changes its state or goes; the commands tell of what
clients asked besides, and of what they were refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from meshnode.errors import MeshnodeError, NotAudited
from meshnode.permissions import Verb
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.access import Decision
from meshnode.security.audit import AuditLog
from meshnode.security.auditlines import AuditEvent, Kind
from meshnode.security.identity import Identity
from meshnode.work.units.access import Allowed, Caller
from meshnode.work.units.requests import AdoptRequest
from meshnode.work.units.shortage import NotNow
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.submission import Submission, shown_params

STOPPING = timedelta(seconds=10)
"""For so long before its last line a node may have been stopping, and have told of no end."""


@dataclass(slots=True, eq=False)
class Request:
    """A client's request to end a unit, while it is being done."""

    caller: Caller
    allowed: Allowed
    is_done: bool | None = None
    """What came of it; False if it must wait for another node, None if nobody knows yet."""


class Journal:
    """Tells the audit log of units; it costs next to nothing where there is none."""

    def __init__(self, audit: AuditLog | None = None) -> None:
        self._audit = AuditLog("") if audit is None else audit
        self._releases: dict[str, Request] = {}
        """Releases that clients wait for, by the ID of the unit."""

    @property
    def is_on(self) -> bool:
        """Whether there is an audit log."""
        return self._audit.is_on

    # --- what the manager tells -----------------------------------------------------------------

    async def accepted(
        self, kind: Kind, unit_id: str, status: UnitStatus, caller: Caller, allowed: Allowed
    ) -> None:
        """Tell that a new unit was submitted or adopted, before anything is done for it.

        Raises:
            NotNow: this cannot be recorded, and must be.
        """
        event = AuditEvent(
            kind,
            caller.client,
            caller.way,
            unit=unit_id,
            params=status.submitted_params,
            key=allowed.key,
            rule=allowed.rule,
            outcome="accepted",
            **_about(status),
        )
        try:
            await self._audit.require(event)
        except NotAudited as error:
            raise NotNow(str(error)) from error

    def changed(self, unit_id: str, old: UnitStatus, new: UnitStatus) -> None:
        """Tell that a unit has another state: that it has started, or ended, or both at once."""
        if not self._audit.is_on:
            return
        # What ends in its first moment may be known only then to have started.
        has_run = new.state in {UnitState.RUNNING, UnitState.SUCCEEDED} or new.started is not None
        if old.state is UnitState.PENDING and has_run:
            by = new.submitted_by or new.adopted_by
            event = AuditEvent(Kind.START, by, unit=unit_id, **_about(new))
            self._audit.record(event)
        if new.state.is_final and not old.state.is_final:
            self._ended(unit_id, new)

    def found(self, unit_id: str, status: UnitStatus) -> None:
        """Tell of a unit that the last run of the node has left, if it has ended since.

        Only of commands, which go on without the node.
        """
        earlier, finished = self._audit.earlier, status.finished
        if earlier is None or finished is None or not (status.is_command and status.state.is_final):
            return
        moment = datetime.fromisoformat(finished)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if moment > earlier.until - STOPPING and unit_id not in earlier.ended:
            self._ended(unit_id, status)

    def _ended(self, unit_id: str, status: UnitStatus) -> None:
        self._audit.record(
            AuditEvent(
                Kind.END,
                status.submitted_by or status.adopted_by,
                unit=unit_id,
                outcome=status.state.label.lower(),
                exit_code=status.exit_code,
                signal=status.signal or "",
                finished=status.finished or "",
                ended_by=status.ending,
                **_about(status),
            )
        )

    def released(self, unit_id: str, status: UnitStatus, by: Identity | None) -> None:
        """Tell that a unit is gone; ``by`` is None if the node has released it by itself."""
        if not self._audit.is_on:
            return
        request = self._releases.get(unit_id)
        if request is not None and request.caller.client != by:
            request = None
        self._audit.record(
            AuditEvent(
                Kind.RELEASE,
                by,
                request.caller.way if request is not None else "",
                unit=unit_id,
                key=request.allowed.key if request is not None else "",
                rule=request.allowed.rule if request is not None else "",
                outcome="done",
                **_about(status),
            )
        )

    # --- what the commands tell -----------------------------------------------------------------

    @contextmanager
    def request(
        self, kind: Kind, unit_id: str, status: UnitStatus, caller: Caller, allowed: Allowed
    ) -> Iterator[Request]:
        """Tell what came of a cancel or release that is done while the context lasts.

        A release that was done has been told when the unit went.
        """
        request = Request(caller, allowed)
        if kind is Kind.RELEASE:
            self._releases[unit_id] = request
        outcome = "interrupted: the client has left"
        try:
            yield request
            outcome = "done" if request.is_done else "waits for the other node"
        except MeshnodeError as error:
            outcome = f"failed: {error}"
            raise
        finally:
            if self._releases.get(unit_id) is request:
                del self._releases[unit_id]
            if self._audit.is_on and not (kind is Kind.RELEASE and request.is_done):
                event = AuditEvent(
                    kind,
                    caller.client,
                    caller.way,
                    unit=unit_id,
                    key=allowed.key,
                    rule=allowed.rule,
                    outcome=outcome,
                    **_about(status),
                )
                self._audit.record(event)

    def not_allowed(self, decision: Decision) -> None:
        """Tell that the access rules did not let a client do something."""
        asker, target = decision.asker, decision.target
        params = shown_params(target.params) if decision.verb is Verb.SUBMIT else ""
        self._audit.record(
            AuditEvent(
                Kind.REFUSAL,
                asker.identity,
                asker.way,
                asked=decision.verb,
                unit=target.unit_id,
                work_type=target.work_type,
                target=target.node,
                service=target.service,
                params=params,
                key=asker.key,
                rule=decision.label,
                outcome=decision.reason,
            )
        )

    def refused(
        self,
        asked: str,
        caller: Caller,
        error: MeshnodeError,
        *,
        unit_id: str = "",
        what: UnitStatus | Submission | AdoptRequest | None = None,
    ) -> None:
        """Tell that a client was refused something about a unit, or a new one."""
        if not self._audit.is_on:
            return
        about: dict[str, Any] = {}
        if isinstance(what, UnitStatus):
            about = _about(what)
        elif isinstance(what, Submission):
            about = {"work_type": what.work_type, "target": what.node, "params": what.shown_params}
        elif isinstance(what, AdoptRequest):
            about = {"target": what.node, "remote_unit": what.unit_id}
        by, way = caller.client, caller.way
        event = AuditEvent(
            Kind.REFUSAL, by, way, asked=asked, unit=unit_id, outcome=str(error), **about
        )
        self._audit.record(event)


def _about(status: UnitStatus) -> dict[str, Any]:
    """Return what a unit is, as the two halves of one on two nodes both have it."""
    remote = status.remote
    if remote is None:
        return {"work_type": status.work_type}
    return {
        "work_type": remote.work_type,
        "target": remote.node,
        "remote_unit": remote.unit_id,
    }
