"""A stream is in one state, whatever its user, the peer and the engine do in whatever order."""

import hypothesis
import hypothesis.strategies as st
from aioquic.quic.events import StreamDataReceived
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshnode.mesh.streams.flowcontrol import SendBudget
from meshnode.mesh.streams.stream import MeshStream
from meshnode.mesh.streams.streamtable import STREAM_PREFIX, StreamState, StreamTable

OPEN, DELIVERING, DRAINING = StreamState

NUMBERS = st.sampled_from(range(0, 24, 4))


class Engine:
    """What the table asks of the engine, as the test wants it."""

    def __init__(self) -> None:
        self.flushed: set[int] = set()
        self.unknown: set[int] = set()
        self.consumed: dict[int, int] = {}
        self.forgotten: list[int] = []
        self.reset: list[int] = []
        self.stopped: list[int] = []

    def is_receiving(self, stream_id: int) -> bool:
        return stream_id not in self.unknown

    def may_write(self, stream_id: int) -> bool:
        return stream_id % 8 == 0

    def is_flushed(self, stream_id: int) -> bool:
        return stream_id in self.flushed

    def is_known(self, stream_id: int) -> bool:
        return stream_id not in self.unknown

    def undelivered(self, stream_id: int) -> int:
        return 0 if stream_id in self.flushed else 10

    def consume(self, stream_id: int, count: int) -> bool:
        self.consumed[stream_id] = self.consumed.get(stream_id, 0) + count
        return False

    def reset_stream(self, stream_id: int, code: int) -> None:
        self.reset.append(stream_id)

    def stop_stream(self, stream_id: int, code: int) -> None:
        self.stopped.append(stream_id)

    def forget_stream(self, stream_id: int) -> None:
        self.forgotten.append(stream_id)


class Host:
    """The connection, as far as a stream that is fed and lost needs it."""

    def consumed(self, stream_id: int, count: int) -> None:
        pass


def make(stream_id: int) -> MeshStream:
    return MeshStream(Host(), stream_id, "bar", "svc")


def data(stream_id: int, content: bytes) -> StreamDataReceived:
    return StreamDataReceived(data=content, end_stream=False, stream_id=stream_id)


class Streams(RuleBasedStateMachine):
    """The streams of one connection."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = SendBudget.of_node()
        self.engine = Engine()
        self.table = StreamTable(self.engine, self.budget)
        self.expected: dict[int, StreamState] = {}

    @rule(number=NUMBERS)
    def we_open_one(self, number: int) -> None:
        if number not in self.expected:
            self.engine.unknown.discard(number)
            stream = make(number)
            assert self.table.open(number, stream) is stream
            self.expected[number] = OPEN

    @rule(number=NUMBERS, content=st.sampled_from([STREAM_PREFIX, STREAM_PREFIX + b"x", b"x", b""]))
    def the_peer_sends(self, number: int, content: bytes) -> None:
        is_new = number not in self.expected
        if is_new:
            self.engine.unknown.discard(number)
            self.engine.flushed.discard(number)
        stream = self.table.take_data(data(number, content), make)
        assert (stream is not None) == (is_new and content[:1] == STREAM_PREFIX)
        if is_new:
            self.expected[number] = OPEN if stream is not None else DRAINING

    @rule(number=NUMBERS)
    def the_peer_resets(self, number: int) -> None:
        if number not in self.expected:
            self.engine.unknown.discard(number)
        self.table.take_reset(number)
        self.expected.setdefault(number, DRAINING)

    @rule(number=NUMBERS)
    def the_peer_reads_no_more(self, number: int) -> None:
        self.table.take_refusal(number)

    @rule(number=NUMBERS)
    def nobody_accepts_it(self, number: int) -> None:
        if self.expected.get(number) is OPEN:
            self.table.decline(number)
            self.expected[number] = DRAINING

    @rule(number=NUMBERS)
    def its_user_closes_it(self, number: int) -> None:
        if self.expected.get(number) is OPEN:
            self.table.close(number)
            self.expected[number] = DELIVERING

    @rule(number=NUMBERS)
    def all_of_it_is_acknowledged(self, number: int) -> None:
        self.engine.flushed.add(number)

    @rule(number=NUMBERS)
    def the_engine_forgets_it(self, number: int) -> None:
        if number in self.expected:
            self.engine.unknown.add(number)

    @rule()
    def settle(self) -> None:
        self.table.settle()
        for number, state in list(self.expected.items()):
            if state is DELIVERING and number in self.engine.flushed:
                state = self.expected[number] = DRAINING
            if state is DRAINING and number in self.engine.unknown:
                del self.expected[number]
                assert self.engine.forgotten.pop() is not None

    @precondition(lambda self: any(s is DELIVERING for s in self.expected.values()))
    @rule()
    def give_up(self) -> None:
        before = len(self.engine.reset)
        self.table.give_up_delivery()
        delivering = [n for n, state in self.expected.items() if state is DELIVERING]
        assert sorted(self.engine.reset[before:]) == sorted(delivering)

    @rule()
    def the_connection_ends(self) -> None:
        streams = list(self.table)
        self.table.lose("over")
        assert all(stream._broken is not None for stream in streams)
        self.expected.clear()
        self.engine.flushed.clear()
        self.engine.unknown.clear()

    @invariant()
    def each_stream_is_in_its_state_and_counted_once(self) -> None:
        for state in StreamState:
            numbers = [n for n, expected in self.expected.items() if expected is state]
            assert sorted(self.table.in_state(state)) == sorted(numbers)
        in_use = [state for state in self.expected.values() if state is not DRAINING]
        assert self.table.in_use == self.budget.streams == len(in_use) == len(list(self.table))
        assert self.table.has_closed == any(s is not OPEN for s in self.expected.values())
        delivering = [n for n, state in self.expected.items() if state is DELIVERING]
        undelivered = sum(map(self.engine.undelivered, delivering))
        assert self.table.undelivered() == (len(delivering), undelivered)


TestStreams = Streams.TestCase
TestStreams.settings = hypothesis.settings(max_examples=60, stateful_step_count=40)


def test_what_comes_for_a_stream_that_nobody_has_is_read_so_that_its_end_can_come() -> None:
    engine = Engine()
    table = StreamTable(engine, SendBudget.of_node())
    assert table.take_data(data(0, b"no prefix"), make) is None
    assert table.take_data(data(0, b"more"), make) is None
    assert engine.consumed == {0: 4}
    assert (engine.stopped, engine.reset) == ([0], [0])
