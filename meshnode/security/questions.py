"""Questions to access rules in words, as ``meshnode check --may`` asks them.

``uid=1000 submit echo params=x`` are facts about a client, a verb, and what it is asked of. The
words are those of rules (docs/security/access.md).
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from meshnode.config.faults import quote, suggestion
from meshnode.errors import ConfigError
from meshnode.permissions import NUMBERS, ON_UNITS, TEXTS, AccessRule, Verb, Way
from meshnode.security.access import Asker, Decision, Target, decide
from meshnode.security.identity import (
    IDS,
    CertificateNames,
    Identity,
    MeshClient,
    TcpClient,
    TokenClient,
    UnixClient,
    UnknownClient,
)

FROM: Final = "from"
"""The word that says by which way a client comes, where its facts leave that open."""

UNKNOWN: Final = -1
"""A number that no user or group has: that of one about whom only the other number is said."""

_OPERANDS: Final[Mapping[Verb, tuple[str, ...]]] = {
    Verb.SUBMIT: ("worktype",),
    **dict.fromkeys(ON_UNITS, ("worktype",)),
    Verb.ADOPT: ("tonode",),
    Verb.CONNECT: ("tonode", "toservice"),
    Verb.PING: ("tonode",),
    Verb.RELOAD: (),
    Verb.MESH: (),
}
"""What the words after a verb are that have no name."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whether somebody may do something."""

    asker: Asker
    verb: Verb
    target: Target

    def decide(self, rules: Sequence[AccessRule], own_id: str) -> Decision:
        """Return the answer of a node's rules; work is for that node unless it says otherwise."""
        has_node = self.target.node or "tonode" in _OPERANDS[self.verb]
        target = self.target if has_node else replace(self.target, node=own_id)
        return decide(rules, self.asker, self.verb, target.as_seen_by(own_id))


def parse_question(text: str) -> Question:
    """Read a question. Raises ConfigError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _wrong(text, f"cannot be split into words: {str(error).lower()}") from None
    facts: dict[str, str] = {}
    while words and words[0].partition("=")[0] in {*NUMBERS, *TEXTS, FROM} and "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        facts[name] = value
    if not words or words[0] not in set(Verb):
        given = words[0] if words else ""
        hint = suggestion(given, list(Verb), otherwise=f"expected: one of {', '.join(Verb)}")
        raise _wrong(text, f"{quote(given)} is nothing that can be asked for; {hint}")
    verb = Verb(words[0])
    asker = _asker(text, facts)
    return Question(asker, verb, _target(text, verb, words[1:], asker.identity))


def _asker(text: str, facts: Mapping[str, str]) -> Asker:
    identity = _identity(text, facts)
    ways = {
        UnixClient: {Way.SOCKET},
        MeshClient: {Way.MESH},
        TcpClient: {Way.TCP},
        TokenClient: {Way.TCP},
        UnknownClient: set(Way) if "key" not in facts else {Way.TCP, Way.MESH},
    }[type(identity)]
    given = facts.get(FROM, "")
    if given and given not in ways:
        raise _wrong(text, f"such a client does not come from {quote(given)}")
    if not given and len(ways) > 1:
        raise _wrong(text, f"say from where: {' or '.join(f'from={way}' for way in sorted(ways))}")
    return Asker(identity, Way(given) if given else ways.pop(), facts.get("key", ""))


def _identity(text: str, facts: Mapping[str, str]) -> Identity:
    has_certificate = "subject" in facts or "certnode" in facts
    if any(name in facts for name in NUMBERS):
        if has_certificate or {"node", "key", "token"} & facts.keys():
            raise _wrong(text, "no client has both a uid or gid and the other facts")
        uid, gid = (_number(text, facts, name) for name in NUMBERS)
        return UnixClient(uid, gid, 0)
    if "token" in facts:
        if has_certificate or "node" in facts:
            raise _wrong(text, "a client with a token is known by that alone")
        return TokenClient(facts["token"], "an HTTP client")
    nodes = (facts["certnode"],) if "certnode" in facts else ()
    shown = CertificateNames(facts.get("subject", ""), nodes) if has_certificate else None
    if "node" in facts:
        return MeshClient(facts["node"], certificate=shown)
    return UnknownClient() if shown is None else TcpClient("a TCP client", shown)


def _number(text: str, facts: Mapping[str, str], name: str) -> int:
    value = facts.get(name)
    if value is None:
        return UNKNOWN
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) in IDS):
        raise _wrong(text, f"{quote(value)} is not the number of a user or group")
    return int(value)


def _target(text: str, verb: Verb, words: Sequence[str], identity: Identity) -> Target:
    """Read what stands after the verb. Other names are those of parameters."""
    named: dict[str, str] = {}
    left = list(_OPERANDS[verb])
    known = {*left, "tonode"} if verb in {*ON_UNITS, Verb.SUBMIT} else set(left)
    known |= {"units"} if verb in ON_UNITS else set()
    for word in words:
        name, equals, value = word.partition("=")
        if equals and (name in known or verb is Verb.SUBMIT):
            named[name] = value
        elif left and not equals:
            named[left.pop(0)] = word
        else:
            takes = ", ".join(f"{one}=" for one in sorted(known)) or "nothing"
            raise _wrong(text, f"{quote(word)}: {verb} takes {takes}")
    units = named.pop("units", "own")
    if units not in {"own", "all"}:
        meaning = "own is a unit of the client's, all one of another's"
        raise _wrong(text, f"units={quote(units)}: {meaning}")
    return Target(
        node=named.pop("tonode", ""),
        work_type=named.pop("worktype", ""),
        service=named.pop("toservice", ""),
        owner=identity if units == "own" else None,
        params=named,
    )


def _wrong(text: str, problem: str) -> ConfigError:
    return ConfigError(f"--may {quote(text)}: {problem}")
