"""Which ends of units each hit explains. Whatever no hit explains is false."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from machines import Hit
from scene import Fate, Scene, Status

CANCELED = r"Canceled: Canceled( by .+)?"
"""With who did it, unless its supervisor is receptor's or could not be told."""

GONE = r"Failed: Remote work unit is gone"
LOST = r"Failed: lost: .+"
BEFORE_START = r"Failed: lost: the node ended before .+"
NO_ROOM = r".*[Nn]o space left on .*"
NO_DESCRIPTORS = r".*Too many open files.*"

FULL_AT_END = re.compile(r"; no space left on the disk of its output(, which may be incomplete)?$")
"""What a node adds to how a command ended if the disk of its output is full then."""


@dataclass(frozen=True, slots=True)
class Course:
    """What the storm itself knows of a unit, whatever its end says."""

    runs: int
    """How often its command has started."""
    accepted: bool
    """Whether the client was told that it has been submitted or started."""
    short: bool
    """Whether there is less of its output than its command prints when it is left alone."""


@dataclass(frozen=True, slots=True)
class Excuse:
    """One hit, and the ends that it explains."""

    hit: str
    ends: tuple[str, ...]
    """Expressions for all of "State: detail"."""
    unless_run: bool = False
    """Whether they are false all the same if the command ran."""
    unless_accepted: bool = False
    """Whether they are false all the same if the client was told that it would run."""
    if_short: bool = False
    """Whether they are true only if output is missing."""
    may_be_unknown: bool = False
    """Whether the node may not know the unit any more."""

    def explains(self, end: str, course: Course) -> bool:
        """Whether a unit may have come to this end."""
        if (self.unless_run and course.runs) or (self.unless_accepted and course.accepted):
            return False
        if self.if_short and not course.short:
            return False
        return any(re.fullmatch(pattern, end) for pattern in self.ends)


ON_UNIT = (
    Excuse("canceled", (CANCELED,)),
    # What the other node says of a copy that never started; it was not submitted anew.
    Excuse("canceled", (r"Failed: Error reading input data: .+", BEFORE_START), unless_run=True),
    Excuse("cancel there", (CANCELED,)),
    Excuse("release there", (CANCELED, GONE, LOST)),
    Excuse("kill supervisor", (r"Failed: lost: its supervisor \(PID \d+\) .+",)),
    Excuse("kill command", ("Failed: signal: killed",)),
    Excuse("spoil status", (LOST, GONE), may_be_unknown=True),
    Excuse("spoil directory", (LOST, GONE), may_be_unknown=True),
    Excuse("spoil stdout", (r"Failed: .*results of the remote unit .*",)),
)
"""What was done to the unit itself, on either node."""

ON_SUBMITTER = (
    Excuse(
        "fill disk",
        tuple(
            f"Failed: Error {doing}: {NO_ROOM}"
            for doing in ("reading input data", "starting worker")
        ),
        unless_run=True,
        unless_accepted=True,
    ),
    Excuse("take descriptors", (f"Failed: {NO_DESCRIPTORS}",), unless_run=True),
    Excuse("swap datadir", (LOST, GONE)),
)
ON_EXECUTOR = (
    Excuse("fill disk", (f"Failed: {NO_ROOM}",), unless_run=True),
    # As the storm's command ends when a write of it finds no room.
    Excuse("fill disk", ("Failed: exit status 1",), if_short=True),
    Excuse("take descriptors", (f"Failed: {NO_DESCRIPTORS}",), unless_run=True),
    Excuse("swap datadir", (LOST, GONE)),
)
"""What the nodes went through while there was the unit."""

ON_HOST = (
    # As the storm's command ends when a write of it finds no room.
    Excuse("fill host", ("Failed: exit status 1",), if_short=True),
)
"""What the host with only SSH on which the unit was started went through meanwhile."""

CHANGED = r"host \w+: connect: its host key has changed: [^;]+(; if it was, [^;]+)?"

ON_ALL_HOSTS = (
    Excuse(
        "swap host key",
        (rf"Failed: no host can run it: {CHANGED}(; {CHANGED})*",),
        unless_run=True,
    ),
)
"""What every such host went through while there was the unit, not necessarily at once."""

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
    if not fate.accepted:
        yield from UNFINISHED
    kinds = {hit.kind for hit in fate.hits}
    yield from (excuse for excuse in ON_UNIT if excuse.hit in kinds)
    for node, table in ((fate.job.node, ON_SUBMITTER), (fate.job.target, ON_EXECUTOR)):
        kinds = _kinds_meanwhile(scene, fate, status, node)
        yield from (excuse for excuse in table if excuse.hit in kinds)
        if node == fate.job.target == scene.flavour.receptor:
            yield from (excuse for excuse in RESTARTED if excuse.hit in kinds)
    yield from _excuses_of_hosts(scene, fate, status)


def _excuses_of_hosts(scene: Scene, fate: Fate, status: Status | None) -> Iterator[Excuse]:
    ended = _end(status)
    kinds = {
        host: {hit.kind for hit in hits if hit.meets(fate.begun, ended)}
        for host, hits in scene.far.hits.items()
    }
    where = ((status or {}).get("Host") or {}).get("Name")
    yield from (excuse for excuse in ON_HOST if excuse.hit in kinds.get(where, ()))
    if kinds:
        everywhere = set.intersection(*kinds.values())
        yield from (excuse for excuse in ON_ALL_HOSTS if excuse.hit in everywhere)


def end_of_command(scene: Scene, fate: Fate, status: Status | None, end: str) -> str:
    """Return an end without the words that the disk is full, if they are true: they excuse nothing.

    What the command did, and all of its output, must be right as if they were not there.
    """
    if "fill disk" in _kinds_meanwhile(scene, fate, status, fate.job.target):
        return FULL_AT_END.sub("", end)
    return end


def refusal_is_explained(scene: Scene, fate: Fate, refusal: str) -> bool:
    """Whether the node lacked what it says that it lacked."""
    hits: list[Hit] = scene.nodes[fate.job.node].hits
    return any(hit.kind in REFUSALS and re.fullmatch(REFUSALS[hit.kind], refusal) for hit in hits)


def _kinds_meanwhile(scene: Scene, fate: Fate, status: Status | None, node: str) -> set[str]:
    """Return what a node went through while there was the unit."""
    ended = _end(status)
    return {hit.kind for hit in scene.nodes[node].hits if hit.meets(fate.begun, ended)}


def _end(status: Status | None) -> float:
    """When the unit ended by its record; for ever, where that does not tell."""
    told = status and (status.get("Learned") or status.get("Finished"))
    return datetime.fromisoformat(told).timestamp() if told else float("inf")
