"""Submitting batches: ``work submit --array`` and ``--from-lines``, and ``work submit-batch``."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from meshctl.api import batch as api
from meshctl.api.errors import CommandRefused, ControlError
from meshctl.api.submission import AFTER_KEY
from meshctl.commands.batch import CODES, check_log, joblog_option, wait_for_batch
from meshctl.commands.completion import Values, batches, files, units
from meshctl.commands.exits import EPILOG, code_of
from meshctl.commands.files import file_options
from meshctl.commands.following import tell_away
from meshctl.commands.options import (
    Invocation,
    WholeNumber,
    json_option,
    pass_invocation,
    refuse_empty,
)
from meshctl.commands.units import find_units
from meshctl.render.batches import summary
from meshctl.render.output import ExitCode, Failure, print_json, print_line

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient
    from meshctl.api.submission import JobSettings

Command = TypeVar("Command", bound=Callable[..., Any])

MOST_STDIN = 256 * 1024
"""Bytes of a payload that all members of an array have: it is a part of the request."""

MOST_LINE = 1 << 20
"""Bytes of a line of a list, as a node takes them."""

in_flight_option = click.option(
    "--max-in-flight",
    type=WholeNumber(1, 10_000),
    metavar="NUMBER",
    default=None,
    help="How many members may be unfinished at a time; 100 if nothing is said.",
)


def _what_ends(context: click.Context, parameter: click.Parameter, incomplete: str) -> Values:
    return [*batches(context, parameter, incomplete), *units()(context, parameter, incomplete)]


after_option = click.option(
    "--after",
    multiple=True,
    metavar="ID[:end]",
    callback=refuse_empty("names no unit and no batch"),
    shell_complete=_what_ends,
    help="Start when this unit or batch has succeeded; with :end, however it ended.",
)


def named_in_full(
    invocation: Invocation, client: "ControlClient", after: tuple[str, ...]
) -> tuple[str, ...]:
    """Return what is to be waited for, each by its whole ID. Raises as ``find_units``."""
    parts = [word.partition(":") for word in after]
    words = [word for word, _, _ in parts]
    found = find_units(invocation, client, words, takes_batches=True)
    return tuple(f"{unit}{colon}{end}" for unit, (_, colon, end) in zip(found, parts, strict=True))


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What makes a submission a batch; without any it is false."""

    array: str | None
    lines: str | None
    max_in_flight: int | None
    joblog: str | None
    after: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.array is not None or self.lines is not None

    def check(self, *, follow: bool, rm: bool, propagate: bool) -> None:
        """Refuse what does not go together. Raises Failure."""
        if not self:
            if self.max_in_flight is not None or self.joblog is not None:
                raise Failure("--max-in-flight and --joblog need --array or --from-lines.")
            return
        if self.array is not None and self.lines is not None:
            raise Failure("Cannot combine --array with --from-lines.")
        if follow or rm or propagate:
            raise Failure("--follow, --rm and --propagate are for one unit; use --wait.")
        check_log(self.joblog)


def batch_options(command: Command) -> Callable[..., None]:
    """Add the options; the command gets a ``batch`` of them."""

    @wraps(command)
    def with_batch(
        *args: Any,
        array: str | None,
        from_lines: str | None,
        max_in_flight: int | None,
        joblog: str | None,
        after: tuple[str, ...],
        **kwargs: Any,
    ) -> None:
        batch = BatchOptions(array, from_lines, max_in_flight, joblog, after)
        command(*args, batch=batch, **kwargs)

    for option in (
        joblog_option,
        after_option,
        in_flight_option,
        click.option(
            "--from-lines",
            metavar="FILE",
            callback=refuse_empty("names no file"),
            shell_complete=files,
            help="A batch with a member for each line of FILE: {line}, or its stdin.",
        ),
        click.option(
            "--array",
            metavar="1-1000%20",
            callback=refuse_empty("has no index"),
            help="A batch with a member for each {index}.",
        ),
    ):
        with_batch = option(with_batch)
    return with_batch


def submit_members(
    invocation: Invocation,
    client: "ControlClient",
    wanted: BatchOptions,
    fields: Mapping[str, str],
    payload: bytes | BinaryIO | None,
    *,
    job: "JobSettings",
    waits: bool,
    as_json: bool,
) -> None:
    """Submit what would be one unit for each member, and wait where that is wanted.

    Raises:
        Failure: it is refused, or a member did not succeed.
    """
    fields = {**fields, **_terms(wanted.max_in_flight)}
    if wanted.array is not None:
        fields |= {"array": wanted.array, "stdin": _stdin(payload)}
        done = _submitted(invocation, partial(api.submit_batch, client, fields, job=job))
    else:
        if payload is not None:
            raise Failure("--from-lines takes no payload: each line may be one.")
        is_named = any("{line}" in value for value in fields.values())
        lines = _listed(wanted.lines or "", lambda _, line: _of_text(line, is_named))
        done = _submitted(invocation, partial(api.submit_batch, client, fields, lines, job=job))
    _report(invocation, client, done, waits=waits, joblog=wanted.joblog, as_json=as_json)


def _terms(most: int | None, after: tuple[str, ...] = ()) -> dict[str, str]:
    terms = {"maxinflight": "" if most is None else str(most), AFTER_KEY: ",".join(after)}
    return {key: value for key, value in terms.items() if value}


def _stdin(payload: bytes | BinaryIO | None) -> str:
    if payload is None:
        return ""
    data = payload if isinstance(payload, bytes) else payload.read(MOST_STDIN + 1)
    if len(data) > MOST_STDIN:
        raise Failure(f"the payload of an array has at most {MOST_STDIN} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Failure("the payload of an array must be text in UTF-8") from error


def _of_text(text: str, is_named: bool) -> Mapping[str, str]:
    return {"line": text} if is_named else {"line": text, "stdin": f"{text}\n"}


def _of_json(number: int, line: str) -> Mapping[str, str] | None:
    if not line.strip():
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Failure(f"line {number} is not JSON") from error
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise Failure(f"line {number} is no object of strings")
    return found


@dataclass(frozen=True, slots=True)
class _List:
    """The members in a file, which is read anew each time that they are gone through."""

    path: str
    member: Callable[[int, str], Mapping[str, str] | None]

    def __iter__(self) -> Iterator[Mapping[str, str]]:
        with _open(self.path) as numbered:
            for number, line in numbered:
                if (member := self.member(number, line)) is not None:
                    yield member


def _listed(
    path: str, member: Callable[[int, str], Mapping[str, str] | None]
) -> Iterable[Mapping[str, str]]:
    """Return the members of a list, None being none; those of a pipe can be gone through once."""
    members = _List(path, member)
    is_stream = path == "-" or (os.path.exists(path) and not os.path.isfile(path))
    # Who names a directory is told before a node is asked.
    return iter(members) if is_stream and not os.path.isdir(path) else members


@contextmanager
def _open(path: str) -> Iterator[Iterator[tuple[int, str]]]:
    """Yield the lines of a list, each with its number. Raises Failure."""
    try:
        with click.open_file(path, "rb") as file:
            yield numbered_lines(file, path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Failure(f"{path}: {reason}") from error


def numbered_lines(file: IO[bytes], path: str) -> Iterator[tuple[int, str]]:
    """Yield each line without its end; a mark of the encoding (BOM) belongs to none.

    A line ends with a line feed, or with that behind a carriage return, and nowhere else: other
    ends of lines are text, as for the shell's tools. Raises Failure: a line is no text, or too
    long.
    """
    number = 0
    while line := file.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE:
            raise Failure(f"{path}: line {number} has more than {MOST_LINE} bytes")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise Failure(f"{path}: line {number} is no text in UTF-8") from error
        yield number, text.removesuffix("\n").removesuffix("\r")


def _submitted(
    invocation: Invocation, submit: Callable[..., api.BatchSubmission]
) -> api.BatchSubmission:
    whole: list[bool] = []
    listed = invocation.shell_command("work", "batch", "list")
    try:
        return submit(on_whole=lambda: whole.append(True), on_away=tell_away)
    except KeyboardInterrupt as error:
        text = "interrupted: nothing was submitted"
        if whole:
            text = f"interrupted: there may be a batch. See: {listed}"
        raise Failure(text, ExitCode.INTERRUPTED) from error
    except CommandRefused as error:
        text = "this node knows no batches: it is receptor's, or an older meshnode"
        told = text if str(error) == "bad command" else f"Failed to start batch: {error}"
        raise Failure(told, ExitCode.SUBMIT_FAILED) from error
    except api.BatchUnconfirmed as error:
        raise Failure(f"{error}. See: {listed}", code_of(error)) from error
    except ControlError as error:
        raise Failure(str(error), code_of(error)) from error


def _report(
    invocation: Invocation,
    client: "ControlClient",
    done: api.BatchSubmission,
    *,
    waits: bool,
    joblog: str | None,
    as_json: bool,
) -> None:
    """Say which batch it is, and wait for its end where that is wanted. Raises Failure."""
    told: dict[str, Any] = {"batch": done.batch_id, "members": done.members}
    if not as_json:
        print_line(f"Batch ID: {done.batch_id}")
        print_line(f"Members: {done.members}")
    status: dict[str, Any] = {}
    if waits or joblog is not None:
        status = wait_for_batch(invocation, client, done.batch_id, joblog)
    if as_json:
        print_json(told | ({"status": status} if status else {}))
    elif status:
        print_line(f"({done.batch_id}, {status.get('StateName')}: {summary(status)})")
    if code := CODES.get(str(status.get("StateName"))):
        raise Failure("", code)


@click.command("submit-batch", short_help="Submit a list of units.", epilog=EPILOG)
@click.argument("file", shell_complete=files)
@in_flight_option
@after_option
@file_options
@joblog_option
@click.option("--detach", is_flag=True, help="Do not wait for the end of the batch.")
@json_option
@pass_invocation
def submit_batch(
    invocation: Invocation,
    file: str,
    max_in_flight: int | None,
    after: tuple[str, ...],
    job: "JobSettings",
    joblog: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Submit a unit for each line of FILE, and wait until all have ended; - is standard input.

    A line is an object in JSON with the keys of a submission: worktype, node, params, stdin, and
    so on. --dep and --script are for all members. The batch lives on the node: Ctrl-C ends the
    waiting only.
    """
    if detach and joblog is not None:
        raise Failure("Cannot combine --detach with --joblog.")
    check_log(joblog)
    with invocation.client() as client:
        members = _listed(file, _of_json)
        first = named_in_full(invocation, client, after)
        fields = {**job.fields(), **_terms(max_in_flight, first)}
        submit = partial(api.submit_batch, client, fields, members, job=job)
        done = _submitted(invocation, submit)
        _report(invocation, client, done, waits=not detach, joblog=joblog, as_json=as_json)
