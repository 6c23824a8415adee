"""Units that run a command on this node, through the launcher and its supervisors."""

import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import trio

from meshnode.errors import CommandError, WorkError
from meshnode.work.launch import LauncherClosed, Started, StartRequest
from meshnode.work.processes import ProcessHandle, ProcessId, end_unit_processes
from meshnode.work.runners.base import Attempt, UnitTasks
from meshnode.work.store import Overtaken, UnitStore
from meshnode.work.unit import Unit
from meshnode.work.words import split_words

CANCEL_GRACE = 10.0
"""Seconds between SIGINT and SIGKILL, as receptor gives."""

CANCEL_MARGIN = 5.0
"""Seconds beyond the grace that a cancel may take to kill the tree, sync stdout, record the end."""

PLUGIN_MAIN = Path(__file__).resolve().parents[1] / "pluginmain.py"
"""The program that calls plugins, in an interpreter of its own."""

_KNOWN = frozenset({"StdinSize", "StdinSha256"})
"""Keys of the status that are learned with the end of the input, just before the start."""

OPEN_RETRY = 1.0
"""Seconds before a node without a free descriptor tries again; no event says that one is free."""


@dataclass(frozen=True, slots=True)
class CommandType:
    """One ``work-command`` directive.

    ``env`` is what its environment has beside the node's own, ``timeout`` and ``grace`` are
    seconds, ``max_output`` bytes.
    """

    command: str
    params: str = ""
    allow_runtime_params: bool = False
    verify_signature: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    timeout: float | None = None
    max_output: int | None = None
    grace: float = CANCEL_GRACE

    def argv(self, runtime_params: str) -> tuple[str, ...]:
        """Return the words to execute; parameters are split as a shell splits them, by no shell.

        Raises:
            CommandError: runtime parameters are not allowed, or a quote is never closed.
        """
        if runtime_params and not self.allow_runtime_params:
            raise CommandError("extra params provided but not allowed")
        try:
            words = (*split_words(self.params), *split_words(runtime_params))
        except ValueError as error:
            raise CommandError(f"cannot split the params into words: {error}") from None
        if any("\0" in word for word in words):
            raise CommandError("params must not contain a NUL character")
        return (self.command, *words)


@dataclass(frozen=True, slots=True)
class PythonType(CommandType):
    """One ``work-python`` directive: a command that calls a function of a plugin."""

    plugin: str = ""
    function: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    def argv(self, runtime_params: str) -> tuple[str, ...]:
        """Return the words to execute; the client's parameters go into the config, as text.

        Raises:
            CommandError: the parameters hold what no argument can.
        """
        if "\0" in runtime_params:
            raise CommandError("params must not contain a NUL character")
        config = json.dumps({**self.config, "params": runtime_params})
        # Isolated: without -I a file queue.py in the working directory would be imported.
        return (self.command, "-I", str(PLUGIN_MAIN), self.plugin, self.function, config)


class Starter(Protocol):
    """What starts supervisors: :class:`meshnode.work.launch.Launcher`."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Be able to start, until cancelled."""
        ...

    async def start(self, request: StartRequest) -> Started:
        """Return when the command runs, or its failure to is on disk.

        Raises:
            LauncherClosed: the node is ending; the unit's status tells, now or soon.
            WorkError: no supervisor could be started.
        """
        ...


class Handle(Protocol):
    """One process that can be watched and signalled without mistaking it for another."""

    async def wait_end(self) -> None:
        """Return when the process has ended."""
        ...

    def send_signal(self, signum: signal.Signals) -> None:
        """Signal the process. Raises ProcessLookupError if it has ended."""
        ...

    def close(self) -> None:
        """Let go of the process."""
        ...


OpenProcess = Callable[[ProcessId], Handle]
EndLeftovers = Callable[[Path, float], Awaitable[list[ProcessId]]]
"""Ends every process of the unit of that directory, after that many seconds by force; returns when
none is left but those that may not be signalled."""


class CommandRunner:
    """Starts commands, watches their supervisors, and takes over the ends that those record."""

    def __init__(
        self,
        launcher: Starter,
        store: UnitStore,
        types: Mapping[str, CommandType],
        *,
        open_process: OpenProcess = ProcessHandle.open,
        end_leftovers: EndLeftovers = end_unit_processes,
    ) -> None:
        self._launcher = launcher
        self._store = store
        self._types = types
        self._open_process = open_process
        self._end_leftovers = end_leftovers

    def _type_of(self, unit: Unit) -> CommandType:
        """Return the unit's work type; a plain one when the configuration has it no more."""
        return self._types.get(unit.status.work_type, CommandType(""))

    async def run(self, unit: Unit, attempt: Attempt, tasks: UnitTasks) -> None:
        """Start a pending unit, or adopt a running one, and watch it to its end."""
        if unit.is_final:
            return
        process = unit.status.supervisor
        if process is None:
            started = await self._start(unit, attempt)
            if started is None or await self._ends_at_once(unit, started, attempt):
                return
            process = started.process
        await self._watch(unit, process, attempt)

    async def _start(self, unit: Unit, attempt: Attempt) -> Started | None:
        kind = self._type_of(unit)
        request = StartRequest(
            unit_id=unit.unit_id,
            unit_dir=self._store.directory(unit.unit_id),
            argv=unit.status.params,
            grace=kind.grace,
            env={**os.environ, **kind.env} if kind.env else None,
            cwd=kind.cwd,
            timeout=kind.timeout,
            max_output=kind.max_output,
            known={key: value for key, value in unit.status.to_disk().items() if key in _KNOWN},
        )
        try:
            # Shielded: a start that has been asked for happens, and we should know its supervisor.
            with trio.CancelScope(shield=True):
                return await self._launcher.start(request)
        except LauncherClosed as error:
            # Not a failure of the unit: the next start of the node reads what became of it.
            attempt.fail(error)
        except WorkError as error:
            try:
                await unit.fail(f"Error starting worker: {error}")
            except Overtaken:
                # A supervisor of an earlier start was first: the unit is its.
                process = unit.status.supervisor
                return None if process is None else Started(process)
            attempt.fail(error)
        return None

    async def _ends_at_once(self, unit: Unit, started: Started, attempt: Attempt) -> bool:
        """Take over what the supervisor tells of the command's first moment.

        Nothing is read from disk: what is told there was written before it was told here.
        """
        if started.record is None:
            return False
        await unit.take_over(started.record)
        attempt.done()
        end = await started.first_moment()
        if end is not None:
            await unit.take_over(end)
        return unit.is_final

    async def _open(self, unit: Unit, process: ProcessId) -> Handle | None:
        """Take hold of a supervisor, None if it is gone."""
        while True:
            try:
                return self._open_process(process)
            except ProcessLookupError:
                return None
            except OSError as error:
                # The command runs all the same, and must not be called failed for our lack.
                unit.log.warning("cannot watch supervisor %d yet: %s", process.pid, error)
                await trio.sleep(OPEN_RETRY)

    async def _watch(self, unit: Unit, process: ProcessId, attempt: Attempt) -> None:
        handle = await self._open(unit, process)
        try:
            await unit.reload()
            attempt.done()
            if handle is not None:
                await handle.wait_end()
        finally:
            if handle is not None:
                handle.close()
        # What a supervisor does last is to record the end, so now it is there or never will be.
        await unit.reload()
        if not unit.is_final:
            await self._lose(unit, process)

    async def _lose(self, unit: Unit, process: ProcessId) -> None:
        unit.log.warning("supervisor %d is gone without a word", process.pid)
        directory = self._store.directory(unit.unit_id)
        left = await self._end_leftovers(directory, self._type_of(unit).grace)
        detail = f"lost: its supervisor (PID {process.pid}) ended without recording an end"
        if left:
            detail += f"; still running: {', '.join(str(process.pid) for process in left)}"
        await unit.fail(detail)

    async def cancel(self, unit: Unit, tasks: UnitTasks) -> bool:
        """Have the supervisor end the whole process tree, and wait until it has."""
        with trio.move_on_after(self._type_of(unit).grace + CANCEL_MARGIN):
            await self._signal(unit)
            await unit.wait_final()
        if not unit.is_final:
            raise CommandError(f"work unit {unit.unit_id} is still being stopped")
        return True

    async def _signal(self, unit: Unit) -> None:
        """Ask the supervisor, as soon as there is one."""
        while not unit.is_final:
            seen = unit.version
            process = unit.status.supervisor
            if process is not None:
                handle = await self._open(unit, process)
                if handle is not None:
                    try:
                        await self._signal_if_running(unit, handle)
                    finally:
                        handle.close()
                return
            await unit.wait_changed(seen)

    async def _signal_if_running(self, unit: Unit, handle: Handle) -> None:
        """Signal the supervisor while it cannot have left the unit for another one.

        It records an end under the lock, and what came before that it does not take for the next.
        """
        lock = await trio.to_thread.run_sync(self._store.lock, unit.unit_id)
        try:
            if self._store.read_status(unit.unit_id).state.is_final:
                unit.log.debug("ended by itself just before the cancel")
            else:
                handle.send_signal(signal.SIGTERM)
        except ProcessLookupError:
            unit.log.debug("its supervisor ended just before the cancel")
        finally:
            os.close(lock)

    async def release(self, unit: Unit, tasks: UnitTasks, *, force: bool) -> bool:
        """Cancel the unit if need be, then remove it."""
        if not unit.is_final:
            try:
                await self.cancel(unit, tasks)
            except CommandError as error:
                if not force:
                    raise
                unit.log.warning("released by force: %s", error)
        await tasks.stop(unit)
        await tasks.remove(unit)
        return True
