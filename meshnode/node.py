"""The node: the one file that knows every part, and starts each."""

import gc
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from meshnode import logs
from meshnode.config import ControlService as ControlServiceDirective
from meshnode.config import NodeConfig
from meshnode.config.check import check_packages, open_https, plain_controls, replaceable_audit_log
from meshnode.control.budgets import SessionBudgets
from meshnode.control.events import EventHub, Topic
from meshnode.control.events_command import events_command, mesh_audiences
from meshnode.control.mesh_asking import NodeAsker
from meshnode.control.mesh_command import MeshCommand
from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.control.mesh_events import MeshEvents
from meshnode.control.registry import CommandRegistry
from meshnode.control.service import ControlListener, ControlService, open_listeners
from meshnode.errors import NoEngine, WorkError
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.configured import ConfiguredLinks
from meshnode.mesh.streams.connections import load_engine
from meshnode.net.addresses import Lookups
from meshnode.net.sockets import CannotListen
from meshnode.protocol.control import CONTROL_SERVICE
from meshnode.protocol.routing import WorkType
from meshnode.reload import ConfigLoader, Reloader
from meshnode.renewal import KeyRenewal, read_tokens
from meshnode.resources import DescriptorReserve, NoThread, in_thread, raise_limit
from meshnode.security.access import AccessRules
from meshnode.security.audit import AuditLog, checked_settings
from meshnode.security.keyfiles import look_at_all
from meshnode.security.tlsstore import TlsStore, read_settings
from meshnode.version import VERSION
from meshnode.work.auth import auth_command
from meshnode.work.batches.commands import batch_handlers
from meshnode.work.configured import ConfiguredWork
from meshnode.work.describing import type_handlers
from meshnode.work.placement.load import describe_tags
from meshnode.work.units.commands import work_command
from meshnode.work.units.retention import Retention
from meshnode.work.units.shortage import Pauses
from meshnode.work.units.unitevents import unit_audience

if TYPE_CHECKING:  # few nodes have tokens
    from meshnode.security.bearer import TokenStore
    from meshnode.web.service import Leave

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that stop a node; running units go on and are adopted by its next start."""

RELOAD_SIGNAL = signal.SIGHUP
"""Signal that has the node reload its configuration, as ``meshctl reload`` does."""


def run(config: NodeConfig, load_again: ConfigLoader | None = None) -> int:
    """Run a node until a signal stops it; returns the exit code 0.

    ``load_again`` is what the ``reload`` command reads.

    Raises:
        ConfigError: something that the configuration names is not available (a port, a socket).
        DuplicateNode: another node of the mesh uses our ID.
        Both may come inside exception groups.
    """
    limit = logs.configure(config.log_level.level, form=config.log_level.format)
    return trio.run(_main, config, load_again or (lambda: config), limit)


async def _main(config: NodeConfig, load_again: ConfigLoader, limit: logs.LineLimit) -> int:
    log = logs.subject_logger("node", config.node.id)
    started = time.monotonic()
    tls = TlsStore()
    # Looked at before they are read: what changes in between is read again.
    looks = look_at_all(config)
    tls.apply(read_settings(config))
    trio.socket.set_custom_hostname_resolver(Lookups())
    with trio.open_signal_receiver(*STOP_SIGNALS, RELOAD_SIGNAL) as signals:
        reserve = DescriptorReserve()
        async with AsyncExitStack() as stack:
            audit = AuditLog(config.node.id)
            # Before everything that it is told of, and so it ends after that.
            await stack.enter_async_context(audit.writing())
            audit.apply(checked_settings(config.audit_log))
            mesh = await stack.enter_async_context(
                open_mesh(
                    config.node.id,
                    idle_timeout=config.node.max_idle_connection_timeout,
                    reserve=reserve,
                )
            )
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(_report_each_minute, limit, audit)
            links = ConfiguredLinks(mesh, tls)
            rules = AccessRules(config.rules)
            hub = EventHub()
            work = ConfiguredWork(
                config, mesh, raise_limit(), reserve, tls.find_client, rules, audit, hub
            )
            rules.sink = work.units.journal.not_allowed
            tokens = _make_tokens(config, rules)
            keys = KeyRenewal(config, work, tls, looks, tokens)
            reloader = Reloader(config, load_again, mesh, links, work, rules, keys, audit)
            registry = CommandRegistry(rules)
            leave = await _start(
                config,
                reloader,
                mesh,
                links,
                work,
                tls,
                tokens,
                keys,
                audit,
                registry,
                hub,
                nursery,
            )
            took = (time.monotonic() - started) * 1000
            log.info("meshnode %s is ready after %.0f ms", VERSION, took)
            begin_collections()
            async for number in signals:
                if number == RELOAD_SIGNAL:
                    nursery.start_soon(reloader.on_signal)
                    continue
                log.info("stopping: %s", signal.Signals(number).name)
                if leave is not None:
                    await leave()
                nursery.cancel_scope.cancel()
                break
    return 0


async def _report_each_minute(limit: logs.LineLimit, audit: AuditLog) -> None:
    while True:
        await trio.sleep(logs.MINUTE)
        limit.report()
        audit.report()


async def _start(
    config: NodeConfig,
    reloader: Reloader,
    mesh: Mesh,
    links: ConfiguredLinks,
    work: ConfiguredWork,
    tls: TlsStore,
    tokens: "TokenStore | None",
    keys: KeyRenewal,
    audit: AuditLog,
    registry: CommandRegistry,
    hub: EventHub,
    nursery: trio.Nursery,
) -> "Leave | None":
    """Start every part. What other nodes can see comes last: links, once all else answers.

    Returns what ends the requests of clients, while the node is still whole.
    """
    mesh.set_firewall(config.node.firewallrules)
    units = work.units

    async def warnings() -> list[str]:
        return [*audit.warnings(), *await work.warnings(), *keys.warnings()]

    register_mesh_commands(
        registry,
        mesh,
        reloader,
        warnings,
        links.report,
        certificates=lambda: tls.certificates,
        forwarding=config.node.allowforwarding,
        tls_clients=tls.find_client,
        audit=audit,
        limits=work.limits,
    )
    try:
        await nursery.start(units.run)
    except WorkError as exc:
        raise config.node.unavailable("datadir", str(exc)) from exc
    if config.node.unit_retention is not None:
        nursery.start_soon(Retention(units, config.node.unit_retention).run)
    await nursery.start(work.batches.run)
    more = type_handlers(config.node.id, units.access, work.types, work.others)
    registry.register(work_command(units, {**more, **batch_handlers(work.batches)}))
    registry.register(auth_command(units, work.others.ask))
    audiences = {**mesh_audiences(registry), Topic.UNIT: unit_audience(units.access)}
    registry.register(events_command(hub, audiences))
    nursery.start_soon(MeshEvents(hub, mesh, links.report).run)
    asker = NodeAsker(work.others.command)
    forwarding = config.node.allowforwarding
    seen = MeshCommand(mesh, registry, links.report, describe_tags, asker, forwarding=forwarding)
    registry.register(seen.command())
    budgets = SessionBudgets()
    service = ControlService(config.node.id, registry, budgets=budgets)
    reloader.when_asked(service.restore_sockets)
    reloader.when_asked(audit.reopen)
    for directive in config.control_services:
        listeners = await _open_control(mesh, directive, work.advertised, tls)
        await nursery.start(service.run, listeners)
    await _start_services(config, mesh, tls, nursery)
    leave = await _start_web(
        config, registry, budgets, mesh, links, work, tls, tokens, audit, service, nursery
    )
    nursery.start_soon(work.teller.run, partial(mesh.set_tags, CONTROL_SERVICE))
    await links.apply(config.listeners, config.peers)
    nursery.start_soon(keys.run)
    reloader.start()
    exposed = (*plain_controls(config), *open_https(config), *replaceable_audit_log(config))
    for doubt in (*config.warnings, *work.doubts, *units.doubts, *keys.warnings(), *exposed):
        logs.subject_logger("node", config.node.id).warning("%s", doubt)
    if config.listeners or config.peers:
        # Another node may open a stream at any moment, and should not wait for the engine to load.
        nursery.start_soon(_load_engine)
    return leave


async def _load_engine() -> None:
    """Load what streams need, as soon as the machine has what that takes."""
    pauses = Pauses()
    while True:
        with suppress(NoThread, NoEngine):
            return await in_thread(load_engine)
        await pauses.take()


async def _start_services(
    config: NodeConfig, mesh: Mesh, tls: TlsStore, nursery: trio.Nursery
) -> None:
    if not config.services:
        return
    # Imported here: most nodes have no services, and should not wait for their modules.
    from meshnode.services import make_service  # noqa: PLC0415

    for wanted in config.services:
        try:
            await nursery.start(make_service(wanted, mesh, tls).run)
        except CannotListen as exc:
            raise wanted.unavailable(exc.parameter, exc.problem) from exc


def _make_tokens(config: NodeConfig, rules: AccessRules) -> "TokenStore | None":
    """Return the tokens of HTTP services; None where there are none. Raises ConfigFaults."""
    tokens = read_tokens(config)
    if not tokens:
        return None
    # Imported here: few nodes have any.
    from meshnode.security.bearer import TokenStore  # noqa: PLC0415

    store = TokenStore(rules)
    store.apply(tokens)
    return store


async def _start_web(
    config: NodeConfig,
    registry: CommandRegistry,
    budgets: SessionBudgets,
    mesh: Mesh,
    links: ConfiguredLinks,
    work: ConfiguredWork,
    tls: TlsStore,
    tokens: "TokenStore | None",
    audit: AuditLog,
    control: ControlService,
    nursery: trio.Nursery,
) -> "Leave | None":
    if not config.http_services:
        return None
    # Imported here: without the directive a node has nothing of it, not even the packages.
    check_packages(config)
    from meshnode.web.history import History  # noqa: PLC0415
    from meshnode.web.metrics import metrics_of  # noqa: PLC0415
    from meshnode.web.service import start_web  # noqa: PLC0415

    metrics = metrics_of(config.node.id, mesh, links, work, registry.rules, audit, tls)
    metrics.node.watch("control", control.places, control.tls_refusals)
    history = History(registry, lambda: work.units.tally, lambda: mesh.figures().links)
    registry.register(history.command())
    nursery.start_soon(history.run)
    return await start_web(
        config, registry, budgets, control, links, work, tls, tokens, metrics, nursery
    )


async def _open_control(
    mesh: Mesh, directive: ControlServiceDirective, work_types: Sequence[WorkType], tls: TlsStore
) -> list[ControlListener]:
    try:
        return await open_listeners(
            service=directive.service,
            filename=directive.filename,
            permissions=directive.permissions,
            tcplisten=directive.tcplisten,
            tcptls=tls.find_server(directive.tcptls),
            tls=tls.find_server(directive.tls),
            mesh=mesh,
            work_types=work_types,
        )
    except CannotListen as exc:
        raise directive.unavailable(exc.parameter, exc.problem) from exc


def begin_collections() -> None:
    """Collect garbage from now on, if the command line has put it off.

    All that is loaded by now stays while the node runs. It is frozen, since a collection that
    looks at it would hold everything up for some ten milliseconds.
    """
    if not gc.isenabled():
        gc.collect()
        gc.freeze()
        gc.enable()
