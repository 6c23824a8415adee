"""``meshctl work results``: a unit's output, all of it or a part, as it comes or as it is."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.batch import is_batch
from meshctl.api.errors import AWAY, CommandRefused
from meshctl.api.logindex import STDERR, STDOUT
from meshctl.api.status import UNFINISHED, size_of
from meshctl.commands.batch import BatchActions
from meshctl.commands.completion import units
from meshctl.commands.exits import EPILOG, propagate_option, report_end
from meshctl.commands.following import Following, tell_away
from meshctl.commands.lines import (
    UnitLines,
    learn_outputs,
    require_file,
    told_breaks,
    write_each_to_its_own,
)
from meshctl.commands.options import Invocation, WholeNumber, pass_invocation_at
from meshctl.commands.units import find_unit
from meshctl.commands.waiting import waits_told
from meshctl.render.output import (
    ExitCode,
    Failure,
    json_line,
    on_stderr,
    print_note,
    print_warning,
    sentence,
    stdout_is_terminal,
    write_raw,
)

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient


BLOCK_BYTES = 64 * 1024
"""Bytes that are read of the end at first; most tails are shorter."""

LARGEST_BLOCK_BYTES = 4 * 1024 * 1024
"""Bytes that are read at once at most, each block being twice the last: few sessions for many
lines, and never much memory."""


@click.command(short_help="Write a unit's output as it comes.", epilog=EPILOG)
@click.argument("unit_id", shell_complete=units())
@click.option(
    "--startpos",
    "--from",
    "startpos",
    type=WholeNumber(min=0),
    metavar="BYTE",
    help="First byte wanted.",
)
@click.option("--tail", type=WholeNumber(min=0), metavar="LINES", help="Begin with the last lines.")
@click.option(
    "--follow/--no-follow",
    default=True,
    help="Go on until the unit has ended (the default), or stop after what there is now.",
)
@click.option("--stderr", "of_stderr", is_flag=True, help="What went to stderr, and not stdout.")
@click.option("--both", is_flag=True, help="Both, in the order they came: stderr to our stderr.")
@propagate_option
@click.option("--json", "as_json", is_flag=True, help="The final status as JSON on stderr.")
@pass_invocation_at
def results(
    invocation: Invocation,
    unit_id: str,
    startpos: int | None,
    tail: int | None,
    follow: bool,
    of_stderr: bool,
    both: bool,
    propagate: bool,
    as_json: bool,
) -> None:
    """Write a unit's stdout to ours as it comes, until the unit has ended.

    What went to its stderr is in its stdout, unless its work type says stderr: separate. Ctrl-C
    leaves the unit running.
    """
    if startpos is not None and tail is not None:
        raise Failure("Cannot combine --from (--startpos) with --tail.")
    if both and (of_stderr or startpos is not None or tail is not None):
        raise Failure("Cannot combine --both with --stderr, --from or --tail. See also: work logs")
    stream = STDERR if of_stderr else STDOUT
    if is_batch(unit_id):
        if startpos is not None or tail is not None or of_stderr or both or propagate:
            raise Failure(f"{unit_id} is a batch: its output has no options.")
        with invocation.client() as client:
            done = BatchActions(invocation, client, as_json=as_json)
            done.results(unit_id)
        done.finish()
        return
    with invocation.client() as client:
        unit_id = find_unit(invocation, client, unit_id)
        is_asked = of_stderr or both or tail is not None or not follow
        known = learn_outputs(client, unit_id, waits=follow) if is_asked else None
        if known is not None:
            require_file(unit_id, known, stream)
        start = startpos or 0
        if tail is not None:
            start = start_of_last_lines(client, unit_id, _size(known, stream), tail, stream)
        if known is not None and not follow and known.get("State") in UNFINISHED:
            if both:
                deliver_both(invocation, client, unit_id, known, follow=False)
            else:
                end = _size(known, stream)
                deliver(invocation, client, unit_id, start, stream, end=end, is_submitted=True)
            if as_json:
                # It has no end to report.
                print_note(json_line({"unitid": unit_id, **known}))
            return
        with waits_told(invocation, unit_id):
            if known is not None and both:
                status = deliver_both(invocation, client, unit_id, known)
            else:
                is_known = known is not None
                status = deliver(invocation, client, unit_id, start, stream, is_submitted=is_known)
    report_end(unit_id, status, as_json=as_json, propagate=propagate)


def deliver_both(
    invocation: Invocation,
    client: "ControlClient",
    unit_id: str,
    status: Mapping[str, Any],
    *,
    follow: bool = True,
) -> dict[str, Any]:
    """Write stdout and stderr of a unit to ours, lines in the order in which they came.

    Returns:
        The last status that is known; the final one of a unit that was followed to its end.

    Raises:
        Failure: they are not complete.
    """
    with told_breaks(invocation, unit_id, "results", "--both"):
        lines = UnitLines(client, unit_id, status, follow=follow)
        with closing(lines.batches()) as batches:
            for batch in batches:
                write_each_to_its_own(batch or ())
    return lines.status


def deliver_stderr(invocation: Invocation, client: "ControlClient", unit_id: str) -> None:
    """Write to our stderr what a unit that has ended wrote to a stderr of its own.

    Raises:
        Failure: it is not complete.
    """
    with told_breaks(invocation, unit_id, "results", "--stderr"):
        reading = Following(client, unit_id, stream=STDERR, is_known=True, on_break=tell_away)
        with closing(reading.pieces()) as pieces:
            for piece in pieces:
                write_raw(piece, to_stderr=True)


def deliver(
    invocation: Invocation,
    client: "ControlClient",
    unit_id: str,
    startpos: int = 0,
    stream: str = STDOUT,
    *,
    end: int | None = None,
    is_submitted: bool = False,
    removes: bool = False,
) -> dict[str, Any]:
    """Write a file of the unit's output from ``startpos`` to our stdout until the unit has ended.

    A node that restarts meanwhile is waited for; what has been written is not written again.

    Args:
        invocation: For the commands that a message suggests.
        client: Whom to ask.
        unit_id: The unit.
        startpos: First byte wanted.
        stream: The file.
        end: Stop before this byte, which the unit has printed; None goes on to the unit's end.
        is_submitted: Whether the unit is known to exist, so that the node is worth waiting for.
        removes: Whether the unit was to be released afterwards, which an error must mention.

    Returns:
        The unit's final status; all of the file has been written. Nothing with ``end``.

    Raises:
        Failure: the results are not complete; the unit goes on and is not released.
        ControlError: they could not be asked for.
    """

    def warn(reason: str) -> None:
        text = f"{_broken_off(unit_id, following.position, reason)} Waiting for the node."
        print_warning(text)

    following = Following(
        client, unit_id, startpos, stream=stream, end=end, is_known=is_submitted, on_break=warn
    )
    try:
        _write_all(client, unit_id, following, total=end)
    except AWAY as error:
        if not following.began:
            raise
        position = following.position
        which = ["--stderr"] if stream == STDERR else []
        again = invocation.shell_command(
            "work", "results", unit_id, *which, "--startpos", str(position)
        )
        text = f"{_broken_off(unit_id, position, str(error))} Go on with: {again}"
        raise Failure(text, ExitCode.UNREACHABLE) from error
    except CommandRefused as error:
        if following.began and not client.work_list().get(unit_id):
            raise _released(unit_id, following.position) from error
        raise
    except KeyboardInterrupt as error:
        text = f"interrupted: {how_it_goes_on(invocation, unit_id, removes=removes)}"
        raise Failure(text, ExitCode.INTERRUPTED) from error
    return following.status


def _write_all(
    client: "ControlClient", unit_id: str, following: Following, *, total: int | None
) -> None:
    with (
        _progress(client, unit_id, following.position, total) as show,
        closing(following.pieces()) as pieces,
    ):
        for piece in pieces:
            write_raw(piece)
            show(following.position)


@contextmanager
def _progress(
    client: "ControlClient", unit_id: str, startpos: int, total: int | None
) -> Iterator[Callable[[int], None]]:
    """Give what shows how far results have come; how far there is to go only an end tells."""
    # Results on the same terminal show that by themselves.
    with on_stderr("Receiving", wanted=not stdout_is_terminal(), start=startpos) as progress:
        if progress.is_shown and total is None:
            with suppress(*AWAY):  # the results say so themselves
                status = client.work_status(unit_id)
                if status.get("State") not in UNFINISHED:
                    total = _size(status)
        yield lambda position: progress.update(position, total)


def how_it_goes_on(invocation: Invocation, unit_id: str, *, removes: bool) -> str:
    """Say of a unit that is followed no longer that it goes on, and how to follow it again."""
    again = invocation.shell_command("work", "results", unit_id)
    release = invocation.shell_command("work", "release", unit_id)
    kept = f" and is not released (to release it: {release})" if removes else ""
    return f"unit {unit_id} goes on{kept}. Follow it again: {again}"


def _broken_off(unit_id: str, position: int, reason: str) -> str:
    return f"the results of unit {unit_id} broke off after byte {position}: {sentence(reason)}"


def _released(unit_id: str, position: int) -> Failure:
    return Failure(
        f"unit {unit_id} was released while its results were read; they end after byte {position}",
        ExitCode.REFUSED,
    )


def start_of_last_lines(
    client: "ControlClient", unit_id: str, size: int, count: int, stream: str = STDOUT
) -> int:
    """Return the position where the last ``count`` lines of the first ``size`` bytes begin.

    As for ``tail -n``, bytes after the last newline are a line too. No lines begin at ``size``.

    Raises:
        ControlError: the file could not be read.
    """
    if count == 0:
        return size
    end, block = size, BLOCK_BYTES
    missing = count
    while end > 0:
        start = max(end - block, 0)
        data = _read(client, unit_id, start, end, stream)
        # A newline at the very end closes the last line and begins none.
        searched = len(data) - 1 if end == size else len(data)
        while (searched := data.rfind(b"\n", 0, searched)) >= 0:
            missing -= 1
            if missing == 0:
                return start + searched + 1
        end, block = start, min(2 * block, LARGEST_BLOCK_BYTES)
    return 0


def _read(client: "ControlClient", unit_id: str, start: int, end: int, stream: str) -> bytes:
    """Return the bytes from ``start`` to ``end``, which the file has; a restart is waited out."""
    following = Following(
        client, unit_id, start, stream=stream, end=end, is_known=True, on_break=tell_away
    )
    return b"".join(following.pieces())


def _size(status: Mapping[str, Any] | None, stream: str = STDOUT) -> int:
    return size_of(status or {}, stream) or 0
