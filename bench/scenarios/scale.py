"""What a mesh costs its nodes as it grows: whole meshes simulated in one process each."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.growth import Plot
from bench.report import Report, Table, growth
from bench.rows import Options

SIZES = ((20, 60), (50, 150), (200, 600), (1000, 3000))
"""Nodes and links: rings with random chords, costs of 1 to 4."""

QUICK_SIZES = ((20, 60), (50, 150))

ROWS = (
    ("simulated time to converge, s", "converge_seconds"),
    ("messages sent by a node for that", "converge_messages"),
    ("kilobytes sent by a node for that", "converge_kilobytes"),
    ("messages a second sent by a quiet node", "quiet_messages"),
    ("kilobytes a second sent by a quiet node", "quiet_kilobytes"),
    ("simulated time to heal after a cut, s", "heal_seconds"),
    ("messages sent by a node for a cut", "heal_messages"),
    ("CPU per update that is news, µs", "news_microseconds"),
    ("  of it parsing JSON alone, µs", "floor_news_microseconds"),
    ("CPU per further copy of it, µs", "copy_microseconds"),
    ("CPU per route computation, ms", "routes_milliseconds"),
    ("  of it looking at each edge alone, ms", "floor_routes_milliseconds"),
    ("memory per node, MiB", "memory_mebibytes"),
    ("CPU of the whole simulation, s", "simulation_seconds"),
)


def run(options: Options) -> Report:
    """Measure each size in a process of its own, so that memory is that of one mesh."""
    sizes = QUICK_SIZES if options.quick else SIZES
    measured = []
    for nodes, links in sizes:
        print(f"   {nodes} nodes, {links} links …", flush=True)
        measured.append(measure(nodes, links))
    nodes_of = [float(nodes) for nodes, _ in sizes]
    rows: list[tuple[str | float, ...]] = [
        (label, *(m[key] for m in measured), growth(nodes_of, [m[key] for m in measured]))
        for label, key in ROWS
    ]
    header = ("nodes / links", *(f"{n} / {e}" for n, e in sizes), "grows as")
    return Report(
        tables=[Table("Scale", header, rows)],
        figures={
            "sizes": [
                {"nodes": n, "links": e, **m} for (n, e), m in zip(sizes, measured, strict=True)
            ],
            "growth": [plot.as_json() for plot in _plots(nodes_of, measured)],
        },
        notes=[
            "All links of a mesh come up at the same moment: the worst case. Links take no time."
        ],
    )


def _plots(sizes: Sequence[float], measured: Sequence[Mapping[str, float]]) -> Iterator[Plot]:
    def series(*keys: str, scale: float = 1.0) -> dict[str, list[float]]:
        return {_LABELS[key]: [m[key] * scale for m in measured] for key in keys}

    yield Plot(
        "a mesh: processor time of a node",
        "nodes",
        "µs",
        sizes,
        series("news_microseconds", "copy_microseconds")
        | series("routes_milliseconds", scale=1000),
    )
    yield Plot("a mesh: memory of a node", "nodes", "MiB", sizes, series("memory_mebibytes"))


_LABELS = {
    "news_microseconds": "an update that is news",
    "copy_microseconds": "a further copy of it",
    "routes_milliseconds": "computing all routes",
    "memory_mebibytes": "a node",
}


def measure(nodes: int, links: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.scenarios.scale_world", str(nodes), str(links)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
