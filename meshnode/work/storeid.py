"""The identity of a node's store of units: another directory, or an emptied one, has another.

A node that has submitted work asks about it after a failure. That nothing is known of it says
something only if it is the same store that is asked. A copy of a directory is no such thing: it
knows nothing of what came after it was made.
"""

import json
import os
import re
import secrets
from pathlib import Path

from meshnode import files
from meshnode.logs import SubjectLogger

FILE = ".store"
"""Name of the file in a node's directory that holds the identity."""

_MOST = 1024
"""Bytes that the file may have; it has some 60."""

_IDENTITY = re.compile(r"[0-9a-f]{32}")


def store_identity(root: Path, log: SubjectLogger) -> str:
    """Return the identity of the store in ``root``; make one if it has none of its own.

    Blocks. Where it cannot be written, the next start has another one: whoever asks then is told
    that nothing is known.
    """
    path = root / FILE
    known = _read(path, log)
    if known is not None:
        return known
    identity = secrets.token_hex(16)
    try:
        _write(path, identity)
    except OSError as error:
        log.warning("cannot record the identity of the store: %s", files.reason(error))
    return identity


def _read(path: Path, log: SubjectLogger) -> str | None:
    try:
        data = json.loads(files.read_file(path, _MOST))
        identity, inode = data["Store"], data["Inode"]
        if not _IDENTITY.fullmatch(identity):
            raise ValueError("no identity")
        is_copy = inode != os.lstat(path).st_ino
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("%s cannot be read (%s): this counts as a new store", path, error)
        return None
    if is_copy:
        log.warning("%s is a copy of another store: this counts as a new one", path)
        return None
    return str(identity)


def _write(path: Path, identity: str) -> None:
    scratch = f"{path}.tmp"
    descriptor = files.open_scratch(scratch)
    try:
        inode = os.fstat(descriptor).st_ino
        text = json.dumps({"Store": identity, "Inode": inode}).encode() + b"\n"
        os.write(descriptor, text)
        os.ftruncate(descriptor, len(text))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    files.put_in_place(scratch, path)
    files.sync_directory(path.parent)
