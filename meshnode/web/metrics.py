"""Metrics for Prometheus: the control command ``metrics``, and ``/metrics`` by it.

Nothing is kept for metrics but what the parts of a node count anyway: a reading asks each of them
for its numbers at one moment. It is a command, so that the same rules decide who may have it, and
so that it can be asked without HTTP.
"""

import gzip
import os
from collections.abc import Callable
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import Asking, Command, ControlSession, Handler, JsonObject
from meshnode.errors import CommandError
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.peers.conditions import LinksReport
from meshnode.mesh.peers.configured import ConfiguredLinks
from meshnode.permissions import Verb
from meshnode.resources import NoThread, in_thread
from meshnode.security.access import AccessRules
from meshnode.security.audit import AuditLog
from meshnode.security.tlsstore import TlsStore
from meshnode.web.meshmetrics import MeshReader
from meshnode.web.nodemetrics import NodeReader
from meshnode.web.readings import CONTENT_TYPES, OPENMETRICS, PLAIN, Readings
from meshnode.web.routing import WebNode
from meshnode.web.workmetrics import WorkReader
from meshnode.work.configured import ConfiguredWork
from meshnode.work.units.shortage import in_thread_or_here
from meshnode.work.units.store import UnitStore

COMMAND: Final = "metrics"
"""The name of the command."""

GZIP_LEVEL: Final = 3
"""How hard the text is compressed: a tenth of it is left, after a millisecond for 100 KiB."""


class Metrics:
    """The metrics of one node; ``links`` says how its configured links fare."""

    def __init__(
        self,
        node: NodeReader,
        mesh: MeshReader,
        work: WorkReader,
        store: UnitStore,
        links: Callable[[], LinksReport],
    ) -> None:
        self.node = node
        self._mesh = mesh
        self._work = work
        self._store = store
        self._links = links
        self._one_thread = trio.CapacityLimiter(1)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure the event loop until cancelled."""
        trio.lowlevel.add_instrument(self.node.loop)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self.node.loop)

    async def room(self) -> os.statvfs_result | None:
        """Return what the disk of the units has left; None if it does not say."""
        try:
            return await self._store.room()
        except OSError:
            # Its numbers are missing then, which an alert can be about; ``status`` says why.
            return None

    def read(self, disk: os.statvfs_result | None) -> Readings:
        """Return the numbers of this moment."""
        readings = Readings()
        self.node.read(readings)
        self._mesh.read(readings, self._links())
        self._work.read(readings, disk)
        return readings

    async def _to_text(self, readings: Readings, form: str) -> str:
        """Return the text; one is made at a time, and the threads of others are left to them."""
        try:
            return await in_thread(readings.to_text, form, limiter=self._one_thread)
        except NoThread:
            return readings.to_text(form)

    def command(self) -> Command:
        """Return the command ``metrics``: who may ask for ``status`` may have it."""

        def run_with(form: str) -> Handler:
            async def run(session: ControlSession) -> JsonObject:
                disk = await self.room()
                async with session.turn():
                    readings = self.read(disk)
                text = await self._to_text(readings, form)
                return {"ContentType": CONTENT_TYPES[form], "Text": text}

            return Asking(run, Verb.MESH)

        def parse_text(rest: str) -> Handler:
            return run_with(_form(rest.strip() or PLAIN))

        def parse_json(body: JsonObject) -> Handler:
            return run_with(_form(body.get("format", PLAIN)))

        return Command(COMMAND, parse_text, parse_json)


def metrics_of(
    node_id: str,
    mesh: Mesh,
    links: ConfiguredLinks,
    work: ConfiguredWork,
    rules: AccessRules,
    audit: AuditLog,
    tls: TlsStore,
) -> Metrics:
    """Return the metrics of a node with these parts."""
    return Metrics(
        NodeReader(node_id, rules, work.signatures, audit, lambda: tls.certificates),
        MeshReader(mesh),
        WorkReader(work.units, work.batches, work.commands, work.types),
        work.units.store,
        links.report,
    )


def _form(asked: object) -> str:
    """Return the form of the text that is asked for. Raises CommandError."""
    if not isinstance(asked, str) or asked not in CONTENT_TYPES:
        forms = " or ".join(CONTENT_TYPES)
        raise CommandError(f"metrics: format must be {forms}")
    return asked


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the route ``/metrics``."""

    async def metrics(request: Request) -> Response:
        form = form_for(request.headers.get("accept", ""))
        reply = await node.commands.ask(request, {"command": COMMAND, "format": form})
        headers = {"content-type": reply["ContentType"], "vary": "accept, accept-encoding"}
        body = reply["Text"].encode()
        if takes_gzip(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
            body = await in_thread_or_here(gzip.compress, body, GZIP_LEVEL)
        return Response(body, headers=headers)

    return [Route("/metrics", metrics)]


def form_for(accept: str) -> str:
    """Return the form for a client that says what it takes: OpenMetrics if it names that."""
    named = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return OPENMETRICS if "application/openmetrics-text" in named else PLAIN


def takes_gzip(accepted: str) -> bool:
    """Whether a client says that it takes gzip, as Prometheus does."""
    for part in accepted.split(","):
        coding, _, quality = part.partition(";")
        if coding.strip().lower() == "gzip":
            _, _, weight = quality.partition("=")
            return not quality.strip() or weight.strip().strip("0.").isdigit()
    return False
