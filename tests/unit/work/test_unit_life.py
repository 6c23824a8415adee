"""Whatever is asked of a unit, by whom and in which order: its states follow the table."""

import tempfile
from dataclasses import replace
from pathlib import Path

import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshnode.errors import UnknownUnit, WorkError
from meshnode.protocol.lifecycle import TRANSITIONS, UnitState
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusfiles import Overtaken
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit

FIRST = UnitStatus(UnitState.PENDING, "Starting Worker", "cat", stdin_size=0, params=("cat",))


class UnitLife(RuleBasedStateMachine):
    """The node and a supervisor change one unit; a restart reads it again."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.store = UnitStore(Path(self.directory.name) / "foo")
        self.store.prepare()
        self.unit_id = self.store.create(FIRST)
        self.unit = Unit(self.unit_id, FIRST, self.store)
        self.on_disk = UnitState.PENDING
        self.released = False

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()

    def _run(self, operation) -> Exception | None:
        async def main():
            await operation()

        try:
            trio.run(main)
        except (WorkError, UnknownUnit) as error:
            return error
        return None

    @rule(state=st.sampled_from(UnitState), detail=st.text(max_size=5))
    def node_changes(self, state: UnitState, detail: str) -> None:
        before = self.unit.status.state
        error = self._run(
            lambda: self.unit.change(lambda old: replace(old, state=state, detail=detail))
        )
        legal = state is before or state in TRANSITIONS[before]
        if self.released:
            assert isinstance(error, UnknownUnit)
        elif not legal:
            assert error is not None
            assert not isinstance(error, Overtaken)
        elif error is not None:
            # Somebody was first, and only then.
            assert isinstance(error, Overtaken)
            assert self.on_disk is not before
            assert self.unit.status.state is self.on_disk
        else:
            self.on_disk = state

    @rule(detail=st.text(max_size=5))
    def node_fails_it(self, detail: str) -> None:
        was_final = self.unit.is_final
        before = self.unit.status
        error = self._run(lambda: self.unit.fail(detail))
        if was_final:
            assert error is None
            assert self.unit.status == before
        elif error is None:
            assert self.unit.status.state is UnitState.FAILED
            self.on_disk = UnitState.FAILED

    @rule(state=st.sampled_from(UnitState))
    def supervisor_changes(self, state: UnitState) -> None:
        if not self.released and state in TRANSITIONS[self.on_disk]:
            status = self.store.read_status(self.unit_id)
            self.store.write_status(self.unit_id, replace(status, state=state))
            self.on_disk = state

    @rule()
    def node_reloads(self) -> None:
        if not self.released:
            assert self._run(self.unit.reload) is None
            assert self.unit.status.state is self.on_disk

    @rule()
    def node_restarts(self) -> None:
        if not self.released:
            (found,) = self.store.scan()
            self.unit = Unit(self.unit_id, found.status, self.store)

    @rule()
    def node_releases(self) -> None:
        if not self.released:
            self.store.purge(self.store.unlink(self.unit_id))
            self.unit.mark_released()
            self.released = True

    @invariant()
    def disk_says_what_was_last_written(self) -> None:
        if not self.released:
            assert self.store.read_status(self.unit_id).state is self.on_disk


TestUnitLife = UnitLife.TestCase
