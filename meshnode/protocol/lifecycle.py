"""The states of a unit of work and every transition between them.

Pending → Running → Succeeded | Failed | Canceled; Pending → Failed | Canceled. Nothing leaves a
final state. Numbers and names are receptor's (protocol section 8).
"""

import enum
import sys

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


# --- Draws the life cycle of units from its table: ``python -m meshnode.protocol.lifecycle``
#
# What it prints stands in docs/guarantees.md; a test compares them.


def life_cycle() -> str:
    """Return the table of transitions as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {UnitState.PENDING.label}: submitted"]
    for state, following in TRANSITIONS.items():
        lines += [f"    {state.label} --> {after.label}" for after in sorted(following)]
        if state.is_final:
            lines.append(f"    {state.label} --> [*]: released")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(life_cycle())
