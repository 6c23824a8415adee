"""Files that go along with a submission or come back: ``--dep``, ``--script``, ``--output``.

A node that does not know of files would take them for stdin, so meshctl asks first whether the type
of work takes any.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshctl.commands.completion import files
from meshctl.commands.options import refuse_empty
from meshctl.render.output import Failure

if TYPE_CHECKING:
    from meshctl.api.submission import JobSettings

Command = TypeVar("Command", bound=Callable[..., Any])

_named = refuse_empty("names no file")


def file_options(command: Command) -> Callable[..., None]:
    """Add the options; what they say goes into ``job``, which another decorator may have made."""

    @wraps(command)
    def with_files(
        *args: Any,
        job: "JobSettings | None" = None,
        deps: tuple[str, ...],
        script: str | None,
        output: tuple[str, ...],
        **kwargs: Any,
    ) -> None:
        from meshctl.api.submission import JobSettings  # noqa: PLC0415 - help needs none of it

        job = replace(job or JobSettings(), deps=deps, script=script or "", output=output)
        command(*args, job=job, **kwargs)

    for option in (
        click.option(
            "--output",
            multiple=True,
            callback=_named,
            metavar="GLOB",
            help="Bring these files back from where the command starts: see work fetch.",
        ),
        click.option(
            "--script",
            callback=_named,
            metavar="FILE",
            shell_complete=files,
            help="Send it along as --dep does, and have it run, with CMDPARAMS.",
        ),
        click.option(
            *("--dep", "deps"),
            multiple=True,
            callback=_named,
            metavar="FILE-OR-DIR",
            shell_complete=files,
            help="Send it along: it lies in DEPS/ where the command starts.",
        ),
    ):
        with_files = option(with_files)
    return with_files


def is_told(job: "JobSettings") -> bool:
    """Whether a job has been told what to do: most such have no use for a stdin."""
    return bool(job.arguments or job.output) or job.has_files


def check_files(worktype: str, job: "JobSettings", described: Mapping[str, Any]) -> None:
    """Return if a type takes the files that are given.

    Raises:
        Failure: it does not; nothing was submitted.
    """
    if job.has_files and described.get("Files") is not True:
        raise Failure(f"work type {worktype} takes no files (--dep, --script)")
    if job.script and described.get("Scripts") is not True:
        raise Failure(f"work type {worktype} runs no scripts of clients (--script)")
    if job.output and described.get("Output") is not True:
        raise Failure(f"work type {worktype} brings back no files (--output)")
