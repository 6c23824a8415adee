"""Makes a node's units of its configuration: the types of work that it offers, and its keys.

A new type of work that ends in a command is a class beside those of local/worktypes.py, its
directive in config/work_directives.py, and a case of :func:`work_type`. A new runner is a line of
the table in :class:`ConfiguredWork` besides: docs/architecture.md, "Where a new thing goes".
"""

import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshnode.arguments import usage
from meshnode.config import NodeConfig, WorkCommand, WorkDirective, WorkPython
from meshnode.config.limit_values import JobLimits
from meshnode.control.events import EventHub
from meshnode.errors import CommandError
from meshnode.logs import subject_logger
from meshnode.protocol.routing import WorkType
from meshnode.resources import DescriptorReserve, in_thread
from meshnode.security.access import AccessRules
from meshnode.security.audit import AuditLog
from meshnode.templates import Template
from meshnode.work.batches.batches import Batches
from meshnode.work.batches.files import BatchFiles
from meshnode.work.local.cgroups import JobGroups
from meshnode.work.local.client import Launcher
from meshnode.work.local.keptlimits import KeptLimits, kept_limits
from meshnode.work.local.runner import CommandRunner
from meshnode.work.local.worktypes import CommandType, PythonType
from meshnode.work.placement.nodes import NodeDirectory
from meshnode.work.placement.placer import Placer
from meshnode.work.placement.telling import LoadTeller
from meshnode.work.remote.asking import AskThere
from meshnode.work.remote.reconnect import Dialer
from meshnode.work.remote.runner import RemoteRunner
from meshnode.work.units.adoption import boot_id
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.queue import QueueBounds
from meshnode.work.units.quotas import QuotaBounds
from meshnode.work.units.runner import Plan, Runner
from meshnode.work.units.runner import WorkType as UnitType
from meshnode.work.units.signatures import Signatures
from meshnode.work.units.status import COMMAND, REMOTE
from meshnode.work.units.store import UnitStore
from meshnode.work.units.submission import Submission
from meshnode.work.units.unit import wall_clock

if TYPE_CHECKING:
    from meshnode.security.tls import TlsClients
    from meshnode.work.local.isolation import IsolationPlan


@dataclass(frozen=True, slots=True)
class KubernetesType:
    """One ``work-kubernetes`` directive: a type that is known here, and cannot be run."""

    name: str
    verify_signature: bool = False
    timeout: float | None = None

    @property
    def takes_settings(self) -> bool:
        """No: it takes nothing."""
        return False

    def described(self, name: str) -> JsonObject:
        """Return that there is nothing to be had of it here."""
        return {
            "Kind": "kubernetes",
            "Usage": usage(name, ()),
            "Help": "It needs Kubernetes, which this node does not support yet.",
            "VerifySignature": self.verify_signature,
        }

    def plan(self, submission: Submission) -> Plan:
        """Refuse. Raises CommandError."""
        raise CommandError(
            f"this node cannot run work type {self.name}: it needs Kubernetes, "
            "which is not supported yet"
        )


@dataclass(frozen=True, slots=True)
class WorkChange:
    """Work types and keys of a configuration, all of them usable: :meth:`ConfiguredWork.apply`."""

    types: Mapping[str, UnitType]
    signatures: Signatures
    bounds: QuotaBounds
    queue: QueueBounds
    labels: Mapping[str, str]
    config: NodeConfig


class ConfiguredWork:
    """Owns a node's units, and the work types and keys that a reload may change."""

    def __init__(
        self,
        config: NodeConfig,
        dialer: Dialer,
        descriptors: int,
        reserve: DescriptorReserve,
        tls: "TlsClients | None" = None,
        rules: AccessRules | None = None,
        audit: AuditLog | None = None,
        hub: EventHub | None = None,
    ) -> None:
        """``descriptors`` is the limit that commands get, ``reserve`` is for the files of units.

        ``tls`` returns where to get the settings of a ``tls-client``, by its name. ``audit`` is
        told of units, and so is ``hub`` of what becomes of them.

        Raises:
            ConfigFaults: a key cannot be used, or this machine cannot isolate a type of work.
        """
        store = UnitStore(config.node.datadir / config.node.id, reserve)
        self._signatures = make_signatures(config)
        kept = kept_limits(config)
        self.doubts = kept.warnings
        """What a person should look at about the limits of types."""
        self._types = make_types(config, kept)
        self._groups = JobGroups(store.root)
        directory = NodeDirectory(dialer)
        placer = Placer(directory)
        remotes = RemoteRunner(
            dialer,
            store,
            self._signatures,
            wall_clock,
            config.node.remote_maxoutput,
            tls,
            placer,
        )
        self.others = AskThere(dialer, self._signatures, tls)
        """Asks other nodes what this one may do there."""
        self._store = store
        self.commands = CommandRunner(Launcher(descriptors), store, self._types, self._groups)
        """Drives the commands of this machine."""
        self._runners: MutableMapping[str, Runner] = {COMMAND: self.commands, REMOTE: remotes}
        self._add_runners(config)
        self.units = UnitManager(
            store=store,
            runners=self._runners,
            work_types=self._types,
            elsewhere=remotes.plan,
            node_id=config.node.id,
            boot=boot_id(),
            audit=audit,
            hub=hub,
            signatures=self._signatures,
            rules=rules,
            forwarding=config.node.allowforwarding,
            remember=config.node.remember_submissions,
        )
        self.units.access.nodes = lambda: directory.names
        placer.permits = self.units.access.may_place
        self.units.quotas.bounds = make_bounds(config)
        self.units.queue.bounds = make_queue_bounds(config)
        self.batches = Batches(self.units, BatchFiles(store.root))
        self.teller = LoadTeller(self.units.queue, lambda: bool(self.advertised))
        """Tells the mesh what this node is, and what it has to do."""
        self.teller.labels = config.node.labels
        self._log = subject_logger("work")
        for what, key in (
            ("signing key", self._signatures.signer),
            ("verification key", self._signatures.verifier),
        ):
            if key is not None:
                self._log.info("%s: %s", what, key)

    def _add_runners(self, config: NodeConfig) -> None:
        """Make the runners that only some directives need; one that is there stays."""
        if config.ssh_types:
            # Imported here: most nodes have no such work, and should not wait for its modules.
            from meshnode.work.ssh.runner import SSH, SshRunner  # noqa: PLC0415

            if SSH not in self._runners:
                self._runners[SSH] = SshRunner(self._store, self._types, lambda: self.units.all())

    @property
    def signatures(self) -> Signatures:
        """What signs and checks signatures at the moment."""
        return self._signatures

    @property
    def types(self) -> Mapping[str, UnitType]:
        """The types of work that there are at the moment, by name."""
        return self._types

    @property
    def advertised(self) -> tuple[WorkType, ...]:
        """The types of work that this node offers, as it advertises them."""
        return tuple(
            WorkType(name, kind.verify_signature)
            for name, kind in self._types.items()
            if not isinstance(kind, KubernetesType)
        )

    def limits(self) -> str | None:
        """Return what keeps the limits of units, None where none have been needed."""
        return self._groups.in_words

    async def warnings(self) -> list[str]:
        """Return what a person should look after, one line each."""
        lame = [name for name, kind in self._types.items() if isinstance(kind, KubernetesType)]
        lines = await self.units.warnings()
        if lame:
            lines.append(
                f"work types that this node cannot run, since they need Kubernetes: "
                f"{', '.join(lame)}"
            )
        return lines

    async def prepare(self, config: NodeConfig) -> WorkChange:
        """Make the types and read the keys of a configuration; nothing is changed yet.

        Raises:
            ConfigFaults: a key cannot be used, or this machine cannot isolate a type of work.
            NoThread: the system starts no thread to read them in.
        """
        keys = await in_thread(make_signatures, config)
        kept = await in_thread(kept_limits, config)
        types = await in_thread(make_types, config, kept)
        return WorkChange(
            types,
            keys,
            make_bounds(config),
            make_queue_bounds(config),
            config.node.labels,
            config,
        )

    def renew(self, keys: Signatures) -> bool:
        """Use those keys that are there from now on; return whether any differs."""
        own = self._signatures
        return self._use_keys(Signatures(keys.signer or own.signer, keys.verifier or own.verifier))

    def apply(self, change: WorkChange) -> bool:
        """Offer these types and use these keys from now on; return whether any differs.

        Units keep the type that they were submitted as.
        """
        self._add_runners(change.config)
        old, fresh = dict(self._types), change.types
        differences = [self._tell(f"type {n}", old.get(n), fresh.get(n)) for n in {**old, **fresh}]
        self._types.clear()
        self._types.update(fresh)
        differences.append(self._tell("bounds", self.units.quotas.bounds, change.bounds))
        self.units.quotas.bounds = change.bounds
        differences.append(self._tell("queue", self.units.queue.bounds, change.queue))
        self.units.queue.bounds = change.queue
        differences.append(self._tell("labels", self.teller.labels, change.labels))
        self.teller.labels = change.labels
        return any(differences) | self._use_keys(change.signatures)

    def _use_keys(self, keys: Signatures) -> bool:
        """Use these keys, whichever are there; return whether any differs."""
        own = self._signatures
        differences = (
            self._tell_key("signing key", own.signer, keys.signer),
            self._tell_key("verification key", own.verifier, keys.verifier),
        )
        own.signer, own.verifier = keys.signer, keys.verifier
        return any(differences)

    def _tell(self, what: str, old: object, new: object) -> bool:
        """Log how something of the configuration differs; return whether it does."""
        if old == new:
            return False
        how = "added" if old is None else "removed" if new is None else "changed"
        self._log.info("%s: %s", what, how)
        return True

    def _tell_key(self, what: str, old: object, new: object) -> bool:
        """Log how keys differ, and which they are now; return whether they do."""
        if old == new:
            return False
        if new is None:
            self._log.info("%s: removed", what)
        else:
            self._log.info("%s: %s, now %s", what, "added" if old is None else "changed", new)
        return True


def make_bounds(config: NodeConfig) -> QuotaBounds:
    """Return what each submitter may have."""
    return QuotaBounds(config.node.submitter_maxunits, config.node.submitter_maxpayload)


def make_queue_bounds(config: NodeConfig) -> QueueBounds:
    """Return how many units may run at once."""
    by_type = {
        one.worktype: one.maxconcurrent
        for one in config.work_types
        if one.maxconcurrent is not None
    }
    return QueueBounds(config.node.maxrunning, by_type)


def make_types(config: NodeConfig, kept: KeptLimits) -> dict[str, UnitType]:
    """Return the types of work that a configuration names, by name.

    Raises:
        ConfigFaults: this machine cannot isolate one of them as it should be.
    """
    plans: Mapping[str, IsolationPlan] = {}
    if any(one.is_isolated for one in config.work_types):
        # Imported here: most nodes isolate nothing.
        from meshnode.work.local.isolation import isolation_plans  # noqa: PLC0415

        plans = isolation_plans(config)
    limits = kept.of_type
    types: dict[str, UnitType] = {
        one.worktype: work_type(one, plans.get(one.worktype), limits.get(one.worktype))
        for one in config.work_types
    }
    if config.ssh_types:
        from meshnode.work.ssh.worktype import ssh_type  # noqa: PLC0415

        types |= {one.worktype: ssh_type(one) for one in config.ssh_types}
    for one in config.kubernetes_types:
        types[one.worktype] = KubernetesType(one.worktype, one.verifysignature)
    return types


def work_type(
    directive: WorkDirective,
    isolation: "IsolationPlan | None" = None,
    limits: JobLimits | None = None,
) -> CommandType:
    """Return the type of work that a directive offers, with the limits that are kept of it."""
    common: dict[str, Any] = {
        "verify_signature": directive.verifysignature,
        "help": directive.help,
        "env": directive.env,
        "allowed_env": directive.allowruntimeenv,
        "allowed_cwd": directive.allowruntimecwd,
        "clean_env": directive.cleanenv,
        "cwd": directive.cwd or (isolation.cwd if isolation else None),
        "timeout": directive.timeout,
        "max_output": directive.maxoutput,
        "separate": directive.stderr == "separate",
        "timestamps": directive.timestamps,
        "grace": directive.grace,
        "isolation": isolation,
        "limits": limits,
    }
    match directive:
        case WorkCommand():
            described = directive.arguments
            return CommandType(
                directive.command,
                () if described else directive.params,
                template=Template.parse(directive.params, described) if described else None,
                allow_runtime_params=directive.allowruntimeparams,
                allow_scripts=directive.allowscripts,
                leave=directive.leave_processes,
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
    if config.work_signing is None and not config.work_verifications:
        return Signatures()
    # Imported here: most nodes have no keys, and the libraries for them take long to load.
    from meshnode.security.tokens import make_signer, make_verifier  # noqa: PLC0415

    return Signatures(make_signer(config), make_verifier(config))
