"""Accept loops outlive every shortage, and nobody's early reset makes others wait."""

import errno
import logging
import os

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
from descriptor_limits import LEAST, descriptors_left

from meshnode.logs import subject_logger
from meshnode.net.accept import COMPLAINT_INTERVAL, FOR_EACH, PAUSE, THEIR_OWN, Acceptor
from meshnode.resources import KEPT_BACK, KEPT_BACK_SHARE, KEPT_FROM_OPERATORS

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Source:
    """A listener that is told what the next calls of accept bring: an errno, or a client.

    The errno 0 is a fault of the listener's own code.
    """

    def __init__(self, *outcomes: int | str) -> None:
        self.outcomes = list(outcomes)

    async def accept(self) -> str:
        await trio.lowlevel.checkpoint()
        if not self.outcomes:
            raise trio.ClosedResourceError
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, int):
            raise OSError(outcome, os.strerror(outcome)) if outcome else IndexError("a fault")
        return outcome


def acceptor(source: Source, kept_back: int | None = KEPT_BACK) -> Acceptor[str]:
    return Acceptor(source.accept, subject_logger("place"), kept_back=kept_back)


async def all_of(source: Source) -> list[str]:
    accepting = acceptor(source)
    found: list[str] = []
    while (client := await accepting.next()) is not None:
        found.append(client)
    return found


@hypothesis.given(
    st.lists(st.one_of(st.sampled_from([*SHORTAGES, *THEIR_OWN, errno.EINVAL, 0]), st.text()))
)
def test_whatever_errors_come_all_clients_are_accepted(outcomes):
    async def main() -> None:
        expected = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert await all_of(Source(*outcomes)) == expected

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_shortage_is_said_when_it_begins_and_when_it_ends(autojump_clock, caplog):
    caplog.set_level(logging.INFO, "meshnode")
    assert await all_of(Source("a", *[errno.EMFILE] * 50, "b", "c")) == ["a", "b", "c"]
    assert caplog.messages == [
        "place: cannot accept for now: Too many open files",
        "place: accepting again",
    ]


async def test_shortages_that_come_and_go_are_said_once_a_while(autojump_clock, caplog):
    caplog.set_level(logging.INFO, "meshnode")
    rounds = int(2.5 * COMPLAINT_INTERVAL / PAUSE)
    await all_of(Source(*[errno.ENFILE, "client"] * rounds))
    assert len(caplog.messages) == 2 * 3


async def test_a_connection_that_was_reset_early_makes_nobody_wait(autojump_clock):
    before = trio.current_time()
    assert await all_of(Source(*THEIR_OWN, "next")) == ["next"]
    assert trio.current_time() == before


@pytest.mark.parametrize(
    ("kept_back", "left", "is_let_in"),
    [
        (KEPT_BACK, LEAST // KEPT_BACK_SHARE - 4, False),
        (KEPT_FROM_OPERATORS, LEAST // KEPT_BACK_SHARE - 4, True),
        (KEPT_FROM_OPERATORS, 5, False),
        (None, 0, True),
    ],
)
async def test_nobody_who_takes_a_descriptor_is_let_in_with_the_last_ones(
    kept_back, left, is_let_in, autojump_clock
):
    accepting = acceptor(Source("client"), kept_back)
    with descriptors_left(left) as taken:
        with trio.move_on_after(10 * PAUSE) as scope:
            assert await accepting.next() == "client"
        assert scope.cancelled_caught != is_let_in
        taken.close()
        if not is_let_in:
            assert await accepting.next() == "client"


async def test_a_fault_in_a_listener_is_logged_and_costs_nobody_else(autojump_clock, caplog):
    assert await all_of(Source("a", 0, "b")) == ["a", "b"]
    assert caplog.messages == ["place: failed to accept one"]
    assert caplog.records[0].exc_info is not None


async def test_of_many_that_come_at_once_few_have_descriptors_counted(monkeypatch, autojump_clock):
    counted = 0
    eventfd = os.eventfd

    def count(value: int) -> int:
        nonlocal counted
        counted += 1
        return eventfd(value)

    monkeypatch.setattr(os, "eventfd", count)
    with descriptors_left(KEPT_BACK + 20 * FOR_EACH, 8 * KEPT_BACK_SHARE * KEPT_BACK):
        assert len(await all_of(Source(*["client"] * 100))) == 100
    assert counted <= 10
    counted = 0
    with descriptors_left(KEPT_BACK + FOR_EACH // 2, 8 * KEPT_BACK_SHARE * KEPT_BACK):
        assert len(await all_of(Source(*["client"] * 10))) == 10
    assert counted == 11
