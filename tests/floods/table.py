"""The bounds that a flood must keep within, and the table for docs/guarantees.md."""

from collections.abc import Iterable
from pathlib import Path

from floods.scene import GIVEN_BACK, RESULTS, Measured

MIB = 1 << 20

MEMORY = 64 * MIB
"""Resident bytes above idle."""

PING = 1.0
"""Seconds of the longest round trip between honest nodes."""

AMPLIFICATION = 3.0
"""Bytes sent to an unproven address for each byte from it, as RFC 9000 has it."""

LOG = 4096
"""Bytes of log a second: some lines of each kind a minute, and those of honest clients."""

STORED = RESULTS + 4 * MIB
"""Bytes below the victim's directory of units: one unit's results, and those of honest ones."""

BEGIN, END = "<!-- floods: begin -->", "<!-- floods: end -->"
"""Between these lines of the document stands the table."""

HEAD = (
    "| flood | sent | memory before | peak | after | of a node behind | longest ping "
    "| remote `echo` | honest links lost | newcomer reached |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def faults(found: Measured) -> list[str]:
    """Return every bound that was missed, in words."""
    if found.broken:
        return [found.broken]
    if not found.alive:
        return ["the node has ended"]
    checks = [
        (found.peak <= found.idle + MEMORY, f"memory rose by {_mib(found.peak - found.idle)}"),
        (
            found.behind_peak <= found.behind_idle + MEMORY,
            f"memory of a node behind rose by {_mib(found.behind_peak - found.behind_idle)}",
        ),
        (
            found.after <= found.idle + GIVEN_BACK,
            f"{_mib(found.after - found.idle)} were not given back",
        ),
        (
            found.pings.worked == found.pings.tried and found.pings.longest <= PING,
            f"ping: {found.pings} answered, longest {found.pings.longest:.2f} s",
        ),
        (found.echoes.worked == found.echoes.tried, f"echo worked {found.echoes} times"),
        (found.operator.worked == found.operator.tried, f"operator: {found.operator}"),
        (found.lost == 0, f"{found.lost} honest links were lost"),
        (found.joined is not None, "a newcomer was not reached"),
        (found.logged <= LOG, f"{found.logged:.0f} bytes of log a second"),
        (found.stored <= STORED, f"{_mib(found.stored)} of results are on the disk"),
        (
            found.sent.extra.get("amplification", 0) <= AMPLIFICATION,
            f"answers of {found.sent.extra.get('amplification', 0):.1f} times the bytes",
        ),
    ]
    return [text for kept, text in checks if not kept]


def details(found: Measured) -> list[str]:
    """Return what failed, for whoever looks for the cause."""
    tallies = {"ping": found.pings, "echo": found.echoes, "operator": found.operator}
    failures = [
        f"{name}: {failure}"
        for name, tally in tallies.items()
        for failure in dict.fromkeys(tally.failures)
    ]
    if found.joined is None:
        failures.append(f"newcomer: {found.newcomer_failure}")
    return failures


def row(found: Measured) -> str:
    """Return the line of the table."""
    joined = "no" if found.joined is None else f"{found.joined:.1f} s"
    cells = (
        found.flood.title,
        _sent(found),
        _mib(found.idle),
        _mib(found.peak),
        _mib(found.after),
        f"{_mib(found.behind_idle)} → {_mib(found.behind_peak)}",
        f"{found.pings.longest * 1000:.0f} ms",
        str(found.echoes),
        str(found.lost),
        joined,
    )
    return f"| {' | '.join(cells)} |"


def _sent(found: Measured) -> str:
    sent = found.sent
    words = []
    if sent.messages:
        words.append(f"{sent.messages:,} messages")
    if sent.links > 1:
        words.append(f"{sent.links:,} links")
    words.append(f"{sent.bytes / MIB:,.0f} MiB" if sent.bytes >= MIB else f"{sent.bytes:,} B")
    return ", ".join(words)


def _mib(count: int) -> str:
    return f"{count / MIB:.0f} MiB"


def write(document: Path, rows: Iterable[str], conditions: str) -> None:
    """Put the table where it stands in a document, below the conditions of its run."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{document} has no place for the table of floods")
    document.write_text(
        f"{before}{BEGIN}\n\n{conditions}\n\n{HEAD}" + "\n".join(rows) + f"\n\n{END}{after}"
    )
