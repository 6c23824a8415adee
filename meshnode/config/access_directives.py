"""The directive of access: who may do what from where.

A rule that could mean less than it says is refused: a condition that no request of its verbs
meets, a client that never comes by its way. A rule that denies must not turn out to be about
nothing.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from meshnode.config.faults import FaultLog, quote, suggestion
from meshnode.config.kinds import Kind, choice, list_of, map_of, scalar_text, text
from meshnode.config.names import Wrong
from meshnode.config.schema import Directive, directive, parameter
from meshnode.permissions import (
    NUMBERS,
    ON_NODES,
    ON_UNITS,
    ON_WORK,
    TEXTS,
    AccessRule,
    Fact,
    TextPattern,
    Verb,
    Way,
    Who,
)

ANY: Final = "any"
"""Everybody, or every verb."""

MAX_ID: Final = 2**32 - 1
"""The highest number of a user or group."""

PARAMS: Final = "params"
"""The parameter that a command gets as its arguments."""

SIGNED: Final = ON_WORK | {Verb.ADOPT}
"""Verbs that can come with a signature."""

_NEXT_FACT: Final = re.compile(rf" and (?=(?:{'|'.join((*NUMBERS, *TEXTS))})=)")

_WAYS_OF: Final[Mapping[str, frozenset[Way]]] = MappingProxyType(
    {
        **dict.fromkeys(NUMBERS, frozenset({Way.SOCKET})),
        "node": frozenset({Way.MESH}),
        "token": frozenset({Way.TCP}),
        **dict.fromkeys(("subject", "certnode", "key"), frozenset({Way.TCP, Way.MESH})),
    }
)
"""The ways by which clients come of whom such a fact can be known."""


def parse_who(value: str, *, dot_is_any: bool = False) -> Who:
    """Return whom ``uid=1000``, ``node=bar and key=ops`` or ``any`` means. Raises Wrong."""
    if value == ANY:
        return ()
    who = tuple(_fact(part, dot_is_any=dot_is_any) for part in _NEXT_FACT.split(value))
    names = {fact.name for fact in who}
    is_torn = "token" in names and names & {"subject", "certnode"}
    if is_torn or not frozenset.intersection(*(_WAYS_OF[name] for name in names)):
        raise Wrong(f"{quote(value)} is nobody: no client is known by all of that")
    return who


def _fact(part: str, *, dot_is_any: bool) -> Fact:
    name, equals, value = part.partition("=")
    if name not in {*NUMBERS, *TEXTS} or not equals:
        hint = suggestion(name, (*NUMBERS, *TEXTS), otherwise=f"expected: {WHO_LABEL}")
        raise Wrong(f"{quote(part)} says of nobody who it is; {hint}")
    if name in TEXTS:
        return Fact(name, pattern=_parse_pattern(value, dot_is_any=dot_is_any))
    if not (value.isascii() and value.isdigit()) or len(value) > 10 or int(value) > MAX_ID:
        raise Wrong(f"{quote(value)} is not the number of a {'user' if name == 'uid' else 'group'}")
    return Fact(name, int(value))


def _parse_pattern(value: str, *, dot_is_any: bool = False) -> TextPattern:
    try:
        return TextPattern.parse(value, dot_is_any=dot_is_any)
    except ValueError as error:
        raise Wrong(str(error)) from None


def _checked(parse: Callable[[str], object], label: str, empty: str) -> Kind[str]:
    """A text that ``parse`` makes something of, as it was written."""

    def read(node: object) -> str:
        value = scalar_text(node, label)  # type: ignore[arg-type]
        if not value and empty:
            raise Wrong(empty)
        parse(value)
        return value

    return Kind(label, read)


WHO_LABEL: Final = "any, or uid=, gid=, subject=, certnode=, node=, key=, token= with a value"

WHO: Final = list_of(
    _checked(parse_who, WHO_LABEL, f"is empty; expected: {WHO_LABEL}"),
    f"list of {WHO_LABEL}; several in one item, with “and” between them, must all be so",
)


def _patterns(what: str) -> Kind[tuple[str, ...]]:
    # An empty variable of a template must not widen a rule.
    item = _checked(_parse_pattern, what, "is empty; leave the parameter out to mean every one")
    return list_of(item, f"list of {what}s")


def _params() -> Kind[Mapping[str, str]]:
    label = "text or /regular expression/"
    # An empty one is that of a submission without parameters.
    pattern = _checked(_parse_pattern, label, "")
    by_name = map_of(text("name of a parameter", least=1), pattern, f"map of names to {label}")
    whole = f"{label} for {PARAMS}, or a map of parameters to such patterns"

    def read(node: object) -> Mapping[str, str]:
        scalar = getattr(node, "value", None)
        if isinstance(scalar, str) and not scalar.startswith("{"):
            return MappingProxyType({PARAMS: pattern.read(node)})  # type: ignore[arg-type]
        found = by_name.read(node)  # type: ignore[arg-type]
        if not found:
            raise Wrong(f"is empty; expected: {whole}")
        return found

    return Kind(whole, read)


@directive(
    "access-rule",
    "Say who may do what from where. Of several the first that is about a request decides; once "
    "there is one, what no rule allows is refused.",
    section="Access",
    example=(
        ("action", "allow"),
        ("who", "uid=1000"),
        ("do", '["submit", "results"]'),
        ("units", "own"),
    ),
    claims={"access rule": ("name",)},
)
class AccessRuleDirective(Directive):
    """One rule, as it was written."""

    RELOADABLE = True

    action: str = parameter(choice(("allow", "deny")), "what becomes of requests that it is about")
    who: tuple[str, ...] = parameter(WHO, "whom it is about")
    verbs: tuple[str, ...] = parameter(
        list_of(choice((*Verb, ANY)), f"list of {', '.join(Verb)}, or {ANY}"),
        "which requests it is about",
        name="do",
    )
    ways: tuple[str, ...] = parameter(
        list_of(choice(tuple(Way)), f"list of {', '.join(Way)}"),
        "from where they come",
        default=(),
        default_text="anywhere",
        name="from",
    )
    worktype: tuple[str, ...] = parameter(
        _patterns("work type or /regular expression/"),
        "it is only about work of these types",
        default=(),
        default_text="all requests",
    )
    tonode: tuple[str, ...] = parameter(
        _patterns("node ID or /regular expression/"),
        "it is only about what is done at these nodes",
        default=(),
        default_text="all requests",
    )
    toservice: tuple[str, ...] = parameter(
        _patterns("service name or /regular expression/"),
        "it is only about connections to these services",
        default=(),
        default_text="all requests",
    )
    params: Mapping[str, str] = parameter(
        _params(),
        "it is only about submissions with such parameters; a rule that allows is about none with "
        "further ones",
        default_factory=lambda: MappingProxyType({}),
        default_text="all requests",
    )
    units: str = parameter(
        choice(("own", "all")),
        "of units, whether it is about those that the client has submitted or about all; a rule "
        "for results, list, status, cancel or release needs it",
        default="",
        default_text="none",
    )
    name: str = parameter(
        text("name of the rule"), "what the log calls it", default="", default_text="its place"
    )

    def __hash__(self) -> int:
        return hash((self.action, self.who, self.verbs, self.ways))

    @property
    def meant_verbs(self) -> frozenset[Verb]:
        """The verbs that it is about, as far as its other conditions let it."""
        if ANY not in self.verbs:
            return frozenset(map(Verb, self.verbs))
        return frozenset(verb for verb in Verb if not self._misfit(verb))

    def rule(self) -> AccessRule:
        """Return the rule that it means."""
        denies = self.action == "deny"

        def patterns(texts: Iterable[str]) -> tuple[TextPattern, ...]:
            return tuple(_parse_pattern(one, dot_is_any=denies) for one in texts)

        place = str(self.origin.place)
        return AccessRule(
            label=f"{quote(self.name)} ({place})" if self.name else place,
            allows=not denies,
            who=tuple(parse_who(one, dot_is_any=denies) for one in self.who),
            verbs=self.meant_verbs,
            ways=frozenset(map(Way, self.ways)) or frozenset(Way),
            work_types=patterns(self.worktype),
            nodes=patterns(self.tonode),
            services=patterns(self.toservice),
            params=MappingProxyType(
                {
                    name: _parse_pattern(pattern, dot_is_any=denies)
                    for name, pattern in self.params.items()
                }
            ),
            own_only=self.units == "own",
        )

    def _misfit(self, verb: Verb) -> str:
        """Return the condition that no request of that verb meets; empty if there is none."""
        about = (
            ("worktype", self.worktype, ON_WORK),
            ("tonode", self.tonode, ON_NODES),
            ("toservice", self.toservice, {Verb.CONNECT}),
            ("params", self.params, {Verb.SUBMIT}),
        )
        return next((name for name, given, verbs in about if given and verb not in verbs), "")

    def find_fault(self) -> tuple[str, str] | None:
        """Return the parameter that keeps the rule from meaning what it says, and why."""
        for verb in self.verbs:
            if verb != ANY and (name := self._misfit(Verb(verb))):
                return name, f"no request to {verb} has any; write a rule of its own for {verb}"
        if not self.meant_verbs:
            return "do", "no request meets all conditions of this rule"
        if self.meant_verbs & ON_UNITS and not self.units:
            verbs = ", ".join(verb for verb in Verb if verb in self.meant_verbs & ON_UNITS)
            return "units", f"is missing: own or all (units are what {verbs} can be asked of)"
        return self._find_nobody()

    def _find_nobody(self) -> tuple[str, str] | None:
        for one in self.who:
            facts = parse_who(one)
            ways = frozenset(map(Way, self.ways)) or frozenset(Way)
            for fact in facts:
                if not ways & _WAYS_OF[fact.name]:
                    comes = " or ".join(sorted(_WAYS_OF[fact.name]))
                    return "from", f"only clients from {comes} have a {fact.name}"
                if fact.name == "key" and not self.meant_verbs & SIGNED:
                    return "who", f"{quote(one)}: only what is asked of work can be signed"
        return None


ACCESS_DIRECTIVES: Final[tuple[type[Directive], ...]] = (AccessRuleDirective,)

MUST_NOT_BE_EMPTY: Final = frozenset({AccessRuleDirective.INFO.name})
"""Directives of which a file has one at least if it names them. An empty list of rules, as a
template leaves it, would let everybody do everything."""


def note_unreached(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Warn of each rule that never decides, since an earlier one is about all of it."""
    earlier: list[tuple[AccessRuleDirective, AccessRule]] = []
    for one in typed:
        if not isinstance(one, AccessRuleDirective):
            continue
        rule = one.rule()
        first = next((other for other, whole in earlier if _covers(whole, rule)), None)
        if first is not None:
            where = first.origin.place.seen_from(one.origin.place)
            text = f"never decides: the rule {where} is about all that this one is about"
            faults.warn(one.place_of(), one.INFO.name, text=text)
        earlier.append((one, rule))


def _covers(first: AccessRule, second: AccessRule) -> bool:
    """Whether a rule is certainly about all that another one is about."""
    is_limited = first.work_types or first.nodes or first.services or first.params
    touches_units = second.verbs & ON_UNITS
    return (
        not is_limited
        and (() in first.who or set(first.who) >= set(second.who))
        and first.verbs >= second.verbs
        and first.ways >= second.ways
        and (not first.own_only or second.own_only or not touches_units)
    )


def check_rules(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note each rule that does not mean what it says."""
    for one in typed:
        if not isinstance(one, AccessRuleDirective):
            continue
        if fault := one.find_fault():
            name, problem = fault
            faults.add(one.place_of(name), one.INFO.name, name, text=problem)
            continue
        try:
            # A rule that denies has other expressions than those that were tried: they may need
            # more memory.
            one.rule()
        except Wrong as wrong:
            faults.add(one.place_of(), one.INFO.name, text=str(wrong))
