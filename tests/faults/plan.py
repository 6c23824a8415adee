"""What a storm will do: jobs and faults drawn from a seed, so that any storm can be had again."""

import random
from dataclasses import dataclass
from typing import Literal

NODES = ("a", "b", "c")
"""In a line, so that work from a to c passes b."""

LINKS = ("a-b", "b-c")

JobKind = Literal["lines", "slow", "cat", "family", "fail"]
FaultKind = Literal[
    "kill node", "stop node", "freeze node", "kill launcher", "kill supervisor", "kill command",
    "cut link", "freeze link",
]  # fmt: skip

_JOBS: dict[JobKind, int] = {"lines": 4, "slow": 3, "cat": 4, "family": 1, "fail": 1}
_FAULTS: dict[FaultKind, int] = {
    "kill node": 5,
    "stop node": 1,
    "freeze node": 1,
    "kill launcher": 2,
    "kill supervisor": 2,
    "kill command": 2,
    "cut link": 3,
    "freeze link": 2,
}
"""How often each kind comes, relative to the others."""

UNITS_PER_FAULT = 4
"""So that a storm of twice the units is twice as long, and not half as rough."""

LARGEST_PAYLOAD = 1 << 20
"""Bytes: more than any buffer on the way holds, so that faults hit payloads and results."""

BREAKING = 0.06
"""Share of the clients that vanish before they have sent their whole payload."""

CANCELING = 0.06
"""Share of the clients that cancel their unit soon after."""


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


@dataclass(frozen=True, slots=True)
class Fault:
    """One blow: ``pause`` seconds after the one before it, healed ``duration`` seconds later."""

    kind: FaultKind
    target: str
    pause: float
    duration: float
    choice: float
    """From 0 to 1: which of the units that run at that moment, where it is about one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a seed decides."""

    jobs: tuple[Job, ...]
    faults: tuple[Fault, ...]


def make_plan(seed: int, units: int) -> Plan:
    """Draw a storm: the same for the same arguments."""
    draw = random.Random(f"{seed} {units}")
    jobs = tuple(_job(draw, f"s{seed}-{number}") for number in range(units))
    return Plan(jobs, tuple(_fault(draw) for _ in range(units // UNITS_PER_FAULT)))


def _job(draw: random.Random, token: str) -> Job:
    kind = draw.choices(list(_JOBS), list(_JOBS.values()))[0]
    breaks = draw.random() < BREAKING
    size = draw.choice((0, 100, 70_000, draw.randrange(LARGEST_PAYLOAD)))
    return Job(
        token=token,
        kind=kind,
        node=draw.choice(NODES),
        target=draw.choice(NODES),
        count={"lines": draw.choice((0, 1, 2000)), "slow": draw.randrange(1, 6)}.get(kind, 3),
        payload=draw.randbytes(size) if kind == "cat" or breaks else b"",
        breaks=breaks,
        cancels=not breaks and draw.random() < CANCELING,
        delay=draw.uniform(0, 0.5),
    )


def _fault(draw: random.Random) -> Fault:
    kind = draw.choices(list(_FAULTS), list(_FAULTS.values()))[0]
    return Fault(
        kind=kind,
        target=draw.choice(LINKS if kind.endswith("link") else NODES),
        pause=draw.expovariate(2),
        duration=draw.uniform(0, 1.5),
        choice=draw.random(),
    )
