"""The launcher's protocol: every message as a value, with one way to write and one to read it.

========== ============================================ ======================== ===================
message    keys                                         meaning                  sender and reader
========== ============================================ ======================== ===================
Start      start unit dir argv grace env cwd timeout    start this command       node to launcher,
           output leave known isolation limits holds                             to supervisor
Started    start unit supervisor started record [ended] the command was          supervisor to node
                                                        executed, or could not
                                                        be: then it has ended
Refused    start unit error [taken] [again]             the command was not      supervisor or
                                                        executed                 launcher to node
Ended      start unit ended                             it ended within its      supervisor to node
                                                        first moment
Alone      start unit alone                             no more is told of it    supervisor to node
Gone       start unit gone                              its supervisor ended     launcher to node
                                                        abnormally
FREE       ``PID free``                                 takes the next Start     supervisor to
                                                                                 launcher
ALONE      ``PID alone``                                takes no more of them    supervisor to
                                                                                 launcher
========== ============================================ ======================== ===================

Starts and answers are JSON objects. ``start`` is the number of a start, ``unit`` names the unit for
messages. ``record``, ``ended`` and ``known`` are records: the keys of a unit's status that change.

* Node and launcher share one SOCK_SEQPACKET socket. A Start is divided into packets: the kernel
  bounds a packet by the socket's send buffer (about 200 KiB, and no more without privilege), but a
  command line may have 2 MiB. Each packet is a byte of flags and a piece. An answer is one packet.
* A free supervisor gets a Start as a line on a pipe of its own. It reports to the launcher in lines
  on a pipe that all supervisors share.

A supervisor answers before it ends, and the launcher sees its end only afterwards. So a Gone that
no answer came before says that there is none.
"""

from __future__ import annotations

import json
import os

PIECE_BYTES = 64 * 1024
"""Bytes of a Start in one packet: well below the least default send buffer in use (160 KiB)."""

MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""Bytes of a whole Start: twice what Linux lets a command line and environment have at most (6 MiB
with an unlimited stack), for JSON's escapes. What is longer could never be executed."""

MAX_PACKET_BYTES = PIECE_BYTES + 1

READ_BYTES = 64 * 1024
"""Bytes read at once of a supervisor's pipe: as much as a pipe holds."""

FREE = "free"
"""Report of a supervisor that waits for the next Start."""

ALONE = "alone"
"""Report of a supervisor that goes on with its unit and takes no more Starts."""

_FIRST = 1
_LAST = 2

Record = dict[str, object]
"""Keys of a unit's status that change, as they stand in its file."""


class OutputPlan:
    """What a work type asks of output beyond one file that takes all of it.

    Attributes:
        most: bytes that may be printed, errors included; None for any number.
        separate: whether errors go to a file of their own.
        indexed: whether it is kept when each piece came.
    """

    __slots__ = ("indexed", "most", "separate")

    def __init__(
        self, most: int | None = None, *, separate: bool = False, indexed: bool = False
    ) -> None:
        self.most = most
        self.separate = separate
        self.indexed = indexed

    def to_json(self) -> list[int | None]:
        """Return the plan as it stands in a Start."""
        return [self.most, self.separate, self.indexed]

    @classmethod
    def from_json(cls, value: list[int | None]) -> OutputPlan:
        """Read what :meth:`to_json` has written."""
        most, separate, indexed = value
        return cls(most, separate=bool(separate), indexed=bool(indexed))


class Start:
    """Asks for one command; ``client.StartRequest`` describes the fields."""

    __slots__ = (
        *("number", "unit_id", "unit_dir", "argv", "grace"),
        *("env", "cwd", "timeout", "output", "leave", "known", "isolation", "limits"),
        "holds",
    )

    def __init__(
        self,
        number: int,
        unit_id: str,
        unit_dir: str,
        argv: list[str],
        grace: float,
        *,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        output: OutputPlan | None = None,
        leave: bool | list[str] | None = None,
        known: Record | None = None,
        isolation: Record | None = None,
        limits: str | None = None,
        holds: bool = False,
    ) -> None:
        self.number = number
        self.unit_id = unit_id
        self.unit_dir = unit_dir
        self.argv = argv
        self.grace = grace
        self.env = env
        self.cwd = cwd
        self.timeout = timeout
        self.output = output
        self.leave = leave
        self.known: Record = known or {}
        self.isolation = isolation
        self.limits = limits
        self.holds = holds

    def encode(self) -> bytes:
        """Return the message as JSON."""
        body = {
            "start": self.number,
            "unit": self.unit_id,
            "dir": self.unit_dir,
            "argv": self.argv,
            "grace": self.grace,
            "env": self.env,
            "cwd": self.cwd,
            "timeout": self.timeout,
            "output": self.output and self.output.to_json(),
            "leave": self.leave,
            "known": self.known,
            "isolation": self.isolation,
            "limits": self.limits,
            "holds": self.holds,
        }
        return json.dumps(body).encode()

    @classmethod
    def parse(cls, text: bytes) -> Start:
        """Read what :meth:`encode` has written."""
        data = json.loads(text)
        return cls(
            data["start"],
            data["unit"],
            data["dir"],
            data["argv"],
            data["grace"],
            env=data["env"],
            cwd=data["cwd"],
            timeout=data["timeout"],
            output=data["output"] and OutputPlan.from_json(data["output"]),
            leave=data["leave"],
            known=data["known"],
            isolation=data["isolation"],
            limits=data["limits"],
            holds=data["holds"],
        )


class Answer:
    """What became of a start; each kind is a class of its own."""

    __slots__ = ("number", "unit_id")

    def __init__(self, start: Start) -> None:
        self.number = start.number
        self.unit_id = start.unit_id

    def _body(self) -> Record:
        """Return the keys of this kind."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """Return the message as JSON."""
        return json.dumps({"start": self.number, "unit": self.unit_id} | self._body()).encode()


class Started(Answer):
    """The command was executed by the supervisor ``pid``, or its failure to is recorded.

    ``ticks`` is when the supervisor began, ``record`` what it has changed in the status, ``end``
    the same of a command that could not be executed.
    """

    __slots__ = ("end", "pid", "record", "ticks")

    def __init__(
        self, start: Start, pid: int, ticks: int, record: Record, end: Record | None = None
    ) -> None:
        super().__init__(start)
        self.pid = pid
        self.ticks = ticks
        self.record = record
        self.end = end

    def _body(self) -> Record:
        body: Record = {"supervisor": self.pid, "started": self.ticks, "record": self.record}
        return body if self.end is None else body | {"ended": self.end}


class Refused(Answer):
    """The command was not executed.

    ``is_taken`` says that the unit was not Pending, ``is_passing`` that only something is lacking
    now: nothing has happened, and the same may be asked for later.
    """

    __slots__ = ("is_passing", "is_taken", "reason")

    def __init__(
        self, start: Start, reason: str, *, is_taken: bool = False, is_passing: bool = False
    ) -> None:
        super().__init__(start)
        self.reason = reason
        self.is_taken = is_taken
        self.is_passing = is_passing

    def _body(self) -> Record:
        body: Record = {"error": self.reason}
        if self.is_taken:
            body["taken"] = True
        if self.is_passing:
            body["again"] = True
        return body


class Ended(Answer):
    """The command has ended within its first moment; ``record`` is what was recorded of that."""

    __slots__ = ("record",)

    def __init__(self, start: Start, record: Record) -> None:
        super().__init__(start)
        self.record = record

    def _body(self) -> Record:
        return {"ended": self.record}


class Alone(Answer):
    """The supervisor goes on without the node, which hears no more of it."""

    __slots__ = ()

    def _body(self) -> Record:
        return {"alone": True}


class Gone(Answer):
    """The supervisor ended by itself or was killed; ``reason`` says how."""

    __slots__ = ("reason",)

    def __init__(self, start: Start, reason: str) -> None:
        super().__init__(start)
        self.reason = reason

    def _body(self) -> Record:
        return {"gone": self.reason}


def parse_answer(packet: bytes) -> Answer:
    """Read one packet from the launcher or a supervisor."""
    data = json.loads(packet)
    start = Start(data["start"], data["unit"], "", [], 0)
    if "supervisor" in data:
        end = data.get("ended")
        return Started(start, data["supervisor"], data["started"], data["record"], end)
    if "error" in data:
        taken, again = "taken" in data, "again" in data
        return Refused(start, data["error"], is_taken=taken, is_passing=again)
    if "ended" in data:
        return Ended(start, data["ended"])
    return Gone(start, data["gone"]) if "gone" in data else Alone(start)


def send(node: int, answer: Answer) -> bool:
    """Tell the node; False if it is gone. The next one reads the disk."""
    try:
        os.write(node, answer.encode())
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


# --- a Start as packets ---------------------------------------------------------------------------


def split_request(request: bytes) -> list[bytes]:
    """Return the packets that carry ``request``, which must not be empty."""
    pieces = [request[at : at + PIECE_BYTES] for at in range(0, len(request), PIECE_BYTES)]
    last = len(pieces) - 1
    return [
        bytes([(_FIRST if i == 0 else 0) | (_LAST if i == last else 0)]) + piece
        for i, piece in enumerate(pieces)
    ]


class Assembler:
    """Puts the packets of Starts together again, on the launcher's side."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, packet: bytes) -> bytes | None:
        """Take one packet; return the text that it completes, if it does.

        A first piece discards what was there: its sender was cancelled halfway.
        """
        flags = packet[0]
        if flags & _FIRST:
            self._pieces = []
        self._pieces.append(packet[1:])
        if not flags & _LAST:
            return None
        request = b"".join(self._pieces)
        self._pieces = []
        return request


# --- a supervisor's pipes -------------------------------------------------------------------------


def parse_report(line: bytes) -> tuple[int, str]:
    """Return which supervisor reports, and what: FREE or ALONE."""
    pid, what = line.decode().split()
    return int(pid), what


class SupervisorChannel:
    """A supervisor's end of its pipes.

    Args:
        requests: pipe of Starts, each a line; its end says that no more will come.
        reports: pipe, shared by all supervisors, that tells the launcher of changes.
    """

    def __init__(self, requests: int, reports: int) -> None:
        self._requests = requests
        self._reports = reports

    def be_free(self) -> bool:
        """Say that this supervisor takes the next Start; False if there is no launcher."""
        return self._report(FREE)

    def next_start(self) -> Start | None:
        """Return what a free supervisor is to do next; None if it is to end."""
        text = b""
        while not text.endswith(b"\n"):
            piece = os.read(self._requests, READ_BYTES)
            if not piece:
                return None
            text += piece
        return Start.parse(text)

    def leave(self) -> None:
        """Say that this supervisor goes on by itself, and let go of the launcher."""
        self._report(ALONE)
        os.close(self._requests)
        os.close(self._reports)

    def _report(self, what: str) -> bool:
        try:
            # One write of fewer bytes than PIPE_BUF is never mixed with another's.
            os.write(self._reports, f"{os.getpid()} {what}\n".encode())
        except BrokenPipeError:
            return False
        return True
