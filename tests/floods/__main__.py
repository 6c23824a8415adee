"""``make floods``: every flood against real nodes, as a table; 1 if a bound is missed."""

import argparse
import os
import sys
from pathlib import Path

from floods.catalogue import FLOODS
from floods.scene import run_floods
from floods.table import HEAD, details, faults, row, write


def main() -> int:
    """Run the floods that are asked for; 1 if any bound was missed."""
    parser = argparse.ArgumentParser(prog="make floods", description=__doc__)
    parser.add_argument("--only", default=",".join(FLOODS), help="names, with commas between")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", type=Path, help="document that takes the table")
    wanted = parser.parse_args()
    unknown = set(wanted.only.split(",")) - FLOODS.keys()
    if unknown:
        parser.error(f"no flood {', '.join(sorted(unknown))}; there are {', '.join(FLOODS)}")
    print(HEAD, end="", flush=True)
    rows, missed = [], []
    for found in run_floods([FLOODS[name] for name in wanted.only.split(",")], wanted.seconds):
        rows.append(row(found))
        print(rows[-1], flush=True)
        if found.sent.extra:
            print(f"  {found.flood.name}: {found.sent.extra}", file=sys.stderr)
        for text in faults(found):
            missed.append(f"{found.flood.name}: {text}")
            print(f"  MISSED {missed[-1]}", file=sys.stderr)
        for text in details(found):
            print(f"  {text}", file=sys.stderr)
    conditions = f"Floods of {wanted.seconds:g} s each, on {os.cpu_count()} processors"
    if wanted.write is not None:
        write(wanted.write, rows, f"{conditions}:")
    print(conditions, end="; ")
    print("every bound was kept" if not missed else f"{len(missed)} bounds were missed:")
    print("\n".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
