"""A storm: clients that submit, and faults that hit whatever is there."""

import json
import time

import trio
from blows import Blows
from machines import RETRY_PAUSE, Conversation, Hit
from plan import FILES
from scene import Fate, Scene

from meshnode.protocol.control import OUTPUT_KEY

CLIENTS = 12
"""Submissions at a time."""

REFUSED_PAUSE = 0.2
"""Seconds until a client tries again that a node has refused for want of something."""


class Storm:
    """Runs the plan of a scene; afterwards its ``fates`` say what every client knows."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._blows = Blows(scene)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the nodes, blow, and heal everything; then stay, for the links' sake."""
        async with trio.open_nursery() as nursery:
            await self._scene.start(nursery)
            async with trio.open_nursery() as storm:
                storm.start_soon(self._blow)
                await self._submit_all()
            self._scene.chronicle.note("storm", "is over")
            task_status.started()
            await trio.sleep_forever()

    async def _blow(self) -> None:
        async with trio.open_nursery() as nursery:
            for fault in self._scene.plan.faults:
                await trio.sleep(fault.pause)
                nursery.start_soon(self._blows.inflict, fault)

    # --- the clients ----------------------------------------------------------------------------

    async def _submit_all(self) -> None:
        places = trio.CapacityLimiter(CLIENTS)
        async with trio.open_nursery() as clients:
            for fate in self._scene.fates.values():
                await places.acquire_on_behalf_of(fate.job)
                clients.start_soon(self._submit, fate, places)

    async def _submit(self, fate: Fate, places: trio.CapacityLimiter) -> None:
        try:
            fate.begun = time.time()
            while not fate.unit:
                try:
                    async with self._scene.nodes[fate.job.node].talk() as talk:
                        await self._send(fate, talk)
                except (trio.BrokenResourceError, OSError) as error:
                    # Without an ID nothing can have been started: once more. Else: see what comes.
                    fate.unanswered += not fate.unit
                    self._note(fate, f"session lost: {error}")
                    await trio.sleep(RETRY_PAUSE)
            if fate.job.cancels:
                await self._cancel(fate)
        finally:
            places.release_on_behalf_of(fate.job)

    async def _send(self, fate: Fate, talk: Conversation) -> None:
        job = fate.job
        target = "localhost" if job.target == job.node else job.target
        command = {"command": "work", "subcommand": "submit", "node": target}
        work = {"worktype": job.work_type, "params": job.params}
        if job.files:
            work[OUTPUT_KEY] = json.dumps([FILES])
        created = await talk.ask(json.dumps(command | work))
        if created.startswith("ERROR"):
            # Whether there was a reason is asked later, when all that it may be is known.
            self._note(fate, f"refused: {created}")
            fate.refusals.append(created)
            await trio.sleep(REFUSED_PAUSE)
            return
        self._scene.unit_named(fate, created.split("ID ")[1].split(".")[0])
        self._note(fate, f"submitted to {job.node} for {job.target}: unit {fate.unit}")
        if job.breaks:
            await talk.stream.send_all(job.payload[: len(job.payload) // 2])
            return
        await talk.stream.send_all(job.payload)
        fate.sent = True
        await talk.stream.send_eof()
        fate.answer = await talk.line()
        self._note(fate, f"answered {fate.answer}")

    async def _cancel(self, fate: Fate) -> None:
        await trio.sleep(fate.job.delay)
        fate.hits.append(Hit("canceled"))
        self._note(fate, "work cancel")
        reply = await self._scene.nodes[fate.job.node].again(
            lambda talk: talk.ask(f"work cancel {fate.unit}")
        )
        self._note(fate, f"answered {reply}")

    def _note(self, fate: Fate, text: str) -> None:
        self._scene.chronicle.note(fate.job.token, text)
