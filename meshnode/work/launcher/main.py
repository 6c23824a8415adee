"""The launcher's loop: a request in, a forked supervisor out; ends with its node.

Packets to the node are JSON objects with the number (``start``) and the ``unit`` of a request, and
its outcome: from a supervisor ``supervisor`` (pid) and ``started`` (ticks), or ``error``, with
``taken`` when the unit was not Pending; from the launcher ``error`` when it cannot fork, and
``gone`` when a supervisor ended abnormally. A supervisor's answer is in the queue before its end
can be seen, so ``gone`` without an answer before it means that there is none.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import sys

from meshnode.work.launcher import command, wire
from meshnode.work.launcher.statusfile import FILE_MODE
from meshnode.work.launcher.supervisor import Request, answer, supervise

SUPERVISOR_FAILED = 1
"""Exit code of a supervisor that met an error in its own code."""

WAKEUP_BYTES = 512
"""Bytes read at once of the pipe that carries one byte per SIGCHLD."""

HELD_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGPIPE,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGXFSZ,
    signal.SIGTSTP,
)
"""What a terminal, a shell, a vanished reader or a limit may send to launcher and supervisors. Not
simply all: each call that changes the mask costs Python microseconds for every signal in it."""

_STDIN = 0


def main() -> None:
    """Serve the node at the other end of stdin, a SOCK_SEQPACKET socket, until it closes."""
    _default_signals()
    _limit_descriptors(sys.argv[1:])
    socket_fd = _take_stdin()
    launcher = Launcher(socket_fd)
    # What exists now lives for ever; collections in a supervisor must not touch (copy) its pages.
    gc.collect()
    gc.freeze()
    launcher.serve()


def _limit_descriptors(arguments: list[str]) -> None:
    """Give commands the limit that the node itself was started with, if it was named.

    The node raises its own, and a program that still uses select() breaks on descriptors above
    1,023, which a raised limit would let it have.
    """
    if arguments:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(arguments[0]), hard))


def _default_signals() -> None:
    """Give every signal its default, and hold back those that would end the process.

    The launcher ends with its node, by end-of-file alone. Held back and not ignored, because a
    command would inherit that through exec (Python itself ignores SIGPIPE at its start).
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, HELD_SIGNALS)
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)


def _take_stdin() -> int:
    """Move the socket away from descriptor 0, where commands have their stdin."""
    socket_fd = os.dup(_STDIN)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return socket_fd


class Launcher:
    """The socket, the pipe that SIGCHLD writes to, and the supervisors alive.

    Args:
        socket_fd: connected SOCK_SEQPACKET socket; closed on exec.
    """

    def __init__(self, socket_fd: int) -> None:
        self._socket = socket_fd
        self._assembler = wire.Assembler()
        self._started: dict[int, Request] = {}
        self._wakeup, self._waker = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)

    def serve(self) -> None:
        """Start what is asked for and reap what has ended, until the node's end closes."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            for fd, _events in poll.poll():
                if fd == self._wakeup:
                    self._reap()
                elif not self._take_packet():
                    return

    def _take_packet(self) -> bool:
        """Take one packet from the node; False when there is no node any more."""
        try:
            packet = os.read(self._socket, wire.MAX_PACKET_BYTES)
        except ConnectionResetError:
            return False
        if not packet:
            return False
        request = self._assembler.feed(packet)
        if request is not None:
            self._start(json.loads(request))
        return True

    def _start(self, request: Request) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            text = f"cannot start a supervisor: {command.error_text(error)}"
            answer(self._socket, request, {"error": text})
            return
        if pid == 0:
            self._be_supervisor(request)
        # Not the whole request: it may be megabytes, and the unit may run for days.
        self._started[pid] = {key: request[key] for key in ("start", "unit")}

    def _be_supervisor(self, request: Request) -> None:
        """In the forked process: keep only the socket, supervise, end; does not return."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._wakeup)
            os.close(self._waker)
            # A unit may outlive its node by days, and must not hold the node's log open.
            os.dup2(_STDIN, 2)
            supervise(request, self._socket)
        except BaseException:  # noqa: BLE001 - a forked process must not go on as the launcher
            _log_crash(str(request["dir"]))
            os._exit(SUPERVISOR_FAILED)
        os._exit(0)

    def _reap(self) -> None:
        """Collect ended supervisors; tell the node of those that did not end by themselves."""
        os.read(self._wakeup, WAKEUP_BYTES)
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            request = self._started.pop(pid)
            if wait_status != 0:
                answer(self._socket, request, {"gone": command.end_text(wait_status)})


def _log_crash(unit_dir: str) -> None:
    """Write the current exception's traceback to ``supervisor.log`` in the unit's directory."""
    try:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
        os.dup2(os.open(unit_dir + "/supervisor.log", flags, FILE_MODE), 2)
    except OSError:
        # The unit is gone or the disk is broken: the exit code is all that can be said.
        return
    # Written in C, without importing the traceback module in the middle of a failure.
    sys.__excepthook__(*sys.exc_info())
