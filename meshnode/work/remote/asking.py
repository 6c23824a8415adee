"""Asks another node whether this one may do something there, without doing it.

What a client asks of this node may be done in two halves: here, and by this node on another one,
whose access rules see this node and not the client.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import trio

from meshnode.errors import CannotSign, CommandError
from meshnode.permissions import Verb
from meshnode.protocol.control import CONTROL_SERVICE
from meshnode.protocol.routing import ServiceAdvertisement
from meshnode.work.remote.failures import (
    NotAsked,
    RemoteRefused,
    RemoteUnavailable,
)
from meshnode.work.remote.reconnect import Dialer, is_meshnode, open_talk, taken_keys
from meshnode.work.remote.replies import LongLines
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.remoteextra import is_secret
from meshnode.work.units.signatures import Signatures

if TYPE_CHECKING:
    from meshnode.security.tls import TlsClients

ANSWER_TIMEOUT = 20.0
"""Seconds for the whole question: a dial that leads to nothing takes 15."""


@dataclass(frozen=True, slots=True)
class OtherHalf:
    """What this node would do on another one."""

    node: str
    verb: Verb
    work_type: str = ""
    params: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unit_id: str = ""
    tls_client: str = ""
    sign_work: bool = False

    def question(self) -> dict[str, Any]:
        """Return the request that asks; secrets stay here."""
        params = {name: "" if is_secret(name) else text for name, text in self.params.items()}
        asked = {"verb": str(self.verb), "worktype": self.work_type, "unitid": self.unit_id}
        given: dict[str, Any] = {key: value for key, value in asked.items() if value}
        return {"command": "auth", "subcommand": "can", **given, "params": params}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other node says; ``allowed`` None if it does not say, and why."""

    allowed: bool | None
    reason: str = ""


class AskThere:
    """Asks other nodes, each time in a conversation of its own."""

    def __init__(
        self, dialer: Dialer, signatures: Signatures, tls: "TlsClients | None" = None
    ) -> None:
        """``tls`` returns where to get the settings of a ``tls-client``, by its name."""
        self._dialer = dialer
        self._signatures = signatures
        self._tls = tls
        self._long_lines = LongLines()

    async def ask(self, half: OtherHalf) -> Answer:
        """Return what the node of the other half answers."""
        try:
            reply = await self.command(
                half.node, half.question(), tls_client=half.tls_client, sign_work=half.sign_work
            )
        except CommandError as error:
            return Answer(None, str(error))
        except (RemoteUnavailable, RemoteRefused, NotAsked, CannotSign) as error:
            # One that knows no such question, as receptor, refuses it.
            return Answer(None, f"node {half.node} does not say: {error}")
        allowed = reply.get("Allowed")
        if not isinstance(allowed, bool):
            return Answer(None, f"node {half.node} does not say")
        return Answer(allowed, "" if allowed else f"node {half.node} would refuse it")

    async def command(
        self,
        node: str,
        command: Mapping[str, Any],
        *,
        tls_client: str = "",
        sign_work: bool = False,
    ) -> JsonObject:
        """Return the reply of a node to one command.

        Raises:
            CommandError: there are no such TLS settings, or it does not answer in time.
            RemoteUnavailable, RemoteRefused, CannotSign
        """
        source = self._tls(tls_client) if self._tls and tls_client else None
        if tls_client and source is None:
            raise CommandError(f"unknown TLS config {tls_client}")
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                talk = await open_talk(
                    self._dialer,
                    node,
                    self._long_lines.of(node),
                    sign=partial(self._signatures.sign) if sign_work else None,
                    tls=source,
                )
                async with talk:
                    return await talk.ask(**command)
        except trio.TooSlowError:
            raise CommandError(f"node {node}: no answer within {ANSWER_TIMEOUT:g} s") from None

    def advertisement(self, node: str) -> ServiceAdvertisement | None:
        """Return how a node that can be reached advertises its control service, if it does."""
        return self._dialer.find_service(node, CONTROL_SERVICE)

    def takes(self, node: str, key: str) -> bool:
        """Whether a node says that it knows something which older ones do not."""
        return is_meshnode(self._dialer, node) and key in taken_keys(self._dialer, node)
