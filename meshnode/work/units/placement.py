"""What a submission says of the node that it may run on, and a status of the host it has run on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from meshnode.config.names import MAX_LABELS
from meshnode.errors import CommandError
from meshnode.security.identity import shown_text
from meshnode.work.units.labels import is_label

MAX_SELECTORS = MAX_LABELS
"""Selectors of one submission: as many as a node has labels."""


MAX_HOST = 100
"""Characters of the name of a host, as in the configuration."""

MAX_REASON = 200
"""Characters of why it was that host."""


class Rule(StrEnum):
    """How one of several nodes is chosen."""

    ANY = "any"
    """The nearest: whose route costs least."""
    RANDOM = "random"
    """Each with the same chance."""
    LEAST = "least"
    """The one with the fewest units of the type that run or wait there."""


@dataclass(frozen=True, slots=True)
class Selector:
    """A label that a node must have, or must not: ``gpu=1``, ``zone!=b``, ``gpu``, ``!gpu``.

    ``value`` None is any value. As in Kubernetes, a node without the label meets ``zone!=b``.
    """

    name: str
    value: str | None
    wanted: bool

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels may be chosen."""
        found = labels.get(self.name)
        matches = found is not None if self.value is None else found == self.value
        return matches == self.wanted

    @property
    def excludes(self) -> str:
        """What is wrong with nodes that are not admitted: ``lack label gpu=1``."""
        text = self.name if self.value is None else f"{self.name}={self.value}"
        return f"lack label {text}" if self.wanted else f"have label {text}"

    def __str__(self) -> str:
        if self.value is None:
            return self.name if self.wanted else f"!{self.name}"
        return f"{self.name}{'=' if self.wanted else '!='}{self.value}"


@dataclass(frozen=True, slots=True)
class Placement:
    """What a submission says of where it may run."""

    rule: Rule
    selectors: tuple[Selector, ...] = ()

    def to_json(self) -> dict[str, str]:
        """Return the keys of a record that say the same."""
        labels = {"PlacementLabels": selectors_text(self.selectors)} if self.selectors else {}
        return {"Placement": str(self.rule), **labels}

    def __str__(self) -> str:
        return f"{self.rule}{''.join(f', {selector}' for selector in self.selectors)}"


@dataclass(frozen=True, slots=True)
class ChosenHost:
    """The host without a node that a unit runs on, or ran on, and why it was that one."""

    name: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Return the object that :func:`host_from_json` reads."""
        return {"Name": self.name, "Chosen": self.reason}


def host_from_json(data: object) -> ChosenHost | None:
    """Return a host as a status has it, None if it is none. Total: other nodes send them, too."""
    if not isinstance(data, dict):
        return None
    name, reason = data.get("Name"), data.get("Chosen")
    if not isinstance(name, str) or not name or not isinstance(reason, str):
        return None
    return ChosenHost(shown_text(name, MAX_HOST), shown_text(reason, MAX_REASON))


_SELECTOR = re.compile(r"(?P<no>!?)(?P<name>[^=!]+)(?:(?P<how>!?=)(?P<value>(?!=).*))?", re.DOTALL)
"""No value begins with ``=``: whoever writes ``==`` means what Kubernetes does."""


def parse_placement(rule: str, selectors: str) -> Placement:
    """Return what the keys of a submission say; selectors have commas between them.

    Raises:
        CommandError: they are none.
    """
    try:
        chosen = Rule(rule)
    except ValueError:
        names = ", ".join(Rule)
        raise CommandError(
            f"field placement is {rule[:32]!r}, and must be one of {names}"
        ) from None
    words = selectors.split(",") if selectors else []
    if len(words) > MAX_SELECTORS:
        raise CommandError(f"a submission has at most {MAX_SELECTORS} labels to choose a node by")
    return Placement(chosen, tuple(map(parse_selector, words)))


def parse_selector(text: str) -> Selector:
    """Return one selector. Raises CommandError if it is none."""
    match = _SELECTOR.fullmatch(text.strip())
    is_one = match is not None and not (match["no"] and match["how"])
    if match is None or not is_one or not is_label(match["name"], match["value"] or ""):
        raise CommandError(
            f"{text[:80]!r} chooses no nodes by a label: "
            "write NAME=VALUE, NAME!=VALUE, NAME or !NAME"
        )
    return Selector(match["name"], match["value"], not match["no"] and match["how"] != "!=")


def selectors_text(selectors: Iterable[Selector]) -> str:
    """Return the text from which :func:`parse_placement` makes these selectors."""
    return ",".join(map(str, selectors))
