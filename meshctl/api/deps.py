"""Files and directories that go along with a submission, as a tar that is made while it is sent.

They are walked first, so that the size of the tar is known; no more than a piece of it is in
memory. While the files stay as they are, the tar is the same bytes whenever it is made: names,
modes, times and sizes are those of the walk. On the node they lie below ``DEPS/`` in the directory
that the command starts in.
"""

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshctl.api.errors import BadSettings
from meshctl.api.payload import (
    CHUNK_BYTES,
    DEPS_SHA256_KEY,
    DEPS_SIZE_KEY,
    SCRIPT_KEY,
    Payload,
    PayloadError,
)

PathText = str | os.PathLike[str]

END_BYTES = 2 * tarfile.BLOCKSIZE
"""Zeros that end a tar."""

MAX_FILES = 100_000
"""What a node unpacks of one submission: files, directories and links."""

NO_FILE = "it is neither a file nor a directory"

MAX_DEPTH, MAX_NAME = 64, 1024
"""Directories below each other, and bytes of a name, that a node unpacks."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One member of the tar."""

    name: str
    path: str
    mode: int
    """With the type, as stat(2) has it."""
    size: int
    mtime: int
    target: str = ""
    """Of a link."""

    def header(self) -> bytes:
        """Return the member's blocks before its content."""
        info = tarfile.TarInfo(self.name)
        info.size, info.mtime = self.size, self.mtime
        # Whose they are, and who else may read them, means nothing on another machine.
        info.mode = 0o755 if self.mode & stat.S_IXUSR else 0o644
        if stat.S_ISDIR(self.mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(self.mode):
            info.type, info.linkname = tarfile.SYMTYPE, self.target
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


class Dependencies:
    """What is to be sent, as it was when this object was made.

    A file that has become shorter meanwhile is broken, and what was appended is not sent.

    Attributes:
        size: bytes of the tar.
        script: name of the file that is to be run, empty for none.

    Raises:
        BadSettings: something is not there, is no file or directory, or leads out of what is sent.
    """

    def __init__(self, paths: Sequence[PathText], script: PathText = "") -> None:
        """``script`` is a file that is sent as well, and can be executed there."""
        if script:
            _check_script(os.fspath(script))
        self.script = name_of(script) if script else ""
        self._entries: list[_Entry] = []
        self.size = END_BYTES
        names: set[str] = set()
        scripts = ((script, stat.S_IXUSR),) if script else ()
        for path, mode in (*((path, 0) for path in paths), *scripts):
            name = name_of(path)
            if name in names:
                raise BadSettings(f"two dependencies are called {name!r}; rename one")

            names.add(name)
            # A link that is named itself stands for what it leads to.
            self._add(name, _led_to(os.fspath(path)), mode)

    @property
    def announced(self) -> dict[str, str]:
        """What a node must know of them, as fields of a submission."""
        script = {SCRIPT_KEY: self.script} if self.script else {}
        return {DEPS_SIZE_KEY: str(self.size), **script}

    def _add(self, name: str, path: str, more_mode: int = 0) -> None:
        """Add what is at a path, and all below it, in a stable order."""
        waiting = [(name, path)]
        while waiting:
            name, path = waiting.pop()
            try:
                entry = _look(name, path, more_mode)
                if stat.S_ISDIR(entry.mode):
                    found = sorted(os.listdir(path), reverse=True)
                    waiting += [(f"{name}/{one}", f"{path}/{one}") for one in found]
            except OSError as error:
                raise BadSettings(f"dependency {path}: {error.strerror}") from error
            self._entries.append(entry)
            self.size += len(entry.header()) + _padded(entry.size)
            if len(self._entries) > MAX_FILES:
                raise BadSettings(f"there are more than {MAX_FILES} files among the dependencies")

    def chunks(self, start: int = 0) -> Iterator[memoryview]:
        """Yield the tar from a byte on in pieces.

        Raises:
            PayloadError: a file cannot be read, or is not what it was.
        """
        gathered = bytearray()
        for piece in self._pieces(start):
            gathered += piece
            if len(gathered) >= CHUNK_BYTES:
                yield memoryview(bytes(gathered))
                gathered.clear()
        yield memoryview(gathered)

    def sha256(self) -> str:
        """Return the digest of the tar. Raises PayloadError."""
        digest = hashlib.sha256()
        for piece in self._pieces(0):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, skipped: int) -> Iterator[bytes]:
        """Yield the tar but for its first bytes; of a file that is all among them nothing is read.

        Raises:
            PayloadError: as :meth:`chunks`.
        """
        for entry in self._entries:
            header = entry.header()
            whole = len(header) + _padded(entry.size)
            if skipped >= whole:
                skipped -= whole
                continue
            yield header[skipped:]
            yield from _content(entry, max(skipped - len(header), 0))
            skipped = 0
        yield bytes(END_BYTES)[skipped:]


def name_of(path: PathText) -> str:
    """Return what a dependency is called there. Raises BadSettings."""
    name = os.path.basename(os.path.abspath(os.fspath(path))) if os.fspath(path) else ""
    if not name:
        raise BadSettings(f"dependency {os.fspath(path)!r} has no name of its own")
    return name


def _check_script(path: str) -> None:
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        raise BadSettings(f"script {path}: {_reason(error)}") from error
    if not is_file:
        raise BadSettings(f"script {path}: it is no file")


def _led_to(path: str) -> str:
    """Return where a path leads to. Raises BadSettings: to nothing that can be sent."""
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise BadSettings(f"dependency {path}: {_reason(error)}") from error
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        # Where a pipe leads to has no name.
        raise BadSettings(f"dependency {path}: {NO_FILE}")
    return os.path.realpath(path)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _check_empty(path: str) -> None:
    """Refuse a file that says it is empty, and is not, as those of /proc. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.read(descriptor, 1) and not os.fstat(descriptor).st_size:
            raise BadSettings(
                f"dependency {path}: it has bytes, and says that it has none: send a copy of it"
            )
    finally:
        os.close(descriptor)


def _look(name: str, path: str, more_mode: int) -> _Entry:
    """Return the member that a path becomes. Raises OSError, BadSettings."""
    found = os.lstat(path)
    if name.count("/") >= MAX_DEPTH or len(os.fsencode(name)) > MAX_NAME:
        raise BadSettings(f"dependency {path}: its name is too long or too deep")
    kind, mtime = found.st_mode, int(found.st_mtime)
    if stat.S_ISLNK(kind):
        target = os.readlink(path)
        if not _stays_inside(target, name.count("/")):
            raise BadSettings(
                f"dependency {path}: it is a link to {target}, which leads out of what is sent; "
                "give what it leads to as a dependency of its own"
            )
        return _Entry(name, path, kind, 0, mtime, target)
    if stat.S_ISDIR(kind):
        return _Entry(name, path, kind, 0, mtime)
    if not stat.S_ISREG(kind):
        raise BadSettings(f"dependency {path}: {NO_FILE}")
    if not os.access(path, os.R_OK):
        raise BadSettings(f"dependency {path}: Permission denied")
    if not found.st_size:
        _check_empty(path)
    return _Entry(name, path, kind | more_mode, found.st_size, mtime)


def _stays_inside(target: str, depth: int) -> bool:
    """Whether a node takes a link: ``..`` is at its beginning only, and not too often."""
    parts = [part for part in target.split("/") if part not in {"", "."}]
    ups = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return not target.startswith("/") and ups <= depth and ".." not in parts[ups:]


def _content(entry: _Entry, skipped: int) -> Iterator[bytes]:
    """Yield the content of a member and the zeros behind it, but for its first bytes.

    Raises:
        PayloadError: it cannot be read.
    """
    if skipped < entry.size:
        yield from _of_file(entry, skipped)
    yield bytes(_padded(entry.size) - max(entry.size, skipped))


def _of_file(entry: _Entry, position: int) -> Iterator[bytes]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(entry.path, flags)
        try:
            while position < entry.size:
                piece = os.pread(descriptor, min(entry.size - position, CHUNK_BYTES), position)
                if not piece:
                    raise PayloadError(f"{entry.path} became shorter while it was sent")
                position += len(piece)
                yield piece
        finally:
            os.close(descriptor)
    except OSError as error:
        raise PayloadError(f"{entry.path} cannot be read ({error.strerror})") from error


class PayloadWithFiles:
    """A payload that begins with dependencies.

    Attributes:
        size: bytes of both; None if only sending it will tell.
        announced: what a node must know of both, as fields of the submission.
    """

    def __init__(self, files: Dependencies, stdin: Payload) -> None:
        self._files = files
        self._stdin = stdin
        self._sha256 = ""
        self.size = None if stdin.size is None else files.size + stdin.size
        self.announced = {**files.announced, **stdin.announced}

    def chunks(self, start: int = 0) -> Iterator[memoryview]:
        """Yield the bytes from one on in pieces, as :meth:`Payload.chunks`."""
        if start < self._files.size:
            yield from self._files.chunks(start)
        yield from self._stdin.chunks(max(start - self._files.size, 0))

    def in_parts(self) -> dict[str, str] | None:
        """Return sizes and digests of both; the files are read for that, once."""
        stdin = self._stdin.in_parts()
        if stdin is None:
            return None
        try:
            self._sha256 = self._sha256 or self._files.sha256()
        except PayloadError:
            return None  # its fault will show when it is sent
        return {**self._files.announced, DEPS_SHA256_KEY: self._sha256, **stdin}

    def is_unchanged(self) -> bool:
        """Whether both are what they were; all of it is read."""
        try:
            return self._files.sha256() == self._sha256 and self._stdin.is_unchanged()
        except PayloadError:
            return False
