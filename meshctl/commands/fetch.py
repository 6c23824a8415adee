"""``meshctl work fetch``: the files that a unit brings back, into a directory or as a tar."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.batch import batch_members, is_batch
from meshctl.api.errors import AWAY, CommandRefused, NotFetched
from meshctl.api.fetching import fetch_ended, size_of_files, tar_pieces
from meshctl.api.partial import bytes_kept
from meshctl.api.status import UNFINISHED
from meshctl.commands.batch import CODES, wait_for_batch
from meshctl.commands.completion import files, units
from meshctl.commands.exits import EPILOG, propagate_option, report_end
from meshctl.commands.following import tell_away
from meshctl.commands.options import Invocation, pass_invocation_at
from meshctl.commands.units import find_unit
from meshctl.commands.wait import wait_for_end
from meshctl.render.output import (
    ExitCode,
    Failure,
    on_stderr,
    print_error,
    print_json,
    print_line,
    sentence,
    write_raw,
)

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

TO_STDOUT = "-"
"""Instead of a directory: the tar goes to stdout."""


@click.command(short_help="Bring the files of a unit here.", epilog=EPILOG)
@click.argument("unit_id", shell_complete=units())
@click.option(
    *("--directory", "-o", "directory"),
    default=".",
    metavar="DIR",
    shell_complete=files,
    help="Where they go, made if need be; default: here. - writes the tar to stdout.",
)
@click.option("--tar", "as_tar", is_flag=True, help="Write the tar to stdout, as -o - does.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option("--wait/--no-wait", "waits", default=True, help="Wait for the unit's end (default).")
@propagate_option
@click.option("--json", "as_json", is_flag=True, help="The names of the files as JSON.")
@pass_invocation_at
def fetch(
    invocation: Invocation,
    unit_id: str,
    directory: str,
    as_tar: bool,
    force: bool,
    waits: bool,
    propagate: bool,
    as_json: bool,
) -> None:
    """Bring the files here that a unit submitted with --output has made, once it has ended.

    Those of the members of a batch go into directories that are called by their indices. Nothing
    that is there is replaced without --force: then nothing is written at all. The exit code says
    how the unit ended, as that of results does.
    """
    is_tar = as_tar or directory == TO_STDOUT
    if not directory:
        raise Failure("-o names no directory: its value is empty")
    if is_tar and (force or as_json):
        raise Failure(f"Cannot combine a tar on stdout with {'--force' if force else '--json'}.")
    if is_batch(unit_id):
        if is_tar or propagate:
            raise Failure(f"{unit_id} is a batch: give a directory, and no --propagate.")
        with invocation.client() as client, _told_breaks(invocation, unit_id, directory):
            _BatchFiles(invocation, client, directory, force=force).fetch(
                unit_id, waits=waits, as_json=as_json
            )
        return
    with invocation.client() as client:
        unit_id = find_unit(invocation, client, unit_id)
        status = _ended(invocation, client, unit_id, waits=waits)
        where = TO_STDOUT if is_tar else directory
        try:
            if is_tar:
                _write_tar(client, unit_id, status)
            else:
                names = _put(client, unit_id, status, directory, force=force)
        except AWAY as error:
            left = _left_to_do(invocation, unit_id, status, where, force=force)
            text = f"the files of unit {unit_id} are not here: {sentence(str(error))} {left}"
            raise Failure(text, ExitCode.UNREACHABLE) from error
        except KeyboardInterrupt as error:
            left = _left_to_do(invocation, unit_id, status, where, force=force)
            text = f"interrupted: the files of unit {unit_id} are not here. {left}"
            raise Failure(text, ExitCode.INTERRUPTED) from error
    if as_json and not is_tar:
        print_json({"unitid": unit_id, "directory": directory, "files": list(names)})
    elif not is_tar:
        count = "1 file" if len(names) == 1 else f"{len(names)} files"
        print_line(f"{count} in {directory}")
    report_end(unit_id, status, as_json=False, propagate=propagate)


def _ended(
    invocation: Invocation, client: "ControlClient", unit_id: str, *, waits: bool
) -> Mapping[str, Any]:
    """Return the final status of a unit. Raises Failure: it goes on, and is not waited for."""
    status = client.work_status(unit_id)
    if status.get("State") not in UNFINISHED:
        return status
    if not waits:
        state = status.get("StateName", "not finished")
        text = f"unit {unit_id} is {state}: its files come with its end"
        raise Failure(text, ExitCode.WAIT_TIMED_OUT)
    return wait_for_end(invocation, client, unit_id)


def _left_to_do(
    invocation: Invocation,
    unit_id: str,
    status: Mapping[str, Any],
    directory: str,
    *,
    force: bool,
) -> str:
    """Say how to bring files here that have not come, and how much of them need not come again."""
    replacing = ("--force",) if force else ()
    again = invocation.shell_command("work", "fetch", unit_id, "-o", directory, *replacing)
    kept = 0 if directory == TO_STDOUT else bytes_kept(Path(directory), unit_id)
    if not kept:
        return f"Fetch them again: {again}"
    size = size_of_files(unit_id, status)
    return f"{kept} of {size} bytes are kept in {directory}. Go on with: {again}"


def _write_tar(client: "ControlClient", unit_id: str, status: Mapping[str, Any]) -> None:
    size = size_of_files(unit_id, status)
    with (
        on_stderr("Receiving") as progress,
        closing(tar_pieces(client, unit_id, size, tell_away)) as pieces,
    ):
        received = 0
        for piece in pieces:
            write_raw(piece)
            received += len(piece)
            progress.update(received, size)


def _put(
    client: "ControlClient",
    unit_id: str,
    status: Mapping[str, Any],
    directory: str,
    *,
    force: bool,
) -> tuple[str, ...]:
    with on_stderr("Receiving") as progress:
        return fetch_ended(
            client,
            unit_id,
            status,
            directory,
            force=force,
            on_received=progress.update,
            on_away=tell_away,
        )


@contextmanager
def _told_breaks(invocation: Invocation, batch_id: str, directory: str) -> Iterator[None]:
    """Say of what ends the fetching of a batch which batch that is, and how to go on."""
    # What is here already is brought once more.
    again = invocation.shell_command("work", "fetch", batch_id, "-o", directory, "--force")
    text = f"the files of batch {batch_id} are not all here"
    try:
        yield
    except AWAY as error:
        told = f"{text}: {sentence(str(error))} Fetch them again: {again}"
        raise Failure(told, ExitCode.UNREACHABLE) from error
    except KeyboardInterrupt as error:
        told = f"interrupted: {text}. Fetch them again: {again}"
        raise Failure(told, ExitCode.INTERRUPTED) from error


class _BatchFiles:
    """Brings the files of the members of a batch here."""

    def __init__(
        self, invocation: Invocation, client: "ControlClient", directory: str, *, force: bool
    ) -> None:
        self._invocation = invocation
        self._client = client
        self._directory = directory
        self._force = force
        self._is_whole = True

    def fetch(self, batch_id: str, *, waits: bool, as_json: bool) -> None:
        """Fetch those of all members that have ended. Raises Failure: not all is well."""
        state = ""
        if waits:
            status = wait_for_batch(self._invocation, self._client, batch_id)
            state = str(status.get("StateName"))
        # A member that was run again is told of again.
        ended = {int(one["Index"]): one for one in batch_members(self._client, batch_id)}
        names = {index: self._member(index, ended[index]) for index in sorted(ended)}
        if as_json:
            print_json({"batch": batch_id, "directory": self._directory, "files": names})
        else:
            count = sum(map(len, names.values()))
            files_of = "1 file" if count == 1 else f"{count} files"
            print_line(f"{files_of} of {len(names)} members in {self._directory}")
        code = CODES.get(state, ExitCode.OK) if self._is_whole else ExitCode.FAILURE
        if code:
            raise Failure("", code)

    def _member(self, index: int, told: Mapping[str, Any]) -> list[str]:
        unit_id = told.get("UnitID")
        if not unit_id:
            return []
        place = os.path.join(self._directory, str(index))
        try:
            # It has ended; a node that is away just now is waited for.
            status = self._client.wait(str(unit_id), on_away=tell_away)
            names = _put(self._client, str(unit_id), status, place, force=self._force)
        except (NotFetched, CommandRefused) as error:
            print_error(f"member {index}: {error}")
            self._is_whole = False
            return []
        return list(names)
