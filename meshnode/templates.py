"""Where the values of arguments go: an operator's words with ``{name}`` in them.

A value becomes part of one word, whatever is in it: no shell and no splitting comes behind.

``{name}``         the value, alone or within a word (``--position={name}``); without a value the
                   whole word is left out.
``{name:WORD}``    a word of its own: of a bool, WORD where it is true; of all others the two words
                   WORD and the value; nothing otherwise.
``{{`` and ``}}``  a brace.

What could mean two things is refused when the configuration is read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

from meshnode.arguments import Argument, ArgumentType, fill, quoted, unknown

_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """A value within a word; ``option`` is the WORD of ``{name:WORD}``."""

    argument: Argument
    option: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateWord:
    """One word of a command as an operator wrote it: texts, and what stands between them."""

    parts: tuple[str | Reference, ...]

    @property
    def references(self) -> Iterator[Reference]:
        """The references in it, in order."""
        return (part for part in self.parts if isinstance(part, Reference))

    def expand(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the words that it becomes: none, one, or an option and its value."""
        if any(one.argument.name not in values for one in self.references):
            return ()
        match self.parts:
            case (Reference(argument=argument, option=str(option)),):
                if argument.type is ArgumentType.BOOL:
                    return (option,) if values[argument.name] == "true" else ()
                return (option, values[argument.name])
        texts = (p if isinstance(p, str) else values[p.argument.name] for p in self.parts)
        return ("".join(texts),)


@dataclass(frozen=True, slots=True)
class Template:
    """The words of a command with arguments; made by :meth:`parse`."""

    arguments: tuple[Argument, ...]
    words: tuple[TemplateWord, ...]

    @classmethod
    def parse(cls, words: Iterable[str], arguments: Iterable[Argument]) -> Self:
        """Return the template that an operator's words mean.

        Raises:
            ValueError: they could mean two things, or nothing; the text continues a line that names
                what holds the words.
        """
        known = {argument.name: argument for argument in arguments}
        parsed = tuple(_parse_word(word, known) for word in words)
        _check_unambiguous(parsed)
        used = {reference.argument.name for word in parsed for reference in word.references}
        for name in known:
            if name not in used:
                raise ValueError(f"has no {{{name}}}, so the argument would have no effect")
        return cls(tuple(known.values()), parsed)

    def expand(self, given: Mapping[str, str]) -> tuple[str, ...]:
        """Return the words for what a client gives. Raises ValueError, as :func:`fill`."""
        values = fill(self.arguments, given)
        return tuple(part for word in self.words for part in word.expand(values))


def _parse_word(word: str, known: Mapping[str, Argument]) -> TemplateWord:
    parts: list[str | Reference] = []
    for match in _TOKEN.finditer(word):
        token = match[0]
        if match[1] is not None:
            parts.append(_reference(match[1], known, is_whole=token == word))
        elif token in {"{", "}"}:
            raise ValueError(f"{quoted(word)} has a single {token}; write {token * 2} for a brace")
        else:
            text = token[0] if token in {"{{", "}}"} else token
            if parts and isinstance(parts[-1], str):
                text = str(parts.pop()) + text
            parts.append(text)
    return TemplateWord(tuple(parts or [""]))


def _reference(inner: str, known: Mapping[str, Argument], *, is_whole: bool) -> Reference:
    name, colon, option = inner.partition(":")
    if name not in known:
        remedy = f"; write {{{{{inner}}}}} for the text itself"
        raise ValueError(f"{{{quoted(inner)[1:-1]}}}: {unknown(name, known)}{remedy}")
    if not colon:
        return Reference(known[name])
    if not is_whole:
        raise ValueError(f"{{{inner}}} is an option with its value, and must be a word of its own")
    if not option:
        raise ValueError(f"{{{inner}}} names no option; write {{{name}}}, or {{{name}:--{name}}}")
    return Reference(known[name], option)


def _check_unambiguous(words: Iterable[TemplateWord]) -> None:
    """Refuse a word that may go and leave something behind that was meant for it."""
    before = ""
    for word in words:
        first, *rest = word.parts
        text = first if isinstance(first, str) else ""
        references = list(word.references)
        open_ones = [one.argument.name for one in references if not one.argument.has_value]
        if open_ones and len(references) > 1:
            raise ValueError(
                f"has a word with {{{open_ones[0]}}} and another argument, and {open_ones[0]} may "
                "have no value: give it a default, or a word of its own"
            )
        is_option = text.startswith("-") or any(one.option for one in references)
        if open_ones and before and not is_option:
            name = open_ones[0]
            raise ValueError(
                f"has {before}, which would stay without a value where {name} has none: write "
                f'"{{{name}:{before}}}" in place of both words, give {name} a default, or put -- '
                "between them"
            )
        before = "" if rest or "=" in text or not text.strip("-") else text
        before = before if before.startswith("-") else ""
