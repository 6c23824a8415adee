"""What must hold of every unit after a storm, whatever it hit."""

import collections
import io
import json
import math
import re
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import trio
from chronicle import Event, from_ledger, from_log
from excuses import Course, end_of_command, excuses, refusal_is_explained
from ledger import Entry, read_ledger
from machines import FORGOTTEN, Conversation, StormNode
from scene import Fate, Scene, Status

from meshnode.protocol.control import FILES
from meshnode.work.local.processes import ProcessId

SUCCEEDED = 2

SETTLE_PATIENCE = 240.0
"""Seconds after the storm in which every unit must come to its end: time-outs of streams (30 s),
pauses between tries (20 s), grace of leftovers (10 s), some of them in a row."""

CHILDREN = re.compile(r"; ended \d+ process(es)? that it left behind")
"""What a unit says of processes that outlived their command: they are no part of how that ended."""

BROUGHT = re.compile(r"; collected [01] files?(; nothing matches '[^']*')?$")
"""What a unit says of the files that it has brought back."""

MOST_STORIES = 5
"""Units whose whole story is told when a storm fails."""


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that is known of one unit at the end."""

    fate: Fate
    status: Status | None
    """What its node says of it."""
    record: Status | None
    """What stands on its node's disk."""
    output: bytes | None
    """Its results; None if the node does not stream them."""
    starts: int
    ends: int
    files: dict[str, bytes] | None = None
    """Files that it has brought back; None if its node has none of it."""

    @property
    def end(self) -> str:
        """State and detail."""
        if self.status is None:
            return "unknown"
        return CHILDREN.sub("", BROUGHT.sub("", shown(self.status)))


def shown(status: Status) -> str:
    """Return how a unit ended, as one text."""
    return f"{status['StateName']}: {status['Detail']}"


class Verdict:
    """Judges the units of one scene, and tells the stories of those that are at fault."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._ledger: list[Entry] = []

    async def judge(self) -> collections.Counter[str]:
        """Check every unit; return how often each end came.

        Raises:
            AssertionError: with the stories of what is wrong.
        """
        listed = await self._settle()
        self._ledger = read_ledger(self._scene.ledger.path)
        self._blame_killed_supervisors()
        faults: dict[str, list[str]] = {}
        ends: collections.Counter[str] = collections.Counter()
        for fate in self._scene.fates.values():
            case = await self._case(fate, listed[fate.job.node].get(fate.unit))
            if found := list(self.faults(case)):
                faults[fate.job.token] = [f"{fault}; it is {case.end}" for fault in found]
            ends[_shape(case.end)] += 1
        await self.fail_if(faults)
        return ends

    async def fail_if(self, faults: dict[str, list[str]]) -> None:
        """Raise AssertionError with the stories of these jobs, if there are any."""
        if not faults:
            return
        lines = [f"{token}: {text}" for token, texts in faults.items() for text in texts]
        for token in _one_of_each(faults)[:MOST_STORIES]:
            lines += ["", await self._story(token)]
        raise AssertionError("\n".join([f"{len(faults)} units at fault", *lines]))

    # --- the end of all units -----------------------------------------------------------------

    async def _settle(self) -> dict[str, dict[str, Status]]:
        listed: dict[str, dict[str, Status]] = {}
        with trio.move_on_after(SETTLE_PATIENCE) as scope:
            for name, node in self._scene.nodes.items():
                listed[name] = await list_units(node)
                for unit in [u for u, s in listed[name].items() if s["State"] < SUCCEEDED]:
                    await node.again(_watching(unit), math.inf)
            for name, node in self._scene.nodes.items():
                listed[name] = await list_units(node)
        if scope.cancelled_caught:
            stuck: dict[str, list[str]] = {}
            for name, node in self._scene.nodes.items():
                for unit, status in (await list_units(node)).items():
                    if status["State"] < SUCCEEDED:
                        token = self._scene.token(name, unit)
                        stuck.setdefault(token, []).append(
                            f"unit {unit} of {name} does not end: {shown(status)}"
                        )
            await self.fail_if(stuck)
        return listed

    def _blame_killed_supervisors(self) -> None:
        """A supervisor may have had another unit when it was killed than when it was chosen."""
        for token, fate in self._scene.fates.items():
            for _, _, status in self._scene.records(token):
                supervisor = status.get("Supervisor")
                if not supervisor:
                    continue
                process = ProcessId(supervisor["Pid"], supervisor["Started"])
                hit = self._scene.killed_supervisors.get(process)
                if hit is not None:
                    fate.hits.append(hit)

    async def _case(self, fate: Fate, status: Status | None) -> Case:
        node = self._scene.nodes[fate.job.node]
        output = None if status is None else await node.again(_reading(fate.unit))
        token = fate.job.token
        return Case(
            fate=fate,
            status=status,
            record=self._scene.record(fate.job.node, fate.unit),
            output=output,
            starts=self._count(token, "start"),
            ends=self._count(token, "end"),
            files=await node.again(_fetching(fate.unit)) if status and fate.job.files else None,
        )

    def _count(self, token: str, what: str) -> int:
        return sum((entry.token, entry.what) == (token, what) for entry in self._ledger)

    # --- what is right ------------------------------------------------------------------------

    def faults(self, case: Case) -> Iterator[str]:
        """Yield what is false of a unit."""
        fate = case.fate
        if case.starts > _most_runs(fate):
            yield f"ran {case.starts} times"
        if case.starts and not fate.sent:
            yield "ran without its payload"
        for refusal in set(fate.refusals):
            if not refusal_is_explained(self._scene, fate, refusal):
                yield f"was refused: {refusal}"
        if case.status is None:
            yield from self._faults_of_unknown(case)
        else:
            yield from self._faults_of_end(case, case.status)

    def _faults_of_unknown(self, case: Case) -> Iterator[str]:
        in_other_store = case.fate.store != 0
        found = excuses(self._scene, case.fate, case.record)
        if not in_other_store and not any(excuse.may_be_unknown for excuse in found):
            yield "its node does not know it"

    def _faults_of_end(self, case: Case, status: Status) -> Iterator[str]:
        job, whole = case.fate.job, case.fate.job.output
        spoiled = {hit.kind for hit in case.fate.hits} & {"spoil stdout", "spoil directory"}
        known = case.record or status
        end = end_of_command(self._scene, case.fate, known, case.end)
        if end == job.end:
            if not 1 <= case.ends <= case.starts <= _most_runs(case.fate):
                yield f"completed after {case.starts} starts and {case.ends} ends"
            if not spoiled and case.output != whole:
                size = None if case.output is None else len(case.output)
                yield f"completed, and its output of {size} bytes is not the {len(whole)} printed"
            yield from self._faults_of_files(case, known)
        else:
            found = list(excuses(self._scene, case.fate, known))
            short = case.output is not None and len(case.output) < len(whole)
            course = Course(case.starts, case.fate.accepted, short)
            if not any(excuse.explains(end, course) for excuse in found):
                hits = ", ".join(sorted({excuse.hit for excuse in found})) or "nothing"
                yield f"did not complete after {case.ends} ends, and {hits} explains that"
        if case.output is None:
            if not spoiled:
                yield "its results cannot be read"
            return
        if not whole.startswith(case.output):
            yield "has output that was never printed"
        if not spoiled and len(case.output) != status["StdoutSize"]:
            yield f"has {len(case.output)} bytes of output, and a size of {status['StdoutSize']}"

    def _faults_of_files(self, case: Case, known: Status) -> Iterator[str]:
        """Yield what is false of the files of a unit that completed."""
        wanted, found = case.fate.job.files, case.files or {}
        if wanted == found:
            return
        # A full disk there has a file cut off, or not made at all, and nothing else.
        is_cut = all(wanted.get(name, b"").startswith(data) for name, data in found.items())
        hits = {excuse.hit for excuse in excuses(self._scene, case.fate, known)}
        if not (is_cut and found.keys() <= wanted.keys() and "fill host" in hits):
            yield f"completed, and brought back {found}, not {wanted}"

    # --- stories --------------------------------------------------------------------------------

    async def _story(self, token: str) -> str:
        """Tell all that is known of a job and its units, in the order of time."""
        scene = self._scene
        fate = scene.fates.get(token)
        if fate is None:
            return f"{token or 'a unit of no job'}: nothing is known of it"
        job = fate.job
        entries = [entry for entry in read_ledger(scene.ledger.path) if entry.token == token]
        units = {fate.unit, *(entry.unit for entry in entries)} - {""}
        lines = [
            f"{token}: {job.kind} from {job.node} to {job.target}, {len(job.payload)} bytes of"
            f" payload, {len(job.output)} of output; its client {_client(fate)}"
        ]
        for place, unit, status in scene.records(token):
            units |= {unit, (status.get("ExtraData") or {}).get("RemoteUnitID", "")} - {""}
            lines.append(f"  on the disk of {place}, {unit}: {json.dumps(status)}")
        for name, node in scene.nodes.items():
            lines += [
                f"  says {name}, {unit}: {json.dumps(status)}"
                for unit, status in (await list_units(node)).items()
                if unit in units
            ]
        places = [*scene.nodes, *scene.relays, *scene.flavour.hosts]
        events: list[Event] = [*scene.chronicle.of([token]), *from_ledger(entries)]
        for name, node in scene.nodes.items():
            events += from_log(name, node.node.log, units)
        return "\n".join([*lines, scene.chronicle.story(events, places)])


def _most_runs(fate: Fate) -> int:
    """Return how often a command may have started at most: once, if nobody deleted all traces."""
    return 1 + sum(hit.kind == FORGOTTEN for hit in fate.hits)


def _client(fate: Fate) -> str:
    job = fate.job
    end = "breaks off" if job.breaks else "cancels" if job.cancels else "stays"
    return f"{end}, sent {'all' if fate.sent else 'not all'}, was answered {fate.answer!r}"


def _one_of_each(faults: dict[str, list[str]]) -> list[str]:
    """Return the jobs, one of each kind of end before any other: the rest is often the same."""
    first: dict[str, str] = {}
    for token, texts in faults.items():
        first.setdefault(_shape(texts[0].rpartition("; it is ")[2]), token)
    chosen = list(first.values())
    return chosen + [token for token in faults if token not in chosen]


def _shape(end: str) -> str:
    return "".join("N" if c.isdigit() else c for c in end).replace("NN", "N")[:70]


async def list_units(node: StormNode) -> dict[str, Status]:
    """Return the units of a node."""
    found: dict[str, Status] = json.loads(await node.again(lambda talk: talk.ask("work list")))
    return found


def _watching(unit: str) -> Callable[[Conversation], Awaitable[None]]:
    async def watch(talk: Conversation) -> None:
        await talk.ask(f"work watch {unit}")
        await talk.rest()

    return watch


def _reading(unit: str) -> Callable[[Conversation], Awaitable[bytes | None]]:
    async def read(talk: Conversation) -> bytes | None:
        line = await talk.ask(f"work results {unit}")
        return await talk.rest() if line.startswith("Streaming results") else None

    return read


def _fetching(unit: str) -> Callable[[Conversation], Awaitable[dict[str, bytes] | None]]:
    request = {"command": "work", "subcommand": "results", "unitid": unit, "startpos": 0}

    async def read(talk: Conversation) -> dict[str, bytes] | None:
        line = await talk.ask(json.dumps(request | {"stream": FILES}))
        if not line.startswith("Streaming results"):
            return None
        data = await talk.rest()
        return _unpacked(data) if data else {}

    return read


def _unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = [(member.name, tar.extractfile(member)) for member in tar]
        return {name: file.read() for name, file in files if file is not None}
