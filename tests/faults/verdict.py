"""What must hold after a storm, whatever it hit."""

import collections
import json
import os
from pathlib import Path

import trio
from harness import wait_until
from marks import MARK
from storm import SETTLE_PATIENCE, Conversation, Fate, Status, Storm, StormNode

SUCCEEDED, FAILED, CANCELED = 2, 3, 4


async def settle(storm: Storm) -> dict[str, dict[str, Status]]:
    """Return the final status of every unit of every node; a unit without one is a failure."""
    listed: dict[str, dict[str, Status]] = {}
    with trio.move_on_after(SETTLE_PATIENCE) as scope:
        for name, node in storm.nodes.items():
            listed[name] = await _list(node)
            for unit in [u for u, status in listed[name].items() if status["State"] < SUCCEEDED]:
                await node.again(lambda talk, unit=unit: _watch(talk, unit))
        for name, node in storm.nodes.items():
            listed[name] = await _list(node)
    if scope.cancelled_caught:
        stuck = {
            f"{name}/{unit}": status
            for name, node in storm.nodes.items()
            for unit, status in (await _list(node)).items()
            if status["State"] < SUCCEEDED
        }
        raise AssertionError(f"units without an end: {json.dumps(stuck, indent=1)}")
    return listed


async def _list(node: StormNode) -> dict[str, Status]:
    found: dict[str, Status] = json.loads(await node.again(lambda talk: talk.ask("work list")))
    return found


async def _watch(talk: Conversation, unit: str) -> None:
    await talk.ask(f"work watch {unit}")
    await talk.rest()


async def judge(storm: Storm) -> collections.Counter[str]:
    """Check every unit, and that nothing is left of them; return how often each end came."""
    listed = await settle(storm)
    runs = collections.Counter(line.split()[0] for line in storm.ledger.read_text().splitlines())
    assert {token: n for token, n in runs.items() if n > 1} == {}, "commands that ran twice"
    faults = []
    ends: collections.Counter[str] = collections.Counter()
    for fate in storm.fates.values():
        status = listed[fate.job.node].get(fate.unit)
        if status is None:
            faults.append(f"{fate}: there is no such unit")
            continue
        output = await _results(storm.nodes[fate.job.node], fate.unit)
        faults += [
            f"{fault}: {_brief(fate)}, {status['StateName']}: {status['Detail']}"
            for fault in _faults(fate, status, output, runs[fate.job.token])
        ]
        ends[f"{status['StateName']}: {_shape(status['Detail'])}"] += 1
    assert not faults, "\n".join([f"{len(faults)} faults", *faults])
    return ends


def _faults(fate: Fate, status: Status, output: bytes, runs: int) -> list[str]:
    found = []
    whole = fate.job.output
    completed = status["Detail"] == (
        "exit status 3" if fate.job.kind == "fail" else "exit status 0"
    )
    if status["State"] == SUCCEEDED and (runs != 1 or fate.job.kind == "fail"):
        found.append(f"succeeded after {runs} runs")
    if completed and output != whole:
        found.append(f"output of {len(output)} bytes is not the {len(whole)} printed")
    if not whole.startswith(output):
        found.append("output that was never printed")
    if len(output) != status["StdoutSize"]:
        found.append(f"{len(output)} bytes of output, and a size of {status['StdoutSize']}")
    if not fate.sent and runs:
        found.append("ran without its payload")
    if fate.job.breaks and status["State"] != FAILED:
        found.append("half a payload did not fail")
    if fate.answer.startswith("{") and not fate.hit and not completed:
        found.append("accepted, not hit itself, and did not complete")
    if fate.answer.startswith("ERROR"):
        found.append(f"refused: {fate.answer}")
    return found


def _brief(fate: Fate) -> str:
    job = fate.job
    return (
        f"{job.token} ({job.kind}) {job.node}→{job.target} unit {fate.unit},"
        f" {'sent' if fate.sent else 'not sent'}, answer {fate.answer!r}, hit: {fate.hit}"
    )


def _shape(detail: str) -> str:
    return "".join("N" if c.isdigit() else c for c in detail).replace("NN", "N")[:60]


async def _results(node: StormNode, unit: str) -> bytes:
    async def read(talk: Conversation) -> bytes:
        line = await talk.ask(f"work results {unit}")
        assert line.startswith("Streaming results"), line
        return await talk.rest()

    output: bytes = await node.again(read)
    return output


async def check_nothing_is_left(storm: Storm, mark: str) -> None:
    """Release every unit; then no process and no file may be left of any."""
    for node in storm.nodes.values():
        for unit in await _list(node):
            reply = await node.again(lambda talk, unit=unit: talk.ask(f"work release {unit}"))
            # Releasing a remote unit has released that on its node.
            assert reply.startswith(("{", "ERROR: unknown work unit")), reply
    for node in storm.nodes.values():
        # A release that another node asked for deletes the files after its answer.
        await trio.to_thread.run_sync(_wait_empty, node.node.units)
        assert await _list(node) == {}
    nodes = {node.node.pid for node in storm.nodes.values()}
    assert [p for p in _marked(mark) if p[0] not in nodes and "launcher" not in p[1]] == []


def _wait_empty(directory: Path) -> None:
    wait_until(
        lambda: not list(directory.iterdir()),
        watch=[directory],
        what=f"the release of {sorted(entry.name for entry in directory.iterdir())}",
    )


def _marked(mark: str) -> list[tuple[int, str]]:
    """Return pid and command line of whatever was started by the cluster's nodes."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            if os.fsencode(f"{MARK}={mark}") in environment:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append((int(entry.name), words.decode(errors="replace")))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
