"""What a storm will do: jobs and faults drawn from a seed, so that any storm can be had again."""

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

JobKind = Literal["lines", "slow", "cat", "family", "fail"]
FaultKind = Literal[
    "kill node", "stop node", "freeze node", "kill launcher", "freeze launcher", "kill supervisor",
    "kill command", "cut link", "freeze link", "cancel there", "release there", "fill disk",
    "take descriptors", "swap datadir", "spoil files",
    "kill ssh", "kill session", "freeze session", "fill host", "swap host key",
]  # fmt: skip
Moment = Literal["now", "start", "end"]
Cover = Literal["none", "kill", "cut"]

JOBS: dict[JobKind, int] = {"lines": 4, "slow": 3, "cat": 4, "family": 1, "fail": 1}
FAULTS: dict[FaultKind, int] = {
    "kill node": 10,
    "stop node": 2,
    "freeze node": 2,
    "kill launcher": 4,
    "freeze launcher": 2,
    "kill supervisor": 4,
    "kill command": 4,
    "cut link": 6,
    "freeze link": 4,
    "cancel there": 3,
    "release there": 3,
    "fill disk": 3,
    "take descriptors": 3,
    "swap datadir": 2,
    "spoil files": 4,
    "kill ssh": 8,
    "kill session": 8,
    "freeze session": 8,
    "fill host": 6,
    "swap host key": 6,
}
"""How often each kind comes, relative to the others."""

ON_UNITS: frozenset[FaultKind] = frozenset(
    {"kill supervisor", "kill command", "cancel there", "release there", "spoil files"}
)
"""Kinds that hit one unit; the others hit a node or a link."""

THERE: frozenset[FaultKind] = frozenset({"cancel there", "release there"})
"""What somebody else does where a unit runs that another node has submitted."""

ON_HOSTS: frozenset[FaultKind] = frozenset(
    {"kill ssh", "kill session", "freeze session", "fill host", "swap host key"}
)
"""What hits a host that has only SSH, or a connection to it."""

AT_HOME: frozenset[FaultKind] = frozenset(
    {
        *("kill node", "stop node", "freeze node", "kill launcher", "kill supervisor"),
        "kill command",
    }
)
"""What else there is where such hosts are: they are the others, and there are no links."""

MOMENTS: dict[Moment, int] = {"now": 3, "start": 2, "end": 1}
"""How often a fault waits for the next command on its node to start, or to come to its end."""

COVERS: dict[Cover, int] = {"none": 2, "kill": 2, "cut": 1}
"""How often the submitter of a unit that somebody else cancels or releases is killed just before,
or has its links cut, and is back afterwards."""

SPOILS = (
    *(("status", what) for what in ("gone", "empty", "random bytes", "named pipe", "directory")),
    *(("status", "dangling link"), ("stdout", "gone"), ("stdout", "empty"), ("", "gone")),
)
"""What becomes of which file of a unit; "" is its directory. The words are those of
``strange_files``."""

WORK_TYPES = ("job", "bound", "apart")
"""The types of work in turn; units of the second have limits, those of the last are isolated."""

BRINGS_FILES = "far"
"""The type of units that run on hosts with only SSH, and bring a file back."""

FILES = "*.out"
"""The pattern of that file."""

SSH_TYPES = (BRINGS_FILES, BRINGS_FILES, "job")
"""The same where there are such hosts."""

UNITS_PER_FAULT = 3
"""So that a storm of twice the units is twice as long, and not half as rough."""

LARGEST_PAYLOAD = 1 << 20
"""Bytes: more than any buffer on the way holds, so that faults hit payloads and results."""

LARGEST_SLACK = 256 << 10
"""Bytes that a full disk may still have, so that it gets full in the middle of something."""

MOST_DESCRIPTORS = 8
"""Descriptors that a node may still open which is short of them."""

LONG_FREEZE = 22.0
"""Seconds: more than the 20 for which a submission waits to be started before it is answered."""

LONG_FREEZES = 0.1
"""Share of the freezes of launchers that are so long, in storms where others last as long."""

LONG_STORM = 200
"""Units from which a storm has long freezes."""

BREAKING = 0.06
"""Share of the clients that vanish before they have sent their whole payload."""

CANCELING = 0.06
"""Share of the clients that cancel their unit soon after."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """Which nodes there are and how they are linked; links are named ``listener-dialer``.

    ``receptor`` is the node that behaves as a receptor node does, if there is one; ``hosts`` are
    those that have only SSH.
    """

    name: str
    nodes: tuple[str, ...]
    links: tuple[str, ...]
    receptor: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def submitters(self) -> tuple[str, ...]:
        """The nodes that have clients."""
        return tuple(node for node in self.nodes if node != self.receptor)

    @property
    def kinds(self) -> frozenset[FaultKind]:
        """The faults that there may be."""
        return ON_HOSTS | AT_HOME if self.hosts else frozenset(FAULTS) - ON_HOSTS


LINE = Flavour("line", ("a", "b", "c"), ("a-b", "b-c"))
"""Work from a to c passes b, and there is no other way."""

DIAMOND = Flavour("diamond", ("a", "b", "c", "d"), ("a-b", "a-c", "b-d", "c-d"))
"""Two ways from a to d, and from b to c."""

RECEPTOR = Flavour("receptor", ("a", "b", "c"), ("a-b", "b-c"), receptor="c")

SSH = Flavour("ssh", ("a",), (), hosts=("anna", "bert"))

FLAVOURS = {flavour.name: flavour for flavour in (LINE, DIAMOND, RECEPTOR, SSH)}


@dataclass(frozen=True, slots=True)
class Job:
    """One unit: who submits it where, what it does, and how its client behaves."""

    token: str
    kind: JobKind
    node: str
    target: str
    count: int
    payload: bytes
    breaks: bool
    cancels: bool
    delay: float
    """Seconds between the job and the client's cancel."""
    work_types: tuple[str, ...] = WORK_TYPES
    """The types that jobs have in turn."""

    @property
    def work_type(self) -> str:
        """The type of work that it is."""
        return self.work_types[int(self.token.rpartition("-")[2]) % len(self.work_types)]

    @property
    def params(self) -> str:
        """The words that the command gets."""
        return f"{self.kind} {self.token} {self.count}"

    @property
    def output(self) -> bytes:
        """All that the command prints when it is left alone."""
        if self.kind == "cat":
            return self.payload
        return b"".join(b"%s %d\n" % (self.token.encode(), i) for i in range(self.count))

    @property
    def files(self) -> dict[str, bytes]:
        """The files that it brings back when it is left alone, none where it is asked for none."""
        name = self.token + FILES.removeprefix("*")
        return {name: b"%s\n" % self.token.encode()} if self.work_type == BRINGS_FILES else {}

    @property
    def end(self) -> str:
        """State and detail of the unit when the command was left alone."""
        return "Failed: exit status 3" if self.kind == "fail" else "Succeeded: exit status 0"


@dataclass(frozen=True, slots=True)
class Fault:
    """One blow: ``pause`` seconds after the one before it, healed ``duration`` seconds later."""

    kind: FaultKind
    target: str
    """The node or link that it hits, or whose units."""
    pause: float
    duration: float
    moment: Moment
    """Whether it waits for the start or end of a command."""
    choice: float
    """From 0 to 1: which of the units that run at that moment, where it is about one."""
    cover: Cover
    """What happens to the submitter of a unit that somebody else ends."""
    verb: Literal["release", "force-release"]
    spoil: tuple[str, str]
    slack: float
    """From 0 to 1: how much room or how many descriptors are left, of the most there may be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a seed decides."""

    flavour: Flavour
    jobs: tuple[Job, ...]
    faults: tuple[Fault, ...]


def make_plan(flavour: Flavour, seed: int, units: int, kinds: Collection[FaultKind]) -> Plan:
    """Draw a storm with faults of these kinds: the same for the same arguments."""
    draw = random.Random(f"{flavour.name} {seed} {units}")
    jobs = tuple(_job(draw, flavour, f"s{seed}-{number}") for number in range(units))
    weights = {
        kind: weight for kind, weight in FAULTS.items() if kind in flavour.kinds & set(kinds)
    }
    faults = (_fault(draw, flavour, weights, units) for _ in range(units // UNITS_PER_FAULT))
    return Plan(flavour, jobs, tuple(faults))


def _job(draw: random.Random, flavour: Flavour, token: str) -> Job:
    kind = draw.choices(list(JOBS), list(JOBS.values()))[0]
    breaks = draw.random() < BREAKING
    size = draw.choice((0, 100, 70_000, draw.randrange(LARGEST_PAYLOAD)))
    return Job(
        token=token,
        kind=kind,
        node=draw.choice(flavour.submitters),
        target=draw.choice(flavour.nodes),
        count={"lines": draw.choice((0, 1, 2000)), "slow": draw.randrange(1, 6)}.get(kind, 3),
        payload=draw.randbytes(size) if kind == "cat" or breaks else b"",
        breaks=breaks,
        cancels=not breaks and draw.random() < CANCELING,
        delay=draw.uniform(0, 0.5),
        work_types=SSH_TYPES if flavour.hosts else WORK_TYPES,
    )


def _fault(
    draw: random.Random, flavour: Flavour, weights: dict[FaultKind, int], units: int
) -> Fault:
    kind = draw.choices(list(weights), list(weights.values()))[0]
    duration = draw.uniform(0, 1.5)
    is_long = draw.random() < LONG_FREEZES and kind == "freeze launcher" and units >= LONG_STORM
    return Fault(
        kind=kind,
        target=draw.choice(_targets(flavour, kind)),
        pause=draw.expovariate(2),
        duration=LONG_FREEZE if is_long else duration,
        moment=draw.choices(list(MOMENTS), list(MOMENTS.values()))[0],
        choice=draw.random(),
        cover=draw.choices(list(COVERS), list(COVERS.values()))[0],
        verb=draw.choice(("release", "force-release")),
        spoil=draw.choice(SPOILS),
        slack=draw.random(),
    )


def _targets(flavour: Flavour, kind: FaultKind) -> tuple[str, ...]:
    """Return what a fault of a kind may hit, or where it looks for a unit."""
    if kind in ON_HOSTS:
        return flavour.hosts
    return flavour.links if kind.endswith("link") else flavour.nodes
