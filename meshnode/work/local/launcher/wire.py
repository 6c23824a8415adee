"""How a request of any length travels to the launcher as packets of one SOCK_SEQPACKET socket.

A packet is one byte of flags and a piece of the request. The kernel bounds a packet by the socket's
send buffer (about 200 KiB, and no more without privilege), but a command line may have 2 MiB.
"""

from __future__ import annotations

import json
import os

PIECE_BYTES = 64 * 1024
"""Bytes of a request in one packet: well below the least default send buffer in use (160 KiB)."""

MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""Bytes of a whole request: twice what Linux lets a command line and environment have at most
(6 MiB with an unlimited stack), for JSON's escapes; what is longer could never be executed."""

MAX_PACKET_BYTES = PIECE_BYTES + 1

_FIRST = 1
_LAST = 2


def split_request(request: bytes) -> list[bytes]:
    """Return the packets that carry ``request``, which must not be empty."""
    pieces = [request[at : at + PIECE_BYTES] for at in range(0, len(request), PIECE_BYTES)]
    last = len(pieces) - 1
    return [
        bytes([(_FIRST if i == 0 else 0) | (_LAST if i == last else 0)]) + piece
        for i, piece in enumerate(pieces)
    ]


class Assembler:
    """Puts the packets of requests together again, on the launcher's side."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, packet: bytes) -> bytes | None:
        """Take one packet; return the request that it completes, if it does.

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


# --- A supervisor's line to its launcher: requests come in, what the supervisor is doing goes out

READ_BYTES = 64 * 1024
"""Bytes of requests read at once: as much as a pipe holds."""

FREE = "free"
"""A supervisor has nothing to supervise and waits for a request."""

ALONE = "alone"
"""A supervisor goes on with its unit by itself and takes no more requests."""


class SupervisorChannel:
    """The supervisor's end.

    Args:
        requests: pipe of requests, each a line of JSON; its end says that no more will come.
        reports: pipe, shared by all supervisors, that tells the launcher of changes.
    """

    def __init__(self, requests: int, reports: int) -> None:
        self._requests = requests
        self._reports = reports

    def be_free(self) -> bool:
        """Say that this supervisor takes the next request; False if there is no launcher."""
        return self._report(FREE)

    def next_request(self) -> dict[str, object] | None:
        """Return what a free supervisor is to do next; None if it is to end."""
        text = b""
        while not text.endswith(b"\n"):
            piece = os.read(self._requests, READ_BYTES)
            if not piece:
                return None
            text += piece
        request: dict[str, object] = json.loads(text)
        return request

    def leave(self) -> None:
        """Say that this supervisor goes on by itself, and let go of the launcher."""
        self._report(ALONE)
        os.close(self._requests)
        os.close(self._reports)

    def _report(self, what: str) -> bool:
        """Tell the launcher; False if there is none any more."""
        try:
            # One write of fewer bytes than PIPE_BUF is never mixed with another's.
            os.write(self._reports, f"{os.getpid()} {what}\n".encode())
        except BrokenPipeError:
            return False
        return True
