"""Run benchmarks, print their tables and add their figures to ``bench/results/<date>.json``."""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from bench.scenarios import SCENARIOS

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(SCENARIOS)}; with commas")
    parser.add_argument("--quick", action="store_true", help="small sizes: a minute at most")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory for the figures")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(SCENARIOS)
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there is {', '.join(SCENARIOS)}")
    figures = {}
    for name in names:
        print(f"== {name}", flush=True)
        report = SCENARIOS[name](options.quick)
        for table in report.tables:
            print("\n" + "\n".join(table.lines()))
        for note in report.notes:
            print(f"\n{note}")
        figures[name] = {"quick": options.quick, **report.figures}
    print(f"\nwritten to {save(options.results, figures)}")
    return 0


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
