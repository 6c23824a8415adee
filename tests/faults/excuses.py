"""Which ends of units each hit explains. Whatever no hit explains is false."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from machines import Hit
from scene import Fate, Scene, Status

GONE = r"Failed: Remote work unit is gone"
LOST = r"Failed: lost: .+"
BEFORE_START = r"Failed: lost: the node ended before .+"
NO_ROOM = r".*[Nn]o space left on .*"
NO_DESCRIPTORS = r".*Too many open files.*"


@dataclass(frozen=True, slots=True)
class Excuse:
    """One hit, and the ends that it explains."""

    hit: str
    ends: tuple[str, ...]
    """Expressions for all of "State: detail"."""
    unless_run: bool = False
    """Whether they are false all the same if the command ran."""
    may_be_unknown: bool = False
    """Whether the node may not know the unit any more."""

    def explains(self, end: str, runs: int) -> bool:
        """Whether a unit may have come to this end."""
        fits = any(re.fullmatch(pattern, end) for pattern in self.ends)
        return fits and not (self.unless_run and runs)


ON_UNIT = (
    Excuse("canceled", ("Canceled: Canceled",)),
    # What the other node says of a copy that never started; it was not submitted anew.
    Excuse("canceled", (r"Failed: Error reading input data: .+", BEFORE_START), unless_run=True),
    Excuse("cancel there", ("Canceled: Canceled",)),
    Excuse("release there", ("Canceled: Canceled", GONE, LOST)),
    Excuse("kill supervisor", (r"Failed: lost: its supervisor \(PID \d+\) .+",)),
    Excuse("kill command", ("Failed: signal: killed",)),
    Excuse("spoil status", (LOST, GONE), may_be_unknown=True),
    Excuse("spoil directory", (LOST, GONE), may_be_unknown=True),
    Excuse("spoil stdout", (r"Failed: .*results of the remote unit .*",)),
)
"""What was done to the unit itself, on either node."""

ON_SUBMITTER = (
    Excuse("fill disk", (f"Failed: Error reading input data: {NO_ROOM}",), unless_run=True),
    Excuse("take descriptors", (f"Failed: {NO_DESCRIPTORS}",), unless_run=True),
    Excuse("swap datadir", (LOST, GONE)),
)
ON_EXECUTOR = (
    # A command that found no room has run, and ended as it does then.
    Excuse("fill disk", (f"Failed: {NO_ROOM}",)),
    Excuse("take descriptors", (f"Failed: {NO_DESCRIPTORS}",), unless_run=True),
    Excuse("swap datadir", (LOST, GONE)),
)
"""What the nodes went through while there was the unit."""

RESTARTED = tuple(
    Excuse(hit, ("Failed: Pending at restart",), unless_run=True)
    for hit in ("kill node", "stop node")
)
"""What a receptor node says of a unit that it had not started when it went. The submitter does not
take that for a proof, so such a unit is not submitted again."""

REFUSALS = {"fill disk": NO_ROOM, "take descriptors": NO_DESCRIPTORS}
"""With which words a node may refuse to make a unit, and when."""

UNFINISHED = (
    Excuse("no answer", (BEFORE_START,), unless_run=True),
    Excuse("half a payload", (r"Failed: Error reading input data: .+",), unless_run=True),
)
"""What may become of a unit whose client was not told that it was accepted."""


def excuses(scene: Scene, fate: Fate, status: Status | None) -> Iterator[Excuse]:
    """Yield what explains an end of this unit that is not its command's own."""
    if not fate.answer.startswith("{"):
        yield from UNFINISHED
    kinds = {hit.kind for hit in fate.hits}
    yield from (excuse for excuse in ON_UNIT if excuse.hit in kinds)
    ended = _end(status)
    for node, table in ((fate.job.node, ON_SUBMITTER), (fate.job.target, ON_EXECUTOR)):
        kinds = {h.kind for h in scene.nodes[node].hits if h.meets(fate.begun, ended)}
        yield from (excuse for excuse in table if excuse.hit in kinds)
        if node == fate.job.target == scene.flavour.receptor:
            yield from (excuse for excuse in RESTARTED if excuse.hit in kinds)


def refusal_is_explained(scene: Scene, fate: Fate, refusal: str) -> bool:
    """Whether the node lacked what it says that it lacked."""
    hits: list[Hit] = scene.nodes[fate.job.node].hits
    return any(hit.kind in REFUSALS and re.fullmatch(REFUSALS[hit.kind], refusal) for hit in hits)


def _end(status: Status | None) -> float:
    """When the unit ended by its record; for ever, where that does not tell."""
    told = status and (status.get("Learned") or status.get("Finished"))
    return datetime.fromisoformat(told).timestamp() if told else float("inf")
