"""Brings the files of a unit that has ended into a directory of ours.

The node is not trusted: its tar is unpacked by :mod:`meshctl.safetar`, in a directory that is new.
Only when all of it is there are the files put in their places, and what is there already is not
written over unless that is asked for. Of who is ended before that :mod:`.partial` keeps the tar.
"""

import os
import stat
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from meshctl.api.errors import AWAY, NotFetched, SessionLost
from meshctl.api.logindex import FILES
from meshctl.api.partial import part_of
from meshctl.api.status import ASK_INTERVAL, NODE_RETURNS, Absence, size_of

if TYPE_CHECKING:
    from meshctl.api.connection import ResultStream

EMPTY_TRIES = 5
"""Sessions in a row that bring nothing of what a node says it has, until it is believed to have
lost it."""

Told = Callable[[str], object]
Shown = Callable[[int, int | None], object]


class Asked(Protocol):
    """What of a :class:`meshctl.ControlClient` this needs."""

    def results(self, unit_id: str, startpos: int = 0, stream: str = FILES) -> "ResultStream":
        """Return the pieces of a file of a unit."""
        ...

    def wait(
        self,
        unit_id: str,
        timeout: float | None = None,
        on_away: Callable[[str], object] | None = None,
    ) -> dict[str, Any]:
        """Return the final status of a unit."""
        ...


def size_of_files(unit_id: str, status: Mapping[str, Any]) -> int:
    """Return the bytes of the tar of a unit's files; 0 if it brought none. Raises NotFetched."""
    size = size_of(status, FILES)
    if size is None:
        raise NotFetched(
            f"unit {unit_id} has no files: it was submitted without --output, or never started"
        )
    return size


def tar_pieces(
    client: Asked,
    unit_id: str,
    size: int,
    on_away: Told | None = None,
    *,
    position: int = 0,
) -> Generator[bytes]:
    """Yield the tar of a unit that has ended from a byte on, each once, whatever sessions break.

    Raises:
        SessionLost, CannotReach, ProtocolMismatch: the node stays away, or has lost a part of it.
        CommandRefused: the unit was released meanwhile.
    """
    empty = 0
    absence = Absence(on_away)
    while position < size:
        before, fault = position, SessionLost(f"the node sends no more than {position} bytes")
        try:
            with client.results(unit_id, position, FILES) as pieces:
                for piece in pieces:
                    wanted = piece[: size - position]
                    position += len(wanted)
                    absence.ends()
                    yield wanted
                    if position == size:
                        return
        except AWAY as error:
            fault = error if isinstance(error, SessionLost) else SessionLost(str(error))
            empty -= 1
        empty = 0 if position > before else empty + 1
        if empty > EMPTY_TRIES:
            raise fault
        if not absence.lasts(str(fault), NODE_RETURNS):
            raise fault
        time.sleep(ASK_INTERVAL)


def fetch_ended(
    client: Asked,
    unit_id: str,
    status: Mapping[str, Any],
    directory: str | os.PathLike[str],
    *,
    force: bool = False,
    on_received: Shown | None = None,
    on_away: Told | None = None,
) -> tuple[str, ...]:
    """Put the files of a unit with this final status into a directory; return their names.

    What came before us, of those who were interrupted or cut off, is not asked for again.

    Raises:
        NotFetched: there are none, or they cannot be put there; nothing was.
        ControlError: as :func:`tar_pieces`.
    """
    size = size_of_files(unit_id, status)
    place = Path(directory)
    try:
        if not size:
            place.mkdir(parents=True, exist_ok=True)
            return ()
        with part_of(place, unit_id, size, status) as part:
            for piece in tar_pieces(client, unit_id, size, on_away, position=part.size):
                part.write(piece)
                if on_received is not None:
                    on_received(part.size, size)
            new = part.new_directory()
            _unpack(part.descriptor, new)
            return _put(new, place, force=force)
    except OSError as error:
        reason = error.strerror
        if isinstance(error, FileExistsError):
            reason = "it is no directory"
        where = f" ({error.filename})" if error.filename not in {None, os.fspath(place)} else ""
        raise NotFetched(f"cannot write to {place}: {reason}{where}") from error


def _unpack(descriptor: int, target: Path) -> None:
    # tarfile is loaded only by who needs it.
    from meshctl.safetar import BadTar, Maker, read_tar  # noqa: PLC0415

    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", buffering=0, closefd=False) as tar:
        try:
            read_tar(tar, Maker(tar, target, private=False).make)
        except BadTar as error:
            raise NotFetched(f"the node's tar is not unpacked: {error}") from error


def _put(new: Path, place: Path, *, force: bool) -> tuple[str, ...]:
    """Move all that is in a new directory to its place. Raises NotFetched, OSError."""
    names: list[str] = []
    moves: list[str] = []
    for name, is_directory, there in _compared(new, place, ""):
        if not is_directory:
            names.append(name)
        if there is None:
            moves.append(name)
        elif is_directory != stat.S_ISDIR(there):
            what = "a directory" if stat.S_ISDIR(there) else "no directory, but a file or a link"
            raise NotFetched(f"{place / name} is there, and is {what}; nothing was written")
        elif not is_directory:
            if not force:
                raise NotFetched(f"{place / name} is there; nothing was written (see --force)")
            moves.append(name)
    moved = ""
    for name in moves:
        if not (moved and name.startswith(moved)):
            os.replace(new / name, place / name)
            moved = f"{name}/"
    return tuple(names)


def _compared(new: Path, place: Path, before: str) -> Iterator[tuple[str, bool, int | None]]:
    """Yield each name, whether it is a directory, and the mode of what is in its place."""
    with os.scandir(new / before) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for base, is_directory in found:
        name = before + base
        try:
            # A place behind a link of ours is not looked for: the link is in the way.
            there: int | None = os.lstat(place / name).st_mode
        except FileNotFoundError:
            there = None
        yield name, is_directory, there
        if is_directory:
            yield from _compared(new, place, f"{name}/")


class FetchesFiles:
    """The part of a :class:`meshctl.ControlClient` that brings files of units here."""

    def fetch(
        self,
        unit_id: str,
        directory: str | os.PathLike[str] = ".",
        *,
        force: bool = False,
        on_received: Shown | None = None,
        on_away: Told | None = None,
    ) -> tuple[str, ...]:
        """Wait for a unit's end, and put the files that it brings back into a directory.

        Args:
            unit_id: The unit, submitted with ``JobSettings(output=…)``.
            directory: Where they go; made if it is not there.
            force: Replace files that are there.
            on_received: Called with the bytes that have come, and with their number in all.
            on_away: Called with the reason when the node goes away, and is waited for.

        Returns:
            The names of the files, below ``directory``.

        What has come is kept below ``directory`` if the node stays away, or if this process is
        ended: the next call goes on with it.

        Raises:
            NotFetched: the unit brings none back, or they cannot be put there; nothing was.
            CommandRefused, SessionLost, CannotReach, ProtocolMismatch: as :meth:`wait`.
        """
        client = cast("Asked", self)
        return fetch_ended(
            client,
            unit_id,
            client.wait(unit_id, on_away=on_away),
            directory,
            force=force,
            on_received=on_received,
            on_away=on_away,
        )
