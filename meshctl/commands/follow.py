"""Deliver a unit's results to standard output, and say how the unit ended."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from meshctl.api.errors import CannotReach, CommandRefused, ProtocolMismatch, SessionLost
from meshctl.api.states import CANCELED, FAILED, UNFINISHED
from meshctl.commands.invocation import Invocation
from meshctl.render.output import (
    ExitCode,
    Failure,
    json_line,
    print_note,
    sentence,
    stdout_is_terminal,
    write_raw,
)
from meshctl.render.progress import on_stderr

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient


def deliver(
    invocation: Invocation,
    client: "ControlClient",
    unit_id: str,
    startpos: int = 0,
    *,
    removes: bool = False,
) -> dict[str, Any]:
    """Write the unit's stdout from ``startpos`` to ours until the unit has ended.

    Args:
        invocation: For the commands that a message suggests.
        client: Whom to ask.
        unit_id: The unit.
        startpos: First byte wanted.
        removes: Whether the unit was to be released afterwards, which an error must mention.

    Returns:
        The unit's final status; all of its stdout has been written.

    Raises:
        Failure: the results are not complete; the unit goes on and is not released.
        ControlError: they could not be asked for.
    """
    position = startpos
    try:
        with (
            _progress(client, unit_id, startpos) as show,
            client.results(unit_id, startpos) as pieces,
        ):
            try:
                for piece in pieces:
                    write_raw(piece)
                    position += len(piece)
                    show(position)
                status = _status_at_end(client, unit_id, position)
            except (SessionLost, CannotReach, ProtocolMismatch) as error:
                # A node that dies ends its sessions as one that is done: the status tells.
                raise _broken_off(invocation, unit_id, position, str(error)) from error
    except KeyboardInterrupt as error:
        again = invocation.shell_command("work", "results", unit_id)
        release = invocation.shell_command("work", "release", unit_id)
        kept = f" and is not released (to release it: {release})" if removes else ""
        raise Failure(
            f"interrupted: unit {unit_id} goes on{kept}. Follow it again: {again}",
            ExitCode.INTERRUPTED,
        ) from error
    if status.get("State") in UNFINISHED:
        state = str(status.get("StateName", "not finished"))
        raise _broken_off(invocation, unit_id, position, f"the unit is still {state}")
    if position < int(status.get("StdoutSize") or 0):
        total = status["StdoutSize"]
        raise _broken_off(invocation, unit_id, position, f"there are {total} bytes")
    return status


def deliver_until(
    invocation: Invocation, client: "ControlClient", unit_id: str, startpos: int, end: int
) -> None:
    """Write the unit's stdout from ``startpos`` to ``end`` to ours: bytes that it has printed.

    Raises:
        Failure: they are not complete.
        ControlError: they could not be asked for.
    """
    position = startpos
    if position >= end:
        return
    with (
        on_stderr("Receiving", wanted=not stdout_is_terminal(), start=startpos) as progress,
        client.results(unit_id, startpos) as pieces,
    ):
        try:
            for piece in pieces:
                write_raw(piece[: end - position])
                position += len(piece)
                progress.update(position, end)
                if position >= end:
                    return
        except SessionLost as error:
            raise _broken_off(invocation, unit_id, position, str(error)) from error
    raise _broken_off(invocation, unit_id, position, f"there are {end} bytes")


@contextmanager
def _progress(
    client: "ControlClient", unit_id: str, startpos: int
) -> Iterator[Callable[[int], None]]:
    """Give what shows how far results have come; how far there is to go only an end tells."""
    # Results on the same terminal show that by themselves.
    with on_stderr("Receiving", wanted=not stdout_is_terminal(), start=startpos) as progress:
        total = None
        if progress.is_shown:
            status = client.work_status(unit_id)
            if status.get("State") not in UNFINISHED:
                total = int(status.get("StdoutSize") or 0)
        yield lambda position: progress.update(position, total)


def report_end(unit_id: str, status: dict[str, Any], *, as_json: bool) -> None:
    """End the command as the unit ended; with JSON wanted, its status goes to stderr.

    Raises:
        Failure: the unit Failed or was Canceled.
    """
    if as_json:
        print_note(json_line({"unitid": unit_id, **status}))
    text, code = ending(unit_id, status)
    if code:
        raise Failure(text, code)


def ending(unit_id: str, status: Mapping[str, Any]) -> tuple[str, ExitCode]:
    """Return what to say of a final status, and the exit code: nothing and OK for success."""
    if status.get("State") == FAILED:
        text = f"unit {unit_id} failed: {status.get('Detail', 'no reason given')}"
        return text, ExitCode.FAILURE
    if status.get("State") == CANCELED:
        return f"unit {unit_id} was canceled", ExitCode.UNIT_CANCELED
    return "", ExitCode.OK


def _status_at_end(client: "ControlClient", unit_id: str, position: int) -> dict[str, Any]:
    try:
        return client.work_status(unit_id)
    except CommandRefused as error:
        if not client.work_list().get(unit_id):
            raise Failure(
                f"unit {unit_id} was released while its results were read; "
                f"they end after byte {position}"
            ) from error
        raise


def _broken_off(invocation: Invocation, unit_id: str, position: int, reason: str) -> Failure:
    again = invocation.shell_command("work", "results", unit_id, "--startpos", str(position))
    return Failure(
        f"the results of unit {unit_id} broke off after byte {position}: {sentence(reason)} "
        f"Nothing is lost; go on with: {again}"
    )
