"""Output of a unit on another node: its stdout, its stderr and its index, each byte once."""

import errno
import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from remote_fakes import OUTPUT, RemoteNode
from work_fakes import LONG, FakeMesh, FakeNode, inline_run_sync

from meshctl.api.logindex import Record
from meshnode.protocol.control import STREAM_KEY, STREAMS, TAKEN_KEYS
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.launcher.records import INDEX, SIZE_KEYS, STDERR, STDOUT
from meshnode.work.units.follow import INLINE_BYTES
from meshnode.work.units.intake import UnitFile

NAMES = (STDOUT, STDERR, INDEX)


def files(node, unit_id):
    """Return what a node has of the output of its unit, by the names of the files."""
    paths = {name: node.store.output_path(unit_id, name) for name in NAMES}
    return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def there(foo, bar, unit_id):
    """Return the ID of foo's unit on bar."""
    return foo.status(unit_id).remote.unit_id


def printer(foo, bar, unit_id):
    return Printer(bar.launcher.supervisors[there(foo, bar, unit_id)])


class Printer:
    """Prints as a supervisor does: first the bytes, then what the index says of them."""

    def __init__(self, supervisor) -> None:
        self.supervisor = supervisor
        self.ends = {STDOUT: 0, STDERR: 0}
        self.time = 1_000_000

    def say(self, stream, data):
        self.supervisor.write(data, stream)
        self.ends[stream] += len(data)
        self.time += 1
        self.supervisor.write(Record(self.time, stream, self.ends[stream]).encode(), INDEX)

    def finish(self, *how):
        self.supervisor.finish(*how)


async def until(condition):
    with trio.fail_after(LONG):
        while not condition():
            await trio.sleep(0.01)


async def test_a_short_unit_with_separate_outputs_needs_no_further_conversation(
    foo, bar, autojump_clock
):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "separate")
        told = printer(foo, bar, unit_id)
        told.say(STDOUT, b"out")
        told.say(STDERR, b"err")
        told.finish()
        status = await foo.wait_final(unit_id)
        assert status.sizes == {"StdoutSize": 3, "StderrSize": 3, "IndexSize": 32}
        assert files(foo, unit_id) == files(bar, there(foo, bar, unit_id))
        assert foo.mesh.dials == 1


@pytest.mark.parametrize("stream", [STDOUT, STDERR])
async def test_longer_outputs_are_asked_for(foo, bar, autojump_clock, stream):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "separate")
        told = printer(foo, bar, unit_id)
        told.say(stream, b"x" * INLINE_BYTES)
        told.finish()
        await foo.wait_final(unit_id)
        assert files(foo, unit_id) == files(bar, there(foo, bar, unit_id))
        assert foo.status(unit_id).size_of(stream) == INLINE_BYTES


@pytest.mark.parametrize(
    ("work_type", "names"), [("separate", set(NAMES)), ("timed", {STDOUT, INDEX})]
)
async def test_each_file_grows_here_as_it_grows_there(foo, bar, autojump_clock, work_type, names):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", work_type)
        told = printer(foo, bar, unit_id)
        for number, stream in enumerate((STDOUT, STDERR, STDERR, STDOUT, STDERR)):
            told.say(stream if stream in names else STDOUT, b"%d\n" % number)
            await until(lambda: files(foo, unit_id) == files(bar, there(foo, bar, unit_id)))
            await trio.sleep(1000)
        assert set(files(foo, unit_id)) == names
        told.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


async def test_what_is_only_errors_comes_as_it_is_printed(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "separate")
        await trio.sleep(100)
        assert foo.mesh.dials == 1
        told = printer(foo, bar, unit_id)
        told.say(STDERR, b"oops\n")
        await until(lambda: files(foo, unit_id).get(STDERR) == b"oops\n")
        told.finish()
        await foo.wait_final(unit_id)


async def test_clients_of_the_submitting_node_follow_each_file(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "separate")
        replies = {}

        async def follow(name):
            request = {"command": "work", "subcommand": "results", "unitid": unit_id, "startpos": 0}
            client = foo.connect()
            await client.send_all(json.dumps({**request, STREAM_KEY: name}).encode() + b"\n")
            reply = b"".join([piece async for piece in client])
            replies[name] = reply.partition(f"unit {unit_id}\n".encode())[2]

        async with trio.open_nursery() as nursery:
            for name in NAMES:
                nursery.start_soon(follow, name)
            await trio.sleep(1)
            told = printer(foo, bar, unit_id)
            for number in range(10):
                told.say((STDOUT, STDERR)[number % 2], b"%d\n" % number)
                await trio.sleep(1)
            told.finish()
        assert replies == files(bar, there(foo, bar, unit_id))


PIECES = st.lists(
    st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=40)), max_size=12
)
EVENTS = ("cut", "kill foo", "kill bar", "both break")


@settings(max_examples=60)
@given(
    pieces=PIECES,
    events=st.lists(
        st.tuples(st.integers(1, 60), st.sampled_from(EVENTS), st.integers(0, 3)), max_size=4
    ),
    pause=st.sampled_from([0.0, 0.03, 5.0]),
)
def test_each_byte_comes_once_whatever_breaks_at_whatever_moment(pieces, events, pause):
    """An event happens so many sends or receives after the last one, anywhere in the mesh."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root,
        mock.patch.object(trio.to_thread, "run_sync", inline_run_sync),
    ):
        play = Play(Path(root), pieces, events, pause)
        trio.run(play.run, clock=trio.testing.MockClock(autojump_threshold=0))


class Play:
    """bar's unit prints while connections break and nodes are killed."""

    def __init__(self, root, pieces, events, pause):
        self.mesh = FakeMesh()
        self.foo, self.bar = FakeNode(self.mesh, "foo", root), FakeNode(self.mesh, "bar", root)
        self.pieces, self.events, self.pause = pieces, list(events), pause
        self.restart: tuple[str, trio.Event] = ("", trio.Event())
        self.next_at = 0

    async def run(self):
        with trio.fail_after(LONG):
            async with trio.open_nursery() as nursery:
                self.started = {"foo": trio.Event(), "bar": trio.Event()}
                self.over = trio.Event()
                nursery.start_soon(self.live, self.bar)
                nursery.start_soon(self.live, self.foo)
                for event in tuple(self.started.values()):
                    await event.wait()
                unit_id = await self.foo.submit("bar", "separate")
                self.arm(0)
                await self.print_all(unit_id)
                self.mesh.before_operation = lambda count: None
                await self.ends(unit_id)
                self.over.set()

    async def live(self, node):
        """Run a node, again each time that it was killed."""
        while not self.over.is_set():
            async with node.running():
                self.started[node.node_id].set()
                kill = self.kills(node)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.until, kill, nursery)
                    nursery.start_soon(self.until, self.over, nursery)
            self.started[node.node_id] = trio.Event()
            self.mesh.heal()

    def kills(self, node):
        event = trio.Event()
        setattr(self, f"kill_{node.node_id}", event)
        return event

    async def until(self, event, nursery):
        await event.wait()
        nursery.cancel_scope.cancel()

    def arm(self, count):
        """Have the next event happen at its moment."""
        self.next_at = count + self.events[0][0] if self.events else 0
        self.mesh.before_operation = self.before

    def before(self, count):
        if not self.events or count < self.next_at:
            return
        _, what, _ = self.events.pop(0)
        match what:
            case "cut":
                self.mesh.break_all()
            case "both break":
                self.mesh.break_dialers()
            case "kill foo":
                self.foo.kill()
                self.kill_foo.set()
            case "kill bar":
                self.bar.kill()
                self.kill_bar.set()
        self.arm(count)

    async def print_all(self, unit_id):
        told = None
        for stream, data in self.pieces:
            while told is None:
                supervisors = tuple(self.bar.launcher.supervisors.values())
                told = Printer(supervisors[0]) if supervisors else None
                await trio.sleep(0.01)
            told.say(stream, data)
            if self.pause:
                await trio.sleep(self.pause)
        while not self.bar.launcher.supervisors:
            await trio.sleep(0.01)
        (supervisor,) = self.bar.launcher.supervisors.values()
        supervisor.finish()
        await trio.sleep(10)

    async def ends(self, unit_id):
        while True:
            await self.started["foo"].wait()
            with trio.move_on_after(LONG / 2):
                status = await self.foo.wait_final(unit_id)
                break
        assert status.state is UnitState.SUCCEEDED, status.detail
        wanted = files(self.bar, status.remote.unit_id)
        assert files(self.foo, unit_id) == wanted
        assert status.sizes == {SIZE_KEYS[name]: len(data) for name, data in wanted.items()}
        assert self.foo.store.read_status(unit_id) == status


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [(STDOUT, STDERR), (STDERR, STDERR), (STDERR, STDOUT)])
async def test_all_files_together_are_bounded_by_one_option(foo, bar, autojump_clock, streams):
    foo.max_remote_output = 150
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "separate")
        told = printer(foo, bar, unit_id)
        for stream in streams:
            told.say(stream, b"x" * 70)
            await trio.sleep(1)
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail == (
            "stopped: node bar sent more than 150 bytes of results (remote-maxoutput)"
        )
        assert sum(status.sizes.values()) <= 150
        assert sum(map(len, files(foo, unit_id).values())) <= 150
        far = bar.units.find(there(foo, bar, unit_id))
        await far.wait_final()
        assert far.status.state is UnitState.CANCELED


@pytest.mark.parametrize("name", NAMES)
async def test_a_full_disk_is_waited_for_whichever_file_finds_no_room(
    foo, bar, autojump_clock, monkeypatch, name
):
    real, full = os.write, True

    def write(descriptor, data):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if full and path.startswith(str(foo.store.root)) and path.endswith(f"/{name}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "separate")
        told = printer(foo, bar, unit_id)
        monkeypatch.setattr(os, "write", write)
        told.say(STDOUT, b"out\n")
        told.say(STDERR, b"err\n")
        await foo.wait_for(unit_id, lambda status: "waiting for disk space" in status.detail)
        told.finish()
        await trio.sleep(1000)
        assert not foo.status(unit_id).state.is_final
        full = False
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert files(foo, unit_id) == files(bar, there(foo, bar, unit_id))


async def test_a_disk_that_lost_what_it_took_has_all_files_fetched_again(
    foo, bar, autojump_clock, monkeypatch
):
    sync, failed = UnitFile.sync, []

    def sync_once(file):
        if not failed:
            failed.append(file)
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "separate")
        monkeypatch.setattr(UnitFile, "sync", sync_once)
        told = printer(foo, bar, unit_id)
        told.say(STDOUT, b"out\n")
        told.say(STDERR, b"err\n")
        told.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert failed
        assert files(foo, unit_id) == files(bar, there(foo, bar, unit_id))


# --- nodes that know none of it -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["receptor", "older meshnode"])
async def test_a_node_that_knows_no_streams_gets_no_new_key_and_its_work_is_as_ever(
    foo, bar, autojump_clock, kind
):
    asked = []

    def as_before(command):
        parse = command.parse_json
        return type(command)(
            "work", command.parse_text, lambda data: asked.append(set(data)) or parse(data)
        )

    bar.as_before = as_before
    if kind == "receptor":
        bar.is_receptor = True
    else:
        bar.mesh.taken_keys = TAKEN_KEYS - {STREAMS}
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "separate")
        told = printer(foo, bar, unit_id)
        told.say(STDERR, b"err\n")
        await trio.sleep(10)
        told.say(STDOUT, b"out\n" * INLINE_BYTES)
        await trio.sleep(10)
        told.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert files(foo, unit_id) == {STDOUT: b"out\n" * INLINE_BYTES}
        assert foo.status(unit_id).sizes == {"StdoutSize": 4 * INLINE_BYTES}
    assert asked
    assert not any(STREAM_KEY in keys for keys in asked)


VECTORS = Path(__file__).parents[2] / "data" / "control-vectors.json"


def recorded_status():
    """Return a status of a unit as a receptor node was recorded to tell it."""
    recorded = json.loads(VECTORS.read_text())["vectors"]
    told = (v["reply"] for v in recorded if v["send"].startswith("work status"))
    return next(json.loads(reply) for reply in told if '"State":1' in reply)


async def test_a_receptor_as_it_was_recorded_is_asked_for_nothing_new_and_followed_as_ever(
    foo, nursery, autojump_clock
):
    receptor = RemoteNode(foo.mesh, nursery)
    recorded = recorded_status()

    async def status(node, stream):
        told = recorded | {"State": node.state, "Detail": node.detail, "StdoutSize": len(OUTPUT)}
        await stream.send_all(json.dumps(told).encode() + b"\n")

    receptor.lies["status"] = status
    async with foo.running():
        unit_id = await submit(foo)
        await trio.sleep(10)
        assert files(foo, unit_id) == {STDOUT: OUTPUT}
        receptor.finish()
        assert (await foo.wait_final(unit_id)).sizes == {"StdoutSize": len(OUTPUT)}
    sent = {asked["subcommand"]: set(asked) - {"command", "subcommand"} for asked in receptor.asked}
    assert sent["results"] == {"unitid", "startpos"}
    assert sent["status"] == sent["watch"] == {"unitid"}
    assert set(sent) == {"submit", "watch", "status", "results"}


# --- nodes that lie -------------------------------------------------------------------------------


@pytest.fixture
async def far(foo, nursery):
    node = RemoteNode(foo.mesh, nursery)
    node.is_receptor = False
    return node


async def submit(foo):
    lines = await foo.talk("work submit bar cat", b"payload")
    return lines[0].partition("with ID ")[2][:8]


@pytest.mark.parametrize("key", ["StderrSize", "IndexSize"])
@pytest.mark.parametrize("size", [-1, 2**63, "1", None, 1e999, True, [1]])
async def test_a_status_with_a_size_that_is_none_is_no_status(foo, far, autojump_clock, key, size):
    async def status(node, stream):
        await stream.send_all(node.status(**{key: size}))

    async with foo.running():
        unit_id = await submit(foo)
        far.lies["status"] = status
        far.finish()
        await trio.sleep(100)
        assert not foo.status(unit_id).state.is_final
        far.lies.clear()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit_id) == OUTPUT


@pytest.mark.parametrize("name", [STDERR, INDEX])
async def test_a_node_that_sends_less_of_a_file_than_it_says_there_is_fails_the_unit(
    foo, far, autojump_clock, name
):
    async def status(node, stream):
        await stream.send_all(node.status(**{SIZE_KEYS[name]: 10**6}))

    async def results(node, stream):
        start = node.asked[-1]["startpos"]
        await stream.send_all(OUTPUT[start:])

    far.lies |= {"status": status, "results": results}
    async with foo.running():
        unit_id = await submit(foo)
        far.finish()
        ended = await foo.wait_final(unit_id)
        assert ended.state is UnitState.FAILED
        told = f"{name} of the remote unit ended at byte {len(OUTPUT)} of 1000000"
        assert ended.detail == told
    assert {asked.get(STREAM_KEY) for asked in far.asked if "startpos" in asked} == {None, name}


@given(
    inline=st.dictionaries(st.sampled_from(["Stdout", "Stderr", "Index"]), st.text() | st.none())
)
@settings(max_examples=25)
def test_output_that_comes_damaged_with_the_end_is_asked_for(inline):
    async def main(root):
        async with trio.open_nursery() as nursery:
            mesh = FakeMesh()
            foo, far = FakeNode(mesh, "foo", root), RemoteNode(mesh, nursery)
            far.is_receptor = False

            async def status(node, stream):
                sizes = {"StderrSize": len(OUTPUT), "IndexSize": len(OUTPUT)}
                await stream.send_all(node.status(**sizes, **inline))

            far.lies["status"] = status
            async with foo.running():
                unit_id = await submit(foo)
                far.finish()
                await foo.wait_final(unit_id)
                assert files(foo, unit_id) == dict.fromkeys(NAMES, OUTPUT)
            nursery.cancel_scope.cancel()

    with (
        tempfile.TemporaryDirectory() as root,
        mock.patch.object(trio.to_thread, "run_sync", inline_run_sync),
    ):
        trio.run(main, Path(root), clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_file_that_its_node_lost_sight_of_ends_with_what_is_here(foo, far, autojump_clock):
    told = {"StderrSize": len(OUTPUT)}

    async def status(node, stream):
        await stream.send_all(node.status(**told))

    far.lies["status"] = status
    async with foo.running():
        unit_id = await submit(foo)
        await until(lambda: files(foo, unit_id).get(STDERR) == OUTPUT)
        told.clear()
        far.finish()
        ended = await foo.wait_final(unit_id)
        assert ended.sizes == {"StdoutSize": len(OUTPUT), "StderrSize": len(OUTPUT)}
