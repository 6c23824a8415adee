"""A unix socket to listen on: ours alone, never half open, never over somebody's file."""

import fcntl
import os
import socket
import stat
from contextlib import ExitStack
from typing import Self

import trio

from meshnode.mesh.sockets import BACKLOG, CannotListen


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listening unix socket, with the lock file that keeps a second owner away.

    The lock file ``<path>.lock`` is receptor's too, and stays: deleting it would let two owners
    each hold a lock on another file of that name.
    """

    def __init__(self, path: str, listener: trio.SocketListener, lock: int) -> None:
        self._path = path
        self._listener = listener
        self._lock: int | None = lock
        self._identity = _identity(path)

    @classmethod
    def open(cls, path: str, permissions: int) -> Self:
        """Listen at ``path``, whose file gets exactly ``permissions``.

        A stale socket there is replaced.

        Raises:
            CannotListen: a live node listens there, the path is another kind of file, or the
                directory does not allow it.
        """
        try:
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
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(sock.close)
            sock.bind(path)
            undo.callback(os.unlink, path)
            # Between bind and listen nobody can connect, so nobody ever meets other permissions;
            # changing the process's umask instead would reach other threads' files.
            os.chmod(path, permissions)
            sock.listen(BACKLOG)
            listener = cls(path, trio.SocketListener(trio.socket.from_stdlib_socket(sock)), lock)
            undo.pop_all()
        return listener

    async def accept(self) -> trio.SocketStream:
        """Wait for a client."""
        return await self._listener.accept()

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


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lock(path: str) -> int:
    # As receptor opens and locks it, so that neither takes the other's socket.
    lock = os.open(path + ".lock", os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
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
