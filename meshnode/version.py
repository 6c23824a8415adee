"""Which build this is: the release, and the commit that it was made from (``0.1.0+g1a2b3c4``).

A build from a git checkout leaves the commit in a file of the package (setup.py). A program that
runs from the checkout itself, as of an editable install, has the commit that is checked out. A
release has neither, and is called by its number alone.

The files of git are read, and git is not run: that would take a node longer than all it does before
it listens, and a machine that runs nodes need not have it.
"""

from pathlib import Path
from typing import Final

from meshnode import __version__

COMMIT_FILE: Final = "commit.txt"
"""File of a package that a build has left the commit in."""

PROJECT: Final = 'name = "meshnode"'
"""Line of our pyproject.toml: other people's checkouts may have an installed copy in them."""

SHOWN: Final = 7
"""Digits of a commit that are shown, as git does."""

LONGEST: Final = 1 << 20
"""Bytes that are read of a file of git: the list of packed refs of a large repository has less."""


def version_of(package: Path) -> str:
    """Return the version of the code in a package's directory."""
    try:
        commit = _read(package / COMMIT_FILE)
    except (OSError, ValueError):
        commit = commit_of(package.parent)
    return f"{__version__}+g{commit[:SHOWN]}" if commit else __version__


def commit_of(checkout: Path) -> str:
    """Return the commit that is checked out in a directory; empty if it is no checkout of ours."""
    try:
        if PROJECT not in _read(checkout / "pyproject.toml").splitlines():
            return ""
        commit = _head(checkout / ".git")
        int(commit, 16)
    except (OSError, ValueError):
        return ""
    return commit


def _head(git: Path) -> str:
    """Return the commit of HEAD. Raises OSError, ValueError."""
    if git.is_file():  # a further work tree has its directory elsewhere
        git = git.parent / _read(git).removeprefix("gitdir: ")
    kind, _, name = _read(git / "HEAD").partition("ref: ")
    if kind:
        return kind
    common = git / _read(git / "commondir") if (git / "commondir").exists() else git
    try:
        return _read(common / name)
    except FileNotFoundError:
        packed = (line.split(" ") for line in _read(common / "packed-refs").splitlines())
        return next((line[0] for line in packed if line[1:] == [name]), "")


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(LONGEST).strip()


VERSION: Final = version_of(Path(__file__).parent)
