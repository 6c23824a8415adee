"""The node: the one file that knows every part and puts them together."""

import dataclasses
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import trio

from meshnode import __version__, logs
from meshnode.config import ControlService as ControlServiceDirective
from meshnode.config import NodeConfig
from meshnode.control.commands import register_mesh_commands
from meshnode.control.listeners import ControlListener, open_listeners
from meshnode.control.registry import CommandRegistry
from meshnode.control.reload import Reloader, ReloadFault, ReloadRefused
from meshnode.control.service import ControlService
from meshnode.errors import ConfigError, WorkError
from meshnode.mesh.links import registry as links
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.sockets import CannotListen
from meshnode.protocol.messages import WorkType
from meshnode.work.commands import work_command
from meshnode.work.launch import Launcher
from meshnode.work.registry import Units
from meshnode.work.runners.command import CommandType
from meshnode.work.store import UnitStore

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that stop a node; running units go on and are adopted by its next start."""

ConfigLoader = Callable[[], NodeConfig]
"""Reads the configuration again from where it came; raises ConfigError."""


def run(config: NodeConfig, load_again: ConfigLoader | None = None) -> int:
    """Run a node until a signal stops it; returns the exit code 0.

    ``load_again`` is what the ``reload`` command reads.

    Raises:
        ConfigError: something that the configuration names cannot be had (a port, a socket).
        DuplicateNode: another node of the mesh uses our ID.
        Both may come inside exception groups.
    """
    logs.configure(config.log_level.level)
    return trio.run(_main, config, load_again or (lambda: config))


async def _main(config: NodeConfig, load_again: ConfigLoader) -> int:
    log = logs.subject_logger("node", config.node.id)
    started = time.monotonic()
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        async with AsyncExitStack() as stack:
            mesh = await stack.enter_async_context(
                open_mesh(config.node.id, idle_timeout=config.node.max_idle_connection_timeout)
            )
            nursery = await stack.enter_async_context(trio.open_nursery())
            await _start(config, load_again, mesh, nursery)
            took = (time.monotonic() - started) * 1000
            log.info("meshnode %s is ready after %.0f ms", __version__, took)
            async for number in signals:
                log.info("stopping: %s", signal.Signals(number).name)
                nursery.cancel_scope.cancel()
                break
    return 0


async def _start(
    config: NodeConfig, load_again: ConfigLoader, mesh: Mesh, nursery: trio.Nursery
) -> None:
    """Start every part, the ones that others hear of last."""
    registry = CommandRegistry()
    register_mesh_commands(registry, mesh, make_reloader(config, load_again))
    units = make_units(config, mesh)
    try:
        await nursery.start(units.run)
    except WorkError as exc:
        raise config.node.error("datadir", str(exc)) from exc
    registry.register(work_command(units))
    work_types = [WorkType(name, secure) for name, secure in units.advertised]
    service = ControlService(config.node.id, registry)
    for directive in config.control_services:
        listeners = await _open_control(mesh, directive, work_types)
        await nursery.start(service.run, listeners)
    for listener in config.listeners:
        for opened in await links.open_listeners(listener):
            mesh.add_listener(opened, links.policy_of(listener))
    for peer in config.peers:
        mesh.add_dialer(links.make_dialer(peer), links.policy_of(peer), redial=peer.redial)


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


def make_units(config: NodeConfig, mesh: Mesh) -> Units:
    """Return the units that the node's directory holds, with the configured work types."""
    return Units(
        store=UnitStore(config.node.datadir / config.node.id),
        launcher=Launcher(),
        dialer=mesh,
        work_types={
            directive.worktype: CommandType(
                command=directive.command,
                params=directive.params,
                allow_runtime_params=directive.allowruntimeparams,
                verify_signature=directive.verifysignature,
            )
            for directive in config.work_commands
        },
        node_id=config.node.id,
    )


# --- reload ----------------------------------------------------------------------------------


def make_reloader(running: NodeConfig, load_again: ConfigLoader) -> Reloader:
    """Return what ``reload`` does: today, to say whether anything changed that needs a restart."""

    async def reload() -> None:
        try:
            fresh = await trio.to_thread.run_sync(load_again)
        except ConfigError as exc:
            text = "; ".join(str(exc).splitlines())
            raise ReloadRefused(text, ReloadFault.UNREADABLE) from exc
        changed = [
            field.name.replace("_", "-")
            for field in dataclasses.fields(NodeConfig)
            if getattr(fresh, field.name) != getattr(running, field.name)
        ]
        if changed:
            raise ReloadRefused(
                f"changed: {', '.join(changed)}; restart the node to apply it",
                ReloadFault.NEEDS_RESTART,
            )

    return reload
