"""A unix socket to listen on, which has one owner and replaces no file of others."""

import fcntl
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import trio

from meshnode import files
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.net.sockets import BACKLOG, CannotListen
from meshnode.ownership import ownership_warnings

try:
    import inotify_simple
except ImportError:  # the package is only asked for on Linux
    inotify_simple = None


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listening unix socket, with the lock file that keeps a second owner away.

    The lock file ``<path>.lock`` is receptor's too, and stays: deleting it would let two owners
    each hold a lock on another file of that name.

    A file that somebody deletes meanwhile, such as a cleaner of /tmp, comes back: :meth:`keep`
    waits for that, and :meth:`restore` looks at once.
    """

    def __init__(self, path: str, permissions: int, sock: socket.socket, lock: int) -> None:
        self._path = path
        self._permissions = permissions
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._lock: int | None = lock
        self._identity = _identity(path)
        self._asked = trio.Event()

    @classmethod
    def open(cls, path: str, permissions: int) -> Self:
        """Listen at ``path``, whose file gets exactly ``permissions``.

        A stale socket there is replaced.

        Raises:
            CannotListen: a live node listens there, the path is another kind of file, or the
                directory does not allow it.
        """
        try:
            for doubt in ownership_warnings(Path(path).absolute().parent):
                log = subject_logger("socket", path)
                log.warning("clients may be led to another socket: %s", doubt)
            return cls._open(path, permissions)
        except ValueError as error:  # a NUL in the path
            raise _refused(path, str(error)) from error
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            where = os.path.dirname(path) or "."
            reason = f"{error.strerror}; {where} must be a directory that this user can write to"
            raise _refused(path, reason) from error
        except OSError as error:
            raise _refused(path, error.strerror or str(error)) from error

    @classmethod
    def _open(cls, path: str, permissions: int) -> Self:
        with ExitStack() as undo:
            lock = _lock(path)
            undo.callback(os.close, lock)
            _remove_stale(path)
            listener = cls(path, permissions, _bind(path, permissions), lock)
            undo.pop_all()
        return listener

    async def accept(self) -> trio.SocketStream:
        """Wait for a client.

        Raises:
            trio.ClosedResourceError: the listener was closed.
        """
        while True:
            listener = self._listener
            try:
                return await listener.accept()
            except trio.ClosedResourceError:
                if listener is self._listener:
                    raise

    # --- files that somebody deletes ---------------------------------------------------------

    async def keep(self, log: SubjectLogger) -> None:
        """Make the socket and its lock file again whenever they are deleted, until cancelled.

        If they cannot be made or watched, it waits for :meth:`restore`.
        """
        while True:
            self._asked = trio.Event()
            is_whole = self._make_whole(log)
            events = _watch(self._path, self._path + ".lock") if is_whole else None
            if events is None:
                await self._asked.wait()
                continue
            with events:
                # Looked at once the watch is there: it reports nothing that was deleted before.
                if self.is_whole():
                    await trio.lowlevel.wait_readable(events.fileno())

    def is_whole(self) -> bool:
        """Whether the files at the path are this listener's."""
        if self._lock is None or _identity(self._path) != self._identity:
            return False
        status = os.fstat(self._lock)
        return _identity(self._path + ".lock") == (status.st_dev, status.st_ino)

    def restore(self, log: SubjectLogger) -> bool:
        """Make again what is missing; return False, and log why, if that cannot be."""
        self._asked.set()
        return self._make_whole(log)

    def _make_whole(self, log: SubjectLogger) -> bool:
        if self._lock is None:
            return False
        if self.is_whole():
            return True
        try:
            self._restore()
        except (CannotListen, OSError) as error:
            reason = error.problem if isinstance(error, CannotListen) else error.strerror
            log.error(
                "the socket %s was deleted and cannot be made again (%s); a reload tries once more",
                self._path,
                reason,
            )
            return False
        log.warning("made the socket %s again: somebody had deleted it", self._path)
        return True

    def _restore(self) -> None:
        assert self._lock is not None
        status = os.fstat(self._lock)
        if _identity(self._path + ".lock") != (status.st_dev, status.st_ino):
            # The lock comes first: whoever has the lock file owns the path.
            lock, self._lock = self._lock, _lock(self._path)
            os.close(lock)
        if _identity(self._path) != self._identity:
            _remove_stale(self._path)
            sock = _bind(self._path, self._permissions)
            # Before the old one is closed: accept() goes on with the new one then.
            old, self._listener = (
                self._listener,
                trio.SocketListener(trio.socket.from_stdlib_socket(sock)),
            )
            self._identity = _identity(self._path)
            old.socket.close()

    async def aclose(self) -> None:
        """Stop listening, and remove the socket's file if it is still ours."""
        lock, self._lock = self._lock, None
        try:
            if lock is not None and _identity(self._path) == self._identity:
                os.unlink(self._path)
        finally:
            if lock is not None:
                os.close(lock)
            await self._listener.aclose()


def _bind(path: str, permissions: int) -> socket.socket:
    with ExitStack() as undo:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.callback(sock.close)
        sock.bind(path)
        undo.callback(os.unlink, path)
        # Between bind and listen nobody can connect, so nobody ever meets other permissions;
        # changing the process's umask instead would reach other threads' files.
        os.chmod(path, permissions)
        sock.listen(BACKLOG)
        undo.pop_all()
    return sock


def _watch(*paths: str) -> "inotify_simple.INotify | None":
    """Return what becomes readable when one of these files is deleted or moved.

    None if nothing can tell: a file is not there any more, or the user's watches are used up.
    """
    if inotify_simple is None:
        return None
    flags = inotify_simple.flags
    with ExitStack() as undo:
        try:
            events = undo.enter_context(inotify_simple.INotify(nonblocking=True))
            for path in paths:
                # ATTRIB: the file of a socket in use only loses its link.
                mask = flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF | flags.DONT_FOLLOW
                events.add_watch(path, mask)
        except OSError:
            return None
        undo.pop_all()
    return events


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lock(path: str) -> int:
    # As receptor opens and locks it, so that neither takes the other's socket.
    try:
        lock = files.open_file(path + ".lock", os.O_CREAT | os.O_RDONLY)
    except files.NotOurs as error:
        reason = f"has a lock file that {error.strerror}; move {path}.lock away"
        raise _refused(path, f"{reason}, or choose another name") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _in_use(path) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens at any more; leave anything else alone."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _refused(path, "is a file that is no socket; move it away or choose another name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:  # its queue of clients is full: alive
            raise _in_use(path) from None
        else:  # alive, though without our lock: another program's
            raise _in_use(path)


def _in_use(path: str) -> CannotListen:
    return _refused(path, "is in use by a live node; stop that node or choose another name")


def _refused(path: str, reason: str) -> CannotListen:
    return CannotListen("filename", path, reason)
