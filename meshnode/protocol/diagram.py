"""Draws the life cycle of units from its table: ``python -m meshnode.protocol.diagram``.

What it prints stands in docs/guarantees.md; a test compares them.
"""

import sys

from meshnode.protocol.lifecycle import TRANSITIONS, UnitState


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
