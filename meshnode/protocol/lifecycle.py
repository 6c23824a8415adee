"""The states of a unit of work and every transition between them (design section 4).

Pending → Running → Succeeded | Failed | Canceled; Pending → Failed | Canceled. Nothing leaves a
final state. Numbers and names are receptor's (reference section 8).
"""

import enum

from meshnode.errors import WorkError


class UnitState(enum.IntEnum):
    """State of a unit; the value is what stands in ``State`` on disk and on the wire."""

    PENDING = 0
    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    CANCELED = 4

    @property
    def label(self) -> str:
        """``StateName`` as clients see it, e.g. ``Succeeded``."""
        return self.name.capitalize()

    @property
    def is_final(self) -> bool:
        """Whether the unit has ended."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[UnitState, frozenset[UnitState]] = {
    UnitState.PENDING: frozenset({UnitState.RUNNING, UnitState.FAILED, UnitState.CANCELED}),
    UnitState.RUNNING: frozenset({UnitState.SUCCEEDED, UnitState.FAILED, UnitState.CANCELED}),
    UnitState.SUCCEEDED: frozenset(),
    UnitState.FAILED: frozenset(),
    UnitState.CANCELED: frozenset(),
}
"""Every legal change of state. A change of detail within a state is always legal."""


def check_transition(old: UnitState, new: UnitState) -> None:
    """Refuse a change of state that is not in the table.

    A remote unit whose status was missed for a while may go from Pending to Succeeded: its runner
    passes through Running, since that is what happened.

    Raises:
        WorkError: the change is illegal.
    """
    if new is not old and new not in TRANSITIONS[old]:
        raise WorkError(f"a unit cannot go from {old.label} to {new.label}")
