"""``meshctl work batch``: what becomes of batches, and waiting for one."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final

import click

from meshctl.api import batch as api
from meshctl.api.errors import AWAY, CommandRefused
from meshctl.commands.completion import batches, files
from meshctl.commands.exits import EPILOG, code_of
from meshctl.commands.following import tell_away
from meshctl.commands.options import Invocation, json_option, pass_invocation_at
from meshctl.render.batches import BatchProgress, batch_lines, header, member_line, summary
from meshctl.render.output import (
    ExitCode,
    Failure,
    json_line,
    print_error,
    print_json,
    print_line,
    sentence,
    write_raw,
)

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

Status = dict[str, Any]

CODES: Final = {"Failed": ExitCode.FAILURE, "Canceled": ExitCode.UNIT_CANCELED}
"""Exit codes for how a batch has ended."""

ACTIONS: Final = (
    *("list", "status", "wait", "members", "results"),
    *("retry", "cancel", "release"),
)

joblog_option = click.option(
    "--joblog", metavar="FILE", shell_complete=files, help="Write a line for each member to FILE."
)


@click.command("batch", short_help="Look after batches, or wait for one.", epilog=EPILOG)
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("batch_ids", nargs=-1, shell_complete=batches)
@joblog_option
@click.option(
    "--retry-failed", is_flag=True, help="With wait: first have all run again that have failed."
)
@json_option
@pass_invocation_at
def batch(
    invocation: Invocation,
    action: str,
    batch_ids: tuple[str, ...],
    joblog: str | None,
    retry_failed: bool,
    as_json: bool,
) -> None:
    """Look after batches: ACTION is what to do with those of BATCH_IDS.

    list, status, members (a line for each that has ended), results (their output, in order), wait
    (until the end; the exit code says how), retry (all that did not succeed), cancel, release.
    """
    if (joblog or retry_failed) and action != "wait":
        raise Failure("--joblog and --retry-failed are for: work batch wait.")
    if bool(batch_ids) == (action == "list"):
        raise Failure("list takes no batch ID." if batch_ids else f"{action} needs a batch ID.")
    if joblog and len(batch_ids) > 1:
        raise Failure("--joblog is for one batch.")
    with invocation.client() as client:
        if action == "list":
            _list(client, as_json=as_json)
            return
        done = BatchActions(invocation, client, as_json=as_json)
        for batch_id in batch_ids:
            if action == "wait":
                if retry_failed:
                    done.retry(batch_id)
                done.wait(batch_id, joblog)
            else:
                getattr(done, action)(batch_id)
    done.finish()


def _list(client: "ControlClient", *, as_json: bool) -> None:
    known = api.list_batches(client)
    if as_json:
        print_json(known)
        return
    for line in batch_lines(known):
        print_line(line)


class BatchActions:
    """What is done with each batch; the commands that name units use some of it."""

    def __init__(self, invocation: Invocation, client: "ControlClient", *, as_json: bool) -> None:
        self._invocation = invocation
        self._client = client
        self._as_json = as_json
        self.codes: set[ExitCode] = set()

    def finish(self) -> None:
        """Raise Failure with the gravest code of what was done, if there is one."""
        for code in (ExitCode.FAILURE, ExitCode.REFUSED, ExitCode.UNIT_CANCELED):
            if code in self.codes:
                raise Failure("", code)

    def status(self, batch_id: str) -> None:
        """Show how a batch stands."""
        told = api.batch_status(self._client, batch_id)
        if self._as_json:
            print_json(told)
            return
        for key, value in told.items():
            print_line(f"{key}: {value}")

    def members(self, batch_id: str) -> None:
        """Show a line for each member that has ended."""
        show: Callable[[Status], str] = json_line if self._as_json else member_line
        if not self._as_json:
            click.echo(header())
        for member in api.batch_members(self._client, batch_id):
            click.echo(show(member))

    def results(self, batch_id: str) -> None:
        """Write the output of each member that has ended, in the order of their indices."""
        # Of a million members no more is kept than this.
        ended = {
            one["Index"]: (one.get("UnitID"), "" if one.get("UnitID") else one.get("Detail"))
            for one in api.batch_members(self._client, batch_id)
        }
        for index in sorted(ended):
            unit_id, detail = ended[index]
            if not unit_id:
                print_error(f"member {index}: {detail}")
                self.codes.add(ExitCode.FAILURE)
                continue
            try:
                with self._client.results(unit_id) as pieces:
                    for piece in pieces:
                        write_raw(piece)
            except CommandRefused as error:
                print_error(f"member {index}: {error}")
                self.codes.add(ExitCode.REFUSED)

    def retry(self, batch_id: str) -> None:
        """Have all members run again that did not succeed."""
        count = api.retry_batch(self._client, batch_id)
        if self._as_json:
            return
        print_line(f"({batch_id}, {count} run again)")

    def cancel(self, batch_id: str) -> None:
        """Cancel what is in flight, and submit nothing more."""
        print_line(f"({batch_id}, {api.end_batch(self._client, 'cancel', batch_id)})")

    def release(self, batch_id: str) -> None:
        """Release a batch and its units."""
        print_line(f"({batch_id}, {api.end_batch(self._client, 'release', batch_id)})")

    def wait(self, batch_id: str, joblog: str | None = None) -> None:
        """Wait for the end of a batch, and say how it was."""
        status = wait_for_batch(self._invocation, self._client, batch_id, joblog)
        if self._as_json:
            print_json(status)
        else:
            print_line(f"({batch_id}, {status.get('StateName')}: {summary(status)})")
        if code := CODES.get(str(status.get("StateName"))):
            self.codes.add(code)


def wait_for_batch(
    invocation: Invocation, client: "ControlClient", batch_id: str, joblog: str | None = None
) -> Status:
    """Return the status of a batch at its end; show its progress and log its members meanwhile.

    Raises:
        Failure: Ctrl-C, or the node stays away, or the log cannot be written.
    """
    status: Status = {}
    is_seen = sys.stderr is not None and sys.stderr.isatty()
    with (
        _log(joblog) as log,
        BatchProgress(sys.stderr if is_seen else None) as progress,
        _goes_on(invocation, batch_id),
    ):
        for told in api.watch_batch(client, batch_id, tell_away):
            if "Batch" in told:
                status = told
                progress.update(told)
            elif log is not None:
                _write(log, member_line(told))
    return status


def only_batches(words: Sequence[str]) -> bool:
    """Whether all that a command names are batches. Raises Failure: only some are."""
    found = [word for word in words if api.is_batch(word)]
    if found and len(found) < len(words):
        raise Failure(f"{found[0]} is a batch: name units, or batches, not both.")
    return bool(found)


@contextmanager
def _goes_on(invocation: Invocation, batch_id: str) -> Iterator[None]:
    again = invocation.shell_command("work", "batch", "wait", batch_id)
    try:
        yield
    except KeyboardInterrupt as error:
        text = f"interrupted: batch {batch_id} goes on. Wait again: {again}"
        raise Failure(text, ExitCode.INTERRUPTED) from error
    except AWAY as error:
        text = f"{sentence(str(error))} When the node is back, wait again: {again}"
        raise Failure(text, code_of(error)) from error


def check_log(path: str | None) -> None:
    """Return if a log can be written, before anything is submitted. Raises Failure."""
    if path is not None:
        _open_log(path, "a").close()


def _open_log(path: str, mode: str) -> IO[str]:
    try:
        return open(path, mode, encoding="utf-8", buffering=1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Failure(f"--joblog {path}: {reason}") from error


@contextmanager
def _log(path: str | None) -> Iterator[IO[str] | None]:
    if path is None:
        yield None
        return
    file = _open_log(path, "w")
    try:
        _write(file, header())
        yield file
    finally:
        # Each line is written at once: what a log does not take was told then.
        with suppress(OSError):
            file.close()


def _write(log: IO[str], line: str) -> None:
    try:
        log.write(f"{line}\n")
    except OSError as error:
        raise Failure(
            f"the job log cannot be written: {error.strerror}", ExitCode.LOCAL_IO
        ) from error
