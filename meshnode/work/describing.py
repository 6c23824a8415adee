"""``work describe`` and ``work types``: what a node's types of work take, told to those who ask.

Advertisements have no more than the names of types, as receptor's do. What else there is to know of
a type goes to whoever may submit work of it, on request. For a type of another node this node asks
that one, and of a node that knows no such question it tells what that advertises.
"""

from collections.abc import Mapping
from typing import Final

from meshnode.control.registry import ControlSession
from meshnode.errors import CommandError, NotAllowed, WorkError
from meshnode.permissions import Verb
from meshnode.protocol.control import DESCRIBES
from meshnode.security.access import Target
from meshnode.work.remote.asking import AskThere
from meshnode.work.remote.failures import RemoteRefused, RemoteUnavailable
from meshnode.work.units.access import Caller, UnitAccess
from meshnode.work.units.jsonreader import JsonObject, check_json
from meshnode.work.units.requests import DescribeRequest, Handlers, TypesRequest
from meshnode.work.units.runner import WorkType

NO_ROUTE: Final = "no route to node"
"""What is said of a node that is not there; clients look for these words."""


IN_SHORT: Final = ("Help", "Usage", "VerifySignature")
"""What a list of types has of each."""


def type_handlers(
    node_id: str, access: UnitAccess, types: Mapping[str, WorkType], others: AskThere
) -> Handlers:
    """Return what answers requests about the types of work ``types``, and about those of others."""
    describer = TypeDescriber(node_id, access, types, others)
    return {DescribeRequest: describer.describe, TypesRequest: describer.types}


class TypeDescriber:
    """Tells of types of work, as they are at the moment."""

    def __init__(
        self, node_id: str, access: UnitAccess, types: Mapping[str, WorkType], others: AskThere
    ) -> None:
        self._node_id = node_id
        self._access = access
        self._types = types
        self._others = others

    async def describe(self, request: DescribeRequest, session: ControlSession) -> JsonObject:
        """Return what a type takes and is held to.

        Raises:
            CommandError: there is no such type, or its node does not describe any.
            SecurityError: the client may submit no such work.
        """
        name, node = request.work_type, request.node
        caller = Caller.of(session)
        self._access.check(Verb.SUBMIT, self._target(node, name), caller)
        if node and not self._access.is_local(node):
            self._access.check_connect(node, caller)
            fields = {"subcommand": "describe", "worktype": name}
            return await self._ask(node, request.tls_client, fields)
        kind = self._types.get(name)
        if kind is None:
            raise CommandError(f"unknown work type {name}")
        return {"Node": self._node_id, "WorkType": name, **kind.described(name)}

    async def types(self, request: TypesRequest, session: ControlSession) -> JsonObject:
        """Return the types of a node that the client may submit, with a line on each.

        Raises:
            CommandError: the node cannot be asked.
            SecurityError: the client came from the mesh, and asks of another node.
        """
        caller, node = Caller.of(session), request.node or self._node_id
        self._access.check(Verb.SUBMIT, None, caller)
        if self._access.is_local(node):
            reply: JsonObject = {"Node": self._node_id, "Types": self._in_short()}
        else:
            self._access.check_connect(node, caller)
            reply = await self._types_of(node, request.tls_client)
        # Nobody is refused anything here: a list leaves out what there is not for the client.
        access = self._access.rehearsal()
        shown = {
            name: told
            for name, told in reply["Types"].items()
            if _may_submit(access, self._target(node, name), caller)
        }
        return reply | {"Types": shown}

    def _target(self, node: str, work_type: str) -> Target:
        is_local = not node or self._access.is_local(node)
        named = self._node_id if is_local else node
        return Target(node=named, work_type=work_type, any_params=True)

    def _in_short(self) -> JsonObject:
        types = {name: kind.described(name) for name, kind in sorted(self._types.items())}
        return {name: {key: told.get(key, "") for key in IN_SHORT} for name, told in types.items()}

    async def _types_of(self, node: str, tls_client: str) -> JsonObject:
        if not self._others.takes(node, DESCRIBES):
            return self._advertised(node)
        reply = await self._ask(node, tls_client, {"subcommand": "types"})
        if not isinstance(reply.get("Types"), dict):
            raise CommandError(f"node {node} did not say which types of work it has")
        return reply

    async def _ask(self, node: str, tls_client: str, fields: dict[str, str]) -> JsonObject:
        if not self._others.takes(node, DESCRIBES):
            names = ", ".join(self._advertised(node)["Types"])
            raise CommandError(
                f"node {node} does not describe its types of work: it is receptor's, or an older "
                f"meshnode; it advertises {names or 'none'}"
            )
        try:
            reply = await self._others.command(
                node, {"command": "work", **fields}, tls_client=tls_client
            )
            # It is shown as it is.
            check_json("its reply", reply)
        except (RemoteUnavailable, RemoteRefused, WorkError) as error:
            raise CommandError(f"node {node}: {error}") from error
        return reply | {"Node": node}

    def _advertised(self, node: str) -> JsonObject:
        """Return what a node advertises of its types. Raises CommandError: it is not there."""
        advertisement = self._others.advertisement(node)
        if advertisement is None:
            raise CommandError(f"{NO_ROUTE} {node}, or it has no control service")
        known = sorted(advertisement.work_types or (), key=lambda one: one.name)
        types = {one.name: {"VerifySignature": one.secure} for one in known}
        return {"Node": node, "Types": types, "Advertised": True}


def _may_submit(access: UnitAccess, target: Target, caller: Caller) -> bool:
    try:
        access.check(Verb.SUBMIT, target, caller)
    except NotAllowed:
        return False
    return True
