"""Run benchmarks, print their tables and add their figures to ``bench/results/<date>.json``."""

import argparse
import compileall
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import meshctl
import meshnode
from bench import compare
from bench.nodes import Daemon
from bench.report import row_table, usage_table
from bench.rows import REPEATS, Options, Row
from bench.scenarios import SCENARIOS

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    match arguments:
        case ["compare", *rest]:
            return _compare(rest)
        case ["draw", *rest]:
            return _draw(rest)
        case _:
            return _measure(arguments)


def _measure(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="Of figures that there are: python -m bench compare OLD.json NEW.json, "
        "python -m bench draw FIGURES.json PICTURE.svg",
    )
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(SCENARIOS)}; with commas")
    parser.add_argument("--quick", action="store_true", help="small sizes: a few minutes for all")
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help="repeats (default: %(default)s)"
    )
    parser.add_argument("--peer", metavar="FILE", help="a receptor binary to measure side by side")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory for the figures")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="where to draw, if not there")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(SCENARIOS)
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there is {', '.join(SCENARIOS)}")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    peer = Daemon(options.peer, (options.peer,)) if options.peer else None
    compile_ours()
    figures, rows = run(names, Options(options.quick, options.repeats, peer))
    if rows:
        print("\n" + "\n".join(usage_table(rows).lines()))
        print("\n" + "\n".join(row_table(rows).lines()))
        print("\n" + verdict(rows))
    print("on " + ", ".join(f"{key} {value}" for key, value in machine().items()))
    file = save(options.results, figures)
    print(f"written to {file}")
    print(draw(file, options.svg or file.with_suffix(".svg")))
    return 0


def _compare(arguments: Sequence[str]) -> int:
    """Compare two files; 1 tells scripts that something got worse, or is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench compare", description="Compare two files of figures."
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    table, bad = compare.compare_files(options.old, options.new)
    print("\n".join(table.lines()))
    print("\n" + compare.verdict(bad))
    return 1 if bad else 0


def _draw(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench draw", description="Draw a file of figures."
    )
    parser.add_argument("figures", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args(arguments)
    print(draw(options.figures, options.picture))
    return 0


def draw(file: Path, picture: Path) -> str:
    """Draw what stands in a file of figures; return what to tell."""
    # Imported here: who only wants figures need not install what draws.
    try:
        from bench import charts  # noqa: PLC0415
    except ModuleNotFoundError as error:
        return f"not drawn: {error.name} is missing; pip install -e '.[bench]'"
    charts.draw(json.loads(file.read_text()), picture)
    return f"drawn to {picture}"


def compile_ours() -> None:
    """Leave bytecode of our packages behind as pip does of what it installs.

    An environment may forbid Python to do that by itself; a start would then compile all sources.
    """
    for package in (meshnode, meshctl):
        compileall.compile_dir(Path(*package.__path__), quiet=2)


def run(names: Sequence[str], options: Options) -> tuple[dict[str, Any], list[Row]]:
    """Run scenarios and print what each says; return their figures for the file, and all rows."""
    figures: dict[str, Any] = {}
    rows: list[Row] = []
    for name in names:
        print(f"== {name}", flush=True)
        report = SCENARIOS[name](options)
        for table in (*report.tables, *([row_table(report.rows)] if report.rows else [])):
            print("\n" + "\n".join(table.lines()))
        for note in report.notes:
            print(f"\n{note}")
        rows += report.rows
        figures[name] = {
            "quick": options.quick,
            "rows": {row.name: row.as_json() for row in report.rows},
            **report.figures,
        }
    return figures, rows


def verdict(rows: Sequence[Row]) -> str:
    missed = [row.name for row in rows if not row.met]
    if not missed:
        return f"all {len(rows)} targets met"
    return f"{len(missed)} of {len(rows)} targets missed: {', '.join(missed)}"


def machine() -> dict[str, str | int | float]:
    """Return what figures from another machine would be compared by."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def save(directory: Path, figures: dict[str, object]) -> Path:
    """Add the figures of this run to today's file; a scenario run again replaces its own."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{time.strftime('%Y-%m-%d')}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known["machine"] = machine()
    known["scenarios"] = known.get("scenarios", {}) | figures
    file.write_text(json.dumps(known, indent=2) + "\n")
    return file


if __name__ == "__main__":
    sys.exit(main())
