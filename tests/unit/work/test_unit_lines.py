"""What the log says of units: all of those that run somewhere, and some of those that do not."""

import io
import logging
from collections.abc import Iterator

import pytest

from meshnode import logs
from meshnode.protocol.lifecycle import UnitState

FEW, MANY = 4, 7
"""Lines of one kind that are written in these tests, and units that there are."""


@pytest.fixture
def written(monkeypatch) -> Iterator[io.StringIO]:
    """Return what a node writes to its log at its usual level."""
    monkeypatch.setattr(logs, "LINES_A_MINUTE", FEW)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs.LineLimit(handler.handle))
    logger = logging.getLogger(logs.ROOT)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


def lines_about(written: io.StringIO, unit_ids: set[str]) -> list[str]:
    lines = [line for line in written.getvalue().splitlines() if line.startswith("unit ")]
    return [line for line in lines if line.split()[1].rstrip(":") in unit_ids]


async def test_units_that_no_other_node_has_taken_do_not_fill_the_log(foo, written, autojump_clock):
    async with foo.running():
        unit_ids = set()
        for _ in range(MANY):
            unit_id = await foo.submit("bar", "cat")
            unit_ids.add(unit_id)
            await foo.talk(f"work cancel {unit_id}")
            await foo.talk(f"work release {unit_id}")
        lines = lines_about(written, unit_ids)
        for text in (": created: cat for node bar", ": Canceled", ": released"):
            assert sum(text in line for line in lines) == FEW


async def test_of_a_unit_that_another_node_has_taken_every_line_is_written(
    foo, bar, written, autojump_clock
):
    async with foo.running(), bar.running():
        unit_ids = {await foo.submit("bar", "cat") for _ in range(MANY)}
        for unit_id in unit_ids:
            status = await foo.wait_final(unit_id)
            assert status.state is UnitState.SUCCEEDED
            await foo.talk(f"work release {unit_id}")
        lines = lines_about(written, unit_ids)
        assert sum("is unit " in line and line.endswith(" of bar") for line in lines) == MANY
        assert sum("Succeeded: exit status 0" in line for line in lines) == MANY
        assert sum(": released by " in line for line in lines) == MANY


async def test_of_a_unit_that_runs_here_every_line_is_written(foo, written, autojump_clock):
    async with foo.running():
        unit_ids = {await foo.submit("localhost", "cat") for _ in range(MANY)}
        for unit_id in unit_ids:
            await foo.wait_final(unit_id)
        lines = lines_about(written, unit_ids)
        assert sum(": created: cat, by " in line for line in lines) == MANY
        assert sum("Succeeded: exit status 0" in line for line in lines) == MANY
