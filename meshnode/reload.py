"""Takes a changed configuration over while the node runs: links, work, rules, log level.

Everything else needs a restart. A configuration is taken over whole or not at all.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import trio

from meshnode import logs
from meshnode.config import NodeConfig
from meshnode.config.schema import Directive
from meshnode.control.mesh_commands import SharedReload, reloaded
from meshnode.errors import ConfigError, ReloadFault, ReloadRefused
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.peers.configured import ConfiguredLinks, LinksRefused
from meshnode.permissions import AccessRule
from meshnode.renewal import KeyRenewal
from meshnode.resources import NoThread, in_thread
from meshnode.security.access import AccessRules
from meshnode.security.audit import AuditLog, AuditSettings, checked_settings, settings_of
from meshnode.security.tlsstore import TlsStore
from meshnode.work.configured import ConfiguredWork, WorkChange

ConfigLoader = Callable[[], NodeConfig]
"""Reads the configuration again from where it came; raises ConfigError."""


NO_LINK = (
    "no link is configured any more; a start with this configuration is refused: "
    "add a tcp-listener or tcp-peer, or local-only to run without any"
)


NO_RULE = (
    "there is no access rule any more: whoever reaches a control service may do what receptor lets "
    "them; write an access-rule if that is not meant"
)


class Reloader:
    """What ``reload`` and SIGHUP do."""

    def __init__(
        self,
        running: NodeConfig,
        load_again: ConfigLoader,
        mesh: Mesh,
        links: ConfiguredLinks,
        work: ConfiguredWork,
        rules: AccessRules | None = None,
        keys: KeyRenewal | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        """``running`` is the configuration of all the others; without ``keys`` it has no TLS."""
        self._running = running
        self._load_again = load_again
        self._mesh = mesh
        self._links = links
        self._work = work
        self._rules = AccessRules(running.rules) if rules is None else rules
        self._keys = keys or KeyRenewal(running, work, TlsStore())
        self._audit = AuditLog(running.node.id) if audit is None else audit
        self._started = trio.Event()
        self._when_asked: list[Callable[[], None]] = []
        self._shared = SharedReload(self._reload)
        self._log = logs.subject_logger("reload")

    def start(self) -> None:
        """Let reloads begin: the node runs with the configuration that it was started with."""
        self._started.set()

    def when_asked(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at each reload first, whatever becomes of it."""
        self._when_asked.append(callback)

    async def __call__(self) -> ReloadRefused | None:
        """Take the configuration over as it is now, or return why not.

        Reloads follow each other. One may be for several who ask.
        """
        await self._started.wait()
        for callback in self._when_asked:
            callback()
        return await self._shared()

    async def on_signal(self) -> None:
        """Do the same for a signal; only the logs tell what came of it."""
        refusal = await self()
        self._audit.record(reloaded(refusal, "signal"))

    async def _reload(self) -> ReloadRefused | None:
        try:
            async with self._keys.one_at_a_time:
                await self._take_over(await self._read())
        except ReloadRefused as refusal:
            # What was disturbed meanwhile, if anything, is in the text.
            whole = not isinstance(refusal.__cause__, LinksRefused)
            done = "refused, and nothing was changed" if whole else "refused"
            self._log.warning("%s: %s", done, refusal)
            return refusal
        return None

    async def _read(self) -> NodeConfig:
        try:
            fresh = await in_thread(self._load_again)
        except NoThread as exc:
            raise ReloadRefused(exc.strerror or str(exc), ReloadFault.FAILED) from exc
        except ConfigError as exc:
            raise ReloadRefused(_one_line(exc), ReloadFault.UNREADABLE) from exc
        changes = changes_that_need_a_restart(self._running, fresh)
        if changes:
            raise ReloadRefused(
                f"{'; '.join(changes)}; restart the node to apply it", ReloadFault.NEEDS_RESTART
            )
        return fresh

    async def _take_over(self, fresh: NodeConfig) -> None:
        try:
            # First what can be refused and changes nothing yet, then what can be refused.
            rules = fresh.rules
            keys = await self._keys.prepare(fresh)
            work = await self._work.prepare(fresh)
            audit = await self._prepare_audit(fresh)
            self._keys.admit(keys)
            changed = await self._links.apply(fresh.listeners, fresh.peers)
        except LinksRefused as exc:
            text = "; ".join((_one_line(exc), *exc.disturbed))
            raise ReloadRefused(f"{text}; all else is as before", ReloadFault.FAILED) from exc
        except ConfigError as exc:
            raise ReloadRefused(_one_line(exc), ReloadFault.FAILED) from exc
        except NoThread as exc:
            raise ReloadRefused(exc.strerror or str(exc), ReloadFault.FAILED) from exc
        # Nothing from here on can be refused, and nobody else runs in between.
        changed |= self._apply_work(fresh, work)
        changed |= self._keys.apply(keys)
        if self._audit.apply(audit):
            self._log.info("audit log: %s", audit.path if audit else "none")
            changed = True
        old, self._running = self._running, fresh
        known = {(warning.subject, warning.text) for warning in old.warnings}
        for warning in fresh.warnings:
            if (warning.subject, warning.text) not in known:
                self._log.warning("%s", warning)
        if fresh.log_level != old.log_level:
            logs.set_level(fresh.log_level.level)
            logs.set_format(fresh.log_level.format)
            self._log.info("log: level %s, as %s", fresh.log_level.level, fresh.log_level.format)
            changed = True
        if fresh.node.firewallrules != old.node.firewallrules:
            self._mesh.set_firewall(fresh.node.firewallrules)
            self._log.info("firewall rules: %d", len(fresh.node.firewallrules))
            changed = True
        changed |= self._apply_rules(old, fresh, rules)
        self._log.info("done" if changed else "nothing changed")
        if not (fresh.listeners or fresh.peers or fresh.local_only):
            self._log.warning(NO_LINK)

    def _apply_rules(
        self, old: NodeConfig, fresh: NodeConfig, rules: tuple[AccessRule, ...]
    ) -> bool:
        # Also if they are the same: each names its line, and lines may have moved.
        self._rules.rules = rules
        if fresh.access_rules == old.access_rules:
            return False
        self._log.info("access rules: %d", len(fresh.access_rules))
        if not fresh.access_rules:
            self._log.warning(NO_RULE)
        return True

    async def _prepare_audit(self, fresh: NodeConfig) -> AuditSettings | None:
        # One that is in use as it is stays so, also if its disk is full now.
        if fresh.audit_log == self._running.audit_log:
            return settings_of(fresh.audit_log)
        return await in_thread(checked_settings, fresh.audit_log)

    def _apply_work(self, fresh: NodeConfig, change: WorkChange) -> bool:
        before = self._work.advertised
        changed = self._work.apply(change)
        if set(self._work.advertised) != set(before):
            for directive in fresh.control_services:
                if directive.service:
                    self._mesh.set_work_types(directive.service, self._work.advertised)
        return changed


def changes_that_need_a_restart(old: NodeConfig, new: NodeConfig) -> list[str]:
    """Name each directive that differs and cannot be reloaded, with its place.

    A directive says itself what of it can be reloaded (``DirectiveInfo.reloadable``).
    """
    before, after = _fixed(old), _fixed(new)
    changes = [_changed(d, before) for d in after if d not in before]
    kept = Counter(d.INFO.name for d in after)
    for gone in (d for d in before if d not in after):
        if kept[gone.INFO.name] < sum(d.INFO.name == gone.INFO.name for d in before):
            changes.append(f"{gone.INFO.name}: removed (it was at {gone.place_of()})")
    return changes


def _changed(directive: Directive, before: list[Directive]) -> str:
    """Say what of a directive changed: the parameter, where there is only one such directive."""
    info = directive.INFO
    previous = next((d for d in before if info.once and d.INFO.name == info.name), None)
    if previous is None:
        return f"{directive.place_of()}: {info.name}: new or changed"
    changed = [
        p.name for p in info.parameters if getattr(directive, p.field) != getattr(previous, p.field)
    ]
    return f"{directive.place_of(changed[0])}: {info.name}: {', '.join(changed)}: changed"


def _fixed(config: NodeConfig) -> list[Directive]:
    """Return the directives that need a restart, without what of them can be reloaded."""
    values = [getattr(config, field.name) for field in dataclasses.fields(config)]
    directives = [d for value in values for d in (value if isinstance(value, tuple) else (value,))]
    return [
        _without_reloadable(d)
        for d in directives
        if isinstance(d, Directive) and not d.INFO.reloadable
    ]


def _without_reloadable(directive: Directive) -> Directive:
    nothing: dict[str, Any] = {p.field: None for p in directive.INFO.parameters if p.reloadable}
    return dataclasses.replace(directive, **nothing)


def _one_line(error: ConfigError) -> str:
    return "; ".join(str(error).splitlines())
