"""Reads keys and certificates anew when their files change, and tells of those that end soon.

A reload takes a whole configuration over or nothing. Here the configuration stays as it is, and
each directive whose files have changed is read by itself: one that cannot be used, such as a file
of which only half is written, goes on with what it had. Nothing that is up is dropped, since
connections and submissions ask for keys when they begin.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import trio

from meshnode.config import NodeConfig
from meshnode.config.faults import ConfigFaults, Fault
from meshnode.config.schema import Directive
from meshnode.logs import subject_logger
from meshnode.resources import NoThread, in_thread
from meshnode.security import keyfiles
from meshnode.security.keyfiles import Look, Looks
from meshnode.security.tlsstore import TlsChange, TlsStore, read_changed, read_settings
from meshnode.work.configured import ConfiguredWork
from meshnode.work.units.shortage import Pauses
from meshnode.work.units.signatures import Signatures

if TYPE_CHECKING:  # few nodes have tokens
    from meshnode.security.bearer import Tokens, TokenStore

QUIET: Final = 0.25
"""Seconds without a change after which files are read: whoever writes a certificate and its key, or
copies a file, is done by then."""

LONGEST_WAIT: Final = 5.0
"""Seconds after which they are read although changes go on."""

DAY: Final = 86400.0
"""Seconds between warnings of the same certificate."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the files of a configuration hold, all of it usable: see :meth:`KeyRenewal.apply`."""

    config: NodeConfig
    looks: Looks
    tls: TlsChange
    tokens: "Mapping[Path, Tokens]"
    doubts: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class _Renewed:
    """What changed files hold; ``faults`` are of those that cannot be used."""

    looks: Looks
    tls: TlsChange
    changed: frozenset[Path]
    signatures: Signatures
    tokens: "Mapping[Path, Tokens]"
    doubts: tuple[Fault, ...]
    faults: tuple[Fault, ...]


class KeyRenewal:
    """Keeps a node's keys and certificates as its files have them."""

    def __init__(
        self,
        config: NodeConfig,
        work: ConfiguredWork,
        tls: TlsStore,
        looks: Looks = keyfiles.NOT_SEEN,
        tokens: "TokenStore | None" = None,
    ) -> None:
        """``looks`` is what was seen of the files before ``work`` and ``tls`` read them.

        Without ``tokens`` no HTTP service has any.
        """
        self.one_at_a_time = trio.Lock()
        """Whoever takes over keys holds this, from looking at the files to the end."""
        self._config = config
        self._work = work
        self._tls = tls
        self._tokens = tokens
        self._looks = looks
        self._doubts = keyfiles.doubts(keyfiles.key_files(config))
        self._faults: tuple[Fault, ...] = ()
        self._changed = trio.Event()
        self._log = subject_logger("keys")

    # --- what others see ----------------------------------------------------------------------

    @property
    def doubts(self) -> tuple[Fault, ...]:
        """Files that others can read or replace, and should not; as last seen."""
        return self._doubts

    def warnings(self) -> list[str]:
        """Return what a person should look after, one line each."""
        kept = [f"{fault}; what was there before is still used" for fault in self._faults]
        return [*kept, *map(str, self._tls.doubts), *map(str, self._doubts)]

    # --- for a reload -------------------------------------------------------------------------

    async def prepare(self, config: NodeConfig) -> Prepared:
        """Read the certificates of a configuration; nothing is changed yet.

        Raises:
            ConfigFaults: files are missing or wrong.
            NoThread: the system starts no thread to read them in.
        """
        return await in_thread(_prepare, config, self._looks)

    def admit(self, prepared: Prepared) -> None:
        """Have the settings of new names, for listeners and peers that are about to open."""
        self._tls.admit(prepared.tls)

    def apply(self, prepared: Prepared) -> bool:
        """Use what was read, and watch its files; return whether any of it differs."""
        files = keyfiles.changed_files(self._looks, prepared.looks)
        differences = self._tls.apply(prepared.tls, files) + self._apply_tokens(prepared.tokens)
        for line in differences:
            self._log.info("%s", line)
        self._config, self._looks = prepared.config, prepared.looks
        self._doubts, self._faults = prepared.doubts, ()
        for doubt in self._doubts:
            self._log.warning("%s", doubt)
        if differences:
            self._warn_of_ends()
        self._wake()
        return bool(differences)

    # --- when files change --------------------------------------------------------------------

    async def run(self) -> None:
        """Take changed files over until cancelled."""
        pauses = Pauses()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._warn_daily)
            while True:
                ways = await self._ways(pauses)
                # A thread is waited for also by who is cancelled, and the watcher may have ended.
                await trio.lowlevel.checkpoint()
                with ExitStack() as stack:
                    for directory, names in ways.items():
                        watch = self._work.units.watcher.watch_entries(directory, names, self._wake)
                        stack.enter_context(watch)
                    # Only now nothing can change unseen.
                    while await self._renew(pauses) == ways:
                        await self._changed.wait()
                        await self._settle()

    def _wake(self) -> None:
        self._changed.set()

    async def _settle(self) -> None:
        """Wait until nothing has changed for a moment."""
        with trio.move_on_after(LONGEST_WAIT):
            while self._changed.is_set():
                self._changed = trio.Event()
                with trio.move_on_after(QUIET):
                    await self._changed.wait()
        self._changed = trio.Event()

    async def _ways(self, pauses: Pauses) -> Mapping[Path, frozenset[str]]:
        """Return what to watch: the entries of directories that decide what the files are."""
        while True:
            try:
                return await in_thread(_ways_of, self._config)
            except NoThread:
                await pauses.take()

    async def _renew(self, pauses: Pauses) -> Mapping[Path, frozenset[str]]:
        """Take over what has changed; return what is to be watched now."""
        while True:
            try:
                async with self.one_at_a_time:
                    renewed = await in_thread(_read_changed, self._config, self._looks)
                    if renewed is not None:
                        self._take_over(renewed)
                return await self._ways(pauses)
            except NoThread:
                await pauses.take()

    def _take_over(self, renewed: _Renewed) -> None:
        self._looks = renewed.looks
        changed = self._work.renew(renewed.signatures)
        lines = self._tls.renew(renewed.tls, renewed.changed)
        for line in (*lines, *self._apply_tokens(renewed.tokens)):
            self._log.info("%s", line)
            changed = True
        for doubt in renewed.doubts:
            if doubt not in self._doubts:
                self._log.warning("%s", doubt)
        for fault in renewed.faults:
            if fault not in self._faults:
                self._log.warning("%s; what was there before is still used", fault)
        self._doubts, self._faults = renewed.doubts, renewed.faults
        if changed:
            self._warn_of_ends()

    def _apply_tokens(self, tokens: "Mapping[Path, Tokens]") -> list[str]:
        return self._tokens.apply(tokens) if self._tokens is not None else []

    # --- certificates that end ----------------------------------------------------------------

    async def _warn_daily(self) -> None:
        while True:
            await trio.sleep(DAY)
            self._warn_of_ends()

    def _warn_of_ends(self) -> None:
        for doubt in self._tls.doubts:
            self._log.warning("%s", doubt)


# --- in a thread ---------------------------------------------------------------------------------


def _ways_of(config: NodeConfig) -> Mapping[Path, frozenset[str]]:
    found: dict[Path, frozenset[str]] = {}
    for file in keyfiles.key_files(config):
        for directory, names in keyfiles.watched_names(file.path).items():
            found[directory] = found.get(directory, frozenset()) | names
    return found


def _prepare(config: NodeConfig, before: Looks) -> Prepared:
    # Looked at before they are read: what changes in between is read again.
    looks = keyfiles.look_at_all(config, before)
    doubts = keyfiles.doubts(keyfiles.key_files(config))
    return Prepared(config, looks, read_settings(config), read_tokens(config), doubts)


def read_tokens(config: NodeConfig) -> "Mapping[Path, Tokens]":
    """Return the tokens of all files that a configuration names. Raises ConfigFaults."""
    if not any(service.tokens for service in config.http_services):
        return MappingProxyType({})
    # Imported here: few nodes have any.
    from meshnode.security.bearer import read_all  # noqa: PLC0415

    return read_all(config)


def _read_changed(config: NodeConfig, before: Looks) -> _Renewed | None:
    """Return what has changed; None if nothing has."""
    looks = keyfiles.look_at_all(config, before)
    if looks == before:
        return None
    changed = keyfiles.changed_files(before, looks)
    tls, unread = read_changed(config, changed)
    signatures, more = _signatures(config, changed)
    tokens, unusable = _changed_tokens(config, changed)
    failed = {**unread, **more, **unusable}
    files = keyfiles.key_files(config)
    # What cannot be used is not in use, and is read again after the next change.
    unused = {file.path for file in files if file.directive in failed}
    looks = {
        path: before.get(path, Look()) if path in unused else look for path, look in looks.items()
    }
    faults = tuple(fault for error in failed.values() for fault in error.faults)
    return _Renewed(looks, tls, changed, signatures, tokens, keyfiles.doubts(files), faults)


def _changed_tokens(
    config: NodeConfig, changed: frozenset[Path]
) -> "tuple[Mapping[Path, Tokens], dict[Directive, ConfigFaults]]":
    """Return the tokens of files that have changed; and why not."""
    found: dict[Path, Tokens] = {}
    failed: dict[Directive, ConfigFaults] = {}
    for service in config.http_services:
        if service.tokens is None or service.tokens not in changed:
            continue
        from meshnode.security.bearer import read_tokens as read  # noqa: PLC0415 - it is loaded

        try:
            found[service.tokens] = read(service)
        except ConfigFaults as error:
            failed[service] = error
    return found, failed


def _signatures(
    config: NodeConfig, changed: frozenset[Path]
) -> tuple[Signatures, dict[Directive, ConfigFaults]]:
    """Return what signs and what checks, where a file of it has changed; and why not."""
    found = Signatures()
    failed: dict[Directive, ConfigFaults] = {}
    signing, checking = config.work_signing, config.work_verifications
    signs = signing is not None and signing.privatekey in changed
    checks = any(one.publickey in changed for one in checking)
    if not signs and not checks:
        return found, failed
    # Imported here: most nodes have no keys of this kind.
    from meshnode.security.tokens import make_signer, make_verifier  # noqa: PLC0415

    try:
        found.signer = make_signer(config) if signs else None
    except ConfigFaults as error:
        assert signing is not None
        failed[signing] = error
    try:
        found.verifier = make_verifier(config) if checks else None
    except ConfigFaults as error:
        # They are one: none of them is changed alone.
        failed |= dict.fromkeys(checking, ConfigFaults(()))
        failed[checking[0]] = error
    return found, failed
