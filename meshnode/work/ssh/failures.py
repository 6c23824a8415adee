"""Why a host could not be used: in which phase, what is wrong, and what to do about it.

OpenSSH's client says so in texts only. What stands here of them is of its sources, the same for
many years; what is not known is passed on as it was said.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from meshnode.errors import WorkError
from meshnode.security.identity import shown_text
from meshnode.work.ssh.hosts import Host

MAX_SAID = 300
"""Characters of what ssh or the host said that are passed on."""

FAILED_HERE = 255
"""ssh's exit code when it, and not the command there, has failed."""


class Phase(StrEnum):
    """What was being done, as errors name it."""

    CONNECT = "connect"
    COPY = "copy"
    START = "start"
    RUN = "run"
    COLLECT = "collect"
    CLEAN = "clean up"


class HostFailure(WorkError):
    """A host could not be used. ``is_lasting`` says that another try will not help."""

    def __init__(self, host: Host, phase: Phase, text: str, *, is_lasting: bool = False) -> None:
        super().__init__(f"host {host.name}: {phase}: {text}")
        self.host = host
        self.phase = phase
        self.is_lasting = is_lasting


class Refused(HostFailure):
    """A host that is there did not do what it was asked; nothing was started by it."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A text of ssh or of a host's shell, and what it means."""

    pattern: re.Pattern[str]
    explain: Callable[[Host, re.Match[str]], str]
    is_lasting: bool = False


def _key_changed(host: Host, found: re.Match[str]) -> str:
    named = host.address if host.port in {None, 22} else f"[{host.address}]:{host.port}"
    file = found["file"]
    which = f" -f {file}" if file else ""
    return (
        "its host key has changed: somebody may listen in, or it was installed anew; if it was, "
        f"remove the old key (ssh-keygen{which} -R '{named}') and add the new one"
    )


def _key_unknown(host: Host, _: re.Match[str]) -> str:
    return (
        "its host key is not known here: compare it with the host's own, and add it to "
        "known_hosts (ssh-keyscan prints it), or connect once by hand as the node's user"
    )


def _refused(host: Host, found: re.Match[str]) -> str:
    who = found["who"]
    key = f"the public key of {host.key}" if host.key else "a public key that ssh here has"
    return (
        f"{who} may not log in ({found['how']}): put {key} into ~/.ssh/authorized_keys there, "
        "or name user and key"
    )


def _not_found(host: Host, found: re.Match[str]) -> str:
    name = shown_text(found["name"], MAX_SAID)
    return f"there is no host {name}: give its address, or have its name resolved"


def _said(text: str) -> Callable[[Host, re.Match[str]], str]:
    return lambda host, found: text.format(shown_text(found[0].strip(), MAX_SAID))


def _known(pattern: str, explain: Callable[[Host, re.Match[str]], str], lasting: bool) -> _Known:
    return _Known(re.compile(pattern, re.MULTILINE | re.DOTALL), explain, lasting)


_ALL = (
    _known(
        r"IDENTIFICATION HAS CHANGED(.*?Offending [^\n]* key in (?P<file>[^\n]*):\d+)?",
        _key_changed,
        True,
    ),
    _known(r"No [^\n]* host key is known for|Host key verification failed", _key_unknown, True),
    _known(r"(?P<who>[^\s]+): Permission denied \((?P<how>[^)]*)\)", _refused, True),
    _known(r"Too many authentication failures[^\n]*", _said("{}: name the key to use"), True),
    _known(
        r"Could not resolve hostname (?P<name>[^\n]*?): (Temporary|Try again)[^\n]*",
        _said("{}"),
        False,
    ),
    _known(r"Could not resolve hostname (?P<name>[^\n]*?):", _not_found, True),
    _known(
        r"Bad configuration option[^\n]*|Bad owner or permissions on[^\n]*|"
        r"[^\n]*unsupported option[^\n]*|Can't open user config file[^\n]*|"
        r"[^\n]*garbage at end of line[^\n]*",
        _said("{}: mend OpenSSH's configuration, or the options of the host"),
        True,
    ),
    _known(
        r"Connection refused|No route to host|Network is unreachable|[^\n]*[Tt]imed out[^\n]*|"
        r"Timeout, server [^\n]* not responding[^\n]*|Connection (closed|reset)[^\n]*|"
        r"[^\n]*Connection reset by peer|[^\n]*Broken pipe|Connection to [^\n]* closed[^\n]*",
        _said("{}"),
        False,
    ),
)

_FULL = re.compile("No space left on device|Disk quota exceeded")


def why_ssh_ended(host: Host, phase: Phase, said: Sequence[str], code: int) -> HostFailure:
    """Return why a session ended that should not have, by what ssh and the host said."""
    text = "\n".join(said)
    if code == FAILED_HERE:
        for known in _ALL:
            if found := known.pattern.search(text):
                explained = known.explain(host, found)
                # What a session that was up loses, it may get again.
                is_lasting = known.is_lasting and phase is Phase.CONNECT
                return HostFailure(host, phase, explained, is_lasting=is_lasting)
        return HostFailure(host, phase, _last(said) or "ssh ended without a word")
    return HostFailure(host, phase, f"{_last(said) or 'the session there ended'} (status {code})")


def why_refused(host: Host, phase: Phase, said: Sequence[str]) -> Refused:
    """Return why a host did not do what it was asked, by what its shell said."""
    if any(map(_FULL.search, said)):
        text = f"the disk there is full ({host.directory}): make room, or name another directory"
        return Refused(host, phase, text)
    return Refused(host, phase, _last(said) or "its shell did not say why")


def _last(said: Sequence[str]) -> str:
    """Return the last thing that was said, as a line for people."""
    return next((shown_text(line, MAX_SAID) for line in reversed(said) if line.strip()), "")
