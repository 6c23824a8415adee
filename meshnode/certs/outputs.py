"""Writes files of keys and certificates: all of a command's, or none, and never over others.

A key without its certificate, half a certificate, or a new key beside an old certificate would be
found out by a node that does not start. So each file is written whole under another name first, and
all are put in place only then. What goes wrong on the way is undone.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from meshnode.config.faults import printable
from meshnode.errors import NotMade
from meshnode.files import PRIVATE, make_file, sync_directory

PUBLIC: Final = 0o644
"""Mode of certificates and requests: they hold no secret."""

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""Errors of a file system without hard links, such as FAT."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file that is to be made; ``mode`` is its permissions whatever the umask is."""

    path: Path
    data: bytes = field(repr=False)
    mode: int = PRIVATE


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes files.

    Attributes:
        force: whether files that are there are replaced.
        remedy: what its user can do about a file that is there.
        public: mode of files that hold no secret.
    """

    force: bool
    remedy: str
    public: int = PUBLIC

    def check_free(self, paths: Sequence[Path], inputs: Iterable[Path] = ()) -> None:
        """Check that files can be made, before any work is done for them.

        Args:
            paths: those of the files.
            inputs: files that the same command reads, which are not to be replaced in any case.

        Raises:
            NotMade: one is there already, or cannot be made; the text names it, and the remedy.
        """
        read = {os.path.realpath(path) for path in inputs}
        written: set[str] = set()
        for path in paths:
            real = os.path.realpath(path)
            if real in written:
                raise NotMade(f"{shown(path)} is named twice; each thing needs a file of its own")
            if real in read:
                raise NotMade(f"{shown(path)} is read here; write to another file")
            written.add(real)
            self._check_place(path)

    def _check_place(self, path: Path) -> None:
        with told(path):
            if not path.parent.is_dir():
                parent, remedy = shown(path.parent), f"make it with: mkdir -p {plain(path.parent)}"
                raise NotMade(f"{shown(path)} cannot be written: no directory {parent}; {remedy}")
            try:
                found = path.lstat()
            except FileNotFoundError:
                return
        if stat.S_ISDIR(found.st_mode):
            raise NotMade(f"{shown(path)} is a directory; name a file")
        if not self.force:
            raise self._is_there(path)

    def _is_there(self, path: Path) -> NotMade:
        return NotMade(f"{shown(path)} is there already; {self.remedy}")

    def write_all(self, outputs: Sequence[Output]) -> None:
        """Write files: all of them, or none.

        Raises:
            NotMade: as check_free, or the disk refuses. Nothing has changed then.
        """
        self.check_free([output.path for output in outputs])
        with ExitStack() as scratches, ExitStack() as undo:
            written = [_write(output, scratches) for output in outputs]
            spare = [
                self._place(scratch, output.path, undo)
                for scratch, output in zip(written, outputs, strict=True)
            ]
            for directory in {output.path.parent for output in outputs}:
                with told(directory):
                    sync_directory(directory)
            # All are in place: from here on nothing is undone.
            undo.pop_all()
            for old, output in zip(spare, outputs, strict=True):
                _remove_old(old, output.path)

    def _place(self, scratch: Path, path: Path, undo: ExitStack) -> Path:
        """Give a file its name; return the one that the file which had it has now."""
        old = path.parent / _other_name()
        with told(path):
            if self.force and os.path.lexists(path):
                _keep(path, old, undo)
                # Whenever this process is killed, the old file is there or the new one.
                os.rename(scratch, path)
            else:
                self._rename_new(scratch, path)
                undo.callback(_remove, path)
        return old

    def _rename_new(self, scratch: Path, path: Path) -> None:
        """Rename a file, unless another one has the name. Raises NotMade and OSError."""
        try:
            # Unlike rename(2), this never replaces a file that somebody has made just now.
            os.link(scratch, path)
        except FileExistsError:
            raise self._is_there(path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(path):
                raise self._is_there(path) from None
            os.rename(scratch, path)


def _keep(path: Path, old: Path, undo: ExitStack) -> None:
    """Give a file that is to be replaced a second name. Raises OSError."""
    try:
        os.link(path, old, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(path, old)
    undo.callback(_restore, old, path)


def _restore(old: Path, path: Path) -> None:
    os.rename(old, path)
    # Of two names of one file rename(2) takes none away.
    _remove(old)


def _write(output: Output, scratches: ExitStack) -> Path:
    """Write a file whole under another name, which is free again at the end; return the name."""
    scratch = output.path.parent / _other_name()
    scratches.callback(_remove, scratch)
    with told(output.path), open(make_file(scratch), "wb") as file:
        file.write(output.data)
        os.fchmod(file.fileno(), output.mode)
        file.flush()
        os.fsync(file.fileno())
    return scratch


def _other_name() -> str:
    # Without the file's own name in it, which may be as long as names can be.
    return f".meshnode-{os.urandom(4).hex()}"


def plain(path: Path) -> str:
    """Return a path for a line that a terminal shows, whatever it is."""
    return printable(str(path))


def shown(path: Path) -> str:
    """Return a path for a message, in quotes."""
    return f'"{plain(path)}"'


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_old(old: Path, path: Path) -> None:
    try:
        _remove(old)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        text = f"{shown(path)} was replaced, but {shown(old)} is still the old one: {reason}"
        raise NotMade(text) from error


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Have what the system says of a file told by its name. Raises NotMade for OSError."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise NotMade(f"{shown(path)} cannot be written: {reason}") from error
