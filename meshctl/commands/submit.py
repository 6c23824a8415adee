"""``meshctl work submit``: payload and parameters as receptorctl's users write them."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from meshctl.api.errors import CannotReach, CommandRefused, ControlError, PayloadLost
from meshctl.api.logindex import STDERR
from meshctl.api.status import size_of
from meshctl.commands.arrays import BatchOptions, batch_options, named_in_full, submit_members
from meshctl.commands.completion import files, parameters, places, work_types
from meshctl.commands.exits import EPILOG, code_of, propagate_option, report_end
from meshctl.commands.files import file_options, is_told
from meshctl.commands.hints import hint
from meshctl.commands.jobs import USAGE, check_chain, check_job, job_options
from meshctl.commands.options import (
    Invocation,
    json_option,
    pass_invocation,
    tls_client_option,
)
from meshctl.commands.params import KNOWN, collect_params, warn_of_unknown
from meshctl.commands.results import deliver, deliver_stderr, how_it_goes_on
from meshctl.commands.terms import terms_options
from meshctl.commands.wait import wait_for_end
from meshctl.commands.waiting import waits_told
from meshctl.render.output import (
    ExitCode,
    Failure,
    discard_stdout,
    json_line,
    on_stderr,
    print_error,
    print_json,
    print_line,
    print_note,
    print_warning,
    sentence,
)

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient
    from meshctl.api.submission import JobSettings, Submission

Payload = bytes | BinaryIO | None


@dataclass(frozen=True, slots=True)
class SubmissionRequest:
    """One submission, ready to be sent."""

    worktype: str
    node: str
    params: Mapping[str, str]
    payload: Payload
    ttl: str
    signwork: bool
    tls_client: str
    labels: Mapping[str, str]
    job: "JobSettings"

    def send(self, client: "ControlClient", on_created: Callable[[str], object]) -> "Submission":
        """Send it. Raises as :meth:`meshctl.ControlClient.submit`."""
        # Who types a payload sees it grow, on the same terminal.
        is_typed = self.payload is not None and getattr(self.payload, "isatty", bool)()
        with on_stderr("Sending", wanted=not is_typed) as progress:
            return client.submit(
                self.worktype,
                self.payload,
                node=self.node,
                params=self.params,
                labels=self.labels,
                job=self.job,
                ttl=self.ttl,
                signwork=self.signwork,
                tls_client=self.tls_client,
                on_created=on_created,
                on_sent=progress.update,
                on_away=_tell_cut,
            )

    def of_members(self) -> dict[str, str]:
        """Return what the members of a batch have of it, but its files."""
        given = {
            "worktype": self.worktype,
            "node": self.node,
            "tlsclient": self.tls_client,
            "ttl": self.ttl,
            "signwork": "true" if self.signwork else "",
            "submissionlabels": json_line(dict(self.labels)) if self.labels else "",
            **self.job.fields(),
        }
        return {**self.params, **{key: value for key, value in given.items() if value}}


def _tell_cut(reason: str) -> None:
    """Say that a payload was cut off, and that the command waits to go on with it."""
    print_warning(f"{sentence(reason)} Waiting for the node, to send what it has not got.")


@contextmanager
def chosen_payload(path: str | None, literal: str | None, empty: bool) -> Iterator[Payload]:
    """Give what the one payload option says; a file is open meanwhile, before anything is asked.

    An empty text is an empty line.

    Raises:
        Failure: none or several are given, or the file cannot be opened.
    """
    given = (path is not None) + (literal is not None) + empty
    if given == 0:
        raise Failure("Must provide one of --payload, --no-payload or --payload-literal.")
    if given > 1:
        raise Failure(
            "Cannot provide more than one of --payload, --no-payload and --payload-literal."
        )
    if literal is not None:
        yield os.fsencode(literal) + b"\n"
    elif path is None:
        yield None
    elif path == "-":
        yield _stdin()
    else:
        with _open(path) as file:
            yield file


def _open(path: str) -> BinaryIO:
    if not path:
        raise Failure("--payload names no file: its value is empty")
    try:
        # Unbuffered: the pieces are large, and what a pipe gives must not wait for more.
        return open(path, "rb", buffering=0)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Failure(f"Failed to load payload file: {path}: {reason}") from error


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise Failure("Failed to load payload: standard input is closed")
    # The raw file tells "nothing yet" from "the end", which the buffered one does not.
    raw: BinaryIO = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    return raw


@click.command(short_help="Start a unit of work.", epilog=EPILOG)
@click.argument("worktype", shell_complete=work_types)
@click.option(
    "--node",
    default="",
    shell_complete=places,
    help="Node to run the work; default: the local one. any, random and least choose one.",
)
@click.option(
    "--payload", "-p", shell_complete=files, help="File with the unit's stdin; - for ours."
)
@click.option("--payload-literal", "-l", help="A line that is the unit's stdin.")
@click.option("--no-payload", "-n", is_flag=True, help="Give the unit an empty stdin.")
@tls_client_option
@click.option("--ttl", default="", help="Time in which remote work must start, e.g. 1h20m30s.")
@click.option("--signwork", is_flag=True, help="Sign the submission.")
@click.option("--follow", "-f", is_flag=True, help="Write the results to stdout as they come.")
@click.option("--wait", "waits", is_flag=True, help="Wait for the unit's end.")
@click.option("--rm", is_flag=True, help="Wait for the unit's end, then release it.")
@click.option(
    "--param",
    "-a",
    "params",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=parameters(KNOWN),
    help="A further parameter; @FILE is a file's text, @@ a plain @.",
)
@batch_options
@job_options
@file_options
@terms_options
@propagate_option
@click.argument("cmdparams", nargs=-1)
@json_option
@pass_invocation
def submit(
    invocation: Invocation,
    /,
    follow: bool,
    waits: bool,
    rm: bool,
    propagate: bool,
    as_json: bool,
    payload: str | None,
    payload_literal: str | None,
    no_payload: bool,
    params: tuple[str, ...],
    batch: BatchOptions,
    cmdparams: tuple[str, ...],
    **options: Any,
) -> None:
    """Submit a unit of work of type WORKTYPE, with CMDPARAMS where that type allows them.

    Each of CMDPARAMS reaches the command as one argument; write -- before those that begin with -.
    Exactly one of --payload, --payload-literal and --no-payload must be given; with --arg, --dep,
    --script or --output, no payload is the default. --array and --from-lines make a batch of units:
    {index} and {line} in what the command is given stand for what each member has.
    """
    batch.check(follow=follow, rm=rm, propagate=propagate)
    if propagate and not (follow or waits or rm):
        raise Failure("--propagate needs --follow or --wait: only an end has a code.")
    if rm and options["job"].output:
        raise Failure("--rm would delete what --output brings back; release the unit later.")
    with invocation.client() as client:
        batch = replace(batch, after=named_in_full(invocation, client, batch.after))
        options["job"] = replace(options["job"], after=batch.after)
        has_none = (
            (is_told(options["job"]) or bool(batch)) and payload is None and payload_literal is None
        )
        with chosen_payload(payload, payload_literal, no_payload or has_none) as data:
            if rm and not follow:
                print_warning("using --rm without --follow. Unit results will never be seen.")
            all_params = collect_params(params, cmdparams)
            warn_of_unknown(all_params)
            request = SubmissionRequest(params=all_params, payload=data, **options)
            check_chain(client, request.job)
            where = (request.worktype, request.node, request.tls_client)
            check_job(client, *where, request.job, of_members=bool(batch))
            if batch:
                submit_members(
                    invocation,
                    client,
                    batch,
                    request.of_members(),
                    data,
                    job=request.job,
                    waits=waits,
                    as_json=as_json,
                )
                return
            done = _submit(invocation, client, request, rm=rm)
        status: Mapping[str, Any] | None
        if follow:
            status = follow_to_end(invocation, client, done, rm=rm, as_json=as_json)
        else:
            status = report_start(invocation, client, done, waits=waits, rm=rm, as_json=as_json)
        if status is not None:
            shown = follow and as_json
            report_end(done.unit_id, status, as_json=shown, propagate=propagate)


def report_start(
    invocation: Invocation,
    client: "ControlClient",
    done: "Submission",
    *,
    waits: bool,
    rm: bool,
    as_json: bool,
) -> Mapping[str, Any] | None:
    """Say what became of a submission, and wait for the unit's end where that is wanted.

    With both JSON and waiting wanted, there is one document, at the end.

    Returns:
        The unit's final status, where that was waited for.
    """
    unit_id, status = done.unit_id, None
    if not as_json:
        print_line(f"Result: {done.result}")
        print_line(f"Unit ID: {unit_id}")
    if waits or rm:
        status = wait_for_end(invocation, client, unit_id)
    if as_json:
        more = {} if status is None else {"status": status}
        print_json({"unitid": unit_id, "result": done.result, **more})
    elif waits and status is not None:
        print_line(f"({unit_id}, {status.get('StateName', status.get('State'))})")
    if rm:
        release_ended(invocation, client, unit_id, show=print_note if as_json else print_line)
    return status


def release_ended(
    invocation: Invocation, client: "ControlClient", unit_id: str, *, show: Callable[[str], None]
) -> None:
    """Release a unit whose end is known; what goes wrong is told, and the end still counts."""
    try:
        outcome = client.release(unit_id)
    except ControlError as error:
        again = invocation.shell_command("work", "release", unit_id)
        print_error(f"unit {unit_id} is not released: {sentence(str(error))} Again: {again}")
    else:
        show(f"({unit_id}, {outcome})")


def _submit(
    invocation: Invocation, client: "ControlClient", request: SubmissionRequest, *, rm: bool
) -> "Submission":
    """Submit, with receptorctl's exit code for what a node refuses.

    With ``rm``, a unit that the node has failed for the reason that it gives is released.
    """
    created: list[str] = []
    try:
        return request.send(client, created.append)
    except CannotReach:
        raise
    except KeyboardInterrupt as error:
        text = "interrupted: nothing was submitted"
        if created:
            command = invocation.shell_command("work", "status", created[-1])
            text = f"interrupted: unit {created[-1]} exists. See what became of it: {command}"
        raise Failure(text, ExitCode.INTERRUPTED) from error
    except ControlError as error:
        text, code = str(error), code_of(error)
        if isinstance(error, CommandRefused):
            instead = hint(client, str(error), request.node, request.worktype)
            text = f"Failed to start work unit: {error}{instead}"
            # Who is told how to write it has written it wrong.
            code = ExitCode.WRONG_USAGE if USAGE in str(error) else ExitCode.SUBMIT_FAILED
        never_started = isinstance(error, (CommandRefused, PayloadLost))
        if rm and created and never_started and _is_released(client, created[-1]):
            raise Failure(text, code) from error
        if created:
            text = (
                f"{sentence(text)} See: {invocation.shell_command('work', 'status', created[-1])}"
            )
        raise Failure(text, code) from error


def _is_released(client: "ControlClient", unit_id: str) -> bool:
    """Release a unit that came to nothing; False if it is still there."""
    try:
        return client.release(unit_id) == "released"
    except ControlError as error:
        print_error(f"unit {unit_id} could not be released: {error}")
        return False


def follow_to_end(
    invocation: Invocation,
    client: "ControlClient",
    done: "Submission",
    *,
    rm: bool,
    as_json: bool,
) -> Mapping[str, Any]:
    """Deliver the results; release only a unit that has ended and was delivered in full.

    The ID comes first, and on stderr: whatever happens to stdout, the unit has a name.

    Returns:
        The unit's final status.
    """
    unit_id = done.unit_id
    named = {"unitid": unit_id, "result": done.result}
    print_note(json_line(named) if as_json else f"Unit ID: {unit_id}")
    try:
        with waits_told(invocation, unit_id):
            status = deliver(invocation, client, unit_id, is_submitted=True, removes=rm)
            if size_of(status, STDERR):
                # Before a release, which would take it away.
                deliver_stderr(invocation, client, unit_id)
    except BrokenPipeError as error:
        discard_stdout()
        print_note(f"nobody reads on: {how_it_goes_on(invocation, unit_id, removes=rm)}")
        raise Failure("", ExitCode.OUTPUT_CLOSED) from error
    if rm:
        # Not on stdout, where receptorctl has it: that is for the unit's own bytes.
        release_ended(invocation, client, unit_id, show=print_note)
    return status
