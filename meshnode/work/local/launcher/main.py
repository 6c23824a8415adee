"""The launcher's loop: a start in, a supervisor at work; ends with its node.

The messages are those of :mod:`.wire`.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import sys

from meshnode.files import is_passing
from meshnode.work.local.launcher import command, wire
from meshnode.work.local.launcher.pool import SupervisorPool

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
"""Signals that a terminal, a shell, a closed pipe or a limit may send to launcher and supervisors.
Not simply all: changing the mask takes Python microseconds for each signal in it."""

FREE_MILLISECONDS = 10_000
"""Time without any event after which free supervisors are ended."""

OOM_SCORE = "/proc/self/oom_score_adj"
"""What the kernel adds to a process's size when it looks for one to end (proc(5))."""

OOM_SCORE_BYTES = 16
"""Bytes of that at most: it is between -1000 and 1000."""

_STDIN = 0


def main() -> None:
    """Serve the node at the other end of stdin, a SOCK_SEQPACKET socket, until it closes."""
    _default_signals()
    _limit_descriptors(sys.argv[1:])
    _be_no_dearer_than_others()
    socket_fd = _take_stdin()
    launcher = Launcher(socket_fd)
    # A collection in a supervisor must not touch these objects: it would copy their pages.
    gc.collect()
    gc.freeze()
    launcher.serve()


def _limit_descriptors(arguments: list[str]) -> None:
    """Give commands the limit of descriptors that the node itself was started with, if it was
    named.

    The node raises its own. A program that still uses select() breaks on descriptors above 1,023,
    which a raised limit allows.
    """
    if arguments:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(arguments[0]), hard))


def _be_no_dearer_than_others() -> None:
    """Give commands the default place among those that the kernel may end for want of memory.

    A node may be spared (``OOMScoreAdjust`` of its service), its commands must not be for that.
    What makes them go first is left: nobody without privilege can take it back.
    """
    try:
        fd = os.open(OOM_SCORE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # No /proc, or one that is only read: there is nothing that could be changed.
        return
    if int(os.read(fd, OOM_SCORE_BYTES)) < 0:
        os.write(fd, b"0")
    os.close(fd)


def _default_signals() -> None:
    """Give every signal its default, and block those that would end the process.

    The launcher ends with its node, by end-of-file alone. The signals are blocked and not ignored,
    because a command would inherit that through exec (Python ignores SIGPIPE at its start).
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
    """The socket, the pipe that SIGCHLD writes to, and the supervisors.

    Args:
        socket_fd: connected SOCK_SEQPACKET socket; closed on exec.
    """

    def __init__(self, socket_fd: int) -> None:
        self._socket = socket_fd
        self._assembler = wire.Assembler()
        self._pool = SupervisorPool(socket_fd, self._leave)
        self._wakeup, self._waker = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)

    def serve(self) -> None:
        """Start what is asked for and reap what has ended, until the node's end closes."""
        poll = select.poll()
        # In this order: a supervisor that has become free can take the start that is read next.
        for fd in (self._wakeup, self._pool.reports, self._socket):
            poll.register(fd, select.POLLIN)
        while True:
            ready = poll.poll(FREE_MILLISECONDS if self._pool.has_free else None)
            if not ready:
                self._pool.let_go()
            for fd, _events in ready:
                if fd == self._wakeup:
                    self._reap()
                elif fd == self._pool.reports:
                    self._pool.take_reports()
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
        text = self._assembler.feed(packet)
        if text is not None:
            self._start(text)
        return True

    def _start(self, text: bytes) -> None:
        start = wire.Start.parse(text)
        try:
            self._pool.start(start, text)
        except OSError as error:
            reason = f"cannot start a supervisor: {command.error_text(error)}"
            refused = wire.Refused(start, reason, is_passing=is_passing(error))
            wire.send(self._socket, refused)

    def _leave(self) -> None:
        """In a new supervisor: close what only the launcher needs."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._wakeup)
        os.close(self._waker)
        # A unit may outlive its node by days, and must not hold the node's log open.
        os.dup2(_STDIN, 2)

    def _reap(self) -> None:
        """Collect ended supervisors."""
        os.read(self._wakeup, WAKEUP_BYTES)
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._pool.take_end(pid, wait_status)
