"""What all tests share: the harness on the path, a mesh of real nodes, logs of failed tests."""

import compileall
import logging
import math
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio
from trio.testing import MockClock

# Most test folders are no packages, and integration/ and interop/ share one harness. hostile/ is
# one: what an enemy sends, for tests of any folder.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "unit"))
sys.path.insert(0, str(Path(__file__).parent / "integration"))

from harness import Cluster, Node, free_port

import meshctl
import meshnode
from meshnode import logs

# No test measures time: a slow machine is no failure. The same examples on every run, so that a
# red run can be repeated; hypothesis' own database would make runs depend on earlier ones.
hypothesis.settings.register_profile(
    "meshnode",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=True,
    database=None,
)
hypothesis.settings.load_profile("meshnode")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the programs under test: compiled once for all, and with an ear for Ctrl-C.

    A shell without job control starts what it puts into the background with SIGINT ignored, and
    every program that is started from there inherits that.
    """
    # What one process has made of the tests' asserts, those that come after it need not make again.
    sys.dont_write_bytecode = False
    if not hasattr(config, "workerinput"):
        # Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each of the thousands of
        # processes that tests start would compile all that it imports, a third of its work.
        for package in (meshnode, meshctl):
            compileall.compile_dir(Path(package.__path__[0]), quiet=2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def kept_logging() -> Iterator[None]:
    """Leave the logs as they were: a node that was set up in a test has them go to its stderr."""
    loggers = [logging.getLogger(name) for name in (logs.ROOT, "quic")]
    before = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    yield
    for one, handlers, propagate, level in before:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """Return a clock that jumps to the next moment for which a task waits, while all of them wait.

    It stands still while a thread works: pytest-trio's takes who waits for one for idle, and all
    time-outs of a test pass before the thread has begun.
    """
    clock = MockClock(autojump_threshold=0)
    run_sync, working, threshold = trio.to_thread.run_sync, 0, 0.0

    async def standing_still(*args: Any, **options: Any) -> Any:
        nonlocal working, threshold
        if not working:
            threshold, clock.autojump_threshold = clock.autojump_threshold, math.inf
        working += 1
        try:
            return await run_sync(*args, **options)
        finally:
            working -= 1
            if not working:
                clock.autojump_threshold = threshold

    monkeypatch.setattr(trio.to_thread, "run_sync", standing_still)
    return clock


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Yield a place for real nodes; afterwards nothing of them is left running or on disk."""
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def foo_bar(cluster: Cluster) -> tuple[Node, Node]:
    """Return the guide's two nodes, linked, with its work types in quick variants and a few more.

    ``lasting`` prints the PID of its child, and both run until they are ended; ``stubborn`` does
    the same, but its child is deaf to SIGINT. ``fail`` exits with 7.
    """
    port = free_port()
    types = {
        "echopayload": "while read -r line; do echo ${line^^}; sleep 0.02; done",
        "cat": {"command": "cat"},
        "listcontents": {"command": "ls", "allowruntimeparams": True},
        "lasting": "bash -c 'echo $$; exec sleep 1000'; true",
        # A shell without job control starts what runs in the background with SIGINT ignored.
        "stubborn": "sleep 1000 & echo $!; wait",
        "fail": "echo before; exit 7",
    }
    count = "for i in {{1..{}}}; do echo $i; sleep 0.02; done"
    foo = cluster.node("foo", listen=port, work=types | {"echoint": count.format(5)})
    bar = cluster.node("bar", peers=[port], work=types | {"echoint": count.format(10)})
    foo.wait_knows("bar")
    foo.wait_service("bar")
    bar.wait_knows("foo")
    return foo, bar


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the log of each node beside the failure of a test that had nodes."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and report.when == "call" and cluster is not None:
        for name, text in cluster.logs():
            report.sections.append((f"log of node {name}", text[-8000:]))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Let a report go from the process that made it to the one that prints it, whatever it holds.

    Tests log and raise what is no text (half a surrogate), which no process can send as text.
    """
    return _as_text((yield))


def _as_text(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_as_text(key): _as_text(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(_as_text, value))
        case _:
            return value
