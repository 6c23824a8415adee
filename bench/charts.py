"""Pictures of the figures: every row against its target, and what grows how. Needs matplotlib."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.compare import figure
from bench.report import show

MET, MISSED = "#4c78a8", "#e45756"
COLUMNS = 2
"""Growth plots beside each other."""

FAR = 3.0
"""Where bars end that would make all others too small to see."""

ROW_HEIGHT = 0.27
PLOT_HEIGHT = 2.9
WIDTH = 9.0
"""Inches."""

SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: small files, and names that can be searched
    "svg.hashsalt": "bench",  # the same figures make the same file
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(figures: Mapping[str, Any], picture: Path) -> None:
    """Draw the figures of one file (``bench/results/<date>.json``) as an SVG."""
    rows = {
        name: row
        for scenario in figures["scenarios"].values()
        for name, row in scenario.get("rows", {}).items()
    }
    plots = [plot for s in figures["scenarios"].values() for plot in s.get("growth", [])]
    rows_height = ROW_HEIGHT * len(rows) + 0.9 if rows else 0.0
    lines = math.ceil(len(plots) / COLUMNS)
    height = rows_height + lines * PLOT_HEIGHT
    if not height:
        return
    with mpl.rc_context(SETTINGS):
        sheet = Figure(figsize=(WIDTH, height), layout="constrained")
        heights = [rows_height] * bool(rows) + [PLOT_HEIGHT] * lines
        grid = sheet.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
        if rows:
            _draw_rows(sheet.add_subplot(grid[0, :]), rows)
        for i, plot in enumerate(plots):
            place = grid[i // COLUMNS + bool(rows), i % COLUMNS]
            _draw_growth(sheet.add_subplot(place), plot)
        picture.parent.mkdir(parents=True, exist_ok=True)
        sheet.savefig(picture, format="svg", metadata={"Date": None})


def _draw_rows(axes: Axes, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw how much of its target each row needs: what ends left of the line meets it."""
    names = list(rows)[::-1]
    needed = [_needed(rows[name]) for name in names]
    colors = [MET if rows[name]["met"] else MISSED for name in names]
    places = range(len(names))
    axes.barh(places, needed, color=colors, height=0.7)
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlim(0, max(1.35, *(n * 1.3 for n in needed)))
    axes.set_title("Each row as a share of what its target allows (left of the line: met)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    for place, name, share in zip(places, names, needed, strict=True):
        row = rows[name]
        unit = "×" if row["ratio"] is not None else row["unit"]
        text = f" {show(figure(row))} {unit} ({row['target']})"
        axes.text(share, place, text, va="center", fontsize=7.5)


def _needed(row: Mapping[str, Any]) -> float:
    """Return a row's figure as a share of its bound; its inverse where more is better."""
    bound = float(row["target"].split()[1])
    value = max(figure(row), 0.0)
    if row["target"].startswith("≥"):
        return min(bound / value, FAR) if value else FAR
    if bound:
        return min(value / bound, FAR)
    return FAR if value else 0.0


def _draw_growth(axes: Axes, plot: Mapping[str, Any]) -> None:
    """Draw cost over size, with a dotted line up to the last of what is in proportion to it."""
    sizes: Sequence[float] = plot["sizes"]
    for label, values in plot["series"].items():
        (line,) = axes.plot(sizes, values, marker="o", markersize=3, label=label)
        proportional = [values[-1] / sizes[-1] * size for size in sizes]
        axes.plot(sizes, proportional, ":", color=line.get_color(), linewidth=0.8, alpha=0.7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.set_title(plot["title"])
    axes.set_xlabel(plot["size"])
    axes.set_ylabel(plot["unit"])
    axes.legend(fontsize=7, frameon=False)
