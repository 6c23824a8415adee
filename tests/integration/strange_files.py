"""What may stand where a file of a unit should be."""

import contextlib
import os
import shutil
from pathlib import Path

STRANGE = (
    "named pipe",
    "device",
    "link",
    "dangling link",
    "directory",
    "full directory",
    "socket",
    "huge",
    "empty",
    "random bytes",
    "deep",
    "of another user",
    "gone",
)

HUGE = 300 * 1024 * 1024
"""Bytes of a sparse file: it takes no room, but whoever reads it does."""

SECRET = b"what only its owner may read"


def put_strange(path: Path, what: str) -> None:
    """Put something else in the place of a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    match what:
        case "named pipe":
            os.mkfifo(path)
        case "device":
            # As /dev/zero; who may not make one gets a link to it, which is as strange.
            try:
                os.mknod(path, 0o020600, os.makedev(1, 5))
            except PermissionError:
                path.symlink_to("/dev/zero")
        case "link":
            secret = path.parent.parent / "secret"
            secret.write_bytes(SECRET)
            secret.chmod(0o600)
            path.symlink_to(secret)
        case "dangling link":
            path.symlink_to("nowhere")
        case "directory":
            path.mkdir()
        case "full directory":
            path.mkdir()
            (path / "file").touch()
        case "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as bound:
                # By a short way: a path of a socket has at most 107 bytes.
                directory = os.open(path.parent, os.O_RDONLY)
                try:
                    bound.bind(f"/proc/self/fd/{directory}/{path.name}")
                finally:
                    os.close(directory)
        case "huge":
            with path.open("wb") as file:
                file.truncate(HUGE)
        case "empty":
            path.touch()
        case "random bytes":
            path.write_bytes(bytes(range(256)))
        case "deep":
            path.write_bytes(b"[" * 100_000)
        case "of another user":
            path.write_bytes(b'{"State": 0, "WorkType": "cat"}')
            try:
                os.chown(path, 4242, 4242)
            except PermissionError:
                path.unlink()
        case "gone":
            pass
