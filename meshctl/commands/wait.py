"""``meshctl work wait``, and what other commands say of a unit whose end they have waited for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic, strftime
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.errors import (
    AWAY,
    CommandRefused,
    WaitTimedOut,
)
from meshctl.api.status import UNFINISHED
from meshctl.commands.batch import BatchActions, only_batches
from meshctl.commands.completion import UNDER_WAY, units
from meshctl.commands.exits import EPILOG, code_of, ending, gravest, propagate_option, report_end
from meshctl.commands.following import tell_away
from meshctl.commands.options import SHORT_TIMES, Age, Invocation, json_option, pass_invocation_at
from meshctl.commands.units import find_units
from meshctl.commands.waiting import waits_told
from meshctl.render.output import (
    ExitCode,
    Failure,
    json_line,
    print_error,
    print_json,
    print_line,
    sentence,
)

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

Status = dict[str, Any]


@click.command(short_help="Wait until units have ended.", epilog=EPILOG)
@click.argument("unit_ids", nargs=-1, required=True, shell_complete=units(first=UNDER_WAY))
@click.option(
    "--timeout", type=Age(SHORT_TIMES), help="How long to wait for all of them, e.g. 30s."
)
@propagate_option
@json_option
@pass_invocation_at
def wait(
    invocation: Invocation,
    unit_ids: tuple[str, ...],
    timeout: timedelta | None,
    propagate: bool,
    as_json: bool,
) -> None:
    """Wait until units have ended; the exit code says how.

    1 if one failed, else 104 if one cannot be asked about, else 7 if one has not ended in time,
    else 6 if one was canceled, else 0. Ctrl-C ends the waiting only. Batches are waited for, too.
    """
    if propagate and len(set(unit_ids)) > 1:
        raise Failure("--propagate passes on the code of one unit: give one ID.")
    if only_batches(unit_ids):
        if timeout is not None or propagate:
            raise Failure("--timeout and --propagate are for units, not for batches.")
        with invocation.client() as client:
            done = BatchActions(invocation, client, as_json=as_json)
            for batch_id in unit_ids:
                done.wait(batch_id)
        done.finish()
        return
    with invocation.client() as client:
        seconds = None if timeout is None else timeout.total_seconds()
        waiting = _Waiting(invocation, client, seconds, propagate=propagate)
        found = find_units(invocation, client, unit_ids)
        try:
            with waiting_for(invocation, waiting.unfinished):
                waiting.ask_all(found, report=not as_json)
                waiting.wait_all(report=not as_json)
        finally:
            # Also where a break keeps the rest: what is known is known.
            if as_json:
                print_json(waiting.statuses)
    if code := waiting.code():
        raise Failure("", code)


@contextmanager
def waiting_for(invocation: Invocation, unfinished: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Say of whatever ends the waiting early that the units go on, and how to wait again.

    Raises:
        Failure: Ctrl-C, or the node is away.
    """
    try:
        yield
    except (KeyboardInterrupt, *AWAY) as error:
        units = unfinished()
        if not units and not isinstance(error, KeyboardInterrupt):
            raise
        again = invocation.shell_command("work", "wait", *units)
        if isinstance(error, KeyboardInterrupt):
            goes_on = f"unit {units[0]} goes on" if len(units) == 1 else "the units go on"
            text = f"interrupted: {goes_on}. Wait again: {again}" if units else ""
            raise Failure(text, ExitCode.INTERRUPTED) from error
        text = f"{sentence(str(error))} When the node is back, wait again: {again}"
        raise Failure(text, code_of(error)) from error


def wait_for_end(invocation: Invocation, client: "ControlClient", unit_id: str) -> Status:
    """Return the final status of a unit that is known to exist.

    Raises:
        Failure: Ctrl-C, or the node is away.
        ControlError: the unit was released meanwhile.
    """
    with waiting_for(invocation, lambda: [unit_id]), waits_told(invocation, unit_id):
        return client.wait(unit_id, on_away=tell_away, is_known=True)


def show_changes(
    invocation: Invocation, client: "ControlClient", unit_id: str, *, as_json: bool
) -> None:
    """Print a unit's status and each change of it until the unit has ended, a line each.

    Raises:
        Failure: the unit did not end well; or Ctrl-C, or the node is away.
        ControlError: there is no such unit, or not any more.
    """
    status: Status = {}
    shown = ""
    with waiting_for(invocation, lambda: [unit_id] if status else []):
        for status in client.watch(unit_id):
            if as_json:
                print_line(json_line(status))
                continue
            state = f"{status.get('StateName', status.get('State'))!s:<9}"
            line = f"{state}  {status.get('Detail', '')}".rstrip()
            if line != shown:
                # Changes that a line does not show, such as when the unit started, are none here.
                print_line(f"{strftime('%H:%M:%S')}  {line}")
            shown = line
    report_end(unit_id, status, as_json=False)


class _Waiting:
    """What is known of the units that a command waits for."""

    def __init__(
        self,
        invocation: Invocation,
        client: "ControlClient",
        seconds: float | None,
        *,
        propagate: bool,
    ) -> None:
        self._invocation = invocation
        self._client = client
        self._propagate = propagate
        self._seconds = seconds
        self._deadline = None if seconds is None else monotonic() + seconds
        self.statuses: dict[str, Status] = {}
        self._codes: set[int] = set()

    def code(self) -> int:
        """Return the command's exit code."""
        # Of one unit there is one code, and with --propagate it may be any.
        return max(self._codes, default=ExitCode.OK) if self._propagate else gravest(self._codes)

    def unfinished(self) -> list[str]:
        """Return the units that had not ended when last heard of."""
        return [unit for unit, s in self.statuses.items() if s.get("State") in UNFINISHED]

    def ask_all(self, unit_ids: Sequence[str], *, report: bool) -> None:
        """Learn where each unit stands: a mistyped ID must not come out after hours."""
        for unit_id in dict.fromkeys(unit_ids):
            try:
                self._heard(unit_id, self._client.work_status(unit_id), report=report)
            except CommandRefused as error:
                print_error(str(error))
                self._codes.add(ExitCode.REFUSED)

    def wait_all(self, *, report: bool) -> None:
        """Wait for those that have not ended, all of them until the same moment."""
        for unit_id in self.unfinished():
            try:
                with waits_told(self._invocation, unit_id):
                    status = self._client.wait(unit_id, self._remaining(), tell_away)
            except WaitTimedOut as error:
                self.statuses[unit_id] = error.status
                print_error(str(WaitTimedOut(unit_id, self._seconds or 0, error.status)))
                in_time = ExitCode.NO_END_IN_TIME if self._propagate else ExitCode.WAIT_TIMED_OUT
                self._codes.add(in_time)
            except CommandRefused as error:
                print_error(f"unit {unit_id} was released meanwhile: {error}")
                self._codes.add(ExitCode.REFUSED)
            else:
                self._heard(unit_id, status, report=report)

    def _heard(self, unit_id: str, status: Status, *, report: bool) -> None:
        self.statuses[unit_id] = status
        if status.get("State") in UNFINISHED:
            return
        if report:
            print_line(f"({unit_id}, {status.get('StateName', status.get('State'))})")
        text, code = ending(unit_id, status, propagate=self._propagate)
        if code:
            print_error(text)
            self._codes.add(code)

    def _remaining(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - monotonic(), 0.0)
