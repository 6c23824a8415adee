"""``reload``: have the node read its configuration again."""

from collections.abc import Awaitable, Callable
from enum import IntEnum

import trio

from meshnode.control.registry import Command, ControlSession, Handler, JsonObject
from meshnode.errors import MeshnodeError


class ReloadFault(IntEnum):
    """Why a reload was refused: the number after ERRORCODE, which clients act on."""

    NEEDS_RESTART = 3
    """A directive changed, came or went that only a restart can apply."""

    UNREADABLE = 4
    """The configuration file cannot be read or does not parse."""

    FAILED = 5
    """What the configuration asks for cannot be had now, such as a port."""


class ReloadRefused(MeshnodeError):
    """The configuration was not taken over; ``str()`` ends with its error code."""

    def __init__(self, text: str, fault: ReloadFault) -> None:
        super().__init__(f"{text} ERRORCODE {fault.value}")
        self.fault = fault


Reloader = Callable[[], Awaitable[None]]
"""Takes the configuration file over as it is now, or raises ReloadRefused and changes nothing."""


def reload_command(reload: Reloader) -> Command:
    """Return the ``reload`` command. Two clients' reloads follow each other."""
    one_at_a_time = trio.Lock()

    async def run(session: ControlSession) -> JsonObject:
        try:
            async with one_at_a_time:
                await reload()
        except ReloadRefused as refusal:
            return {"Success": False, "Error": str(refusal)}
        return {"Success": True}

    def parse_text(rest: str) -> Handler:
        return run

    def parse_json(body: JsonObject) -> Handler:
        return run

    return Command("reload", parse_text, parse_json)
