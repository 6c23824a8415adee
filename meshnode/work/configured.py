"""Makes a node's units of its configuration: the types of work that it offers, and its keys.

A new type of work that ends in a command is a class beside those of local/worktypes.py, its
directive in config/work_directives.py, and a case of :func:`work_type`. A new runner is a line of
the table in :func:`make_units` besides: docs/architecture.md, "Where a new thing goes".
"""

import sys
from typing import Any

from meshnode.config import NodeConfig, WorkCommand, WorkDirective, WorkPython
from meshnode.resources import DescriptorReserve
from meshnode.work.local.client import Launcher
from meshnode.work.local.runner import CommandRunner
from meshnode.work.local.worktypes import CommandType, PythonType
from meshnode.work.remote.reconnect import Dialer
from meshnode.work.remote.runner import RemoteRunner
from meshnode.work.units.access import Signatures
from meshnode.work.units.adoption import boot_id
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.runner import Runner
from meshnode.work.units.status import COMMAND, REMOTE
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import wall_clock


def make_units(
    config: NodeConfig, dialer: Dialer, descriptors: int, reserve: DescriptorReserve
) -> UnitManager:
    """Return the manager of the units that the node's directory holds.

    ``descriptors`` is the limit that commands get, ``reserve`` is for the files of units.
    """
    store = UnitStore(config.node.datadir / config.node.id, reserve)
    signatures = make_signatures(config)
    types = {d.worktype: work_type(d) for d in config.work_types}
    remotes = RemoteRunner(dialer, store, signatures, wall_clock, config.node.remote_maxoutput)
    runners: dict[str, Runner] = {
        COMMAND: CommandRunner(Launcher(descriptors), store, types),
        REMOTE: remotes,
    }
    return UnitManager(
        store=store,
        runners=runners,
        work_types=types,
        elsewhere=remotes.plan,
        node_id=config.node.id,
        boot=boot_id(),
        signatures=signatures,
        forwarding=config.node.allowforwarding,
        remember=config.node.remember_submissions,
    )


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
    raise AssertionError(f"no runner for {directive.INFO.name}")


def make_signatures(config: NodeConfig) -> Signatures:
    """Return what signs and checks signatures as the configuration says.

    Raises:
        ConfigFaults: a key cannot be used.
    """
    if config.work_signing is None and config.work_verification is None:
        return Signatures()
    # Imported here: most nodes have no keys, and the libraries for them take long to load.
    from meshnode.security.tokens import make_signer, make_verifier  # noqa: PLC0415

    return Signatures(make_signer(config), make_verifier(config))
