"""Whether a client may do what it asks for: one pure, total function of rules and request.

The first rule that is about a request decides. A node without rules lets everybody do what receptor
lets them; one with any rule refuses what no rule allows. Rules only take away: what a signature or
``allowforwarding`` is needed for, it is needed for as well.

Nothing here does anything. :mod:`meshnode.control.registry` and :mod:`meshnode.work.units.access`
ask, each in one place, before a command does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from meshnode.errors import NotAllowed
from meshnode.logs import subject_logger
from meshnode.permissions import ON_UNITS, AccessRule, Fact, TextPattern, Verb, Way, Who
from meshnode.security.identity import (
    Identity,
    MeshClient,
    TcpClient,
    TokenClient,
    UnixClient,
    shown_text,
)

MAX_SHOWN: Final = 100
"""Characters of a client's own text that a line of the log repeats."""

LOCALHOST: Final = "localhost"
"""What every node calls itself, in any case."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, from where, and with which key it has signed what it asks for."""

    identity: Identity
    way: Way
    key: str = ""
    """Name of the key; empty if nothing was signed, or nobody has checked it."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for; what a verb has no use for stays empty.

    A unit or submission that is for another node has that node, and the type of work there.
    """

    node: str = ""
    work_type: str = ""
    service: str = ""
    params: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    owner: Identity | None = None
    """Who has submitted the unit; None is nobody that is known."""
    unit_id: str = ""
    any_params: bool = False
    """Whether it is asked of submissions with whatever parameters: may there be one?"""

    def as_seen_by(self, own_id: str) -> "Target":
        """Return it with the ID of this node, where it has only been called ``localhost``."""
        return replace(self, node=own_id) if self.node.lower() == LOCALHOST else self

    def __str__(self) -> str:
        words = (self.unit_id, self.work_type, self.service, self.node and f"at {self.node}")
        return " ".join(shown_text(word, MAX_SHOWN) for word in words if word)


class Grounds(StrEnum):
    """On what a request was refused, in a word."""

    RULE = "rule"
    """A rule denies it."""
    NO_RULE = "no rule"
    """No rule allows it."""
    UNREADABLE = "unreadable"
    """It has a text that no pattern can be compared with."""
    OTHERS = "others"
    """The unit was submitted here for another node."""
    FORWARDING = "forwarding"
    """It is for another node, and came from the mesh."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided of a request, and by which rule."""

    asker: Asker
    verb: Verb
    target: Target
    allowed: bool
    rule: AccessRule | None = None
    """The rule that has decided; None if there are none, or none is about the request."""
    is_unreadable: bool = False
    """Whether the request has a text that no pattern can be compared with."""
    is_others: bool = False
    """Whether it is refused because the unit was submitted here for another node."""

    @property
    def label(self) -> str:
        """What the logs call the rule that has decided; empty if none has."""
        return "" if self.rule is None else self.rule.label

    @property
    def grounds(self) -> Grounds:
        """On what it was decided, if it was refused."""
        if self.is_others:
            return Grounds.OTHERS
        if self.rule is not None:
            return Grounds.RULE
        return Grounds.UNREADABLE if self.is_unreadable else Grounds.NO_RULE

    @property
    def reason(self) -> str:
        """Why it was decided so, for the log: a client is told less."""
        if self.is_others:
            return "the unit was submitted here for another node"
        if self.rule is not None:
            return f"{'allowed' if self.rule.allows else 'denied'} by rule {self.rule.label}"
        if self.is_unreadable:
            return "it has a text that is not UTF-8, so no rule can be asked"
        return "there are no rules" if self.allowed else "no rule allows it"

    def __str__(self) -> str:
        what = f"{self.verb} {self.target}".rstrip()
        return f"{what}: {self.asker.way} client {self.asker.identity}: {self.reason}"


def decide(
    rules: Iterable[AccessRule], asker: Asker, verb: Verb, target: Target | None
) -> Decision:
    """Return whether a client may do something; no input makes it fail.

    ``target`` None asks whether there is anything at all to which it may do that.
    """
    return decider(rules, asker, verb)(target)


def decider(
    rules: Iterable[AccessRule], asker: Asker, verb: Verb
) -> Callable[[Target | None], Decision]:
    """Return what decides as :func:`decide` does, of one target after the other.

    Which rules are about the client and the verb is found out once: a list may have thousands of
    units, and a file a hundred rules.
    """
    rules = tuple(rules)
    is_known = all(map(_is_utf8, _texts_of(asker)))
    about = [rule for rule in rules if is_known and _is_about(rule, asker, verb)]

    def decide_of(target: Target | None) -> Decision:
        seen = target or Target()
        if not rules:
            return Decision(asker, verb, seen, allowed=True)
        if not (is_known and all(map(_is_utf8, _texts_in(seen)))):
            # A rule that denies could not be compared, and a later one would allow.
            return Decision(asker, verb, seen, allowed=False, is_unreadable=True)
        for rule in about:
            if _is_for(rule, asker, verb, target):
                return Decision(asker, verb, seen, allowed=rule.allows, rule=rule)
        return Decision(asker, verb, seen, allowed=False)

    return decide_of


def may_all(rules: Iterable[AccessRule], asker: Asker, verb: Verb) -> bool:
    """Whether a client may do something to whatever there is: the first rule that is about all
    allows it, and none before it denies any."""
    rules = tuple(rules)
    if not (rules and all(map(_is_utf8, _texts_of(asker)))):
        return not rules
    for rule in rules:
        if not _is_about(rule, asker, verb):
            continue
        if not rule.allows:
            return False
        is_limited = rule.work_types or rule.nodes or rule.services or rule.params
        if not (is_limited or rule.own_only):
            return True
    return False


def is_own(asker: Identity, owner: Identity | None) -> bool:
    """Whether two identities are the same one, whatever process or connection it has now.

    A user is its uid, a node its ID, a client with a token the token's name, another client of TCP
    whom its certificate names. Without one, or with one that names nobody, it is nobody: whoever
    comes next may have the same. Claims of nodes count for nothing. What a node has submitted that
    showed a certificate is not that of one who only says to be that node: it shows a certificate of
    that node, or the same one.
    """
    match asker, owner:
        case UnixClient(), UnixClient():
            return asker.uid == owner.uid
        case MeshClient(), MeshClient():
            return asker.node == owner.node and _has_shown(asker, owner)
        case TokenClient(), TokenClient():
            return asker.name == owner.name
        case TcpClient(), TcpClient():
            shown = asker.certificate
            return shown is not None and shown.names_anybody and shown == owner.certificate
    return False


def _has_shown(asker: MeshClient, owner: MeshClient) -> bool:
    """Whether a client has proved as much as the owner to be the node that both say they are."""
    if owner.certificate is None:
        return True
    # A listener that does not require certificates takes any of its CA, whoever comes with it.
    shown = asker.certificate
    if shown is None:
        return False
    return asker.node in shown.nodes or (shown.names_anybody and shown == owner.certificate)


def _is_about(rule: AccessRule, asker: Asker, verb: Verb) -> bool:
    is_asked = verb in rule.verbs and asker.way in rule.ways
    return is_asked and any(_is_who(who, asker) for who in rule.who)


def _is_who(who: Who, asker: Asker) -> bool:
    return all(_is_so(fact, asker) for fact in who)


def _is_so(fact: Fact, asker: Asker) -> bool:
    identity, pattern = asker.identity, fact.pattern
    if pattern is None:
        if not isinstance(identity, UnixClient):
            return False
        return fact.number == (identity.uid if fact.name == "uid" else identity.gid)
    match fact.name:
        case "node":
            return isinstance(identity, MeshClient) and pattern.matches(identity.node)
        case "token":
            return isinstance(identity, TokenClient) and pattern.matches(identity.name)
        case "key":
            return bool(asker.key) and pattern.matches(asker.key)
    certificate = identity.certificate if isinstance(identity, MeshClient | TcpClient) else None
    if certificate is None:
        return False
    if fact.name == "subject":
        return pattern.matches(certificate.subject)
    return any(pattern.matches(node) for node in certificate.nodes)


def _is_for(rule: AccessRule, asker: Asker, verb: Verb, target: Target | None) -> bool:
    """Whether a rule that is about a client and verb is about the target as well."""
    if target is None:
        # It may allow something, and what it denies need not be all.
        is_for_all = not (rule.work_types or rule.nodes or rule.services or rule.params)
        return rule.allows or (is_for_all and not rule.own_only)
    if verb in ON_UNITS and rule.own_only and not is_own(asker.identity, target.owner):
        return False
    named = (
        (rule.work_types, target.work_type),
        (rule.nodes, target.node),
        (rule.services, target.service),
    )
    # A verb without a type, node or service has an empty one, which no condition means.
    if not all(_is_one_of(patterns, text) for patterns, text in named if patterns):
        return False
    if not rule.params or verb is not Verb.SUBMIT:
        return not rule.params
    # With other parameters another rule may decide, but of some this one does.
    return rule.allows if target.any_params else _has_params(rule, target.params)


def _is_one_of(patterns: Iterable[TextPattern], text: str) -> bool:
    return bool(text) and any(pattern.matches(text) for pattern in patterns)


def _has_params(rule: AccessRule, params: Mapping[str, str]) -> bool:
    if rule.allows and not params.keys() <= rule.params.keys():
        return False
    return all(pattern.matches(params.get(name, "")) for name, pattern in rule.params.items())


def _texts_of(asker: Asker) -> Iterator[str]:
    """Return what patterns may be compared with of a client."""
    yield asker.key
    identity = asker.identity
    if isinstance(identity, MeshClient):
        yield identity.node
    if isinstance(identity, TokenClient):
        yield identity.name
    if isinstance(identity, MeshClient | TcpClient) and identity.certificate:
        yield identity.certificate.subject
        yield from identity.certificate.nodes


def _texts_in(target: Target) -> Iterator[str]:
    """Return what patterns may be compared with of what is asked for."""
    yield from (target.node, target.work_type, target.service)
    yield from target.params
    yield from target.params.values()


def _is_utf8(text: str) -> bool:
    # JSON has escapes for halves of characters, which are in no text.
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- The rules of a node, at this moment


NO_RULES: Final = AccessRule(label="", allows=True, who=((),), verbs=frozenset(Verb))
"""Stands for the rules of a node that has none."""

Sink = Callable[[Decision], None]
"""Is told of each request that is refused. It must not raise.

The parameters of a submission may be a megabyte, and secret: they are not to be kept or shown."""


@dataclass(slots=True, eq=False)
class AccessRules:
    """The rules of a node; a reload puts others in their place."""

    rules: tuple[AccessRule, ...] = ()
    sink: Sink | None = None
    tells: bool = True
    """Whether refusals are logged."""
    refusals: Counter[tuple[Verb, Grounds]] = field(default_factory=Counter)
    """How often a client was refused something, by what it asked and on what grounds."""
    bounds: tuple[AccessRule, ...] = ()
    """What tokens do not let their clients do, whatever the rules are."""

    def __bool__(self) -> bool:
        """Whether there are any: without, nothing need be asked."""
        return bool(self.rules or self.bounds)

    @property
    def asked(self) -> tuple[AccessRule, ...]:
        """What decides, in this order. Bounds alone take nothing from others than they mean."""
        return (*self.bounds, *(self.rules or (NO_RULES,))) if self.bounds else self.rules

    @property
    def know_keys(self) -> bool:
        """Whether it can matter by which key a request is signed."""
        return any(fact.name == "key" for rule in self.rules for who in rule.who for fact in who)

    def silent(self) -> "AccessRules":
        """Return the rules of this moment, to be asked without a word to anybody."""
        return AccessRules(self.rules, tells=False, bounds=self.bounds)

    def may(self, asker: Asker, verb: Verb, target: Target | None) -> bool:
        """Whether a client may do something, without telling anybody that this was asked."""
        return decide(self.asked, asker, verb, target).allowed

    def decider(self, asker: Asker, verb: Verb) -> Callable[[Target | None], Decision]:
        """Return what says of one target after the other whether a client may; nobody is told."""
        return decider(self.asked, asker, verb)

    def may_all(self, asker: Asker, verb: Verb) -> bool:
        """Whether a client may do something to whatever there is, without telling anybody."""
        return may_all(self.asked, asker, verb)

    def judge(self, asker: Asker, verb: Verb, target: Target | None) -> Decision:
        """Decide what a client asks for; log it if it is refused, and tell the sink."""
        decision = decide(self.asked, asker, verb, target)
        if not decision.allowed:
            self.tell(decision)
        return decision

    def tell(self, refusal: Decision) -> None:
        """Log a refusal, and tell the sink."""
        if self.tells:
            self.count(refusal.verb, refusal.grounds)
            subject_logger("access").warning("refused %s", refusal)
            if self.sink is not None:
                self.sink(refusal)

    def count(self, verb: Verb, grounds: Grounds) -> None:
        """Count a refusal, also one that needs no rules."""
        self.refusals[verb, grounds] += 1

    def require(self, asker: Asker, verb: Verb, target: Target | None) -> str:
        """Return which rule lets a client do what it asks for; empty where there are none.

        Raises:
            NotAllowed: none does.
        """
        if not self:
            return ""
        decision = self.judge(asker, verb, target)
        if not decision.allowed:
            raise NotAllowed(f"{verb} {target or ''}".rstrip())
        return decision.label
