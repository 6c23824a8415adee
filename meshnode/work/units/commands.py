"""The ``work`` command of the control service: handlers for what ``requests`` reads."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from meshnode.control.registry import (
    Asking,
    Command,
    ControlSession,
    Handler,
    JsonObject,
    while_client_is_there,
)
from meshnode.errors import MeshnodeError, NotAllowed, SecurityError, WorkError
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.permissions import Verb
from meshnode.protocol.control import NOT_NOW, encode_error, encode_reply
from meshnode.security.auditlines import Kind
from meshnode.work.units.access import Allowed, Caller
from meshnode.work.units.follow import shown, wait_news, without_sizes
from meshnode.work.units.intake import InputRefused, Payload
from meshnode.work.units.jsonreader import NOTHING
from meshnode.work.units.keys import KeyState
from meshnode.work.units.listing import send_all, send_page
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.requests import (
    AdoptRequest,
    CancelRequest,
    Handlers,
    ListRequest,
    ReleaseRequest,
    ResultsRequest,
    StatusRequest,
    SubmitRequest,
    SubmittedRequest,
    WatchRequest,
    WorkRequest,
    parse_json,
    parse_text,
)
from meshnode.work.units.results import check_has
from meshnode.work.units.shortage import NotNow, in_thread_or_here, is_lack
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.submission import Submission
from meshnode.work.units.submissions import Found
from meshnode.work.units.unit import Unit
from meshnode.work.units.uploads import awaits_rest


def work_command(units: UnitManager, more: Handlers) -> Command:
    """Return the command that brings ``units``, and ``more``, to the control service."""
    commands = WorkCommands(units, more)
    return Command(
        name="work",
        parse_text=lambda words: commands.handler(parse_text(words)),
        parse_json=lambda data: commands.handler(parse_json(data)),
    )


class WorkCommands:
    """Runs parsed requests."""

    def __init__(self, units: UnitManager, more: Handlers) -> None:
        self._units = units
        self._handlers: Handlers = {
            **more,
            SubmitRequest: self._submit,
            ListRequest: self._list,
            StatusRequest: self._status,
            WatchRequest: self._watch,
            SubmittedRequest: self._submitted,
            AdoptRequest: self._adopt,
            CancelRequest: self._cancel,
            ReleaseRequest: self._release,
            ResultsRequest: self._results,
        }

    def handler(self, request: WorkRequest) -> Handler:
        """Return what runs a request."""
        handle = self._handlers[type(request)]

        async def run(session: ControlSession) -> JsonObject | None:
            return await handle(request, session)

        return Asking(run, None)

    # --- submit -------------------------------------------------------------------------------

    async def _submit(self, request: SubmitRequest, session: ControlSession) -> JsonObject | None:
        # A node tries again what is only lacking now; others are told in plain words.
        with _refusals_told(session, marks_lacks=request.submission.follow):
            return await self._take_submission(request, session)

    async def _take_submission(
        self, request: SubmitRequest, session: ControlSession
    ) -> JsonObject | None:
        caller = Caller.of(session, request.submission.claim)
        log = subject_logger("session", session.peer)
        with (
            self._refusals_noted(Verb.SUBMIT, caller, request.submission),
            _refusals_logged("submission", log, session),
        ):
            unit = await self._units.create(request.submission, caller)
        payload = Payload(
            request.submission.announced,
            invite=lambda position: session.send(self._created(unit, position)),
            receive=session.receive_some,
        )
        try:
            started = await self._units.start(unit, payload)
        except InputRefused as refusal:
            # The session cannot go on: what is left of the payload would be read as commands.
            _log_refusal(session, refusal)
            marks = request.submission.follow and is_lack(refusal)
            await session.send(encode_error(f"{NOT_NOW if marks else ''}{refusal}"))
            session.finish()
            return None
        reply = {
            "unitid": unit.unit_id,
            "result": "Job Started" if started else "Job Submitted",
        }
        access, status = self._units.access, unit.status
        if not (request.submission.follow and access.may_follow(unit.unit_id, status, caller)):
            return reply
        await session.send(encode_reply({**reply, "follows": True}))
        session.finish()
        shows_output = access.may_follow(unit.unit_id, status, caller, Verb.RESULTS)
        await while_client_is_there(
            session,
            lambda: self._units.send_followed(unit, session.send, shows_output=shows_output),
        )
        return None

    def _created(self, unit: Unit, position: int) -> bytes:
        how, rest = ("resumed", f" from byte {position}") if position else ("created", "")
        text = f"Work unit {how} with ID {unit.unit_id}. Send stdin data{rest} and EOF."
        if unit.status.submission_key:
            # Who has this may ask later what became of the submission.
            text += f" Store {self._units.submissions.receipt()}."
        return text.encode() + b"\n"

    async def _adopt(self, request: AdoptRequest, session: ControlSession) -> JsonObject:
        caller, log = Caller.of(session), subject_logger("session", session.peer)
        with (
            self._refusals_noted(Verb.ADOPT, caller, request),
            _refusals_logged("adoption", log, session),
        ):
            unit = await self._units.adopt(request, caller)
        return {"unitid": unit.unit_id, "result": "Adopted"}

    # --- looking ------------------------------------------------------------------------------

    async def _list(self, request: ListRequest, session: ControlSession) -> JsonObject | None:
        if request.unit_id is None:
            caller, access = Caller.of(session), self._units.access
            access.check(Verb.LIST, None, caller)
            may_see = access.lister(caller)

            def shows(unit: Unit) -> bool:
                return may_see(unit.unit_id, unit.status)

            if request.wanted is None:
                await send_all(self._units.all(), session, shows)
            else:
                await send_page(self._units.all(), session, request.wanted, shows)
            return None
        unit = self._visible(Verb.LIST, request.unit_id, request.signature, session)
        return {unit.unit_id: shown(unit)}

    async def _status(self, request: StatusRequest, session: ControlSession) -> JsonObject:
        unit = self._visible(Verb.STATUS, request.unit_id, request.signature, session)
        used = {} if unit.measure is None else await in_thread_or_here(unit.measure)
        # What the supervisor has recorded since is more than what was read before.
        return {**used, **shown(unit)}

    async def _watch(self, request: WatchRequest, session: ControlSession) -> None:
        unit = self._units.find(request.unit_id)
        self._check_access(Verb.STATUS, unit, request.signature, session, "watch")
        session.finish()
        await while_client_is_there(session, lambda: _send_changes(unit, session))

    async def _submitted(self, request: SubmittedRequest, session: ControlSession) -> JsonObject:
        submissions, caller, access = (
            self._units.submissions,
            Caller.of(session),
            self._units.access,
        )
        access.check(Verb.SUBMIT, None, caller)
        found = submissions.find(caller.node, request.key, request.unit_id, request.receipt)
        if found.unit and not access.is_known(found.unit.unit_id, found.unit.status, caller):
            found = Found(KeyState.NOTHING)
        reply: JsonObject = {"Mark": str(submissions.receipt()), "Trace": str(found.key_state)}
        if found.unit is not None:
            status = found.unit.status
            reply |= {
                "UnitID": found.unit.unit_id,
                "Work": status.submission_work,
                "NeverRan": status.never_ran,
            }
            if awaits_rest(found.unit):
                reply["Received"] = self._units.uploads.received(found.unit)
        if found.state is not None:
            reply["State"] = found.state
        return reply

    async def _results(self, request: ResultsRequest, session: ControlSession) -> None:
        unit = self._units.find(request.unit_id)
        self._check_access(Verb.RESULTS, unit, request.signature, session)
        check_has(unit, request.stream)
        await session.send(f"Streaming results for work unit {unit.unit_id}\n".encode())
        # From here on everything that is sent counts as output, so no error line may follow.
        session.finish()
        if request.start < 0:
            return
        try:
            await while_client_is_there(
                session,
                lambda: self._send_results(unit, request, session),
            )
        except* WorkError as errors:
            for error in errors.exceptions:
                unit.log.warning("results cut short for %s: %s", session.peer, error)

    async def _send_results(
        self, unit: Unit, request: ResultsRequest, session: ControlSession
    ) -> None:
        await self._units.send_results(unit, request.start, session.send_file, request.stream)

    # --- ending -------------------------------------------------------------------------------

    async def _cancel(self, request: CancelRequest, session: ControlSession) -> JsonObject:
        unit = self._units.find(request.unit_id)
        allowed = self._check_access(Verb.CANCEL, unit, request.signature, session)
        caller, journal = Caller.of(session, request.claim), self._units.journal
        with journal.request(Kind.CANCEL, unit.unit_id, unit.status, caller, allowed) as asked:
            done = asked.is_done = await self._units.ender.cancel(
                unit, caller.client, unless_started=request.unless_started
            )
        return {"cancelled" if done else "cancel pending": unit.unit_id}

    async def _release(self, request: ReleaseRequest, session: ControlSession) -> JsonObject:
        unit = self._units.find(request.unit_id)
        allowed = self._check_access(Verb.RELEASE, unit, request.signature, session)
        caller, journal = Caller.of(session, request.claim), self._units.journal
        with journal.request(Kind.RELEASE, unit.unit_id, unit.status, caller, allowed) as asked:
            done = asked.is_done = await self._units.ender.release(
                unit, caller.client, force=request.force, remote=request.remote
            )
        return {"released" if done else "release pending": unit.unit_id}

    def _check_access(
        self, verb: Verb, unit: Unit, signature: str, session: ControlSession, what: str = ""
    ) -> Allowed:
        caller = Caller.of(session)
        with (
            self._refusals_noted(verb, caller, unit.status, unit.unit_id),
            _refusals_logged(what or verb, unit.log, session),
        ):
            access = self._units.access
            return access.check_unit(verb, unit.unit_id, unit.status, signature, caller)

    def _visible(self, verb: Verb, unit_id: str, signature: str, session: ControlSession) -> Unit:
        unit, caller = self._units.find(unit_id), Caller.of(session)
        with (
            self._refusals_noted(verb, caller, unit.status, unit_id),
            _refusals_logged(verb, unit.log, session),
        ):
            self._units.access.check_visible(verb, unit_id, unit.status, signature, caller)
        return unit

    @contextmanager
    def _refusals_noted(
        self,
        verb: Verb,
        caller: Caller,
        what: UnitStatus | Submission | AdoptRequest,
        unit_id: str = "",
    ) -> Iterator[None]:
        """Tell the audit log that something of a unit, for security, or a new one is refused."""
        try:
            yield
        except NotAllowed:
            raise  # told already, with the rule
        except MeshnodeError as error:
            if isinstance(error, SecurityError) or not isinstance(what, UnitStatus):
                self._units.journal.refused(verb, caller, error, unit_id=unit_id, what=what)
            raise


@contextmanager
def _refusals_told(session: ControlSession, *, marks_lacks: bool) -> Iterator[None]:
    """Log what is refused to other nodes, whose users may ask here why.

    With ``marks_lacks``, what this node only lacks now is marked, so that a node can tell it.
    """
    try:
        yield
    except SecurityError:
        raise  # logged already
    except MeshnodeError as error:
        _log_refusal(session, error)
        if not (marks_lacks and is_lack(error)):
            raise
        raise NotNow(f"{NOT_NOW}{error}") from error


def _log_refusal(session: ControlSession, error: MeshnodeError) -> None:
    if session.kind == "mesh":
        level = logging.WARNING if is_lack(error) else logging.INFO
        text = "submission refused to mesh client %s: %s"
        subject_logger("session", session.peer).log(level, text, session.peer, error)


@contextmanager
def _refusals_logged(what: str, log: SubjectLogger, session: ControlSession) -> Iterator[None]:
    """Log what is refused for security: it may be an attack."""
    try:
        yield
    except NotAllowed:
        raise  # logged already, with the rule
    except SecurityError as error:
        log.warning("%s refused to %s client %s: %s", what, session.kind, session.peer, error)
        raise


async def _send_changes(unit: Unit, session: ControlSession) -> None:
    """Send the status now and after each change, the final one last; more output is no change."""
    sent: JsonObject = {}
    used: Mapping[str, object] = NOTHING
    while not unit.released:
        seen, final = unit.version, unit.is_final
        told = {**used, **shown(unit)}
        if without_sizes(told) != without_sizes(sent):
            await session.send(encode_reply(told))
            sent = told
        if final:
            return
        used = await wait_news(unit, partial(unit.wait_changed, seen), used)
