"""The files of batches: ``<datadir>/<node>/batches/<ID>/``. All of it blocks.

``batch.json`` is the specification, ``lines`` its list and ``deps`` the tar of the files that its
members share, if there are any. ``journal`` has what came of its members, a JSON object a line, in
the order in which they ended. A directory is made under another name and renamed when all of it is
synced: there is a whole batch or none.
"""

import json
import os
import secrets
import shutil
import string
from array import array
from collections.abc import Iterator
from pathlib import Path

from meshnode import files
from meshnode.errors import WorkError
from meshnode.work.batches.spec import MAX_LIST_BYTES, BatchSpec
from meshnode.work.units.after import is_batch_id

DIRECTORY = "batches"
"""Name of the directory in that of the node."""

DEPS = "deps"
"""Name of the tar of files that all members share."""

SCRATCH = ".new-"
"""Prefix of what is not whole yet, or not any more."""

MAX_SPEC_BYTES = 4 << 20
"""Bytes of a specification without its lines: twice what a request may have, as JSON."""

READ = 256 * 1024
"""Bytes of a journal that are read at a time."""

_CHARACTERS = string.ascii_letters + string.digits


class BatchFiles:
    """The directories of a node's batches, below ``root`` (``<datadir>/<node>``)."""

    def __init__(self, root: Path) -> None:
        self.root = root / DIRECTORY

    def found(self) -> list[str]:
        """Return the IDs of the batches that are there; what is not whole is deleted."""
        try:
            names = sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise WorkError(f"cannot read {self.root}: {files.reason(error)}") from error
        for name in names:
            if name.startswith(SCRATCH):
                shutil.rmtree(self.root / name, ignore_errors=True)
        return [name for name in names if is_batch_id(name)]

    def scratch(self) -> Path:
        """Make the directory of a batch that comes to be. Raises OSError."""
        # Others may not look at what clients submit.
        self.root.mkdir(mode=0o700, exist_ok=True)
        path = self.root / f"{SCRATCH}{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        return path

    def put_in_place(self, scratch: Path, spec: BatchSpec) -> str:
        """Write the specification, sync everything, and return the ID.

        Raises:
            OSError: the disk refuses; all is in ``scratch`` still.
        """
        _write(scratch / "batch.json", json.dumps(spec.to_json()).encode())
        _write(scratch / "journal", b"")
        files.sync_directory(scratch)
        while True:
            batch_id = "b-" + "".join(secrets.choice(_CHARACTERS) for _ in range(8))
            if not os.path.lexists(self.root / batch_id):
                break
        os.rename(scratch, self.root / batch_id)
        try:
            files.sync_directory(self.root)
            files.sync_directory(self.root.parent)
        except OSError:
            # It is refused, so the next start of the node must not find it.
            os.rename(self.root / batch_id, scratch)
            raise
        return batch_id

    def discard(self, scratch: Path) -> None:
        """Delete what did not become a batch."""
        shutil.rmtree(scratch, ignore_errors=True)

    def read_spec(self, batch_id: str) -> BatchSpec:
        """Return the specification of a batch. Raises WorkError."""
        try:
            data = json.loads(files.read_file(self.root / batch_id / "batch.json", MAX_SPEC_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            raise WorkError(f"batch {batch_id} cannot be read: {error}") from error
        return BatchSpec.from_json(data)

    def remove(self, batch_id: str) -> None:
        """Delete a batch; a crash leaves it whole or gone. Raises OSError."""
        trash = self.root / f"{SCRATCH}{secrets.token_hex(8)}"
        try:
            os.rename(self.root / batch_id, trash)
        except FileNotFoundError:
            return
        files.sync_directory(self.root)
        shutil.rmtree(trash, ignore_errors=True)

    # --- the journal --------------------------------------------------------------------------

    def append(self, batch_id: str, lines: bytes, *, durable: bool) -> None:
        """Add lines to a journal. Raises OSError; nothing of them is there then."""
        descriptor = files.open_file(
            self.root / batch_id / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT
        )
        try:
            before = os.fstat(descriptor).st_size
            try:
                view = memoryview(lines)
                while view:
                    view = view[os.write(descriptor, view) :]
                if durable:
                    os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)

    def read_journal(self, batch_id: str) -> Iterator[bytes]:
        """Yield each line; a last one that a crash has cut is taken away. Raises OSError."""
        path = self.root / batch_id / "journal"
        with open(files.open_file(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            whole = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                yield line
            file.truncate(whole)

    def read_part(self, batch_id: str, start: int) -> bytes:
        """Return whole lines of a journal from a position on, at most some READ bytes of them.

        Raises OSError.
        """
        descriptor = files.open_file(self.root / batch_id / "journal", os.O_RDONLY)
        try:
            data = os.pread(descriptor, READ, start)
        finally:
            os.close(descriptor)
        return data[: data.rfind(b"\n") + 1]

    # --- the files and the list ---------------------------------------------------------------

    def deps_path(self, batch_id: str) -> Path:
        """Return where the tar of a batch's files lies."""
        return self.root / batch_id / DEPS

    def line_starts(self, batch_id: str) -> "array[int]":
        """Return where each line of a list begins, and where the last one ends. Raises OSError."""
        starts = array("Q", [0])
        descriptor = files.open_file(self.root / batch_id / "lines", os.O_RDONLY)
        with open(descriptor, "rb") as file:
            position = 0
            for line in file:
                position += len(line)
                starts.append(min(position, MAX_LIST_BYTES))
        return starts

    def read_line(self, batch_id: str, start: int, end: int) -> bytes:
        """Return one line of a list. Raises OSError."""
        descriptor = files.open_file(self.root / batch_id / "lines", os.O_RDONLY)
        try:
            return os.pread(descriptor, end - start, start)
        finally:
            os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
