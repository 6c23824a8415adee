"""Count what a reader has to find the way in: modules, lines, small and large ones, functions.

``python -m bench.house [TREE]`` counts the packages of a tree, ours by default; ``--json`` for
programs. A module is a file of Python beside ``__init__`` and ``__main__``; their lines count. A
function reaches from its ``def`` to its last line; overloads are no functions.
"""

import argparse
import ast
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGES = ("meshnode", "meshctl")
SMALL, LARGE = 60, 400
"""Lines of a module below which, and above which, it is asked why."""

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class House:
    """The counts of one tree; lengths are in lines."""

    modules: int
    lines: int
    below_60: int
    above_400: int
    median_module: float
    functions: int
    function_median: float
    function_p95: int
    function_longest: int


def count(tree: Path) -> House:
    """Count the packages of a tree."""
    files = sorted(file for package in PACKAGES for file in (tree / package).rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"{tree} has no {' and no '.join(PACKAGES)}")
    sources = {file: file.read_text(encoding="utf-8") for file in files}
    sizes = [text.count("\n") for file, text in sources.items() if not file.stem.startswith("__")]
    lengths = sorted(length for text in sources.values() for length in _lengths(ast.parse(text)))
    return House(
        modules=len(sizes),
        lines=sum(text.count("\n") for text in sources.values()),
        below_60=sum(size < SMALL for size in sizes),
        above_400=sum(size > LARGE for size in sizes),
        median_module=statistics.median(sizes),
        functions=len(lengths),
        function_median=statistics.median(lengths),
        function_p95=lengths[len(lengths) * 95 // 100],
        function_longest=lengths[-1],
    )


def _lengths(module: ast.Module) -> Iterator[int]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            marks = {ast.unparse(decorator) for decorator in node.decorator_list}
            if not marks & {"overload", "typing.overload"}:
                yield (node.end_lineno or node.lineno) - node.lineno + 1


def main(argv: Sequence[str] | None = None) -> None:
    """Print the counts of a tree."""
    parser = argparse.ArgumentParser(prog="python -m bench.house", description=__doc__)
    parser.add_argument("tree", type=Path, nargs="?", default=ROOT, help="default: this one")
    parser.add_argument("--json", action="store_true", dest="as_json", help="for programs")
    options = parser.parse_args(argv)
    house = asdict(count(options.tree))
    if options.as_json:
        print(json.dumps(house))
        return
    for name, value in house.items():
        print(f"{name.replace('_', ' '):<18}{value:>8,g}")


if __name__ == "__main__":
    main()
