"""Tells the mesh of this node's labels and load, by tags of its control service.

News of units is told at once, and then at most once a second. What changes by itself (processes,
memory) goes with that, and is told alone only when it is much different from what was told.
"""

import os
from collections.abc import Callable, Mapping

import trio

from meshnode.work.placement.load import LABELS_TAG, LOAD_TAG, Load, labels_tag
from meshnode.work.units.queue import RunQueue

TELL_INTERVAL = 1.0
"""Seconds between two tellings: each is a message to every node of the mesh."""

LOOK_INTERVAL = 15.0
"""Seconds between looks at what changes by itself."""

MUCH = 0.5
"""By how many processes for each processor a load is much different."""

_MEMORY = "MemAvailable:"

SetTags = Callable[[Mapping[str, str]], None]
"""Has the control service advertised with these tags as well."""


class LoadTeller:
    """Keeps the tags of the control service up to date.

    ``offers_work`` says whether there is any work type; a node without one has no load to tell of.
    """

    def __init__(self, queue: RunQueue, offers_work: Callable[[], bool]) -> None:
        self._queue = queue
        self._offers_work = offers_work
        self._labels: Mapping[str, str] = {}
        self._told: dict[str, str] = {LABELS_TAG: "", LOAD_TAG: ""}
        self._load: Load | None = None
        """What was told last."""
        self._news = trio.Event()
        queue.when_counts_change = self._note

    def _note(self) -> None:
        self._news.set()

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of this node."""
        return self._labels

    @labels.setter
    def labels(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        self._news.set()

    async def run(self, set_tags: SetTags) -> None:
        """Tell what there is to tell, until cancelled."""
        while True:
            self._news = trio.Event()
            self._tell(set_tags)
            await trio.sleep(TELL_INTERVAL)
            with trio.move_on_after(LOOK_INTERVAL):
                await self._news.wait()

    def _tell(self, set_tags: SetTags) -> None:
        tags = {LABELS_TAG: labels_tag(self._labels) if self._labels else "", LOAD_TAG: ""}
        load = self._load
        if self._offers_work():
            now = measure(self._queue)
            if load is None or _differs(load, now):
                load = now
            tags[LOAD_TAG] = load.to_tag()
        if tags != self._told:
            self._told, self._load = tags, load
            set_tags(tags)


def measure(queue: RunQueue) -> Load:
    """Return the load of this node at this moment."""
    running, queued = queue.counts()
    most = queue.bounds.running
    return Load(
        running=running,
        queued=queued,
        free=None if most is None else max(0, most - running.total()),
        processors=len(os.sched_getaffinity(0)),
        average=os.getloadavg()[0],
        memory=_available_memory(),
    )


def _differs(told: Load, now: Load) -> bool:
    return told.counts != now.counts or abs(told.per_processor - now.per_processor) >= MUCH


def _available_memory() -> int:
    """Return the bytes that processes can still have; 0 where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith(_MEMORY):
                    return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
