"""One conversation with the control service of another node (protocol sections 8 and 10)."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from meshnode import files
from meshnode.errors import CannotSign, WorkError
from meshnode.mesh.streams.stream import MeshStream
from meshnode.net.sendfile import read_part
from meshnode.protocol.control import (
    CLAIM_KEY,
    LABELS_KEY,
    RESUMES,
    STREAM_KEY,
)
from meshnode.security.identity import Identity, claim_of
from meshnode.work.local.launcher.records import STDOUT
from meshnode.work.remote.failures import (
    REPLY_TIMEOUT,
    NotAsked,
    RemoteRefused,
    RemoteUnavailable,
    printable,
    translated,
)
from meshnode.work.remote.replies import (
    CHUNK,
    ReplyLines,
    read_reply,
)
from meshnode.work.remote.submitted import Created, RemoteSubmission, read_created
from meshnode.work.units.jobsettings import WORDS_OF_KEYS, JobSettings
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.labels import labels_text

POLL_INTERVAL = 1.0
"""Seconds between two ``work status`` to a node that cannot push, as in receptor."""

BAD_COMMAND = "bad command"
"""The answer of receptor, and of any meshnode, to an unknown subcommand."""

NO_UNIT = "-"
"""An ID that no unit has."""

UNSIGNED = frozenset({"status", "list"})
"""Subcommands that need no signature (protocol section 8)."""

Sign = Callable[[str], str]
"""Returns a signature for a command to the named node, or raises CannotSign."""


class RemoteControl:
    """An open conversation; use it as an async context manager, which closes it."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        lines: ReplyLines,
        node: str,
        sign: Sign | None = None,
        *,
        with_meshnode: bool,
        takes: frozenset[str] = frozenset(),
        has_streams: bool = False,
        is_advertised: bool = True,
    ) -> None:
        """``lines`` has what came by ``stream`` after the greeting.

        ``takes`` has the keys that the other node knows beyond those of any meshnode, once it
        ``is_advertised`` what it is.
        """
        self.has_streams = has_streams
        """Whether it may have other files of output than stdout: it is not known to have none."""
        self._is_advertised = is_advertised
        self.with_meshnode = with_meshnode
        """Whether the other node is a meshnode, and takes more keys than receptor."""
        self._takes = takes
        self._stream = stream
        self._node = node
        self._sign = sign
        self._lines = lines
        self._polls = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            # Reset the stream, not end it: half a payload must not look like a whole one.
            await trio.aclose_forcefully(self._stream)
            return
        # Every command has its reply, so a stream that breaks now changes nothing.
        with contextlib.suppress(RemoteUnavailable), translated():
            await self._stream.aclose()

    def claim_for(self, client: Identity | None) -> dict[str, str]:
        """Return the key of a request that says for whom this node asks, if that may be sent."""
        claim = None if client is None else claim_of(client)
        if claim is None or CLAIM_KEY not in self._takes:
            return {}
        return {CLAIM_KEY: json.dumps(claim.to_json())}

    def labels_for(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the key of a submission that gives its unit labels, if that may be sent."""
        if not labels or LABELS_KEY not in self._takes:
            return {}
        return {LABELS_KEY: labels_text(labels)}

    def settings_for(self, job: JobSettings) -> dict[str, str]:
        """Return the keys of a submission with what its client gives the job.

        Raises:
            NotAsked: the node does not know them.
            RemoteUnavailable: it has not said yet what it knows.
        """
        fields = job.fields()
        unknown = [WORDS_OF_KEYS[key] for key in fields if key not in self._takes]
        missing = list(dict.fromkeys(unknown))
        if not missing:
            return fields
        if not self._is_advertised:
            raise RemoteUnavailable("it has not said yet what it takes")
        raise NotAsked(
            f"node {self._node} is of a version that takes no {' and no '.join(missing)} from "
            "clients: it is receptor's, or an older meshnode"
        )

    @property
    def resumes(self) -> bool:
        """Whether the node keeps what it has of a payload that was cut off, and takes the rest."""
        return RESUMES in self._takes

    @property
    def heard_at(self) -> float:
        """When something last came from the node, in trio's time."""
        if isinstance(self._stream, MeshStream):
            return max(self._stream.heard_at, self._lines.heard_at)
        return self._lines.heard_at

    async def ask(self, **command: Any) -> JsonObject:
        """Send one ``work`` command and return its reply.

        Raises:
            RemoteUnavailable: the talk broke off.
            RemoteRefused: the reply is an error.
        """
        await self._send({"command": "work", **command})
        return read_reply(await self._lines.line(REPLY_TIMEOUT))

    async def submit(self, fields: Mapping[str, str]) -> Created:
        """Submit a unit and return what the node calls it; its payload must follow.

        Raises:
            RemoteUnavailable, RemoteRefused
            AlreadySubmitted: it has a unit of the ``submissionkey`` in ``fields``.
        """
        await self._send({**fields, "command": "work", "subcommand": "submit"})
        return read_created(await self._lines.line(REPLY_TIMEOUT))

    async def find_submission(self, key: str, unit_id: str, receipt: str) -> RemoteSubmission:
        """Ask what became of a submission; ``unit_id`` and ``receipt`` came with its reply.

        Raises:
            RemoteUnavailable
            RemoteRefused: the node supports no keys, or does not tell now.
        """
        reply = await self.ask(
            subcommand="submitted", submissionkey=key, unitid=unit_id, submissionmark=receipt
        )
        return RemoteSubmission.from_reply(reply)

    async def takes_keys(self) -> bool:
        """Ask whether the node is a meshnode: its advertisement may be wrong.

        Raises:
            RemoteUnavailable
        """
        try:
            await self.ask(subcommand="watch", unitid=NO_UNIT)
        except RemoteRefused as refusal:
            return refusal.reason != BAD_COMMAND
        return True

    async def send_payload(
        self, created: Created, *paths: Path, before_end: Callable[[], None]
    ) -> bool:
        """Send files as the payload of the unit just submitted, and wait for the final reply.

        What the other node has of them is not sent again.
        ``before_end`` is called just before the other node can learn that the payload is complete.
        A refusal is noticed while bytes are still being sent.

        Returns:
            Whether the node goes on to report the unit, for :meth:`next_status`.

        Raises:
            RemoteUnavailable: the answer is missing, or about something else.
            RemoteRefused
            WorkError: the file cannot be read.
        """
        outcome: str | WorkError | None = None

        async def send() -> None:
            nonlocal outcome
            try:
                await self._send_files(paths, created.position)
                before_end()
                with translated():
                    await self._stream.send_eof()
                with trio.fail_after(REPLY_TIMEOUT):
                    await answered.wait()
            except trio.TooSlowError:
                outcome = RemoteUnavailable("no reply to the end of the payload")
            except WorkError as error:
                outcome = error
            nursery.cancel_scope.cancel()

        async def receive() -> None:
            nonlocal outcome
            try:
                outcome = await self._lines.line(None)
            except RemoteUnavailable as error:
                outcome = error
            answered.set()
            nursery.cancel_scope.cancel()

        answered = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(send)
        if isinstance(outcome, WorkError):
            raise outcome
        assert outcome is not None
        reply = read_reply(outcome)
        if reply.get("unitid") != created.unit_id:
            raise RemoteUnavailable("the node did not say what became of the unit")
        return reply.get("follows") is True

    async def _send_files(self, paths: Iterable[Path], skipped: int) -> None:
        """Send files, one after the other, but for the first bytes of them all."""
        for path in paths:
            skipped = await self._send_file(path, skipped)
        if skipped:
            raise RemoteUnavailable(
                f"the node says that it has {skipped} bytes more than there are"
            )

    async def _send_file(self, path: Path, skipped: int) -> int:
        """Send a file but for its first bytes; return how many are to be skipped of the next."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                size = os.fstat(descriptor).st_size
                await self._send_content(descriptor, path.name, min(skipped, size), size)
                return max(skipped - size, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            text = f"error sending {path.name} file: {files.reason(error)}"
            # The other node has no complete payload. If this node lacks descriptors or the like,
            # the payload can be sent again later.
            raise (RemoteUnavailable if files.is_passing(error) else WorkError)(text) from error

    async def _send_content(self, descriptor: int, name: str, position: int, size: int) -> None:
        while position < size:
            chunk = await read_part(descriptor, position, CHUNK)
            if not chunk:
                raise WorkError(f"error sending {name} file: it ends at byte {position} of {size}")
            position += len(chunk)
            with translated():
                await self._stream.send_all(chunk)

    async def watch(self, unit_id: str) -> JsonObject:
        """Ask for a report of each change of a unit; return its status now.

        Raises:
            RemoteUnavailable, RemoteRefused
        """
        try:
            return await self.ask(subcommand="watch", unitid=unit_id)
        except RemoteRefused as refusal:
            if refusal.reason != BAD_COMMAND:
                raise
        # receptor cannot push, so next_status polls.
        self._polls = True
        return await self.ask(subcommand="status", unitid=unit_id)

    async def next_status(self, unit_id: str) -> JsonObject:
        """Return the next status; it may be the same as before.

        After :meth:`watch`, or a submission whose reply said that the node ``follows`` it.

        Raises:
            RemoteUnavailable, RemoteRefused
        """
        if self._polls:
            await trio.sleep(POLL_INTERVAL)
            return await self.ask(subcommand="status", unitid=unit_id)
        return read_reply(await self._lines.line(None))

    async def start_results(self, unit_id: str, position: int, stream: str = STDOUT) -> None:
        """Ask for a file of output from byte ``position``; :meth:`receive_results` returns it.

        A file other than stdout is one that the node has told of.

        Raises:
            RemoteUnavailable, RemoteRefused
        """
        named = {} if stream == STDOUT else {STREAM_KEY: stream}
        await self._send(
            {
                **{"command": "work", "subcommand": "results", "unitid": unit_id},
                **{"startpos": position, **named},
            }
        )
        line = await self._lines.line(REPLY_TIMEOUT)
        if line.startswith("ERROR"):
            raise RemoteRefused(line.removeprefix("ERROR: "))
        if line != f"Streaming results for work unit {unit_id}":
            raise RemoteUnavailable(f"the node did not stream results: {printable(line, 80)}")

    async def receive_results(self) -> bytes:
        """Return the next bytes of that file, ``b""`` when the node has closed the stream.

        Raises:
            RemoteUnavailable
        """
        return await self._lines.raw()

    def _signed(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the command with a fresh signature: a unit may outlive a token."""
        if self._sign is None or command["subcommand"] in UNSIGNED:
            return command
        try:
            return {**command, "signature": self._sign(self._node)}
        except CannotSign as error:
            # The other node would refuse the command without a signature.
            raise NotAsked(str(error)) from error

    async def _send(self, command: Mapping[str, Any]) -> None:
        command = self._signed(command)
        with translated(), trio.fail_after(REPLY_TIMEOUT):
            await self._stream.send_all(json.dumps(command).encode() + b"\n")
