"""Columns that fit a terminal, with colours where they are wanted.

A cell is text that is safe to print. Colours are put around it last, so that they count for no
column, and nothing that a node says can be one.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import click

from meshctl.render.output import printable

GAP = "  "
"""What stands between two columns."""

NARROWEST = 8
"""Columns of a cell at least: less says nothing."""

NARROWEST_LAST = 24
"""Columns of the last cell at least, beside the others; else it stands below them."""

INDENT = 4
"""Columns before a last cell that stands below the others."""

STYLES: dict[str, dict[str, object]] = {
    "": {},
    "heading": {"bold": True},
    "good": {"fg": "green"},
    "changing": {"fg": "yellow"},
    "bad": {"fg": "red"},
}
"""What a style is on a terminal."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, and its style (a key of STYLES)."""

    text: str
    style: str = ""

    @classmethod
    def of(cls, value: object, style: str = "") -> Self:
        """Return a value that a node has sent as a cell."""
        return cls(printable(str(value)), style)


Row = Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where a page is shown: how wide, None without bounds, and whether in colour."""

    width: int | None = None
    in_colour: bool = False

    def paint(self, text: str, style: str) -> str:
        """Return text in a style."""
        if not (self.in_colour and STYLES[style] and text):
            return text
        return click.style(text, **STYLES[style])  # type: ignore[arg-type]  # bold and fg

    def line(self, text: str, style: str = "") -> str:
        """Return what a node has sent as a line of its own."""
        return self.paint(printable(text), style)

    def table(self, heading: Sequence[str], rows: Sequence[Row], least: int = 0) -> list[str]:
        """Lay rows out under a heading, within the width; the first column has ``least`` columns.

        The last column is wrapped; where it would be too narrow, it stands below the others. Of
        others that are too wide the middle is left out.
        """
        lines = [[Cell(text, "heading") for text in heading], *rows]
        natural = [max(columns_of(row[i].text) for row in lines) for i in range(len(heading))]
        natural[0] = max(natural[0], least)
        widths, last, is_below = self._fit(natural)
        return [text for row in lines for text in self._lay_out(row, widths, last, is_below)]

    def _fit(self, natural: list[int]) -> tuple[list[int], int, bool]:
        """Return the widths of all columns but the last, its own, and whether it stands below."""
        *widths, last = natural
        if self.width is None:
            return widths, last, False
        room = self.width - sum(widths) - len(GAP) * len(widths)
        if room >= min(last, NARROWEST_LAST):
            return widths, min(last, room), False
        if last <= NARROWEST_LAST:
            return _narrowed(widths, self.width - len(GAP) - last), last, False
        return _narrowed(widths, self.width), max(self.width - INDENT, NARROWEST), True

    def _lay_out(self, row: Row, widths: list[int], last: int, is_below: bool) -> Iterator[str]:
        cells = [
            (shortened(cell.text, width), width, cell.style)
            for cell, width in zip(row[:-1], widths, strict=True)
        ]
        beside = "".join(
            self.paint(text, style) + " " * (width - columns_of(text)) + GAP
            for text, width, style in cells
        )
        first, *more = wrapped(row[-1].text, last) or [""]
        indent = INDENT if is_below else sum(widths) + len(GAP) * len(widths)
        if is_below:
            yield beside.rstrip()
            if row[-1].text in ("", "-"):
                return
            more = [first, *more]
        else:
            yield (beside + self.paint(first, row[-1].style)).rstrip()
        yield from (" " * indent + self.paint(text, row[-1].style) for text in more)


def _narrowed(widths: Sequence[int], room: int) -> list[int]:
    """Return widths that fit a room with what stands between them, as far as that can be."""
    narrowed = list(widths)
    over = sum(narrowed) + len(GAP) * (len(narrowed) - 1) - room
    while over > 0 and max(narrowed) > NARROWEST:
        narrowed[narrowed.index(max(narrowed))] -= 1
        over -= 1
    return narrowed


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns_of_one(c) for c in text)


def _columns_of_one(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, width: int) -> str:
    """Return a text without its middle if it has more columns: both ends tell names apart."""
    if columns_of(text) <= width:
        return text
    half = (width - 1) // 2
    start = cut(text, width - 1 - half)
    end = cut(text[::-1], half)[::-1]
    return f"{start}…{end}"


def cut(text: str, width: int) -> str:
    """Return as much of the beginning of a text as fits."""
    taken = 0
    for i, character in enumerate(text):
        taken += _columns_of_one(character)
        if taken > width:
            return text[:i]
    return text


def wrapped(text: str, width: int) -> list[str]:
    """Return a text as lines of so many columns (2 at least) at most, broken at blanks.

    A word that is wider than a line is broken anywhere.
    """
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if columns_of(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while columns_of(line) > width:
            part = cut(line, width)
            lines.append(part)
            line = line[len(part) :]
    return [*lines, line] if line or not lines else lines
