"""What tests of an administrator's work share."""

from collections.abc import Iterator
from pathlib import Path

import machine
import pytest
import sshd


@pytest.fixture
def box(tmp_path: Path) -> Iterator[machine.Machine]:
    """Yield a machine with nothing of ours on it but a checkout; skip where none can be had."""
    if reason := machine.reason_against():
        pytest.skip(reason)
    with machine.boot(tmp_path / "machine") as box:
        yield box


@pytest.fixture
def far(tmp_path: Path) -> Iterator[sshd.Servers]:
    """Yield a place for SSH servers; skip where none can be started."""
    if reason := sshd.reason_against():
        pytest.skip(reason)
    with sshd.servers(tmp_path / "far") as place:
        yield place
