"""A node tells of its labels and load: at once, but at most once a second."""

from itertools import pairwise

import trio
import trio.testing

from meshnode.work.placement.load import read_labels, read_load
from meshnode.work.placement.telling import LOOK_INTERVAL, TELL_INTERVAL, LoadTeller, measure
from meshnode.work.units.queue import QueueBounds, RunQueue


class Told:
    """What was told, and when."""

    def __init__(self) -> None:
        self.all: list[tuple[float, dict[str, str]]] = []

    def __call__(self, tags) -> None:
        self.all.append((trio.current_time(), dict(tags)))

    @property
    def load(self):
        return read_load(self.all[-1][1]["load"])


class Busy(RunQueue):
    """A queue whose counts are what a test says."""

    def __init__(self) -> None:
        super().__init__(lambda unit: None)
        self.number = 0

    def begin(self, count: int) -> None:
        for _ in range(count):
            self._take_place("render")


async def test_a_change_is_told_at_once_and_a_burst_once_a_second(autojump_clock):
    queue, told = Busy(), Told()
    teller = LoadTeller(queue, lambda: True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(teller.run, told)
        await trio.sleep(5)
        assert told.load.of("render") == 0
        begun = trio.current_time()
        queue.begin(1)
        await trio.testing.wait_all_tasks_blocked()
        assert told.all[-1][0] == begun
        for _ in range(20):
            queue.begin(1)
            await trio.sleep(0.1)
        await trio.sleep(1)
        assert told.load.of("render") == 21
        times = [when for when, _ in told.all]
        gaps = [after - before for before, after in pairwise(times)]
        assert min(gaps) >= TELL_INTERVAL
        nursery.cancel_scope.cancel()


async def test_what_changes_by_itself_is_told_when_it_is_much_different(
    autojump_clock, monkeypatch
):
    average = 0.0
    monkeypatch.setattr("os.getloadavg", lambda: (average, 0.0, 0.0))
    told = Told()
    teller = LoadTeller(Busy(), lambda: True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(teller.run, told)
        await trio.sleep(3 * LOOK_INTERVAL)
        assert len(told.all) == 1
        average = 1000.0
        await trio.sleep(2 * LOOK_INTERVAL)
        assert len(told.all) == 2
        assert told.load.average == 1000
        nursery.cancel_scope.cancel()


async def test_a_node_without_work_tells_only_its_labels_and_takes_them_back(autojump_clock):
    told = Told()
    teller = LoadTeller(Busy(), lambda: False)
    teller.labels = {"gpu": "1"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(teller.run, told)
        await trio.sleep(3)
        assert told.all[-1][1]["load"] == ""
        assert read_labels(told.all[-1][1]["labels"]) == {"gpu": "1"}
        teller.labels = {}
        await trio.sleep(3)
        assert told.all[-1][1]["labels"] == ""
        nursery.cancel_scope.cancel()


def test_free_places_are_those_that_the_bound_leaves():
    queue = Busy()
    assert measure(queue).free is None
    queue.bounds = QueueBounds(running=3)
    queue.begin(2)
    assert measure(queue).free == 1
    queue.begin(2)
    assert measure(queue).free == 0
