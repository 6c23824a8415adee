"""Submits work to a node, and goes on with the payload where its session was cut.

A meshnode keeps what has come of a payload that was cut off, if the submission has a key and says
what the whole is. The client that comes back asks what became of that key: the node wants the rest,
or has all of it, or nothing worth keeping. So the work is submitted again only where certainly
nothing was started. A receptor node knows no keys, and is sent none.
"""

import json
import re
import time
from collections.abc import Callable
from contextlib import closing, suppress

from meshctl.api import JsonObject, submission
from meshctl.api.connection import Connection
from meshctl.api.errors import (
    AWAY,
    CommandRefused,
    ControlError,
    PayloadLost,
    ProtocolMismatch,
    SessionLost,
    SubmissionUnconfirmed,
)
from meshctl.api.payload import Sendable
from meshctl.api.status import (
    ASK_INTERVAL,
    CANCELED,
    FAILED,
    NODE_RETURNS,
    STATES,
    Absence,
    unit_status,
)
from meshctl.api.submission import (
    SUBMISSION_KEY,
    Created,
    Submission,
    Told,
)

WITHDRAW_TIMEOUT = 5.0
"""Seconds that a node has to drop what came of a payload whose rest will not come. If it is away,
it drops that an hour later."""

MOST_REFUSALS = 2
"""Refusals after a cut until the last one counts: a node that had all of the payload by then, or
has put together what is wrong, says so once."""

MOST_IDLE = 20
"""Sessions in a row that bring a node nothing that it keeps, until the payload is given up: some
link breaks whenever it is sent."""

_CUT = re.compile(r"[0-9]+ of the [0-9]+ bytes that were announced")
"""In what a node says of a payload whose end has come too early. We do not end one early: its
connection was cut somewhere on the way, where that looks like an end."""

Take = Callable[[], Connection]


class Upload:
    """One submission under a key, over as many sessions as it takes.

    Args:
        take: Returns an exclusive session.
        line: The submission, which is sent again as it is.
        key: Its key.
        payload: What can be sent from any byte on.
        told: Whom to tell how it goes.
    """

    def __init__(self, take: Take, line: str, key: str, payload: Sendable, told: Told) -> None:
        self._take = take
        self._line = line
        self._key = key
        self._payload = payload
        self._told = told
        self._created = Created("")
        self._reached = 0
        """The byte from which on a node has last asked for the payload."""
        self._may_have_ended = False
        """Whether the node may have all of the payload, and so may have started the unit."""
        self._idle = 0
        """Sessions in a row to which the node came with no more than to the one before."""
        self._was_cut = False
        self._refusals = 0
        self._absence = Absence(told.on_away)

    def run(self, session: Connection) -> Submission:
        """Submit, at first over this session. Raises as :meth:`meshctl.ControlClient.submit`."""
        try:
            outcome = self._send(session)
            while isinstance(outcome, ControlError):
                self._wait_out(outcome)
                outcome = self._try_again()
        except (CommandRefused, SessionLost):
            raise  # nothing waits for the rest, or nobody can be told
        except BaseException:
            self._withdraw()
            raise
        return outcome

    def _wait_out(self, fault: ControlError) -> None:
        """Return when it is time to try again after a fault. Raises ControlError: it is not."""
        if isinstance(fault, CommandRefused):
            self._refusals += 1
            if not self._was_cut or self._refusals >= MOST_REFUSALS:
                raise fault
            if self._reached and not self._payload.is_unchanged():
                raise PayloadLost(self._unit_id, "the payload is not what it was at first")
            return
        if isinstance(fault, ProtocolMismatch) and not self._unit_id:
            raise fault
        lasts = self._absence.lasts(str(fault), NODE_RETURNS)
        if not lasts or self._idle >= MOST_IDLE:
            raise self._given_up(fault)
        self._was_cut = True
        time.sleep(ASK_INTERVAL)

    def _given_up(self, fault: ControlError) -> ControlError:
        if self._may_have_ended:
            return SubmissionUnconfirmed(self._unit_id, str(fault))
        what = f"unit {self._unit_id}" if self._unit_id else "the work"
        return SessionLost(f"{fault}: {what} was not started; submit it again")

    @property
    def _unit_id(self) -> str:
        return self._created.unit_id

    # --- one session --------------------------------------------------------------------------

    def _send(self, session: Connection) -> Submission | ControlError:
        """Submit and send what the node wants; return its answer, or why there is none."""
        try:
            with closing(session):
                session.send_line(self._line)
                self._take_note(submission.read_created(session.read_line_guarded()))
                start = self._created.position
                submission.send_payload(session, self._unit_id, self._payload, self._told, start)
                self._may_have_ended = True
                return submission.confirmation(session, self._unit_id)
        except SubmissionUnconfirmed as error:
            self._may_have_ended = True
            return SessionLost(error.reason)
        except CommandRefused as error:
            return SessionLost(str(error)) if _CUT.search(str(error)) else error
        except AWAY as error:
            return error

    def _take_note(self, created: Created) -> None:
        is_new = created.unit_id != self._unit_id
        self._created = created
        # No session before this one writes anything of the payload from here on.
        self._may_have_ended = False
        if is_new and self._told.on_created is not None:
            self._told.on_created(created.unit_id)
        size = self._payload.size or 0
        if created.position > size:
            there = f"the node says that it has {created.position} of {size} bytes"
            raise PayloadLost(created.unit_id, there)
        self._absence.ends()
        self._idle = 0 if created.position > self._reached else self._idle + 1
        self._reached = created.position

    def _try_again(self) -> Submission | ControlError:
        """Ask what became of the submission, and send what is missing.

        Raises:
            CommandRefused, SubmissionUnconfirmed: it comes to nothing, or nobody can tell.
        """
        try:
            session = self._take()
        except AWAY as error:
            return error
        try:
            taken = self._settled(session)
        except SubmissionUnconfirmed:
            session.close()
            raise
        except AWAY as error:
            session.close()
            return error
        except BaseException:
            session.close()
            raise
        if taken is None:
            return self._send(session)
        session.close()
        return taken

    # --- what became of it --------------------------------------------------------------------

    def _settled(self, session: Connection) -> Submission | None:
        """Return the submission if the node has taken it, None if it is to be sent (on).

        Raises:
            CommandRefused: its unit has ended otherwise.
            SubmissionUnconfirmed: the node cannot tell.
            SessionLost, ProtocolMismatch
        """
        known = asked(session, self._key, self._created)
        match known.get("Trace"):
            case "unit":
                return None if "Received" in known else self._of_unit(session, known)
            case "released":
                return Submission(self._unit_id, "Job Started")
            case "nothing" if _store(known.get("Mark")) == _store(self._created.receipt):
                return None
            case trace:
                if not self._may_have_ended:
                    return None
                why = f"its record there is {trace}"
                if trace == "nothing":
                    why = "the node has another directory by now"
                raise SubmissionUnconfirmed(self._unit_id, why)

    def _of_unit(self, session: Connection, known: JsonObject) -> Submission | None:
        """As :meth:`_settled`, of a unit that awaits nothing more."""
        unit_id = str(known.get("UnitID"))
        status = _status_of(session, unit_id)
        state = status.get("State")
        if known.get("NeverRan") is not True:
            is_seen = state not in {None, STATES.index("Pending")}
            return Submission(unit_id, "Job Started" if is_seen else "Job Submitted")
        if state == CANCELED:
            text = f"work unit {unit_id} was canceled before it was started"
            raise CommandRefused(text, unit_id)
        if state == FAILED and status.get("StdinSize") is not None:
            raise CommandRefused(str(status.get("Detail")), unit_id)
        if state == FAILED:
            # Too little had come to be kept. Nothing has been started, and its key is free again.
            session.send_line(f"work release {unit_id}")
            session.read_json()
        return None

    def _withdraw(self) -> None:
        """Have the node drop what has come of a payload whose rest will not."""
        if not self._unit_id:
            return
        with suppress(ControlError), closing(self._take()) as session:
            session.set_timeout(WITHDRAW_TIMEOUT)
            session.send_line(json.dumps(_withdrawal(self._unit_id)))
            session.read_line()


def _status_of(session: Connection, unit_id: str) -> JsonObject:
    """Return the status of a unit; nothing for a client that may submit and not look."""
    session.send_line(f"work status {unit_id}")
    try:
        return unit_status(session.read_json())
    except CommandRefused:
        return {}


def _withdrawal(unit_id: str) -> JsonObject:
    return {"command": "work", "subcommand": "cancel", "unitid": unit_id, "unless": "started"}


def asked(session: Connection, key: str, created: Created) -> JsonObject:
    """Ask what became of a submission. Raises CommandRefused, as by a node that knows no keys."""
    request = {"command": "work", "subcommand": "submitted", SUBMISSION_KEY: key}
    told = {"unitid": created.unit_id, "submissionmark": created.receipt}
    session.send_line(json.dumps(request | told))
    return session.read_json()


def _store(receipt: object) -> str:
    """Return the identity of the store that has given a receipt."""
    return str(receipt or "").partition("@")[0]
