from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_person import Scripted


@pytest.fixture
def person() -> Scripted:
    return Scripted()


@pytest.fixture
def files(tmp_path: Path) -> Callable[[], dict[str, tuple[int, bytes]]]:
    """Return a function that tells mode and content of each file in the test's directory."""

    def tell() -> dict[str, tuple[int, bytes]]:
        found = (path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink())
        return {
            str(path.relative_to(tmp_path)): (path.lstat().st_mode & 0o777, path.read_bytes())
            for path in found
        }

    return tell
