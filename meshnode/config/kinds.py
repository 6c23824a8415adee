"""The kinds of values that parameters take: how each is read, described and shown.

A kind reads a YAML node, not a Python value: the text as it was written decides (``0600`` stays
``0600``, ``id: 007`` stays ``007``), and an argument is simply a node without a line.
"""

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

import durationpy
import yaml

from meshnode.config.faults import quote
from meshnode.config.names import Wrong, check_node_id, expand_path

T = TypeVar("T")

STANDARD = "tag:yaml.org,2002:"
NULL_TAG = STANDARD + "null"
TEXT_TAGS = frozenset(
    STANDARD + name for name in ("str", "int", "float", "bool", "timestamp", "value", "merge")
)
"""Tags of scalars whose text may be taken as it stands; ``!!binary`` and own tags may not."""

WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
"""Decimal only: YAML reads ``010`` as eight, people read it as ten; it is refused."""

SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
"""Two escapes that are one character in JSON, which YAML keeps apart."""

OCTAL = re.compile(r"0o?([0-7]{3})")
ALL_PERMISSIONS = 0o777
UNIT_OF_DURATION = re.compile(r"[a-zµμ]")

SIZE = re.compile(r"([0-9]{1,15})\s*([a-zA-Z]*)")
UNITS_OF_SIZE: Mapping[str, int] = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
}
"""Bytes in each unit, in lower case: ``4096``, ``2GB``, ``100MiB``."""

COST_IN_RECEPTOR = "connection cost must be positive"
"""What receptor says of a cost that is not above 0."""

TRUE = frozenset({"true", "yes", "on", "1", "t", "y"})
FALSE = frozenset({"false", "no", "off", "0", "f", "n"})
"""Words for true and false: YAML's, and those that receptor takes besides."""


class WrongPart(Wrong):
    """A value is wrong at a part of it that has a line of its own."""

    def __init__(self, text: str, node: yaml.Node, *, receptors_words: str = "") -> None:
        super().__init__(text, receptors_words=receptors_words)
        self.node = node


OnDisk = Literal["", "file", "dir"]


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of value.

    Attributes:
        label: what it is, for help and faults, e.g. ``whole number from 0 to 65535``.
        read: makes the typed value of a node; raises Wrong.
        show: writes a default as a user would write the value.
        repeatable: whether an argument may be given several times to name several.
        words: all values that there are, where those are few.
        on_disk: ``file`` or ``dir`` where the value is the path of one.
        refers_to: the directive whose name the value is.
    """

    label: str
    read: Callable[[yaml.Node], T]
    show: Callable[[T], str] = str
    repeatable: bool = False
    words: tuple[str, ...] = ()
    on_disk: OnDisk = ""
    refers_to: str = ""


def scalar_text(node: yaml.Node, label: str) -> str:
    """Return the text of a scalar as it was written.

    Raises:
        Wrong: the node is a list, a map, empty, or of a tag that changes what the text means.
    """
    if isinstance(node, yaml.SequenceNode):
        raise Wrong(f"is a list; expected: {label}")
    if isinstance(node, yaml.MappingNode):
        raise Wrong(f"is a map; expected: {label}")
    if node.tag == NULL_TAG:
        raise Wrong(f"has no value; expected: {label}")
    if node.tag not in TEXT_TAGS:
        raise Wrong(f"has the tag {quote(node.tag)}; expected: {label}")
    return SURROGATES.sub(_joined, str(node.value))


def _joined(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


def text(
    label: str = "text",
    check: Callable[[str], str] = str,
    *,
    least: int = 0,
    on_disk: OnDisk = "",
) -> Kind[str]:
    """Text of at least ``least`` characters that passes ``check``, without NUL bytes."""

    def read(node: yaml.Node) -> str:
        value = scalar_text(node, label)
        if len(value) < least:
            raise Wrong(f"is empty; expected: {label}")
        if "\0" in value:
            raise Wrong("has a NUL character, which no program can be given")
        return check(value)

    return Kind(label, read, on_disk=on_disk)


def node_id() -> Kind[str]:
    """The ID of a node."""
    return text("node ID", check_node_id)


def path(label: str = "directory") -> Kind[Path]:
    """A path; relative ones are relative to where the node is started, ``~`` is a user's home."""
    inner = text(label, expand_path, least=1)
    on_disk: OnDisk = "dir" if label == "directory" else "file"
    return Kind(label, lambda node: Path(inner.read(node)), on_disk=on_disk)


def whole(least: int, most: int) -> Kind[int]:
    """A decimal whole number, quoted or not."""
    label = f"whole number from {least} to {most}"

    def read(node: yaml.Node) -> int:
        value = scalar_text(node, label)
        if not WHOLE.fullmatch(value):
            raise Wrong(f"{quote(value)} is not a {label}")
        if not least <= int(value) <= most:
            raise Wrong(f"{value} is out of range; expected: {label}")
        return int(value)

    return Kind(label, read)


def link_cost() -> Kind[float]:
    """A finite number above 0, quoted or not."""
    label = "number above 0"

    def read(node: yaml.Node) -> float:
        value = scalar_text(node, label)
        try:
            number = float(value) if value.isascii() and "_" not in value else math.nan
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            words = COST_IN_RECEPTOR if number <= 0 else ""
            raise Wrong(f"{quote(value)} is not a {label}", receptors_words=words)
        return number

    return Kind(label, read, lambda value: f"{value:g}")


def boolean() -> Kind[bool]:
    """A word for true or false, any case, quoted or not."""
    label = "true or false"

    def read(node: yaml.Node) -> bool:
        value = scalar_text(node, label)
        if value.lower() not in TRUE | FALSE:
            raise Wrong(f"{quote(value)} is neither true nor false")
        return value.lower() in TRUE

    return Kind(label, read, lambda value: str(value).lower(), words=("true", "false"))


def choice(names: Sequence[str]) -> Kind[str]:
    """One of some lower-case names, written in any case."""
    label = "one of " + ", ".join(names)

    def read(node: yaml.Node) -> str:
        value = scalar_text(node, label)
        if value.lower() not in names:
            raise Wrong(f"{quote(value)} is not {label}")
        return value.lower()

    return Kind(label, read, words=tuple(names))


def duration(least: float, least_text: str) -> Kind[float]:
    """A duration in Go's grammar, as seconds; at least ``least`` seconds."""
    label = f"duration such as 30s or 1h30m, at least {least_text}"

    def read(node: yaml.Node) -> float:
        value = scalar_text(node, label)
        if not UNIT_OF_DURATION.search(value):
            raise Wrong(f"{quote(value)} has no unit; expected: {label}")
        try:
            seconds = float(durationpy.from_str(value).total_seconds())
        except (durationpy.DurationError, ValueError, OverflowError):
            raise Wrong(f"{quote(value)} is not a {label}") from None
        if seconds < least:
            raise Wrong(f"{quote(value)} is too short; it must be at least {least_text}")
        return seconds

    return Kind(label, read, lambda value: f"{value:g}s")


def size() -> Kind[int]:
    """A number of bytes, at least 1."""
    label = "size such as 4096, 100MiB or 2GB"

    def read(node: yaml.Node) -> int:
        value = scalar_text(node, label)
        match = SIZE.fullmatch(value.strip())
        unit = UNITS_OF_SIZE.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise Wrong(f"{quote(value)} is not a {label}")
        if int(match[1]) == 0:
            raise Wrong(f"{quote(value)} is too small; it must be at least 1 byte")
        return int(match[1]) * unit

    return Kind(label, read)


def permissions() -> Kind[int]:
    """File permissions, always octal: 600 without the leading zero is refused, not guessed at."""
    label = "octal number such as 0600"

    def read(node: yaml.Node) -> int:
        value = scalar_text(node, label)
        match = OCTAL.fullmatch(value)
        if match:
            return int(match[1], 8)
        if OCTAL.fullmatch("0" + value):
            if int(value) <= ALL_PERMISSIONS:  # as programs write it that have read 0660
                exact = f"{int(value):04o}"
                raise Wrong(f"{value} is the decimal number of {exact}; write {exact} or 0{value}")
            raise Wrong(f"{value} would be a decimal number; write 0{value}")
        raise Wrong(f"{quote(value)} is not an {label}")

    return Kind(label, read, lambda value: f"{value:04o}")


def shell_words(*, least: int = 0) -> Kind[tuple[str, ...]]:
    """Text that a shell would split into at least ``least`` words; it becomes those words."""
    label = "text, split into words as a shell does"
    inner = text(label)

    def read(node: yaml.Node) -> tuple[str, ...]:
        if isinstance(node, yaml.MappingNode):
            raise Wrong("is a map; text that begins with { must be in quotes")
        value = inner.read(node)
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise Wrong(f"cannot be split into words: {str(error).lower()}") from None
        if len(words) < least:
            raise Wrong(f"is empty; expected: {label}")
        return tuple(words)

    return Kind(label, read, shlex.join)


def parsed(parse: Callable[[str], T], label: str) -> Kind[T]:
    """Text that ``parse`` makes a value of; it raises Wrong."""
    inner = text(label)
    return Kind(label, lambda node: parse(inner.read(node)))


def list_of(item: Kind[str], label: str) -> Kind[tuple[str, ...]]:
    """A list, or one item of it; in quotes or as an argument also ``["a", "b"]``."""

    def read(node: yaml.Node) -> tuple[str, ...]:
        node = unfolded(node, "[")
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not parts:
            raise Wrong("is an empty list; leave the parameter out instead")
        return tuple(read_part(item, part) for part in parts)

    return Kind(label, read, ", ".join, repeatable=True, words=item.words, on_disk=item.on_disk)


def map_of(key: Kind[str], value: Kind[T], label: str) -> Kind[Mapping[str, T]]:
    """A map; in quotes or as an argument also ``{"a": 1}``; without a value it is empty."""

    def read(node: yaml.Node) -> Mapping[str, T]:
        node = unfolded(node, "{")
        if node.tag == NULL_TAG:
            return MappingProxyType({})
        if not isinstance(node, yaml.MappingNode):
            raise Wrong(f"is not a {label}")
        result: dict[str, T] = {}
        for key_node, value_node in node.value:
            name = read_part(key, key_node)
            if name in result:
                raise WrongPart(f"{quote(name)} is given twice", key_node)
            result[name] = read_part(value, value_node, name)
        return MappingProxyType(result)

    return Kind(label, read)


def read_part(kind: Kind[T], node: yaml.Node, name: str | None = None) -> T:
    """Return the value of a part of a parameter's value.

    Raises:
        WrongPart: it is wrong; the text begins with ``name``.
    """
    try:
        return kind.read(node)
    except WrongPart:
        raise
    except Wrong as wrong:
        text = f"{name}: {wrong}" if name else str(wrong)
        raise WrongPart(text, node, receptors_words=wrong.receptors_words) from None


def unfolded(node: yaml.Node, opening: str) -> yaml.Node:
    """Parse a list or map that was given as text, as receptor allows; anything else is itself."""
    if not isinstance(node, yaml.ScalarNode) or not str(node.value).startswith(opening):
        return node
    try:
        inner: Any = yaml.compose(str(node.value), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        raise Wrong(f"{quote(str(node.value))} cannot be read as a list or map") from None
    _forget_lines(inner)
    return inner  # type: ignore[no-any-return]  # stubs: compose returns Any


def _forget_lines(node: yaml.Node) -> None:
    """Drop marks, which count lines in the text of the value and not in the file."""
    seen: set[int] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        current.start_mark = None
        if isinstance(current, yaml.SequenceNode):
            pending.extend(current.value)
        elif isinstance(current, yaml.MappingNode):
            pending.extend(part for pair in current.value for part in pair)
