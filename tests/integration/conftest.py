"""What tests of an administrator's work share."""

from collections.abc import Iterator
from pathlib import Path

import machine
import pytest


@pytest.fixture
def box(tmp_path: Path) -> Iterator[machine.Machine]:
    """Yield a machine with nothing of ours on it but a checkout; skip where none can be had."""
    if reason := machine.reason_against():
        pytest.skip(reason)
    with machine.boot(tmp_path / "machine") as box:
        yield box
