"""The scenarios by name. A new one is a module with ``run(options) -> Report`` and a line here."""

from collections.abc import Callable, Mapping

from bench.report import Report
from bench.rows import Options
from bench.scenarios import forward, latency, scale, spawn, transfer, units

SCENARIOS: Mapping[str, Callable[[Options], Report]] = {
    "forward": forward.run,
    "latency": latency.run,
    "scale": scale.run,
    "spawn": spawn.run,
    "transfer": transfer.run,
    "units": units.run,
}
