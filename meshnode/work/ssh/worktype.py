"""The work type of a ``work-ssh`` directive: what a submission of it has run, and where it may."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.arguments import usage
from meshnode.config import SshHost, WorkSsh
from meshnode.errors import CommandError
from meshnode.work.files.unpacking import DEPS
from meshnode.work.local.launcher.records import FILES
from meshnode.work.local.worktypes import CANCEL_GRACE, split_words
from meshnode.work.ssh.hosts import Host
from meshnode.work.ssh.record import LEAST, RANDOM, SSH, SshRecord
from meshnode.work.units.jobsettings import JobSettings
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.runner import Plan
from meshnode.work.units.submission import Submission

SCRIPT_NAME = "script"
"""The operator's script that was sent along, in the command's first directory."""

SCRIPT = f"./{SCRIPT_NAME}"
"""How it is called."""

MAX_COMMAND = 1 << 20
"""Bytes of a command and its arguments: half of what a host with the usual stack passes on."""

KEY_BYTES = 8
"""Random bytes in the name of a unit's directory: others on the host cannot guess it."""


@dataclass(frozen=True, slots=True)
class SshType:
    """One ``work-ssh`` directive; times are seconds, ``max_output`` is bytes."""

    name: str
    hosts: tuple[Host, ...]
    choice: str = LEAST
    command: str = ""
    script: Path | None = None
    params: tuple[str, ...] = ()
    allow_runtime_params: bool = False
    allow_scripts: bool = False
    verify_signature: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    timeout: float | None = None
    max_output: int | None = None
    grace: float = CANCEL_GRACE
    max_concurrent: int | None = None
    connect: float = 30.0
    copy: float = 600.0
    start: float = 30.0
    collect: float = 600.0
    patience: float = 3600.0

    @property
    def takes_settings(self) -> bool:
        """Yes: files; :meth:`plan` refuses the others."""
        return True

    def described(self, name: str) -> JsonObject:
        """Return what clients are told of it: what it takes, and what it is held to."""
        return {
            "Kind": SSH,
            "Usage": usage(name, ()),
            "RuntimeParams": self.allow_runtime_params,
            "Files": not self.cwd,
            "Output": not self.cwd,
            "Scripts": self.allow_scripts,
            "VerifySignature": self.verify_signature,
            "Timeout": self.timeout,
            "MaxOutput": self.max_output,
            "Grace": self.grace,
        }

    def plan(self, submission: Submission) -> Plan:
        """Return the command line for the record, and which host is asked for.

        Raises:
            CommandError: it cannot be run.
        """
        self._check_settings(submission.job)
        choice = submission.params.get("host", "") or self.choice
        if choice not in {LEAST, RANDOM}:
            self._check_host(choice)
        record = SshRecord(key=secrets.token_hex(KEY_BYTES), choice=choice)
        script = f"{DEPS}/{submission.job.files.script}" if submission.job.files.script else ""
        words = self.argv(submission.params.get("params", ""), script)
        outputs = (FILES,) if submission.job.files.output else ()
        return Plan(params=words, outputs=outputs, runner=SSH, runner_data=record.to_json())

    def _check_settings(self, job: JobSettings) -> None:
        if job.arguments or job.env or job.cwd or job.limits:
            raise CommandError(
                f"work type {self.name} takes files, but no arguments, variables, directory or "
                "limits of clients, since it runs on hosts with only SSH"
            )
        if job.files.script and not self.allow_scripts:
            raise CommandError(f"work type {self.name} runs no scripts of clients (allowscripts)")
        if job.files and self.cwd:
            what = "takes no files" if job.files.size else "brings back no files (output)"
            raise CommandError(
                f"work type {self.name} {what}, since it runs in a directory of its own (cwd)"
            )

    def argv(self, runtime_params: str, script: str = "") -> tuple[str, ...]:
        """Return the words to execute there; a client's ``script`` follows the operator's words.

        Raises:
            CommandError: it cannot be run.
        """
        if runtime_params and not (self.allow_runtime_params or script):
            raise CommandError("extra params provided but not allowed")
        try:
            more = split_words(runtime_params)
        except ValueError as error:
            raise CommandError(f"cannot split the params into words: {error}") from None
        first = SCRIPT if self.script is not None else self.command
        words = (first, *self.params, *((script,) if script else ()), *more)
        if any("\0" in word for word in words):
            raise CommandError("params must not contain a NUL character")
        total = sum(len(word.encode(errors="surrogatepass")) + 1 for word in words)
        if total > MAX_COMMAND:
            raise CommandError(
                f"a command of {total} bytes is more than hosts pass on ({MAX_COMMAND}); "
                "send it as the payload"
            )
        return words

    def may_run_on(self, choice: str) -> tuple[Host, ...]:
        """Return the hosts for a unit that asks for one of them, or leaves the choice."""
        if choice in {LEAST, RANDOM}:
            return self.hosts
        return tuple(host for host in self.hosts if host.name == choice)

    def most_on(self, host: Host) -> int:
        """Return how many units of this type run at once on a host."""
        return min(self.max_concurrent or host.sessions, host.sessions)

    def _check_host(self, name: str) -> None:
        names = [host.name for host in self.hosts]
        if name not in names:
            known = ", ".join(names)
            raise CommandError(
                f"work type {self.name} has no host {name}; it has {known}, or {RANDOM} or {LEAST}"
            )


def ssh_type(directive: WorkSsh) -> SshType:
    """Return the type of work that a directive offers."""
    return SshType(
        name=directive.worktype,
        hosts=tuple(_host(directive, one) for one in directive.hosts),
        choice=directive.choice,
        command=directive.command,
        script=directive.script,
        params=directive.params,
        allow_runtime_params=directive.allowruntimeparams,
        allow_scripts=directive.allowscripts,
        verify_signature=directive.verifysignature,
        env=directive.env,
        cwd=directive.cwd,
        timeout=directive.timeout,
        max_output=directive.maxoutput,
        grace=directive.grace,
        max_concurrent=directive.maxconcurrent,
        connect=directive.connect,
        copy=directive.copy,
        start=directive.start,
        collect=directive.collect,
        patience=directive.patience,
    )


def _host(directive: WorkSsh, one: SshHost) -> Host:
    return Host(
        name=one.name,
        address=one.address or one.name,
        port=one.port,
        user=one.user,
        key=str(one.key or ""),
        options=one.options,
        directory=directive.directory,
        sshconfig=str(directive.sshconfig or ""),
        ssh=directive.ssh,
        sessions=directive.sessions,
    )
