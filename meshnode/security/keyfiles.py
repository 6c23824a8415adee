"""The files of keys and certificates that a configuration names: what they hold now, and who else
can read or replace them.

A :class:`Look` tells whether a file is another one than before, whichever way it was replaced:
written anew, renamed over, or by turning a link on the way to it.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from meshnode.config import NodeConfig
from meshnode.config.faults import Fault, printable
from meshnode.config.schema import Directive
from meshnode.config.tls_directives import TlsClient, TlsDirective, TlsServer
from meshnode.ownership import ownership_warnings

MAX_READ: Final = 4 * 1024 * 1024
"""Bytes of a file that are compared; a longer one is refused by whoever reads it."""

_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of a key or certificate: the directive that names it, and by which parameter.

    ``is_secret`` is a private key, which nobody else may read.
    """

    directive: Directive
    parameter: str
    path: Path
    is_secret: bool = False

    def fault(self, text: str) -> Fault:
        """Return what is to be said of the file, located as any fault of a configuration."""
        place = self.directive.place_of(self.parameter)
        return Fault(place, (self.directive.INFO.name, self.parameter), text)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a file: ``stamp`` differs after each change, ``digest`` if it holds other
    bytes. Both are empty for a file that cannot be read."""

    stamp: tuple[int, ...] = ()
    digest: bytes = b""


Looks = Mapping[Path, Look]

NOT_SEEN: Final[Looks] = MappingProxyType({})


def key_files(config: NodeConfig) -> tuple[KeyFile, ...]:
    """Return all files of keys and certificates that a configuration names."""
    signing = config.work_signing
    found = [] if signing is None else [KeyFile(signing, "privatekey", signing.privatekey, True)]
    found += [KeyFile(one, "publickey", one.publickey) for one in config.work_verifications]
    for directive in (*config.tls_servers, *config.tls_clients):
        found += tls_files(directive)
    for service in config.http_services:
        if service.tokens is not None:
            found.append(KeyFile(service, "tokens", service.tokens, True))
    return tuple(found)


def tls_files(directive: TlsDirective) -> list[KeyFile]:
    """Return the files of a TLS directive."""
    named: dict[str, Path | None] = {}
    if isinstance(directive, TlsServer):
        named = {"cert": directive.cert, "key": directive.key, "clientcas": directive.clientcas}
    elif isinstance(directive, TlsClient):
        named = {"cert": directive.cert, "key": directive.key, "rootcas": directive.rootcas}
    return [
        KeyFile(directive, parameter, path, parameter == "key")
        for parameter, path in named.items()
        if path is not None
    ]


# --- whether a file is another one ---------------------------------------------------------------


def look_at_all(config: NodeConfig, before: Looks = NOT_SEEN) -> Looks:
    """Return what is seen of all files; what has not changed since ``before`` is not read."""
    paths = {file.path for file in key_files(config)}
    return {path: _look_at(path, before.get(path)) for path in paths}


def _look_at(path: Path, before: Look | None) -> Look:
    try:
        # O_NONBLOCK: opening a named pipe that nobody writes to would not return.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # Whoever needs the file fails to read it, and says why.
        return Look()
    with open(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if before is not None and before.stamp == stamp:
            return before
        if not stat.S_ISREG(found.st_mode):
            return Look(stamp)
        return Look(stamp, hashlib.sha256(file.read(MAX_READ)).digest())


def changed_files(old: Looks, new: Looks) -> frozenset[Path]:
    """Return the files that hold other bytes than before, or are new, or cannot be read."""
    gone = Look()
    return frozenset(
        path for path, look in new.items() if look.digest != old.get(path, gone).digest
    )


def watched_names(path: Path) -> dict[Path, frozenset[str]]:
    """Return which entries of which directories decide what a path leads to.

    Besides the directory of the file these are those of links on the way, which may be turned
    (Kubernetes and cert-manager replace certificates so), and those above, which may be renamed.
    Where something on the way is missing, the rest of the way is not known.
    """
    found: dict[Path, set[str]] = {}
    try:
        for at in _steps(path):
            found.setdefault(at.parent, set()).add(at.name)
    except OSError:
        # Out of reach from here on: what is known so far is watched.
        pass
    return {directory: frozenset(names) for directory, names in found.items()}


def _steps(path: Path) -> Iterator[Path]:
    """Yield each file, link and directory on the way to a path, below the root. Raises OSError."""
    todo = [name for name in reversed(os.path.abspath(path).split("/")) if name]
    at = Path("/")
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            at = at.parent
            continue
        step = at / name
        yield step
        if not stat.S_ISLNK(os.lstat(step).st_mode):
            at = step
            continue
        links += 1
        if links > _MOST_LINKS:
            return
        target = os.readlink(step)
        if target.startswith("/"):
            at = Path("/")
        todo += [part for part in reversed(target.split("/")) if part not in {"", "."}]


_MOST_LINKS: Final = 40
"""Links on the way of one path, as in the kernel."""


# --- who else can read or replace it -------------------------------------------------------------


def doubts(files: Iterable[KeyFile]) -> tuple[Fault, ...]:
    """Return a warning for each file that others can read and should not, or can replace."""
    return tuple(
        file.fault(text)
        for file in files
        for text in others_of(file.path, is_secret=file.is_secret)
    )


def others_of(path: Path, *, is_secret: bool) -> Iterator[str]:
    """Yield what other users can do with a file, with the command that helps."""
    shown = printable(str(path))
    try:
        found = path.stat()
        beyond = [*ownership_warnings(path.absolute().parent)]
        if path.is_symlink():
            beyond += ownership_warnings(path.resolve().parent)
    except OSError:
        return  # whoever reads it says what is wrong
    yield from modes_of(path, found, is_secret=is_secret)
    for doubt in dict.fromkeys(beyond):
        yield f'"{shown}" can be replaced by other users: {printable(doubt)}'


def modes_of(path: Path, found: os.stat_result, *, is_secret: bool) -> Iterator[str]:
    """Yield what owner and mode of a file let other users do with it, as :func:`others_of` does."""
    shown = printable(str(path))
    mode = stat.S_IMODE(found.st_mode)
    mine = found.st_uid == os.geteuid()
    # A key of root's that this user's group may read is how it gets at it.
    unwanted = stat.S_IROTH | (stat.S_IRGRP if mine else 0) if is_secret else 0
    remedy = "600" if is_secret and mine else "o-rwx" if is_secret else "go-w"
    if mode & unwanted:
        yield f'"{shown}" can be read by other users (mode {mode:04o}); now: chmod {remedy} {shown}'
    elif mode & _WRITABLE:
        remedy = "600" if remedy == "600" else "go-w"
        text = f'"{shown}" can be replaced by other users (mode {mode:04o})'
        yield f"{text}; now: chmod {remedy} {shown}"
    if not mine and found.st_uid != 0:
        yield (
            f'"{shown}" belongs to another user (uid {found.st_uid}), who can replace it; '
            f"now: chown {os.geteuid()} {shown}"
        )
