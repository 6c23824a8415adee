"""Directories of jobs that tests draw, patterns for them, and what is in the tar of one."""

import tarfile
from pathlib import Path

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "ab", ".h", "DEPS", "d e", "ü", "\udcff", "[x]", "n\nl"])
CONTENT = st.binary(max_size=600) | st.just(b"x" * 3000)
TREES = st.recursive(
    CONTENT | st.sampled_from([("link", "a"), ("link", "../a"), ("link", "/etc"), ("link", "..")]),
    lambda below: st.dictionaries(NAMES, below, max_size=4),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))
PARTS = st.sampled_from(["a", "b", "*", "?", "**", "a*", "*b", ".*", "DEPS", "[ab]", "[[]x]", "ü"])
GLOBS = st.lists(st.lists(PARTS, min_size=1, max_size=4).map("/".join), min_size=1, max_size=4)


def make(place: Path, tree) -> None:
    place.mkdir()
    for name, what in tree.items():
        match what:
            case dict():
                make(place / name, what)
            case bytes():
                (place / name).write_bytes(what)
            case ("link", target):
                (place / name).symlink_to(target)


def members(path: Path) -> dict[str, object]:
    """Return what is in a tar: content, the target of a link, or None of a directory."""
    if not path.stat().st_size:
        return {}
    found: dict[str, object] = {}
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            assert member.name not in found
            if member.isreg():
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
            else:
                assert member.isdir() or member.issym()
                found[member.name] = ("link", member.linkname) if member.issym() else None
    return found
