"""The command of a unit: found, executed, and described by its end.

The texts are Go's, because receptor shows those and its clients match them (protocol section 8).
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from meshnode.files import is_passing

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where commands are looked for when the environment has no PATH."""

KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ")
"""What ``cleanenv`` leaves of the node's environment: where things are, for whom, in which language
and time. What else is there was meant for the node: tokens, addresses of proxies, its service."""

_SIGNAL_TEXTS = {
    signal.SIGHUP: "hangup",
    signal.SIGINT: "interrupt",
    signal.SIGQUIT: "quit",
    signal.SIGILL: "illegal instruction",
    signal.SIGTRAP: "trace/breakpoint trap",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "floating point exception",
    signal.SIGKILL: "killed",
    signal.SIGUSR1: "user defined signal 1",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGUSR2: "user defined signal 2",
    signal.SIGPIPE: "broken pipe",
    signal.SIGALRM: "alarm clock",
    signal.SIGTERM: "terminated",
}
"""What Go on Linux calls the signals; the others it shows by number."""


class CannotExecute(Exception):
    """The command cannot be executed; the text is the unit's detail.

    Attributes:
        is_passing: whether it is only for want of what the machine lacks at this moment.
    """

    def __init__(self, text: str, *, is_passing: bool = False) -> None:
        super().__init__(text)
        self.is_passing = is_passing


def environment(own: Mapping[str, str], *, is_clean: bool) -> dict[str, str] | None:
    """Return a command's environment, None for the node's own as it is.

    Args:
        own: what its work type adds.
        is_clean: whether nothing else of the node's is passed on than ``KEPT_VARIABLES``.
    """
    if is_clean:
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        return {"PATH": DEFAULT_PATH, **kept, **own}
    return {**os.environ, **own} if own else None


def find_executable(name: str, search_path: str) -> str:
    """Return the path of the program that ``name`` means, as a shell would look for it.

    A name with a slash is a path already. Relative entries of the search path are passed over:
    what a node runs must not depend on the directory that it was started in.

    Raises:
        CannotExecute: there is no such program.
    """
    if "/" in name:
        return name
    if not name:
        raise CannotExecute("exec: no command")
    for directory in search_path.split(":"):
        path = f"{directory}/{name}"
        if directory.startswith("/") and _is_executable(path):
            return path
    raise CannotExecute(f'exec: "{name}": executable file not found in $PATH')


def _is_executable(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK)
    except (OSError, ValueError):  # ValueError: a NUL or half a surrogate in the name
        return False


def error_text(error: OSError | ValueError) -> str:
    """Return the system's text for ``error`` as Go writes it: ``permission denied``."""
    # A NUL character or half a surrogate in an argument never reaches the kernel from here; Go,
    # which tries, shows the kernel's answer.
    text = os.strerror(error.errno or 0) if isinstance(error, OSError) else "invalid argument"
    return text[:1].lower() + text[1:]


def spawn(
    path: str,
    argv: list[str],
    env: dict[str, str],
    cwd: str | None,
    standard: tuple[int, int, int],
    *,
    posix_spawn: Callable[..., int] | None = None,
) -> int:
    """Execute the command in a process and group of its own; return its pid.

    ``standard`` are its stdin, stdout and stderr. ``posix_spawn`` is what makes the process, None
    for ``os.posix_spawn``.

    The parent's memory is lent to the child and not copied, as by vfork: that is twice as fast as a
    fork, and several times as a fork of Python.

    Raises:
        CannotExecute: it cannot be done.
    """
    try:
        with working_directory(cwd):
            return (posix_spawn or os.posix_spawn)(
                path,
                argv,
                env,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, descriptor, number)
                    for number, descriptor in enumerate(standard)
                ],
                setpgroup=0,
                # The launcher has set every disposition to its default; the mask is left to undo.
                setsigmask=(),
            )
    except (OSError, ValueError) as error:
        raise failed(path, error) from None


def failed(path: str, error: OSError | ValueError) -> CannotExecute:
    """Return that a program could not be executed for this reason."""
    text = f"fork/exec {path}: {error_text(error)}"
    return CannotExecute(text, is_passing=is_passing(error))


@contextmanager
def working_directory(path: str | None) -> Iterator[None]:
    """Change the working directory while a process is made, which keeps it.

    Raises:
        CannotExecute: there is no such directory for this user.
    """
    if path is None:
        yield
        return
    home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.chdir(path)
        except (OSError, ValueError) as error:
            raise CannotExecute(f"chdir {path}: {error_text(error)}") from None
        yield
    finally:
        os.fchdir(home)
        os.close(home)


def end_text(wait_status: int) -> str:
    """Return Go's text for a wait status: ``exit status 3``, ``signal: killed``."""
    if os.WIFEXITED(wait_status):
        return f"exit status {os.WEXITSTATUS(wait_status)}"
    number = os.WTERMSIG(wait_status)
    text = _SIGNAL_TEXTS.get(number, f"signal {number}")  # type: ignore[call-overload]
    core = " (core dumped)" if os.WCOREDUMP(wait_status) else ""
    return f"signal: {text}{core}"


def exit_code(wait_status: int) -> int | None:
    """Return the exit code, None when a signal ended the command."""
    return os.WEXITSTATUS(wait_status) if os.WIFEXITED(wait_status) else None


def signal_name(wait_status: int) -> str | None:
    """Return the name of the signal that ended the command (``SIGKILL``), None when none did."""
    if not os.WIFSIGNALED(wait_status):
        return None
    number = os.WTERMSIG(wait_status)
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between the first and the last has no name
        return f"SIG{number}"
