"""Work types of this node's own commands: what a submission of each executes.

Parameters are split into words as a POSIX shell does, by no shell. The result is that of
``shlex.split``, which receptor's users know. ``shlex`` itself appends character by character: a
megabyte of parameters, which anybody may send in one line, takes it more than ten seconds, and the
node stands still meanwhile.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshnode.arguments import Argument, fill, usage
from meshnode.config.limit_values import JobLimits
from meshnode.errors import CommandError
from meshnode.surroundings import NO_DIRECTORIES, NO_NAMES, AllowedDirectories, AllowedNames
from meshnode.templates import Template
from meshnode.work.files.unpacking import DEPS
from meshnode.work.local.launcher.command import environment
from meshnode.work.local.launcher.leaving import Leaving
from meshnode.work.local.launcher.records import FILES, INDEX, STDERR
from meshnode.work.units.jobsettings import JobSettings
from meshnode.work.units.jsonreader import NOTHING, JsonObject
from meshnode.work.units.runner import Plan
from meshnode.work.units.submission import Submission

if TYPE_CHECKING:
    from meshnode.work.local.isolation import IsolationPlan

USAGE = "; usage: "
"""Stands in a refusal before how a submission is written; clients look for it."""

CANCEL_GRACE = 10.0
"""Seconds between SIGINT and SIGKILL, as receptor gives."""

MAX_ARGUMENT = 128 * 1024
"""Bytes of one argument that Linux passes on, its NUL included (MAX_ARG_STRLEN)."""

POINTER = 8
"""Bytes that each argument takes beside its own (execve(2), "Limits on size")."""

PLUGIN_MAIN = Path(__file__).with_name("pluginmain.py").resolve()
"""The program that calls plugins, in an interpreter of its own."""


@dataclass(frozen=True, slots=True)
class CommandType:
    """One ``work-command`` directive.

    ``env`` is what its environment has beside the node's own, of which ``clean_env`` takes most
    away; ``timeout`` and ``grace`` are seconds, ``max_output`` bytes. ``separate`` gives stderr a
    file of its own, ``timestamps`` has the unit say when each line came. ``leave`` says which
    processes go on after a unit's end: all that the command leaves, or those that match a pattern.
    """

    command: str
    params: tuple[str, ...] = ()
    allow_runtime_params: bool = False
    allow_scripts: bool = False
    verify_signature: bool = False
    template: Template | None = None
    """Where the values of arguments go, of a type that has any; ``params`` is empty then."""
    help: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    allowed_env: AllowedNames = NO_NAMES
    allowed_cwd: AllowedDirectories = NO_DIRECTORIES
    clean_env: bool = False
    cwd: str | None = None
    timeout: float | None = None
    max_output: int | None = None
    separate: bool = False
    timestamps: bool = False
    limits: JobLimits | None = None
    grace: float = CANCEL_GRACE
    leave: bool | tuple[str, ...] | None = None
    isolation: "IsolationPlan | None" = None

    def leaving(self, pid: int | None) -> Leaving | None:
        """Return what chooses the processes to be left of a unit whose command has this PID.

        Without it the command could be among them, so none is left.
        """
        return None if self.leave is None or pid is None else Leaving(self.leave, pid)

    @property
    def takes_settings(self) -> bool:
        """Yes: they are checked by the plan."""
        return True

    def described(self, name: str) -> JsonObject:
        """Return what clients are told of it: what it takes, and what it is held to."""
        return {
            "Kind": self.kind,
            "Help": self.help,
            "Usage": usage(name, self.arguments),
            "Arguments": [argument.described() for argument in self.arguments],
            "RuntimeParams": self.allow_runtime_params,
            "RuntimeEnv": list(self.allowed_env.texts),
            "RuntimeCwd": list(self.allowed_cwd.roots),
            "Files": not self._refusal_of_files(),
            "Output": not self._refusal_of_files(),
            "Scripts": self.allow_scripts,
            "VerifySignature": self.verify_signature,
            "Timeout": self.timeout,
            "MaxOutput": self.max_output,
            "Stderr": "separate" if self.separate else "merge",
            "Timestamps": self.timestamps,
            "LeaveProcesses": self.leave
            if isinstance(self.leave, bool)
            else list(self.leave or ()),
            "Limits": {} if self.limits is None else self.limits.shown(),
            "Isolation": {} if self.isolation is None else dict(self.isolation.summary),
            "Grace": self.grace,
        }

    @property
    def kind(self) -> str:
        """What kind of work it is."""
        return "command"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """What clients give it by name."""
        return () if self.template is None else self.template.arguments

    def environment(self, given: Mapping[str, str] = NOTHING) -> dict[str, str] | None:
        """Return the environment of its commands, None for the node's own; a client gives some."""
        follows = {} if self.isolation is None else self.isolation.env
        return environment({**follows, **self.env, **given}, is_clean=self.clean_env)

    def plan(self, submission: Submission) -> Plan:
        """Return the command line for the record.

        Raises:
            CommandError: something that the client gives is missing, or not allowed.
        """
        job = submission.job
        prefix = f"work type {submission.work_type}: "
        try:
            fixed = self._fixed_words(job.arguments)
        except ValueError as error:
            how = usage(submission.work_type, self.arguments)
            raise CommandError(f"{prefix}{error}{USAGE}{how}") from None
        try:
            self._check_surroundings(job)
            limits = self._limits_for(job)
        except ValueError as error:
            raise CommandError(f"{prefix}{error}") from None
        script = f"{DEPS}/{job.files.script}" if job.files.script else ""
        words = self.argv(submission.params.get("params", ""), fixed, script)
        if job.env:
            check_size(words, job.env)
        how = "" if self.isolation is None else self.isolation.line
        outputs = (*self.outputs, FILES) if job.files.output else self.outputs
        return Plan(params=words, outputs=outputs, limits=limits, isolation=how)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files of output that its units have beside stdout."""
        if self.separate:
            # With an index, since nothing else tells in which order the two came.
            return (STDERR, INDEX)
        return (INDEX,) if self.timestamps else ()

    def _fixed_words(self, given: Mapping[str, str]) -> tuple[str, ...]:
        """Return the words that the operator has written. Raises ValueError."""
        if self.template is not None:
            return self.template.expand(given)
        fill((), given)
        return self.params

    def _limits_for(self, job: JobSettings) -> Mapping[str, float]:
        """Return what the processes of a unit may have. Raises ValueError: it may not be so."""
        if not job.limits:
            return NOTHING if self.limits is None else self.limits.values
        if self.limits is None:
            raise ValueError("it has no limits that could be lowered")
        return self.limits.lowered(JobLimits.read(job.limits)).values

    def _check_surroundings(self, job: JobSettings) -> None:
        for name, value in job.env.items():
            self.allowed_env.check(name, value)
        if job.cwd:
            self.allowed_cwd.check(job.cwd)
        if job.files:
            self._check_files(job)

    def _check_files(self, job: JobSettings) -> None:
        """Refuse files where the command would not find them. Raises ValueError."""
        if job.cwd:
            raise ValueError("a job with files has a directory of its own; give no other")
        if why := self._refusal_of_files():
            raise ValueError(
                f"it takes no files, since it {why}"
                if job.files.size
                else f"it brings back no files (output), since it {why}"
            )
        if job.files.script and not self.allow_scripts:
            raise ValueError("it runs no scripts of clients (allowscripts)")

    def _refusal_of_files(self) -> str:
        """Return why no unit of it can have files, empty if they can."""
        # Where isolated commands start follows from their isolation, unless their operator says it.
        follows = None if self.isolation is None else self.isolation.cwd
        if self.cwd not in {None, follows}:
            return "runs in a directory of its own (cwd)"
        if self.isolation is not None and "uid" in self.isolation.order:
            return "runs as another than the node, whose files it may not see (user or group)"
        return ""

    def argv(
        self, runtime_params: str, fixed: tuple[str, ...] | None = None, script: str = ""
    ) -> tuple[str, ...]:
        """Return the words to execute; parameters are split as a shell splits them, by no shell.

        ``fixed`` are the words before them, and before the path of a client's ``script``, whose
        arguments they are.

        Raises:
            CommandError: runtime parameters are not allowed, a quote is never closed, or it is
                more than a command can be given.
        """
        if runtime_params and not (self.allow_runtime_params or script):
            raise CommandError("extra params provided but not allowed")
        try:
            before = self.params if fixed is None else fixed
            words = (*before, *((script,) if script else ()), *split_words(runtime_params))
        except ValueError as error:
            raise CommandError(f"cannot split the params into words: {error}") from None
        if any("\0" in word for word in words):
            raise CommandError("params must not contain a NUL character")
        return check_size((self.command, *words))


@dataclass(frozen=True, slots=True)
class PythonType(CommandType):
    """One ``work-python`` directive: a command that calls a function of a plugin."""

    plugin: str = ""
    function: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What kind of work it is."""
        return "python"

    def argv(
        self, runtime_params: str, fixed: tuple[str, ...] | None = None, script: str = ""
    ) -> tuple[str, ...]:
        """Return the words to execute; the client's parameters go into the config, as text.

        Raises:
            CommandError: the parameters hold what no argument can.
        """
        if "\0" in runtime_params:
            raise CommandError("params must not contain a NUL character")
        config = json.dumps({**self.config, "params": runtime_params})
        # Isolated: without -I a file queue.py in the working directory would be imported.
        return check_size(
            (self.command, "-I", str(PLUGIN_MAIN), self.plugin, self.function, config)
        )


def check_size(words: tuple[str, ...], env: Mapping[str, str] = NOTHING) -> tuple[str, ...]:
    """Return a command line that the system can pass on, with a client's variables.

    Another would only fail, and until then each of its words would be kept, on disk too.

    Raises:
        CommandError: it cannot.
    """
    texts = (*words, *(f"{name}={value}" for name, value in env.items()))
    sizes = [len(text.encode(errors="surrogatepass")) + 1 for text in texts]
    if (longest := max(sizes)) > MAX_ARGUMENT:
        raise CommandError(
            f"an argument of {longest - 1} bytes is longer than the system passes on "
            f"({MAX_ARGUMENT - 1}); send it as the payload"
        )
    if (total := sum(sizes) + POINTER * len(sizes)) > (most := os.sysconf("SC_ARG_MAX")):
        raise CommandError(
            f"{len(texts)} arguments take {total} bytes, more than the system passes on "
            f"({most}); send them as the payload"
        )
    return words


# --- parameters into words ----------------------------------------------------------------------

_PIECE = re.compile(
    r"""
    (?P<blank>[ \t\r\n]+)
    | (?P<plain>[^ \t\r\n'"\\]+)
    | '(?P<single>[^']*)'
    | "(?P<double>(?:[^"\\]|\\.)*)"
    | \\(?P<escaped>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_ESCAPED_IN_QUOTES = re.compile(r'\\(["\\])')
"""Between double quotes a backslash escapes these two and stands for itself before all others."""


def split_words(text: str) -> tuple[str, ...]:
    """Return the words of ``text``.

    Raises:
        ValueError: a quote is never closed, or nothing follows the last backslash.
    """
    words: list[str] = []
    pieces: list[str] | None = None
    position = 0
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            at_backslash = text[position] == "\\"
            raise ValueError("No escaped character" if at_backslash else "No closing quotation")
        position = match.end()
        if match.lastgroup == "blank":
            if pieces is not None:
                words.append("".join(pieces))
                pieces = None
            continue
        piece = match[match.lastgroup or 0]
        if match.lastgroup == "double":
            piece = _ESCAPED_IN_QUOTES.sub(r"\1", piece)
        # An empty pair of quotes makes a word, too.
        pieces = [] if pieces is None else pieces
        pieces.append(piece)
    if pieces is not None:
        words.append("".join(pieces))
    return tuple(words)
