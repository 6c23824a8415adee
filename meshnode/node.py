"""The node: the one file that knows every part and puts them together."""

import gc
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from typing import Any

import trio

from meshnode import __version__, logs
from meshnode.config import ControlService as ControlServiceDirective
from meshnode.config import NodeConfig, WorkCommand, WorkDirective, WorkPython
from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.control.registry import CommandRegistry
from meshnode.control.service import ControlListener, ControlService, open_listeners
from meshnode.errors import WorkError
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.configured import ConfiguredLinks
from meshnode.mesh.streams.layer import load_engine
from meshnode.net.addresses import Lookups
from meshnode.net.sockets import CannotListen
from meshnode.protocol.routing import WorkType
from meshnode.reload import ConfigLoader, Reloader
from meshnode.resources import DescriptorReserve, NoThread, in_thread, raise_limit
from meshnode.work.local.client import Launcher
from meshnode.work.local.worktypes import CommandType, PythonType
from meshnode.work.units.access import Signatures
from meshnode.work.units.adoption import boot_id
from meshnode.work.units.commands import work_command
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.retention import Retention
from meshnode.work.units.store import UnitStore

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that stop a node; running units go on and are adopted by its next start."""

RELOAD_SIGNAL = signal.SIGHUP
"""Has the node take its changed configuration over, as ``meshctl reload`` does."""


def run(config: NodeConfig, load_again: ConfigLoader | None = None) -> int:
    """Run a node until a signal stops it; returns the exit code 0.

    ``load_again`` is what the ``reload`` command reads.

    Raises:
        ConfigError: something that the configuration names cannot be had (a port, a socket).
        DuplicateNode: another node of the mesh uses our ID.
        Both may come inside exception groups.
    """
    limit = logs.configure(config.log_level.level)
    return trio.run(_main, config, load_again or (lambda: config), limit)


async def _main(config: NodeConfig, load_again: ConfigLoader, limit: logs.LineLimit) -> int:
    log = logs.subject_logger("node", config.node.id)
    started = time.monotonic()
    trio.socket.set_custom_hostname_resolver(Lookups())
    with trio.open_signal_receiver(*STOP_SIGNALS, RELOAD_SIGNAL) as signals:
        reserve = DescriptorReserve()
        async with AsyncExitStack() as stack:
            mesh = await stack.enter_async_context(
                open_mesh(
                    config.node.id,
                    idle_timeout=config.node.max_idle_connection_timeout,
                    reserve=reserve,
                )
            )
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(_report_each_minute, limit)
            links = ConfiguredLinks(mesh)
            reloader = Reloader(config, load_again, mesh, links)
            await _start(config, reloader, mesh, links, nursery, reserve)
            took = (time.monotonic() - started) * 1000
            log.info("meshnode %s is ready after %.0f ms", __version__, took)
            begin_collections()
            async for number in signals:
                if number == RELOAD_SIGNAL:
                    nursery.start_soon(reloader.on_signal)
                    continue
                log.info("stopping: %s", signal.Signals(number).name)
                nursery.cancel_scope.cancel()
                break
    return 0


async def _report_each_minute(limit: logs.LineLimit) -> None:
    while True:
        await trio.sleep(logs.MINUTE)
        limit.report()


async def _start(
    config: NodeConfig,
    reloader: Reloader,
    mesh: Mesh,
    links: ConfiguredLinks,
    nursery: trio.Nursery,
    reserve: DescriptorReserve,
) -> None:
    """Start every part, the ones that others hear of last."""
    mesh.set_firewall(config.node.firewallrules)
    registry = CommandRegistry()
    units = make_units(config, mesh, raise_limit(), reserve)
    register_mesh_commands(
        registry, mesh, reloader, units.warnings, forwarding=config.node.allowforwarding
    )
    try:
        await nursery.start(units.run)
    except WorkError as exc:
        raise config.node.error("datadir", str(exc)) from exc
    if config.node.unit_retention is not None:
        nursery.start_soon(Retention(units, config.node.unit_retention).run)
    registry.register(work_command(units))
    work_types = [WorkType(name, secure) for name, secure in units.advertised]
    service = ControlService(config.node.id, registry)
    reloader.when_asked(service.restore_sockets)
    for directive in config.control_services:
        listeners = await _open_control(mesh, directive, work_types)
        await nursery.start(service.run, listeners)
    await _start_services(config, mesh, nursery)
    await links.apply(config.listeners, config.peers)
    reloader.start()
    for doubt in units.doubts:
        logs.subject_logger("node", config.node.id).warning("%s", doubt)
    if config.listeners or config.peers:
        # Others may open a stream here at any moment. It should not have to wait, nor should we.
        nursery.start_soon(_load_engine)


async def _load_engine() -> None:
    with suppress(NoThread):  # the first stream then waits for it
        await in_thread(load_engine)


async def _start_services(config: NodeConfig, mesh: Mesh, nursery: trio.Nursery) -> None:
    if not config.services:
        return
    # Imported here: most nodes have none, and a start is no longer than it must be.
    from meshnode.services import make_service  # noqa: PLC0415

    for wanted in config.services:
        try:
            await nursery.start(make_service(wanted, mesh).run)
        except CannotListen as exc:
            raise wanted.error(exc.parameter, exc.problem) from exc


async def _open_control(
    mesh: Mesh, directive: ControlServiceDirective, work_types: list[WorkType]
) -> list[ControlListener]:
    try:
        return await open_listeners(
            service=directive.service,
            filename=directive.filename,
            permissions=directive.permissions,
            tcplisten=directive.tcplisten,
            mesh=mesh,
            work_types=work_types,
        )
    except CannotListen as exc:
        raise directive.error(exc.parameter, exc.problem) from exc


def work_type(directive: WorkDirective) -> CommandType:
    """Return the type of work that a directive offers."""
    common: dict[str, Any] = {
        "verify_signature": directive.verifysignature,
        "env": directive.env,
        "cwd": directive.cwd or None,
        "timeout": directive.timeout,
        "max_output": directive.maxoutput,
        "grace": directive.grace,
    }
    match directive:
        case WorkCommand():
            return CommandType(
                directive.command,
                directive.params,
                allow_runtime_params=directive.allowruntimeparams,
                **common,
            )
        case WorkPython():
            return PythonType(
                sys.executable,
                plugin=directive.plugin,
                function=directive.function,
                config=directive.config,
                **common,
            )
        case _:
            raise AssertionError(f"no runner for {directive.INFO.name}")


def begin_collections() -> None:
    """Collect garbage from now on, if the command line has put it off.

    What has been loaded by now stays for as long as the node runs, so no later collection need
    look at it: one over all of it would hold everybody up for some ten milliseconds.
    """
    if not gc.isenabled():
        gc.collect()
        gc.freeze()
        gc.enable()


def make_units(
    config: NodeConfig, mesh: Mesh, descriptors: int, reserve: DescriptorReserve
) -> UnitManager:
    """Return the units that the node's directory holds, with the configured work types.

    ``descriptors`` is the limit that commands get, ``reserve`` is for the files of units.
    """
    return UnitManager(
        store=UnitStore(config.node.datadir / config.node.id, reserve),
        launcher=Launcher(descriptors),
        dialer=mesh,
        work_types={d.worktype: work_type(d) for d in config.work_types},
        node_id=config.node.id,
        boot=boot_id(),
        signatures=make_signatures(config),
        forwarding=config.node.allowforwarding,
        max_remote_output=config.node.remote_maxoutput,
        remember=config.node.remember_submissions,
    )


def make_signatures(config: NodeConfig) -> Signatures:
    """Return what signs and checks signatures as the configuration says."""
    if config.work_signing is None and config.work_verification is None:
        return Signatures()
    # Imported here, as services are.
    from meshnode.security.tokens import make_signer, make_verifier  # noqa: PLC0415

    return Signatures(make_signer(config), make_verifier(config))
