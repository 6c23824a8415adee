"""A supervisor's line to its launcher: requests come in, what the supervisor is doing goes out."""

from __future__ import annotations

import json
import os

READ_BYTES = 64 * 1024
"""Bytes of requests read at once: as much as a pipe holds."""

FREE = "free"
"""A supervisor has nothing to supervise and waits for a request."""

ALONE = "alone"
"""A supervisor goes on with its unit by itself and takes no more requests."""


class Lead:
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
