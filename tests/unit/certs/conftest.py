import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshnode.certs.tasks import Desk

NOW = datetime.datetime(2026, 11, 26, 5, 0, 0, tzinfo=datetime.UTC)


@dataclass
class Scripted:
    """A person who answers, and what they were told."""

    answer: str = "yes"
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def desk(self, now: datetime.datetime = NOW) -> Desk:
        return Desk(self.said.append, self.warned.append, self._ask, now)

    def _ask(self, question: str) -> str:
        self.asked.append(question)
        return self.answer


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
