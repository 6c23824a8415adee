"""Bearer tokens of the HTTP service: read from files, looked up by digest, bounded by verbs.

A file is a YAML list. Each token has a name, by which access rules and the logs know its client,
and may have verbs: what is not among them is refused whatever the rules say. ``sha256`` stands for
a token that only its client has::

    - {name: ci, sha256: 5e88…, verbs: [submit, results, status]}
    - {name: dashboard, token: 9f86d081…, verbs: [list, status, mesh-status]}
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import trio
import yaml

from meshnode.config import HttpService, NodeConfig
from meshnode.config.faults import ConfigFaults, Fault, printable, quote
from meshnode.permissions import AccessRule, Fact, TextPattern, Verb
from meshnode.security.access import AccessRules
from meshnode.security.identity import MAX_TOKEN_NAME
from meshnode.security.keyfiles import modes_of

MAX_FILE: Final = 1024 * 1024
"""Bytes of a file of tokens: some ten thousand."""

LEAST_LENGTH: Final = 20
"""Characters of a token: fewer can be guessed, if not by the network then from a digest."""

MAX_TOKEN: Final = 1024
"""Characters of a token; those of ``openssl rand -hex 32`` have 64."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
"""What a token may be made of (RFC 6750, section 2.1)."""

_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Token:
    """One token, by its SHA-256."""

    name: str
    digest: bytes
    verbs: frozenset[Verb]
    """What it lets its client ask for, if the access rules do, too."""

    @property
    def bound(self) -> AccessRule | None:
        """The rule that refuses the other verbs; None if there are none."""
        others = frozenset(Verb) - self.verbs
        if not others:
            return None
        who = (Fact("token", pattern=TextPattern(self.name)),)
        return AccessRule(
            label=f"verbs of token {quote(self.name)}", allows=False, who=(who,), verbs=others
        )


Tokens = Mapping[bytes, Token]
"""The tokens of a file, by digest."""


def digest_of(token: str) -> bytes:
    """Return that by which a token is known."""
    return hashlib.sha256(token.encode()).digest()


class TokenStore:
    """The tokens of a node as its files have them, each file by its path."""

    def __init__(self, rules: AccessRules) -> None:
        """``rules`` are told what tokens do not let their clients do."""
        self._rules = rules
        self._files: dict[Path, Tokens] = {}
        self._used: dict[bytes, set[trio.CancelScope]] = {}

    def find(self, file: Path, token: str) -> Token | None:
        """Return the token of a file that a client has shown; None if it is none of them."""
        return self._files.get(file, {}).get(digest_of(token))

    def apply(self, files: Mapping[Path, Tokens]) -> list[str]:
        """Have these tokens from now on; return what differs, in words.

        What clients with tokens that are gone, or may do less, have begun is cancelled.
        """
        lines = []
        for path, tokens in files.items():
            before = self._files.get(path)
            self._files[path] = tokens
            if before is None or before == tokens:
                continue
            lost = [token for token in before.values() if not _is_kept(token, tokens)]
            for token in lost:
                for scope in self._used.get(token.digest, ()):
                    scope.cancel()
            lines.append(f"tokens of {path}: {len(tokens)}; changed or gone: {len(lost)}")
        every = [token for tokens in self._files.values() for token in tokens.values()]
        bounds = (token.bound for token in every)
        self._rules.bounds = tuple(bound for bound in bounds if bound is not None)
        return lines

    @contextmanager
    def using(self, token: Token) -> Iterator[trio.CancelScope]:
        """Run for a client what is cancelled when its token is taken away."""
        with trio.CancelScope() as scope:
            used = self._used.setdefault(token.digest, set())
            used.add(scope)
            try:
                yield scope
            finally:
                used.discard(scope)
                if not used:
                    self._used.pop(token.digest, None)


def _is_kept(token: Token, tokens: Tokens) -> bool:
    found = tokens.get(token.digest)
    return found is not None and found.name == token.name and found.verbs >= token.verbs


# --- reading files --------------------------------------------------------------------------------


def read_all(config: NodeConfig) -> Mapping[Path, Tokens]:
    """Return the tokens of all files that a configuration names. Raises ConfigFaults."""
    found: dict[Path, Tokens] = {}
    faults: list[Fault] = []
    for service in config.http_services:
        if service.tokens is None or service.tokens in found:
            continue
        try:
            found[service.tokens] = read_tokens(service)
        except ConfigFaults as error:
            faults += error.faults
    if faults:
        raise ConfigFaults(faults)
    return MappingProxyType(found)


def read_tokens(service: HttpService) -> Tokens:
    """Return the tokens of the file that a directive names.

    Raises:
        ConfigFaults: the file cannot be read, others can read it, or it is no list of tokens.
    """
    path = service.tokens
    assert path is not None
    try:
        content = _read(path)
    except OSError as error:
        raise service.error("tokens", f'"{printable(str(path))}": {error.strerror}') from error
    except _Unusable as fault:
        raise service.error("tokens", str(fault)) from None
    try:
        return _parse(content)
    except _Unusable as fault:
        raise service.error("tokens", f'"{printable(str(path))}": {fault}') from None


class _Unusable(Exception):
    """A file holds no tokens that may be used; the text says why."""


def _read(path: Path) -> bytes:
    """Return what a file holds. Raises OSError, _Unusable."""
    # O_NONBLOCK: opening a named pipe that nobody writes to would not return.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _Unusable(f'"{printable(str(path))}" is not a file')
        for doubt in modes_of(path, found, is_secret=True):
            raise _Unusable(doubt)
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise _Unusable(f'"{printable(str(path))}" has more than {MAX_FILE} bytes')
    return content


def _parse(content: bytes) -> Tokens:
    try:
        data = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _Unusable("cannot be read as YAML") from None
    if not isinstance(data, list):
        raise _Unusable("is not a list; write: - {name: ci, token: …, verbs: [submit]}")
    tokens: dict[bytes, Token] = {}
    for number, entry in enumerate(data, 1):
        try:
            token = _token(entry)
        except _Unusable as fault:
            raise _Unusable(f"entry {number}: {fault}") from None
        if any(token.name == other.name for other in tokens.values()):
            raise _Unusable(f"entry {number}: the name {quote(token.name)} is there already")
        if token.digest in tokens:
            raise _Unusable(f"entry {number}: {tokens[token.digest].name} has the same token")
        tokens[token.digest] = token
    return MappingProxyType(tokens)


def _token(entry: object) -> Token:
    if not isinstance(entry, dict):
        raise _Unusable("is not a map of name, token or sha256, and verbs")
    for key in entry:
        if key not in {"name", "token", "sha256", "verbs"}:
            raise _Unusable(f"{quote(str(key))} is unknown; it takes name, token or sha256, verbs")
    return Token(_name(entry.get("name")), _digest(entry), _verbs(entry))


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise _Unusable("has no name")
    if len(name) > MAX_TOKEN_NAME:
        raise _Unusable(f"its name has more than {MAX_TOKEN_NAME} characters")
    return name


def _digest(entry: Mapping[Any, object]) -> bytes:
    if ("token" in entry) == ("sha256" in entry):
        raise _Unusable("has either a token or its sha256")
    if "sha256" in entry:
        given = entry["sha256"]
        if not isinstance(given, str) or not _DIGEST.fullmatch(given):
            raise _Unusable("its sha256 is not 64 hexadecimal digits in quotes")
        return bytes.fromhex(given)
    token = entry["token"]
    if not isinstance(token, str) or not _TOKEN.fullmatch(token) or len(token) > MAX_TOKEN:
        raise _Unusable("its token is not made of A-Z a-z 0-9 - . _ ~ + /, in quotes")
    if len(token) < LEAST_LENGTH:
        raise _Unusable(
            f"its token has fewer than {LEAST_LENGTH} characters and can be guessed; "
            "make one: openssl rand -hex 32"
        )
    return digest_of(token)


def _verbs(entry: Mapping[Any, object]) -> frozenset[Verb]:
    if "verbs" not in entry:
        return frozenset(Verb)
    given = entry["verbs"]
    if not isinstance(given, list) or not given:
        raise _Unusable("its verbs are not a list; leave them out to allow what the rules allow")
    for one in given:
        if one not in set(Verb):
            raise _Unusable(f"{quote(str(one))} is no verb; verbs are {', '.join(Verb)}")
    return frozenset(map(Verb, given))
