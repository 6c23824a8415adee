"""The arguments of typed jobs, as values: what each is called, and what it may be.

An operator describes them, a client gives a text for each name. What the description does not allow
is refused before anything is started. Where the values go is in :mod:`meshnode.templates`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from meshnode.policies import compile_re2

MAX_ARGUMENTS: Final = 64
"""Arguments of one type of work; more are a file, and belong into the payload."""

MAX_CHOICES: Final = 256
"""Choices of one argument, which every description repeats."""

MAX_NAME: Final = 63
"""Characters of an argument's name."""

MAX_TEXT: Final = 200
"""Characters of one choice, and of a line of help."""

SHOWN_CHOICES: Final = 8
"""Choices that a usage line names; the description has all."""

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

TRUE: Final = frozenset({"true", "yes", "on", "1", "t", "y"})
FALSE: Final = frozenset({"false", "no", "off", "0", "f", "n"})
"""Words for true and false, as in configurations."""

_WHOLE: Final = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
"""Decimal, and a number that every program can hold: ``010`` is ten to some and eight to others."""

_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")

MAX_DIGITS: Final = 100
"""Characters of a number with a fraction: far more than any program reads of it."""


class ArgumentType(StrEnum):
    """What kind of value an argument has."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STR = "str"
    PATH = "path"
    CHOICE = "choice"


NUMBERS: Final = frozenset({ArgumentType.INT, ArgumentType.FLOAT})
"""The types that have a least and a largest value."""

TEXTS: Final = frozenset({ArgumentType.STR, ArgumentType.PATH})
"""The types that may have any text, and so may have a pattern."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a whole value must match: an expression of RE2. Two of the same text are equal."""

    text: str
    _regex: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pattern. Raises ValueError: it is none; the text continues a line."""
        return cls(text, compile_re2(text, dot_is_any=True))

    def matches(self, value: str) -> bool:
        """Whether all of ``value`` is what the pattern means."""
        try:
            return self._regex.fullmatch(value) is not None
        except UnicodeEncodeError:
            return False  # half a character is no text


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: its name, and what its value may be."""

    name: str
    type: ArgumentType = ArgumentType.STR
    required: bool = False
    default: str | None = None
    """The value where none is given, as it reaches the command."""
    least: float | None = None
    most: float | None = None
    pattern: Pattern | None = None
    choices: tuple[str, ...] = ()
    help: str = ""

    @property
    def has_value(self) -> bool:
        """Whether there is always a value."""
        return self.required or self.default is not None

    @property
    def placeholder(self) -> str:
        """What stands for the value in a usage line."""
        match self.type:
            case ArgumentType.BOOL:
                return "true|false"
            case ArgumentType.CHOICE:
                more = "|…" if len(self.choices) > SHOWN_CHOICES else ""
                return "|".join(self.choices[:SHOWN_CHOICES]) + more
            case ArgumentType.STR:
                return "TEXT"
            case ArgumentType.FLOAT:
                return "NUMBER"
            case _:
                return self.type.value.upper()

    def value(self, text: str) -> str:
        """Return the value that a client's text means, as it reaches the command.

        Raises:
            ValueError: it is none; the text continues a line that names the argument.
        """
        if "\0" in text:
            raise ValueError("has a NUL character, which no program can be given")
        match self.type:
            case ArgumentType.INT:
                return self._whole(text)
            case ArgumentType.FLOAT:
                return self._number(text)
            case ArgumentType.BOOL:
                return self._truth(text)
            case ArgumentType.CHOICE:
                if text not in self.choices:
                    raise ValueError(f"{quoted(text)} is not one of {', '.join(self.choices)}")
            case ArgumentType.PATH:
                _check_path(text)
        if self.pattern is not None and not self.pattern.matches(text):
            raise ValueError(f"{quoted(text)} does not match {self.pattern.text}")
        return text

    def _whole(self, text: str) -> str:
        if not _WHOLE.fullmatch(text):
            raise ValueError(f"{quoted(text)} is not a whole number of at most 18 digits")
        self._check_range(int(text), text)
        return str(int(text))

    def _number(self, text: str) -> str:
        if len(text) > MAX_DIGITS or not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
            raise ValueError(f"{quoted(text)} is not a number")
        self._check_range(float(text), text)
        return text

    def _check_range(self, number: float, text: str) -> None:
        if self.least is not None and number < self.least:
            raise ValueError(f"{text} is less than {shown_number(self.least)}")
        if self.most is not None and number > self.most:
            raise ValueError(f"{text} is more than {shown_number(self.most)}")

    def _truth(self, text: str) -> str:
        if text.lower() not in TRUE | FALSE:
            raise ValueError(f"{quoted(text)} is neither true nor false")
        return "true" if text.lower() in TRUE else "false"

    def described(self) -> dict[str, Any]:
        """Return what a client is told of the argument."""
        return {
            "Name": self.name,
            "Type": self.type.value,
            "Required": self.required,
            "Default": self.default,
            "Min": self.least,
            "Max": self.most,
            "Pattern": None if self.pattern is None else self.pattern.text,
            "Choices": list(self.choices),
            "Help": self.help,
        }


def _check_path(text: str) -> None:
    if not text:
        raise ValueError("is empty, and no path")
    if text.startswith("-"):
        raise ValueError(f"{quoted(text)} would be taken for an option; write ./{text[:MAX_NAME]}")
    if ".." in text.split("/"):
        raise ValueError(f"{quoted(text)} leads out of a directory by ..; write the path without")


def quoted(text: str) -> str:
    """Repeat a client's own text: one printable line, cut where it is long."""
    shown = text[:MAX_NAME] + ("…" if len(text) > MAX_NAME else "")
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown) + '"'


def shown_number(number: float) -> str:
    """Write a bound as an operator would."""
    return str(number) if isinstance(number, int) else f"{number:g}"


# --- All arguments of a type -------------------------------------------------------------------


def fill(arguments: Iterable[Argument], given: Mapping[str, str]) -> dict[str, str]:
    """Return a value for each argument that has one: the client's, or the default.

    Raises:
        ValueError: one is unknown, missing or wrong; the text names it.
    """
    known = {argument.name: argument for argument in arguments}
    for name in given:
        if name not in known:
            raise ValueError(unknown(name, known))
    values: dict[str, str] = {}
    for name, argument in known.items():
        if name in given:
            try:
                values[name] = argument.value(given[name])
            except ValueError as error:
                raise ValueError(f"argument {name}: {error}") from None
        elif argument.required:
            raise ValueError(f"argument {name} is missing")
        elif argument.default is not None:
            values[name] = argument.default
    return values


def unknown(name: str, known: Mapping[str, Argument]) -> str:
    """Return what to say of a name that no argument has."""
    import difflib  # noqa: PLC0415  # most submissions name what there is

    text = f"there is no argument {quoted(name)}"
    near = difflib.get_close_matches(name[: 2 * MAX_NAME], known, 1)
    if near:
        return f"{text}; did you mean {near[0]}?"
    return text if known else f"{text}: the type takes none"


def usage(work_type: str, arguments: Iterable[Argument]) -> str:
    """Return how a submission of the type is written, in one line; what must be given is first."""
    in_order = sorted(arguments, key=lambda argument: not argument.required)
    words = [f"--arg {argument.name}={argument.placeholder}" for argument in in_order]
    shown = [
        word if argument.required else f"[{word}]"
        for argument, word in zip(in_order, words, strict=True)
    ]
    return " ".join(["meshctl work submit", work_type, *shown])
