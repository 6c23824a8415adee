"""Runs fuzz targets: inputs by seed and number, in episodes, each in a world of its own.

An input follows from the seed and its number alone. It may matter what was fed before it, so a
failure is replayed by feeding its episode again from the first input.
"""

import logging
import random
import signal
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from meshnode import logs

EPISODE_SECONDS = 100.0
"""Seconds of real time for an episode. It takes a few; a node that stands still takes for ever."""


class Harm(Exception):
    """Somebody else than the sender has noticed the input; the text says what."""


class StandsStill(BaseException):
    """A node does nothing else any more. No boundary of its own may take this for its fault."""


class World(ABC):
    """Honest nodes, and a way to send something to one of them."""

    @abstractmethod
    async def feed(self, item: object) -> None:
        """Send an input and wait until it has had its effects.

        Raises:
            Harm: the harm shows at once.
        """

    @abstractmethod
    async def check(self) -> None:
        """Try whether everything works.

        Raises:
            Harm: something does not.
        """


class Target(ABC):
    """One boundary of a node, and what is sent there."""

    name: str
    about: str
    episode = 200
    """Inputs in one world."""
    check_every = 20
    """Inputs after which everything is tried."""
    real_time = False
    """Whether real sockets are used, whose time cannot be jumped over."""

    @abstractmethod
    def make(self, chance: random.Random) -> object:
        """Return an input; its ``repr`` must say all of it."""

    @abstractmethod
    def world(self) -> AbstractAsyncContextManager[World]:
        """Open a world."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that did harm: its number, and what was seen."""

    target: str
    seed: int
    number: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.target}: input {self.number} of seed {self.seed}: {self.reason}\n"
            f"replay: make fuzz TARGET={self.target} SEED={self.seed} INDEX={self.number}"
        )


@dataclass(slots=True)
class Report:
    """What a run came to. ``contained`` counts faults that ended only what the sender holds."""

    inputs: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    contained: Counter[str] = field(default_factory=Counter)


def make_input(target: Target, seed: int, number: int) -> object:
    """Return one input of a target."""
    return target.make(random.Random(f"{target.name} {seed} {number}"))


def fuzz(
    target: Target, seed: int, inputs: int, *, first: int = 0, most_failures: int = 5
) -> Report:
    """Feed so many inputs, from number ``first``; stop after ``most_failures``."""
    report = Report()
    began = time.monotonic()
    number = first
    while number < first + inputs and len(report.failures) < most_failures:
        # Episodes begin at the same numbers whatever is asked for, so that a replay is the same.
        start = number - number % target.episode
        end = min(start + target.episode, first + inputs)
        failure = run_episode(target, seed, start, end, report.contained)
        report.inputs += (end if failure is None else failure.number + 1) - start
        if failure is not None:
            report.failures.append(narrow(target, seed, start, failure))
        number = start + target.episode
    report.seconds = time.monotonic() - began
    return report


def narrow(target: Target, seed: int, start: int, failure: Failure) -> Failure:
    """Feed an episode again, trying everything after each of the last inputs: which one was it?"""
    again = run_episode(
        target,
        seed,
        start,
        failure.number + 1,
        Counter(),
        check_from=failure.number - target.check_every,
    )
    return again or failure


def run_episode(
    target: Target,
    seed: int,
    start: int,
    end: int,
    contained: Counter[str],
    *,
    check_from: int | None = None,
) -> Failure | None:
    """Feed the inputs from ``start`` to before ``end`` to a new world; return what went wrong."""
    at = start

    async def main() -> None:
        nonlocal at
        async with target.world() as world:
            for at in range(start, end):
                await world.feed(make_input(target, seed, at))
                careful = check_from is not None and at >= check_from
                if careful or (at + 1) % target.check_every == 0:
                    await world.check()
            await world.check()

    clock = None if target.real_time else trio.testing.MockClock(autojump_threshold=0)
    with watching_log(contained):
        try:
            with alarm(EPISODE_SECONDS):
                trio.run(main, clock=clock)
        except BaseException as exc:
            # Whatever it is, it came of an input; but for the wish of who runs this.
            if any(isinstance(leaf, KeyboardInterrupt) for leaf in _leaves(exc)):
                raise
            return Failure(target.name, seed, at, describe(exc))
    return None


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise StandsStill when what is done takes so long: a node may do so within one call.

    The timer that a test's own time-out has set goes on afterwards.
    """

    def ring(number: int, frame: object) -> None:
        raise StandsStill(f"{seconds:g} s have passed")

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    others, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        left = max(0.001, others - (time.monotonic() - began)) if others else 0
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, handler)


def describe(exc: BaseException) -> str:
    """Return the first error in an exception, with where it comes from, or else the harm."""
    leaves = list(_leaves(exc))
    leaf = next((e for e in leaves if not isinstance(e, Harm)), leaves[0])
    if isinstance(leaf, Harm):
        return str(leaf)
    return f"{type(leaf).__name__}: {str(leaf)[:200]} at {_place(leaf)}"


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for part in exc.exceptions:
            yield from _leaves(part)
    else:
        yield exc


def _place(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    ours = [f for f in frames if "/meshnode/" in f.filename or "/fuzz/" in f.filename] or frames
    places = [f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in ours[-3:]]
    return " ← ".join(reversed(places))


class _WatchingHandler(logging.Handler):
    """Formats every line as a node does, where a failure would be seen; counts tracebacks."""

    def __init__(self, contained: Counter[str]) -> None:
        super().__init__()
        self.setFormatter(logs.OneLineFormatter())
        self._contained = contained

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; standard error writes what has no UTF-8 as an escape."""
        if record.exc_info and record.exc_info[1] is not None:
            self._contained[describe(record.exc_info[1])] += 1
        self.format(record).encode(errors="backslashreplace")


@contextmanager
def watching_log(contained: Counter[str]) -> Iterator[None]:
    """Format all that is logged meanwhile, and count the faults that were caught and logged."""
    logger, engine = logging.getLogger(logs.ROOT), logging.getLogger("quic")
    before = (logger.handlers, logger.level, logger.propagate)
    engine_before = (engine.handlers, engine.propagate)
    # As a node has it; ours and the enemy's engine would tell of each connection that ends.
    engine.handlers, engine.propagate = [logging.NullHandler()], False
    logger.handlers = [_WatchingHandler(contained)]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
        engine.handlers, engine.propagate = engine_before
