"""``make fuzz``: feeds the targets, and prints what must be fed again to see a failure again."""

import argparse
import os
import resource
import sys

from fuzz.catalogue import TARGETS
from fuzz.engine import Failure, Report, fuzz, make_input, run_episode

MEMORY = 4 << 30
"""Bytes that this process may have: an input that makes a node take ever more is found out."""


def main() -> int:
    """Feed what is asked for; 1 if anything did harm."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--target", default=",".join(TARGETS), help="names, with commas between")
    parser.add_argument("--inputs", type=int, default=50_000, help="for each target")
    parser.add_argument("--seed", type=int, default=None, help="any number; one of its own")
    parser.add_argument("--index", type=int, help="replay up to this input of one target")
    wanted = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, most))
    names = wanted.target.split(",")
    if unknown := set(names) - TARGETS.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    seed = wanted.seed if wanted.seed is not None else int.from_bytes(os.urandom(4))
    if wanted.index is not None:
        return _replay(names[0], seed, wanted.index)
    failed = False
    for name in names:
        report = fuzz(TARGETS[name], seed, wanted.inputs)
        _print(name, seed, report)
        failed = failed or bool(report.failures)
    return 1 if failed else 0


def _print(name: str, seed: int, report: Report) -> None:
    rate = report.inputs / report.seconds if report.seconds else 0
    outcome = f"{len(report.failures)} did harm" if report.failures else "none did harm"
    print(f"{name}: {report.inputs:,} inputs of seed {seed}, {rate:.0f} a second: {outcome}")
    for failure in report.failures:
        print(_indented(failure, name, seed))
    for fault, count in report.contained.most_common():
        print(f"  contained, {count} times: {fault}")
    sys.stdout.flush()


def _indented(failure: Failure, name: str, seed: int) -> str:
    item = make_input(TARGETS[name], seed, failure.number)
    return "\n".join(f"  {line}" for line in [*str(failure).splitlines(), repr(item)[:2000]])


def _replay(name: str, seed: int, index: int) -> int:
    target = TARGETS[name]
    start = index - index % target.episode
    print(f"input {index}: {make_input(target, seed, index)!r}")
    report = Report()
    failure = run_episode(target, seed, start, index + 1, report.contained, check_from=start)
    print(f"inputs {start} to {index}: {failure.reason if failure else 'no harm'}")
    alone = run_episode(target, seed, index, index + 1, report.contained, check_from=index)
    print(f"input {index} alone: {alone.reason if alone else 'no harm'}")
    for fault, count in report.contained.most_common():
        print(f"contained, {count} times: {fault}")
    return 1 if failure or alone else 0


if __name__ == "__main__":
    sys.exit(main())
